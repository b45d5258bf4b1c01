"""How well a model does, window by window: labels are joined to the rows of the log as they come, and judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mooring.config import MonitorSettings
from mooring.drift.baseline import Baseline, HeldOut
from mooring.drift.segments import MOST, largest, segments_of
from mooring.ids import OWN
from mooring.log import labels as label_log
from mooring.log import reader
from mooring.log.parquet import folder_name
from mooring.monitor import alerts, ingest
from mooring.monitor.baselines import Baselines
from mooring.monitor.ingest import Stream
from mooring.monitor.joining import Labelled, Rows, Truth
from mooring.monitor.metrics import Metrics
from mooring.monitor.windows import micros, moment
from mooring.performance.bootstrap import intervals
from mooring.performance.judge import MIN_EFFECT, LossTest, effective_rows, judge
from mooring.performance.measures import Scored, evaluate
from mooring.performance.scored import UnscorableError
from mooring.state.assessments import Assessment, Assessments, Measured, Segment
from mooring.state.leases import Lease
from mooring.state.objects import DoneObject, Objects
from mooring.state.repository import Transaction
from mooring.state.state import State
from mooring.state.windows import Window, Windows, final_verdict_id
from mooring.status import STATUSES, worst

if TYPE_CHECKING:
    from obstore.store import ObjectStore

GROWN = 1.5
"""How many times as many labelled rows a window needs to be judged again."""
_BATCH_ROWS = 500_000
_AT_ONCE = 200
_LOOK_UP_ROWS = 262_144
_MANY_ROWS = 50_000
_NEAR = timedelta(minutes=2)
_DAY = timedelta(days=1)
_STANDING = 100
_LATEST = 9e10
_NO_LABELS = "no labels yet"
_IDS = ("\0request_id", "\0client_request_id")


class Performance:
    """Assesses the windows of one model, as `Watch` judges them.

    Parameters
    ----------
    settings
        Of `mooring monitor`.
    state
        What was read and concluded before.
    baselines
        Where a version's baseline is found.
    channels
        Who is told of a model that does worse.
    say
        Takes a line for whoever looks on.
    metrics
        Counts for Prometheus.
    """

    def __init__(
        self,
        settings: MonitorSettings,
        state: State,
        baselines: Baselines,
        channels: Sequence[alerts.Channel],
        say: Callable[[str], None],
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._state = state
        self._baselines = baselines
        self._channels = channels
        self._say = say
        self._metrics = metrics
        self._key = ingest.log_key(settings.log) + "#labels"
        self._said: set[str] = set()

    def look(
        self,
        opened: ObjectStore,
        model: str,
        lease: Lease | None = None,
        *,
        provisional: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> int:
        """Assess the windows that new labels are of, and those that ended; return how many were.

        `provisional`: open windows too. Labels are done with when all their windows are written, so after a kill
        the next call assesses again those that were not; an assessment that is there already comes out the same.
        Raises StoreError where the log can't be read now, StateError where the state refuses.
        """
        uri = self._settings.log
        newest = Windows(self._state).history(model, newest=1)
        if not newest:
            return 0
        keep = timedelta(seconds=self._settings.keep + self._settings.grace)
        since = min(newest[0].window.end, datetime.now(UTC)) - keep
        # A label may be known by its day alone, which began before its row came.
        listed = label_log.list_label_objects(opened, uri, model, since - _DAY)
        if not listed:
            return 0
        seen = Objects(self._state).seen(model, self._key, [one.path for one in listed])
        new = [one for one in listed if one.path not in seen]
        touched, marks = self._touched(opened, model, new, since)
        waiting = [
            *Assessments(self._state).unassessed(model, since, with_open=provisional),
            *self._with_a_baseline_now(model, since),
        ]
        chosen = {one.id: one for one in (*waiting, *touched) if provisional or one.status == "closed"}
        truth = Truth(uri, model, since - _DAY, listed, self._say_once)
        written: list[Assessment] = []
        if not seen:
            # These are the first labels: windows that they are not of have none, and need not be read.
            written = [_unlabelled(chosen.pop(name)) for name in chosen.keys() - {one.id for one in touched}]
        assessed = 0
        for batch in _batches(sorted(chosen.values(), key=lambda one: one.start)):
            if stopping():
                return assessed
            for one in self._assess(model, batch, truth):
                written.append(one)
                if len(written) >= _AT_ONCE or stopping():
                    assessed += self._write(model, written, (), lease)
                    written = []
                if stopping():
                    return assessed
        return assessed + self._write(model, written, marks, lease)

    def _with_a_baseline_now(self, model: str, since: datetime) -> list[Window]:
        """Return the newest windows that were measured without a baseline, and that have one by now."""
        found = []
        for one in Assessments(self._state).history(model, start=since, newest=_STANDING):
            if one.status == "no_baseline" and not one.before:
                baseline, _ = self._baselines.of(model, one.window.version)
                if baseline is not None and baseline.performance is not None:
                    found.append(one.window)
        return found

    # Which windows labels are of

    def _touched(
        self, opened: ObjectStore, model: str, new: Sequence[reader.Object], since: datetime
    ) -> tuple[list[Window], list[DoneObject]]:
        """Return the windows that new labels are of, and which objects these were read from."""
        parts: list[pa.ChunkedArray] = []
        marks = []
        days = {one.path: one.day for one in new}
        if new:
            with ingest.telling(self._say_once):
                for path, table in label_log.read_label_objects(opened, self._settings.log, model, new):
                    parts.append(pc.unique(table["request_id"]))
                    marks.append(DoneObject(path, days[path], table.num_rows))
        if not parts:
            return [], marks
        ids = pc.unique(pa.concat_arrays([pa.array([], pa.string()), *parts]))
        found: dict[str, Window] = {}
        named = 0
        for stream, times, count in self._located(opened, model, ids, since):
            named += count
            first, last = moment(int(times.min())), moment(int(times.max()) + 1)
            there = Windows(self._state).overlapping(model, *stream, first, last)
            starts = np.array([micros(one.start) for one in there], np.int64)
            for place in np.unique(np.searchsorted(starts, times, side="right") - 1).tolist():
                if place >= 0:
                    found[there[place].id] = there[place]
        if named < len(ids):
            self._say(
                f"{len(ids) - named} of {len(ids)} requests that labels name are not in the log since "
                f"{since:%Y-%m-%d}: their rows are not captured yet, were sampled out, or the ids are others"
            )
        self._metrics.labels(model, sum(one.rows for one in marks), len(ids) - named)
        return list(found.values()), marks

    def _located(
        self, opened: ObjectStore, model: str, ids: pa.Array, since: datetime
    ) -> Iterator[tuple[Stream, NDArray[np.int64], int]]:
        """Yield when requests were received, by stream, and how many ids were found then.

        Ids of Mooring's form tell their day, and are looked for there, those that are not there in the days after
        it, and all others in every day since `since`: a client's id names all requests that have it.
        """
        own = pc.match_substring_regex(ids, OWN)
        days = _days_of(ids.filter(own))
        prefix = f"inferences/model={folder_name(model)}"
        listed = reader.list_objects(opened, self._settings.log, prefix, since)
        found = pa.array([], pa.string())
        for some, places in ((ids.filter(own), [one for one in listed if one.day in days]), (ids, listed)):
            wanted = some.filter(pc.invert(pc.is_in(some, value_set=found)))
            if not len(wanted):
                continue
            if pc.all(pc.match_substring_regex(wanted, OWN)).as_py():
                # A client's id of that form is older than its requests.
                first = min(_days_of(wanted))
                places = [one for one in places if one.day >= first]
            for _, of_day in groupby(reversed(places), key=lambda one: one.day):
                table = self._of_requests(opened, model, list(of_day), wanted)
                if not table.num_rows:
                    continue
                named = pa.concat_arrays([table[name].combine_chunks() for name in _IDS])
                named = pc.unique(named.filter(pc.is_in(named, value_set=wanted)))
                count = len(named) - (pc.sum(pc.is_in(named, value_set=found)).as_py() or 0)
                found = pc.unique(pa.concat_arrays([found, named]))
                for stream in ingest.streams_in(table):
                    times = ingest.of_stream(table, stream)["\0time"].cast(pa.int64()).to_numpy()
                    yield stream, times, count
                    count = 0

    def _of_requests(
        self, opened: ObjectStore, model: str, objects: Sequence[reader.Object], ids: pa.Array
    ) -> pa.Table:
        """Return the rows of the requests that ids name, each with whose it is and when it was received."""
        columns = {name: (name[1:],) for name in (*_IDS, *ingest.OWN[:3])}
        with ingest.telling(self._say_once):
            found = reader.found_in(opened, self._settings.log, model, objects)
            tables = (table for _, table in reader.tables(found, columns))
            parts = [_of_requests(table, ids) for table in label_log.together(tables, _LOOK_UP_ROWS)]
        return pa.concat_tables(parts) if parts else pa.table({})

    # What they say of them

    def _assess(self, model: str, batch: Sequence[Window], truth: Truth) -> Iterator[Assessment]:
        """Yield the assessments of windows, whose rows are read together."""
        uri = self._settings.log
        first, last = min(one.start for one in batch), max(one.end for one in batch)
        with ingest.telling(self._say_once):
            found = reader.find(uri, model=model, start=first, end=last)
            rows = Rows.read(found, self._settings.segment)
        labelled = truth.of(rows)
        for window in batch:
            baseline, _ = self._baselines.of(model, window.version)
            known = Assessments(self._state).history(
                model,
                version=window.version,
                variant=window.variant,
                start=window.start,
                end=window.start + timedelta(microseconds=1),
                newest=1,
            )
            chosen = rows.of(window)
            yield self._assessed(window, known[0] if known else None, chosen, labelled.of(chosen), rows, baseline)

    def _assessed(
        self,
        window: Window,
        known: Assessment | None,
        chosen: NDArray[np.bool_],
        labelled: Labelled,
        rows: Rows,
        baseline: Baseline | None,
    ) -> Assessment:
        before = baseline.performance if baseline is not None else None
        told = Assessment(
            window=window,
            status="too_few",
            rows=window.rows,
            labelled=len(labelled.places),
            delay=labelled.delay(rows.times),
            created=datetime.now(UTC),
            before=before.measures if before is not None else {},
        )
        if not len(labelled.places):
            return msgspec.structs.replace(told, message=_NO_LABELS, tracked=told.created)
        try:
            scored = rows.scored(labelled, before.task, before.classes) if before else rows.scored(labelled)
        except UnscorableError as error:
            return msgspec.structs.replace(told, status="no_baseline", message=str(error), tracked=told.created)
        seed = int(window.id[:8], 16) % 2**31
        parts = list(self._segments(chosen, labelled, rows, scored, baseline))
        told = msgspec.structs.replace(
            told,
            task=scored.task,
            measures=measured(scored, seed),
            segments=tuple(_as_known(part.segment, known) for part in parts),
        )
        if known is not None and known.look and scored.rows < GROWN * known.judged:
            # Judged again with each label that comes, an unchanged window would alarm some time.
            kept = ("look", "status", "chance", "budget", "message", "judged", "created")
            tracked = known.tracked if known.labelled == told.labelled or told.coverage < 1 else None
            return msgspec.structs.replace(told, tracked=tracked, **{name: getattr(known, name) for name in kept})
        worth = effective_rows(scored)
        if worth < self._settings.min_rows:
            less = len(labelled.places) - scored.rows
            message = (
                f"{scored.rows} rows with labels, worth {worth:.0f} independent ones: fewer than the "
                f"{self._settings.min_rows:g} wanted"
                f"{f'; {less} others have no usable prediction or label' if less else ''}"
            )
            return msgspec.structs.replace(told, message=message, tracked=told.created)
        if before is None or before.task != scored.task:
            return msgspec.structs.replace(told, status="no_baseline", message=_no_baseline(window, baseline))
        look = known.look + 1 if known is not None else 1
        # All looks together keep to the budget: 1/2 + 1/4 + 1/8 + … Half of it is the segments', if there are any.
        budget = self._settings.budget / 2**look
        among = sum(part.before is not None for part in parts)
        share = budget / 2 if among else budget
        found = judge(before, scored, share, seed + look, floors=self._settings.floors)
        judged = [self._judged(part, share / max(among, 1), seed + look) for part in parts]
        statuses = [found.status, *(one.status for one, _ in judged if one.status)]
        return msgspec.structs.replace(
            told,
            look=look,
            status=worst(statuses),
            chance=found.p_value,
            budget=share,
            judged=scored.rows,
            message="; ".join([in_words(found, before), *(words for _, words in judged if words)]),
            segments=tuple(one for one, _ in judged),
        )

    def _judged(self, part: _Part, budget: float, seed: int) -> tuple[Segment, str]:
        """Return a segment with how it stands, and words where it does worse."""
        segment, scored, before = part
        if before is None:
            return segment, ""
        found = judge(before, scored, budget, seed, floors=self._settings.floors)
        told = msgspec.structs.replace(segment, status=found.status, chance=found.p_value)
        bad = found.status != "ok"
        return told, f"{segment.column}={segment.value}: {in_words(found, before)}" if bad else ""

    def _segments(
        self,
        chosen: NDArray[np.bool_],
        labelled: Labelled,
        rows: Rows,
        whole: Scored,
        baseline: Baseline | None,
    ) -> Iterator[_Part]:
        """Yield how the model did in each segment that has enough rows with labels."""
        for column, values in rows.segments.items():
            known = baseline.segments.get(column, {}) if baseline is not None else {}
            feature = baseline.features.get(column) if baseline is not None else None
            names = segments_of(values, feature)
            counted = names[chosen]
            for value in largest(names[labelled.places], self._settings.min_rows, MOST):
                part = labelled.only(names[labelled.places] == value)
                try:
                    scored = rows.scored(part, whole.task, whole.classes)
                except UnscorableError:
                    continue  # said of the window, if it is all of it
                if effective_rows(scored) >= self._settings.min_rows:
                    segment = Segment(
                        column=column,
                        value=value,
                        rows=int(np.count_nonzero(counted == value)),
                        labelled=len(part.places),
                        measures=measured(scored, 0),
                    )
                    before = known[value].performance if value in known else None
                    comparable = before is not None and before.task == scored.task
                    yield _Part(segment, scored, before if comparable else None)

    # Writing

    def _write(
        self, model: str, written: Sequence[Assessment], marks: Iterable[DoneObject], lease: Lease | None
    ) -> int:
        """Write assessments, what is worth telling of them, and which labels are done with, all at once."""
        before = self._standing(model, written)
        with self._state.begin(lease) as tx:
            for one in written:
                Assessments(tx).put(one)
            Objects(tx).mark_done(model, self._key, marks)
            self._call(tx, before, written)
        for one in written:
            self._metrics.assessed(one)
            if one.labelled:
                self._say(_line(one))
        return len(written)

    def _standing(self, model: str, written: Sequence[Assessment]) -> dict[Stream, list[Assessment]]:
        """Return the newest assessments of the streams that are written."""
        streams = {Stream(one.window.version, one.window.variant) for one in written}
        return {
            stream: Assessments(self._state).history(
                model, version=stream.version, variant=stream.variant, status="closed", newest=_STANDING
            )
            for stream in sorted(streams, key=lambda one: (one.version or "", one.variant))
        }

    def _call(self, tx: Transaction, known: dict[Stream, list[Assessment]], written: Sequence[Assessment]) -> None:
        """Put the alerts that new assessments are worth in the queue: what stands now and did not before."""
        n, m = (int(part) for part in self._settings.alert_windows.split("/"))
        for stream, old in known.items():
            new = [one for one in written if Stream(one.window.version, one.window.variant) == stream]
            closed = [one for one in new if one.window.status == "closed"]
            after = {one.window.id: one for one in (*old, *closed)}
            ordered = sorted(after.values(), key=lambda one: one.window.start)[-_STANDING:]
            earlier = {one.window.id: one.status for one in old}
            was = alerts.standing_of([earlier.get(one.window.id, "too_few") for one in ordered], n, m)
            now = alerts.standing_of([one.status for one in ordered], n, m)
            kind, _ = alerts.transition(was, now)
            about = [one for one in ordered if one in closed and one.look]
            verdict = Windows(self._state).judged(final_verdict_id(about[-1].window)) if about else None
            if kind is not None and verdict is not None:
                alerts.enqueue_performance(
                    tx, kind, about[-1], verdict, self._channels, report=self._settings.report
                )

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)


class _Part(NamedTuple):
    """A segment of a window, its labelled rows, and the baseline's held-out rows of it, where it has any."""

    segment: Segment
    scored: Scored
    before: HeldOut | None


