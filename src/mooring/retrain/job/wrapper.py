"""The process that a job runs in: it keeps the job's time, its output and its result, whoever started it may end.

    python -P -m mooring.retrain.job.wrapper DIRECTORY LOCK

`LOCK` is the descriptor of the directory's lock, which is held as long as anything of the job runs. Beside the
job's program there are two processes, this one and its parent, a guard: where this one is killed, the guard ends
what it leaves. On Linux both take in the orphans among the job's processes, so that what has a session of its own
ends with it, too; elsewhere only the program's process group does. Nothing heavy is imported here.
"""

from __future__ import annotations

import math
import os
import selectors
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import msgspec

from mooring.descendants import NOT_HERE, Descendants
from mooring.files import replace

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
    waits, begun = os.pipe()
    if os.fork():
        os.close(begun)
        os.read(waits, 1)
        os._exit(0)
    os.close(waits)
    group = _guarded(lock, begun)
    output = Output(directory / OUTPUT)
    ended = run(order, output, group)
    output.close()
    replace(directory / RESULT, msgspec.json.encode(ended), durable=True)


def run(order: Order, output: Output, group: int) -> Ended:
    """Run a program to its end, or to that of its time, or until this process is asked to end.

    It runs in the process group `group`, whose first member is the guard.
    """
    signals = _Signals()
    job = _Job(output, group)
    begun = time.monotonic()
    try:
        code, timed_out = _run(order, output, signals, job)
    finally:
        job.end()
    return Ended(
        code=code,
        started=order.started,
        ended=datetime.now(UTC),
        seconds=time.monotonic() - begun,
        timed_out=timed_out,
        stopped=signals.asked and not timed_out,
    )


def _run(order: Order, output: Output, signals: _Signals, job: _Job) -> tuple[int, bool]:
    try:
        child = subprocess.Popen(
            order.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=job.group,
        )
    except (OSError, ValueError) as error:
        output.write(f"{order.argv[0]!r} can't be run: {error}\n".encode(errors="replace"))
        return 127, False
    assert child.stdout is not None
    job.all.program = child.pid
    pipe = child.stdout.fileno()
    deadline = time.monotonic() + order.timeout
    ending = timed_out = False
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        selector.register(signals.descriptor, selectors.EVENT_READ)
        while job.all.code is None:
            now = time.monotonic()
            if ending and now >= deadline:
                job.end()
                deadline = math.inf
            elif not ending and (signals.asked or now >= deadline):
                ending, timed_out = True, not signals.asked
                job.ask_to_end()
                deadline = now + order.grace
            for key, _ in selector.select(None if deadline == math.inf else max(deadline - now, 0.0)):
                if key.fd != pipe:
                    signals.clear()
                elif data := os.read(pipe, _READ_BYTES):
                    output.write(data)
                else:
                    selector.unregister(pipe)
            job.all.reap()
    # What the program left running ends with it, and must not be waited for.
    job.end()
    os.set_blocking(pipe, False)
    for _ in range(_LAST_READS):
        try:
            data = os.read(pipe, _READ_BYTES)
        except BlockingIOError:
            break
        if not data:
            break
        output.write(data)
    child.returncode = job.all.code
    return job.all.code, timed_out


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
        replace(self._path, _CUT + kept, private=False)
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


class _Job:
    """The processes of a job: its program, the program's process group, and all that descends from it."""

    def __init__(self, output: Output, group: int) -> None:
        self.group = group
        self.all = Descendants()
        self._output = output
        self._ended = False
        if not self.all.adopts:
            output.write(f"({NOT_HERE})\n".encode())

    def ask_to_end(self) -> None:
        os.killpg(self.group, signal.SIGTERM)

    def end(self) -> None:
        """End all of them."""
        if self._ended:
            return
        self._ended = True
        if not self.all.adopts:
            with suppress(ProcessLookupError):
                os.killpg(self.group, signal.SIGKILL)  # with the guard, which has no more to do
        elif left := self.all.end():
            self._output.write(f"(processes {', '.join(map(str, left))} can't be ended)\n".encode())


def _guarded(lock: int, begun: int) -> int:
    """Go on in a child of this process, which becomes its guard; return the guard's process group.

    The child's number is written into the lock, and `begun` is closed then.
    """
    group = os.getpid()
    os.setpgid(0, 0)
    descendants = Descendants()
    # What ends the group by itself, and is asked to, must not end the guard before all is done.
    for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(one, lambda *_: None)
    child = os.fork()
    if not child:
        os.close(begun)
        os.setpgid(0, 0)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        return group
    os.pwrite(lock, f"{child}\n".encode(), 0)
    os.close(begun)
    return _guard(child, descendants)


def _guard(child: int, descendants: Descendants) -> NoReturn:
    try:
        while os.waitpid(-1, 0)[0] != child:
            pass
        descendants.end()
        os.killpg(0, signal.SIGKILL)
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
