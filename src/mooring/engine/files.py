"""Files of tables: Parquet, CSV, lines of JSON."""

from __future__ import annotations

import csv
import re
import shlex
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

from mooring.drift.columns import Column
from mooring.drift.loose import loosened

_PARQUET = (".parquet", ".pq")
_CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_JSON = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
_LOG_PARTS = ("payloads", "inferences", "labels")
_BLOCK_BYTES = 8 << 20
_BUFFER_BYTES = 1 << 16
_DECIMAL_COMMA = r"^\s*[+-]?\d+(\.\d{3})*,\d+\s*$"
_LOOKED_AT = 1000
_CONVERSION = re.compile(r"In CSV column #(\d+):.*conversion error to (\w+)", re.DOTALL)


Result = TypeVar("Result")


class SourceError(ValueError):
    """Data that can't be read as a table; the message says which, and what to do."""


class SourceWarning(UserWarning):
    """Data that can be read as a table, but some of it not as it was probably meant."""


def distinct(names: list[str]) -> list[str]:
    """Return the names of columns. Raises SourceError where some are the same: which one is meant, nobody knows.

    >>> distinct(["a", "b", "a"])
    Traceback (most recent call last):
    mooring.engine.files.SourceError: columns have the same name: a; rename all but one
    """
    if doubled := sorted(name for name, times in Counter(names).items() if times > 1):
        raise SourceError(f"columns have the same name: {', '.join(doubled)}; rename all but one")
    return names


class Files:
    """A file, or a directory of Parquet files, as one table. Raises SourceError for what is neither."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise SourceError(f"there is no file {path}")
        self._path = path
        self._files = _parquet_files(path) if path.is_dir() else [path]
        _refuse_log(path, self._files)
        name = path.name.lower()
        self._is_parquet = path.is_dir() or name.endswith(_PARQUET)
        self._is_csv = name.endswith(_CSV)
        if not (self._is_parquet or self._is_csv or name.endswith(_JSON)):
            raise SourceError(f"what {path} holds is told by its name: .parquet, .csv, .tsv or .jsonl")

    def batches(
        self, wanted: Collection[str] | None, categories: Collection[str], loose: Collection[str], rows: int
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows, `rows` at a time from Parquet; see `mooring.engine.sources.batches`."""
        if self._is_parquet:
            for file in self._files:
                yield from _parquet_batches(file, wanted, categories, rows)
            return
        for batch in _csv_batches(self._path, loose) if self._is_csv else _json_batches(self._path):
            distinct(batch.schema.names)
            yield batch if wanted is None else batch.select([n for n in batch.schema.names if n in wanted])

    def columns(self, wanted: Sequence[str] | None) -> Iterator[tuple[str, pa.ChunkedArray]]:
        """Yield the columns; see `mooring.engine.sources.columns`."""
        if self._is_parquet:
            names = list(dict.fromkeys(name for file in self._files for name in _names(file)))
            for name in self._checked(names, wanted):
                yield name, self._parquet_column(name)
            return
        table = _csv_table(self._path) if self._is_csv else pa.Table.from_batches(list(_json_batches(self._path)))
        for name in self._checked(distinct(table.column_names), wanted):
            yield name, table.column(name)

    def _checked(self, there: Sequence[str], wanted: Sequence[str] | None) -> Sequence[str]:
        if wanted is None:
            return there
        if lacking := [name for name in wanted if name not in there]:
            raise SourceError(f"{self._path} has no column {', '.join(lacking)}; it has: {', '.join(there)}")
        return wanted

    def _parquet_column(self, name: str) -> pa.ChunkedArray:
        parts = []
        for file in self._files:
            opened = _open(file)
            if name in opened.schema_arrow.names:
                parts.append(_explained(file, partial(opened.read, [name])))
            else:
                parts.append(pa.table({name: pa.nulls(opened.metadata.num_rows)}))
        try:
            return pa.concat_tables(parts, promote_options="permissive").column(0)
        except pa.ArrowException:
            types = ", ".join(sorted({str(part.column(0).type) for part in parts}))
            raise SourceError(
                f"{name} is not of one type in the files of {self._path}: {types}; convert it in some of them"
            ) from None


def _parquet_files(directory: Path) -> list[Path]:
    inside = (path.relative_to(directory) for path in sorted(directory.rglob("*")) if path.is_file())
    files = [
        directory / path
        for path in inside
        if path.name.lower().endswith(_PARQUET) and not any(part.startswith((".", "_")) for part in path.parts)
    ]
    if not files:
        raise SourceError(f"there are no .parquet files in {directory}")
    return files


def _refuse_log(path: Path, files: Sequence[Path]) -> None:
    """Raise SourceError where files are of an inference log: its rows are of several kinds, and nested."""
    for file in files:
        parts = file.absolute().parts
        for place, (kind, model) in enumerate(pairwise(parts)):
            if kind in _LOG_PARTS and model.startswith("model="):
                root = Path(*parts[:place])
                raise SourceError(
                    f"{path} is an inference log, or of one, and no table: write the rows that are meant into a "
                    f"file, `mooring log export --log {shlex.quote(str(root))} today.parquet`, and give that "
                    "(--start and --end choose the time)"
                )


def _open(file: Path, categories: Collection[str] = ()) -> pq.ParquetFile:
    """Open a Parquet file, to read what columns of `categories` are text as dictionaries."""
    opened: pq.ParquetFile = _explained(
        file, lambda: pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)
    )
    distinct(opened.schema_arrow.names)
    texts = [field.name for field in opened.schema_arrow if field.name in categories and _is_text(field.type)]
    if not texts:
        return opened
    return pq.ParquetFile(
        file, pre_buffer=False, buffer_size=_BUFFER_BYTES, read_dictionary=texts, metadata=opened.metadata
    )


