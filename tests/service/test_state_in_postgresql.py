"""The state in PostgreSQL promises what it does in SQLite, and a server may come back."""

from __future__ import annotations

import pytest

from mooring.state.state import State
from mooring.state.windows import Windows
from state_contract import StateContract
from states import put, window


class TestInPostgresql(StateContract):
    @pytest.fixture
    def url(self, postgresql):
        return postgresql.url()


def test_a_server_that_comes_back_is_used_again(postgresql):
    url = postgresql.url()
    with State(url) as state:
        put(state, window(0))
        [_, rest] = url.split("@/")
        name = rest.split("?")[0]
        postgresql.psql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'", "postgres"
        )
        put(state, window(1))
        assert len(Windows(state).history("wine")) == 2
