"""Where the baseline of a version lies: beside its logged model, else beside the run that it came of."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mooring.registry import versions
from mooring.registry.client import asking, connect, unless_missing

DIRECTORY = "mooring"
"""Where a run or a logged model has what Mooring put there."""
BASELINE = "baseline.mooring"
ROWS = "rows.parquet"
"""Rows of the baseline as they are, beside it."""


def find(model: str, version: str) -> bytes | None:
    """Return the baseline that was logged with a version's model, else that of its run, or None.

    Raises TrackingError.
    """
    return _find(model, version, BASELINE)


def find_rows(model: str, version: str) -> bytes | None:
    """Return the rows that were logged beside the baseline that `find` returns, or None. Raises TrackingError."""
    return _find(model, version, ROWS)


def _find(model: str, version: str, name: str) -> bytes | None:
    with asking(f"give the baseline of {model} version {version}") as client:
        one = versions.found(client, model, version)
        if one is None:
            return None
        places = [f"models:/{model}/{version}/{DIRECTORY}"]
        places += [f"runs:/{one.run_id}/{DIRECTORY}"] if one.run_id else []
        for place in places:
            there = _names_in(place)
            if BASELINE in there:
                return _read(f"{place}/{name}") if name in there else None
        return None


def log(data: bytes, rows: bytes = b"", *, run_id: str | None = None, model_id: str | None = None) -> str:
    """Log a baseline, and `rows` of it if there are any, with a logged model or with a run; return its URI.

    Raises ValueError unless one of the two is given, and what MLflow raises.
    """
    if (run_id is None) == (model_id is None):
        raise ValueError("a baseline goes with a run or with a logged model: give run_id or model_id")
    client = connect()
    with tempfile.TemporaryDirectory() as local:
        path = Path(local, DIRECTORY, BASELINE)
        path.parent.mkdir()
        path.write_bytes(data)
        if rows:
            path.with_name(ROWS).write_bytes(rows)
        if run_id is not None:
            client.log_artifacts(run_id, local)
            return f"runs:/{run_id}/{DIRECTORY}/{BASELINE}"
        client.log_model_artifacts(str(model_id), local)
        return f"models:/{model_id}/{DIRECTORY}/{BASELINE}"


def _names_in(directory: str) -> set[str]:
    import mlflow

    listed = unless_missing(lambda: mlflow.artifacts.list_artifacts(artifact_uri=directory))
    return {one.path.rpartition("/")[2] for one in listed or ()}


def _read(uri: str) -> bytes:
    import mlflow

    with tempfile.TemporaryDirectory() as local:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=local)).read_bytes()
