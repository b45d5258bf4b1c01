"""Rollouts in a state in SQLite."""

from __future__ import annotations

import pytest

from mooring.monitor.state import State
from rollouts_contract import *  # noqa: F403


@pytest.fixture
def state(tmp_path):
    with State(f"sqlite:///{tmp_path}/state.db") as opened:
        yield opened
