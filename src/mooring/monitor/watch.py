"""The monitor's work: read what is new in the log, add it to its windows, judge those that ended."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from mooring.config import MonitorSettings
from mooring.drift.baseline import Baseline, profile_from_bytes, profile_to_bytes
from mooring.drift.grid import Integers
from mooring.drift.profile import Profile, profile
from mooring.drift.stored import FormatError
from mooring.log import reader
from mooring.log.parquet import folder_name
from mooring.monitor import alerts, windows
from mooring.monitor.baselines import Baselines
from mooring.monitor.judging import Concluded, conclude
from mooring.monitor.leases import Lease
from mooring.monitor.metrics import Metrics
from mooring.monitor.schema import Status, Verdict, Window
from mooring.monitor.state import Done, State, Transaction
from mooring.monitor.windows import Lengths, Piece

CHUNK_ROWS = 250_000
_MERGED = 15
_OLD = timedelta(days=1)
_OWN = ("time", "model_version", "variant", "request_rows", "misfits")
_FOREVER = datetime(9999, 1, 1, tzinfo=UTC)

if TYPE_CHECKING:
    from obstore.store import ObjectStore
    from pyspark.sql import SparkSession

Say = Callable[[str], None]


class Stream(NamedTuple):
    """What is judged apart: the rows of one version and variant of a model."""

    version: str | None
    variant: str


class Kept(NamedTuple):
    """A window and the profile of its rows; None where there is no baseline to make one for."""

    window: Window
    profile: Profile | None


class Watch:
    """Watches one model's log.

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
        self._spark = _spark_session() if settings.engine == "spark" else None
        self._chunk: list[str] = []
        self._alone: dict[str, bool] = {}
        n, m = settings.alert_windows.split("/")
        self._n, self._m = int(n), int(m)
        self._lengths = Lengths(int(settings.window * 1e6), settings.window_rows, int(settings.grace * 1e6))

    def look(self, lease: Lease | None = None, *, provisional: bool = False) -> int:
        """Read what is new and judge what ended, and return how many windows were judged.

        `provisional`: the open windows are judged too, as they are now. What was done is written chunk by chunk,
        each whole or not at all, so after a kill the next call goes on where this one was. Raises LogError where
        there is no log, StoreError where it can't be read now, StateError where the state refuses.
        """
        uri = self._settings.log
        opened = reader.open_log(uri)
        model = reader.only_model(opened, uri, self._settings.model)
        judged = self._catch_up(model, lease)
        for chunk, unreadable in self._new(opened, uri, model):
            judged += self._take(model, chunk, unreadable, lease)
        judged += self._close(model, lease)
        if provisional:
            judged += self._judge_open(model, lease)
        for newest in self._state.history(model, newest=1):
            with self._state.begin(lease) as tx:
                tx.prune(model, newest.window.end - timedelta(seconds=self._settings.keep + self._settings.grace))
        return judged

    # What is new

    def _new(
        self, opened: ObjectStore, uri: str, model: str
    ) -> Iterator[tuple[reader.Found, list[reader.Object]]]:
        """Yield the objects that are not done by their rows' time, a chunk at a time; last the unreadable."""
        newest = self._state.newest_day(model, uri)
        start = None
        if newest is not None:
            start = reader.midnight(newest) - timedelta(days=1, seconds=self._settings.grace)
        listed = reader.list_objects(opened, uri, f"inferences/model={folder_name(model)}", start)
        seen = self._state.seen(model, uri, [one.path for one in listed])
        new = [one for one in listed if one.path not in seen]
        if not new:
            return
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", reader.LogWarning)
            found = reader.found_in(opened, uri, model, new)
        for warning in caught:
            self._say(f"{warning.message}. Remove it, or mend it and give it another name")
        order = sorted(found.fragments, key=lambda path: (_first_time(found.fragments[path]), path))
        chunk: list[str] = []
        rows = 0
        for path in order:
            chunk.append(path)
            rows += found.fragments[path].metadata.num_rows
            if rows >= CHUNK_ROWS:
                yield _part(found, chunk), []
                chunk, rows = [], 0
        left = [one for one in new if one.path not in found.fragments]
        if chunk or left:
            yield _part(found, chunk), left

    def _take(self, model: str, found: reader.Found, unreadable: list[reader.Object], lease: Lease | None) -> int:
        """Add the rows of a chunk to their windows, judge those that ended, and write it all."""
        columns = _columns(found.schema, features=self._spark is None)
        self._alone.clear()  # what was written is asked for again
        parts, done = [], {}
        for path, table in reader.tables(found, columns):
            parts.append(table)
            done[path] = table.num_rows
        written: list[tuple[Kept, Concluded | None]] = []
        if parts:
            table = pa.concat_tables(parts)
            del parts
            self._chunk = list(done)
            latest = _moment(pc.max(table["\0time"]).as_py())
            self._note_time(model, latest)
            for stream, rows in _streams(table):
                written += self._divide(model, stream, rows)
        marks = [Done(path, one.day, done.get(path, 0)) for path, one in found.objects.items()]
        marks += [Done(one.path, one.day, 0) for one in unreadable]
        with self._state.begin(lease) as tx:
            tx.mark_done(model, self._settings.log, marks)
            for kept, concluded in written:
                self._write(tx, kept, concluded)
        return sum(concluded is not None for _, concluded in written)

    def _divide(self, model: str, stream: Stream, rows: pa.Table) -> list[tuple[Kept, Concluded | None]]:
        """Return the windows that a stream's new rows go to, each with its verdict where it ended."""
        times: Integers = rows["\0time"].cast(pa.int64()).to_numpy()
        first = windows.moment(int(times[0]) - int(times[0]) % self._lengths.length - 1)
        known = self._state.overlapping(model, *stream, first, _FOREVER)
        baseline, _ = self._baselines.of(model, stream.version)
        shelf = self._shelf(known)
        written: list[tuple[Kept, Concluded | None]] = []
        for place, window in enumerate(known):
            kept = shelf[window.id]
            if window.status == "open" and _digest(kept.profile) != _digest(baseline):
                # The baseline is another now: what was counted on its grid stays apart.
                closed = Kept(msgspec.structs.replace(window, status="closed"), kept.profile)
                known[place], shelf[window.id] = closed.window, closed
                written.append((closed, self._conclude(closed, shelf)))
        blank = Window(model=model, version=stream.version, variant=stream.variant, start=_FOREVER, end=_FOREVER)
        too_late = 0
        for piece in windows.cut(times, known, blank, self._lengths):
            before = shelf.get(piece.window.id)
            if piece.too_late:
                too_late += piece.last - piece.first
                assert before is not None
                kept = Kept(piece.window, before.profile)
            else:
                kept = self._grown(piece, rows, before, baseline, stream)
            shelf[piece.window.id] = kept
            concluded = None
            if piece.window.status == "closed" and not piece.too_late:
                concluded = self._conclude(kept, shelf)
            written.append((kept, concluded))
        if too_late:
            self._say(
                f"{too_late} rows came later than --grace after their window, and are counted but not judged"
            )
        return written

    # What ended

    def _close(self, model: str, lease: Lease | None) -> int:
        """Judge the open windows whose time is over, or behind which others have begun."""
        closed = 0
        now = windows.micros(datetime.now(UTC) - timedelta(seconds=self._settings.settle))
        for window in self._open(model):
            later = self._state.overlapping(model, window.version, window.variant, window.end, _FOREVER)
            over = windows.close(window, self._lengths, windows.micros(later[0].start) if later else now)
            if over is None:
                continue
            shelf = self._shelf([window])
            kept = Kept(over, shelf[window.id].profile)
            shelf[window.id] = kept
            with self._state.begin(lease) as tx:
                self._write(tx, kept, self._conclude(kept, shelf))
            closed += 1
        return closed

    def _judge_open(self, model: str, lease: Lease | None) -> int:
        judged = 0
        for window in self._open(model):
            shelf = self._shelf([window])
            kept = shelf[window.id]
            with self._state.begin(lease) as tx:
                self._write(tx, kept, self._conclude(kept, shelf, provisional=True))
            judged += 1
        return judged

    def _open(self, model: str) -> list[Window]:
        return [judged.window for judged in self._state.history(model, status="open", newest=10_000)]

    def _catch_up(self, model: str, lease: Lease | None) -> int:
        """Judge the windows that had no baseline and have one now, from the log."""
        judged = 0
        for watched in self._state.models():
            if watched.model != model:
                continue
            baseline, _ = self._baselines.of(model, watched.version)
            if baseline is None:
                continue
            past = self._state.history(model, version=watched.version, variant=watched.variant, newest=10_000)
            for window, verdict in past:
                if window.status != "closed" or verdict is None or verdict.status != "no_baseline":
                    continue
                found = self._read_again(window, baseline)
                kept = Kept(msgspec.structs.replace(window, revision=window.revision + 1), found)
                shelf = self._shelf([window])
                shelf[window.id] = kept
                with self._state.begin(lease) as tx:
                    self._write(tx, kept, self._conclude(kept, shelf))
                judged += 1
        return judged

    def _read_again(self, window: Window, baseline: Baseline) -> Profile:
        """Return the profile of a closed window's rows, of those objects that are done."""
        uri = self._settings.log
        found = reader.find(uri, model=window.model, start=window.start, end=window.end, version=window.version)
        seen = self._state.seen(window.model, uri, found.objects)
        found = _part(found, [path for path in found.fragments if path in seen])
        parts = (
            table.filter(_of_stream(table, Stream(window.version, window.variant)))
            for _, table in reader.tables(found, _columns(found.schema))
        )
        return profile(map(_named, parts), baseline.grids, request_rows="\0request_rows", misfits="\0misfits")

    # Verdicts

    def _conclude(self, kept: Kept, shelf: dict[str, Kept], *, provisional: bool = False) -> Concluded:
        window = kept.window
        baseline, digest = self._baselines.of(window.model, window.version)
        if kept.profile is None or baseline is None or kept.profile.digest != baseline.digest:
            baseline = None
            profiles = []
        else:
            profiles = [kept.profile, *self._before(window, baseline, shelf)]
        why_not = self._baselines.why_not(window.model, window.version)
        concluded = conclude(
            window,
            profiles,
            baseline,
            self._settings,
            provisional=provisional,
            digest=digest if baseline else None,
            why_not=why_not,
        )
        self._alone[window.id] = _drifted_alone(concluded.verdict)
        return concluded

    def _before(self, window: Window, baseline: Baseline, shelf: dict[str, Kept]) -> list[Profile]:
        """Return the profiles of the windows before one, newest first, as many as are merged with it.

        Merging looks for what no window shows alone, so it stops at one that did: else a drift that is over would
        be found again in the next fifteen windows.
        """
        past = self._state.history(
            window.model, version=window.version, variant=window.variant, end=window.start, newest=_MERGED
        )
        missing = [judged.window for judged in past if judged.window.id not in shelf]
        shelf |= self._shelf(missing)
        earlier = sorted(
            (kept for kept in shelf.values() if kept.window.start < window.start),
            key=lambda kept: kept.window.start,
            reverse=True,
        )
        alone = {one.window.id: _drifted_alone(one.verdict) for one in past} | self._alone
        found = []
        for kept in earlier[:_MERGED]:
            if kept.profile is None or kept.profile.digest != baseline.digest or alone.get(kept.window.id):
                break
            found.append(kept.profile)
        return found

    def _shelf(self, known: Iterable[Window]) -> dict[str, Kept]:
        """Return windows by id with their profiles, as far as those are kept and can be read."""
        by_id = {window.id: window for window in known}
        shelf = {name: Kept(window, None) for name, window in by_id.items()}
        for name, data in self._state.profiles(by_id).items():
            if data:
                try:
                    shelf[name] = Kept(by_id[name], profile_from_bytes(data))
                except FormatError as error:
                    self._say(
                        f"the window from {by_id[name].start:%Y-%m-%d %H:%M} is left out of those merged: {error}"
                    )
        return shelf

    def _write(self, tx: Transaction, kept: Kept, concluded: Concluded | None) -> None:
        data = b"" if kept.profile is None else profile_to_bytes(kept.profile)
        window = tx.put_window(kept.window, data)
        if concluded is None:
            return
        verdict = concluded.verdict
        if not tx.put_verdict(verdict, concluded.results):
            return
        self._say(_line(window, concluded))
        if verdict.provisional:
            return
        values = concluded.judgement.results if concluded.judgement else []
        self._metrics.judged(
            window, verdict, [(one.feature, one.measure, one.value) for one in values if one.scale == 1]
        )
        statuses = tx.statuses(window.model, window.version, window.variant, 2 * self._m + 10)
        # What is long past is known, but nobody is called for it.
        news = datetime.now(UTC) - window.end < _OLD + timedelta(seconds=self._settings.grace)
        alerts.enqueue(tx, window, verdict, statuses, self._channels if news else [], n=self._n, m=self._m)

    def _grown(
        self, piece: Piece, rows: pa.Table, before: Kept | None, baseline: Baseline | None, stream: Stream
    ) -> Kept:
        """Return a window with its new rows."""
        part = rows.slice(piece.first, piece.last - piece.first)
        counts = part["\0request_rows"].to_numpy()
        window = msgspec.structs.replace(
            piece.window,
            requests=piece.window.requests + round(float(np.sum(1.0 / np.maximum(counts, 1)))),
            weight=piece.window.weight + int(counts.sum()),
        )
        of_another = before is not None and before.window.rows and _digest(before.profile) != _digest(baseline)
        if baseline is None or of_another:
            return Kept(window, None if before is None else before.profile)
        found = self._profile(part, baseline, stream)
        if before is not None and before.profile is not None:
            found = before.profile + found
        return Kept(window, found)

    def _profile(self, part: pa.Table, baseline: Baseline, stream: Stream) -> Profile:
        """Return the profile of a stream's rows, which are by their time, of the objects read now."""
        if self._spark is None:
            return profile([_named(part)], baseline.grids, request_rows="\0request_rows", misfits="\0misfits")
        from mooring.engine.spark import profile_of_objects

        times = part["\0time"]
        return profile_of_objects(
            self._spark,
            self._settings.log,
            self._chunk,
            baseline,
            start=_moment(times[0].as_py()),
            end=_moment(times[-1].as_py()) + timedelta(microseconds=1),
            version=stream.version,
            variant=stream.variant,
        )

    def _note_time(self, model: str, latest: datetime) -> None:
        self._metrics.read(model, latest)
        ahead = latest - datetime.now(UTC)
        if ahead > timedelta(minutes=5):
            self._say(f"there are rows of {ahead} from now: set the clock of the host that writes them")


