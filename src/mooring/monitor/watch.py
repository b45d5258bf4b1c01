"""The monitor's work: read what is new in the log, add it to its windows, judge those that ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from mooring.config import MonitorSettings
from mooring.drift.baseline import Baseline, profile_from_bytes, profile_to_bytes
from mooring.drift.judge import SCALES
from mooring.drift.measure_table import MEASURES, min_effect
from mooring.drift.profile import Profile
from mooring.drift.stored import FormatError
from mooring.log import reader
from mooring.log.parquet import folder_name
from mooring.monitor import alerts, ingest, segments, windows
from mooring.monitor.baselines import Baselines
from mooring.monitor.ingest import Chunk, Rows, Stream
from mooring.monitor.judging import conclude, lengths_of, thresholds_of
from mooring.monitor.metrics import Metrics
from mooring.monitor.performance import Performance
from mooring.monitor.windows import Piece
from mooring.state.judgements import judgement_of
from mooring.state.leases import Lease
from mooring.state.objects import DoneObject, Objects
from mooring.state.repository import Transaction
from mooring.state.state import State
from mooring.state.verdicts import Verdict, Verdicts
from mooring.state.windows import Window, Windows
from mooring.status import STATUSES

_MERGED = SCALES[-1] - 1
_OLD = timedelta(days=1)
_AHEAD = timedelta(minutes=5)
_FOREVER = datetime(9999, 1, 1, tzinfo=UTC)
_PAGE = 1000
_NAMES = 10

if TYPE_CHECKING:
    from obstore.store import ObjectStore
    from pyspark.sql import SparkSession

Say = Callable[[str], None]


class Kept(NamedTuple):
    """A window and the profile of its rows; None where there is no baseline to make one for."""

    window: Window
    profile: Profile | None


class Written(NamedTuple):
    """What is to be written of a window: its profile; where there is a verdict, that, its results and cells."""

    window: Window
    profile: bytes
    verdict: Verdict | None = None
    results: bytes = b""
    cells: bytes = b""


class Watch:
    """Watches one model's log, as long as nobody else does.

    Parameters
    ----------
    settings
        Of `mooring monitor`.
    state
        What was read and concluded before.
    baselines
        Where a version's baseline is found.
    channels
        Who is told of drift.
    say
        Takes a line for whoever looks on.
    metrics
        Counts for Prometheus.

    Raises ValueError for invalid settings.
    """

    def __init__(
        self,
        settings: MonitorSettings,
        state: State,
        baselines: Baselines,
        channels: list[alerts.Channel],
        say: Say,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._state = state
        self._baselines = baselines
        self._channels = channels
        self._say = say
        self._metrics = metrics
        n, m = settings.alert_windows.split("/")
        self._n, self._m = int(n), int(m)
        self._lengths = lengths_of(settings, settings.grace)
        self._key = ingest.log_key(settings.log)
        self._spark = _spark_session() if settings.engine == "spark" else None
        self._model = settings.model
        self._said: set[str] = set()
        self._checked: set[str] = set()
        self._done: set[str] = set()
        self._echoing: dict[str, bool] = {}
        self._streams: set[Stream] | None = None
        self._caught_up: dict[Stream, str | None] = {}
        self._taking: dict[str, int] = {}
        self._performance = Performance(settings, state, baselines, channels, say, metrics)

    def look(
        self,
        lease: Lease | None = None,
        *,
        provisional: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> int:
        """Read what is new and judge what ended, and return how many windows were judged.

        `provisional`: the open windows are judged too, as they are now. What was done is written chunk by chunk,
        each whole or not at all, so after a kill the next call goes on where this one was; so does one that was
        left because `stopping`. Raises LogError where there is no log, StoreError where it can't be read now,
        StateError where the state refuses.
        """
        uri = self._settings.log
        opened = reader.open_log(uri)
        model = self._model = reader.only_model(opened, uri, self._model)
        self._baselines.look_again()
        judged = self._catch_up(model, lease, stopping)
        for chunk in ingest.chunks(opened, uri, model, self._new(opened, model), self._say_once):
            if stopping():
                return judged
            judged += self._take(model, chunk, lease)
        judged += self._close(model, lease)
        judged += self._catch_up(model, lease, stopping)
        if provisional and not stopping():
            judged += self._judge_open(model, lease)
        judged += self._performance.look(opened, model, lease, provisional=provisional, stopping=stopping)
        if judged:
            [newest] = Windows(self._state).history(model, newest=1)
            keep = timedelta(seconds=self._settings.keep + self._settings.grace)
            with self._state.begin(lease) as tx:
                Windows(tx).prune(model, min(newest.window.end, datetime.now(UTC)) - keep)
        return judged

    # What is new

    def _new(self, opened: ObjectStore, model: str) -> list[reader.Object]:
        """Return the objects that are not done, day by day."""
        newest = Objects(self._state).newest_day(model, self._key)
        start = ingest.since(newest, timedelta(seconds=self._settings.grace))
        listed = reader.list_objects(opened, self._settings.log, f"inferences/model={folder_name(model)}", start)
        self._done &= {one.path for one in listed}
        unknown = [one.path for one in listed if one.path not in self._done]
        if unknown:
            self._done |= Objects(self._state).seen(model, self._key, unknown)
        elif newest is None:
            self._say_once(
                f"the log {self._settings.log} has no scored rows of {model} yet; "
                "why, its payloads say in the column reason"
            )
        return [one for one in listed if one.path not in self._done]

    def _take(self, model: str, chunk: Chunk, lease: Lease | None) -> int:
        """Add the rows of a chunk to their windows, judge those that ended, and write it all."""
        self._echoing.clear()  # what was written is asked for again
        written: list[Written] = []
        latest = 0
        self._taking = chunk.objects
        for rows in chunk.streams(features=self._spark is None):
            latest = max(latest, int(rows.times[-1]))
            if self._streams is not None:
                self._streams.add(rows.stream)
            written += self._divide(model, rows, chunk)
        if latest:
            self._note_time(model, windows.moment(latest))
        days = chunk.days
        marks = [DoneObject(path, days[path], count) for path, count in chunk.objects.items()]
        judged = self._write(written, lease, model, marks)
        self._taking = {}
        self._done |= chunk.objects.keys()
        return judged

    def _divide(self, model: str, rows: Rows, chunk: Chunk) -> list[Written]:
        """Return the windows that a stream's new rows go to, each with its verdict where it ended."""
        stream, times = rows.stream, rows.times
        first = windows.moment(int(times[0]) - int(times[0]) % self._lengths.length - 1)
        known = Windows(self._state).overlapping(model, *stream, first, _FOREVER)
        baseline, _ = self._baselines.of(model, stream.version)
        shelf: dict[str, Kept] = {}
        written: list[Written] = []
        for place, window in enumerate(known):
            if window.status != "open":
                continue
            kept = self._kept(window, shelf)
            if _digest(kept.profile) != _digest(baseline):
                # The baseline is another now: what was counted on its grid stays apart.
                known[place] = msgspec.structs.replace(window, status="closed")
                written.append(self._concluded(Kept(known[place], kept.profile), shelf))
        blank = Window(model=model, version=stream.version, variant=stream.variant, start=_FOREVER, end=_FOREVER)
        too_late = 0
        for piece in windows.cut(times, known, blank, self._lengths, windows.micros(datetime.now(UTC))):
            if piece.too_late:
                too_late += piece.last - piece.first
                written.append(_unjudged(Kept(piece.window, self._kept(piece.window, shelf).profile)))
                continue
            new = piece.window.rows == piece.last - piece.first
            before = None if new else self._kept(piece.window, shelf)
            kept = self._grown(piece, rows, before, baseline, chunk)
            shelf[piece.window.id] = kept
            closed = piece.window.status == "closed"
            written.append(self._concluded(kept, shelf) if closed else _unjudged(kept))
            for old in sorted(shelf.values(), key=lambda one: one.window.start)[: -_MERGED - 1]:
                del shelf[old.window.id]  # profiles are large
        if too_late:
            self._say(
                f"{too_late} rows came later than --grace after their window, and are counted but not judged"
            )
        return written

    # What ended

    def _close(self, model: str, lease: Lease | None) -> int:
        """Judge the open windows whose time is over, or behind which others have begun."""
        now = datetime.now(UTC)
        before = windows.micros(now - timedelta(seconds=self._settings.settle))
        judged = 0
        for window in self._open(model):
            later = Windows(self._state).overlapping(model, window.version, window.variant, window.end, _FOREVER)
            # What is of the future ends nothing: it is of a host whose clock is wrong.
            after = next((one for one in later if one.start <= now), None)
            over = windows.close(window, self._lengths, before, after)
            if over is not None:
                shelf: dict[str, Kept] = {}
                judged += self._write(
                    [self._concluded(Kept(over, self._kept(window, shelf).profile), shelf)], lease
                )
        return judged

    def _judge_open(self, model: str, lease: Lease | None) -> int:
        judged = 0
        for window in self._open(model):
            shelf: dict[str, Kept] = {}
            kept = self._kept(window, shelf)
            judged += self._write([self._concluded(kept, shelf, provisional=True)], lease)
        return judged

    def _open(self, model: str) -> list[Window]:
        return [judged.window for judged in Windows(self._state).history(model, status="open", newest=10_000)]

    def _catch_up(self, model: str, lease: Lease | None, stopping: Callable[[], bool]) -> int:
        """Judge the windows that had no baseline and have one now, from the log."""
        if self._streams is None:
            watched = Windows(self._state).watched()
            self._streams = {Stream(one.version, one.variant) for one in watched if one.model == model}
        judged = 0
        for stream in sorted(self._streams, key=lambda one: (one.version or "", one.variant)):
            baseline, digest = self._baselines.of(model, stream.version)
            if baseline is None or self._caught_up.get(stream) == digest:
                continue
            found, days = None, None
            for window in self._without_verdict(model, stream):
                if stopping():
                    return judged
                if days != (window.start.date(), window.end.date()):
                    days = (window.start.date(), window.end.date())
                    found = self._objects_of(model, window)
                assert found is not None
                parts = ingest.between(found, stream, window.start, window.end)
                counted = ingest.profile_of(parts, baseline)
                again = msgspec.structs.replace(window, revision=window.revision + 1)
                judged += self._write([self._concluded(Kept(again, counted), {})], lease)
            self._caught_up[stream] = digest
        return judged

    def _without_verdict(self, model: str, stream: Stream) -> list[Window]:
        """Return the closed windows of a stream that were not judged for want of a baseline, the oldest first."""
        found: list[Window] = []
        end = None
        while True:
            page = Windows(self._state).history(
                model, version=stream.version, variant=stream.variant, status="closed", end=end, newest=_PAGE
            )
            waiting = [one.window for one in page if one.verdict is None or one.verdict.status == "no_baseline"]
            found = waiting + found
            if len(page) < _PAGE:
                return found
            end = page[0].window.start

    def _objects_of(self, model: str, window: Window, taking: Collection[str] = ()) -> reader.Found:
        """Return the objects of a window's days that are done, or are `taking` part now."""
        uri = self._settings.log
        start, end = (reader.midnight(one.date()) for one in (window.start, window.end))
        with ingest.telling(self._say_once):
            found = reader.find(uri, model=model, start=start, end=end + timedelta(days=1))
        seen = Objects(self._state).seen(model, self._key, found.objects) | set(taking)
        return ingest.part_of(found, [path for path in found.fragments if path in seen])

    # Verdicts

    def _concluded(self, kept: Kept, shelf: dict[str, Kept], *, provisional: bool = False) -> Written:
        """Return a window with its verdict. `shelf` has windows that are not written yet; others are put there."""
        window = kept.window
        shelf[window.id] = kept
        baseline, digest = self._baselines.of(window.model, window.version)
        why_not = self._baselines.why_not(window.model, window.version)
        profiles = []
        if kept.profile is not None and baseline is not None and kept.profile.digest == baseline.digest:
            profiles = [kept.profile, *self._before(window, baseline, shelf)]
        elif baseline is not None:
            baseline, why_not = None, "the baseline is another now: it is judged again, from the log"
        if baseline is None:
            self._caught_up.pop(Stream(window.version, window.variant), None)
        else:
            self._check_thresholds(window, baseline)
        concluded = conclude(
            window,
            profiles,
            baseline,
            self._settings,
            provisional=provisional,
            digest=digest if baseline else None,
            why_not=why_not,
            segments=self._segments(window, baseline),
        )
        self._echoing[window.id] = _echoes(concluded.verdict)
        return _unjudged(kept)._replace(
            verdict=concluded.verdict, results=concluded.results, cells=concluded.cells
        )

    def _segments(self, window: Window, baseline: Baseline | None) -> dict[str, tuple[Baseline, Profile]]:
        """Return the segments that are asked for, each with its baseline and the profile of the window's rows."""
        wanted = {} if baseline is None else baseline.segments
        wanted = {column: wanted[column] for column in self._settings.segment if column in wanted}
        for column in self._settings.segment:
            if baseline is not None and column not in wanted:
                self._say_once(
                    f"the baseline of {window.model} has no segments by {column}, so drift is not told apart by "
                    f"it: log one with mooring.log_baseline(…, segments=[{column!r}])"
                )
        if baseline is None or not wanted:
            return {}
        found = self._objects_of(window.model, window, self._taking)
        parts = ingest.between(found, Stream(window.version, window.variant), window.start, window.end)
        return segments.profiles_of(parts, baseline, wanted)

    def _before(self, window: Window, baseline: Baseline, shelf: dict[str, Kept]) -> list[Profile]:
        """Return the profiles of the windows before one, newest first, as many as are merged with it.

        Merging looks for what no window shows alone, so it stops at one that showed much: else a drift that
        is over would be found again in the windows after it.
        """
        past = Windows(self._state).history(
            window.model, version=window.version, variant=window.variant, end=window.start, newest=_MERGED
        )
        echoing = {one.window.id: _echoes(one.verdict) for one in past} | self._echoing
        there = {one.window.id: one.window for one in past}
        there |= {name: kept.window for name, kept in shelf.items() if kept.window.start < window.start}
        found = []
        for earlier in sorted(there.values(), key=lambda one: one.start, reverse=True)[:_MERGED]:
            kept = self._kept(earlier, shelf)
            if kept.profile is None or kept.profile.digest != baseline.digest or echoing.get(earlier.id):
                break
            found.append(kept.profile)
        return found

    def _kept(self, window: Window, shelf: dict[str, Kept]) -> Kept:
        """Return a window with its profile, as far as that is kept and can be read; put on the shelf."""
        if window.id not in shelf:
            counted = None
            data = Windows(self._state).profiles([window.id]).get(window.id)
            if data:
                try:
                    counted = profile_from_bytes(data)
                except FormatError as error:
                    self._say_once(f"the window from {window.start:%Y-%m-%d %H:%M} is not merged: {error}")
            shelf[window.id] = Kept(window, counted)
        return shelf[window.id]

    def _write(
        self, written: Iterable[Written], lease: Lease | None, model: str = "", marks: Iterable[DoneObject] = ()
    ) -> int:
        """Write windows and verdicts, and which objects are done, all at once; return how many were judged."""
        new: list[tuple[Window, Written]] = []
        judged = 0
        with self._state.begin(lease) as tx:
            Objects(tx).mark_done(model, self._key, marks)
            for one in written:
                window = Windows(tx).put(one.window, one.profile)
                judged += one.verdict is not None
                if one.verdict is not None and Verdicts(tx).put(one.verdict, one.results, one.cells):
                    new.append((window, one))
                    self._call(tx, window, one.verdict)
        for window, one in new:
            assert one.verdict is not None
            self._say(_line(window, one.verdict))
            if not one.verdict.provisional:
                judgement = judgement_of(one.results)
                results = judgement.results if judgement else []
                values = [(each.feature, each.measure, each.value) for each in results if each.scale == 1]
                self._metrics.judged(window, one.verdict, values)
        return judged

    def _call(self, tx: Transaction, window: Window, verdict: Verdict) -> None:
        """Put the alerts that a new verdict is worth in the queue."""
        # Nobody is called for what is long past. A drift that lasts is told of with its first window of today.
        news = datetime.now(UTC) - window.end < _OLD + timedelta(seconds=self._settings.grace)
        if verdict.provisional or not news:
            return
        statuses = Verdicts(tx).statuses(window.model, window.version, window.variant, 2 * self._m + 10)
        report = self._settings.report
        alerts.enqueue(tx, window, verdict, statuses, self._channels, n=self._n, m=self._m, report=report)

    def _grown(
        self, piece: Piece, rows: Rows, before: Kept | None, baseline: Baseline | None, chunk: Chunk
    ) -> Kept:
        """Return a window with its new rows."""
        counts = rows.request_rows[piece.first : piece.last]
        window = msgspec.structs.replace(
            piece.window,
            requests=piece.window.requests + round(float(np.sum(1.0 / np.maximum(counts, 1)))),
            weight=piece.window.weight + int(counts.sum(dtype=np.int64)),
        )
        counted = None if before is None else before.profile
        if baseline is None or (before is not None and _digest(counted) != baseline.digest):
            return Kept(window, counted)
        found = self._profile(piece, rows, baseline, chunk)
        return Kept(window, found if counted is None else counted + found)

    def _profile(self, piece: Piece, rows: Rows, baseline: Baseline, chunk: Chunk) -> Profile:
        """Return the profile of some of a stream's rows, which are by their time."""
        if self._spark is None:
            part = rows.part(piece.first, piece.last)
            return ingest.profile_of([part], baseline)
        from mooring.engine.spark import profile_of_objects

        return profile_of_objects(
            self._spark,
            self._settings.log,
            list(chunk.objects),
            baseline,
            start=windows.moment(int(rows.times[piece.first])),
            end=windows.moment(int(rows.times[piece.last - 1]) + 1),
            version=rows.stream.version,
            variant=rows.stream.variant,
        )

    def _check_thresholds(self, window: Window, baseline: Baseline) -> None:
        """Say which thresholds can't ever alarm, once for each baseline."""
        if baseline.digest in self._checked:
            return
        self._checked.add(baseline.digest)
        for problem in pointless(thresholds_of(self._settings.threshold), baseline):
            self._say_once(f"{window.model}{f' version {window.version}' if window.version else ''}: {problem}")

    def _note_time(self, model: str, latest: datetime) -> None:
        self._metrics.read(model, latest)
        ahead = latest - datetime.now(UTC)
        if ahead > _AHEAD:
            self._say_once(
                f"there are rows of {latest:%Y-%m-%d}, from the future: set the clock of the host that writes"
            )

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)


