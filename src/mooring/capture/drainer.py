"""Starts the drain, a process of its own, and sees that one runs as long as there is capture."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from mooring.files import try_lock
from mooring.messages import REPEATS
from mooring.settings import LogSettings
from mooring.spool import abandoned, writers

logger = logging.getLogger(__name__)
logger.addFilter(REPEATS)
_LOOK_SECONDS = 1.0


def environment() -> dict[str, str]:
    """Return the environment in which a child finds Mooring where this process found it, in code_paths too."""
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


class Drainer:
    """The drain of one spool. It ends by itself once no process writes to the spool and nothing is left in it.

    It runs in a session of its own, so that Ctrl-C in a terminal, or the end of the server that it belongs to,
    leaves it the time to finish. Several processes may share a spool, and so its drain.
    """

    def __init__(self, settings: LogSettings) -> None:
        self._spool = settings.spool_path
        # -P: a module of the user's in this directory must not stand in for one of ours.
        self._command = [sys.executable, "-P", "-m", "mooring", "drain"]
        for name in LogSettings.__struct_fields__:
            value = settings.spool_path if name == "spool" else getattr(settings, name)
            self._command += [f"--{name.replace('_', '-')}", str(value)]
        self._process: subprocess.Popen[bytes] | None = None
        self._looked = -_LOOK_SECONDS

    def ensure(self, now: bool = False) -> None:
        """Start the drain unless one runs, this process's or another's. Looks once a second, never raises."""
        if not now and time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        if self._process is not None and self._process.poll() is None:
            return
        try:
            if self._spool.is_dir() and (lock := try_lock(self._spool / "drain.lock")) is not None:
                lock.release()
                self._start()
        except OSError as error:
            logger.warning("no drain can be started now, it is tried again: %s", error, extra={"every": 60.0})

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment(),
        )

    def finish(self, timeout: float) -> bool:
        """Wait until all that ended processes left in the spool is in the log, and say whether it is."""
        end = time.monotonic() + timeout
        while abandoned(self._spool):
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        if self._process is not None and not writers(self._spool):
            self._process.wait()  # nobody else writes to this spool, so it ends by itself, at once
        return True
