"""A directory that is configured to retrain, and commands run in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from commands import mooring_here
from mooring.settings import RetrainSettings
from mooring.state.state import State
from retraining import MODEL, TRAIN, judged, labelled_log

TRAINS = (sys.executable, "train.py", "{data}")


def configured(directory: Path, command: Sequence[str] | str | None = TRAINS, **retrain: Any) -> None:
    own = {} if command is None else {"command": command if isinstance(command, str) else list(command)}
    chosen = {**own, "label": "quality", **retrain}
    content = {"model": MODEL, "log": "log", "state": "sqlite:///state.db", "retrain": chosen}
    content["gate"] = {"latency": 1e6}  # it is up to what else this machine does
    (directory / "mooring.yaml").write_text(json.dumps(content))


def due(directory: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fill a directory, which becomes the current one, so that a retraining is due there; return it.

    It has a copy of the MLflow store in `trained`, a labelled log, and a state that calls for retraining.
    """
    database = directory / "mlflow.db"
    database.write_bytes((trained / "mlflow.db").read_bytes())
    (directory / "train.py").write_text(TRAIN)
    labelled_log(directory / "log")
    configured(directory)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    monkeypatch.chdir(directory)
    with State(f"{directory}/state.db") as state:
        judged(state, ["critical"] * 5)
    return directory


def mooring(*arguments: str, cwd: Path, code: int = 0) -> str:
    done = mooring_here(*arguments, directory=cwd)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def champion() -> str:
    import mlflow

    return str(mlflow.MlflowClient().get_model_version_by_alias(MODEL, "champion").version)


def settings(**changed: Any) -> RetrainSettings:
    return RetrainSettings(**{"model": MODEL, "retrain_command": "train {data}", **changed})
