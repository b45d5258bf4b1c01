"""The original training data, to be mixed in among new ones."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mooring.drift.columns import plain
from mooring.drift.tensors import dimensions
from mooring.engine import sources
from mooring.log.schema import TIME


def draw(path: str, schema: pa.Schema, label: str, rows: int, seed: int) -> tuple[pa.Table, int]:
    """Return so many rows of a file, drawn without putting back, and how many there are to be drawn from.

    Rows without a label are not. Where there are fewer than `rows`, all are returned; they stay in their order.

    Parameters
    ----------
    path
        The file: CSV, Parquet or lines of JSON.
    schema
        The columns that are wanted, as the log has them.
    label
        Name of the label's column.
    rows
        How many.
    seed
        Of the draw.

    Raises SourceError where the file is none, lacks columns, or has them of other types.
    """
    try:
        columns = dict(sources.columns(path, schema.names))
    except sources.SourceError as error:
        raise sources.SourceError(f"the original training data: {error}") from None
    table = pa.table({name: _fitting(path, columns[name], schema.field(name)) for name in schema.names})
    table = table.filter(pc.is_valid(table[label]))
    count = table.num_rows
    if count > rows:
        chosen = np.random.default_rng(seed).choice(count, rows, replace=False)
        table = table.take(np.sort(chosen))
    return table, count


def _fitting(path: str, values: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """Return a column of the original data as the log has it."""
    values = plain(values)
    kind, wanted = values.type, field.type
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    moment = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    fits = (
        pa.types.is_null(kind)
        or kind == wanted
        or (wanted == pa.float64() and (number or pa.types.is_boolean(kind)))
        or (wanted == pa.string() and text)
        or (wanted == TIME and moment)
        or (pa.types.is_list(wanted) and dimensions(kind) == dimensions(wanted))
    )
    if not fits:
        raise sources.SourceError(
            f"the original training data: {field.name} is {kind} in {path}, but {wanted} in the log; convert it "
            "there"
        )
    if wanted == TIME and moment and getattr(kind, "tz", None) is None:
        values = pc.assume_timezone(pc.cast(values, pa.timestamp("us"), safe=False), "UTC")
    return pc.cast(values, wanted, safe=False)
