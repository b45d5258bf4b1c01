"""The monitor reads what is new, judges each window once, and goes on whatever happens to it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from monitoring import START, Monitoring, Traffic, settings


@pytest.fixture
def traffic(tmp_path, monkeypatch) -> Traffic:
    monkeypatch.chdir(tmp_path)  # where there is no MLflow
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Traffic(tmp_path / "log")


def test_the_state_may_be_in_postgresql(traffic, postgresql):
    monitoring = Monitoring(settings(traffic.log, postgresql.url()))
    monitoring.keep(traffic.baseline())
    traffic.write(traffic.exchanges(2000))
    traffic.write(traffic.exchanges(1000, START + timedelta(minutes=10), shift=1))
    monitoring.watch.look()
    assert monitoring.verdicts() == [(1000, "ok"), (1000, "ok"), (1000, "critical")]
    monitoring.state.close()
