"""Rows that are kept beside a baseline's profile: some that the model was trained on, and those held out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mooring.drift.columns import Column, plain

TRAINING_ROWS = 2000
"""How many of the rows that a model was trained on are kept."""
HELD_OUT_ROWS = 20_000
"""How many held-out rows are kept: by those errors are learnt, and it takes more of them."""
_FORMAT = b"mooring.rows"
_VERSION = b"1"
_PARTS = ("input", "output", "label")

Columns = Mapping[str, Column]


class UnreadableRows(ValueError):
    """Bytes that are no reference rows, or of a newer version of Mooring."""


class ReferenceRows(NamedTuple):
    """Rows of a baseline: what the model was given in training, and labelled rows that it was not trained on.

    All are columns by name, as the log has them flat. `training` are inputs; of held-out rows there are the
    `inputs`, what the model said (`outputs`), and one column of `labels`. Any of them may be empty.

    >>> rows = ReferenceRows({"x": pa.array([1.0, 2.0])}, {"x": pa.array([3.0])}, {"prediction": pa.array([0.5])},
    ...                      pa.array([1.0]))
    >>> again = ReferenceRows.from_bytes(rows.to_bytes())
    >>> again.training["x"].to_pylist(), again.inputs["x"].to_pylist(), again.labels.to_pylist()
    ([1.0, 2.0], [3.0], [1.0])
    """

    training: Columns
    inputs: Columns
    outputs: Columns
    labels: Column | None

    @classmethod
    def drawn(
        cls,
        training: Columns,
        inputs: Columns,
        outputs: Columns,
        labels: Column,
        *,
        held_out_rows: int = HELD_OUT_ROWS,
    ) -> ReferenceRows:
        """Return all training rows that are given, and of the held-out rows some, drawn, at most so many."""
        some = {
            part: {n: drawn(c, held_out_rows) for n, c in columns.items()}
            for part, columns in (("inputs", inputs), ("outputs", outputs))
        }
        return cls(training, some["inputs"], some["outputs"], drawn(labels, held_out_rows))

    def to_bytes(self) -> bytes:
        """Return them as a Parquet file, a row group for each of training and held-out rows."""
        rows = [_length(self.training), 0 if self.labels is None else len(self.labels)]
        names = {"input": [*dict.fromkeys([*self.training, *self.inputs])], "output": [*self.outputs]}
        columns: dict[str, pa.ChunkedArray] = {
            "held_out": pa.chunked_array([pa.array(np.repeat([False, True], rows))])
        }
        for name in names["input"]:
            columns[f"input {name}"] = _joined([self.training.get(name), self.inputs.get(name)], rows)
        for name in names["output"]:
            columns[f"output {name}"] = _joined([None, self.outputs[name]], rows)
        if self.labels is not None:
            columns["label"] = _joined([None, self.labels], rows)
        table = pa.table(columns).replace_schema_metadata({_FORMAT: _VERSION})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        return bytes(sink.getvalue())

    @classmethod
    def from_bytes(cls, data: bytes) -> ReferenceRows:
        """Return what `to_bytes` made. Raises UnreadableRows."""
        try:
            table = pq.read_table(pa.BufferReader(data))
        except pa.ArrowException as error:
            raise UnreadableRows(f"they are no Parquet file: {error}") from None
        version = (table.schema.metadata or {}).get(_FORMAT)
        if version != _VERSION or "held_out" not in table.column_names:
            raise UnreadableRows(
                "they are of another version of Mooring" if version else "the file is not one of Mooring's"
            )
        old, new = (table.filter(mask) for mask in (pc.invert(table["held_out"]), table["held_out"]))
        given = {part: [name for name in table.column_names if name.startswith(f"{part} ")] for part in _PARTS}
        labels = new["label"] if "label" in table.column_names else None
        return cls(
            {name.removeprefix("input "): old[name] for name in given["input"] if len(old)},
            {name.removeprefix("input "): new[name] for name in given["input"] if len(new)},
            {name.removeprefix("output "): new[name] for name in given["output"]},
            labels,
        )


def drawn(column: Column, most: int) -> Column:
    """Return some values of a column, in their order; of columns of one length they are of the same rows.

    >>> one, other = drawn(pa.array(range(100)), 3), drawn(pa.array(range(100, 200)), 3)
    >>> [a + 100 for a in one.to_pylist()] == other.to_pylist()
    True
    """
    rows = len(column)
    if rows <= most:
        return _stored(column)
    places = np.sort(np.random.default_rng([0, rows]).choice(rows, most, replace=False))
    return _stored(column.take(pa.array(places)))


def _stored(column: Column) -> Column:
    """Return a column as a file holds it: dictionaries decoded."""
    column = plain(column)
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    return column


def _joined(parts: list[Column | None], rows: list[int]) -> pa.ChunkedArray:
    """Return parts of a column behind each other, nulls where there is none.

    Where they are of two types, as integers and floats are, they take the one that holds both.
    """
    there = [one for one in parts if one is not None]
    kinds = {one.type for one in there}
    if len(kinds) == 1:
        kind = there[0].type
    else:
        kind = (
            pa.unify_schemas([pa.schema([("", one.type)]) for one in there], promote_options="permissive")
            .field(0)
            .type
        )
    chunks: list[pa.Array] = []
    for part, count in zip(parts, rows, strict=True):
        if part is None:
            chunks.append(pa.nulls(count, kind))
        else:
            cast = part.cast(kind)
            chunks += cast.chunks if isinstance(cast, pa.ChunkedArray) else [cast]
    return pa.chunked_array(chunks, kind)


def _length(columns: Columns) -> int:
    return max((len(column) for column in columns.values()), default=0)
