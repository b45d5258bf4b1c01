"""A store that fails in mid-read loses nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest

from monitoring import START, Monitoring, Traffic, settings, without_mlflow
from mooring.log.store import StoreError
from s3 import s3_server


def test_a_store_that_fails_in_mid_read_loses_nothing(tmp_path, monkeypatch):
    without_mlflow(tmp_path, monkeypatch)
    with s3_server(tmp_path) as s3:
        for name, value in s3.env().items():
            monkeypatch.setenv(name, value)
        traffic = Traffic("s3://logs/x")
        for number in range(3):
            traffic.write(traffic.exchanges(1000, START + timedelta(minutes=10 * number)))
        monitoring = Monitoring(settings(traffic.log, f"sqlite:///{tmp_path}/state.db"))
        monitoring.keep(traffic.baseline())
        for asked in (b"writer-00000001", b"writer-00000003", b"schemas", b"list-type"):
            s3.switch.cut_at = asked
            with pytest.raises(StoreError, match="can't be reached"):
                monitoring.watch.look()
            s3.switch.on()
        assert monitoring.verdicts() == []
        monitoring.watch.look()
        assert monitoring.verdicts() == [(1000, "ok")] * 3
        assert monitoring.watch.look() == 0
