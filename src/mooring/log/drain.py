"""The drain: a process of its own that turns what lies in the spool into the log."""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from mooring.exchange import Exchange, decode
from mooring.log import csv_files
from mooring.spool import live_writers, read_frames, segments, try_lock

_POLL_SECONDS = 0.05
_LIVE_SECONDS = 0.5
_BACKOFF_SECONDS = 0.2, 30.0
_SAY_EVERY_SECONDS = 60.0


class Drain:
    """Follows a spool's segments, those still open too, and deletes the closed ones once all is in the log."""

    def __init__(self, spool: Path, put: Callable[[Exchange], None]) -> None:
        self._spool = spool
        self._put = put
        self._offsets: dict[str, int] = {}

    def once(self) -> int:
        """Put what is new into the log, and return how many exchanges that was.

        Raises OSError where the log refuses; what it has not taken is tried again the next time.
        """
        count = 0
        for segment in segments(self._spool):
            try:
                for payload, offset in read_frames(segment.path, self._offsets.get(segment.name, 0)):
                    self._put(decode(payload))
                    self._offsets[segment.name] = offset
                    count += 1
            except FileNotFoundError:
                if segment.path.exists():
                    raise
                continue  # closed, and so renamed, since it was listed
            except (ValueError, msgspec.MsgspecError) as error:
                if not segment.closed:
                    continue
                _say(f"{segment.path} can't be read and is set aside: {error}")
                segment.path.rename(segment.path.with_suffix(".unreadable"))
                continue
            if segment.closed:
                segment.path.unlink()
                self._offsets.pop(segment.name, None)
        return count


def run(spool: Path, log: Path, drain_timeout: float) -> bool:
    """Drain `spool` into `log` until no process writes to it and it is empty; return whether it is.

    Returns False if another process drains this spool already, or if the log refused for `drain_timeout` seconds
    after the last writer's end: what is left stays in the spool.
    """
    spool.mkdir(parents=True, exist_ok=True)
    lock = try_lock(spool / "drain.lock")
    if lock is None:
        _say(f"another process drains {spool} already")
        return False
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())

    drain = Drain(spool, partial(csv_files.write, log))
    wait, said, alone_since, alive, looked = _BACKOFF_SECONDS[0], -_SAY_EVERY_SECONDS, 0.0, True, 0.0
    while not stop.is_set():
        if time.monotonic() - looked > _LIVE_SECONDS:
            alive = live_writers(spool)
            looked = time.monotonic()
            alone_since = looked if alive or not alone_since else alone_since
        try:
            count = drain.once()
        except OSError as error:
            if time.monotonic() - said > _SAY_EVERY_SECONDS:
                said = time.monotonic()
                _say(f"the log {log} refuses: {error}. Nothing is lost, it stays in {spool} and is tried again.")
            if not alive and time.monotonic() - alone_since > drain_timeout:
                return False
            stop.wait(wait * random.uniform(0.5, 1.0))
            wait = min(wait * 2, _BACKOFF_SECONDS[1])
            continue
        wait = _BACKOFF_SECONDS[0]
        if not alive and not segments(spool):
            live_writers(spool)
            return True
        if count == 0:
            stop.wait(_POLL_SECONDS)
    return not segments(spool)


def _say(text: str) -> None:
    print(f"mooring drain: {text}", file=sys.stderr, flush=True)
