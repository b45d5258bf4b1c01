"""The signatures of registered models, as MLflow knows them: asked once for each version, and kept in the log."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mooring.casts import Casts
from mooring.log import store
from mooring.log.schema import Kinds, SchemaFields
from mooring.registry import signatures
from mooring.registry.client import TrackingError
from mooring.registry.process import ask

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_KINDS = {
    **dict.fromkeys(("integer", "long", "float", "double"), "double"),
    "boolean": "boolean",
    "string": "string",
    "binary": "string",
    "datetime": "timestamp",
}
_MOST_KNOWN = 256
_ASK_AGAIN_SECONDS = 60.0, 3600.0


class Signature(msgspec.Struct, frozen=True):
    """What a version takes and returns, as `mlflow.types.Schema.to_dict` has it; None for nothing.

    What is made of type hints checks requests only, and casts nothing.
    """

    inputs: list[dict[str, Any]] | None
    outputs: list[dict[str, Any]] | None
    from_type_hints: bool = False

    @property
    def fields(self) -> SchemaFields:
        """The fields of the log. A single output is called `prediction` there, whatever the signature calls it.

        >>> Signature([{"name": "x", "type": "long"}], [{"name": "y", "type": "string"}]).fields
        SchemaFields(input={'x': 'double'}, output={'prediction': 'string'})
        """
        return SchemaFields(_kinds(_named(self.inputs)), _kinds(_as_outputs(_named(self.outputs))))

    def of_type(self, *types: str) -> list[str]:
        """Return which inputs and outputs are of one of MLflow's types, by the names that the log has for them.

        >>> Signature([{"name": "x", "type": "float"}, {"name": "k", "type": "long"}], None).of_type("float")
        ['x']
        """
        outputs = self.outputs or []
        named = [*_named(self.inputs), *_as_outputs(outputs if len(outputs) == 1 else _named(outputs))]
        return [column["name"] for column in named if column["type"] in types]

    @property
    def casts(self) -> Casts | None:
        """What MLflow makes of requests by this signature, None where it takes them as they come."""
        return Casts(self.inputs) if self.inputs and not self.from_type_hints else None


Ask = Callable[[str, str | None], Signature | None]


class _Known(NamedTuple):
    fields: SchemaFields
    casts: Casts | None


class Signatures:
    """The signatures of models' versions, in a log.

    A version's lies in `schemas/model=NAME/version-3.json`: it never changes. For requests that name no version of
    MLflow's it is that of the newest, asked once a day: `newest-2026-03-01.json`. Where MLflow does not answer it
    is asked again after a minute, later after up to an hour.
    """

    def __init__(self, log: ObjectStore, uri: str, ask: Ask) -> None:
        self._log = log
        self._uri = uri
        self._ask = ask
        self._known: dict[tuple[str, str], _Known] = {}
        self._unknown: dict[tuple[str, str], float] = {}
        self._silent_until = 0.0
        self._silence = _ASK_AGAIN_SECONDS[0]

    def of(self, model: str, folder: str, version: str | None) -> _Known | None:
        """Return the fields and casts of a version, None where MLflow knows none. Raises StoreError."""
        number = version if version and version.isascii() and version.isdecimal() else None
        name = f"version-{number}" if number else f"newest-{datetime.now(UTC).date().isoformat()}"
        known = self._known.get((model, name))
        if known is None and (signature := self._find(model, f"schemas/model={folder}/{name}.json", number)):
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            known = self._known[model, name] = _Known(signature.fields, signature.casts)
        return known

    def _find(self, model: str, path: str, number: str | None) -> Signature | None:
        now = time.monotonic()
        if now < self._unknown.get((model, path), 0.0):
            return None
        if (content := store.get(self._log, path, self._uri)) is not None:
            return msgspec.json.decode(content, type=Signature)
        if now < self._silent_until:
            return None
        try:
            signature = self._ask(model, number)
        except TrackingError:
            self._silent_until = time.monotonic() + self._silence
            self._silence = min(2 * self._silence, _ASK_AGAIN_SECONDS[1])
            return None
        self._silence = _ASK_AGAIN_SECONDS[0]
        if signature is None:
            if len(self._unknown) >= _MOST_KNOWN:
                self._unknown.clear()
            self._unknown[model, path] = time.monotonic() + _ASK_AGAIN_SECONDS[1]
            return None
        store.put_if_absent(self._log, path, msgspec.json.encode(signature), self._uri)
        return signature


def ask_mlflow(model: str, version: str | None) -> Signature | None:
    """Return the signature of a version of a registered model, or of its newest; None if MLflow knows none.

    Raises TrackingError where MLflow does not answer.
    """
    answer = ask(signatures.of_version, model, version or "")
    return None if answer is None else msgspec.convert(answer, Signature)


def integers_of(model: str) -> list[str]:
    """Return which inputs and outputs of a registered model are integers; none where MLflow does not know it."""
    if model == "default":
        return []
    try:
        signature = ask_mlflow(model, None)
    except TrackingError:
        return []
    return signature.of_type("integer", "long") if signature is not None else []


def single_floats(*, run_id: str | None = None, model_id: str | None = None) -> list[str]:
    """Return which columns a logged model, or the newest one of a run, takes or gives as float32 by its signature.

    MLflow is asked in this process, as whoever logs a baseline has it. None where there is no such model, or it
    has no signature.
    """
    found = signatures.of_logged_model(run_id=run_id, model_id=model_id)
    return [] if found is None else msgspec.convert(found, Signature).of_type("float")


def _named(columns: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    return columns if columns and all("name" in column for column in columns) else []


def _as_outputs(columns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return outputs by the names that the log has for them."""
    if len(columns) == 1:
        return [{**columns[0], "name": "prediction"}]
    return [{**column, "name": f"prediction.{column['name']}"} for column in columns]


def _kinds(columns: list[dict[str, Any]]) -> Kinds:
    return {column["name"]: _kind(column) for column in columns}


def _kind(column: dict[str, Any]) -> str:
    """Return the kind of a field. Of a tensor the first dimension is that of rows."""
    if column["type"] == "tensor":
        dtype, shape = column["tensor-spec"]["dtype"], column["tensor-spec"]["shape"]
        numbers = dtype.startswith(("int", "uint", "float"))
        return ("tensor" if len(shape) > 1 else "double") if numbers else "json"
    items = column
    while items["type"] == "array":
        items = items["items"]
    if items is not column and _KINDS.get(items["type"]) == "double":
        return "tensor"
    return _KINDS.get(column["type"], "json")
