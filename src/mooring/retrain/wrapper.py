"""The process that a job runs in: it keeps the job's time, its output and its result, whoever started it may end.

    python -P -m mooring.retrain.wrapper DIRECTORY LOCK

`LOCK` is the descriptor of the directory's lock, which is held as long as anything of the job runs. Beside the
job's program there are two processes, this one and a guard: where this one is killed, the guard ends the program.
Nothing heavy is imported here.
"""

from __future__ import annotations

import math
import os
import selectors
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import msgspec

from mooring.retrain.files import put

ORDER = "job.json"
LOCK = "job.lock"
OUTPUT = "output.log"
RESULT = "result.json"
KEEP_BYTES = 10 << 20
"""How much of a job's output is kept: the end of it."""
_READ_BYTES = 1 << 16
_LAST_READS = 32
_CUT = b"(what was here before is cut off: only the last %d MB are kept)\n" % (KEEP_BYTES >> 20)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be run: the program and its arguments, for how many seconds at most.

    `grace` is how many seconds lie between asking it to end and ending it.
    """

    argv: list[str]
    timeout: float
    grace: float
    started: datetime


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended. `code` is its exit code, or -N where signal N ended it, 127 where it could not be run.

    `timed_out`: it took longer than it may; `stopped`: somebody ended it.
    """

    code: int
    started: datetime
    ended: datetime
    seconds: float
    timed_out: bool = False
    stopped: bool = False


def main() -> None:
    """Run the order in a directory, and write its result there."""
    directory, lock = Path(sys.argv[1]), int(sys.argv[2])
    order = msgspec.json.decode((directory / ORDER).read_bytes(), type=Order)
    # Whoever started this waits for this process only, so that it has no child that it must wait for later.
    pid = os.fork()
    if pid:
        os.pwrite(lock, f"{pid}\n".encode(), 0)
        os._exit(0)
    output = Output(directory / OUTPUT)
    ended = run(order, output)
    output.close()
    put(directory / RESULT, msgspec.json.encode(ended))


def run(order: Order, output: Output) -> Ended:
    """Run a program to its end, or to that of its time, or until this process is asked to end."""
    signals = _Signals()
    group = _Group()
    begun = time.monotonic()
    try:
        code, timed_out = _run(order, output, signals, group)
    finally:
        group.end()
    return Ended(
        code=code,
        started=order.started,
        ended=datetime.now(UTC),
        seconds=time.monotonic() - begun,
        timed_out=timed_out,
        stopped=signals.asked and not timed_out,
    )


def _run(order: Order, output: Output, signals: _Signals, group: _Group) -> tuple[int, bool]:
    try:
        child = subprocess.Popen(
            order.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=group.id,
        )
    except (OSError, ValueError) as error:
        output.write(f"{order.argv[0]!r} can't be run: {error}\n".encode(errors="replace"))
        return 127, False
    assert child.stdout is not None
    pipe = child.stdout.fileno()
    deadline = time.monotonic() + order.timeout
    ending = timed_out = False
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        selector.register(signals.descriptor, selectors.EVENT_READ)
        while child.poll() is None:
            now = time.monotonic()
            if ending and now >= deadline:
                group.send(signal.SIGKILL)
                deadline = math.inf
            elif not ending and (signals.asked or now >= deadline):
                ending, timed_out = True, not signals.asked
                group.send(signal.SIGTERM)
                deadline = now + order.grace
            for key, _ in selector.select(None if deadline == math.inf else max(deadline - now, 0.0)):
                if key.fd != pipe:
                    signals.clear()
                elif data := os.read(pipe, _READ_BYTES):
                    output.write(data)
                else:
                    selector.unregister(pipe)
    # What the program left running ends with it, and must not be waited for.
    group.end()
    os.set_blocking(pipe, False)
    for _ in range(_LAST_READS):
        try:
            data = os.read(pipe, _READ_BYTES)
        except BlockingIOError:
            break
        if not data:
            break
        output.write(data)
    return child.returncode, timed_out


class Output:
    """A file that keeps the end of what is written into it: the last `KEEP_BYTES`, and up to twice that."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def write(self, data: bytes) -> None:
        """Append. What a full disk does not take is lost: that must not end the job."""
        try:
            self._file.write(data)
            if self._file.tell() > 2 * KEEP_BYTES:
                self._cut()
        except OSError:
            return

    def close(self) -> None:
        """Cut it to its size."""
        try:
            if self._file.tell() > KEEP_BYTES:
                self._cut()
        except OSError:
            return

    def _open(self) -> None:
        self._file = self._path.open("ab", buffering=0)
        os.dup2(self._file.fileno(), 2)  # an error of this process itself is told there too

    def _cut(self) -> None:
        with self._path.open("rb") as whole:
            whole.seek(len(_CUT) - KEEP_BYTES, os.SEEK_END)
            whole.readline(4096)
            kept = whole.read()
        part = self._path.with_name(f".{self._path.name}.part")
        part.write_bytes(_CUT + kept)
        part.replace(self._path)
        self._file.close()
        self._open()


class _Signals:
    """Signals as something to be read, so that waiting for output ends with them.

    `asked` is whether one of them asked this process to end.
    """

    def __init__(self) -> None:
        self.asked = False
        self.descriptor, written = os.pipe()
        for end in (self.descriptor, written):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, self._ask)

    def clear(self) -> None:
        os.read(self.descriptor, 4096)

    def _ask(self, *_: object) -> None:
        self.asked = True


class _Group:
    """A process group that does not outlive this process, even where it is killed.

    Its first member is a guard, who waits for the end of this process and then ends the group. So the group's
    number is nobody else's as long as this object is in use.
    """

    def __init__(self) -> None:
        waits, self._alive = os.pipe()
        self.id = os.fork()
        if not self.id:
            os.close(self._alive)
            _guard(waits)
        os.setpgid(self.id, self.id)
        os.close(waits)
        self._there = True

    def send(self, number: signal.Signals) -> None:
        os.killpg(self.id, number)

    def end(self) -> None:
        """End all that is in the group."""
        if self._there:
            self._there = False
            self.send(signal.SIGKILL)
            os.waitpid(self.id, 0)


def _guard(waits: int) -> NoReturn:
    try:
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(one, signal.SIG_IGN)
        os.read(waits, 1)
        os.killpg(0, signal.SIGKILL)
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
