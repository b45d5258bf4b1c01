"""MLflow's payload formats <-> rows: what a model server was asked, and what it answered, row by row.

The formats are read as MLflow's scoring server reads them: by the casts of the model's signature, where there is
one. Regular shapes are read in plain Python; what is rare or odd goes through pandas, which is imported only then.
"""

from __future__ import annotations

import base64
import csv
import json
import zlib
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from io import BytesIO, StringIO
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mooring.casts import CastRefused, Casts, Split, was_cast
from mooring.exchange import Exchange

if TYPE_CHECKING:
    import pandas

MAX_DECOMPRESSED = 16 * 2**20
"""Bytes up to which a body is unpacked: as many as `--max-payload` keeps of one that is not compressed."""

MAX_OBJECTS = 256 * 2**20
"""Bytes that the objects made of an exchange's bodies may take, by an estimate before there are any."""
MAX_CELLS = 4 * 2**20
"""Rows times columns that one table may have. Missing cells count, and each row has four: it takes as much."""
MAX_COLUMNS = 2**16
_LEAST_WIDTH = 4
_NEVER_LARGE = 2**17
"""Bytes of a body up to which a table of lists is neither too wide nor too large: a cell takes two, a row three"""
_SMALL = 2**20
"""Bytes of bodies up to which nothing is estimated: their objects take some 30 times as much at most."""

_JSON = "application/json"
_CHAT_KEYS = {"messages", "prompt", "input"}
_ANY_HEADER = 32  # zlib: take gzip's header or its own

_PREDICTION = ("prediction",)
_NAT = b'"NaT"'

_UNUSABLE = {
    "unencodable": "The model's input or output has no form in JSON.",
    "unredactable": "A body could not be redacted, so it was not stored.",
    "truncated": "Only a part of the request or of its answer was captured.",
}
"""Codes of the capture after which a body is not what was sent, and what they say to people."""

_decode_json = msgspec.json.Decoder().decode


