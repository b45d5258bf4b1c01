"""The schema of the log: the columns that Mooring gives every row, and the types of a model's own fields."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mooring.log import store

if TYPE_CHECKING:
    from obstore.store import ObjectStore

TIME = pa.timestamp("us", tz="UTC")
MAX_FIELDS = 5000
"""How many fields a model's inputs or outputs may have in columns of their own; others are kept as JSON."""
AT_ONCE = 1000
"""Up to how many fields one request may add by itself."""
_TIMES_AS_OFTEN = 4
MAX_NAMED = 20_000
"""How many names that are no fields yet are counted, of inputs and of outputs each."""
_LONGEST_NAME = 512

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
        pa.field("unanswered", pa.string()),
    ]
)
"""One row a scored row, followed by the structs `input` and `output`.

`unanswered` is the code for why a row has no output of its own, null where it has one. `misfits` is JSON,
`{"input": {…}, "output": {…}}`, of the values that have no place in those.
"""


Kinds = dict[str, str]
ARROW = {
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "string": pa.string(),
    "timestamp": TIME,
    "tensor": pa.struct([pa.field("values", pa.list_(pa.float64())), pa.field("shape", pa.list_(pa.int32()))]),
    "json": pa.string(),
}
"""The kinds of fields. Every number is a double, since no reader widens an int to a double later; a `tensor` is a
list of numbers, or one of such lists, all of one length, flat in row-major order beside its shape; `json` is for
whatever else is nested, as text."""


