"""The drain: a process of its own that turns what lies in the spool into the log."""

from __future__ import annotations

import gc
import logging
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mooring.exchange import Exchange, decode
from mooring.files import Lock, check, make_directory, try_lock
from mooring.label import Labels
from mooring.log import csv_files
from mooring.log.attempts import MOST, Attempts
from mooring.settings import LogSettings
from mooring.spool import (
    Account,
    SpoolSegment,
    keep_account,
    live_writers,
    read_frames,
    segments,
    set_aside,
    writers,
)

if TYPE_CHECKING:
    from mooring.log.labels import SegmentLabels

logger = logging.getLogger(__name__)
_POLL_SECONDS = {"csv": 0.05, "parquet": 0.25}
_LOOK_SECONDS = 0.5
_BACKOFF_SECONDS = 0.2, 30.0
_SAY_EVERY_SECONDS = 60.0
_OUTAGE = 3
"""Segments that are refused one after the other before the log is taken to refuse all."""


class Frames:
    """Reads a segment's exchanges on from where it stopped, and keeps the account and the labels that it held."""

    def __init__(self, segment: SpoolSegment, before: Frames | None = None) -> None:
        self._segment = segment
        self.offset: int = before.offset if before else 0
        self.account: Account = before.account if before else Account()
        self._labels: SegmentLabels | None = before._labels if before else None

    def __iter__(self) -> Iterator[Exchange]:
        """Yield the exchanges. A frame that can't be understood is set aside, and those after it come still."""
        account = self.account
        for payload, offset in read_frames(self._segment.path, self.offset):
            try:
                record = decode(payload)
            except (msgspec.MsgspecError, ValueError) as error:
                self._set_aside(payload, error)
            else:
                if type(record) is Exchange:
                    yield record
                elif isinstance(record, Labels):
                    self._add(record)
                account.add(record)
            self.offset = offset

    def write_labels(self, log: str) -> None:
        """Put the labels that the segment held into the log. Raises StoreError where it refuses."""
        if self._labels is not None:
            self._labels.write(log, self._segment.name)

    def _add(self, record: Labels) -> None:
        if self._labels is None:
            from mooring.log.labels import SegmentLabels

            self._labels = SegmentLabels()
        self._labels.add(record)

    def _set_aside(self, payload: bytes, error: Exception) -> None:
        # It may be one that a later version of Mooring wrote, which counted it.
        root = self._segment.path.parents[1]
        path = set_aside(root, f"{self._segment.name}-{self.offset}", payload, f"{error}", exchanges=0)
        logger.error(
            "an exchange in %s can't be read, and is set aside as %s: %s", self._segment.path, path, error
        )


class CsvDrain:
    """Follows all segments, those still open too, and writes a file a request."""

    def __init__(self, log: str) -> None:
        self._uri = log
        self._log = Path(log.removeprefix("file://"))
        self._frames: dict[str, Frames] = {}

    def has_work(self, segment: SpoolSegment) -> bool:
        """Whether a segment has anything that is not in the log yet."""
        frames = self._frames.get(segment.name)
        if segment.closed or frames is None:
            return True
        with suppress(FileNotFoundError):  # closed, and so renamed, since it was listed
            return segment.path.stat().st_size > frames.offset
        return False

    def drain(self, segment: SpoolSegment, attempts: Attempts) -> int:
        """Put what is new in a segment into the log, and return how many exchanges that was."""
        frames = Frames(segment, self._frames.get(segment.name))
        self._frames[segment.name] = frames
        count = 0
        for exchange in frames:
            csv_files.write(self._log, exchange)
            count += 1
        if segment.closed:
            frames.write_labels(self._uri)  # of a proxy that wrote Parquet before: it alone takes labels
            finish(segment, frames)
            del self._frames[segment.name]
        return count


