"""From exchanges to Parquet: one closed segment becomes its objects in the log, the same ones however often."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mooring.casts import Casts
from mooring.exchange import Exchange
from mooring.log import store
from mooring.log.listing import folder_name
from mooring.log.schema import (
    ARROW,
    INFERENCES,
    PAYLOADS,
    TIME,
    Kinds,
    Named,
    Recorded,
    SchemaFields,
    as_tensor,
    infer,
)
from mooring.log.signature import Ask, Signatures
from mooring.payload import Frame, RowsDiffer, Undecodable, decode, decompressed

if TYPE_CHECKING:
    from obstore.store import ObjectStore

NO_MODEL = "default"
CHUNK_EXCHANGES = 8192
CHUNK_BYTES = 8 * 2**20
CHUNK_CELLS = 2**19
"""Rows times columns of a row group, of those columns that any of its rows has."""
MAX_COLUMN_CHUNKS = 400_000
"""Row groups times columns of an object: each is told of at its end, and takes memory until then."""
_DAY_NS = 86_400 * 10**9
_NEVER_TWICE = {"request_id", "client_request_id", "time", "duration_ns", "request", "response"}
"""Columns for which a dictionary of their values would be larger than they are."""
_OLD_SECONDS = 3600.0
_NO_OUTPUT = Frame((), ())
_TOO_MANY = "too_large: The requests of the segment have too many different columns, or unpack to too much."

Integers = npt.NDArray[np.int64]
Waiting = Callable[[], AbstractContextManager[None]]


class ParquetLog:
    """A log that segments are written to. Raises StoreError, from any method, where the store refuses.

    `ask` returns the signature of a model's version, as `signature.ask_mlflow` does.
    """

    def __init__(self, uri: str, ask: Ask) -> None:
        self._uri = uri
        self._store: ObjectStore = store.open_store(uri)
        self._signatures = Signatures(self._store, uri, ask)
        self._schemas: dict[str, Recorded] = {}

    def write(self, name: str, exchanges: Iterable[Exchange], waiting: Waiting = nullcontext) -> None:
        """Write a segment's exchanges: an object for each kind, model and day, all named by the segment.

        `waiting` is entered while a store or a registry is asked, which may take long.
        """
        named = {model: schema.named for model, schema in self._schemas.items()}
        try:
            self._write(name, exchanges, waiting)
        except BaseException:  # the segment comes again, and its names are counted then
            for model, schema in self._schemas.items():
                schema.named = named.get(model, (Named(), Named()))
            raise

    def _write(self, name: str, exchanges: Iterable[Exchange], waiting: Waiting) -> None:
        partitions: dict[tuple[str, int], Partition] = {}
        for exchange in exchanges:
            key = exchange.model or NO_MODEL, exchange.time_ns // _DAY_NS
            partition = partitions.get(key)
            if partition is None:
                with waiting():
                    schema = self._schema(key[0])
                casts = partial(self._casts, key[0], schema)
                partition = partitions[key] = Partition(schema, casts, waiting)
            partition.add(exchange)
        for (model, day), partition in partitions.items():
            folder = f"model={folder_name(model)}/date={_date(day)}"
            for kind, data in partition.finish():
                path = f"{kind}/{folder}/{name}.parquet"
                with waiting():
                    store.put_if_absent(self._store, path, data, self._uri)
                # The name is this segment's alone, and nobody else drains it.
                store.remove_parts(self._uri, path)

    def _schema(self, model: str) -> Recorded:
        if model not in self._schemas:
            recorded = Recorded(self._store, self._uri, folder_name(model))
            store.remove_parts(self._uri, f"schemas/model={folder_name(model)}/*", older_than=_OLD_SECONDS)
            self._schemas[model] = recorded
        return self._schemas[model]

    def _casts(self, model: str, schema: Recorded, version: str | None) -> Casts | None:
        """Return the casts of a version's signature, whose fields are the schema's from then on."""
        signature = None if model == NO_MODEL else self._signatures.of(model, folder_name(model), version)
        if signature is None:
            return None
        schema.extend(signature.fields)
        return signature.casts


class Partition:
    """The objects that one segment makes for one model and day. Memory is bounded by a chunk, and the files."""

    def __init__(
        self, schema: Recorded, casts: Callable[[str | None], Casts | None], waiting: Waiting = nullcontext
    ) -> None:
        self._schema = schema
        self._casts = casts
        self._waiting = waiting
        self._fields = schema.fields
        self._exchanges: list[Exchange] = []
        self._unpacked: list[Exchange] = []
        self._bytes = 0
        self._column_chunks = 0
        self._payloads = ParquetBuffer(PAYLOADS)
        self._inferences: ParquetBuffer | None = None

    def add(self, exchange: Exchange) -> None:
        """Take an exchange."""
        size = len(exchange.request) + len(exchange.response)
        unpacked = exchange
        if exchange.request_encoding or exchange.response_encoding:
            unpacked = _unpacked(exchange)
            size += len(unpacked.request) + len(unpacked.response)
        if self._bytes + size > CHUNK_BYTES:
            self._flush()
        self._exchanges.append(exchange)
        self._unpacked.append(unpacked)
        self._bytes += size
        if self._bytes >= CHUNK_BYTES or len(self._exchanges) >= CHUNK_EXCHANGES:
            self._flush()

    def finish(self) -> list[tuple[str, memoryview]]:
        """Return the kinds of objects and their bytes, that of the payloads last."""
        self._flush()
        files = [("payloads", self._payloads.finish())]
        if self._inferences is not None:
            files.insert(0, ("inferences", self._inferences.finish()))
        return files

    def _flush(self) -> None:
        exchanges, self._exchanges, self._bytes = self._exchanges, [], 0
        unpacked, self._unpacked = self._unpacked, []
        if not exchanges:
            return
        reasons: list[str | None] = []
        groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Rows]] = {}
        group: list[Rows] | None = None
        before: tuple[tuple[str, ...], tuple[str, ...]] = (), ()
        with self._waiting():
            casts = {version: self._casts(version) for version in {exchange.version for exchange in unpacked}}
        unpacked.reverse()
        while unpacked:  # one after the other, so that a body goes once its rows are there
            exchange = unpacked.pop()
            rows, reason = _rows_of(exchange, casts[exchange.version])
            reasons.append(reason)
            if rows is not None:
                names = rows.inputs.columns, rows.outputs.columns
                # Requests with the same names come one after the other: hashing these each time would take longer.
                if group is None or names[0] is not before[0] or names[1] is not before[1]:
                    group, before = groups.setdefault(names, []), names
                group.append(rows)
        if groups and not self._write_inferences(list(groups.values())):
            reasons = [reason or _TOO_MANY for reason in reasons]
        self._payloads.write(payload_batch(exchanges, reasons))

    def _write_inferences(self, groups: Sequence[Sequence[Rows]]) -> bool:
        """Write rows, and return whether the file had room for them; those of a group have the same columns."""
        fields = self._schema.fields
        new = [_new_fields(group, fields) for group in groups]
        if found := [one for one in new if any(one[1])]:
            with self._waiting():
                fields = self._schema.take(found)
        batches = list(row_groups(groups, fields))
        self._column_chunks += len(batches) * (len(INFERENCES) + len(fields.input) + len(fields.output))
        if self._column_chunks > MAX_COLUMN_CHUNKS:
            return False
        if self._inferences is None:
            self._inferences = ParquetBuffer(fields.arrow())
        elif fields != self._fields:
            self._inferences = self._inferences.widened(fields.arrow())
        self._fields = fields
        for rows in batches:
            self._inferences.write(inference_batch(rows, fields))
        return True


class Rows(msgspec.Struct, frozen=True):
    """Rows of an exchange, from `first` to before `last` of its request. Where they have no output, why.

    `misfits` are those of `payload.Scored`, by the place in the request.
    """

    exchange: Exchange
    inputs: Frame
    outputs: Frame
    first: int
    last: int
    unanswered: str | None = None
    misfits: Mapping[int, dict[str, Any]] = {}


def _rows_of(exchange: Exchange, casts: Casts | None) -> tuple[Rows | None, str | None]:
    """Return the rows of an exchange, and why it has none, or none with an output."""
    try:
        scored = decode(exchange, casts)
    except RowsDiffer as error:
        rows = Rows(exchange, error.inputs, _NO_OUTPUT, 0, len(error.inputs.rows), error.code)
        return rows if error.inputs.rows else None, f"{error.code}: {error}"
    except Undecodable as error:
        return None, f"{error.code}: {error}"
    if scored.kind == "chat":
        return None, "chat: The request is a conversation, not rows."
    inputs = scored.inputs
    return Rows(exchange, inputs, scored.outputs, 0, len(inputs.rows), None, scored.misfits), None


def _new_fields(group: Sequence[Rows], known: SchemaFields) -> tuple[int, SchemaFields]:
    """Return the fields of requests with the same columns that are new and have a value, and how many requests."""
    kinds = SchemaFields({}, {})
    for part, frames in (("input", [one.inputs for one in group]), ("output", [one.outputs for one in group])):
        for place, name in enumerate(frames[0].columns):
            if name in getattr(known, part):
                continue
            kind = infer(row[place] for frame in frames for row in frame.rows)
            if kind is not None:
                getattr(kinds, part)[name] = kind
    return len(group), kinds


def row_groups(groups: Sequence[Sequence[Rows]], fields: SchemaFields) -> Iterator[list[Rows]]:
    """Yield rows that are written together. Each lot has few cells: rows times all fields that any of them has.

    Those in a group have the same columns, and so stay together where they can. A long request is cut in parts.
    """
    lot: list[Rows] = []
    names: set[tuple[int, str]] = set()
    count = others = 0
    for group in groups:
        columns = group[0].inputs.columns, group[0].outputs.columns
        new = {(part, name) for part in (0, 1) for name in columns[part] if name in fields[part]}
        width = max(1, sum(map(len, columns)))
        names = names | new
        length = sum(rows.last for rows in group)
        misfits = length * (width - len(new))
        if (count + length) * len(names) + others + misfits <= CHUNK_CELLS:
            lot += group
            count, others = count + length, others + misfits
            continue
        most = max(1, CHUNK_CELLS // width)
        for rows in group:
            for part in (rows,) if rows.last <= most else _parts(rows, most):
                length = part.last - part.first
                misfits = length * (width - len(new))
                if lot and (count + length) * len(names) + others + misfits > CHUNK_CELLS:
                    yield lot
                    lot, names, count, others = [], new, 0, 0
                lot.append(part)
                count, others = count + length, others + misfits
    if lot:
        yield lot


def _parts(rows: Rows, most: int) -> Iterator[Rows]:
    for first in range(0, rows.last, most):
        yield msgspec.structs.replace(rows, first=first, last=min(first + most, rows.last))


def _unpacked(exchange: Exchange) -> Exchange:
    """Return an exchange with its bodies unpacked, as it is where they can't be: `decode` will say why."""
    try:
        return decompressed(exchange)
    except Undecodable:
        return exchange