def _as_known(segment: Segment, known: Assessment | None) -> Segment:
    """Return a segment as it stood at the last look."""
    for one in known.segments if known is not None else ():
        if (one.column, one.value) == (segment.column, segment.value):
            return msgspec.structs.replace(segment, status=one.status, chance=one.chance)
    return segment


def measured(scored: Scored, seed: int) -> dict[str, Measured]:
    """Return all measures with their intervals."""
    around = intervals(scored, draws=1000 if scored.rows <= _MANY_ROWS else 200, seed=seed)
    return {name: Measured(value, *around.get(name, (None, None))) for name, value in evaluate(scored).items()}


def in_words(found: LossTest, before: HeldOut) -> str:
    """Say in a line how the measure that is judged stands to what it was."""
    where = before.about.partition(":")[0] or "held-out rows"
    if found.status == "ok" and found.change < MIN_EFFECT:
        return f"{found.measure} {found.value:.4g}, {found.reference:.4g} on {where}"
    what = "more errors" if found.measure == "accuracy" else "worse"
    share = f"{found.change:.0%} {what}" if np.isfinite(found.change) else what
    chance = ", which may be chance" if found.status == "ok" else ""
    return f"{found.measure} {found.value:.4g}, {share} than {found.reference:.4g} on {where}{chance}"


