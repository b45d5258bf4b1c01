"""Rollouts in a state in PostgreSQL."""

from __future__ import annotations

import pytest

from mooring.monitor.state import State
from rollouts_contract import *  # noqa: F403


@pytest.fixture
def state(postgresql):
    with State(postgresql.url()) as opened:
        yield opened