def _names(file: Path) -> list[str]:
    names: list[str] = _open(file).schema_arrow.names
    return names


def _parquet_batches(
    file: Path, wanted: Collection[str] | None, categories: Collection[str], rows: int
) -> Iterator[pa.RecordBatch]:
    opened = _open(file, categories)
    names = [name for name in opened.schema_arrow.names if wanted is None or name in wanted]
    batches = opened.iter_batches(rows, columns=names)
    while (batch := _explained(file, lambda: next(batches, None))) is not None:
        yield batch


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _explained(file: Path, read: Callable[[], Result]) -> Result:
    try:
        return read()
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{file} can't be read: {error}; leave it out or write it anew") from None


def _csv_batches(path: Path, loose: Collection[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a CSV file.

    What a column is is taken from its beginning. Where that does not hold further on, the file is read again with
    a wider type from there on: the batches of a column may be of different types.
    """
    types: dict[str, pa.DataType] = {}
    told: set[str] = set()
    done = 0
    while True:
        skip = done
        try:
            reader = _open_csv(path, types)
            for batch in reader:
                fresh = batch.slice(min(skip, batch.num_rows))
                skip -= batch.num_rows - fresh.num_rows
                if fresh.num_rows:
                    done += fresh.num_rows
                    _tell_dialect(path, fresh, told)
                    names = fresh.schema.names
                    each = zip(names, fresh.columns, strict=True)
                    yield pa.RecordBatch.from_arrays([_of_csv(one, name in loose) for name, one in each], names)
            return
        except pa.ArrowException as error:
            _widen(path, types, error)


def _csv_table(path: Path) -> pa.Table:
    types: dict[str, pa.DataType] = {}
    while True:
        try:
            table = _open_csv(path, types).read_all()
            break
        except pa.ArrowException as error:
            _widen(path, types, error)
    _tell_dialect(path, table, set())
    return pa.Table.from_arrays([_of_csv(one, True) for one in table.columns], table.column_names)


def _of_csv(column: Column, loose: bool) -> Column:
    """Return a column of text, which the file does not say that it is, as one whose cells are looked at."""
    of_text = loose and pa.types.is_string(column.type)
    return loosened(column) if of_text or pa.types.is_binary(column.type) else column


def _tell_dialect(path: Path, rows: pa.Table | pa.RecordBatch, told: set[str]) -> None:
    """Warn of columns that are no numbers or no text only because of how the file is written."""
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        if name in told:
            continue
        if pa.types.is_binary(column.type):
            told.add(name)
            warnings.warn(
                f"{path} is not all in UTF-8: cells of {name} that are not count as of another type; write it anew"
                " in UTF-8, for example with `iconv -f latin1 -t utf-8`",
                SourceWarning,
                stacklevel=2,
            )
        elif pa.types.is_string(column.type):
            there = column.slice(0, _LOOKED_AT).drop_null()
            commas = pc.sum(pc.match_substring_regex(there, _DECIMAL_COMMA)).as_py() or 0
            if 2 * commas > len(there):
                told.add(name)
                warnings.warn(
                    f"{name} of {path} has decimal commas, and is taken for text: write its numbers with points",
                    SourceWarning,
                    stacklevel=2,
                )


def _open_csv(path: Path, types: dict[str, pa.DataType]) -> arrow_csv.CSVStreamingReader:
    return arrow_csv.open_csv(
        path,
        read_options=arrow_csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
        parse_options=arrow_csv.ParseOptions(delimiter=_delimiter(path)),
        convert_options=arrow_csv.ConvertOptions(column_types=types, strings_can_be_null=True),
    )


def _widen(path: Path, types: dict[str, pa.DataType], error: pa.ArrowException) -> None:
    """Give the column that did not fit a wider type: floats, then text, and bytes for what is no UTF-8."""
    found = _CONVERSION.search(str(error))
    names = _csv_names(path)
    place = int(found[1]) if found else -1
    if found is None or place >= len(names) or types.get(names[place]) == pa.binary():
        raise SourceError(
            f"{path} can't be read as CSV: {error}; it was taken for UTF-8 with columns separated by "
            f"{_delimiter(path)!r}"
        ) from None
    name = names[place]
    if found[2] == "string" or types.get(name) == pa.string():
        types[name] = pa.binary()
        return
    narrow = found[2] in ("int64", "null") and name not in types
    types[name] = pa.float64() if narrow else pa.string()


def _csv_names(path: Path) -> list[str]:
    with pa.input_stream(path) as stream:
        head = stream.read(1 << 20).decode("utf-8-sig", "replace")
    return next(csv.reader(head.splitlines(), delimiter=_delimiter(path)), [])


def _delimiter(path: Path) -> str:
    """Return what separates the columns: the likeliest character of the first line."""
    with pa.input_stream(path) as stream:
        head = stream.read(1 << 16)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SourceError(f"{path} is in UTF-16: write it anew in UTF-8, `iconv -f utf-16 -t utf-8`")
    if ".tsv" in path.name.lower():
        return "\t"
    first = head.decode("utf-8", "replace").partition("\n")[0]
    return max(",;\t|", key=first.count)


def _json_batches(path: Path) -> Iterator[pa.RecordBatch]:
    try:
        yield from pj.open_json(
            pa.input_stream(path), read_options=pj.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES)
        )
    except pa.ArrowException as error:
        raise SourceError(
            f"{path} can't be read as lines of JSON: {error}; each line is an object, and a key always holds "
            "values of one type"
        ) from None
