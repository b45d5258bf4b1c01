"""Where the baseline of a version lies: beside its logged model, else beside the run that it came of."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mooring.registry import versions
from mooring.registry.client import asking, connect, unless_missing

DIRECTORY = "mooring"
"""Where a run or a logged model has what Mooring put there."""
BASELINE = "baseline.mooring"


def find(model: str, version: str) -> bytes | None:
    """Return the baseline that was logged with a version's model, else that of its run, or None.

    Raises TrackingError.
    """
    with asking(f"give the baseline of {model} version {version}") as client:
        one = versions.found(client, model, version)
        if one is None:
            return None
        data = _read(f"models:/{model}/{version}/{DIRECTORY}")
        if data is None and one.run_id:
            data = _read(f"runs:/{one.run_id}/{DIRECTORY}")
        return data


def log(data: bytes, *, run_id: str | None = None, model_id: str | None = None) -> str:
    """Log a baseline with a logged model or with a run, where `find` finds it; return its URI.

    Raises ValueError unless one of the two is given, and what MLflow raises.
    """
    if (run_id is None) == (model_id is None):
        raise ValueError("a baseline goes with a run or with a logged model: give run_id or model_id")
    client = connect()
    with tempfile.TemporaryDirectory() as local:
        path = Path(local, DIRECTORY, BASELINE)
        path.parent.mkdir()
        path.write_bytes(data)
        if run_id is not None:
            client.log_artifacts(run_id, local)
            return f"runs:/{run_id}/{DIRECTORY}/{BASELINE}"
        client.log_model_artifacts(str(model_id), local)
        return f"models:/{model_id}/{DIRECTORY}/{BASELINE}"


def _read(directory: str) -> bytes | None:
    """Return the bytes of the baseline in a directory of artifacts, or None."""
    import mlflow

    listed = unless_missing(lambda: mlflow.artifacts.list_artifacts(artifact_uri=directory))
    if not any(one.path.rpartition("/")[2] == BASELINE for one in listed or ()):
        return None
    with tempfile.TemporaryDirectory() as local:
        path = mlflow.artifacts.download_artifacts(artifact_uri=f"{directory}/{BASELINE}", dst_path=local)
        return Path(path).read_bytes()