class Undecodable(ValueError):
    """A payload has no rows to give. `code` is the reason in short, and stable; `str()` says it to people.

    The codes: `failed` (the server answered no prediction), `unencodable`, `unredactable`,
    `truncated` (only a part of a body was captured),
    `encoding`, `too_large`, `too_wide`, `content_type`, `malformed` and `rows_differ`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[1])


class RowsDiffer(Undecodable):
    """An answer has another number of rows than its request, whose rows are `inputs`; `kind` is its format."""

    def __init__(self, message: str, kind: str, inputs: Frame) -> None:
        super().__init__("rows_differ", message)
        self.kind = kind
        self.inputs = inputs

    def __reduce__(self) -> tuple[type[RowsDiffer], tuple[str, str, Frame]]:
        return RowsDiffer, (str(self), self.kind, self.inputs)


class Frame(msgspec.Struct, frozen=True):
    """Rows under named columns; no name comes twice.

    The values are those of JSON: None, bool, int, float, str, list and dict; from Parquet datetime, too. An int
    of JSON has all its digits. What is missing is None; only a NaN that JSON spells out is a float.
    """

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]


class Inputs(NamedTuple):
    """What a request asks for. Without the signature it may be read in more than one way: the likeliest first."""

    kind: str
    readings: tuple[Frame, ...]
    params: dict[str, Any] | None = None


class ScoredExchange(msgspec.Struct, frozen=True):
    """A request with its answer, row for row.

    `kind` is the request's format: one of MLflow's own four names, `csv`, `parquet`, `chat`, or `split`, which
    is MLflow 1's. A single output is called `prediction`, of several each `prediction.<name>`. `misfits` are, by
    row and column, the inputs that did not come as the signature says, as they came: `inputs` has what the model
    was given instead.
    """

    kind: str
    inputs: Frame
    outputs: Frame
    params: dict[str, Any] | None
    misfits: dict[int, dict[str, Any]] = {}


def decode(exchange: Exchange, casts: Casts | None = None) -> ScoredExchange:
    """Return the rows that a server was asked to score together with its predictions.

    With the casts of the model's signature the inputs are what the model was given. Raises Undecodable where there
    are no rows, RowsDiffer where the answer has another number of them.

    >>> request = b'{"dataframe_split": {"columns": ["pH", "alcohol"], "data": [[3.1, 9.4], [3.3, 11]]}}'
    >>> answer = b'{"predictions": [5, 7]}'
    >>> scored = decode(Exchange(request_id="1", time_ns=0, request=request, response=answer))
    >>> scored.inputs
    Frame(columns=('pH', 'alcohol'), rows=[[3.1, 9.4], [3.3, 11]])
    >>> scored.outputs
    Frame(columns=('prediction',), rows=[(5,), (7,)])
    """
    if not exchange.succeeded:
        raise Undecodable("failed", f"There is no prediction: the status is {exchange.status}.")
    if exchange.errors:
        for code, message in _UNUSABLE.items():
            if code in exchange.errors:
                raise Undecodable(code, message + _said(exchange))
    if exchange.request_encoding or exchange.response_encoding:
        exchange = decompressed(exchange)
    if len(exchange.request) + len(exchange.response) > _SMALL:
        _check_objects(exchange.request, exchange.response)
    if (usual := _decode_usual(exchange, casts)) is not None:
        return usual
    kind, inputs, params = decode_inputs(exchange.request, exchange.request_type)
    outputs = decode_outputs(exchange.response, exchange.response_type, chat=kind == "chat")
    if len(exchange.request) > _NEVER_LARGE or len(exchange.response) > _NEVER_LARGE:
        for frame in (*inputs, *outputs):
            _check_shape(len(frame.rows), len(frame.columns))
    readings: list[tuple[Frame, dict[int, dict[str, Any]]]] = [(one, {}) for one in inputs]
    if casts is not None and kind in _CAST:
        readings = [*_given(casts, exchange, kind, [_with_text_names(one) for one in inputs]), *readings]
    for asked, misfits in readings:
        for answered in outputs:
            if len(asked.rows) == len(answered.rows):
                return ScoredExchange(kind, _with_text_names(asked), _with_text_names(answered), params, misfits)
    asked = _with_text_names(readings[0][0])
    rows, predictions = len(asked.rows), len(outputs[0].rows)
    message = f"Rows in the request: {rows}. Predictions in its answer: {predictions}."
    raise RowsDiffer(message, kind, asked)


def _said(exchange: Exchange) -> str:
    """Return what capture says of bodies that have no form in JSON: it stands in their place, as text."""
    bodies = (exchange.request, exchange.request_type), (exchange.response, exchange.response_type)
    return "".join(
        f" {body.decode('utf-8', 'replace')}." for body, kind in bodies if kind == "text/plain" and body
    )


def decompressed(exchange: Exchange) -> Exchange:
    """Return an exchange with its bodies unpacked: the same one if neither is compressed.

    Raises Undecodable (`encoding`, `too_large`) for a body that is not packed as its header says, or unpacks to
    more than MAX_DECOMPRESSED bytes; no more than that is ever unpacked.
    """
    if not exchange.request_encoding and not exchange.response_encoding:
        return exchange
    return msgspec.structs.replace(
        exchange,
        request=_decompress(exchange.request, exchange.request_encoding),
        response=_decompress(exchange.response, exchange.response_encoding),
        request_encoding="",
        response_encoding="",
    )


class _Predictions(msgspec.Struct, forbid_unknown_fields=True):
    predictions: list[float | int | str | bool | None]


_known_names: dict[bytes, tuple[str, ...]] = {}
_decode_table = msgspec.json.Decoder(Split[list[list[Any]]]).decode
_decode_names = msgspec.json.Decoder(tuple[str, ...]).decode
_decode_predictions = msgspec.json.Decoder(_Predictions).decode


def _decode_usual(exchange: Exchange, casts: Casts | None) -> ScoredExchange | None:
    """Decode what is by far the most frequent, in a tenth of the time; None if it is anything else."""
    if exchange.request_type != _JSON or exchange.response_type != _JSON:
        return None
    request, response = exchange.request, exchange.response
    rows: Sequence[Sequence[Any]]
    try:
        if casts is None:
            table = _decode_table(request).dataframe_split
            columns, rows = _distinct_names(bytes(table.columns)), table.data
        elif (found := casts.decode_split(request)) is not None:
            columns, rows = found
        else:
            return None
        predictions = _decode_predictions(response).predictions
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if columns is None or not rows or len(rows) != len(predictions) or _NAT in response:
        return None
    if len(request) > _NEVER_LARGE:
        _check_shape(len(rows), len(columns))
    if casts is None and set(map(len, rows)) != {len(columns)}:
        return None
    return ScoredExchange(
        "dataframe_split", Frame(columns, rows), Frame(_PREDICTION, [(one,) for one in predictions]), None
    )


def _distinct_names(text: bytes) -> tuple[str, ...] | None:
    """Return the names in a list of JSON, None if one comes twice. Clients send the same list again and again."""
    known = _known_names.get(text)
    if known is not None:
        return known
    names = _decode_names(text)
    if _names(names) != names:
        return None
    if len(_known_names) < 1024 and len(text) < 16 * 1024:  # clients choose the names
        _known_names[text] = names
    return names


def decode_inputs(body: bytes, content_type: str = _JSON, encoding: str = "") -> Inputs:
    """Return what a request asks to score.

    >>> decode_inputs(b'{"instances": [[1, 2], [3, 4]]}').readings
    (Frame(columns=('0', '1'), rows=[[1, 2], [3, 4]]),)
    >>> for frame in decode_inputs(b'{"inputs": {"x": [1, 2], "y": [3, 4]}}').readings:
    ...     frame.rows
    [(1, 3), (2, 4)]
    [([1, 2], [3, 4])]
    """
    body = _decompress(body, encoding)
    mime = _mime(content_type)
    if mime == "text/csv":
        _check_csv(body)
        frame = _through_pandas(lambda pandas: pandas.read_csv(StringIO(body.decode())))
        return Inputs("csv", (frame,))
    if mime == "application/vnd.apache.parquet":
        _check_size(body)
        # Arrow's own types: numpy has no missing integer, so that one null would cost the others their digits.
        frame = _through_pandas(lambda pandas: pandas.read_parquet(BytesIO(body), dtype_backend="pyarrow"))
        return Inputs("parquet", (frame,))
    request = _parse_json(body, mime)
    if type(request) is not dict:
        raise Undecodable("malformed", "The request is no JSON object.")
    if not _CHAT_KEYS.isdisjoint(request):
        return Inputs("chat", (Frame(tuple(request), [tuple(request.values())]),))
    if "data" in request and "columns" in request and _READERS.keys().isdisjoint(request):
        return Inputs("split", _read_split(request))
    kinds = _READERS.keys() & request.keys()
    if len(kinds) != 1:
        raise Undecodable("malformed", f"The request must have one of {', '.join(_READERS)}; it has {len(kinds)}.")
    kind = kinds.pop()
    params = request.get("params")
    return Inputs(kind, _READERS[kind](request[kind]), params if type(params) is dict else None)


def decode_outputs(
    body: bytes, content_type: str = _JSON, encoding: str = "", *, chat: bool = False
) -> tuple[Frame, ...]:
    """Return the predictions of an answer, in each way that they may be read, the likeliest first.

    The answer to a chat request is one prediction, whatever it holds.

    >>> decode_outputs(b'{"predictions": [{"label": "a", "score": 0.9}]}')
    (Frame(columns=('prediction.label', 'prediction.score'), rows=[['a', 0.9]]),)
    >>> decode_outputs(b'[0.5, NaN, null]')
    (Frame(columns=('prediction',), rows=[(0.5,), (nan,), (None,)]),)
    """
    body = _decompress(body, encoding)
    answer = _parse_json(body, _mime(content_type))
    if chat:
        return (Frame(("prediction",), [(answer,)]),)
    if type(answer) is dict and "predictions" in answer:
        answer = answer["predictions"]
    elif type(answer) is not list:  # as MLflow 1 answered
        raise Undecodable("malformed", "The answer holds no predictions.")
    frames = _read_inputs(answer)
    if _NAT in body:
        frames = tuple(map(_without_nat, frames))
    return tuple(map(_as_outputs, frames))


def _without_nat(frame: Frame) -> Frame:
    """Return predictions with None for "NaT", which MLflow writes for a time that is missing.

    Beside texts that are no times it is a text as well.
    """
    if not any("NaT" in row for row in frame.rows):
        return frame
    columns = [
        [None if value == "NaT" else value for value in column] if all(map(_may_be_time, column)) else column
        for column in zip(*frame.rows, strict=True)
    ]
    return Frame(frame.columns, list(zip(*columns, strict=True)))


def _may_be_time(value: Any) -> bool:
    if value is None or value == "NaT":
        return True
    try:
        return type(value) is str and bool(datetime.fromisoformat(value))
    except ValueError:
        return False


# What the model was given, where its signature says it.

_TEXT = ("string", "binary")
_CAST = {"dataframe_split", "dataframe_records", "instances", "inputs", "csv", "parquet"}


def _given(
    casts: Casts, exchange: Exchange, kind: str, readings: Sequence[Frame]
) -> list[tuple[Frame, dict[int, dict[str, Any]]]]:
    """Return what MLflow made of a request, with what did not come so; nothing if it refuses.

    `readings` are those without the signature.
    """
    sent = readings[0]
    if kind != "csv" and (rows := casts.plain(kind, sent.columns, sent.rows)) is not None:
        return [(Frame(sent.columns, rows), {})]
    if casts.too_wide(sent.columns):
        return []
    try:
        given = casts.given(exchange.request, _mime(exchange.request_type))
    except CastRefused:
        return []
    if hasattr(given, "columns"):
        return [_beside(casts, _through_pandas(lambda _: given), readings, compared=kind != "csv")]
    frames = _read_inputs(_plain(given))
    return [_beside(casts, frame, readings, by_place=not isinstance(given, dict)) for frame in frames]


def _beside(
    casts: Casts, given: Frame, readings: Sequence[Frame], *, by_place: bool = False, compared: bool = True
) -> tuple[Frame, dict[int, dict[str, Any]]]:
    """Return what was given beside the columns that the model did not get, and what of it did not come so.

    An array has no names, and so keeps those that were sent (`by_place`). In CSV nothing has a type to compare.
    """
    sent = next((one for one in readings if len(one.rows) == len(given.rows)), None)
    if sent is None or not given.rows:
        return given, {}
    columns = sent.columns if by_place and len(sent.columns) == len(given.columns) else given.columns
    places = {name: place for place, name in enumerate(sent.columns)}
    if len(columns) == len(places) == 1:  # a list, of which MLflow has made the one column that there is
        places = {columns[0]: 0}
    both = [
        (at, places[name], name, kind)
        for at, (name, kind) in enumerate(zip(columns, casts.types(columns), strict=True))
        if compared and name in places
    ]
    others = [place for name, place in places.items() if name not in columns]
    rows: list[list[Any]] = []
    misfits: dict[int, dict[str, Any]] = {}
    for number, (values, originals) in enumerate(zip(given.rows, sent.rows, strict=True)):
        row = [*values, *(originals[place] for place in others)]
        for at, place, name, kind in both:
            if was_cast(originals[place], row[at], kind):
                misfits.setdefault(number, {})[name] = originals[place]
            if kind in _TEXT and row[at] is not None and type(row[at]) is not str:  # MLflow lets it through
                row[at] = json.dumps(row[at], default=str)
        rows.append(row)
    return Frame((*columns, *(sent.columns[place] for place in others)), rows), misfits


def _with_text_names(frame: Frame) -> Frame:
    """Return a frame whose names are Unicode: JSON may escape lone surrogates, which no file can hold."""
    try:
        "".join(frame.columns).encode()
    except UnicodeEncodeError:
        names = [name.encode("utf-8", "backslashreplace").decode() for name in frame.columns]
        return Frame(_names(names), frame.rows)
    return frame


def _as_outputs(frame: Frame) -> Frame:
    if not frame.columns:  # no prediction at all, or each is {}
        return Frame(("prediction",), [({},) for _ in frame.rows])
    if len(frame.columns) == 1:
        return Frame(("prediction",), frame.rows)
    return Frame(tuple("prediction." + name for name in frame.columns), frame.rows)


def _mime(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _parse_json(body: bytes, mime: str) -> Any:
    if mime and not mime.endswith("json"):
        raise Undecodable("content_type", f"Mooring cannot read {mime}.")
    try:
        return _decode_json(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    # MLflow's own parser takes more than the standard: NaN, 1e400, UTF-16, lone surrogates.
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Undecodable("malformed", f"The body is not JSON: {error}.") from error


def _decompress(body: bytes, encoding: str) -> bytes:
    for coding in reversed(encoding.lower().split(",")):
        coding = coding.strip()
        if coding in ("", "identity"):
            continue
        if coding not in ("gzip", "x-gzip", "deflate"):
            raise Undecodable("encoding", f"Mooring cannot decompress {coding}.")
        # RFC 9110 wants zlib's header around deflate; some senders leave it out.
        bare = coding == "deflate" and body[:1] and body[0] & 0x0F != zlib.DEFLATED
        body = _inflate(body, -zlib.MAX_WBITS if bare else zlib.MAX_WBITS | _ANY_HEADER)
    return body


def _inflate(body: bytes, wbits: int) -> bytes:
    stream = zlib.decompressobj(wbits)
    try:
        whole = stream.decompress(body, MAX_DECOMPRESSED + 1)
    except zlib.error as error:
        raise Undecodable("encoding", f"The body is not compressed as its header says: {error}.") from error
    if len(whole) > MAX_DECOMPRESSED:
        raise Undecodable("too_large", f"The body decompresses to more than {MAX_DECOMPRESSED} bytes.")
    if not stream.eof or stream.unused_data:
        raise Undecodable("encoding", "The compressed body ends too early, or something follows it.")
    return whole


def _check_shape(rows: int, columns: int) -> None:
    """Raise Undecodable for a table that is too wide or too large to be made."""
    if columns > MAX_COLUMNS:
        raise Undecodable("too_wide", f"The table has {columns} columns, which is more than {MAX_COLUMNS}.")
    if rows * max(columns, _LEAST_WIDTH) > MAX_CELLS:
        raise Undecodable(
            "too_large", f"The table has {rows} rows of {columns} columns: more than {MAX_CELLS} cells."
        )


def _check_objects(*bodies: bytes) -> None:
    """Raise Undecodable for bodies whose values take too much memory, as far as their punctuation tells.

    A comma stands for a number, a quote for half a text, a bracket for a list, a brace for a dict.
    """
    weights = {b",": 32, b'"': 32, b"[": 88, b"{": 248}
    size = sum(
        2 * len(body) + sum(weight * body.count(sign) for sign, weight in weights.items()) for body in bodies
    )
    if size > MAX_OBJECTS:
        raise Undecodable("too_large", f"The values in the bodies would take more than {MAX_OBJECTS} bytes.")


def _check_csv(body: bytes) -> None:
    """Raise Undecodable for CSV of too many cells: pandas fills each line up to the width of the first."""
    lines = body.count(b"\n") + body.count(b"\r") - body.count(b"\r\n") + 1
    commas = body.count(b",")
    try:
        head = csv.reader(StringIO(body.decode(errors="replace"), newline=""))
        width = next((len(line) for line in head if line), 1)
    except csv.Error:  # a name of more than 128 KiB
        width = commas + 1
    if width > MAX_COLUMNS:
        _check_shape(1, width)
    if lines * max(width, _LEAST_WIDTH) > MAX_CELLS or commas > MAX_CELLS:
        raise Undecodable("too_large", f"The table has {lines} lines of {width} cells: more than {MAX_CELLS}.")


def _check_size(parquet: bytes) -> None:
    """Raise Undecodable for a Parquet file that unpacks to more than MAX_DECOMPRESSED.

    A value that comes again and again takes no room in the file, but in memory it does.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(BytesIO(parquet))
        about, schema = file.metadata, file.schema
        packed = values = 0
        repeated = []
        for at in range(about.num_columns):
            chunks = [about.row_group(group).column(at) for group in range(about.num_row_groups)]
            packed += sum(chunk.total_uncompressed_size for chunk in chunks)
            width = schema.column(at).length if schema.column(at).physical_type == "FIXED_LEN_BYTE_ARRAY" else 8
            values += max(width, 8) * max(about.num_rows, sum(chunk.num_values for chunk in chunks))
            if schema.column(at).physical_type == "BYTE_ARRAY":
                repeated.append(schema.column(at).path)
        _check_shape(about.num_rows, about.num_columns)
        if max(packed, values) <= MAX_DECOMPRESSED and repeated:
            values += _text_bytes(BytesIO(parquet), repeated)
    except (ArrowException, OSError) as error:
        raise Undecodable("malformed", f"The body is no Parquet file ({type(error).__name__}).") from error
    if max(packed, values) > MAX_DECOMPRESSED:
        raise Undecodable("too_large", f"The body unpacks to more than {MAX_DECOMPRESSED} bytes.")


