"""The fields of a registered model from its signature, asked of MLflow in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from mooring.log.schema import Fields

_SECONDS = 60.0
_KINDS = {
    **dict.fromkeys(("integer", "long", "float", "double"), "double"),
    "boolean": "boolean",
    "string": "string",
    "binary": "string",
    "datetime": "timestamp",
}
# MLflow takes 200 MB and seconds to import; the drain lives on without it.
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
    if "MLFLOW_TRACKING_URI" not in os.environ and not os.path.exists("mlflow.db") and not os.path.isdir("mlruns"):
        return None  # asking would make a new, empty store here
    try:
        asked = subprocess.run(
            [sys.executable, "-P", "-W", "ignore", "-c", _ASK, model],
            capture_output=True,
            timeout=_SECONDS,
            check=True,
        )
        inputs, outputs = json.loads(asked.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    fields = Fields(_kinds(inputs), _kinds(outputs))
    if len(outputs) == 1:
        return Fields(fields.input, dict.fromkeys(["prediction"], next(iter(fields.output.values()))))
    return Fields(fields.input, {f"prediction.{name}": kind for name, kind in fields.output.items()})


def _kinds(columns: list[list[str]]) -> dict[str, str]:
    return {name: _KINDS.get(kind.lower(), "json") for name, kind in columns}
