"""The schema of the log: the columns that Mooring gives every row, and the types of a model's own fields."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from mooring.log import store

if TYPE_CHECKING:
    from obstore.store import ObjectStore

TIME = pa.timestamp("us", tz="UTC")
MAX_FIELDS = 5000
"""How many fields a model's inputs or outputs may have in columns of their own; others are kept as JSON."""

PAYLOADS = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("client_request_id", pa.string()),
        pa.field("time", TIME, nullable=False),
        pa.field("duration_ns", pa.int64(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("status", pa.int32(), nullable=False),
        pa.field("request_type", pa.string(), nullable=False),
        pa.field("request_encoding", pa.string(), nullable=False),
        pa.field("response_type", pa.string(), nullable=False),
        pa.field("response_encoding", pa.string(), nullable=False),
        pa.field("request", pa.binary(), nullable=False),
        pa.field("response", pa.binary(), nullable=False),
        pa.field("headers", pa.string(), nullable=False),
        pa.field("model_version", pa.string()),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("sampling", pa.float64(), nullable=False),
        pa.field("errors", pa.list_(pa.string()), nullable=False),
        pa.field("reason", pa.string()),
    ]
)
"""One row an exchange. `reason` says why it has no rows in `inferences`."""

INFERENCES = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("client_request_id", pa.string()),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("request_rows", pa.int32(), nullable=False),
        pa.field("time", TIME, nullable=False),
        pa.field("model_version", pa.string()),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("sampling", pa.float64(), nullable=False),
        pa.field("misfits", pa.string()),
    ]
)
"""One row a scored row, followed by the structs `input` and `output`.

`misfits` is JSON, `{"input": {…}, "output": {…}}`, of the values that have no place in those.
"""


Kinds = dict[str, str]
ARROW = {
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "string": pa.string(),
    "timestamp": TIME,
    "json": pa.string(),
}
"""The kinds of fields. `json` is for what is nested, as text; every number is a double, since no reader widens an
int to a double later."""


class Fields(NamedTuple):
    """The kinds of a model's input and output fields, by name, in their order."""

    input: Kinds
    output: Kinds

    def arrow(self) -> pa.Schema:
        """Return the schema of the model's inferences.

        A struct without fields can't be written to Parquet, so one that has none is left out.
        """
        schema = INFERENCES
        for name, kinds in zip(self._fields, self, strict=True):
            if kinds:
                struct = pa.struct([pa.field(field, ARROW[kind]) for field, kind in kinds.items()])
                schema = schema.append(pa.field(name, struct))
        return schema


def infer(values: Iterable[Any]) -> str | None:
    """Return the kind of a field from its values, None where they are all missing.

    >>> infer([None, 1, 2.5]), infer([True]), infer(["a"]), infer([[1], 2]), infer([None])
    ('double', 'boolean', 'string', 'json', None)
    """
    types = {type(value) for value in values} - {type(None)}
    if not types:
        return None
    if types <= {int, float}:
        return "double"
    if types == {bool}:
        return "boolean"
    if types == {str}:
        return "string"
    if all(issubclass(one, datetime) for one in types):
        return "timestamp"
    return "json"


def infer_fields(columns: Mapping[str, Sequence[Any]]) -> Kinds:
    """Return the kinds of the columns that have a value."""
    kinds = {name: infer(values) for name, values in columns.items()}
    return {name: kind for name, kind in kinds.items() if kind is not None}


class Recorded:
    """A model's schema as the log has recorded it: it grows by fields, and a field's kind never changes.

    It lies in `schemas/model=NAME/NUMBER.json`, a new object each time that it grows: whoever is first to write
    one decides, and everybody else follows.
    """

    def __init__(self, log: ObjectStore, uri: str, model: str) -> None:
        self._log = log
        self._uri = uri
        self._prefix = f"schemas/model={model}"
        self._number = 0
        self.fields = Fields({}, {})
        self._follow()

    @property
    def is_new(self) -> bool:
        """Whether nothing has been recorded yet."""
        return self._number == 0

    def extend(self, found: Fields) -> Fields:
        """Record the fields in `found` that are new, and return all. Raises StoreError where the log refuses."""
        while (fields := merge(self.fields, found)) != self.fields:
            if store.put_if_absent(self._log, self._path(), dump(fields), self._uri):
                self._number += 1
                self.fields = fields
            else:
                self._follow()
        return self.fields

    def _follow(self) -> None:
        while (content := store.get(self._log, self._path(), self._uri)) is not None:
            self.fields = load(content)
            self._number += 1

    def _path(self) -> str:
        return f"{self._prefix}/{self._number + 1:06d}.json"


def merge(fields: Fields, found: Fields) -> Fields:
    """Return `fields` and those of `found` that it lacks, as far as there is room.

    >>> merge(Fields({"a": "double"}, {}), Fields({"a": "string", "b": "string"}, {}))
    Fields(input={'a': 'double', 'b': 'string'}, output={})
    """
    merged = []
    for known, more in zip(fields, found, strict=True):
        new = [(name, kind) for name, kind in more.items() if name not in known]
        merged.append({**known, **dict(new[: max(0, MAX_FIELDS - len(known))])})
    return Fields(*merged)


def dump(fields: Fields) -> bytes:
    """Return `fields` as JSON."""
    return json.dumps({part: list(kinds.items()) for part, kinds in fields._asdict().items()}, indent=1).encode()


def load(content: bytes) -> Fields:
    """Return the fields that `dump` wrote."""
    document = json.loads(content)
    return Fields(*(dict(document[part]) for part in Fields._fields))