def _text_bytes(parquet: BytesIO, columns: list[str]) -> int:
    """Return how many bytes the texts of a Parquet file's columns take, each as often as it comes.

    They are read as dictionaries, so that each is there once.
    """
    import pyarrow
    import pyarrow.compute as pc
    from pyarrow.parquet import ParquetFile

    def size(array: pyarrow.Array) -> int:
        kind = array.type
        if pyarrow.types.is_dictionary(kind):
            lengths = pc.take(pc.binary_length(array.dictionary), array.indices)
            return int(pc.sum(lengths.cast(pyarrow.int64())).as_py() or 0)
        if pyarrow.types.is_struct(kind):
            return sum(map(size, array.flatten()))
        if isinstance(array, pyarrow.MapArray):
            return size(array.keys) + size(array.items)
        if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
            return size(array.flatten())
        return int(array.nbytes)

    file = ParquetFile(parquet, read_dictionary=columns)
    return sum(size(column) for batch in file.iter_batches() for column in batch.columns)


# Each reader takes what stands under its key and returns the ways in which it may be meant.


def _read_split(table: Any) -> tuple[Frame, ...]:
    if type(table) is not dict or "data" not in table or not table.keys() <= {"columns", "data", "index"}:
        raise Undecodable("malformed", "A split table must have data, may have columns and index, and no more.")
    data, columns, index = table["data"], table.get("columns"), table.get("index")
    length, width = (_longest(data), _length(data)) if type(data) is dict else (_length(data), _longest(data))
    _check_shape(max(length, _length(index)), max(width, _length(columns)))
    if (
        type(columns) is list
        and set(map(type, columns)) in ({str}, {int})
        and _are_lists(data, len(columns))
        and (index is None or (type(index) is list and len(index) == len(data) and not _has_nested(index)))
    ):
        return (Frame(_names(columns), data),)
    # dtype=object keeps every value as it is; the shape comes out as MLflow's.
    return (_through_pandas(lambda pandas: pandas.DataFrame(data, index, columns, dtype=object)),)


