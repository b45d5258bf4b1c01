"""From exchanges to Parquet: one closed segment becomes its objects in the log, the same ones however often."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from mooring.exchange import Exchange
from mooring.log import store
from mooring.log.schema import ARROW, PAYLOADS, TIME, Fields, Kinds, Recorded, infer_fields
from mooring.payload import Frame, Scored, Undecodable, decode, decompressed

if TYPE_CHECKING:
    from obstore.store import ObjectStore

NO_MODEL = "default"
CHUNK_EXCHANGES = 8192
CHUNK_BYTES = 8 * 2**20
_DAY_NS = 86_400 * 10**9
_NEVER_TWICE = {"request_id", "client_request_id", "time", "duration_ns", "request", "response"}
"""Columns for which a dictionary of their values would be larger than they are."""
_OLD_SECONDS = 3600.0

Signature = Callable[[str], Fields | None]


class ParquetLog:
    """A log that segments are written to. Raises StoreError, from any method, where the store refuses."""

    def __init__(self, uri: str, signature: Signature) -> None:
        self._uri = uri
        self._store: ObjectStore = store.open_store(uri)
        self._signature = signature
        self._schemas: dict[str, Recorded] = {}

    def write(self, name: str, exchanges: Iterable[Exchange]) -> None:
        """Write a segment's exchanges: an object for each kind, model and day, all named by the segment."""
        partitions: dict[tuple[str, int], Partition] = {}
        for exchange in exchanges:
            key = exchange.model or NO_MODEL, exchange.time_ns // _DAY_NS
            partition = partitions.get(key)
            if partition is None:
                partition = partitions[key] = Partition(self._schema(key[0]))
            partition.add(exchange)
        for (model, day), partition in partitions.items():
            folder = f"model={folder_name(model)}/date={_date(day)}"
            for kind, data in partition.finish():
                path = f"{kind}/{folder}/{name}.parquet"
                store.put_if_absent(self._store, path, data, self._uri)
                # The name is this segment's alone, and nobody else drains it.
                store.remove_parts(self._uri, path)

    def _schema(self, model: str) -> Recorded:
        if model not in self._schemas:
            recorded = Recorded(self._store, self._uri, folder_name(model))
            store.remove_parts(self._uri, f"schemas/model={folder_name(model)}/*", older_than=_OLD_SECONDS)
            if recorded.is_new and (fields := self._signature(model)) is not None:
                recorded.extend(fields)
            self._schemas[model] = recorded
        return self._schemas[model]


class Partition:
    """The objects that one segment makes for one model and day. Memory is bounded by a chunk, and the files."""

    def __init__(self, schema: Recorded) -> None:
        self._schema = schema
        self._fields = schema.fields
        self._exchanges: list[Exchange] = []
        self._unpacked: list[Exchange] = []
        self._bytes = 0
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

    def finish(self) -> list[tuple[str, bytes]]:
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
        pairs: list[tuple[Exchange, Scored]] = []
        reasons: list[str | None] = []
        for exchange in unpacked:
            try:
                scored = decode(exchange)
            except Undecodable as error:
                reasons.append(f"{error.code}: {error}")
                continue
            if scored.kind == "chat":
                reasons.append("chat: The request is a conversation, not rows.")
                continue
            pairs.append((exchange, scored))
            reasons.append(None)
        self._payloads.write(payload_batch(exchanges, reasons))
        if pairs:
            self._write_inferences(pairs)

    def _write_inferences(self, pairs: Sequence[tuple[Exchange, Scored]]) -> None:
        inputs = _columns([scored.inputs for _, scored in pairs])
        outputs = _columns([scored.outputs for _, scored in pairs])
        known = self._schema.fields
        new = Fields(infer_fields(_without(inputs, known.input)), infer_fields(_without(outputs, known.output)))
        fields = self._schema.extend(new)
        if self._inferences is None:
            self._inferences = ParquetBuffer(fields.arrow())
        elif fields != self._fields:
            self._inferences = self._inferences.widened(fields.arrow())
        self._fields = fields
        self._inferences.write(inference_batch(pairs, inputs, outputs, fields))


