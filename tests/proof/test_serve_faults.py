"""What `mooring serve` survives: slow and growing versions, promotions at once, a registry that goes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mooring.demo.processes import pings
from mooring.state.promotions import Promotions
from mooring.state.rollouts import Rollouts
from mooring.state.state import State
from ports import reserved_port
from postgres import postgres
from serving import with_environment
from supervised import Load, Supervised, goes_and_the_champion_answers, registered, supervised, taking_bad_versions
from waiting import wait_for


@pytest.fixture(scope="module")
def store() -> Path:
    return registered()


@pytest.fixture(scope="module")
def serving_on(store, tmp_path_factory) -> Iterator[Supervised]:
    with taking_bad_versions(tmp_path_factory.mktemp("serving"), store, MOORING_ROLLOUT_LATENCY="2") as it:
        yield it


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("6", "latency: "),
        ("7", ""),
    ],  # the one that grows goes by its memory or, as that takes time, by its latency
    ids=["is slow", "grows"],
)
def test_a_bad_version_goes_and_the_champion_keeps_answering(serving_on, version, reason):
    goes_and_the_champion_answers(serving_on, version, reason)


def test_of_two_promotions_at_once_the_newest_wins(store, tmp_path):
    plan = ("--rollout-step", "canary 50% 1h 20")
    with supervised(tmp_path, store, *plan) as it, Load(it.port) as load:
        it.challenge("4")
        wait_for(lambda: bool(it.rollouts()), "nothing is rolled out")
        it.challenge("2")
        wait_for(lambda: it.rollouts()[0].version == "2", "the newest is not rolled out")
        assert it.rollouts()[1].status == "superseded"
        it.mooring("rollout", "promote", "--model", "wine")
        it.rolled_out("2", "promoted")
        wait_for(lambda: it.ask()[1] == "2", "version 2 does not answer")
        assert all(one.ended is not None for one in it.rollouts())
        assert it.aliases()["champion"] == "2"
    assert load.failures == []


def test_the_registry_goes_and_a_server_crashes_and_the_champion_keeps_answering(store, tmp_path):
    port = reserved_port()
    command = ["mlflow", "server", "--port", str(port), "--workers", "1", "--backend-store-uri"]
    command += [f"sqlite:///{shutil.copy(store / 'mlflow.db', tmp_path)}"]
    output = tmp_path / "registry.log"
    with output.open("wb") as file:
        process = subprocess.Popen(
            with_environment(command, {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}),
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        wait_for(lambda: pings(port, "/health"), "the registry does not answer")
        with (
            supervised(tmp_path, store, "--workers", "2", MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}") as it,
            Load(it.port, clients=1) as load,
        ):
            load.wait_for(20)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            wait_for(lambda: "tried again" in it.said, "nobody noticed")
            wait_for(lambda: it.stats()["servers"]["1"]["ready"] == 2, "not both are ready")
            os.kill(it.servers()[0], signal.SIGKILL)
            wait_for(lambda: it.stats()["servers"]["1"]["crashed"] == 1, "nobody noticed")
            wait_for(lambda: it.stats()["servers"]["1"]["ready"] == 2, "it is not replaced")
            load.wait_for(50)
        assert len(load.failures) <= 1  # what the one that crashed had in hand
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_state_restarts_in_the_middle_of_rollouts_and_no_request_fails_for_it(store, tmp_path):
    plan = ("--rollout-step", "shadow 50% 1s 10", "--rollout-step", "canary 50% 1s 10")
    with postgres() as server:
        url = server.url()

        def are(*wanted: tuple[str, str]) -> bool:
            with State(url) as state:
                return [(one.version, one.status) for one in Rollouts(state).newest("wine")] == [*wanted]

        with supervised(tmp_path, store, *plan, MOORING_STATE=url) as it, Load(it.port) as load:
            load.wait_for(20)
            it.challenge("2")
            wait_for(lambda: "version 2 of wine: step: canary" in it.said, "it is no canary")
            server.stop()
            wait_for(lambda: "version 2 of wine: full" in it.said, "it does not go on")
            wait_for(lambda: it.ask()[1] == "2", "version 2 does not answer everything")
            assert it.aliases()["champion"] == "1"  # what is not written down is not done
            server.start()
            wait_for(lambda: are(("2", "promoted")), "it is not promoted")
            assert it.aliases() == {"champion": "2", "previous": "1"}

            it.challenge("14")  # which answers nothing after a while, and no errors
            wait_for(lambda: "version 14 of wine: step: shadow" in it.said, "it is no shadow")
            server.stop()
            wait_for(lambda: "version 14 of wine: failed" in it.said, "no guard fails")
            load.wait_for(50)
            assert it.ask()[1] == "2"
            server.start()
            wait_for(lambda: are(("14", "rolled_back"), ("2", "promoted")), "it is not rolled back")
            assert it.aliases() == {"champion": "2", "previous": "1"}
        assert load.failures == []
        with State(url) as state:
            assert [(one.version, one.status) for one in Promotions(state).newest("wine")] == [("2", "done")]