def _read_records(records: Any) -> tuple[Frame, ...]:
    if type(records) is not list:
        raise Undecodable("malformed", "Records must be a list.")
    if set(map(type, records)) <= {dict}:
        return (_from_records(records),)
    _check_shape(len(records), _longest(records))
    return (_through_pandas(lambda pandas: pandas.DataFrame(records, dtype=object)),)


def _read_instances(instances: Any) -> tuple[Frame, ...]:
    if type(instances) is not list or not instances or type(instances[0]) is not dict:
        return _read_inputs(instances)
    if set(map(type, instances)) != {dict}:
        raise Undecodable("malformed", "Some instances are records and some are not.")
    frame = _from_records(instances)
    if set(map(len, instances)) == {len(frame.columns)}:
        return (frame,)
    # MLflow gathers the values of each name, and goes on only if all names have equally many.
    columns: dict[str, list[Any]] = {}
    for name, value in chain.from_iterable(map(dict.items, instances)):
        columns.setdefault(name, []).append(value)
    if len(set(map(len, columns.values()))) > 1:
        raise Undecodable("malformed", "The instances do not all have the same columns.")
    return (Frame(tuple(columns), list(zip(*columns.values(), strict=True))),)


def _read_inputs(inputs: Any) -> tuple[Frame, ...]:
    if type(inputs) is list:
        return (_from_list(inputs),)
    if type(inputs) is not dict:
        return (Frame(("0",), [(inputs,)]),)
    columns = tuple(inputs.values())
    one_row = Frame(tuple(inputs), [columns])
    if set(map(type, columns)) != {list} or len(set(map(len, columns))) > 1:
        return (one_row,)
    return Frame(tuple(inputs), list(zip(*columns, strict=True))), one_row


