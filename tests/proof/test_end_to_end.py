"""A model served from an environment of its own."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ports import reserved_port
from serving import ask, drains, logged, numbers, serving, table, wait_until_drained
from waiting import wait_for
from wines import COLUMNS, ROWS, SPLIT, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The directory in which `python custom_model_train.py` was run."""
    return train(tmp_path_factory.mktemp("trained"))


def test_the_monitored_model_is_served_in_an_environment_that_mlflow_builds(trained, tmp_path):
    port = reserved_port()
    model = "models:/sklearn-monitor-custom/production"
    variables = {"MLFLOW_MONITORING_DIR": str(tmp_path / "out"), "MLFLOW_ENV_ROOT": str(tmp_path / "environments")}
    started = time.monotonic()
    with serving(model, trained, port, "--env-manager", "uv", **variables) as server:
        server.wait_until_up()
        print(f"up after {time.monotonic() - started:.0f} seconds")
        answer = ask(port, SPLIT)
        wait_for(lambda: (tmp_path / "out").exists() and logged(tmp_path / "out"), "nothing is logged")
        (name,) = logged(tmp_path / "out")
        header, lines = table(tmp_path / "out" / name)
        (drain,) = drains(tmp_path)
        assert Path("/proc", str(drain), "cmdline").read_text().startswith(str(tmp_path / "environments"))
    assert header == ["prediction", *COLUMNS]
    assert numbers(lines) == [[p, *row] for p, row in zip(answer.predictions, ROWS, strict=True)]
    wait_until_drained(tmp_path)
