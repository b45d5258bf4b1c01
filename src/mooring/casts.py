"""What MLflow makes of a request before a model gets it: the casts of the model's signature.

MLflow itself does them here, so that they are its own. It takes a second and 100 MB to import; what needs no cast,
which is nearly everything, is told by the types of its values alone, and read without it.
"""

from __future__ import annotations

import json
import logging
import math
import struct
import warnings
from array import array
from collections.abc import Callable, Sequence
from datetime import datetime
from io import BytesIO, StringIO
from types import GenericAlias
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

_MOST_PLANS = 64
"""How many orders of columns are remembered: clients choose them."""
_WIDEST = 10_000
"""Columns beyond which a request is taken as it came: each costs what a type does, or a column of pandas."""
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_TIME = r"^(1[789]|20|21)\d\d-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{6})?)?)?\Z"
_PLAIN: dict[str, Any] = {
    "double": float | int | None,
    "float": float | Annotated[int, Meta(ge=-(2**53), le=2**53)] | None,
    "long": Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)],
    "integer": Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)],
    "boolean": bool,
    "string": str | None,
    "datetime": Annotated[str, Meta(pattern=_TIME)] | None,
    "any": Any,
}
"""The values that a column of a type may hold without needing a cast, as `dataframe_split` has them."""
_PLAIN_ITEMS: dict[str, Any] = {"double": float, "long": _PLAIN["long"], "boolean": bool, "string": str}
_PLAIN_IN_ARRAYS: dict[str, Any] = {
    # `inputs` and `instances` go through arrays of NumPy, which make "None" of null and cut NULs off a text.
    **{name: _PLAIN[name] for name in ("double", "float", "long", "integer", "boolean")},
    "string": Annotated[str, Meta(pattern=r"^([^\x00]|\x00+[^\x00])*\Z")],
}
_Rows = TypeVar("_Rows")


class CastRefused(ValueError):
    """MLflow refuses a request, and so the model was never asked this way."""


class _Table(msgspec.Struct, Generic[_Rows], forbid_unknown_fields=True):
    columns: msgspec.Raw
    data: _Rows


class Split(msgspec.Struct, Generic[_Rows], forbid_unknown_fields=True):
    """A request of `dataframe_split` and no more; its rows are of the type in brackets."""

    dataframe_split: _Table[_Rows]


class _Plan(NamedTuple):
    """How rows under some columns are read where they need no cast but one of the values of a whole column."""

    columns: tuple[str, ...]
    rows: Any
    made: tuple[tuple[int, Callable[[Sequence[Any]], list[Any]]], ...]


class _Usual(NamedTuple):
    """The columns that came last, as text, and how a whole request with these is read."""

    text: bytes
    plan: _Plan | None
    decoder: msgspec.json.Decoder[Any] | None


_columns_of = msgspec.json.Decoder(Split[msgspec.Raw]).decode
_decode_names = msgspec.json.Decoder(tuple[str, ...]).decode


