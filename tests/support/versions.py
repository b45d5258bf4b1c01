"""A version in a registry."""

from __future__ import annotations

from pathlib import Path

import mlflow

from model_servers import CODE, signed

NAME = "wine quality"


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
