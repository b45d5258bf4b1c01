"""Labels in the log: ground truth by request id and row, as it becomes known, often late, sometimes corrected."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mooring.label import FIRST, LAST, Label, Labels, number_of, protected_text, time_us
from mooring.log import listing, reader, store
from mooring.log.listing import folder_name
from mooring.log.parquet import NO_MODEL
from mooring.log.schema import TIME

if TYPE_CHECKING:
    from obstore.store import ObjectStore

LABELS = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("label", pa.float64()),
        pa.field("label_text", pa.string()),
        pa.field("time", TIME, nullable=False),
        pa.field("protected", pa.string()),
    ]
)
"""One row a label. `request_id` is ours or the client's, `row` the place of the scored row in its request, from 0.
A text is in `label_text` as it was given, and what it reads as, if that is a number or boolean, in `label`; a
number or boolean is in `label` alone. `time` is when it became known. `protected` has protected values of the row
that came with the label, a JSON object of texts; objects from before there were any lack it."""
ROWS_AN_OBJECT = 1_000_000
_ROWS_A_LOOK = 262_144
_ROWS_A_TABLE = 65_536
_KEY = ["request_id", "row"]


class ReadLabels(NamedTuple):
    """Labels of a log as LABELS, and the objects that can't be read."""

    table: pa.Table
    skipped: listing.Skipped


class LabelError(ValueError):
    """Labels that can't be taken; the message says which and why. None of them was written then."""


def labels_table(
    request_ids: pa.ChunkedArray,
    labels: pa.ChunkedArray,
    rows: pa.ChunkedArray | None = None,
    times: pa.ChunkedArray | None = None,
    protected: Mapping[str, pa.ChunkedArray] | None = None,
) -> pa.Table:
    """Return columns of any type as a table of LABELS.

    Without `rows` they are those of requests of one row, without `times` they are known now; `protected` are
    further columns that stay beside them. Raises LabelError for an id, a row or a time that can't be one, and for
    a label that is missing.

    >>> table = labels_table(pa.chunked_array([["a", "b"]]), pa.chunked_array([[6, 7]]))
    >>> table.select(["request_id", "row", "label"]).to_pylist()[1]
    {'request_id': 'b', 'row': 0, 'label': 7.0}
    """
    table, refused = sort_out(request_ids, labels, rows, times, protected)
    for why, places in refused.items():
        shown = ", ".join(str(place) for place in places[:5])
        raise LabelError(f"{why} in {len(places)} rows, such as {shown} (counted from 0)")
    return table


def sort_out(
    request_ids: pa.ChunkedArray,
    labels: pa.ChunkedArray,
    rows: pa.ChunkedArray | None = None,
    times: pa.ChunkedArray | None = None,
    protected: Mapping[str, pa.ChunkedArray] | None = None,
) -> tuple[pa.Table, dict[str, list[int]]]:
    """Return what can be taken of columns, as LABELS, and by reason the places of what can't.

    Raises LabelError for a column of a type that can't be a label.
    """
    count = len(request_ids)
    ids = _cast(_plain(request_ids), pa.string(), "request_id")
    places = _cast(rows, pa.int32(), "row") if rows is not None else pa.array(np.zeros(count, np.int32))
    places = pc.fill_null(places, 0)
    value, text = _values(_plain(labels))
    known = pa.nulls(count, TIME) if times is None else _cast(_as_times(_plain(times)), TIME, "time")
    wrong = {
        "request_id is missing": pc.or_kleene(pc.is_null(ids), pc.equal(ids, "")),
        "row is less than 0": pc.less(places, 0),
        "label is missing": pc.and_(pc.is_null(value, nan_is_null=True), pc.equal(pc.fill_null(text, ""), "")),
        "label is infinite": pc.is_inf(value),
        "time is no time": pc.and_(pc.is_null(known), pc.is_valid(times)) if times is not None else None,
    }
    bad = np.zeros(count, bool)
    refused = {}
    for why, mask in wrong.items():
        if mask is None:
            continue
        new = np.asarray(pc.fill_null(mask, False)) & ~bad
        if new.any():
            refused[why] = np.flatnonzero(new).tolist()
            bad |= new
    now = pa.scalar(datetime.now(UTC), TIME)
    beside = _protected(protected or {}, count)
    table = pa.table([ids, places, value, text, pc.fill_null(known, now), beside], schema=LABELS)
    return table.filter(pa.array(~bad)), refused


def as_table(labels: Sequence[Label]) -> pa.Table:
    """Return labels as a table of LABELS, in their order."""
    values = [label.value for label in labels]
    columns = [
        pa.array([label.request_id for label in labels], pa.string()),
        pa.array([label.row for label in labels], pa.int32()),
        pa.array([number_of(value) if isinstance(value, str) else value for value in values], pa.float64()),
        pa.array([value if isinstance(value, str) else None for value in values], pa.string()),
        pa.array([label.time_us for label in labels], pa.int64()).cast(TIME),
        pa.array([label.protected for label in labels], pa.string()),
    ]
    return pa.table(columns, schema=LABELS)


