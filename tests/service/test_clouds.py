"""The log in Azure and in Google's cloud, over their protocols: what is drained is read, and errors are named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clouds import Cloud, azure, google
from mooring import read_log
from mooring.exchange import Exchange, encode
from mooring.ids import new_request_id
from mooring.spool import SpoolWriter
from waiting import PATIENCE

CLOUDS = {"az": azure, "gs": google}
DAY = 86_400 * 10**9
TOUCHED = ("AWS_", "AZURE_", "GOOGLE_", "GCE_")


@pytest.fixture(scope="module", params=["gs", pytest.param("az", marks=pytest.mark.proof)])
def cloud(request, tmp_path_factory):
    with CLOUDS[request.param](tmp_path_factory.mktemp(request.param)) as store:
        yield store


def fill(spool: Path) -> list[str]:
    """Write two segments, of two models and two days, and return the request ids."""
    writer, ids = SpoolWriter(spool), []
    for number in range(40):
        body = {"dataframe_split": {"columns": ["a b", "x/y"], "data": [[number, "ä"]] * 3}}
        exchange = Exchange(
            request_id=new_request_id(),
            time_ns=(20_000 + number % 2) * DAY + number,
            model="wine/white" if number % 4 else "red",
            version="3",
            request=json.dumps(body).encode(),
            response=json.dumps({"predictions": [number] * 3}).encode(),
        )
        writer.append([encode(exchange)])
        ids.append(exchange.request_id)
        if number == 20:
            writer.close()
            writer = SpoolWriter(spool)
    writer.close()
    return ids


def drain(spool: Path, uri: str, env: dict[str, str], *flags: str) -> tuple[int, str]:
    """Drain a spool in a process that knows no other store, and return its exit code and what it said."""
    command = [sys.executable, "-m", "mooring", "drain", "--log", uri, "--spool", str(spool), *flags]
    unset = ["env", *(argument for name in TOUCHED for argument in ("-u", name))]
    done = subprocess.run(
        [*unset, *(f"{name}={value}" for name, value in env.items()), *command],
        cwd=spool.parent,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stderr


def refused(spool: Path, uri: str, env: dict[str, str]) -> str:
    """Drain into a store that refuses, and return why it does."""
    code, said = drain(spool, uri, env, "--drain-timeout", "0")
    assert code == 1
    assert "Nothing is lost" in said
    return said


def writers(spool: Path) -> list[Path]:
    return [path for path in spool.iterdir() if path.is_dir()]


def logged(uri: str) -> list[str]:
    tables = [read_log(uri, model=model, what="payloads") for model in ("wine/white", "red")]
    return sorted(one for table in tables for one in table["request_id"].to_pylist())


def test_what_is_drained_is_read_however_often(cloud: Cloud, tmp_path, monkeypatch):
    uri, spool, copy = cloud.uri("arrives"), tmp_path / "spool", tmp_path / "copy"
    ids = fill(spool)
    shutil.copytree(spool, copy)
    assert drain(spool, uri, cloud.env) == (0, "")
    assert not writers(spool)
    for name, value in cloud.env.items():
        monkeypatch.setenv(name, value)
    assert logged(uri) == sorted(ids)
    before = read_log(uri, model="wine/white")
    assert (before.num_rows, set(before["model_version"].to_pylist())) == (90, {"3"})
    assert drain(copy, uri, cloud.env) == (0, "")
    assert logged(uri) == sorted(ids)
    second_day = read_log(
        uri, model="wine/white", start="2024-10-05", columns=["input.a b", "input.x/y"], flat=False
    )
    assert second_day.num_rows == 60
    assert set(second_day["input.x/y"].to_pylist()) == {"ä"}
    assert read_log(uri, model="wine/white").sort_by("request_id").equals(before.sort_by("request_id"))


def test_what_is_wrong_is_said_and_nothing_is_lost(cloud: Cloud, tmp_path, monkeypatch):
    uri, spool = cloud.uri("later"), tmp_path / "spool"
    ids = fill(spool)
    assert f"{uri} refuses these credentials: check them" in refused(spool, uri, cloud.wrong)
    assert f"{uri} can't be reached: check the network" in refused(spool, uri, cloud.unreachable)
    elsewhere = cloud.uri("log", bucket="missing")
    assert f"there is no bucket for {elsewhere}: make it" in refused(spool, elsewhere, cloud.env)
    assert drain(spool, uri, cloud.env) == (0, "")
    for name, value in cloud.env.items():
        monkeypatch.setenv(name, value)
    assert logged(uri) == sorted(ids)
    with pytest.raises(OSError, match="there is no bucket"):
        read_log(elsewhere)


@pytest.mark.parametrize(
    ("uri", "env", "said"),
    [
        ("az://logs/x", {}, "does not say whose it is: set AZURE_STORAGE_ACCOUNT_NAME"),
        ("gs://logs/x", {"GCE_METADATA_HOST": "127.0.0.1:1"}, "there are no credentials for gs://logs/x"),
        (
            "s3://logs/x",
            {"AWS_METADATA_ENDPOINT": "http://127.0.0.1:1"},
            "there are no credentials for s3://logs/x",
        ),
    ],
)
def test_credentials_that_are_missing_are_called_so(tmp_path, uri, env, said):
    fill(tmp_path / "spool")
    assert said in refused(tmp_path / "spool", uri, env)
