"""Load on a proxy, kills, a disk that gets full; and the account that must be true after all of it."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq

from clients import Clients
from peers import post, proxy, read_message
from waiting import PATIENCE, wait_for

FAST = ("--segment-seconds", "0.2", "--segment-bytes", "20000")
CLIENTS = 4


class Load(Clients):
    """Clients that send requests one after the other, and keep the ids of those that were answered in full."""

    def __init__(self, *ports: int, clients: int = CLIENTS) -> None:
        super().__init__()
        self.answered: list[str] = []
        self.sent = 0
        self._threads = [
            threading.Thread(target=self._run, args=(port,)) for port in ports for _ in range(clients)
        ]

    def wait_for(self, count: int) -> None:
        wait_for(lambda: len(self.answered) >= count, f"only {len(self.answered)} answers")

    def _run(self, port: int) -> None:
        while not self._stop.is_set():
            try:
                with (
                    socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection,
                    connection.makefile("rb") as file,
                ):
                    while not self._stop.is_set():
                        self.sent += 1
                        connection.sendall(post())
                        answer = read_message(file)
                        if not answer.line or answer.body != b'{"predictions": [6.0]}':
                            break
                        self.answered += answer.all("X-Request-Id")
            except (OSError, ValueError, IndexError):
                self._stop.wait(0.02)


def logged(log: Path, kind: str = "payloads") -> Counter[str]:
    """Return how often each exchange is in the log."""
    return Counter(
        request_id
        for path in log.glob(f"{kind}/**/*.parquet")
        for request_id in pq.ParquetFile(path).read(columns=["request_id"])["request_id"].to_pylist()
    )


def drain(log: Path) -> None:
    """Drain what is left, if nobody does, and return once nothing is."""
    command = [sys.executable, "-m", "mooring", "drain", "--log", str(log)]

    def empty() -> bool:
        return not any(path.is_dir() for path in (log / ".spool").iterdir())

    def drained() -> bool:
        if not empty():
            subprocess.run(command, check=True, timeout=PATIENCE)
        return empty()

    wait_for(drained, f"something is left in {log / '.spool'}")


def past(log: Path) -> dict:
    """Return the account of all that have ended, by the names of its parts."""
    ledger = json.loads((log / ".spool" / "ledger.json").read_bytes())["ledger"]
    assert ledger.pop(0) == "ledger"
    names = ("seen", "stored", "in_flight", "sampled_out", "failed", "passed", "dropped", "errors", "shadow")
    return dict(zip(names, ledger, strict=True))


def is_true(ledger: dict) -> bool:
    dropped = sum(ledger["dropped"].values())
    return ledger["seen"] == ledger["stored"] + ledger["in_flight"] + ledger["sampled_out"] + dropped


def check(log: Path, answered: list[str]) -> dict:
    """Drain what is left. Every answered exchange must be in the log, each once, and the ledger must say so."""
    drain(log)
    found = logged(log)
    assert not set(answered) - found.keys()
    assert set(found.values()) <= {1}
    assert logged(log, "inferences") == found
    visible = [path for path in log.rglob("*") if path.is_file() and ".spool" not in path.parts]
    assert {path.suffix for path in visible if not path.name.startswith(".")} == {".parquet", ".json"}
    ledger = past(log)
    assert is_true(ledger)
    assert ledger["in_flight"] == 0
    assert ledger["stored"] == found.total()
    assert set(ledger["dropped"]) <= {"killed"}
    return ledger


def drain_of(log: Path) -> int:
    """Return the process that drains the spool of a log, whoever started it."""
    found = []

    def runs() -> bool:
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                text = line.read_text()
                if "\0drain\0" in text and f"\0{log}\0" in text:
                    found.append(int(line.parent.name))
        return bool(found)

    wait_for(runs, "no drain runs")
    return found[0]


def kill_9(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def begun(log: Path) -> set[str]:
    """Return the segments that a drain has begun and not ended, or failed at."""
    with suppress(OSError):
        return set(json.loads((log / ".spool" / "attempts.json").read_bytes()))
    return set()


def kill_again_and_again(directory: Path, url: str, times: int) -> None:
    log, answered = directory / "log", []
    for time_ in range(times):
        struck = begun(log)
        with proxy(directory, url, *FAST, log_format="parquet") as running_proxy:
            pid = running_proxy.process.pid
            with Load(running_proxy.port) as load:
                load.wait_for(1)
                drain_pid = drain_of(log)
                # A segment at which the drain is killed twice is set aside, which other tests are about.
                wait_for(lambda struck=struck: not struck & begun(log), "what was begun is not drained")
                time.sleep(random.uniform(0, 0.5))
                # In turn: the proxy alone, the drain before it, the drain after it.
                kill_9(*[(pid,), (drain_pid, pid), (pid, drain_pid)][time_ % 3])
                running_proxy.process.wait()
            answered += load.answered
    ledger = check(log, answered)
    assert ledger["dropped"].get("killed", 0) <= CLIENTS * times
