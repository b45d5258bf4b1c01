"""What `mooring serve` survives: bad versions, a registry that is away, two promotions at once, a full disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from supervised import Load, Supervised, goes_and_the_champion_answers, registered, supervised
from waiting import wait_for

PLAN = ("--rollout-step", "shadow 50% 0s 5", "--rollout-step", "canary 50% 3s 100")


@pytest.fixture(scope="module")
def store() -> Path:
    return registered()


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
        ("8", "exit code 7", False),
    ],
    ids=["does not load", "answers errors at once", "answers errors later", "crashes"],
)
def test_a_bad_version_goes_and_the_champion_keeps_answering(serving_on, version, reason, may_fail):
    goes_and_the_champion_answers(serving_on, version, reason, may_fail)


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
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
