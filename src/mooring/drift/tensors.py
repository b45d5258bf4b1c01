"""Tensors, such as pictures and embeddings, as a few numbers each that can be watched like any other feature."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mooring.drift.columns import Column, is_number
from mooring.drift.grid import Floats, Integers

BLOCKS = 4
"""A picture is divided into so many rows and columns of blocks, a vector into the square of it."""
_CELLS = 1_000_000
TOTALS = ("mean", "std", "min", "max", "zeros")
_SUMMARY = re.compile(rf"(?P<column>.*)\[(?:{'|'.join(TOTALS)}|block \d+(?:,\d+)?)\]", re.DOTALL)


def is_tensor(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of tensors: lists of numbers, however deep, or those with their shape beside.

    >>> is_tensor(pa.list_(pa.list_(pa.float32(), 8))), is_tensor(pa.list_(pa.string()))
    (True, False)
    """
    if isinstance(kind, pa.BaseExtensionType):
        return is_tensor(kind.storage_type)
    if pa.types.is_struct(kind):
        return {field.name for field in kind} == {"values", "shape"} and is_tensor(kind.field("values").type)
    return dimensions(kind) > 0


def dimensions(kind: pa.DataType) -> int:
    """Return how deep lists of numbers are, 0 for what is none.

    >>> dimensions(pa.list_(pa.list_(pa.float32(), 8))), dimensions(pa.list_(pa.string())), dimensions(pa.int8())
    (2, 0, 0)
    """
    depth = 0
    while _is_list(kind):
        depth, kind = depth + 1, kind.value_type
    return depth if is_number(kind) else 0


def column_of(summary: str) -> str | None:
    """Return the column that a summary is of, None for the name of none.

    >>> column_of("image[block 0,3]"), column_of("image")
    ('image', None)
    """
    found = _SUMMARY.fullmatch(summary)
    return found["column"] if found else None


def expanded(table: pa.Table | pa.RecordBatch, wanted: Collection[str]) -> pa.Table | pa.RecordBatch:
    """Return a table with the summaries of its tensors that are wanted in the place of those columns.

    >>> batch = pa.record_batch({"image": [[[0.0, 2.0], [4.0, 6.0]]]})
    >>> expanded(batch, ["image[mean]", "image[block 0,1]"]).to_pylist()
    [{'image[mean]': 3.0, 'image[block 0,1]': 2.0}]
    """
    there = set(table.schema.names)
    columns = {column_of(name) for name in wanted if name not in there} & there
    for column in sorted(filter(None, columns)):
        if not is_tensor(table.schema.field(column).type):
            continue
        found = summaries(column, table.column(column))
        if column not in wanted:
            table = table.drop_columns([column])
        for name, values in found.items():
            if name in wanted:
                table = table.append_column(name, values)
    return table


def summaries(name: str, column: Column) -> dict[str, pa.Array]:
    """Return what is watched of a column of tensors: numbers of each, by names made of the column's.

    The mean, standard deviation, least and greatest value, the share of zeros, and means of blocks: of a vector
    sixteen, else four by four over the last two dimensions. NaNs in a tensor are left out. Of what is null, or no
    tensor, all are null; of tensors of another shape those of the blocks that they lack.

    >>> found = summaries("v", pa.array([[0, 1], None]))
    >>> list(found)
    ['v[mean]', 'v[std]', 'v[min]', 'v[max]', 'v[zeros]', 'v[block 0]', 'v[block 1]']
    >>> found["v[mean]"].to_pylist(), found["v[block 1]"].to_pylist()
    ([0.5, None], [1.0, None])
    """
    found: dict[str, Floats] = {f"{name}[{total}]": np.full(len(column), np.nan) for total in TOTALS}
    there = np.zeros(len(column), bool)
    for rows, tensors in _of_one_shape(column):
        there[rows] = True
        for label, values in _summarised(tensors):
            key = f"{name}[{label}]"
            if key not in found:
                found[key] = np.full(len(column), np.nan)
            found[key][rows] = values
    return {key: pa.array(values, mask=np.isnan(values) | ~there) for key, values in found.items()}