class Casts:
    """The casts of a signature whose inputs are these, as `mlflow.types.Schema.to_dict` gives them.

    >>> casts = Casts([{"name": "x", "type": "double"}, {"name": "n", "type": "long"}])
    >>> casts.plain("dataframe_records", ("n", "x"), [[1, 2.5]])
    [(1, 2.5)]
    >>> casts.plain("dataframe_records", ("n", "x"), [[1, "2.5"]])  # needs MLflow
    >>> casts.given(b'{"dataframe_records": [{"n": 5.7, "x": "2.5"}]}', "application/json").to_dict("records")
    [{'x': 2.5, 'n': 5}]
    """

    def __init__(self, inputs: Sequence[dict[str, Any]]) -> None:
        self._inputs = list(inputs)
        self._named = all("name" in column for column in inputs)
        self._by_name = {column["name"]: column for column in inputs} if self._named else {}
        self._plans: dict[tuple[bool, tuple[str, ...]], _Plan | None] = {}
        self._usual: _Usual | None = None
        self._model: Any = None

    def decode_split(self, body: bytes) -> tuple[tuple[str, ...], list[tuple[Any, ...]]] | None:
        """Return the names and rows of a `dataframe_split` of which nothing needs a cast, else None."""
        usual = self._usual
        if usual is None or (found := self._decode(body, usual)) is None:
            try:
                text = bytes(_columns_of(body).dataframe_split.columns)
                if usual is not None and usual.text == text:
                    return None
                usual = self._usual = self._for(text)
            except _UNREADABLE:
                return None
            found = self._decode(body, usual)
        return found

    def plain(
        self, kind: str, columns: tuple[str, ...], rows: Sequence[Sequence[Any]]
    ) -> list[tuple[Any, ...]] | None:
        """Return rows as the model was given them if that needs no cast, else None."""
        plan = self._plan(columns, in_arrays=kind in ("inputs", "instances"))
        if plan is None:
            return None
        try:
            return _made(msgspec.convert(rows, plan.rows), plan)
        except (*_UNREADABLE, OverflowError, ValueError):
            return None

    def given(self, body: bytes, mime: str) -> Any:
        """Return what MLflow hands to the model: a DataFrame, an array or a dict of arrays. Raises CastRefused.

        `mime` is MLflow's: JSON, text/csv or application/vnd.apache.parquet.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                from mlflow.pyfunc import scoring_server

                server: Any = scoring_server  # of which some is typed, and some is not
                if self._model is None:
                    self._model = _recording(self._inputs)
                schema = self._model.metadata.get_input_schema()
                if mime == "text/csv":
                    data = server.parse_csv_input(StringIO(body.decode()), schema)
                elif mime == "application/vnd.apache.parquet":
                    data = server.parse_parquet_input(BytesIO(body))
                else:
                    request = json.loads(body)
                    known = {key: request[key] for key in server.SUPPORTED_FORMATS & request.keys()}
                    data = server.infer_and_parse_data(known, schema)
                return self._model.predict(data)
            except Exception as error:  # MLflow's, pandas' or NumPy's: whatever it is, its client got it as a 400
                raise CastRefused(f"MLflow refuses the request ({type(error).__name__})") from error

    def types(self, columns: Sequence[str]) -> list[str | None]:
        """Return the signature's types of columns, None of one that it does not name."""
        if self._named:
            return [_type(self._by_name[name]) if name in self._by_name else None for name in columns]
        if self._inputs[:1] and self._inputs[0]["type"] == "tensor":
            return [_type(self._inputs[0])] * len(columns)
        known: list[str | None] = [*map(_type, self._inputs)]
        return (known + [None] * len(columns))[: len(columns)]

    def too_wide(self, columns: Sequence[str]) -> bool:
        """Return whether a request has so many columns more than the signature that it is not worth casting."""
        return len(columns) > _WIDEST + len(self._inputs)

    def _for(self, text: bytes) -> _Usual:
        plan = self._plan(_decode_names(text), in_arrays=False)
        split: Any = Split  # its brackets are computed
        return _Usual(text, plan, None if plan is None else msgspec.json.Decoder(split[plan.rows]))

    @staticmethod
    def _decode(body: bytes, usual: _Usual) -> tuple[tuple[str, ...], list[tuple[Any, ...]]] | None:
        if usual.plan is None or usual.decoder is None:
            return None
        try:
            table = usual.decoder.decode(body).dataframe_split
            if bytes(table.columns) != usual.text:
                return None
            return usual.plan.columns, _made(table.data, usual.plan)
        except (*_UNREADABLE, OverflowError, ValueError):
            return None

    def _plan(self, columns: tuple[str, ...], *, in_arrays: bool) -> _Plan | None:
        key = in_arrays, columns
        if key not in self._plans:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            self._plans[key] = self._planned(columns, _PLAIN_IN_ARRAYS if in_arrays else _PLAIN)
        return self._plans[key]

    def _planned(self, columns: tuple[str, ...], plain: dict[str, Any]) -> _Plan | None:
        if len(set(columns)) < len(columns) or self.too_wide(columns):
            return None
        if self._named:
            if any(column.get("required", True) and column["name"] not in columns for column in self._inputs):
                return None
            if plain is _PLAIN_IN_ARRAYS and self._by_name.keys().isdisjoint(columns):
                return None  # a list without names is the one column that there is
            chosen = [self._by_name.get(name) for name in columns]
        elif plain is _PLAIN_IN_ARRAYS or len(columns) < len(self._inputs):
            return None  # of arrays, MLflow casts all columns to the type of the first
        else:
            chosen = [*self._inputs, *[None] * (len(columns) - len(self._inputs))]
        types = [Any if column is None else _plain_type(column, plain) for column in chosen]
        if None in types:
            return None
        made = [
            (place, _MADE[column["type"]])
            for place, column in enumerate(chosen)
            if column is not None and column["type"] in _MADE
        ]
        return _Plan(columns, GenericAlias(list, GenericAlias(tuple, tuple(types))), tuple(made))


