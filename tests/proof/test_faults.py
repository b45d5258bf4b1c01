"""Faults: what was answered is in the log, exactly once, and the ledger is true, whatever ends or refuses when."""

from __future__ import annotations

import pytest

from faults import kill_again_and_again
from peers import OK, answering, upstream


@pytest.fixture(scope="module")
def server():
    with upstream(answering(OK)) as serving:
        yield serving


def test_kill_9_under_load_50_times(server, tmp_path):
    kill_again_and_again(tmp_path, server.url, 50)
