"""Rollouts in a state in PostgreSQL, and what is told of them by a program."""

from __future__ import annotations

import pytest

from mooring.monitor.alerting import queue
from mooring.monitor.alerting.channels import CommandChannel
from mooring.state.state import State
from rollouts_contract import RolloutsContract, begun


class TestInPostgresql(RolloutsContract):
    @pytest.fixture
    def state(self, postgresql):
        with State(postgresql.url()) as opened:
            yield opened

    def test_an_alert_about_a_rollout_is_sent_by_who_rolls_out_and_once(self, state, tmp_path):
        rollout = begun(state)
        channel = CommandChannel(["tee", "-a", f"{tmp_path}/told"])
        for _ in range(2):
            with state.begin() as tx:
                queue.enqueue_rollback(tx, rollout.id, "wine", "2", "1", 1, "errors: all of them", [channel])
        assert queue.deliver(state, "wine", [channel]) == []
        [told] = queue.deliver(state, "wine", [channel], rollouts=True)
        assert (told.status, told.rollout_id, told.verdict_id) == ("sent", rollout.id, None)
        assert queue.deliver(state, "wine", [channel], rollouts=True) == []
        text = (tmp_path / "told").read_text()
        assert '"text":"wine version 2 was rolled back, version 1 answers: errors: all of them"' in text
        assert text.count('"about":"rollout"') == 1
