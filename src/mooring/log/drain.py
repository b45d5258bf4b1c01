"""The drain: a process of its own that turns what lies in the spool into the log."""

from __future__ import annotations

import gc
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from mooring.config import LogSettings
from mooring.exchange import Exchange, decode
from mooring.log import csv_files
from mooring.spool import (
    Account,
    Segment,
    keep_account,
    live_writers,
    read_frames,
    segments,
    try_lock,
    writers,
)

_POLL_SECONDS = {"csv": 0.05, "parquet": 0.25}
_LOOK_SECONDS = 0.5
_BACKOFF_SECONDS = 0.2, 30.0
_SAY_EVERY_SECONDS = 60.0
_UNWRITABLE = (ArithmeticError, LookupError, NotImplementedError, RecursionError, TypeError, ValueError)


class Frames:
    """Reads a segment's exchanges on from where it stopped, and keeps the account that it held."""

    def __init__(self, segment: Segment, offset: int = 0) -> None:
        self._segment = segment
        self.offset = offset
        self.account = Account()

    def __iter__(self) -> Iterator[Exchange]:
        """Yield the exchanges. A frame that can't be understood is set aside, and those after it come still."""
        for payload, offset in read_frames(self._segment.path, self.offset):
            try:
                record = decode(payload)
            except (msgspec.MsgspecError, ValueError) as error:
                self._set_aside(payload, error)
                record = None
            if isinstance(record, Exchange):
                yield record
            if record is not None:
                self.account.add(record)
            self.offset = offset

    def _set_aside(self, payload: bytes, error: Exception) -> None:
        path = aside(self._segment, f"-{self.offset}")
        path.write_bytes(payload)
        say(f"an exchange in {self._segment.path} can't be read, and is set aside as {path}: {error}")


class CsvDrain:
    """Follows all segments, those still open too, and writes a file a request."""

    def __init__(self, log: str) -> None:
        self._log = Path(log.removeprefix("file://"))
        self._frames: dict[str, Frames] = {}

    def drain(self, segment: Segment) -> int:
        """Put what is new in a segment into the log, and return how many exchanges that was."""
        known = self._frames.get(segment.name)
        frames = Frames(segment, known.offset if known else 0)
        if known:
            frames.account = known.account
        self._frames[segment.name] = frames
        count = 0
        for exchange in frames:
            csv_files.write(self._log, exchange)
            count += 1
        if segment.closed:
            finish(segment, frames)
            del self._frames[segment.name]
        return count


class ParquetDrain:
    """Turns each segment, once it is closed, into its Parquet objects."""

    def __init__(self, log: str) -> None:
        from mooring.log.parquet import ParquetLog
        from mooring.log.signature import fields_of

        self._log = ParquetLog(log, fields_of)

    def drain(self, segment: Segment) -> int:
        """Put a closed segment into the log, and return 1 if it was closed."""
        if not segment.closed:
            return 0
        frames = Frames(segment)
        # Rows come and go by the thousand, none of them in a cycle: looking for cycles doubles the time.
        gc.disable()
        try:
            self._log.write(segment.name, frames)
        finally:
            gc.enable()
        finish(segment, frames)
        return 1


def finish(segment: Segment, frames: Frames) -> None:
    """Delete a segment that is in the log, but keep the account that it held."""
    keep_account(segment, frames.account)
    segment.path.unlink()


def aside(segment: Segment, suffix: str = "") -> Path:
    """Return where to put what of a segment can't be read: a directory of the spool that nothing empties."""
    directory = segment.path.parents[1] / "unreadable"
    directory.mkdir(exist_ok=True)
    return directory / f"{segment.name}{suffix}"


class Drain:
    """One drain of one spool."""

    def __init__(self, settings: LogSettings) -> None:
        self._settings = settings
        self._spool = settings.spool_path
        self._sink: CsvDrain | ParquetDrain | None = None

    def once(self) -> int:
        """Put what is new into the log, and return how much that was.

        Raises OSError where the log refuses; what it has not taken is tried again the next time.
        """
        if self._sink is None:  # made here, so that a log that can't be opened is tried again like any other
            log = self._settings.log
            self._sink = CsvDrain(log) if self._settings.format == "csv" else ParquetDrain(log)
        count = 0
        for segment in segments(self._spool):
            try:
                count += self._sink.drain(segment)
            except FileNotFoundError:
                if segment.path.exists():
                    raise
                continue  # closed, and so renamed, since it was listed
            except _UNWRITABLE as error:
                # Nothing that clients send should get here; if it does, the segments behind must not wait for it.
                path = aside(segment)
                say(f"{segment.path} can't be made a part of the log, and is set aside as {path}: {error!r}")
                segment.path.rename(path)
        return count


def run(settings: LogSettings) -> bool:
    """Drain a spool into its log until no process writes to it and it is empty; return whether it is.

    Returns at once, and True, if another process drains this spool already. Returns False if the log refused for
    `drain_timeout` seconds after the last writer's end: what is left stays in the spool.
    """
    spool = settings.spool_path
    spool.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    while (lock := try_lock(spool / "drain.lock")) is not None:
        empty = _drain(settings, spool, stop)
        lock.release()
        # Who came while this drain was ending saw its lock, and started none.
        if not empty or stop.is_set() or not writers(spool):
            return empty
    if sys.stderr.isatty():
        say(f"another process drains {spool} already")
    return True


def _drain(settings: LogSettings, spool: Path, stop: threading.Event) -> bool:
    drain = Drain(settings)
    wait, said, looked, alive, alone_since = _BACKOFF_SECONDS[0], -_SAY_EVERY_SECONDS, -_LOOK_SECONDS, True, 0.0
    while not stop.is_set():
        now = time.monotonic()
        try:
            if now - looked >= _LOOK_SECONDS:
                alive, looked = live_writers(spool), now
                alone_since = now if alive else alone_since or now
            count = drain.once()
            if not alive and not segments(spool):
                live_writers(spool)
                return True
        except OSError as error:
            if now - said > _SAY_EVERY_SECONDS:
                said = now
                say(f"the log refuses: {error}. Nothing is lost: it stays in {spool} and is tried again")
            if not alive and now - alone_since > settings.drain_timeout:
                return False
            stop.wait(wait * random.uniform(0.5, 1.0))
            wait = min(wait * 2, _BACKOFF_SECONDS[1])
            continue
        if said > 0:
            say("the log takes exchanges again")
        wait, said = _BACKOFF_SECONDS[0], -_SAY_EVERY_SECONDS
        if count == 0:
            stop.wait(_POLL_SECONDS[settings.format])
    return not segments(spool)


def say(text: str) -> None:
    """Print to stderr, if it takes that."""
    with suppress(OSError):
        print(f"mooring drain: {text}", file=sys.stderr, flush=True)
