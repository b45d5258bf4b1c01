"""A directory that is configured to retrain, and commands run in it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mooring.config import RetrainSettings
from retraining import MODEL
from waiting import PATIENCE

TRAINS = (sys.executable, "train.py", "{data}")


def configured(directory: Path, command: Sequence[str] | str | None = TRAINS, **retrain: Any) -> None:
    own = {} if command is None else {"command": command if isinstance(command, str) else list(command)}
    chosen = {**own, "label": "quality", **retrain}
    content = {"model": MODEL, "log": "log", "state": "sqlite:///state.db", "retrain": chosen}
    content["gate"] = {"latency": 1e6}  # it is up to what else this machine does
    (directory / "mooring.yaml").write_text(json.dumps(content))


def mooring(*arguments: str, cwd: Path, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mooring", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def champion() -> str:
    import mlflow

    return str(mlflow.MlflowClient().get_model_version_by_alias(MODEL, "champion").version)


def settings(**changed: Any) -> RetrainSettings:
    return RetrainSettings(**{"model": MODEL, "retrain_command": "train {data}", **changed})