_READERS: dict[str, Callable[[Any], tuple[Frame, ...]]] = {
    "dataframe_split": _read_split,
    "dataframe_records": _read_records,
    "instances": _read_instances,
    "inputs": _read_inputs,
}


def _from_list(items: list[Any]) -> Frame:
    types = set(map(type, items))
    if types <= {dict}:
        return _from_records(items)
    width = len(items[0]) if types == {list} else 0
    is_matrix = width and _are_lists(items, width)
    if is_matrix and not any(map(_has_nested, items)):
        return Frame(tuple(map(str, range(width))), items)
    return Frame(("0",), [(item,) for item in items])


def _from_records(records: list[dict[str, Any]]) -> Frame:
    names = list(records[0]) if records else []
    if all(list(record) == names for record in records):
        return Frame(tuple(names), [list(record.values()) for record in records])
    names = list(dict.fromkeys(chain.from_iterable(records)))
    _check_shape(len(records), len(names))
    return Frame(tuple(names), [[record.get(name) for name in names] for record in records])


def _length(value: Any) -> int:
    return len(value) if type(value) in (list, dict) else 0


def _longest(value: Any) -> int:
    """Return the length of the longest list or dict in a list, or among the values of a dict."""
    items = value.values() if type(value) is dict else value if type(value) is list else ()
    return max(map(_length, items), default=0)


