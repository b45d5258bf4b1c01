"""Versions' files and environments, as the controller brings them to its machine."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from pathlib import Path

import mlflow
import numpy as np
import pytest

from disks import small_disk
from mlflow_store import new_store
from model_servers import CODE, FRAME, save_model
from mooring.serving.models import BringError, bring, example, forget
from mooring.serving.protocol import Model
from versions import NAME, register, registry_with_a_version


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    return registry_with_a_version(tmp_path, monkeypatch)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != ".lock")


def test_files_are_brought_once_and_serve_without_a_registry(store, monkeypatch):
    directory = store / "serve"
    brought = bring(NAME, "1", directory, "local")
    path = Path(brought.path)
    assert brought == Model("1", str(path))
    assert path.is_absolute()
    assert path.is_relative_to(directory)
    assert mlflow.pyfunc.load_model(str(path)).predict(FRAME).tolist() == [1.5, 2.25]
    files = {file: file.stat().st_ino for file in path.rglob("*")}

    assert bring(NAME, "1", directory, "local") == brought
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/mlflow.db")
    assert bring(NAME, "1", directory, "local") == brought
    assert {file: file.stat().st_ino for file in path.rglob("*")} == files
    with pytest.raises(BringError, match="version 2 was not brought here yet"):
        bring(NAME, "2", directory, "local")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda model: (model / "MLmodel").unlink(),
        lambda model: cut(model / "MLmodel"),
        lambda model: flip(next(model.glob("*.py"))),
        shutil.rmtree,
        lambda model: (model / "MLmodel").write_bytes(b""),
        lambda model: cut(model.with_name("origin.json")),
        lambda model: model.with_name("origin.json").unlink(),
    ],
    ids=["a file is gone", "cut", "a bit", "all are gone", "empty", "the account is cut", "the account is gone"],
)
def test_damaged_files_are_downloaded_again(store, damage, monkeypatch):
    directory = store / "serve"
    path = Path(bring(NAME, "1", directory, "local").path)
    (path / "__pycache__").mkdir()
    (path / "__pycache__" / "made.pyc").touch()
    bring(NAME, "1", directory, "local")
    assert (path / "__pycache__").exists()  # which is no damage
    before = {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    del before[Path("__pycache__/made.pyc")]

    damage(path)
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/mlflow.db")
        with pytest.raises(
            BringError, match=r"wine quality version 1 (is damaged here \(|was not brought here yet)"
        ):
            bring(NAME, "1", directory, "local")
    assert bring(NAME, "1", directory, "local").path == str(path)
    assert {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_a_version_of_the_same_number_in_another_registry_is_another(store, monkeypatch):
    directory = store / "serve"
    brought = bring(NAME, "1", directory, "local")
    Path(brought.path, "old").touch()
    other = store / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(other))
    register(other)
    assert bring(NAME, "1", directory, "local") == brought
    assert not Path(brought.path, "old").exists()
    assert names(Path(brought.path).parents[1]) == ["1"]


def test_a_download_that_was_cut_off_is_not_taken_for_a_version(store):
    directory = store / "serve"
    folder = Path(bring(NAME, "1", directory, "local").path).parents[1]
    shutil.rmtree(folder / "1" / "model")
    (folder / "1").rename(folder / ".partial-before")
    bring(NAME, "1", directory, "local")
    assert names(folder) == ["1"]


def test_what_can_not_be_brought_is_told_and_leaves_nothing(store):
    directory = store / "serve"
    with pytest.raises(BringError, match="no version 7 of wine quality"):
        bring(NAME, "7", directory, "local")
    with pytest.raises(BringError, match="versions are numbers"):
        bring(NAME, "../1", directory, "local")
    with pytest.raises(BringError, match="no version 1 of another"):
        bring("another", "1", directory, "local")

    # A file of the directory's name; and files that can't be written, as on a disk that is full.
    (store / "file").touch()
    with pytest.raises(BringError, match="can't be brought to"):
        bring(NAME, "1", store / "file", "local")
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(BringError, match="File too large"):
            bring(NAME, "1", directory, "local")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert names(next(directory.iterdir())) == []

    for found in list(store.glob("mlruns/**/MLmodel")):
        shutil.rmtree(found.parent)
    with pytest.raises(BringError, match=r"check that .* is still there|has no file MLmodel"):
        bring(NAME, "1", directory, "local")
    assert names(next(directory.iterdir())) == []


def test_a_full_disk_is_told(store):
    directory = store / "serve"
    with small_disk(directory, "16k"):
        with pytest.raises(BringError, match="there is no room for wine quality version 1: free some on the disk"):
            bring(NAME, "1", directory, "local")
        assert names(directory / "wine=20quality") == []


def test_versions_that_nobody_needs_are_removed(store):
    directory = store / "serve"
    for _ in range(2):
        register(store)
    folder = Path(bring(NAME, "1", directory, "local").path).parents[1]
    for version in ("2", "3"):
        bring(NAME, version, directory, "local")
    forget(NAME, {"2", "9"}, directory)
    assert names(folder) == ["2"]
    forget("never seen", set(), directory)


def test_the_input_example_is_a_scoring_request(tmp_path):
    path = save_model(tmp_path)
    assert json.loads(example(path)) == {
        "dataframe_split": {"columns": ["a", "b"], "data": [[1.0, 0.5], [2.0, 0.25]]}
    }


@pytest.mark.parametrize(
    "given", [FRAME, np.array([[1.0, 2.0]]), {"a": np.array([1.0])}, [1, 2], "text", (FRAME, {"do": "x"}), None]
)
def test_of_older_models_too(given, tmp_path):
    code = tmp_path / "code.py"
    code.write_text(CODE)
    path = tmp_path / "model"
    mlflow.pyfunc.save_model(path, python_model=code, input_example=given, pip_requirements=[])
    body = example(path)
    assert (body is None) == (given is None)
    # As MLflow before 2.16 has left it.
    text = (path / "MLmodel").read_text()
    (path / "MLmodel").write_text("".join(line for line in text.splitlines(True) if "serving_input_" not in line))
    (path / "serving_input_example.json").unlink(missing_ok=True)
    assert body is None or json.loads(example(path)) == json.loads(body)
