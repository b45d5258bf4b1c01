"""Files with labels: CSV, lines of JSON, Parquet. What of them can't be a label is told with its line."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mooring.label import Label, as_label, number_of, number_text
from mooring.log.labels import LabelError, as_table, sort_out

FileFormat = Literal["csv", "jsonl", "parquet"]
Kind = Literal["auto", "number", "text"]
ROWS = 65_536
_SUFFIXES: dict[str, FileFormat] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}


class NotALine(ValueError):
    """A line that does not have the form of its file."""


class Columns(NamedTuple):
    """The names of a file's columns. Those that are None are `row` and `time`, if the file has them.

    Of `protected` ones those that the file has stay beside the labels.
    """

    request_id: str = "request_id"
    label: str = "label"
    row: str | None = None
    time: str | None = None
    protected: tuple[str, ...] = ()


class RefusedLabel(NamedTuple):
    """A line of a file, or a row of a Parquet file, both counted from 1, that is no label, and why."""

    line: int
    why: str


class Piece(NamedTuple):
    """Some lines of a file: what of them are labels, as LABELS and in their order, and what are not."""

    table: pa.Table
    refused: list[RefusedLabel]


def format_of(path: Path) -> FileFormat:
    """Return a file's format by its name. Raises LabelError where that does not tell it."""
    try:
        return _SUFFIXES[path.suffix.lower()]
    except KeyError:
        raise LabelError(f"{path} does not say what it is: give --format csv, jsonl or parquet") from None


def read_file(
    file: IO[bytes], name: str, form: FileFormat, columns: Columns, kind: Kind = "auto"
) -> Iterator[Piece]:
    """Yield what a file holds, piece by piece. `name` is what messages call it.

    With `kind` auto a label is what the file says. CSV does not say: there it is a number where it is spelled as
    one is, else text, such as 01, 6.50 and true, so that it can be compared with texts as well as with numbers.
    Raises LabelError for a file that is no such file, or has no such columns.
    """
    if form == "parquet":
        yield from _parquet(file, name, columns, kind)
        return
    now_us = time.time_ns() // 1000
    labels: list[Label] = []
    refused: list[RefusedLabel] = []
    lines = _csv(file, name, columns) if form == "csv" else _json_lines(file, columns)
    for line, cells in lines:
        try:
            if isinstance(cells, NotALine):
                raise cells
            request_id, label, row, moment, *beside = cells
            if form == "csv":
                row = None if not row else int(row) if row.isdecimal() and row.isascii() else row
                moment = moment or None
            labels.append(
                as_label(
                    request_id,
                    _value(label, kind, form),
                    row,
                    moment,
                    now_us=now_us,
                    protected=dict(zip(columns.protected, beside, strict=True)),
                )
            )
        except ValueError as error:
            refused.append(RefusedLabel(line, str(error)))
        if len(labels) + len(refused) >= ROWS:
            yield Piece(as_table(labels), refused)
            labels, refused = [], []
    if labels or refused:
        yield Piece(as_table(labels), refused)


def _value(label: Any, kind: Kind, form: FileFormat) -> Any:
    """Return a label as the number, text or boolean that it is meant as."""
    if not isinstance(label, str):
        return str(label) if kind == "text" and type(label) is int else label
    if kind == "text" or (kind == "auto" and form != "csv"):
        return label
    text = label.strip()
    if text.lower() in ("", "nan"):
        return None
    number = number_of(text)
    if number is None:
        if kind == "number":
            raise ValueError(f"label is {ascii(text)[:40]}, not a number")
        return label
    return number if kind == "number" or text in (number_text(number), repr(number)) else text


