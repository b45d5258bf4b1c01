"""What `mooring serve` survives: bad versions, a registry that is away, two promotions at once, a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mooring.demo.processes import free_ports, pings, wait_for
from serving import with_environment
from supervised import Load, Supervised, register, supervised

pytestmark = pytest.mark.e2e
PLAN = ("--rollout-step", "shadow 50% 0s 5", "--rollout-step", "canary 50% 3s 100")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("store")
    register(directory)
    return directory


@pytest.fixture(scope="module")
def serving_on(store, tmp_path_factory) -> Iterator[Supervised]:
    directory = tmp_path_factory.mktemp("serving")
    with supervised(directory, store, *PLAN, "--worker-memory", str(900 * 2**20)) as it:
        yield it


@pytest.mark.parametrize(
    ("version", "reason", "may_fail"),
    [
        ("3", "does not load", False),
        ("4", "requests that were put to it as a check", False),
        ("5", "errors: ", True),
        pytest.param("6", "latency: ", False, marks=pytest.mark.slow),
        pytest.param(
            "7", "", False, marks=pytest.mark.slow
        ),  # by its memory or, as that takes time, by its latency
        ("8", "exit code 7", False),
    ],
    ids=["does not load", "answers errors at once", "answers errors later", "is slow", "grows", "crashes"],
)
def test_a_bad_version_goes_and_the_champion_keeps_answering(serving_on, version, reason, may_fail):
    """No request fails but those that the canary answers with an error before the guard has seen enough."""
    it = serving_on
    with Load(it.port) as load:
        load.wait_for(20)
        it.challenge(version)
        gone = it.rolled_out(version, "rolled_back")
        assert reason in gone.reason
        load.wait_for(50)
    if may_fail:
        assert all(
            f"500 of version {version}" in text or f"400 of version {version}" in text for text in load.failures
        )
    else:
        assert load.failures == []
    assert load.answers[200, "1"] >= 70
    assert it.ask()[1] == "1"
    assert it.aliases() == {"champion": "1"}
    tags = it.client.get_model_version("wine", version).tags
    assert tags["mooring.rollout"] == "rolled back"
    assert reason in tags["mooring.rollout.reason"]
    wait_for(lambda: len(it.servers()) == 1, 60, f"a server of version {version} runs on")


@pytest.mark.slow
def test_of_two_promotions_at_once_the_newest_wins(store, tmp_path):
    plan = ("--rollout-step", "canary 50% 1h 20")
    with supervised(tmp_path, store, *plan) as it, Load(it.port) as load:
        it.challenge("4")
        wait_for(lambda: bool(it.rollouts()), 60, "nothing is rolled out")
        it.challenge("2")
        wait_for(lambda: it.rollouts()[0].version == "2", 60, "the newest is not rolled out")
        assert it.rollouts()[1].status == "superseded"
        it.mooring("rollout", "promote", "--model", "wine")
        it.rolled_out("2", "promoted")
        wait_for(lambda: it.ask()[1] == "2", 20, "version 2 does not answer")
        assert all(one.ended is not None for one in it.rollouts())
        assert it.aliases()["champion"] == "2"
    assert load.failures == []


@pytest.mark.slow
def test_the_registry_goes_and_a_server_crashes_and_the_champion_keeps_answering(store, tmp_path):
    [port] = free_ports(1)
    command = ["mlflow", "server", "--port", str(port), "--workers", "1", "--backend-store-uri"]
    command += [f"sqlite:///{store / 'mlflow.db'}"]
    output = tmp_path / "registry.log"
    with output.open("wb") as file:
        process = subprocess.Popen(
            with_environment(command, {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}),
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        wait_for(lambda: pings(port, "/health"), 120, "the registry does not answer")
        with (
            supervised(tmp_path, store, "--workers", "2", MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}") as it,
            Load(it.port, clients=1) as load,
        ):
            load.wait_for(20)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            wait_for(lambda: "tried again" in it.said, 120, "nobody noticed")
            wait_for(lambda: it.stats()["servers"]["1"]["ready"] == 2, 60, "not both are ready")
            os.kill(it.servers()[0], signal.SIGKILL)
            wait_for(lambda: it.stats()["servers"]["1"]["crashed"] == 1, 20, "nobody noticed")
            wait_for(lambda: it.stats()["servers"]["1"]["ready"] == 2, 60, "it is not replaced")
            load.wait_for(50)
        assert len(load.failures) <= 1  # what the one that crashed had in hand
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: a full disk, which takes root to mount one")
def test_the_disk_is_full_and_the_champion_keeps_answering(store, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", disk], check=False).returncode:
        pytest.skip("NOT TESTED: a full disk. No tmpfs can be mounted here")
    try:
        flags = ("--log", str(disk / "log"), "--serve-directory", str(disk / "serve"))
        with supervised(tmp_path, store, *flags) as it, Load(it.port) as load:
            load.wait_for(20)
            with (disk / "big").open("wb", buffering=0) as big, suppress(OSError):
                while big.write(b"x" * 4096):
                    pass
            wait_for(lambda: "disk_full" in it.stats()["ledger"]["dropped"], 60, "it still stores")
            it.challenge("2")
            gone = it.rolled_out("2", "rolled_back")
            assert "there is no room for wine version 2" in gone.reason
            load.wait_for(50)
            (disk / "big").unlink()
            stored = it.stats()["ledger"]["stored"]
            wait_for(lambda: it.stats()["ledger"]["stored"] > stored + 20, 60, "it does not store again")
        assert load.failures == []
        assert load.versions() == {"1"}
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