def _has_nested(items: list[Any]) -> bool:
    return not {list, dict}.isdisjoint(map(type, items))


def _are_lists(rows: Any, width: int) -> bool:
    return type(rows) is list and set(map(type, rows)) <= {list} and set(map(len, rows)) <= {width}


def _through_pandas(read: Callable[[Any], pandas.DataFrame]) -> Frame:
    import pandas

    try:
        table = read(pandas)
        labels = [place if _plain(label) is None else label for place, label in enumerate(table.columns)]
        cells = table.to_numpy(dtype=object).tolist()
        return Frame(_names(labels), [[_plain(cell) for cell in row] for row in cells])
    except Exception as error:
        # Its type alone: pandas likes to quote the data.
        raise Undecodable("malformed", f"pandas makes no table of it ({type(error).__name__}).") from error


def _names(labels: Sequence[Any]) -> tuple[str, ...]:
    """Return labels as text, none twice: as in pandas.read_csv a second `x` becomes `x.1`."""
    names = tuple(map(str, labels))
    if len(set(names)) == len(names):
        return names
    taken: dict[str, int] = {}
    for name in names:
        free = name
        while free in taken:
            taken[name] += 1
            free = f"{name}.{taken[name]}"
        taken[free] = 0
    return tuple(taken)


def _plain(value: Any) -> Any:
    """Return a value that pandas holds as one of JSON, or as a datetime."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        return _plain(value.tolist())
    if (value != value) is not False:  # NaN and NaT differ from themselves, NA says it does not know
        return None
    if isinstance(value, datetime):
        return value.to_pydatetime(warn=False) if hasattr(value, "to_pydatetime") else value
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value if isinstance(value, float) else str(value)