def _spark_session() -> SparkSession:
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise ValueError("--engine spark needs PySpark: pip install 'mooring[spark]'") from None
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else workers here take whatever python3 is
    return SparkSession.builder.getOrCreate()


def pointless(thresholds: Iterable[str], baseline: Baseline) -> list[str]:
    """Return why thresholds of the form FEATURE.MEASURE never alarm, where they do not.

    >>> from mooring.drift.baseline import make
    >>> import pyarrow as pa
    >>> pointless(["sugra.ks"], make({"sugar": pa.array([1.5, 2.5])}))
    ['--threshold sugra.ks: the baseline has no feature sugra; it has: sugar']
    """
    known = {name: one for name, one in baseline.features.items() if one.role != "label"}
    found = []
    for threshold in thresholds:
        name, dot, measure = threshold.rpartition(".")
        if not dot:
            continue
        if name not in known:
            names = list(dict.fromkeys([*get_close_matches(name, known, 3), *known]))
            more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
            there = f"it has: {', '.join(names[:_NAMES])}{more}"
            found.append(f"--threshold {threshold}: the baseline has no feature {name}; {there}")
            continue
        feature = known[name]
        suits = [one for one, entry in MEASURES.items() if entry.suits(feature)]
        if measure not in suits:
            has = f"{name} is {feature.kind} and has: {', '.join(sorted(suits))}"
            found.append(f"--threshold {threshold}: no such measure suits that feature; {has}")
    return found


def _unjudged(kept: Kept) -> Written:
    return Written(kept.window, b"" if kept.profile is None else profile_to_bytes(kept.profile))


def _digest(found: Profile | Baseline | None) -> str:
    return "" if found is None else found.digest


def _echoes(verdict: Verdict | None) -> bool:
    """Whether a window drifted by so much that it shows still when it is merged with three that did not."""
    return verdict is not None and any(
        one.scale == 1 and abs(one.value or 0.0) >= SCALES[1] * min_effect(one.measure) for one in verdict.summary
    )


def _line(window: Window, verdict: Verdict) -> str:
    version = f" version {window.version}" if window.version else ""
    variant = "" if window.variant == "champion" else f" ({window.variant})"
    open_ = ", so far" if verdict.provisional else ""
    text = STATUSES[verdict.status].word
    return (
        f"{window.model}{version}{variant} {window.start:%Y-%m-%d %H:%M:%S} to {window.end:%H:%M:%S}{open_}, "
        f"{window.rows} rows: {text}{': ' if verdict.message else ''}{verdict.message}"
    )
