"""How MLflow's errors are told, and how long commands let it try."""

from __future__ import annotations

import os

import pytest
from click.testing import CliRunner

from mooring.cli import main
from mooring.registry.aliases import Moved
from mooring.registry.client import IMPATIENT, TrackingError, asking
from mooring.registry.versions import Missing


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@mlflow.test")


@pytest.mark.parametrize(
    "error", [OSError("http://ann:secret@mlflow.test is away\nfor long"), KeyError("x"), ValueError("")]
)
def test_whatever_is_raised_is_told_with_what_was_asked_and_without_a_password(store, error):
    told = r"MLflow at http://mlflow\.test does not tell it: "
    with pytest.raises(TrackingError, match=told) as raised, asking("tell it"):
        raise error
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", [Missing("wine", "3"), Moved("wine", None, "1"), TrackingError("as it is")])
def test_what_is_told_already_stays_as_it_is(store, error):
    with pytest.raises(type(error)) as raised, asking("tell it"):
        raise error
    assert raised.value is error


def test_what_is_no_error_passes(store):
    with pytest.raises(KeyboardInterrupt), asking("tell it"):
        raise KeyboardInterrupt


def test_commands_let_mlflow_try_for_seconds_unless_the_environment_says_otherwise(monkeypatch):
    retries, timeout = IMPATIENT
    monkeypatch.setenv(retries, "7")
    monkeypatch.setenv(timeout, "")  # so that it is as it was afterwards
    monkeypatch.delenv(timeout)
    CliRunner().invoke(main, ["history", "--help"])
    assert (os.environ[retries], os.environ[timeout]) == ("7", IMPATIENT[timeout])
