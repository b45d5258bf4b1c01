"""What `mooring log` shows of a log: what it holds, its newest rows, an extract, answers to SQL."""

from __future__ import annotations

import csv
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

from mooring.files import writing
from mooring.log.listing import (
    LogError,
    days,
    folder_name,
    instant,
    log_skipped,
    midnight,
    models,
    only_model,
    open_log,
)
from mooring.log.reader import LogObjects, choose, find, scan, tables
from mooring.log.schema import ARROW, as_lists

if TYPE_CHECKING:
    import duckdb

_DAY = timedelta(days=1)

logger = logging.getLogger(__name__)


class LogRange(TypedDict):
    """Which part of the log is meant: see `read_log`."""

    model: str | None
    start: str | None
    end: str | None
    variant: Sequence[str]


class DayStats(msgspec.Struct):
    """What a log holds of a model's day."""

    model: str
    date: date
    objects: int = 0
    bytes: int = 0
    exchanges: int = 0
    rows: int = 0
    first: datetime | None = None
    last: datetime | None = None
    errors: dict[str, int] = {}


def stats(uri: str, chosen: LogRange) -> list[DayStats]:
    """Return what a log holds, for each model and day. `errors` are exchanges without rows, by reason."""
    opened = open_log(uri)
    wanted = chosen["model"]
    names = models(opened, uri) if wanted is None else []
    return [day for name in names or [only_model(opened, uri, wanted)] for day in _stats(uri, chosen, name)]


def _stats(uri: str, chosen: LogRange, model: str) -> list[DayStats]:
    found: dict[date, DayStats] = {}
    part: LogRange = {**chosen, "model": model}
    payloads, inferences = find(uri, **part, what="payloads"), find(uri, **part)
    for one in (*payloads.objects.values(), *inferences.objects.values()):
        day = found.setdefault(one.day, DayStats(model, one.day))
        day.objects += 1
        day.bytes += one.size
    for path, table in tables(payloads, {"time": ("time",), "reason": ("reason",)}):
        day = found[payloads.objects[path].day]
        day.exchanges += table.num_rows
        times = table["time"].to_pylist()
        day.first = min([*times, *filter(None, [day.first])], default=None)
        day.last = max([*times, *filter(None, [day.last])], default=None)
        codes = [reason.partition(":")[0] for reason in table["reason"].to_pylist() if reason is not None]
        day.errors = dict(sorted((Counter(day.errors) + Counter(codes)).items()))
    for path, table in tables(inferences, {"row": ("row",)}):
        found[inferences.objects[path].day].rows += table.num_rows
    log_skipped(payloads.skipped | inferences.skipped)
    return [found[day] for day in sorted(found)]


def head(
    uri: str, chosen: LogRange, count: int, *, first: bool = False, own: Sequence[str] | None = None
) -> pa.Table:
    """Return the newest rows, or the first: as the log has them, or flat, behind those of its columns in `own`."""
    opened = open_log(uri)
    model = only_model(opened, uri, chosen["model"])
    start, end = instant(chosen["start"], "start"), instant(chosen["end"], "end")
    rows: pa.Table | None = None
    there = days(opened, uri, f"inferences/model={folder_name(model)}", start, end)
    for day in there if first else reversed(there):
        begin = midnight(day)
        found = find(
            uri,
            model=model,
            start=max(start or begin, begin),
            end=min(end or begin + _DAY, begin + _DAY),
            variant=chosen["variant"],
        )
        columns = choose(found.schema, own, flat=False)
        if own is not None:
            columns |= choose(found.schema, None, flat=True)
        # A feature may be called `time`, too.
        keys = {f"\0{name}": (name,) for name in ("time", "request_id", "row", "variant")}
        direction = "ascending" if first else "descending"
        order = list(zip(keys, (direction, direction, "ascending", "ascending"), strict=True))
        for _, table in tables(found, {**columns, **keys}):
            rows = table if rows is None else pa.concat_tables([rows, table], promote_options="default")
            rows = rows.sort_by(order).slice(0, count)
        log_skipped(found.skipped)
        if rows is not None and rows.num_rows >= count:
            break
    if rows is None:
        found = find(uri, **chosen)
        return scan(found, choose(found.schema, None, flat=own is not None)).read_all()
    return rows.select([name for name in rows.column_names if not name.startswith("\0")])