def _columns(schema: pa.Schema, *, features: bool = True) -> dict[str, tuple[str, ...]]:
    """Return the log's own columns, by names that no feature has, and the features as a flat table has them."""
    own = {f"\0{name}": path for name, path in reader.choose(schema, _OWN, flat=False).items()}
    return own | reader.choose(schema, None, flat=True) if features else own


def _spark_session() -> SparkSession:
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise ValueError("--engine spark needs PySpark: pip install 'mooring[spark]'") from None
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else workers here take whatever python3 is
    return SparkSession.builder.getOrCreate()


def _named(table: pa.Table) -> pa.Table:
    """Return a table without the log's own columns that a profile has no use for."""
    return table.drop_columns(["\0time", "\0model_version", "\0variant"])


def _streams(table: pa.Table) -> Iterator[tuple[Stream, pa.Table]]:
    """Yield the rows of each version and variant, by their time."""
    names = ["\0model_version", "\0variant"]
    for one in (
        table.select(names)
        .group_by(names)
        .aggregate([])
        .sort_by([(name, "ascending") for name in names])
        .to_pylist()
    ):
        stream = Stream(*(one[name] for name in names))
        rows = table.filter(_of_stream(table, stream))
        yield stream, rows.take(pc.sort_indices(rows["\0time"])).combine_chunks()


