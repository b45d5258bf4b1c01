"""What `mooring serve` survives: bad versions, a registry that is away, two promotions at once, a full disk."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from disks import small_disk
from supervised import Load, Supervised, goes_and_the_champion_answers, registered, supervised, taking_bad_versions
from waiting import wait_for


@pytest.fixture(scope="module")
def store() -> Path:
    return registered()


@pytest.fixture(scope="module")
def serving_on(store, tmp_path_factory) -> Iterator[Supervised]:
    with taking_bad_versions(tmp_path_factory.mktemp("serving"), store) as it:
        yield it


@pytest.mark.parametrize(
    ("version", "reason", "may_fail"),
    [
        ("3", "does not load", False),
        ("4", "requests that were put to it as a check", False),
        ("5", "errors: ", True),
        ("8", "exit code 7", False),
        ("11", "it has 0 predictions where the champion's has 2", False),
        ("12", "prediction is text where the champion's is number", False),
        ("13", "it has no prediction", False),
        ("14", "it has 0 predictions where the ", False),
        ("15", "prediction is text where the champion's is number", False),
        ("16", "it has no prediction", False),
        ("17", "it has 1 predictions where the ", False),
    ],
    ids=[
        "does not load",
        "answers errors at once",
        "answers errors later",
        "crashes",
        "answers nothing at once",
        "answers text at once",
        "answers other fields at once",
        "answers nothing later",
        "answers text later",
        "answers other fields later",
        "answers one row later",
    ],
)
def test_a_bad_version_goes_and_the_champion_keeps_answering(serving_on, version, reason, may_fail):
    goes_and_the_champion_answers(serving_on, version, reason, may_fail)


def test_a_shadow_that_hangs_is_bounded_said_and_rolled_back(store, tmp_path):
    plan = ("--rollout-step", "shadow 50% 1h 1000", "--queue", "4", "--timeout", "3600")
    with supervised(tmp_path, store, *plan) as it, Load(it.port) as load:
        load.wait_for(20)
        it.challenge("18")
        gone = it.rolled_out("18", "rolled_back")
        assert "copies for the shadow were dropped or timed out" in gone.reason
        assert "the shadow, version 18, does not keep up: " in it.said
        assert gone.counts["shadow_dropped"] > 0
        load.wait_for(50)
    assert load.failures == []
    assert load.versions() == {"1"}


def test_the_disk_is_full_and_the_champion_keeps_answering(store, tmp_path):
    with small_disk(tmp_path / "disk", "32m") as disk:
        flags = ("--log", str(disk / "log"), "--serve-directory", str(disk / "serve"))
        with supervised(tmp_path, store, *flags) as it, Load(it.port) as load:
            load.wait_for(20)
            with (disk / "big").open("wb", buffering=0) as big, suppress(OSError):
                while big.write(b"x" * 4096):
                    pass
            wait_for(lambda: "disk_full" in it.stats()["ledger"]["dropped"], "it still stores")
            it.challenge("2")
            gone = it.rolled_out("2", "rolled_back")
            assert "there is no room for wine version 2" in gone.reason
            load.wait_for(50)
            (disk / "big").unlink()
            stored = it.stats()["ledger"]["stored"]
            wait_for(lambda: it.stats()["ledger"]["stored"] > stored + 20, "it does not store again")
        assert load.failures == []
        assert load.versions() == {"1"}


def test_files_of_the_champion_that_are_damaged_while_it_is_served_are_downloaded_again(store, tmp_path):
    with supervised(tmp_path, store) as it:
        [told] = (tmp_path / "serve").glob("*/1/model/**/*.py")
        told.write_text("raise ImportError('damaged')")
        [server] = it.servers()
        os.kill(server, signal.SIGKILL)
        wait_for(lambda: "was damaged here" in it.said, "nobody noticed")
        wait_for(lambda: it.stats()["servers"]["1"]["ready"] == 1, "it does not serve again")
        assert it.ask()[:2] == (200, "1")
