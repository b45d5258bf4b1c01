"""Labels in the log: ground truth by request id and row, as it becomes known, often late, sometimes corrected."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mooring.log import reader, store
from mooring.log.parquet import folder_name
from mooring.log.schema import TIME

LABELS = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("label", pa.float64()),
        pa.field("label_text", pa.string()),
        pa.field("time", TIME, nullable=False),
    ]
)
"""One row a label. `request_id` is ours or the client's, `row` the place of the scored row in its request, from 0.
A number or boolean is in `label`, anything else in `label_text`; `time` is when it became known."""
ROWS_AN_OBJECT = 1_000_000
_KEY = ["request_id", "row"]


class LabelError(ValueError):
    """Labels that can't be taken; the message says which and why. None of them was written then."""


def labels_table(
    request_ids: pa.ChunkedArray,
    labels: pa.ChunkedArray,
    rows: pa.ChunkedArray | None = None,
    times: pa.ChunkedArray | None = None,
) -> pa.Table:
    """Return columns of any type as a table of LABELS.

    Without `rows` they are those of requests of one row, without `times` they are known now. Raises LabelError for
    an id or a row that can't be one, and for a label that is missing.

    >>> table = labels_table(pa.chunked_array([["a", "b"]]), pa.chunked_array([[6, 7]]))
    >>> table.select(["request_id", "row", "label"]).to_pylist()[1]
    {'request_id': 'b', 'row': 0, 'label': 7.0}
    """
    count = len(request_ids)
    ids = _cast(request_ids, pa.string(), "request_id")
    _refuse(pc.or_kleene(pc.is_null(ids), pc.equal(ids, "")), "request_id", "missing")
    places = _cast(rows, pa.int32(), "row") if rows is not None else pa.array(np.zeros(count, np.int32))
    places = pc.fill_null(places, 0)
    _refuse(pc.less(places, 0), "row", "less than 0")
    if times is None:
        known = pa.array(np.full(count, datetime.now(UTC), "O"), TIME)
    else:
        known = _cast(_as_times(times), TIME, "time")
        _refuse(pc.is_null(known), "time", "missing")
    missing = pc.is_null(labels, nan_is_null=True)
    _refuse(missing, "label", "missing")
    number = (
        pa.types.is_integer(labels.type) or pa.types.is_floating(labels.type) or pa.types.is_decimal(labels.type)
    )
    if number or pa.types.is_boolean(labels.type):
        value, text = pc.cast(labels, pa.float64(), safe=False), pa.nulls(count, pa.string())
    else:
        value, text = pa.nulls(count, pa.float64()), _cast(labels, pa.string(), "label")
    return pa.table([ids, places, value, text, known], schema=LABELS)


def write_labels(uri: str, model: str, table: pa.Table) -> int:
    """Put labels into the log, and return how many objects are new: the same labels again make none.

    Raises StoreError where the log refuses; then the same call writes what is missing.
    """
    opened = store.open_store(uri)
    table = table.sort_by([("time", "ascending"), *((name, "ascending") for name in _KEY)])
    days = pc.floor_temporal(table["time"], unit="day")
    written = 0
    for day in pc.unique(days).to_pylist():
        part = table.filter(pc.equal(days, pa.scalar(day, TIME))).combine_chunks()
        for start in range(0, part.num_rows, ROWS_AN_OBJECT):
            data = _as_parquet(part.slice(start, ROWS_AN_OBJECT))
            name = hashlib.blake2b(data, digest_size=16).hexdigest()
            path = f"labels/model={folder_name(model)}/date={day.date()}/labels-{name}.parquet"
            written += store.put_if_absent(opened, path, data, uri)
    return written


def read_labels(uri: str, model: str, *, start: datetime | None = None, end: datetime | None = None) -> pa.Table:
    """Return the labels that became known in [start, end), of each request and row the latest.

    Raises LogError where there is no log, StoreError where it refuses; what can't be read is left out with a
    LogWarning.
    """
    opened = reader.open_log(uri)
    listed = reader.list_objects(opened, uri, f"labels/model={folder_name(model)}", start, end)
    found = reader.found_in(opened, uri, model, listed, LABELS)
    parts = [part for _, part in reader.tables(found, {name: (name,) for name in LABELS.names})]
    table = pa.concat_tables(parts) if parts else LABELS.empty_table()
    if start is not None:
        table = table.filter(pc.greater_equal(table["time"], pa.scalar(start, TIME)))
    if end is not None:
        table = table.filter(pc.less(table["time"], pa.scalar(end, TIME)))
    return latest(table)


def latest(table: pa.Table) -> pa.Table:
    """Return of each request and row the label that became known last; of several at one time the greatest.

    >>> times = pa.chunked_array([[1, 2]], pa.timestamp("us", "UTC"))
    >>> both = labels_table(pa.chunked_array([["a", "a"]]), pa.chunked_array([[6.0, 7.0]]), times=times)
    >>> latest(both)["label"].to_pylist()
    [7.0]
    """
    order = [*((name, "ascending") for name in (*_KEY, "time", "label", "label_text"))]
    table = table.sort_by(order).combine_chunks()
    if table.num_rows < 2:
        return table
    ids, places = (table[name].combine_chunks() for name in _KEY)
    same = pc.and_(pc.equal(ids[1:], ids[:-1]), pc.equal(places[1:], places[:-1]))
    last = pa.concat_arrays([pc.invert(same), pa.array([True])])
    return table.filter(last)


def _as_times(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return times as such; texts are ISO 8601, in UTC where they name no zone."""
    if pa.types.is_string(times.type) or pa.types.is_large_string(times.type):
        return pa.chunked_array([[reader.instant(one, "time") for one in times.to_pylist()]], TIME)
    if pa.types.is_timestamp(times.type) and times.type.tz is None:
        return pc.assume_timezone(pc.cast(times, pa.timestamp("us"), safe=False), "UTC")
    return times


def _cast(values: pa.ChunkedArray, kind: pa.DataType, name: str) -> pa.ChunkedArray:
    try:
        return pc.cast(values, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise LabelError(f"the column {name} is {values.type}, not {kind}: {error}") from None


def _refuse(wrong: pa.ChunkedArray, name: str, why: str) -> None:
    places = np.flatnonzero(np.asarray(pc.fill_null(wrong, False)))
    if len(places):
        shown = ", ".join(str(place) for place in places[:5])
        raise LabelError(f"{name} is {why} in {len(places)} rows, such as {shown} (counted from 0)")


def _as_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False)
    data: bytes = sink.getvalue().to_pybytes()
    return data
