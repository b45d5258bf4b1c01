"""The processes that the demonstration starts: they end with it, however it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

STOP_SECONDS = 40.0


class DemoError(Exception):
    """Something that the demonstration needs did not work; the message says what and where to look."""


@contextmanager
def running(command: list[str], directory: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` in `directory`, its output in the file `log`, and stop it and its children at the end.

    It gets a process group of its own: so Ctrl-C reaches the demonstration alone, which then stops things in
    order, and a signal to the group reaches the workers that a server starts.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group: SIGTERM, and SIGKILL for what has not ended then."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_for(condition: Callable[[], bool], seconds: float, failure: str) -> None:
    """Return once `condition` holds. Raises DemoError with `failure` if that takes longer than `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise DemoError(failure)
        time.sleep(0.05)


def wait_until_up(
    port: int, process: subprocess.Popen[bytes], log: Path, seconds: float = 120, path: str = "/ping"
) -> None:
    """Return once the server on `port` answers `path` with 200. Raises DemoError if it ends or does not."""

    def up() -> bool:
        if process.poll() is not None:
            raise DemoError(f"{process.args!r} ended with code {process.returncode}; see {log}")
        return pings(port, path)

    wait_for(up, seconds, f"nothing answers on port {port} after {seconds:.0f} seconds; see {log}")


def announced(pattern: str, process: subprocess.Popen[bytes], log: Path, seconds: float) -> int:
    """Return the port that a process says in its log it listens on, which is the only group of `pattern`.

    Raises DemoError if it ends or does not say one.
    """

    def said() -> re.Match[str] | None:
        if process.poll() is not None:
            raise DemoError(f"{process.args!r} ended with code {process.returncode}; see {log}")
        return re.search(pattern, log.read_text(encoding="utf-8", errors="replace"))

    wait_for(lambda: said() is not None, seconds, f"it does not listen after {seconds:.0f} seconds; see {log}")
    found = said()
    assert found is not None
    return int(found[1])


def pings(port: int, path: str = "/ping") -> bool:
    """Whether a server on `port` of this machine answers `path` with 200."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
