"""Tables of any make as Arrow: whole columns one after the other, or batches of rows.

| given | batches | columns |
|---|---|---|
| a path to Parquet, or a directory of such files | streamed | one at a time |
| a path to CSV or lines of JSON | streamed | all at once |
| pyarrow: Table, RecordBatch | as they are | as they are |
| pyarrow: Dataset | streamed | one at a time |
| what streams Arrow: a RecordBatchReader, polars, DuckDB | streamed, once | all at once |
| pandas | converted slice by slice | one at a time |
| a mapping of arrays, an array, a list of mappings | converted | converted |

Neither pandas nor polars is imported here: who has their tables has them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from mooring.drift.columns import is_text
from mooring.drift.loose import is_mixed, loosened
from mooring.engine.files import Files, SourceError, distinct

__all__ = ["BATCH_ROWS", "SourceError", "batches", "columns", "from_values"]

BATCH_ROWS = 65_536


def batches(
    data: Any,
    wanted: Collection[str] | None = None,
    *,
    categories: Collection[str] = (),
    loose: Collection[str] = (),
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of any data, in batches; few of them are in memory at a time.

    Parameters
    ----------
    data
        What the table above names.
    wanted
        Names of columns; those that the data lack are left out.
    categories
        Columns of text that are read as dictionaries from Parquet, which is faster where values repeat.
    loose
        Columns that should hold no text: where odd cells have made them text, each cell is to be looked at. Of CSV
        that is any column of text; of what is in memory, one of which some cells would fit, and some would not.

    Raises SourceError for what is no table, and for a file that can't be read.

    >>> [batch.num_rows for batch in batches({"x": [1, 2, 3]})]
    [3]
    """
    if isinstance(data, str | os.PathLike):
        yield from Files(Path(data)).batches(wanted, categories, loose, BATCH_ROWS)
    elif isinstance(data, ds.Dataset):
        names = _chosen(distinct(data.schema.names), wanted)
        scanner = data.scanner(
            columns=names,
            batch_size=BATCH_ROWS,
            batch_readahead=2,
            fragment_readahead=1,
            fragment_scan_options=_scan_options(data),
        )
        yield from scanner.to_batches()
    elif _is_of(data, "pandas"):
        yield from _pandas_batches(_pandas_frame(data), wanted, loose)
    elif (table := _table(data)) is not None:
        table = _loosened(table.select(_chosen(distinct(table.column_names), wanted)), loose)
        yield from table.to_batches(BATCH_ROWS)
    else:
        reader = pa.RecordBatchReader.from_stream(_streaming(data))
        names = distinct(reader.schema.names)
        mixed = []
        if hasattr(data, "get_column"):  # of polars, which is in memory
            mixed = [one for one in names if one in loose and is_mixed(pa.chunked_array(data.get_column(one)))]
        for batch in reader:
            for start in range(0, batch.num_rows, BATCH_ROWS):
                part = batch.select(_chosen(batch.schema.names, wanted)).slice(start, BATCH_ROWS)
                yield _marked(part, [name for name in mixed if name in part.schema.names])


def columns(data: Any, wanted: Sequence[str] | None = None) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """Yield the columns of any data with their names, one after the other.

    Raises SourceError for what is no table, and where a column of `wanted` is not there.

    >>> [(name, len(column)) for name, column in columns({"x": [1, 2], "y": [0.5, None]})]
    [('x', 2), ('y', 2)]
    """
    if isinstance(data, str | os.PathLike):
        yield from Files(Path(data)).columns(wanted)
    elif isinstance(data, ds.Dataset):
        for name in _chosen(distinct(data.schema.names), wanted, all_there=True):
            yield name, data.to_table(columns=[name]).column(0)
    elif _is_of(data, "pandas"):
        frame = _pandas_frame(data)
        for name in _chosen(list(frame), wanted, all_there=True):
            column = pa.chunked_array([from_values(frame[name])])
            yield name, loosened(column) if is_mixed(column) else column
    else:
        table = _table(data)
        if table is None:
            table = pa.RecordBatchReader.from_stream(_streaming(data)).read_all()
        for name in _chosen(distinct(table.column_names), wanted, all_there=True):
            yield name, table.column(name)


