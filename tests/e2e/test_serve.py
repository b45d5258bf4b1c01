"""`mooring serve` under steady traffic: versions come into service, and go again, and no request is dropped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pyarrow.dataset as ds
import pytest

import mooring
from supervised import PLAN, Load, registered, supervised
from waiting import PATIENCE, wait_for


@pytest.fixture(scope="module")
def store() -> Path:
    return registered()


def rows(log: Path) -> list[dict]:
    return ds.dataset(log / "inferences", format="parquet").to_table().to_pylist()


@pytest.mark.proof
def test_a_challenger_comes_into_service_and_goes_again_and_no_request_is_dropped(store, tmp_path):
    """Start, shadow, canary, full, a rollback by hand, and a version that crashes: all under one load."""
    # However slow this machine is, all of it comes into the log.
    flags = ("--workers", "2", "--drain-timeout", f"{PATIENCE:g}", *PLAN)
    with supervised(tmp_path, store, *flags) as it, Load(it.port) as load:
        load.wait_for(50)
        assert load.versions() == {"1"}

        it.challenge("2")
        promoted = it.rolled_out("2", "promoted")
        assert (promoted.previous, promoted.cause) == ("1", "challenger")
        assert it.aliases() == {"champion": "2", "previous": "1"}
        assert it.ask()[1:] == ("2", {"predictions": [7.5, 10.0]})

        it.mooring("rollback", "--model", "wine", "--reason", "it costs more")
        back = it.rolled_out("1", "promoted")
        assert (back.previous, back.cause) == ("2", "moved")
        assert it.aliases()["champion"] == "1"
        wait_for(lambda: it.ask()[1] == "1", "version 1 does not answer")

        it.challenge("8")
        gone = it.rolled_out("8", "rolled_back")
        assert "ended" in gone.reason
        assert it.aliases()["champion"] == "1"
        assert "challenger" not in it.aliases()
        tags = it.client.get_model_version("wine", "8").tags
        assert gone.reason in tags["mooring.rollout.reason"]
        load.wait_for(50)
        wait_for(lambda: len(it.servers()) == 2, "servers of old versions run on")
        said = it.end() if not load.__exit__() else ""
    assert load.failures == []
    assert set(load.answers) <= {(200, "1"), (200, "2"), (200, "8")}
    assert "the log did not take everything" not in said

    found = rows(tmp_path / "log")
    live = {row["request_id"]: row["model_version"] for row in found if row["variant"] != "shadow"}
    assert {request_id: live[request_id] for request_id in load.by_id} == load.by_id
    assert {row["model_version"] for row in found if row["variant"] == "shadow"} == {"2", "8"}
    assert mooring.read_log(tmp_path / "log").num_rows == 2 * len(live)
    assert f"{len(live)} exchanges seen, {len(live)} stored, 0 of them failed, 0 dropped" in said


@pytest.mark.proof
def test_killed_in_the_middle_it_comes_back_to_the_same_step_and_leaves_nothing_running(store, tmp_path):
    plan = ("--rollout-step", "shadow 50% 0s 10", "--rollout-step", "canary 30% 1h 30")
    with supervised(tmp_path, store, *plan) as it:
        with Load(it.port) as load:
            it.challenge("2")
            before = it.in_step(1)
            wait_for(lambda: {"1", "2"} <= load.versions(), "the canary does not answer")
        assert load.failures == []
        servers, killed = it.servers(), it.process.pid
        assert len(servers) == 2
        os.kill(killed, signal.SIGKILL)
        it.process.wait()
        wait_for(lambda: not it.servers(), f"model servers live on: {servers}")
    with supervised(tmp_path, store, *plan) as it, Load(it.port) as load:
        after = it.in_step(1)
        assert after.id == before.id
        assert after.seconds >= before.seconds
        wait_for(lambda: {"1", "2"} <= load.versions(), "the canary does not answer")
        it.mooring("rollout", "promote", "--model", "wine")
        it.rolled_out("2", "promoted")
    assert load.failures == []


@pytest.mark.proof
def test_more_than_it_can_answer_gets_503_at_once_and_the_rest_is_answered(store, tmp_path):
    with supervised(tmp_path, store, "--queue", "4") as it:
        it.move_champion("9")  # takes 0.2 s for each
        it.rolled_out("9", "promoted")
        wait_for(lambda: it.ask()[1] == "9", "version 9 does not answer")
        found: Counter[int] = Counter()

        def ask() -> None:
            found[it.ask()[0]] += 1

        threads = [threading.Thread(target=ask) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(found) == {200, 503}
        assert 5 <= found[200] <= 12
        with socket.create_connection(("127.0.0.1", it.port)) as ping:
            ping.sendall(b"GET /ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert ping.makefile("rb").readline().startswith(b"HTTP/1.1 200")
        assert it.ask()[0] == 200
        assert it.stats()["ledger"]["errors"] == {"overloaded": found[503]}


@pytest.mark.proof
def test_the_port_is_taken(store, tmp_path):
    with supervised(tmp_path, store) as it:
        command = [sys.executable, "-m", "mooring", "serve", "models:/wine@champion", "--port", str(it.port)]
        second = subprocess.run(
            [*command, "--log", str(tmp_path / "other")],
            cwd=tmp_path,
            env={**os.environ, **it.environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert second.returncode == 1
        assert f"can't listen on 127.0.0.1:{it.port}: Address already in use" in second.stderr
        assert "Traceback" not in second.stderr
        assert it.ask()[0] == 200
        assert len(it.servers()) == 1


@pytest.mark.proof
def test_a_server_that_crashes_is_replaced_and_the_others_answer(store, tmp_path):
    with supervised(tmp_path, store, "--workers", "2") as it:
        wait_for(lambda: it.stats()["servers"]["1"]["ready"] == 2, "not both are ready")
        with Load(it.port, clients=1, pause=0.02) as load:
            load.wait_for(10)
            os.kill(it.servers()[0], signal.SIGKILL)
            wait_for(lambda: it.stats()["servers"]["1"]["crashed"] == 1, "nobody noticed")
            load.wait_for(30)
            wait_for(lambda: it.stats()["servers"]["1"]["ready"] == 2, "it is not replaced")
        assert len(load.failures) <= 1  # what it had in hand
        assert 'mooring_server_crashes_total{version="1"} 1.0' in it.admin("/metrics")
