"""What MLflow's registry knows, asked in a process of its own: MLflow takes seconds and 200 MB to import.

And where a baseline lies beside a model or its run, for those who write it and those who look for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DIRECTORY = "mooring"
"""Where a run or a logged model has what Mooring put there."""
BASELINE = "baseline.mooring"
_SECONDS = 60.0
NO_STORE = "MLFLOW_TRACKING_URI is not set, and there is no mlflow.db in this directory"
_RESOLVE = """
import json, sys
from mooring.registry.process import NO_STORE, has_store
if not has_store():
    sys.exit(NO_STORE)
import mlflow
name, alias, version = sys.argv[1:]
client = mlflow.MlflowClient()
if alias:
    version = client.get_model_version_by_alias(name, alias).version
else:
    client.get_model_version(name, version)
print(json.dumps(str(version)))
"""


class RegistryError(Exception):
    """MLflow's registry does not answer, or does not know the model; the message is its own."""


def has_store() -> bool:
    """Return whether MLflow has a store to ask. Where it has none, asking would make a new, empty one here."""
    return "MLFLOW_TRACKING_URI" in os.environ or any(map(os.path.exists, ("mlflow.db", "mlruns")))


def ask(code: str, *arguments: str) -> Any:
    """Run `code` in a process of its own, and return the JSON that it prints last. Raises RegistryError."""
    if not has_store():
        raise RegistryError(NO_STORE)
    command = _command(code, *arguments)
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise RegistryError(f"MLflow does not answer within {_SECONDS:.0f} seconds") from None
    if asked.returncode != 0:
        raise RegistryError(asked.stderr.strip().rpartition("\n")[2] or "MLflow gave no reason")
    try:
        return json.loads(asked.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        raise RegistryError(f"MLflow answered {asked.stdout[-200:]!r}") from None


def _command(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-W", "ignore", "-c", code, *arguments]


def question(uri: str) -> list[str]:
    """Return the command that prints the version of the model at `uri` as JSON, for those who can't wait for it.

    Where it fails, the last line on stderr says why. Raises ValueError for a URI that names no version.
    """
    return _command(_RESOLVE, *split_uri(uri))


def split_uri(uri: str) -> tuple[str, str, str]:
    """Return the name, alias and version of a model's URI. Raises ValueError if it names no alias or version.

    >>> split_uri("models:/wine@champion"), split_uri("models:/wine/3")
    (('wine', 'champion', ''), ('wine', '', '3'))
    """
    name, at, alias = uri.removeprefix("models:/").partition("@")
    if at and name and alias:
        return name, alias, ""
    name, _, version = name.partition("/")
    if name and version.isdigit():
        return name, "", version
    raise ValueError(f"{uri} names no version: it looks like models:/NAME@ALIAS or models:/NAME/3")


def log_baseline_artifact(data: bytes, *, run_id: str | None = None, model_id: str | None = None) -> str:
    """Log a baseline with a logged model or with a run, where `Tracking.find_baseline` finds it; return its URI.

    Raises ValueError unless one of the two is given, and what MLflow raises.
    """
    if (run_id is None) == (model_id is None):
        raise ValueError("a baseline goes with a run or with a logged model: give run_id or model_id")
    import mlflow

    client = mlflow.MlflowClient()
    with tempfile.TemporaryDirectory() as local:
        path = Path(local, DIRECTORY, BASELINE)
        path.parent.mkdir()
        path.write_bytes(data)
        if run_id is not None:
            client.log_artifacts(run_id, local)
            return f"runs:/{run_id}/{DIRECTORY}/{BASELINE}"
        client.log_model_artifacts(str(model_id), local)
        return f"models:/{model_id}/{DIRECTORY}/{BASELINE}"