def from_values(values: Any) -> pa.Array:
    """Return values as an Arrow array. What Arrow has no type for, or is mixed, becomes text, cell by cell.

    >>> from_values([1, "high", None]).to_pylist()
    ['1', 'high', None]
    """
    if isinstance(values, pa.Array):
        return values
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()
    if isinstance(values, np.ndarray) and values.ndim > 1:
        return _tensors(values)
    zone = getattr(getattr(values, "dtype", None), "tz", None)
    if zone is not None and _is_of(values, "pandas"):  # what Arrow would do with it, pandas 3 warns of
        plain = values.dt.tz_convert("UTC").dt.tz_localize(None)
        naive = pa.array(plain, from_pandas=True)
        return naive.cast(pa.timestamp(naive.type.unit, "UTC"))
    try:
        array = pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        # Categories of a type that no Arrow dictionary has, such as intervals.
        if _is_of(values, "pandas") and hasattr(values, "cat"):
            names = pa.array([_text(value) for value in values.cat.categories], pa.string())
            codes = np.asarray(values.cat.codes)
            return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), names)
        array = loosened(pa.array([_text(value) for value in values], pa.string()))
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _tensors(values: np.ndarray[Any, Any]) -> pa.Array:
    """Return an array of more dimensions than one as lists of a fixed size, one a row."""
    array = from_values(values.ravel())
    for size in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def _table(data: Any) -> pa.Table | None:
    """Return data that are in memory as a table; None where they stream."""
    if isinstance(data, pa.Table):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    if isinstance(data, Mapping):
        return _from_arrays(data)
    if isinstance(data, np.ndarray):
        return _from_matrix(data)
    if isinstance(data, list | tuple):
        if data and all(isinstance(row, Mapping) for row in data):
            names = dict.fromkeys(name for row in data for name in row)
            return _from_arrays({name: [row.get(name) for row in data] for name in names})
        return _from_matrix(np.asarray(data, dtype=object if _ragged(data) else None))
    if isinstance(data, pa.Array | pa.ChunkedArray):
        return pa.table({"value": data})
    if _is_of(data, "polars") and hasattr(data, "to_frame"):  # one column
        return pa.table({data.name or "value": data.to_arrow()})
    if _is_of(data, "polars") and not hasattr(data, "__arrow_c_stream__") and hasattr(data, "collect"):
        collected: pa.Table = pa.table(data.collect())
        return collected
    return None


def _from_arrays(arrays: Mapping[Any, Any]) -> pa.Table:
    distinct([str(name) for name in arrays])
    made = {str(name): from_values(values) for name, values in arrays.items()}
    lengths = {len(array) for array in made.values()}
    if len(lengths) > 1:
        each = ", ".join(f"{name}: {len(array)}" for name, array in made.items())
        raise SourceError(f"the columns are not of one length: {each}")
    return pa.table(made)


def _from_matrix(values: np.ndarray[Any, Any]) -> pa.Table:
    if values.ndim == 1:
        return _from_arrays({"value": values})
    if values.ndim == 0:
        raise SourceError("a single value is no table: give an array of rows, or named columns")
    # Without names a model server's clients send the same, and the log names them so.
    if values.ndim > 2:
        return _from_arrays({"0": values})
    return _from_arrays({str(place): values[:, place] for place in range(values.shape[1])})


def _ragged(rows: Sequence[Any]) -> bool:
    return len({len(row) if isinstance(row, list | tuple) else -1 for row in rows}) > 1


def _streaming(data: Any) -> Any:
    if hasattr(data, "__arrow_c_stream__"):
        return data
    if hasattr(data, "mapInArrow"):
        raise SourceError(
            "a Spark DataFrame can be compared, not be the reference: give a sample of it, .sample(…).toArrow()"
        )
    raise SourceError(
        f"{type(data).__name__} is no table: give one of pandas, polars or pyarrow, a mapping of arrays, or a "
        "path to a .parquet, .csv or .jsonl file or a directory of Parquet files"
    )


def _pandas_frame(data: Any) -> Any:
    """Return a pandas DataFrame whose columns are named by text."""
    frame = data.to_frame(name=data.name if data.name is not None else "value") if data.ndim == 1 else data
    return frame.set_axis(distinct([str(name) for name in frame.columns]), axis=1)


def _pandas_batches(
    frame: Any, wanted: Collection[str] | None, loose: Collection[str]
) -> Iterator[pa.RecordBatch]:
    names = _chosen(list(frame), wanted)
    mixed = [name for name in names if name in loose and is_mixed(from_values(frame[name]))]
    for start in range(0, max(len(frame), 1), BATCH_ROWS):
        part = frame.iloc[start : start + BATCH_ROWS]
        arrays = [from_values(part[name]) for name in names]
        batch = pa.RecordBatch.from_arrays(arrays, names)
        yield batch if not mixed else _marked(batch, mixed)


def _loosened(table: pa.Table, loose: Collection[str]) -> pa.Table:
    """Return a table whose columns of text are looked at cell by cell where odd cells have made them text."""
    return _marked(table, [name for name in table.column_names if name in loose and is_mixed(table[name])])


def _marked(table: Any, names: Collection[str]) -> Any:
    for name in names:
        place = table.schema.get_field_index(name)
        if is_text(table.column(place).type):
            table = table.set_column(place, name, loosened(table.column(place)))
    return table


def _scan_options(dataset: ds.Dataset) -> ds.FragmentScanOptions | None:
    parquet = isinstance(getattr(dataset, "format", None), ds.ParquetFileFormat)
    return ds.ParquetFragmentScanOptions(pre_buffer=False) if parquet else None


def _chosen(there: Sequence[str], wanted: Collection[str] | None, *, all_there: bool = False) -> list[str]:
    if wanted is None:
        return list(there)
    if all_there and (lacking := [name for name in wanted if name not in there]):
        raise SourceError(f"there is no column {', '.join(lacking)}; there is: {', '.join(there)}")
    return [name for name in wanted if name in there] if all_there else [one for one in there if one in wanted]


def _is_of(data: Any, package: str) -> bool:
    return type(data).__module__.partition(".")[0] == package


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    return str(value).encode("utf-8", "backslashreplace").decode()
