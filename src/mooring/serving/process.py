"""One model server process, from its start to its end: its socket, its health, and what it printed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from mooring import descendants
from mooring.serving.protocol import Model

MODEL_SERVER = Path(__file__).with_name("model_server.py")
_LAST_LINES = 20
_LONGEST_LINE = 2000
_LONGEST_REASON = 500
_LINES_A_SECOND = 200
_END_SECONDS = 10.0
_ERROR = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt)(:|$)")


def command(model: Model, socket: str, timeout: float) -> list[str]:
    """Return the command that serves a model on a Unix socket, in the environment that the model names.

    >>> command(Model("3", "/m", "source /e/bin/activate"), "/s/1", 60.0)[:2]
    ['bash', '-c']
    """
    arguments = [str(MODEL_SERVER), "--model", model.path, "--socket", socket, "--timeout", str(timeout)]
    if not model.activate:
        return [sys.executable, *arguments]
    # exec: signals, and the end of stdin, have to reach the server itself.
    return ["bash", "-c", f"{model.activate} && exec python {shlex.join(arguments)}"]


async def ping(path: str, seconds: float) -> bool:
    """Whether the server on a Unix socket answers GET /ping with 200 within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                line = await reader.readline()
            finally:
                writer.close()
    except OSError:  # which a timeout is, too
        return False
    return line.startswith(b"HTTP/1.1 200 ")


async def memory(pid: int) -> int:
    """Return the bytes of memory that a process has resident, 0 if it is gone or nobody can tell."""
    if sys.platform == "linux":
        return _pages(pid) * os.sysconf("SC_PAGE_SIZE")
    try:
        asked = await asyncio.create_subprocess_exec(
            "ps", "-o", "rss=", "-p", str(pid), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
    except OSError:
        return 0
    told, _ = await asked.communicate()
    return int(told) * 1024 if told.strip().isdigit() else 0


def _pages(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return 0


class ServerProcess:
    """A model server process that has been started."""

    @classmethod
    async def start(
        cls, model: Model, socket: str, seconds: float, name: str, environment: Mapping[str, str]
    ) -> ServerProcess:
        """Start one that will listen on `socket`, a path where nothing is yet, in an environment.

        A prediction may take so many seconds. `name` stands before each line that it prints.

        Raises OSError where it can't be started.
        """
        stdin, held = os.pipe()
        output, printed = os.pipe()
        try:
            # A session of its own: Ctrl-C reaches the front alone, which then stops things in order.
            process = await asyncio.create_subprocess_exec(
                *descendants.command(command(model, socket, seconds)),
                stdin=stdin,
                stdout=printed,
                stderr=printed,
                env=environment,
                start_new_session=True,
            )
        except BaseException:
            os.close(held)
            os.close(output)
            raise
        finally:
            os.close(stdin)
            os.close(printed)
        return cls(process, socket, held, ServerOutput(output, name))

    def __init__(self, process: asyncio.subprocess.Process, socket: str, held: int, output: ServerOutput) -> None:
        self.socket = socket
        self.output = output
        self._process = process
        self._held = held
        self._kept: list[int] = []

    async def memory(self) -> int:
        """Return the bytes of memory that the server has resident, 0 if it is gone or nobody can tell."""
        if not self._kept:
            # What keeps it is no part of it, and neither is what it has started.
            own = self._process.pid
            self._kept = descendants.children(own) if sys.platform == "linux" else [own]
        return await memory(self._kept[0]) if self._kept else 0

    async def wait(self) -> str:
        """Return once it has ended, and how it did: its exit code or signal."""
        code = await self._process.wait()
        if code >= 0:
            return f"ended with exit code {code}"
        if -code == signal.SIGKILL:
            return "was ended by SIGKILL, as the kernel does where memory is short"
        return f"was ended by signal {-code} ({signal.strsignal(-code)})"

    async def end(self, grace: float) -> None:
        """Have it finish what it has, for `grace` seconds at most, and end it and what it started.

        Cancelled, it ends it at once.
        """
        try:
            if grace > 0 and self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.send_signal(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), grace)
        finally:
            if self._held >= 0:
                os.close(self._held)  # which ends it, and on Linux all that it started
                self._held = -1
            if sys.platform != "linux":
                self._kill()
            with contextlib.suppress(OSError):
                os.unlink(self.socket)
        try:
            await asyncio.wait_for(self._process.wait(), _END_SECONDS)
        except TimeoutError:
            self._kill()
            await self._process.wait()
        finally:
            self.output.close()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the latter of zombies
            os.killpg(self._process.pid, signal.SIGKILL)


class ServerOutput:
    """What a process prints, which goes to this one's stderr line by line.

    It is read as fast as it comes, so that the process never waits; of a flood only so many lines a second are
    passed on, and the rest counted. Few of the last ones are kept.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._name = name
        self._last: deque[bytes] = deque(maxlen=_LAST_LINES)
        self._begun = b""
        self._second = 0
        self._passed = 0
        self._left_out = 0
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    @property
    def reason(self) -> str:
        """The last error among the last lines, else the last line, shortened."""
        lines = [text for line in self._last if (text := line.decode(errors="replace").rstrip())]
        found = next((line for line in reversed(lines) if _ERROR.match(line)), lines[-1] if lines else "")
        return found if len(found) <= _LONGEST_REASON else f"{found[:_LONGEST_REASON]} …"

    def close(self) -> None:
        """Take what is still there, and let go."""
        if self._descriptor < 0:
            return
        for _ in range(64):  # of what the process has left; something that it started may go on printing
            if self._descriptor < 0 or not self._read():
                break
        if self._begun:
            self._pass_on([self._begun])
        if self._left_out:
            self._say_left_out()
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1

    def _read(self) -> bool:
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return False
        if not data:
            # Nobody has the other end any more.
            asyncio.get_running_loop().remove_reader(self._descriptor)
            return False
        *lines, begun = (self._begun + data).split(b"\n")
        self._begun = begun
        if len(begun) > _LONGEST_LINE:
            lines.append(begun)
            self._begun = b""
        self._pass_on(lines)
        return True

    def _pass_on(self, lines: list[bytes]) -> None:
        self._last.extend(line[:_LONGEST_LINE] for line in lines[-_LAST_LINES:])
        second = int(time.monotonic())
        if second != self._second:
            if self._left_out:
                self._say_left_out()
            self._second, self._passed = second, 0
        room = max(_LINES_A_SECOND - self._passed, 0)
        self._write([line[:_LONGEST_LINE].decode(errors="replace") for line in lines[:room]])
        self._passed += min(len(lines), room)
        self._left_out += max(len(lines) - room, 0)

    def _say_left_out(self) -> None:
        self._write([f"(it printed {self._left_out} more lines, too many to show)"])
        self._left_out = 0

    def _write(self, lines: list[str]) -> None:
        # Whether or not anybody reads what servers print, they go on.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write("".join(f"{self._name}: {line}\n" for line in lines))
            sys.stderr.flush()
