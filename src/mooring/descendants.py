"""A program that does not leave anything behind, also not what has taken a session of its own.

    python descendants.py PROGRAM ARGUMENT …

runs a program and ends as it does, once nothing that it started runs any more. SIGTERM is passed on to the
program; where stdin ends, which is when whoever holds its other end is gone, all of it is ended at once.

On Linux a process can be made the one to whom orphans of its own descendants go (a subreaper, as with `tini` or
systemd), and so finds them all. Elsewhere there is no such thing, and only a process group is ended.

This is run by its path, too, so nothing but the standard library is imported.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import NoReturn

_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.005
_END_SECONDS = 5.0
NOT_HERE = "what takes a session of its own is not ended with it: this system has no subreapers"


def command(program: list[str]) -> list[str]:
    """Return the command that runs a program so, where the system can.

    >>> command(["train", "--fast"])[-2:]
    ['train', '--fast']
    """
    return (
        [sys.executable, "-I", "-S", os.path.abspath(__file__), *program] if sys.platform == "linux" else program
    )


class Descendants:
    """All that descends from this process, from now on. `adopts` is whether orphans among them come to it.

    `code` is the exit code of the one program that matters, -N where signal N ended it, None as long as it runs.
    """

    def __init__(self) -> None:
        self.adopts = _adopt()
        self.program = 0
        self.code: int | None = None

    def reap(self) -> None:
        """Take note of those that have ended."""
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid == self.program:
                    self.code = os.waitstatus_to_exitcode(status)

    def end(self, seconds: float = _END_SECONDS) -> list[int]:
        """End them all, and return those that could not be ended within so many seconds.

        Only this process's own children are ended, whose numbers can't be anybody else's before it has reaped
        them; then those whom they leave to it, and so on.
        """
        last = time.monotonic() + seconds
        while left := children(os.getpid()):
            for pid in left:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self.reap()
            if time.monotonic() > last:
                return children(os.getpid())
            time.sleep(_POLL_SECONDS)
        return []


def children(pid: int) -> list[int]:
    """Return the children of a process, the oldest first; none where the system does not tell."""
    found = []
    with suppress(FileNotFoundError):
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with suppress(OSError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    stat = file.read()
                fields = stat[stat.rindex(b")") + 2 :].split()
                if int(fields[1]) == pid:
                    found.append((int(fields[19]), int(name)))
    return [child for _, child in sorted(found)]


def _adopt() -> bool:
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def main() -> NoReturn:
    """Run the program that the command line names."""
    woken, wakes = os.pipe()
    for end in (woken, wakes):
        os.set_blocking(end, False)
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True

    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, ask)
    all_of_it = Descendants()
    if not all_of_it.adopts:
        print(NOT_HERE, file=sys.stderr, flush=True)
    all_of_it.program = os.fork()
    if not all_of_it.program:
        _become(sys.argv[1:])
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if 0 in ready and not os.read(0, 4096):
            break
        if woken in ready:
            os.read(woken, 4096)
        all_of_it.reap()
        if all_of_it.code is not None:
            break
        if asked:
            asked = False
            os.kill(all_of_it.program, signal.SIGTERM)
    if left := all_of_it.end():
        print(f"processes {', '.join(map(str, left))} can't be ended", file=sys.stderr, flush=True)
    _end_as(1 if all_of_it.code is None else all_of_it.code)


def _become(program: list[str]) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # As subprocess does: Python itself ignores these.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execvp(program[0], program)  # noqa: S606 (no shell is wanted)
    except OSError as error:
        print(f"{program[0]!r} can't be run: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(127)


def _end_as(code: int) -> NoReturn:
    """End with an exit code, or by a signal, without another file of its memory."""
    if code < 0:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