def was_cast(sent: Any, given: Any, kind: str | None) -> bool:
    """Return whether a value did not come as what the signature says, and so the model was given another.

    >>> was_cast("10.5", 10.5, "double"), was_cast(5.0, 5, "long"), was_cast(5.7, 5, "long")
    (True, False, True)
    """
    if sent is None or sent != sent:
        return given is not None
    match kind:
        case "double" | "float":
            if type(sent) is int:
                return bool(sent != given)
            return type(sent) is not float or (given in (math.inf, -math.inf) and sent != given)
        case "long" | "integer":
            return type(sent) not in (int, float) or bool(sent != given)
        case "boolean":
            return type(sent) is not bool
        case "string" | "binary":
            return type(sent) is not str
        case "datetime":
            return isinstance(sent, bool | int | float | list | dict)
    return False


_SINGLE = struct.Struct("f")


def _made(rows: list[tuple[Any, ...]], plan: _Plan) -> list[tuple[Any, ...]]:
    """Return rows with float32 and times in them. Raises OverflowError or ValueError for what can't be made so."""
    if not plan.made or not rows:
        return rows
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
    for place, make in plan.made:
        columns[place] = make(columns[place])
    return list(zip(*columns, strict=True))


def _singles(values: Sequence[Any]) -> list[Any]:
    try:
        found = array("f", values).tolist()
    except TypeError:  # some are missing
        found = [math.inf]
    if all(map(math.isfinite, found)):
        return found
    pack, unpack = _SINGLE.pack, _SINGLE.unpack
    return [None if one is None else unpack(pack(one))[0] for one in values]


def _times(values: Sequence[Any]) -> list[Any]:
    return [None if one is None else datetime.fromisoformat(one) for one in values]


_MADE: dict[str, Callable[[Sequence[Any]], list[Any]]] = {"float": _singles, "datetime": _times}


def _plain_type(column: dict[str, Any], plain: dict[str, Any]) -> Any:
    if column["type"] == "array" and plain is _PLAIN:
        item = _plain_item(column["items"])
        return None if item is None else GenericAlias(list, item)
    return plain.get(column["type"])


def _plain_item(items: dict[str, Any]) -> Any:
    if items["type"] == "array":
        item = _plain_item(items["items"])
        return None if item is None else GenericAlias(list, item)
    return _PLAIN_ITEMS.get(items["type"])


_OF_NUMPY = {"float64": "double", "float32": "float", "float16": "float", "bool": "boolean", "str": "string"}


def _type(column: dict[str, Any]) -> str:
    if column["type"] != "tensor":
        return str(column["type"])
    dtype, shape = str(column["tensor-spec"]["dtype"]), column["tensor-spec"]["shape"]
    if len(shape) > (1 if "name" in column else 2):
        return "any"  # a row's part is a list
    return "long" if dtype.startswith(("int", "uint")) else _OF_NUMPY.get(dtype, "any")


def _recording(inputs: list[dict[str, Any]]) -> Any:
    """Return a model of MLflow's with these inputs that answers with what it is given."""
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import PyFuncModel
    from mlflow.types import Schema

    # It says of each request that a column is not the signature's.
    logging.getLogger("mlflow.models.utils").setLevel(logging.ERROR)
    signature = ModelSignature(inputs=Schema.from_json(json.dumps(inputs)))
    return PyFuncModel(Model(signature=signature), _Recorder())


class _Recorder:
    def predict(self, data: Any) -> Any:
        return data