def _unlabelled(window: Window) -> Assessment:
    now = datetime.now(UTC)
    return Assessment(
        window=window, status="too_few", rows=window.rows, labelled=0, message=_NO_LABELS, created=now, tracked=now
    )


def _no_baseline(window: Window, baseline: Baseline | None) -> str:
    version = f"version {window.version} of {window.model}" if window.version else window.model
    if baseline is None:
        return f"{version} has no baseline that its performance could be compared with"
    if baseline.performance is not None:
        return (
            f"the baseline of {version} is of a {baseline.performance.task}, and these labels are not: add them "
            "as the training data has them"
        )
    why_not = baseline.about.get("performance")
    return (
        f"the baseline of {version} does not say how well it did{f' ({why_not})' if why_not else ''}: log it with "
        "mooring.log_baseline(…, evaluation=(labels, predictions)) of held-out rows"
    )


def _line(one: Assessment) -> str:
    window = one.window
    version = f" version {window.version}" if window.version else ""
    variant = "" if window.variant == "champion" else f" ({window.variant})"
    return (
        f"{window.model}{version}{variant} {window.start:%Y-%m-%d %H:%M:%S} to {window.end:%H:%M:%S}, "
        f"{one.labelled} of {one.rows} rows labelled: performance {STATUSES[one.status].labelled}: {one.message}"
    )


def _batches(windows: Sequence[Window]) -> Iterator[list[Window]]:
    """Yield windows that are read together: near each other, and not too many rows."""
    batch: list[Window] = []
    rows = 0
    for window in windows:
        far = bool(batch) and window.start - batch[-1].end > timedelta(days=1)
        if batch and (far or rows + window.rows > _BATCH_ROWS):
            yield batch
            batch, rows = [], 0
        batch.append(window)
        rows += window.rows
    if batch:
        yield batch


def _days_of(ids: pa.Array) -> set[date]:
    """Return the days on which ids of Mooring's form can have been made: they tell it to about a minute."""
    days = set()
    for text in pc.unique(pc.utf8_slice_codeunits(ids, 0, 8)).to_pylist():
        at = min((int(text, 16) << 16) / 1000, _LATEST)
        days |= {(datetime.fromtimestamp(at, UTC) + near).date() for near in (-_NEAR, _NEAR)}
    return days


def _of_requests(table: pa.Table, ids: pa.Array) -> pa.Table:
    found = [pc.is_in(table[name], value_set=ids) for name in _IDS]
    there = pc.and_(pc.is_valid(table["\0time"]), pc.is_valid(table["\0variant"]))
    return table.filter(pc.and_(there, pc.or_(*found)))
