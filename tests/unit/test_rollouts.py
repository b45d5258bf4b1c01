"""Rollouts in a state in SQLite."""

from __future__ import annotations

import pytest

from mooring.state.state import State
from rollouts_contract import RolloutsContract


class TestInSqlite(RolloutsContract):
    @pytest.fixture
    def state(self, tmp_path):
        with State(f"sqlite:///{tmp_path}/state.db") as opened:
            yield opened