class SegmentLabels:
    """The labels of a segment of the spool, model by model, until the segment is whole."""

    def __init__(self) -> None:
        self._tables: dict[str, list[pa.Table]] = {}
        self._waiting: dict[str, list[Label]] = {}

    def add(self, record: Labels) -> None:
        """Take a frame."""
        model = record.model or NO_MODEL
        waiting = self._waiting.setdefault(model, [])
        waiting += record.labels
        if len(waiting) >= _ROWS_A_TABLE:
            self._flush(model)

    def write(self, uri: str, name: str) -> None:
        """Put them into the log, an object for each model and day, all named by the segment: the same ones again.

        Raises StoreError where the log refuses.
        """
        opened = store.open_store(uri)
        for model in self._waiting:
            self._flush(model)
            for day, part in _by_day(pa.concat_tables(self._tables[model])):
                path = f"{_prefix(model)}/date={day}/{name}.parquet"
                store.put_if_absent(opened, path, _as_parquet(part), uri)
                # The name is this segment's alone, and nobody else drains it.
                store.remove_parts(uri, path)

    def _flush(self, model: str) -> None:
        waiting, self._waiting[model] = self._waiting[model], []
        self._tables.setdefault(model, []).append(as_table(waiting))


def _by_day(table: pa.Table) -> Iterator[tuple[date, pa.Table]]:
    """Yield the days of labels, and those of each day in their order of time."""
    table = table.sort_by([("time", "ascending"), *((name, "ascending") for name in _KEY)])
    days = pc.floor_temporal(table["time"], unit="day")
    for day in pc.unique(days).to_pylist():
        yield day.date(), table.filter(pc.equal(days, pa.scalar(day, TIME))).combine_chunks()


def write_labels(uri: str, model: str, table: pa.Table) -> int:
    """Put labels into the log, and return how many objects are new: the same labels again make none.

    Raises StoreError where the log refuses; then the same call writes what is missing.
    """
    opened = store.open_store(uri)
    written = 0
    for day, part in _by_day(table):
        for start in range(0, part.num_rows, ROWS_AN_OBJECT):
            data = _as_parquet(part.slice(start, ROWS_AN_OBJECT))
            name = hashlib.blake2b(data, digest_size=16).hexdigest()
            path = f"{_prefix(model)}/date={day}/labels-{name}.parquet"
            written += store.put_if_absent(opened, path, data, uri)
    return written


def read_labels(
    uri: str,
    model: str,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    ids: pa.Array | pa.ChunkedArray | None = None,
) -> ReadLabels:
    """Return the labels that became known in [start, end), of each request and row the latest.

    With `ids` only of the requests that they name, ours or the client's; then memory is bounded by what they match
    and a few objects. Raises LogError where there is no log, StoreError where it refuses.
    """
    opened = listing.open_log(uri)
    listed = listing.list_objects(opened, uri, _prefix(model), start, end)
    found = reader.found_in(opened, uri, model, listed, LABELS)
    wanted = None if ids is None else pc.cast(ids, pa.string())
    tables = (_between(part, start, end) for _, part in label_tables(found))
    if wanted is not None:
        tables = (
            table.filter(pc.is_in(table["request_id"], value_set=wanted))
            for table in together(tables, rows_a_look(len(wanted)))
        )
    return ReadLabels(latest(pa.concat_tables([LABELS.empty_table(), *tables])), found.skipped)


def list_label_objects(
    opened: ObjectStore, uri: str, model: str, start: datetime | None = None
) -> list[listing.Object]:
    """Return the objects with labels of a model, day by day; only days that can have labels known from `start` on.

    Raises StoreError where the log refuses. A model without labels has none.
    """
    return listing.list_objects(opened, uri, _prefix(model), start)


def label_tables(found: reader.LogObjects) -> Iterator[tuple[str, pa.Table]]:
    """Yield the name of each object found by LABELS and its labels, replaced ones too: `latest` tells which count.

    Raises StoreError where the log refuses.
    """
    return reader.tables(found, {name: (name,) for name in LABELS.names})


def _prefix(model: str) -> str:
    return f"labels/model={folder_name(model)}"


def _between(table: pa.Table, start: datetime | None, end: datetime | None) -> pa.Table:
    if start is not None:
        table = table.filter(pc.greater_equal(table["time"], pa.scalar(start, TIME)))
    if end is not None:
        table = table.filter(pc.less(table["time"], pa.scalar(end, TIME)))
    return table


