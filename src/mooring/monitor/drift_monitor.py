"""Drift: reads what is new in a model's log, adds it to its windows, and checks those that ended."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mooring.drift.baseline import Baseline
from mooring.drift.profile import Profile
from mooring.log.listing import AGAIN_SECONDS
from mooring.monitor import standings, windows
from mooring.monitor.alerting.channels import Channel
from mooring.monitor.alerting.queue import enqueue_drift
from mooring.monitor.baselines import Baselines
from mooring.monitor.drift_check import DriftCheck, WindowCheck
from mooring.monitor.ingest import Chunk, Stream, StreamRows, between, chunks, done_of, profile_of
from mooring.monitor.metrics import Metrics
from mooring.monitor.new_objects import NewObjects
from mooring.monitor.open_windows import OpenWindows
from mooring.settings import MonitorSettings
from mooring.state.leases import Lease
from mooring.state.objects import DoneObject, Objects
from mooring.state.repository import Transaction
from mooring.state.state import State
from mooring.state.verdicts import Verdict, Verdicts
from mooring.state.windows import Window, Windows
from mooring.status import STATUSES

if TYPE_CHECKING:
    from obstore.store import ObjectStore
    from pyspark.sql import SparkSession

    from mooring.log.reader import LogObjects

_OLD = timedelta(days=1)
_AHEAD = timedelta(minutes=5)
_PAGE = 1000
_WHY_NOT_SECONDS = 600.0

logger = logging.getLogger(__name__)


class Change(NamedTuple):
    """What is to be written of a window: its profile, and the verdict, where there is one."""

    window: Window
    profile: bytes
    check: WindowCheck | None = None


class DriftMonitor:
    """Watches one model's log for drift, as long as nobody else does.

    Parameters
    ----------
    model
        The model's name in the log.
    settings
        Of `mooring monitor`.
    state
        What was read and concluded before.
    baselines
        Where a version's baseline is found.
    channels
        Who is told of drift.
    metrics
        Counts for Prometheus.

    Raises ValueError for invalid settings.
    """

    def __init__(
        self,
        model: str,
        settings: MonitorSettings,
        state: State,
        baselines: Baselines,
        channels: Sequence[Channel],
        metrics: Metrics,
    ) -> None:
        self._model = model
        self._settings = settings
        self._state = state
        self._windows = Windows(state)
        self._baselines = baselines
        self._channels = channels
        self._metrics = metrics
        self._lengths = windows.lengths_of(settings, settings.grace)
        self._spark = _spark_session() if settings.engine == "spark" else None
        self._objects = NewObjects(settings.log, model, settings.grace, Objects(state))
        self._check = DriftCheck(settings, baselines, self._objects, state)
        # The digest of the baseline that all windows of a stream are checked with by now.
        self._caught_up: dict[Stream, str | None] = {}

    def look(
        self,
        opened: ObjectStore,
        lease: Lease | None = None,
        *,
        provisional: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> int:
        """Read what is new and check what ended, and return how many windows were checked.

        `provisional`: the open windows are checked too, as they are now. What was done is written chunk by chunk,
        each whole or not at all, so after a kill the next call goes on where this one was; so does one that was
        left because `stopping`. Raises StoreError where the log can't be read now, StateError where the state
        refuses.
        """
        self._baselines.look_again()
        self._check.look_again()
        checked = self._catch_up(lease, stopping)
        new = self._objects.new(opened)
        if not new and not self._caught_up:
            logger.info(
                "the log %s has no scored rows of %s yet; why, its payloads say in the column reason",
                self._settings.log,
                self._model,
                extra={"every": AGAIN_SECONDS, "about": self._model},
            )
        for chunk in chunks(opened, self._settings.log, self._model, new):
            if stopping():
                return checked
            checked += self._add(chunk, lease)
        for window in self._open():
            over = self._closed(window)
            if over is not None:
                checked += self._check_alone(over, lease)
        checked += self._catch_up(lease, stopping)
        if provisional and not stopping():
            for window in self._open():
                checked += self._check_alone(window, lease, provisional=True)
        return checked

    def _add(self, chunk: Chunk, lease: Lease | None) -> int:
        """Add the rows of a chunk to their windows, check those that ended, and write it all."""
        changes: list[Change] = []
        newest = 0
        for rows in chunk.streams(features=self._spark is None):
            newest = max(newest, int(rows.times[-1]))
            changes += self._add_rows(rows)
        if newest:
            self._note_time(windows.moment(newest))
        days = chunk.days
        checked = self._write(
            changes, lease, [DoneObject(path, days[path], count) for path, count in chunk.objects.items()]
        )
        self._objects.mark_done(chunk.objects)
        return checked

    def _add_rows(self, rows: StreamRows) -> Iterator[Change]:
        """Yield the windows that a stream's new rows go to, each with its verdict where it ended."""
        self._caught_up.setdefault(rows.stream, None)
        baseline, _ = self._baseline(rows.stream.version)
        opened = OpenWindows(self._windows, self._model, rows.stream)

        def profile(first: int, last: int, baseline: Baseline) -> Profile:
            return self._profile(rows, first, last, baseline)

        for added in opened.add(rows, baseline, self._lengths, profile, self._check.window_rows):
            check = self._check.check(added.window, opened, objects=rows.objects) if added.ended else None
            yield Change(added.window, added.profile, check)

    def _baseline(self, version: str | None) -> tuple[Baseline | None, str | None]:
        """Return a version's baseline and its digest; where there is none, log why."""
        baseline, digest, why_not = self._baselines.of(self._model, version)
        if why_not:
            logger.warning("%s", why_not, extra={"every": _WHY_NOT_SECONDS, "about": why_not})
        return baseline, digest

    def _profile(self, rows: StreamRows, first: int, last: int, baseline: Baseline) -> Profile:
        """Return the profile of some of a stream's rows, which are by their time."""
        if self._spark is None:
            return profile_of([rows.part(first, last)], baseline)
        from mooring.engine.spark import profile_of_objects

        return profile_of_objects(
            self._spark,
            self._settings.log,
            list(rows.objects),
            baseline,
            start=windows.moment(int(rows.times[first])),
            end=windows.moment(int(rows.times[last - 1]) + 1),
            version=rows.stream.version,
            variant=rows.stream.variant,
        )

    def _note_time(self, newest: datetime) -> None:
        self._metrics.read(self._model, newest)
        if newest - datetime.now(UTC) > _AHEAD:
            day = f"{newest:%Y-%m-%d}"
            logger.warning(
                "there are rows of %s, from the future: set the clock of the host that writes",
                day,
                extra={"every": AGAIN_SECONDS, "about": (self._model, day)},
            )

    def _open(self) -> list[Window]:
        return [one.window for one in self._windows.history(self._model, status="open", newest=10_000)]

    def _closed(self, window: Window) -> Window | None:
        """Return an open window closed, if its time is over, or others have begun behind it; else None."""
        now = datetime.now(UTC)
        later = self._windows.overlapping(self._model, window.version, window.variant, window.end, windows.FOREVER)
        # What is of the future ends nothing: it is of a host whose clock is wrong.
        after = next((one for one in later if one.start <= now), None)
        before = windows.micros(now - timedelta(seconds=self._settings.settle))
        return windows.close(window, self._lengths, before, after)

    def _check_alone(self, window: Window, lease: Lease | None, *, provisional: bool = False) -> int:
        """Check a window with the rows that it has, and write it."""
        opened = OpenWindows(self._windows, self._model, Stream(window.version, window.variant))
        added = opened.put(window, opened.profile(window))
        check = self._check.check(window, opened, provisional=provisional)
        return self._write([Change(window, added.profile, check)], lease)

    def _catch_up(self, lease: Lease | None, stopping: Callable[[], bool]) -> int:
        """Check the windows that had no baseline and have one now, from the log."""
        if not self._caught_up:
            there = (one for one in self._windows.watched() if one.model == self._model)
            self._caught_up = {Stream(one.version, one.variant): None for one in there}
        checked = 0
        for stream in sorted(self._caught_up, key=lambda one: (one.version or "", one.variant)):
            baseline, digest = self._baseline(stream.version)
            if baseline is None or self._caught_up[stream] == digest:
                continue
            found: LogObjects | None = None
            days = None
            for window in self._without_verdict(stream):
                if stopping():
                    return checked
                if found is None or days != (window.start.date(), window.end.date()):
                    days = window.start.date(), window.end.date()
                    found = done_of(self._objects, window)
                counted = profile_of(between(found, stream, window.start, window.end), baseline)
                again = msgspec.structs.replace(window, revision=window.revision + 1)
                opened = OpenWindows(self._windows, self._model, stream)
                added = opened.put(again, counted)
                checked += self._write([Change(again, added.profile, self._check.check(again, opened))], lease)
            self._caught_up[stream] = digest
        return checked

    def _without_verdict(self, stream: Stream) -> list[Window]:
        """Return the closed windows of a stream that were not checked for want of a baseline, the oldest first."""
        found: list[Window] = []
        end = None
        while True:
            page = self._windows.history(
                self._model,
                version=stream.version,
                variant=stream.variant,
                status="closed",
                end=end,
                newest=_PAGE,
            )
            waiting = [one.window for one in page if one.verdict is None or one.verdict.status == "no_baseline"]
            found = waiting + found
            if len(page) < _PAGE:
                return found
            end = page[0].window.start

    def _write(self, changes: Iterable[Change], lease: Lease | None, done: Iterable[DoneObject] = ()) -> int:
        """Write windows and verdicts, and which objects are done, all at once; return how many were checked."""
        new: list[tuple[Window, WindowCheck]] = []
        checked = 0
        with self._state.begin(lease) as tx:
            Objects(tx).mark_done(self._model, self._objects.key, done)
            for change in changes:
                window = Windows(tx).put(change.window, change.profile)
                check = change.check
                if check is None:
                    continue
                checked += 1
                if check.verdict.status == "no_baseline":
                    self._caught_up[Stream(window.version, window.variant)] = None
                if Verdicts(tx).put(check.verdict, check.results, check.cells):
                    new.append((window, check))
                    if check.advanced is not None and not check.verdict.provisional:
                        standings.write(tx, check.advanced)
                    self._enqueue_alerts(tx, window, check.verdict)
        for window, check in new:
            verdict = check.verdict
            logger.info(
                "%s%s, %d rows: %s%s",
                windows.span_of(window),
                ", so far" if verdict.provisional else "",
                window.rows,
                STATUSES[verdict.status].word,
                f": {verdict.message}" if verdict.message else "",
            )
            if not verdict.provisional:
                level = None if check.advanced is None else check.advanced.state.level
                self._metrics.verdict(window, verdict, check.values, level)
        return checked

    def _enqueue_alerts(self, tx: Transaction, window: Window, verdict: Verdict) -> None:
        # Nobody is called for what is long past. A drift that lasts is told of with its first window of today.
        news = datetime.now(UTC) - window.end < _OLD + timedelta(seconds=self._settings.grace)
        if verdict.provisional or not news:
            return
        enqueue_drift(tx, window, verdict, self._channels, report=self._settings.report)


def _spark_session() -> SparkSession:
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise ValueError("--engine spark needs PySpark: pip install 'mooring[spark]'") from None
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else workers here take whatever python3 is
    return SparkSession.builder.getOrCreate()