class ParquetDrain:
    """Turns each segment, once it is closed, into its Parquet objects."""

    def __init__(self, log: str) -> None:
        from mooring.log.parquet import ParquetLog
        from mooring.log.signature import ask_mlflow

        self._uri = log
        self._log = ParquetLog(log, ask_mlflow)

    def has_work(self, segment: SpoolSegment) -> bool:
        """Whether a segment is closed, and so may be put into the log."""
        return segment.closed

    def drain(self, segment: SpoolSegment, attempts: Attempts) -> int:
        """Put a closed segment into the log, and return 1."""
        frames = Frames(segment)
        # Rows come and go by the thousand, none of them in a cycle: looking for cycles doubles the time.
        gc.disable()
        try:
            self._log.write(segment.name, frames, lambda: attempts.waiting(segment.name))
            with attempts.waiting(segment.name):
                frames.write_labels(self._uri)
        finally:
            gc.enable()
        finish(segment, frames)
        return 1


def finish(segment: SpoolSegment, frames: Frames) -> None:
    """Delete a segment that is in the log, but keep the account that it held."""
    keep_account(segment, frames.account)
    segment.path.unlink()


def give_up(segment: SpoolSegment, reason: str) -> Path:
    """Set a segment aside, keep the account that it held, and return where it is. Raises OSError where refused."""
    account, exchanges = Account(), 0
    with suppress(ValueError):  # no segment at all
        for payload, _ in read_frames(segment.path):
            with suppress(ValueError, msgspec.MsgspecError):
                record = decode(payload)
                account.add(record)
                exchanges += type(record) is Exchange and record.variant != "shadow"
    keep_account(segment, account)
    return set_aside(segment.path.parents[1], segment.name, segment.path, reason, exchanges)


class Backoff:
    """When to try again what was refused: each time twice as far ahead, up to half a minute, with jitter."""

    def __init__(self) -> None:
        self._seconds = _BACKOFF_SECONDS[0]
        self._due = 0.0

    @property
    def due(self) -> bool:
        """Whether the time has come."""
        return time.monotonic() >= self._due

    def refused(self) -> None:
        """Put it off."""
        self._due = time.monotonic() + self._seconds * random.uniform(0.5, 1.0)
        self._seconds = min(self._seconds * 2, _BACKOFF_SECONDS[1])


class Refusal:
    """A segment that the log has refused: why, how often, and when to try again."""

    def __init__(self) -> None:
        self.error = OSError()
        self.times = 0
        self.backoff = Backoff()

    def again(self, error: OSError) -> None:
        """It was refused once more."""
        self.error = error
        self.times += 1
        self.backoff.refused()


class Drain:
    """One drain of one spool."""

    def __init__(self, settings: LogSettings) -> None:
        self._settings = settings
        self._spool = settings.spool_path
        self._sink: CsvDrain | ParquetDrain | None = None
        self._refused: dict[str, Refusal] = {}
        self._outage = False
        self._attempts = Attempts(self._spool)

    @property
    def refusal(self) -> OSError | None:
        """Why the log refused the last of the segments that it has refused so far; None if there is none."""
        return next((refusal.error for refusal in reversed(self._refused.values())), None)

    def once(self) -> int:
        """Put what is new into the log, and return how much that was.

        A segment that the log refuses is tried again later; those behind it go on. One that fails otherwise, or
        that the drain was killed at, is tried once more, and then set aside. Raises OSError where the log refuses
        several in a row and takes none, or can't be opened: that is an outage, and nothing else is tried.
        """
        if self._sink is None:  # made here, so that a log that can't be opened is tried again like any other
            log = self._settings.log
            self._sink = CsvDrain(log) if self._settings.format == "csv" else ParquetDrain(log)
        count = in_a_row = 0
        for segment in self._due():
            try:
                taken = self._take(self._sink, segment)
            except OSError as error:
                self._refused.setdefault(segment.name, Refusal()).again(error)
                in_a_row += 1
                if in_a_row < _OUTAGE:
                    continue
                if count:
                    break
                self._outage = True
                raise
            self._refused.pop(segment.name, None)
            if taken:
                count, in_a_row = count + taken, 0
                self._end_outage()
        return count

    def _due(self) -> list[SpoolSegment]:
        """Return the segments to try now: first those that were refused least often."""
        waiting = segments(self._spool)
        self._attempts.keep({segment.name for segment in waiting})
        if not self._refused:
            return waiting
        names = {segment.name for segment in waiting}
        self._refused = {name: refusal for name, refusal in self._refused.items() if name in names}
        due = [one for one in waiting if one.name not in self._refused or self._refused[one.name].backoff.due]
        return sorted(due, key=lambda one: self._refused[one.name].times if one.name in self._refused else 0)

    def _take(self, sink: CsvDrain | ParquetDrain, segment: SpoolSegment) -> int:
        attempts, name = self._attempts, segment.name
        if attempts.hopeless(name):
            return self._give_up(segment)
        if not sink.has_work(segment):
            return 0
        attempts.begin(name)
        try:
            taken = sink.drain(segment, attempts)
        except FileNotFoundError:
            attempts.refused(name)
            if segment.path.exists():
                raise
            return 0  # closed, and so renamed, since it was listed
        except OSError:
            attempts.refused(name)
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, it is said, and the next segment goes on
            # Nothing that clients send should get here; if it does, the segments behind must not wait for it.
            attempts.failed(name, error)
            logger.error("%s can't be made a part of the log: %r", segment.path, error)
            return self._give_up(segment) if attempts.hopeless(name) else 0
        attempts.over(name)
        return taken

    def _give_up(self, segment: SpoolSegment) -> int:
        if not segment.closed:
            return 0  # whoever writes it goes on
        reason = f"it failed {MOST} times: {self._attempts.reason(segment.name)}"
        path = give_up(segment, reason)
        logger.error("%s is set aside as %s: %s", segment.path, path, reason)
        self._attempts.over(segment.name)
        return 0

    def _end_outage(self) -> None:
        if self._outage:  # what was refused then was not to blame
            self._outage = False
            self._refused.clear()


