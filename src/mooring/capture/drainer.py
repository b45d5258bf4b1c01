"""Starts the drain, a process of its own, and sees that one runs as long as there is capture."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from mooring.spool import try_lock

_RESTART_SECONDS = 1.0


class Drainer:
    """The drain of one spool. It ends by itself once no process writes to the spool and nothing is left in it.

    It runs in a session of its own, so that Ctrl-C in a terminal, or the end of the server that it belongs to,
    leaves it the time to finish.
    """

    def __init__(self, spool: Path, arguments: list[str]) -> None:
        self._spool = spool
        # -P and this path: the drain finds Mooring where this process found it, in a model's code_paths too.
        self._command = [sys.executable, "-m", "mooring", "drain", "--spool", str(spool), *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._checked = -_RESTART_SECONDS

    def ensure(self) -> None:
        """Start the drain unless one runs, this process's or another's. Looks at most once a second."""
        if time.monotonic() - self._checked < _RESTART_SECONDS:
            return
        self._checked = time.monotonic()
        if self._process is not None and self._process.poll() is None:
            return
        if not self._spool.is_dir():
            return
        lock = try_lock(self._spool / "drain.lock")
        if lock is None:
            return
        lock.release()
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def finish(self, timeout: float) -> bool:
        """Wait until the drain has ended, and say whether it has; call it after the spool is closed."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            return False
        return True
