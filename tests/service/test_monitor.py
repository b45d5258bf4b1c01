"""The monitor with its state in PostgreSQL, and with a tracking server that is not there."""

from __future__ import annotations

from datetime import timedelta

import pytest

from monitoring import START, Monitoring, Traffic, settings, without_mlflow


@pytest.fixture
def traffic(tmp_path, monkeypatch) -> Traffic:
    without_mlflow(tmp_path, monkeypatch)
    return Traffic(tmp_path / "log")


@pytest.fixture
def state(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/state.db"


def test_the_state_may_be_in_postgresql(traffic, postgresql):
    monitoring = Monitoring(settings(traffic.log, postgresql.url()))
    monitoring.keep(traffic.baseline())
    traffic.write(traffic.exchanges(2000))
    traffic.write(traffic.exchanges(1000, START + timedelta(minutes=10), shift=1))
    monitoring.watch.look()
    assert monitoring.verdicts() == [(1000, "ok"), (1000, "ok"), (1000, "critical")]
    monitoring.state.close()


def test_a_tracking_server_that_is_not_there_is_said_and_nothing_is_lost(traffic, state, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("mooring.monitor.baselines._AGAIN_SECONDS", 0.0)
    monitoring = Monitoring(settings(traffic.log, state))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    traffic.write(traffic.exchanges(1000))
    monitoring.watch.look()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert monitoring.verdicts() == [(1000, "no_baseline")]
    assert any("MLflow at http://127.0.0.1:9 does not" in line for line in monitoring.said)
    monitoring.keep(traffic.baseline())
    monitoring.watch.look()
    assert monitoring.verdicts() == [(1000, "ok")]
