"""Registries of MLflow's with versions of a model, wine, and who of them is the champion."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from mlflow_store import new_store


def make_registry(directory: Path, versions: int = 4) -> Path:
    """Make mlflow.db in a directory, with versions of which the first is the champion; return the directory."""
    mlflow.set_tracking_uri(new_store(directory))
    try:
        client = MlflowClient()
        client.create_registered_model("wine")
        for number in range(1, versions + 1):
            source = directory / "models" / f"{number}"
            source.mkdir(parents=True)
            (source / "MLmodel").write_text("flavors: {}\n")
            run = client.create_run("0")
            client.create_model_version("wine", source=f"file://{source}", run_id=run.info.run_id)
        client.set_registered_model_alias("wine", "champion", "1")
    finally:
        mlflow.set_tracking_uri(None)
    return directory


def copied_registry(template: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """Copy a registry into a directory, work there with the copy, and return a client of it."""
    shutil.copy(template / "mlflow.db", directory)
    uri = f"sqlite:///{directory}/mlflow.db"
    monkeypatch.chdir(directory)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return MlflowClient(tracking_uri=uri)


def champion_and_challenger(directory: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """Make a registry in a directory with two versions, each from a run: 1 is the champion, 2 the challenger."""
    monkeypatch.chdir(directory)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(directory))
    client = MlflowClient()
    client.create_registered_model("wine")
    for _ in range(2):
        new_version(client)
    client.set_registered_model_alias("wine", "champion", "1")
    with pytest.warns(FutureWarning):
        client.transition_model_version_stage("wine", "1", "Production")
    client.set_registered_model_alias("wine", "challenger", "2")
    return client


def new_version(
    client: MlflowClient, tags: dict[str, str] | None = None, run_tags: dict[str, str] | None = None
) -> str:
    """Register a version that comes from a run, and return its number."""
    run = client.create_run("0", tags=run_tags)
    made = client.create_model_version("wine", source=run.info.artifact_uri, run_id=run.info.run_id, tags=tags)
    return str(made.version)


def challenge(client: MlflowClient, version: str) -> None:
    """Make a version the challenger, as the gate does."""
    client.set_model_version_tag("wine", version, "mooring.gate", "passed")
    client.set_registered_model_alias("wine", "challenger", version)


def aliases(client: MlflowClient) -> dict[str, str]:
    return {name: str(of) for name, of in client.get_registered_model("wine").aliases.items()}