def run(settings: LogSettings) -> bool:
    """Drain a spool into its log until no process writes to it and it is empty; return whether it is.

    Returns at once, and True, if another process drains this spool already. Returns False if the log refused for
    `drain_timeout` seconds after the last writer's end: what is left stays in the spool.
    """
    spool = settings.spool_path
    make_directory(spool, spool)
    places = [(spool, "the spool")]
    if "://" not in (local := settings.log.removeprefix("file://")):
        places.append((Path(local), "the log"))
    for root, what in places:
        if said := check(root, what):
            logger.warning("%s", said)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    while (lock := _hold(spool / "drain.lock")) is not None:
        empty = _drain(settings, spool, stop)
        lock.release()
        # Who came while this drain was ending saw its lock, and started none.
        if not empty or stop.is_set() or not writers(spool):
            return empty
    if sys.stderr.isatty():
        logger.info("another process drains %s already", spool)
    return True


def _hold(path: Path) -> Lock | None:
    """Return the lock of the one drain, None where another holds it: not where somebody only looks at it."""
    while (lock := try_lock(path)) is None:
        if (look := try_lock(path, shared=True)) is None:
            return None
        look.release()
    return lock


def _drain(settings: LogSettings, spool: Path, stop: threading.Event) -> bool:
    drain, backoff = Drain(settings), Backoff()
    said, looked, alive, alone_since = -_SAY_EVERY_SECONDS, -_LOOK_SECONDS, True, 0.0
    while not stop.is_set():
        if not backoff.due:
            stop.wait(_POLL_SECONDS[settings.format])
            continue
        now, count = time.monotonic(), 0
        try:
            if now - looked >= _LOOK_SECONDS:
                alive, looked = live_writers(spool), now
                alone_since = now if alive else alone_since or now
            count = drain.once()
            if not alive and not segments(spool):
                live_writers(spool)
                return True
            refusal = drain.refusal
            if count or refusal is None:
                backoff = Backoff()
        except OSError as error:
            refusal = error
            backoff.refused()
        if refusal is None:
            if said > 0:
                logger.info("the log takes exchanges again")
            said = -_SAY_EVERY_SECONDS
        elif now - said > _SAY_EVERY_SECONDS:
            said = now
            logger.warning(
                "the log refuses: %s. Nothing is lost: it stays in %s and is tried again", refusal, spool
            )
        if count == 0:
            if refusal is not None and not alive and now - alone_since > settings.drain_timeout:
                return False
            stop.wait(_POLL_SECONDS[settings.format])
    return not segments(spool)