def _of_stream(table: pa.Table, stream: Stream) -> pa.ChunkedArray:
    version = table["\0model_version"]
    same = pc.is_null(version) if stream.version is None else pc.equal(version, stream.version)
    return pc.fill_null(pc.and_(same, pc.equal(table["\0variant"], stream.variant)), False)


def _part(found: reader.Found, paths: Iterable[str]) -> reader.Found:
    chosen = list(paths)
    return found._replace(
        objects={path: found.objects[path] for path in chosen},
        fragments={path: found.fragments[path] for path in chosen},
    )


def _first_time(fragment: ds.ParquetFileFragment) -> int:
    """Return when an object's first row was received, in microseconds, by its statistics; 0 if it has none."""
    metadata = fragment.metadata
    found = []
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            one = metadata.row_group(group).column(column)
            if one.path_in_schema == "time":
                if one.statistics is not None and one.statistics.has_min_max:
                    found.append(windows.micros(_moment(one.statistics.min)))
                break
    return min(found, default=0)


def _moment(value: datetime) -> datetime:
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


def _digest(found: Profile | Baseline | None) -> str:
    return "" if found is None else found.digest


def _drifted_alone(verdict: Verdict | None) -> bool:
    return verdict is not None and any(finding.scale == 1 for finding in verdict.summary)


def _line(window: Window, concluded: Concluded) -> str:
    verdict = concluded.verdict
    version = f" version {window.version}" if window.version else ""
    variant = "" if window.variant == "champion" else f" ({window.variant})"
    open_ = ", so far" if verdict.provisional else ""
    says: dict[Status, str] = {"too_few": "too few rows", "no_baseline": "no baseline"}
    text = says.get(verdict.status, verdict.status)
    return (
        f"{window.model}{version}{variant} {window.start:%Y-%m-%d %H:%M:%S} to {window.end:%H:%M:%S}{open_}, "
        f"{window.rows} rows: {text}{': ' if verdict.message else ''}{verdict.message}"
    )