def export(uri: str, chosen: LogRange, path: Path, *, columns: list[str] | None = None, flat: bool = True) -> int:
    """Write rows into a CSV or Parquet file, which appears whole or not at all, and return how many."""
    if path.suffix not in (".csv", ".parquet"):
        raise LogError(f"{path} ends in neither .csv nor .parquet")
    found = find(uri, **chosen)
    reader = scan(found, choose(found.schema, columns, flat))
    schema = reader.schema
    if path.suffix == ".csv":
        for place, field in enumerate(schema):
            if field.type == ARROW["tensor"]:
                schema = schema.set(place, field.with_type(pa.string()))
            elif pa.types.is_struct(field.type):
                raise LogError(f"CSV has no structs, such as {field.name}: leave --structs out, or name fields")
    rows = 0
    with writing(path, private=False) as file, _writer(path.suffix, file, schema) as writer:
        for batch in reader:
            writer.write_batch(_with_texts(batch, schema))
            rows += batch.num_rows
    log_skipped(found.skipped)
    return rows


def _writer(suffix: str, file: Any, schema: pa.Schema) -> Any:
    if suffix == ".parquet":
        return pq.ParquetWriter(file, schema, compression="zstd")
    names = csv_line(schema.names)
    file.write(names.encode())
    return arrow_csv.CSVWriter(file, schema, write_options=arrow_csv.WriteOptions(include_header=False))


def query(uri: str, chosen: LogRange, sql: str) -> pa.Table:
    """Return what DuckDB answers to `sql`, over the tables `inferences`, `payloads` and `flat`.

    Raises LogError for SQL that can't be run, too. Warns where it asks for a shadow's rows, and they are left out.
    """
    try:
        import duckdb
    except ImportError:
        raise LogError("this needs DuckDB: pip install 'mooring[query]'") from None

    if not chosen["variant"] and "'shadow'" in sql:
        logger.warning("the rows of a shadow are left out: --variant all has them")
    connection = duckdb.connect()
    try:
        connection.execute("SET TimeZone = 'UTC'")
        # Only what is named, since each costs a look at every object.
        if re.search(r"\bpayloads\b", sql, re.IGNORECASE):
            payloads = find(uri, **chosen, what="payloads")
            log_skipped(payloads.skipped)
            connection.register("payloads", payloads.dataset())
        if re.search(r"\b(inferences|flat)\b", sql, re.IGNORECASE):
            found = find(uri, **chosen)
            log_skipped(found.skipped)
            connection.register("inferences", found.dataset())
            _make_flat(connection, found)
        answer = connection.sql(sql)
        if answer is None:
            raise LogError("this SQL asks nothing: begin with SELECT")
        return answer.to_arrow_table()
    except duckdb.Error as error:
        raise LogError(str(error).strip()) from None
    finally:
        connection.close()


def _flat_columns(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Return predictions and inputs, and behind them the log's own columns."""
    columns = choose(schema, None, flat=True)
    own = [name for name in schema.names if name not in ("input", "output") and name not in columns]
    return columns | choose(schema, own, flat=False)


def _make_flat(connection: duckdb.DuckDBPyConnection, found: LogObjects) -> None:
    columns = _flat_columns(found.schema)
    if len({name.lower() for name in columns}) < len(columns):
        # DuckDB takes `a` for `A` in a struct that has both; as columns it tells them apart.
        connection.register("flat", scan(found, columns).read_all())
        return
    chosen = [
        f"{_quoted(path[0])} AS {_quoted(name)}"
        if len(path) == 1
        else f"struct_extract({_quoted(path[0])}, {_text(path[1])}) AS {_quoted(name)}"
        for name, path in columns.items()
    ]
    connection.execute(f"CREATE VIEW flat AS SELECT {', '.join(chosen)} FROM inferences")  # noqa: S608  names are quoted


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def as_csv(table: pa.Table) -> Iterator[str]:
    """Yield the lines of a table as CSV; what is nested is JSON.

    >>> "".join(as_csv(pa.table({"a": [1.0, None], "b": [["x"], None]})))
    'a,b\\n1.0,"[""x""]"\\n,\\n'
    """
    yield csv_line(table.column_names)
    for batch in table.to_batches(max_chunksize=1000):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield csv_line([_cell(value) for value in row])


def _with_texts(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch whose tensors are JSON where the schema has texts for them."""
    arrays = [
        pa.array([None if one is None else json.dumps(one) for one in as_lists(column)], pa.string())
        if column.type == ARROW["tensor"] and pa.types.is_string(field.type)
        else column
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def as_json(table: pa.Table) -> Iterator[str]:
    """Yield the rows of a table as JSON objects, one a line.

    >>> list(as_json(pa.table({"a": [float("nan")], "b": [b"raw"]})))
    ['{"a":null,"b":"raw"}\\n']
    """
    for batch in table.to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            yield msgspec.json.encode(_plain(row)).decode() + "\n"


def csv_line(values: list[Any]) -> str:
    """Return values as a line of CSV."""
    line = _Line()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.text


class _Line:
    text = ""

    def write(self, text: str) -> None:
        self.text += text


def _cell(value: Any) -> Any:
    if isinstance(value, bytes | datetime):
        return _plain(value)
    return msgspec.json.encode(_plain(value)).decode() if isinstance(value, bool | list | dict) else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value
