"""What is new in a model's log: its objects, a chunk at a time, and in each chunk the rows of each stream."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from mooring.drift.baseline import Baseline
from mooring.drift.grid import Integers
from mooring.drift.profile import Profile, empty, profile
from mooring.engine.local import of_inputs_alone
from mooring.log import listing, reader
from mooring.log.schema import ARROW, TIME
from mooring.log.store import StoreError
from mooring.monitor.new_objects import NewObjects
from mooring.monitor.windows import micros
from mooring.state.windows import Window

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CHUNK_ROWS = 250_000
CHUNK_VALUES = 6_000_000
OWN = ("\0time", "\0model_version", "\0variant", "\0row", "\0request_rows", "\0misfits", "\0unanswered")
"""The log's own columns, by names that no feature of a baseline has."""
REQUEST_ID = "\0request_id"
_PROFILED = {"request_rows": "\0request_rows", "misfits": "\0misfits", "time": "\0time", "row": "\0row"}
_NEVER = 2**62

logger = logging.getLogger(__name__)


class Stream(NamedTuple):
    """What is checked apart: the rows of one version and variant of a model."""

    version: str | None
    variant: str


def done_of(objects: NewObjects, window: Window, more: Collection[str] = ()) -> reader.LogObjects:
    """Return the objects of a window's days that are done, or are among these `more`."""
    start, end = (listing.midnight(one.date()) for one in (window.start, window.end))
    found = reader.find(objects.log, model=objects.model, start=start, end=end + timedelta(days=1))
    listing.log_skipped(found.skipped)
    done = objects.done_among(found.objects) | set(more)
    return part_of(found, [path for path in found.fragments if path in done])


def chunks(opened: ObjectStore, uri: str, model: str, new: Iterable[listing.Object]) -> Iterator[Chunk]:
    """Yield objects by their rows' time, as many at once as fit into memory; `new` are in the order of their days.

    One that can't be read is left out, and logged. A shadow's rows, which are copies of others, are left out, too.
    Raises StoreError where the log can't be read now.
    """
    for _, of_day in groupby(new, key=lambda one: one.day):
        found = reader.found_in(opened, uri, model, list(of_day))
        listing.log_skipped(found.skipped)
        order = sorted(found.fragments, key=lambda path: (_first_time(found.fragments[path]), path))
        width = _width(found)
        paths: list[str] = []
        rows = 0
        for path in order:
            more = found.fragments[path].metadata.num_rows
            if paths and (rows >= CHUNK_ROWS or (rows + more) * width > CHUNK_VALUES):
                yield Chunk(found, paths)
                paths, rows = [], 0
            paths.append(path)
            rows += more
        if paths:
            yield Chunk(found, paths)


class Chunk:
    """Objects of the log that are read together. Of one that is too large, parts are read
    when they are needed.

    `objects` are those that could be read, each with its number of rows, as far as `streams` came.
    """

    def __init__(self, found: reader.LogObjects, paths: Iterable[str]) -> None:
        self._found = part_of(found, paths)
        self.objects: dict[str, int] = {}

    @property
    def days(self) -> dict[str, date]:
        """The days of the objects."""
        return {path: one.day for path, one in self._found.objects.items()}

    def streams(self, *, features: bool = True) -> Iterator[StreamRows]:
        """Yield the rows of each stream; without `features` only the log's own columns are read."""
        columns = _columns(self._found.schema)
        rows = sum(fragment.metadata.num_rows for fragment in self._found.fragments.values())
        whole = features and rows * _width(self._found) <= CHUNK_VALUES
        wanted = columns if whole else {name: path for name, path in columns.items() if name in OWN}
        parts = []
        for path, table in reader.tables(self._found, wanted):
            self.objects[path] = table.num_rows
            parts.append(_usable(path, table))
        listing.log_skipped(self._found.skipped)
        if not parts:
            return
        table = pa.concat_tables(parts)
        del parts
        again = None if whole else part_of(self._found, self.objects)
        for stream in streams_in(table):
            yield StreamRows(stream, _by_time(of_stream(table, stream)), self.objects, again)