def _csv(file: IO[bytes], name: str, columns: Columns) -> Iterator[tuple[int, list[Any] | NotALine]]:
    """Yield the lines of a CSV file by number: id, label, row, time and what is protected, or what is wrong."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, skipinitialspace=True)
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise LabelError(f"{name} is no CSV file: {error}") from None
    if not header:
        raise LabelError(f"{name} is empty: its first line names the columns")
    if any("\udc80" <= letter <= "\udcff" for letter in "".join(header)):
        raise LabelError(
            f"{name} is not UTF-8 text: its first line names the columns (unpack or convert it before)"
        )
    names = [*_chosen(columns, header, name), *(one if one in header else None for one in columns.protected)]
    places = [header.index(one) if one is not None else None for one in names]
    needed = max(place for place in places if place is not None)
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield reader.line_num, NotALine(f"it is no CSV: {error}")
            continue
        if cells is None:
            return
        if not cells:
            continue  # an empty line
        if len(cells) <= needed:
            yield reader.line_num, NotALine(f"it has {len(cells)} cells, the first line {len(header)}")
            continue
        if any(place is not None and "\n" in cells[place] for place in places):
            # A quote that nobody closed takes all lines up to the next one for a label.
            yield reader.line_num, NotALine("it has a line break within quotes: is a quote before it not closed?")
            continue
        yield reader.line_num, [None if place is None else cells[place] for place in places]


def _json_lines(file: IO[bytes], columns: Columns) -> Iterator[tuple[int, list[Any] | NotALine]]:
    """Yield the lines of a JSONL file by number: id, label, row, time and what is protected, or what is wrong."""
    names = columns.request_id, columns.label, columns.row or "row", columns.time or "time", *columns.protected
    decode = msgspec.json.Decoder().decode
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            record = decode(line)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            yield number, NotALine(f"it is not JSON: {error}")
            continue
        if not isinstance(record, dict):
            yield number, NotALine("it is no JSON object")
            continue
        yield number, [record.get(one) for one in names]


def _parquet(file: IO[bytes], name: str, columns: Columns, kind: Kind) -> Iterator[Piece]:
    try:
        parquet = pq.ParquetFile(file)
        names = _chosen(columns, parquet.schema_arrow.names, name)
        beside = [one for one in columns.protected if one in parquet.schema_arrow.names]
        first = 1
        for batch in parquet.iter_batches(ROWS, columns=[one for one in (*names, *beside) if one is not None]):
            ids, labels, rows, times = (None if one is None else batch[one] for one in names)
            piece = _typed(ids, labels, rows, times, {one: batch[one] for one in beside}, kind)
            lines = [RefusedLabel(first + one.line, one.why) for one in piece.refused]
            yield Piece(piece.table, lines)
            first += batch.num_rows
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise LabelError(f"{name} can't be read as Parquet: {error}") from None


def _typed(
    ids: pa.Array,
    labels: pa.Array,
    rows: pa.Array | None,
    times: pa.Array | None,
    protected: Mapping[str, pa.Array],
    kind: Kind,
) -> Piece:
    """Return columns as a piece whose refused are counted from 0."""
    odd: dict[int, str] = {}
    if kind == "text":
        labels = pc.cast(labels, pa.string())
    elif kind == "number" and not pa.types.is_floating(labels.type):
        numbers: list[float | None] = []
        for place, label in enumerate(labels.to_pylist()):
            try:
                numbers.append(_value(label, kind, "parquet"))
            except ValueError as error:
                numbers.append(None)
                odd[place] = str(error)
        labels = pa.array(numbers, pa.float64())
    table, wrong = sort_out(ids, labels, rows, times, protected)
    return Piece(
        table, sorted(RefusedLabel(at, odd.get(at, why)) for why, places in wrong.items() for at in places)
    )


def _chosen(columns: Columns, there: Sequence[str], name: str) -> tuple[str, str, str | None, str | None]:
    """Return the names of the columns of id, label, row and time. Raises LabelError where one is not there."""
    for one in columns[:4]:
        if one is not None and one not in there:
            flags = {columns.request_id: "--id-column", columns.label: "--label-column"}
            hint = f"; {flags[one]} names another" if one in flags else ""
            raise LabelError(f"{name} has no column {one}; it has: {', '.join(there)}{hint}")
    row = columns.row or ("row" if "row" in there else None)
    moment = columns.time or ("time" if "time" in there else None)
    return columns.request_id, columns.label, row, moment
