"""`mooring serve` under steady traffic: kills, people who interfere, and versions that come in turn."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from peers import post
from supervised import BODY, Load, registered, supervised
from waiting import wait_for


@pytest.fixture(scope="module")
def store() -> Path:
    return registered()


def test_killed_over_a_champion_that_was_moved_by_hand_it_does_not_trust_the_alias(store, tmp_path):
    plan = ("--rollout-step", "canary 20% 1h 30")
    with supervised(tmp_path, store, *plan) as it:
        it.move_champion("2")
        before = it.in_step(0)
        os.kill(it.process.pid, signal.SIGKILL)
        it.process.wait()
        wait_for(lambda: not it.servers(), "model servers live on")
    with supervised(tmp_path, store, *plan) as it, Load(it.port) as load:
        assert "version 1 of wine is served" in it.said
        load.wait_for(20)
        assert load.answers[200, "1"] > load.answers[200, "2"]
        assert it.in_step(0).id == before.id
        wait_for(lambda: (200, "2") in load.answers, "the canary does not answer")
    assert load.failures == []


def test_a_person_pauses_resumes_and_aborts(store, tmp_path):
    plan = ("--rollout-step", "shadow 50% 0s 5", "--rollout-step", "canary 90% 1h 20")
    with supervised(tmp_path, store, *plan) as it, Load(it.port) as load:
        it.challenge("2")
        it.in_step(1)
        it.mooring("rollout", "pause", "--model", "wine")
        wait_for(lambda: it.rollouts()[0].paused, "it does not pause")
        assert "paused" in it.mooring("rollout", "status", "--model", "wine")
        it.mooring("rollout", "resume", "--model", "wine")
        wait_for(lambda: not it.rollouts()[0].paused, "it does not go on")
        it.mooring("rollout", "abort", "--model", "wine", "--reason", "a holiday")
        aborted = it.rolled_out("2", "aborted")
        assert "a holiday" in aborted.reason
        wait_for(lambda: len(it.servers()) == 1, "its server runs on")
        assert it.ask()[1] == "1"
        assert it.aliases() == {"champion": "1"}
    assert load.failures == []


def test_503_says_when_to_come_again(store, tmp_path):
    with supervised(tmp_path, store, "--queue", "0") as it:
        it.move_champion("9")
        it.rolled_out("9", "promoted")
        with (
            socket.create_connection(("127.0.0.1", it.port)) as one,
            socket.create_connection(("127.0.0.1", it.port)) as other,
        ):
            for connection in (one, other):
                connection.sendall(post(BODY))
            answers = [connection.recv(65536).decode() for connection in (one, other)]
        refused = next(answer for answer in answers if " 503 " in answer)
        assert "Retry-After: 1\r\n" in refused
        assert '"error_code": "OVERLOADED"' in refused
        assert "X-Model-Version" not in refused


def test_a_slow_upload_takes_nobodys_place_and_a_client_that_left_keeps_its_own(store, tmp_path):
    with supervised(tmp_path, store, "--queue", "0") as it:
        request = post(BODY)
        with socket.create_connection(("127.0.0.1", it.port)) as slow:
            slow.sendall(request[:-20])
            assert it.ask()[0] == 200  # the only server is free for others
            slow.sendall(request[-20:])
            assert b" 200 " in slow.recv(65536)
        it.move_champion("10")  # takes 3 s for each
        it.rolled_out("10", "promoted")
        with socket.create_connection(("127.0.0.1", it.port)) as leaving:
            leaving.sendall(request)
            wait_for(lambda: it.stats()["ledger"]["in_flight"] == 1, "it has not come")
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        wait_for(lambda: it.stats()["ledger"]["errors"] == {"client_gone": 1}, "it has not gone")
        assert it.ask()[0] == 503  # its server works on it all the same
        wait_for(lambda: it.ask()[0] == 200, "the server is not free again")


def test_a_version_that_is_named_is_served_for_good(store, tmp_path):
    with supervised(tmp_path, store, follows="/2") as it:
        it.move_champion("9")
        it.challenge("5")
        with Load(it.port, clients=1) as load:
            load.wait_for(200)
        assert load.versions() == {"2"}
        assert it.rollouts() == []
