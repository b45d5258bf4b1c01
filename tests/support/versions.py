"""A registry, and versions in it, of the model that does what it is told."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest

from mlflow_store import new_store
from model_servers import CODE, signed

NAME = "wine quality"


def registry_with_a_version(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a registry with one version in a directory, and work there with it; return the directory."""
    monkeypatch.chdir(directory)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(directory))
    register(directory)
    return directory


def register(directory: Path, name: str = NAME, **options) -> str:
    """Register the model in the store of the environment, and return its version."""
    code = directory / "obedient.py"
    code.write_text(CODE)
    options = {**signed(), **options}
    return str(
        mlflow.pyfunc.log_model(
            name="model", python_model=code, registered_model_name=name, **options
        ).registered_model_version
    )