def _unpacked(exchange: Exchange) -> Exchange:
    """Return an exchange with its bodies unpacked, as it is where they can't be: `decode` will say why."""
    try:
        return decompressed(exchange)
    except Undecodable:
        return exchange


class ParquetBuffer:
    """A Parquet file in memory, written batch by batch."""

    def __init__(self, schema: pa.Schema) -> None:
        self._sink = pa.BufferOutputStream()
        repeated = [path for field in schema if field.name not in _NEVER_TWICE for path in _leaves(field)]
        self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd", use_dictionary=repeated)

    def write(self, batch: pa.RecordBatch) -> None:
        """Add a batch, if it has any rows."""
        if batch.num_rows:
            self._writer.write_batch(batch)

    def finish(self) -> bytes:
        """Return the file."""
        data: bytes = self._finish().to_pybytes()
        return data

    def widened(self, schema: pa.Schema) -> ParquetBuffer:
        """Return a file with these rows whose structs have more fields, null in all of them."""
        written = pq.ParquetFile(pa.BufferReader(self._finish()))
        wider = ParquetBuffer(schema)
        for number in range(written.num_row_groups):
            for batch in written.read_row_group(number).combine_chunks().to_batches():
                wider.write(_with_nulls(batch, schema))
        return wider

    def _finish(self) -> pa.Buffer:
        self._writer.close()
        return self._sink.getvalue()


def _leaves(field: pa.Field) -> list[str]:
    if not pa.types.is_struct(field.type):
        return [field.name]
    return [f"{field.name}.{child.name}" for child in field.type]


def _with_nulls(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return rows with the structs of `schema`, null in the fields that they lack."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for part in Fields._fields:
        if part not in schema.names:
            continue
        kind, known = schema.field(part).type, {}
        if part in columns:
            names = [field.name for field in columns[part].type]
            known = dict(zip(names, columns[part].flatten(), strict=True))
        arrays = [known.get(field.name, pa.nulls(batch.num_rows, field.type)) for field in kind]
        columns[part] = pa.StructArray.from_arrays(arrays, fields=list(kind))
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)