def _summarised(tensors: Floats) -> Iterator[tuple[str, Floats]]:
    """Yield the labels and values of the summaries of tensors of one shape, an array of one dimension more."""
    valid = ~np.isnan(tensors)
    known = np.where(valid, tensors, 0.0)
    within = tuple(range(1, tensors.ndim))
    with np.errstate(all="ignore"):
        count = valid.sum(axis=within).astype(np.float64)
        count[count == 0] = np.nan  # so that all that is told of it is NaN
        mean = known.sum(axis=within) / count
        deviation = np.where(valid, tensors - mean.reshape(-1, *[1] * len(within)), 0.0)
        yield "mean", mean
        yield "std", np.sqrt((deviation**2).sum(axis=within) / count)
        yield "min", np.where(count > 0, np.where(valid, tensors, np.inf).min(axis=within, initial=np.inf), np.nan)
        yield (
            "max",
            np.where(count > 0, np.where(valid, tensors, -np.inf).max(axis=within, initial=-np.inf), np.nan),
        )
        yield "zeros", (valid & (tensors == 0)).sum(axis=within) / count
        if tensors.ndim == 2:
            means = _block_sums(known, 1, BLOCKS**2) / _block_sums(valid, 1, BLOCKS**2)
            yield from ((f"block {at}", means[:, at]) for at in range(means.shape[1]))
            return
        others = within[:-2]
        rows, columns = tensors.ndim - len(others) - 2, tensors.ndim - len(others) - 1
        sums, counts = (
            _block_sums(_block_sums(one.sum(axis=others, dtype=np.float64), rows, BLOCKS), columns, BLOCKS)
            for one in (known, valid)
        )
        means = sums / counts
        for row, column in np.ndindex(means.shape[1:]):
            yield f"block {row},{column}", means[:, row, column]


def _block_sums(values: np.ndarray[Any, Any], axis: int, blocks: int) -> Floats:
    """Return the sums over so many blocks of about equal length along an axis, over each place if it has fewer."""
    length = values.shape[axis]
    starts = np.arange(min(blocks, length)) * length // max(min(blocks, length), 1)
    sums: Floats = np.add.reduceat(values.astype(np.float64), starts, axis=axis)
    return sums


def _of_one_shape(column: Column) -> Iterator[tuple[Integers, Floats]]:
    """Yield the tensors of a column by their shape: their places, and some of them as an array."""
    start = 0
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        if isinstance(chunk, pa.ExtensionArray):
            chunk = chunk.storage
        values, counts, shapes = _flat(chunk)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        alike: dict[tuple[int, ...], list[int]] = {}
        for row, shape in enumerate(shapes):
            if shape is not None:
                alike.setdefault(shape, []).append(row)
        for shape, found in alike.items():
            size = math.prod(shape)
            at_once = max(1, _CELLS // max(1, size))
            for first in range(0, len(found), at_once):
                rows = np.array(found[first : first + at_once])
                cells = values[offsets[rows][:, None] + np.arange(size)]
                yield rows + start, cells.reshape(len(rows), *shape)
        start += len(chunk)


def _flat(chunk: pa.Array) -> tuple[Floats, Integers, Sequence[tuple[int, ...] | None]]:
    """Return all numbers of some tensors, how many each has, and its shape, None for what is no tensor."""
    if pa.types.is_struct(chunk.type):
        # Flattened and not taken as fields: what is null in the struct is null in its parts, too.
        parts = dict(zip((field.name for field in chunk.type), chunk.flatten(), strict=True))
        values, counts, _ = _flat(parts["values"])
        shapes = [None if shape is None else tuple(shape) for shape in parts["shape"].to_pylist()]
        fit = [
            shape if shape is not None and math.prod(shape) == count else None
            for shape, count in zip(shapes, counts, strict=True)
        ]
        return values, counts, fit
    rows = len(chunk)
    owner = np.arange(rows)
    regular = np.ones(rows, bool)
    lengths_of: list[Integers] = []
    level = chunk
    while _is_list(level.type):
        lengths = pc.fill_null(pc.list_value_length(level), -1).to_numpy(zero_copy_only=False).astype(np.int64)
        least, most = np.full(rows, np.iinfo(np.int64).max), np.full(rows, -1)
        np.minimum.at(least, owner, lengths)
        np.maximum.at(most, owner, lengths)
        regular &= (least == most) & (least >= 0)  # a list without any has no shape below
        lengths_of.append(most)
        owner = np.repeat(owner, np.maximum(lengths, 0))
        level = level.flatten()
    values = pc.cast(level, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    shapes = [
        tuple(shape) if there else None
        for shape, there in zip(np.stack(lengths_of, axis=1).tolist(), regular.tolist(), strict=True)
    ]
    return values, np.bincount(owner, minlength=rows), shapes


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
