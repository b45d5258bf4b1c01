"""Arrow columns of any type as the few kinds that are counted: numbers, texts, moments."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mooring.drift.grid import Floats, Integers, Numbers

Column: TypeAlias = "pa.Array | pa.ChunkedArray"

MOST_CATEGORIES = 254
"""So many texts of a feature are told apart, the most frequent; histogram gradient boosting takes no more."""
_FEW = 30
_EXACT = 2**53  # up to here float64 has every integer


def plain(column: Column) -> Column:
    """Return a column in the plainest encoding of its values: without run-ends, views, extensions.

    Dictionaries stay where their values are texts, as counting these is fast; others are decoded.
    """
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return plain(_each_chunk(column, lambda chunk: chunk.storage, kind.storage_type))
    if pa.types.is_run_end_encoded(kind):
        return plain(_each_chunk(column, pc.run_end_decode, kind.value_type))
    if pa.types.is_dictionary(kind) and not _is_plain_text(kind.value_type):
        if pa.types.is_string_view(kind.value_type):
            return _each_chunk(column, _plain_dictionary, pa.dictionary(kind.index_type, pa.large_string()))
        return plain(_each_chunk(column, _decoded, kind.value_type))
    if pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    return column


def filled(column: Column) -> int:
    """Return how many values a column has that are not null."""
    return len(column) - int(column.null_count)


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is text."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return _is_plain_text(kind) or bool(pa.types.is_string_view(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether an Arrow type is a number."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def counts_rows(column: Column) -> bool:
    """Return whether integers look like the rows' own numbers: each another, and close together.

    >>> counts_rows(pa.array(range(100, 200))), counts_rows(pa.array([1, 2] * 50))
    (True, False)
    """
    column = plain(column)
    if not pa.types.is_integer(column.type):
        return False
    there = column.drop_null()
    if len(there) < _FEW or pc.count_distinct(there).as_py() < len(there):
        return False
    ends = pc.min_max(there).as_py()
    return bool(ends["max"] - ends["min"] < 2 * len(there))


def is_unique_text(column: Column) -> bool:
    """Return whether nearly each of a column's texts is another, as names and comments are.

    >>> is_unique_text(pa.array([str(at) for at in range(300)])), is_unique_text(pa.array(["a", "b"]))
    (True, False)
    """
    there = plain(column).drop_null()
    distinct = pc.count_distinct(there.cast(pa.string())).as_py()
    return bool(distinct > MOST_CATEGORIES and 2 * distinct > len(there))


def as_numbers(column: Column) -> Numbers | None:
    """Return a column's numbers without nulls as `as_floats`, but integers of 64 bits as they are.

    >>> as_numbers(pa.array([2**60 + 1, None]))
    array([1152921504606846977])
    """
    column = plain(column)
    if not (pa.types.is_int64(column.type) or pa.types.is_uint64(column.type)):
        return as_floats(column)
    numbers: Numbers = (column.drop_null() if column.null_count else column).to_numpy()
    return numbers


def own_type(column: Column) -> np.dtype[np.generic]:
    """Return the type that a column's numbers are compared in: that of the fewest bits that tells them apart.

    That is float64, but for columns of float32, and for integers that float64 can't tell apart.

    >>> own_type(pa.array([1, 2])), own_type(pa.array([2**60])), own_type(pa.array([1], pa.float32()))
    (dtype('float64'), dtype('int64'), dtype('float32'))
    """
    kind = plain(column).type
    if pa.types.is_float32(kind):
        return np.dtype(np.float32)
    numbers = as_numbers(column)
    if numbers is None or numbers.dtype.kind == "f" or not len(numbers):
        return np.dtype(np.float64)
    low, high = int(numbers.min()), int(numbers.max())
    if max(-low, high) <= _EXACT:
        return np.dtype(np.float64)
    return np.dtype(np.int64 if high < 2**63 else np.uint64)


def as_floats(column: Column, *, nan: bool = False) -> Floats | None:
    """Return a column's numbers, booleans as 0 and 1, without nulls or with NaN for each.

    None if it holds something else.

    >>> as_floats(pa.array([1, None, 3])), as_floats(pa.array([1, None, 3]), nan=True)
    (array([1., 3.]), array([ 1., nan,  3.]))
    """
    column = plain(column)
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan) if nan else np.empty(0)
    if not (is_number(column.type) or pa.types.is_boolean(column.type)):
        return None
    if column.type != pa.float64():
        column = pc.cast(column, pa.float64(), safe=False)
    if column.null_count:
        column = column.fill_null(np.nan) if nan else column.drop_null()
    numbers: Floats = column.to_numpy()
    return numbers


def encoded(texts: Column) -> pa.DictionaryArray:
    """Return texts as places in a dictionary of them."""
    if isinstance(texts, pa.ChunkedArray):
        if texts.num_chunks == 1:
            texts = texts.chunk(0)
        elif pa.types.is_dictionary(texts.type):
            texts = texts.unify_dictionaries().combine_chunks()
        else:
            texts = pa.concat_arrays(texts.chunks) if texts.num_chunks else pa.array([], texts.type)
    return texts if isinstance(texts, pa.DictionaryArray) else texts.dictionary_encode()


def as_texts(column: Column) -> Column | None:
    """Return a column as texts, booleans as true and false; None if it holds something else."""
    column = plain(column)
    if is_text(column.type):
        return column
    if pa.types.is_boolean(column.type) or pa.types.is_null(column.type):
        return pc.cast(column, pa.string())
    return None


def as_lengths(column: Column, *, nan: bool = False) -> Floats | None:
    """Return the lengths in characters of a column's texts, without nulls or with NaN for each.

    None if it holds something else.
    """
    texts = as_texts(column)
    if texts is None or pa.types.is_boolean(column.type):
        return None
    if pa.types.is_dictionary(texts.type):
        texts = texts.cast(texts.type.value_type)
    return as_floats(pc.utf8_length(texts), nan=nan)


def as_microseconds(column: Column) -> Integers | None:
    """Return a column's moments without nulls as microseconds since 1970 UTC; None if it holds something else."""
    column = plain(column)
    if pa.types.is_null(column.type):
        return np.empty(0, np.int64)
    if not (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
        return None
    moments = pc.cast(column, pa.timestamp("us", getattr(column.type, "tz", None)), safe=False)
    micros: Integers = pc.cast(moments, pa.int64()).drop_null().to_numpy()
    return micros


def _is_plain_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _plain_dictionary(chunk: pa.DictionaryArray) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(chunk.indices, chunk.dictionary.cast(pa.large_string()))


def _decoded(chunk: pa.DictionaryArray) -> pa.Array:
    """Return the values of a dictionary, which Arrow casts of some types only."""
    return chunk.dictionary.take(chunk.indices)


def _each_chunk(column: Column, change: Callable[[pa.Array], pa.Array], kind: pa.DataType) -> Column:
    if isinstance(column, pa.ChunkedArray):
        return pa.chunked_array([change(chunk) for chunk in column.chunks], kind)
    return change(column)
