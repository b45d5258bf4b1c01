"""The fields of a registered model from its signature, as MLflow knows it."""

from __future__ import annotations

from mooring.log.schema import Fields
from mooring.registry import RegistryError, ask

_KINDS = {
    **dict.fromkeys(("integer", "long", "float", "double"), "double"),
    "boolean": "boolean",
    "string": "string",
    "binary": "string",
    "datetime": "timestamp",
}
_ASK = """
import json, sys
import mlflow
client = mlflow.MlflowClient()
name = sys.argv[1]
versions = client.search_model_versions(f"name='{name}'", order_by=["version_number DESC"], max_results=1)
signature = versions and mlflow.models.get_model_info(f"models:/{name}/{versions[0].version}").signature
print(json.dumps([
    [[column.name, getattr(column.type, "name", str(column.type))] for column in (schema or [])]
    if schema is not None and schema.has_input_names() else []
    for schema in ((signature.inputs, signature.outputs) if signature else (None, None))
]))
"""


def fields_of(model: str) -> Fields | None:
    """Return the fields of the newest version of a registered model; None if MLflow knows none.

    A single output is called `prediction` in the log, whatever the signature calls it.
    """
    if model == "default" or "'" in model:
        return None
    try:
        inputs, outputs = ask(_ASK, model)
    except RegistryError:
        return None
    fields = Fields(_kinds(inputs), _kinds(outputs))
    if len(outputs) == 1:
        return Fields(fields.input, dict.fromkeys(["prediction"], next(iter(fields.output.values()))))
    return Fields(fields.input, {f"prediction.{name}": kind for name, kind in fields.output.items()})


def integers_of(model: str) -> list[str]:
    """Return which inputs and outputs of a registered model are integers; none where MLflow does not know it."""
    if model == "default" or "'" in model:
        return []
    try:
        inputs, outputs = ask(_ASK, model)
    except RegistryError:
        return []
    if len(outputs) == 1:
        outputs = [["prediction", outputs[0][1]]]
    return [name for name, kind in (*inputs, *outputs) if kind.lower() in ("integer", "long")]


def _kinds(columns: list[list[str]]) -> dict[str, str]:
    return {name: _KINDS.get(kind.lower(), "json") for name, kind in columns}