class StreamRows:
    """The rows of a stream in a chunk, by their time: when they were received, in how large a request each.

    `objects` are those of the chunk. `again` is where rows are read again by and by, where only the log's own
    columns are there already.
    """

    def __init__(
        self, stream: Stream, table: pa.Table, objects: Collection[str], again: reader.LogObjects | None
    ) -> None:
        self.stream = stream
        self.objects = objects
        self.times: Integers = table["\0time"].cast(pa.int64()).to_numpy()
        self.request_rows: Integers = table["\0request_rows"].to_numpy()
        self._again = again
        self._table = table if again is None else table.slice(0, 0)
        self._first = 0

    def part(self, first: int, last: int) -> pa.Table:
        """Return the rows `first` to before `last` for a profile; no row of another time is between them."""
        if last > self._first + self._table.num_rows:
            self._read(first, last)
        return named(self._table.slice(first - self._first, last - first))

    def _read(self, first: int, last: int) -> None:
        assert self._again is not None
        columns = _columns(self._again.schema)
        enough = max(last, min(first + CHUNK_VALUES // _width(self._again), len(self.times))) - 1
        enough = int(self.times.searchsorted(self.times[enough], side="right"))
        time = pc.field("time")
        start, end = (pa.scalar(int(self.times[at]), pa.int64()).cast(TIME) for at in (first, enough - 1))
        self._table = self._table.slice(0, 0)
        found = self._again._replace(filter=(time >= start) & (time <= end))
        parts = [_usable(path, table) for path, table in reader.tables(found, columns)]
        self._table = _by_time(of_stream(pa.concat_tables(parts), self.stream))
        self._first = first
        if self._table.num_rows != enough - first:
            raise StoreError("an object of the log vanished while it was read")


def between(
    found: reader.LogObjects, stream: Stream, start: datetime, end: datetime, *, ids: bool = False
) -> Iterator[pa.Table]:
    """Yield the rows of a stream from `start` on and before `end`, for a profile; with `ids` of their requests."""
    first, last = micros(start), micros(end)
    paths = [path for path, one in found.fragments.items() if _first_time(one) < last and _last_time(one) >= first]
    time, of_time = pc.field("time"), [pa.scalar(one, pa.int64()).cast(TIME) for one in (first, last)]
    part = part_of(found, paths)._replace(filter=(time >= of_time[0]) & (time < of_time[1]))
    own = {REQUEST_ID: (REQUEST_ID[1:],)} if ids else {}
    for path, table in reader.tables(part, {**_columns(found.schema), **own}):
        yield named(of_stream(_usable(path, table), stream))


def of_stream(table: pa.Table, stream: Stream) -> pa.Table:
    """Return the rows of a stream."""
    same = pc.equal(pc.fill_null(table["\0model_version"], ""), stream.version or "")
    there = pc.and_(same, pc.fill_null(pc.equal(table["\0variant"], stream.variant), False))
    return table if pc.all(there).as_py() else table.filter(there)


def named(table: pa.Table) -> pa.Table:
    """Return a table without the log's own columns that a profile has no use for."""
    return table.drop_columns(["\0model_version", "\0variant"])


def profile_of(parts: Iterable[pa.Table], baseline: Baseline) -> Profile:
    """Return the profile of rows on a baseline's grids; of rows without an output, of their inputs alone."""
    unanswered = empty(baseline.grids, baseline.digest)

    def answered() -> Iterator[pa.Table]:
        nonlocal unanswered
        for table in parts:
            alone = pc.is_valid(table["\0unanswered"])
            table = table.drop_columns(["\0unanswered"])
            if pc.any(alone).as_py():
                others = profile([table.filter(alone)], baseline.grids, digest=baseline.digest, **_PROFILED)
                unanswered += of_inputs_alone(others, baseline)
                table = table.filter(pc.invert(alone))
            yield table

    return profile(answered(), baseline.grids, digest=baseline.digest, **_PROFILED) + unanswered


def part_of(found: reader.LogObjects, paths: Iterable[str]) -> reader.LogObjects:
    """Return some of the objects."""
    chosen = list(paths)
    return found._replace(
        objects={path: found.objects[path] for path in chosen},
        fragments={path: found.fragments[path] for path in chosen},
    )


def _columns(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Return the features as a flat table has them, and the log's own columns by names that begin with NUL."""
    own = {name: (name[1:],) for name in OWN}
    return {**reader.choose(schema, None, flat=True), **own}


def _width(found: reader.LogObjects) -> int:
    """Return how many values a row has in all: one in each column, but many in a tensor."""
    columns = len(_columns(found.schema))
    parts = [found.schema.field(part).type for part in ("input", "output") if part in found.schema.names]
    if not any(field.type == ARROW["tensor"] for part in parts for field in part):
        return columns
    metadata = [fragment.metadata for fragment in found.fragments.values()]
    groups = [one.row_group(number) for one in metadata for number in range(one.num_row_groups)]
    values: int = sum(group.column(place).num_values for group in groups for place in range(group.num_columns))
    rows: int = sum(one.num_rows for one in metadata)
    return max(columns, math.ceil(values / max(1, rows)))


def _usable(path: str, table: pa.Table) -> pa.Table:
    """Return the rows that say when and of what they are."""
    there = None
    for name in ("\0time", "\0variant", "\0row", "\0request_rows"):
        if table[name].null_count:
            valid = pc.is_valid(table[name])
            there = valid if there is None else pc.and_(there, valid)
    if there is not None:
        rows = table.num_rows
        table = table.filter(there)
        logger.warning(
            "%d rows of %s are left out: they have no time, variant, row or request_rows",
            rows - table.num_rows,
            path,
            extra={"every": listing.AGAIN_SECONDS, "about": path},
        )
    return table


def streams_in(table: pa.Table) -> list[Stream]:
    """Return the streams that a table has rows of."""
    names = ["\0model_version", "\0variant"]
    found = table.select(names).group_by(names).aggregate([]).sort_by([(name, "ascending") for name in names])
    # A version that is empty is none.
    return list(dict.fromkeys(Stream(one[names[0]] or None, one[names[1]]) for one in found.to_pylist()))


def _by_time(table: pa.Table) -> pa.Table:
    times = table["\0time"].cast(pa.int64()).to_numpy()
    return table if (times[:-1] <= times[1:]).all() else table.take(pc.sort_indices(table["\0time"]))


def _first_time(fragment: ds.ParquetFileFragment) -> int:
    return min((first for first, _ in _times(fragment)), default=0)


def _last_time(fragment: ds.ParquetFileFragment) -> int:
    return max((last for _, last in _times(fragment)), default=_NEVER)


def _times(fragment: ds.ParquetFileFragment) -> Iterator[tuple[int, int]]:
    """Yield when the first and last row of each part of an object were received, as far as its statistics say."""
    metadata = fragment.metadata
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            one = metadata.row_group(group).column(column)
            if one.path_in_schema == "time":
                if one.statistics is not None and one.statistics.has_min_max:
                    yield micros(aware(one.statistics.min)), micros(aware(one.statistics.max))
                else:
                    yield 0, _NEVER
                break


def aware(value: datetime) -> datetime:
    """Return a moment with its zone, which is UTC where it has none."""
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