class ParquetBuffer:
    """A Parquet file in memory, written batch by batch, each a row group.

    So what is not yet encoded is no more than a column of a batch.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._sink = pa.BufferOutputStream()
        repeated = [path for field in schema if field.name not in _NEVER_TWICE for path in _leaves(field)]
        self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd", use_dictionary=repeated)

    def write(self, batch: pa.RecordBatch) -> None:
        """Add a batch, if it has any rows."""
        if batch.num_rows:
            self._writer.write_table(pa.Table.from_batches([batch]), row_group_size=batch.num_rows)

    def finish(self) -> memoryview:
        """Return the file."""
        self._writer.close()
        return memoryview(self._sink.getvalue()).cast("B")

    def widened(self, schema: pa.Schema) -> ParquetBuffer:
        """Return a file with these rows whose structs have more fields, null in all of them."""
        written = pq.ParquetFile(pa.BufferReader(pa.py_buffer(self.finish())))
        wider = ParquetBuffer(schema)
        own = set(INFERENCES.names)
        for number in range(written.num_row_groups):
            group = written.metadata.row_group(number)
            chunks = map(group.column, range(group.num_columns))
            paths = [one.path_in_schema for one in chunks if one.path_in_schema in own or not _is_null(one)]
            for batch in written.read_row_group(number, columns=paths).combine_chunks().to_batches():
                wider.write(_with_nulls(batch, schema))
        return wider


def _is_null(chunk: pq.ColumnChunkMetaData) -> bool:
    told = chunk.statistics
    return told is not None and told.has_null_count and told.null_count == chunk.num_values


def _leaves(field: pa.Field) -> list[str]:
    if not pa.types.is_struct(field.type):
        return [field.name]
    return [f"{field.name}.{child.name}" for child in field.type]


def _with_nulls(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return rows with the structs of `schema`, null in the fields that they lack."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    nulls = _nulls(batch.num_rows)
    for part in SchemaFields._fields:
        if part not in schema.names:
            continue
        kind, known = schema.field(part).type, {}
        if part in columns:
            names = [field.name for field in columns[part].type]
            known = dict(zip(names, columns[part].flatten(), strict=True))
        arrays = [known[field.name] if field.name in known else nulls(field.type) for field in kind]
        mask = columns["unanswered"].is_valid() if part == "output" else None
        columns[part] = pa.StructArray.from_arrays(arrays, fields=list(kind), mask=mask)
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)


def _nulls(rows: int) -> Callable[[pa.DataType], pa.Array]:
    """Return what gives the null column of a type: the same one each time, however many fields it is for."""
    made: dict[pa.DataType, pa.Array] = {}

    def of(kind: pa.DataType) -> pa.Array:
        if kind not in made:
            made[kind] = pa.nulls(rows, kind)
        return made[kind]

    return of


def payload_batch(exchanges: Sequence[Exchange], reasons: Sequence[str | None]) -> pa.RecordBatch:
    """Return exchanges as rows of PAYLOADS."""
    values = zip(*map(msgspec.structs.astuple, exchanges), strict=True)
    columns: dict[str, Sequence[Any]] = dict(zip(Exchange.__struct_fields__, values, strict=True))
    columns["time"] = [time_ns // 1000 for time_ns in columns["time_ns"]]
    columns["headers"] = [json.dumps(headers) if headers else "{}" for headers in columns["headers"]]
    columns["model_version"] = columns["version"]
    columns["reason"] = reasons
    return pa.record_batch([_array(columns[field.name], field.type) for field in PAYLOADS], schema=PAYLOADS)


def inference_batch(pieces: Sequence[Rows], fields: SchemaFields) -> pa.RecordBatch:
    """Return rows of exchanges as rows of a model's inferences."""
    counts = [one.last - one.first for one in pieces]
    total = sum(counts)
    misfits: dict[int, dict[str, dict[str, Any]]] = {}
    unanswered = any(one.unanswered for one in pieces)

    def spread(values: Iterable[Any]) -> list[Any]:
        if total == len(counts):
            return list(values)
        return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]

    why_not = pa.array(spread(one.unanswered for one in pieces), pa.string()) if unanswered else None
    arrays: dict[str, pa.Array] = {}
    for part in SchemaFields._fields:
        columns = _columns(pieces, part)
        kinds: Kinds = getattr(fields, part)
        if kinds:
            mask = why_not.is_valid() if why_not is not None and part == "output" else None
            arrays[part] = _struct(columns, kinds, total, part, misfits, mask)
        for name in columns.keys() - kinds.keys():
            column = columns[name]
            for at, value in zip(column.places(total), column.values, strict=True):
                if value is not None and value == value:
                    misfits.setdefault(int(at), {}).setdefault(part, {})[name] = value

    start = 0
    for one, count in zip(pieces, counts, strict=True):
        for at, values in one.misfits.items():  # what MLflow has cast, beside what the model was given
            if one.first <= at < one.last:
                misfits.setdefault(start + at - one.first, {}).setdefault("input", {}).update(values)
        start += count

    exchanges = [one.exchange for one in pieces]
    arrays |= {
        "request_id": pa.array(spread(exchange.request_id for exchange in exchanges), pa.string()),
        "client_request_id": _array(spread(exchange.client_request_id for exchange in exchanges), pa.string()),
        "row": pa.array([row for one in pieces for row in range(one.first, one.last)], pa.int32()),
        "request_rows": pa.array(spread(len(one.inputs.rows) for one in pieces), pa.int32()),
        "time": pa.array(spread(exchange.time_ns // 1000 for exchange in exchanges), pa.int64()).cast(TIME),
        "model_version": _array(spread(exchange.version for exchange in exchanges), pa.string()),
        "variant": _array(spread(exchange.variant for exchange in exchanges), pa.string()),
        "sampling": pa.array(spread(exchange.sampling for exchange in exchanges), pa.float64()),
        "misfits": pa.array(
            [json.dumps(misfits[at], default=str) if at in misfits else None for at in range(total)], pa.string()
        )
        if misfits
        else pa.nulls(total, pa.string()),
        "unanswered": pa.nulls(total, pa.string()) if why_not is None else why_not,
    }
    schema = fields.arrow()
    return pa.record_batch([arrays[name] for name in schema.names], schema=schema)


class Column:
    """The values of a column in those rows that have it; `spans` are where these begin and how many they are."""

    def __init__(self) -> None:
        self.values: Sequence[Any] = []
        self.spans: list[tuple[int, int]] = []

    def places(self, rows: int) -> Integers:
        """Return in which of all rows the values are."""
        if len(self.values) == rows:
            return np.arange(rows)
        return np.concatenate([np.arange(first, first + count) for first, count in self.spans])

    def spread(self, array: pa.Array, rows: int) -> pa.Array:
        """Return the values as an array of all rows, null in those that lack the column."""
        if len(array) == rows:
            return array
        indices = np.zeros(rows, np.int64)
        lacks = np.ones(rows, bool)
        places = self.places(rows)
        indices[places], lacks[places] = np.arange(len(array)), False
        return array.take(pa.array(indices, mask=lacks))


def _columns(pieces: Sequence[Rows], part: str) -> dict[str, Column]:
    """Return the columns that any of the rows have. None is widened to what others have."""
    columns: dict[str, Column] = {}
    begin = 0
    asked = part == "input"
    for names, same in groupby(pieces, attrgetter("inputs.columns" if asked else "outputs.columns")):
        first = begin
        if not names:
            begin += sum(one.last - one.first for one in same)
            continue
        rows: list[Sequence[Any]] = []
        for one in same:
            found = one.inputs.rows if asked else one.outputs.rows
            rows += found if one.last - one.first == len(found) else found[one.first : one.last]
        begin += len(rows)
        for name, values in zip(names, zip(*rows, strict=True), strict=True):
            column = columns.setdefault(name, Column())
            if not column.spans:
                column.values = values
            elif isinstance(column.values, list):
                column.values += values
            else:
                column.values = [*column.values, *values]
            column.spans.append((first, len(values)))
    return columns


def _struct(
    columns: dict[str, Column],
    kinds: Kinds,
    rows: int,
    part: str,
    misfits: dict[int, dict[str, dict[str, Any]]],
    mask: pa.Array | None,
) -> pa.StructArray:
    arrays = []
    nulls = _nulls(rows)
    for name, kind in kinds.items():
        column = columns.get(name)
        if column is None:
            arrays.append(nulls(ARROW[kind]))
            continue
        values = column.values
        if part == "output" and kind == "timestamp":
            values = [_from_nanoseconds(value) for value in values]
        array, odd = fit(values, kind)
        arrays.append(column.spread(array, rows))
        if odd:
            places = column.places(rows)
            for at in odd:
                misfits.setdefault(int(places[at]), {}).setdefault(part, {})[name] = values[at]
    return pa.StructArray.from_arrays(
        arrays, fields=[pa.field(name, ARROW[kinds[name]]) for name in kinds], mask=mask
    )


_ONLY = {
    "double": frozenset({int, float, type(None)}),
    "boolean": frozenset({bool, type(None)}),
    "string": frozenset({str, type(None)}),
}


def fit(values: Sequence[Any], kind: str) -> tuple[pa.Array, list[int]]:
    """Return values as an array of a kind, and the places of those that do not fit: null there, or rounded.

    NaN among other than numbers is what is missing.

    >>> fit([1, None, "high", 2**53 + 1], "double")[1]
    [2, 3]
    >>> fit(["a", float("nan")], "string")[1]
    []
    """
    if _ONLY.get(kind, frozenset()).issuperset(map(type, values)):
        try:
            return pa.array(values, ARROW[kind]), []
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            pass  # one of them does not fit: which?
    if kind == "tensor":
        return _fit_tensors(values)
    fitted, odd = [], []
    for at, value in enumerate(values):
        if kind != "double" and value != value:
            value = None
        new = None if value is None else _fit_one(value, kind)
        fitted.append(new)
        if (new is None and value is not None) or (kind == "double" and isinstance(value, int) and new != value):
            odd.append(at)
    return pa.array(fitted, ARROW[kind]), odd


def _fit_tensors(values: Sequence[Any]) -> tuple[pa.Array, list[int]]:
    tensors = [as_tensor(value) for value in values]
    parts = [
        pa.ListArray.from_arrays(np.cumsum([0, *map(len, lists)], dtype=np.int32), np.concatenate([[], *lists]))
        for lists in (
            [np.empty(0) if one is None else one.ravel() for one in tensors],
            [np.empty(0) if one is None else np.array(one.shape, np.float64) for one in tensors],
        )
    ]
    missing = pa.array([one is None for one in tensors])
    fields = list(ARROW["tensor"])
    array = pa.StructArray.from_arrays(
        [part.cast(field.type) for part, field in zip(parts, fields, strict=True)], fields=fields, mask=missing
    )
    return array, [at for at, one in enumerate(tensors) if one is None and values[at] is not None]


def _fit_one(value: Any, kind: str) -> Any:
    if kind == "json":
        return json.dumps(value, default=str)
    if kind == "double":
        if type(value) not in (int, float):
            return None
        try:
            return float(value)
        except OverflowError:
            return None
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if kind == "timestamp":
        return _as_time(value)
    return value if isinstance(value, str) and not _has_surrogates(value) else None


def _as_time(value: Any) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    try:
        return value.astimezone(UTC) if value.tzinfo is not None else value.replace(tzinfo=UTC)
    except OverflowError:  # beyond the years that there are, in UTC
        return None


def _from_nanoseconds(value: Any) -> Any:
    """Return the time for an integer: so MLflow writes an array of NumPy's datetime64[ns]."""
    if type(value) is not int:
        return value
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value // 1000)
    except OverflowError:
        return value


def _has_surrogates(value: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in value)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return Mooring's own columns; text that is not Unicode, which clients may send, is made so."""
    if kind == TIME:
        return pa.array(values, pa.int64()).cast(TIME)
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        clean = [value if value is None else value.encode("utf-8", "replace").decode() for value in values]
        return pa.array(clean, kind)


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()