def together(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield tables that have at least `rows` rows, all but the last, made of small ones.

    >>> [len(table) for table in together([pa.table({"a": [1, 2]})] * 5, 3)]
    [4, 4, 2]
    """
    waiting: list[pa.Table] = []
    count = 0  # summed up anew for each, tens of thousands of small objects would take minutes
    for table in tables:
        waiting.append(table)
        count += len(table)
        if count >= rows:
            yield pa.concat_tables(waiting)
            waiting, count = [], 0
    if count:
        yield pa.concat_tables(waiting)


def rows_a_look(keys: int) -> int:
    """Return in how many rows at once to look for so many keys: each look makes a hash table of all keys."""
    return min(keys // 4, _ROWS_A_LOOK)


def latest(table: pa.Table) -> pa.Table:
    """Return of each request and row the label that became known last; of several at one time the greatest.

    Where that came without protected values, it has those that came last: a correction need not repeat them.

    >>> times = pa.chunked_array([[1, 2]], pa.timestamp("us", "UTC"))
    >>> both = labels_table(pa.chunked_array([["a", "a"]]), pa.chunked_array([[6.0, 7.0]]), times=times)
    >>> latest(both)["label"].to_pylist()
    [7.0]
    """
    order = [*((name, "ascending") for name in (*_KEY, "time", "label", "label_text", "protected"))]
    table = table.sort_by(order).combine_chunks()
    if table.num_rows < 2:
        return table
    ids, places = (table[name].combine_chunks() for name in _KEY)
    same = pc.and_(pc.equal(ids[1:], ids[:-1]), pc.equal(places[1:], places[:-1]))
    last = pa.concat_arrays([pc.invert(same), pa.array([True])])
    kept = table["protected"].combine_chunks()
    if kept.null_count < len(kept):
        table = table.set_column(table.column_names.index("protected"), "protected", _carried(kept, same))
    return table.filter(last)


def _carried(values: pa.Array, same: pa.Array) -> pa.Array:
    """Return of each row its value, or that of the last row before it that has one, of those of the same key."""
    places = np.arange(len(values))
    known = np.maximum.accumulate(np.where(np.asarray(values.is_valid()), places, -1))
    first = np.maximum.accumulate(np.where(np.concatenate([[False], np.asarray(same)]), -1, places))
    return values.take(pa.array(np.where(known >= first, known, places)))


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return values without the ways in which others keep the same: as categories, as texts of another kind."""
    if pa.types.is_dictionary(values.type):
        values = pc.cast(values, values.type.value_type)
    if pa.types.is_large_string(values.type) or pa.types.is_string_view(values.type):
        values = pc.cast(values, pa.string())
    return values


def _values(labels: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Return labels as numbers and as texts, each null where they are none."""
    kind = labels.type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if number or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return pc.cast(labels, pa.float64(), safe=False), pa.nulls(len(labels), pa.string())
    texts = _cast(labels, pa.string(), "label")
    distinct = pc.unique(texts)
    read = [None if one is None else number_of(one) for one in distinct.to_pylist()]
    return pa.array(read, pa.float64()).take(pc.index_in(texts, value_set=distinct)), texts


def _protected(columns: Mapping[str, pa.ChunkedArray], count: int) -> pa.Array:
    """Return of each row its values in these columns as JSON text. Raises LabelError for other types."""
    if not columns:
        return pa.nulls(count, pa.string())
    for name, column in columns.items():
        if pa.types.is_nested(column.type):
            raise LabelError(f"the column {name} is {column.type}, not numbers, texts or booleans")
    names = sorted(columns)
    texts: dict[tuple[Any, ...], str | None] = {}
    found = []
    try:
        for values in zip(*(columns[name].to_pylist() for name in names), strict=True):
            if values not in texts:
                texts[values] = protected_text(dict(zip(names, values, strict=True)))
            found.append(texts[values])
    except ValueError as error:
        raise LabelError(f"a protected value can't be kept: {error}") from None
    return pa.array(found, pa.string())


def _as_times(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return times as such, null where they are none; texts are ISO 8601, in UTC where they name no zone."""
    if pa.types.is_string(times.type):
        found = [None if one is None else _time_or_none(one) for one in times.to_pylist()]
        return pa.array(found, pa.int64()).cast(TIME)
    if pa.types.is_date(times.type) or pa.types.is_timestamp(times.type):
        times = _possible(times)
    if pa.types.is_date(times.type) or (pa.types.is_timestamp(times.type) and times.type.tz is None):
        return pc.assume_timezone(pc.cast(times, pa.timestamp("us"), safe=False), "UTC")
    if pa.types.is_timestamp(times.type):
        return pc.cast(times, TIME, safe=False)
    if pa.types.is_null(times.type):
        return times
    raise LabelError(f"the column time is {times.type}: take timestamps, or text such as 2026-03-01T12:00Z")


def _possible(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return dates or timestamps, null where labels can't become known then."""
    zone = UTC if pa.types.is_timestamp(times.type) and times.type.tz is not None else None
    whole = pa.types.is_date(times.type)
    first, last = (
        pa.scalar(one.date() if whole else one.replace(tzinfo=zone), times.type) for one in (FIRST, LAST)
    )
    there = pc.and_(pc.greater_equal(times, first), pc.less(times, last))
    return pc.if_else(there, times, pa.scalar(None, times.type))


def _time_or_none(text: str) -> int | None:
    try:
        return time_us(text)
    except ValueError:
        return None


def _cast(values: pa.ChunkedArray, kind: pa.DataType, name: str) -> pa.ChunkedArray:
    try:
        return pc.cast(values, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise LabelError(f"the column {name} is {values.type}, not {kind}: {error}") from None


def _as_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False)
    data: bytes = sink.getvalue().to_pybytes()
    return data