class SchemaFields(NamedTuple):
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

    NaN is what pandas and NumPy write for anything that is missing, and so makes no number of a field.

    >>> infer([None, 1, 2.5]), infer([True]), infer(["a"]), infer([[1], 2]), infer([None])
    ('double', 'boolean', 'string', 'json', None)
    >>> infer([float("nan"), "a"]), infer([float("nan")]), infer([[[1, 2], [3, 4]], None])
    ('string', None, 'tensor')
    """
    values = list(values)
    types = {type(value) for value in values} - {type(None)}
    if float in types and int not in types and all(value != value for value in values if type(value) is float):
        types.remove(float)
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
    if types == {list}:
        tensors = [as_tensor(value) for value in values if value is not None]
        if all(one is not None for one in tensors) and any(one is not None and one.size for one in tensors):
            return "tensor"
    return "json"


def as_tensor(value: Any) -> npt.NDArray[np.float64] | None:
    """Return nested lists of numbers as an array; None for what is none.

    >>> as_tensor([[1, 2.5], [3, float("nan")]]).shape, as_tensor([[1], [2, 3]]), as_tensor(["1"])
    ((2, 2), None, None)
    """
    if type(value) is not list:
        return None
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):  # lists of several lengths
        return None
    return array.astype(np.float64) if array.dtype.kind in "iuf" else None


class Named:
    """How many requests named each field that is not in a schema yet; bounded, so counts may be too low.

    Of more than MAX_NAMED names the rarest are dropped, and the others counted down by as much (Misra and Gries
    1982, as Agarwal et al. 2013 merge their summaries): what more than one in MAX_NAMED requests names stays.

    >>> Named().with_more({"a": 3, "b": 1}).with_more({"a": 1}).counts
    {'a': 4, 'b': 1}
    """

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self.counts: dict[str, int] = dict(counts or {})

    def with_more(self, more: Mapping[str, int]) -> Named:
        """Return these counts and those of further requests: of each name, how many had it."""
        counts = dict(self.counts)
        for name, times in more.items():
            if len(name) <= _LONGEST_NAME:
                counts[name] = counts.get(name, 0) + times
        if len(counts) > MAX_NAMED:
            less = sorted(counts.values(), reverse=True)[MAX_NAMED]
            counts = {name: times - less for name, times in counts.items() if times > less}
        return Named(counts)


def taken(known: Mapping[str, str], named: Mapping[str, int], found: Mapping[str, str]) -> Kinds:
    """Return the fields in `found` that enough requests have named, those of most requests first.

    While a model has fewer than AT_ONCE fields, those are enough that four requests name; each further AT_ONCE
    fields take four times as many.

    >>> taken({}, {"a": 4, "b": 3, "c": 9}, {"a": "double", "b": "double", "c": "string"})
    {'c': 'string', 'a': 'double'}
    """
    fields: Kinds = {}
    for name in sorted(found, key=lambda one: -named.get(one, 0)):
        size = len(known) + len(fields)
        if size >= MAX_FIELDS or named.get(name, 0) < _TIMES_AS_OFTEN ** max(1, size // AT_ONCE):
            break
        fields[name] = found[name]
    return fields


def as_lists(tensors: pa.Array) -> list[Any]:
    """Return tensors of the log as nested lists.

    >>> as_lists(pa.array([{"values": [1.0, 2.0], "shape": [1, 2]}, None], ARROW["tensor"]))
    [[[1.0, 2.0]], None]
    """
    return [
        None if one is None else np.reshape(one["values"], one["shape"]).tolist() for one in tensors.to_pylist()
    ]


def as_nested(tensors: pa.Array | pa.ChunkedArray, kind: pa.ListType) -> pa.Array:
    """Return tensors of the log, all of as many dimensions as `kind` is deep, as lists in lists of that type.

    >>> two = pa.array([{"values": [1.0, 2.0], "shape": [1, 2]}, None], ARROW["tensor"])
    >>> as_nested(two, pa.list_(pa.list_(pa.float64()))).to_pylist()
    [[[1.0, 2.0]], None]
    """
    if isinstance(tensors, pa.ChunkedArray):
        return pa.chunked_array([as_nested(chunk, kind) for chunk in tensors.chunks], kind)
    depth, there = 0, tensors.is_valid().to_numpy(zero_copy_only=False)
    while pa.types.is_list(kind):
        depth, kind = depth + 1, kind.value_type
    values, shapes = tensors.flatten()  # what is null in the struct is so in its parts
    sizes = shapes.flatten().to_numpy().reshape(-1, depth).astype(np.int64)
    lists: pa.Array = values.flatten()
    for axis in range(depth - 1, 0, -1):
        lengths = np.repeat(sizes[:, axis], sizes[:, :axis].prod(axis=1))
        lists = pa.ListArray.from_arrays(np.cumsum([0, *lengths], dtype=np.int32), lists)
    lengths = np.zeros(len(tensors), np.int64)
    lengths[there] = sizes[:, 0]
    return pa.ListArray.from_arrays(np.cumsum([0, *lengths], dtype=np.int32), lists, mask=pa.array(~there))


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
        self.fields = SchemaFields({}, {})
        self.named = Named(), Named()
        self._follow()

    @property
    def is_new(self) -> bool:
        """Whether nothing has been recorded yet."""
        return self._number == 0

    def extend(self, found: SchemaFields) -> SchemaFields:
        """Record the fields in `found` that are new, and return all. Raises StoreError where the log refuses."""
        while (fields := merge(self.fields, found)) != self.fields:
            if store.put_if_absent(self._log, self._path(), dump(fields), self._uri):
                self._number += 1
                self.fields = fields
            else:
                self._follow()
        return self.fields

    def take(self, found: Sequence[tuple[int, SchemaFields]]) -> SchemaFields:
        """Record new fields that may be, and return all. Raises StoreError where the log refuses.

        `found` are the fields that are new, and how many requests had just these. Those of a request are taken at
        once while the model has AT_ONCE with them at most, others once enough requests have named them: see
        `taken`. So one request can't fill the schema with names that no other has.
        """
        new = SchemaFields({}, {})
        counted = []
        for part, named in enumerate(self.named):
            known = self.fields[part]
            kinds: Kinds = {}
            times: dict[str, int] = {}
            for requests, fields in found:
                fresh = {name: kind for name, kind in fields[part].items() if name not in known}
                for name, kind in fresh.items():
                    kinds[name] = kind if kinds.get(name, kind) == kind else "json"
                if len(known) + len(new[part].keys() | fresh.keys()) <= AT_ONCE:
                    new[part].update(fresh)
                else:
                    for name in fresh:
                        times[name] = times.get(name, 0) + requests
            named = named.with_more(times)
            counted.append(named)
            rest = {name: kind for name, kind in kinds.items() if name not in new[part]}
            new[part].update(taken({**known, **new[part]}, named.counts, rest))
            new[part].update({name: kinds[name] for name in new[part]})
        self.named = (counted[0], counted[1])
        return self.extend(new)

    def _follow(self) -> None:
        while (content := store.get(self._log, self._path(), self._uri)) is not None:
            self.fields = load(content)
            self._number += 1

    def _path(self) -> str:
        return f"{self._prefix}/{self._number + 1:06d}.json"


def merge(fields: SchemaFields, found: SchemaFields) -> SchemaFields:
    """Return `fields` and those of `found` that it lacks, as far as there is room.

    >>> merge(SchemaFields({"a": "double"}, {}), SchemaFields({"a": "string", "b": "string"}, {}))
    SchemaFields(input={'a': 'double', 'b': 'string'}, output={})
    """
    merged = []
    for known, more in zip(fields, found, strict=True):
        new = [(name, kind) for name, kind in more.items() if name not in known]
        merged.append({**known, **dict(new[: max(0, MAX_FIELDS - len(known))])})
    return SchemaFields(*merged)


def dump(fields: SchemaFields) -> bytes:
    """Return `fields` as JSON."""
    return json.dumps({part: list(kinds.items()) for part, kinds in fields._asdict().items()}, indent=1).encode()


def load(content: bytes) -> SchemaFields:
    """Return the fields that `dump` wrote."""
    document = json.loads(content)
    return SchemaFields(*(dict(document[part]) for part in SchemaFields._fields))