def payload_batch(exchanges: Sequence[Exchange], reasons: Sequence[str | None]) -> pa.RecordBatch:
    """Return exchanges as rows of PAYLOADS."""
    values = zip(*map(msgspec.structs.astuple, exchanges), strict=True)
    columns: dict[str, Sequence[Any]] = dict(zip(Exchange.__struct_fields__, values, strict=True))
    columns["time"] = [time_ns // 1000 for time_ns in columns["time_ns"]]
    columns["headers"] = [json.dumps(headers) if headers else "{}" for headers in columns["headers"]]
    columns["model_version"] = columns["version"]
    columns["reason"] = reasons
    return pa.record_batch([_array(columns[field.name], field.type) for field in PAYLOADS], schema=PAYLOADS)


def inference_batch(
    pairs: Sequence[tuple[Exchange, Scored]],
    inputs: dict[str, Sequence[Any]],
    outputs: dict[str, Sequence[Any]],
    fields: Fields,
) -> pa.RecordBatch:
    """Return the rows of exchanges, whose columns are `inputs` and `outputs`, as rows of a model's inferences."""
    counts = [len(scored.inputs.rows) for _, scored in pairs]
    misfits: dict[int, dict[str, dict[str, Any]]] = {}
    rows = sum(counts)
    one_each = rows == len(counts) and min(counts, default=1) == 1
    arrays: dict[str, pa.Array] = {}
    for part, columns in (("input", inputs), ("output", outputs)):
        kinds: Kinds = getattr(fields, part)
        if kinds:
            arrays[part] = _struct(columns, kinds, rows, part, misfits)
        for name in columns.keys() - kinds.keys():
            for at, value in enumerate(columns[name]):
                if value is not None:
                    misfits.setdefault(at, {}).setdefault(part, {})[name] = value

    def spread(values: Iterable[Any]) -> list[Any]:
        if one_each:
            return list(values)
        return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]

    exchanges = [exchange for exchange, _ in pairs]
    arrays |= {
        "request_id": pa.array(spread(exchange.request_id for exchange in exchanges), pa.string()),
        "client_request_id": _array(spread(exchange.client_request_id for exchange in exchanges), pa.string()),
        "row": pa.array([row for count in counts for row in range(count)], pa.int32()),
        "request_rows": pa.array(spread(counts), pa.int32()),
        "time": pa.array(spread(exchange.time_ns // 1000 for exchange in exchanges), pa.int64()).cast(TIME),
        "model_version": _array(spread(exchange.version for exchange in exchanges), pa.string()),
        "variant": _array(spread(exchange.variant for exchange in exchanges), pa.string()),
        "sampling": pa.array(spread(exchange.sampling for exchange in exchanges), pa.float64()),
        "misfits": pa.array(
            [json.dumps(misfits[at], default=str) if at in misfits else None for at in range(rows)], pa.string()
        )
        if misfits
        else pa.nulls(rows, pa.string()),
    }
    schema = fields.arrow()
    return pa.record_batch([arrays[name] for name in schema.names], schema=schema)


def _columns(frames: Sequence[Frame]) -> dict[str, Sequence[Any]]:
    """Return the rows of all frames as columns; None where a frame has no such column."""
    names = frames[0].columns
    if any(frame.columns != names for frame in frames):
        names = tuple(dict.fromkeys(name for frame in frames for name in frame.columns))
        frames = [_widened(frame, names) for frame in frames]
    rows = [row for frame in frames for row in frame.rows]
    if not rows:
        return dict.fromkeys(names, ())
    return dict(zip(names, zip(*rows, strict=True), strict=True))


def _without(columns: dict[str, Sequence[Any]], known: Kinds) -> dict[str, Sequence[Any]]:
    return {name: values for name, values in columns.items() if name not in known}


def _widened(frame: Frame, names: tuple[str, ...]) -> Frame:
    if frame.columns == names:
        return frame
    places = {name: place for place, name in enumerate(frame.columns)}
    order = [places.get(name) for name in names]
    return Frame(names, [[None if at is None else row[at] for at in order] for row in frame.rows])


def _struct(
    columns: dict[str, Sequence[Any]],
    kinds: Kinds,
    rows: int,
    part: str,
    misfits: dict[int, dict[str, dict[str, Any]]],
) -> pa.StructArray:
    arrays = []
    for name, kind in kinds.items():
        values = columns.get(name)
        if values is None:
            arrays.append(pa.nulls(rows, ARROW[kind]))
            continue
        array, odd = fit(values, kind)
        arrays.append(array)
        for at in odd:
            misfits.setdefault(at, {}).setdefault(part, {})[name] = values[at]
    return pa.StructArray.from_arrays(arrays, names=list(kinds))


_ONLY = {
    "double": frozenset({int, float, type(None)}),
    "boolean": frozenset({bool, type(None)}),
    "string": frozenset({str, type(None)}),
}


def fit(values: Sequence[Any], kind: str) -> tuple[pa.Array, list[int]]:
    """Return values as an array of a kind, and the places of those that do not fit: null there, or rounded.

    >>> fit([1, None, "high", 2**53 + 1], "double")[1]
    [2, 3]
    """
    if _ONLY.get(kind, frozenset()).issuperset(map(type, values)):
        try:
            return pa.array(values, ARROW[kind]), []
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            pass  # one of them does not fit: which?
    fitted, odd = [], []
    for at, value in enumerate(values):
        new = None if value is None else _fit_one(value, kind)
        fitted.append(new)
        # NaN is a number like others here, and not equal to itself.
        if (new is None and value is not None) or (kind == "double" and isinstance(value, int) and new != value):
            odd.append(at)
    return pa.array(fitted, ARROW[kind]), odd


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


def folder_name(model: str) -> str:
    """Return the name of a model as its folders have it: no file system takes more than 255 bytes.

    >>> folder_name("wine/white")
    'wine%2Fwhite'
    """
    name = quote(model, safe="")
    if len(name) <= 200:
        return name
    return f"{re.sub('%.?$', '', name[:160])}-{hashlib.blake2b(model.encode(), digest_size=8).hexdigest()}"


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()
