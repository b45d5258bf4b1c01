"""A promotion killed or cut off at any point: there is always exactly one champion, and one record of the move."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from registries import champion_and_challenger
from waiting import PATIENCE

# In processes of their own: one promotes, or takes a promotion back, and is killed right before its n-th change,
# be it of MLflow or of the record, or is told then that MLflow, or the state, is away; the next says what both
# have, does it again, and says what both have then.
INTERRUPTED = """
import json, os, shutil, signal, sys
from pathlib import Path
import mlflow
import mlflow.store.model_registry.sqlalchemy_store, mlflow.store.tracking.sqlalchemy_store
from datetime import UTC, datetime
from mlflow.exceptions import MlflowException
from mooring.promotion import promote, restore
from mooring.registry.client import TrackingError
from mooring.state.database import StateError
from mooring.state.promotions import Promotion, Promotions
from mooring.state.state import State

CHANGES = ("set_registered_model_alias", "delete_registered_model_alias", "transition_model_version_stage",
           "set_model_version_tag", "set_tag")

BEGUN = Promotion(
    id="p", model="wine", ticket_id=None, kind="promotion", version="2", previous="1", status="begun",
    reason="passed", who="mooring", created=datetime(2026, 3, 1, 12, tzinfo=UTC),
)
BACK = Promotion(
    id="r", model="wine", ticket_id=None, kind="restored", version="1", previous="2", status="begun",
    reason="slower", who="mooring", created=datetime(2026, 3, 1, 13, tzinfo=UTC),
)
RESTORES = sys.argv[1:] == ["restore"]

def stop_at(number, how):
    made = 0

    def stopping(change, away):
        def changed(*arguments, **keywords):
            nonlocal made
            made += 1
            if made == number and how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if made == number and how == "away":
                raise away("connection refused")
            return change(*arguments, **keywords)
        return changed

    class Client(mlflow.MlflowClient):
        def __getattribute__(self, name):
            method = super().__getattribute__(name)
            return stopping(method, MlflowException) if name in CHANGES else method

    mlflow.MlflowClient = Client
    Promotions.put = stopping(Promotions.put, StateError)

def child(work):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), json.loads(said) if said else None

def move(number=0, how=""):
    if number:
        stop_at(number, how)
    try:
        with State("sqlite:///state.db") as state:
            if RESTORES:
                restore(Promotions(state), BACK)
            else:
                promote(Promotions(state), BEGUN, tags={"mooring.ticket": "t"})
    except (TrackingError, StateError) as error:
        return str(error)

def state():
    client = mlflow.MlflowClient()
    model = client.get_registered_model("wine")
    versions = client.search_model_versions("name='wine'")
    with State("sqlite:///state.db") as state:
        records = [(one.version, one.previous, one.status) for one in Promotions(state).newest("wine")]
    return {
        "records": records,
        "aliases": {name: str(version) for name, version in model.aliases.items()},
        "production": [one.version for one in versions if one.current_stage == "Production"],
        "tags": {one.version: one.tags for one in versions},
    }

def begin():
    with State("sqlite:///state.db") as state:
        if RESTORES:
            promote(Promotions(state), BEGUN)

child(begin)
shutil.copy("mlflow.db", "before.db")
shutil.copy("state.db", "state-before.db")
for how in ("killed", "away"):
    for number in range(1, 50):
        for name in ("state.db", "state.db-wal", "state.db-shm"):
            Path(name).unlink(missing_ok=True)
        shutil.copy("before.db", "mlflow.db")
        shutil.copy("state-before.db", "state.db")
        code, said = child(lambda: move(number, how))
        print(json.dumps([how, number, code, said, *child(lambda: [state(), move(), state()])[1]]), flush=True)
        if code == 0 and said is None:
            break
"""


@pytest.fixture
def client(tmp_path, monkeypatch) -> MlflowClient:
    return champion_and_challenger(tmp_path, monkeypatch)


def interrupted_runs(directory: Path, *arguments: str) -> tuple[list[list[Any]], dict[str, int]]:
    """Return what each run said, and how many changes were made before one got through, by how it was stopped."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", INTERRUPTED, *arguments],
        cwd=directory,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    runs = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("[")]
    return runs, {how: max(number for of, number, *_ in runs if of == how) for how in ("killed", "away")}


def test_taken_back_and_killed_or_cut_off_at_any_point_it_is_taken_back_at_the_next_call(client, tmp_path):
    runs, counts = interrupted_runs(tmp_path, "restore")
    assert min(counts.values()) > 3  # two records, an alias, a stage
    for how, number, code, _, between, _, after in runs:
        where = f"{how} at change {number}"
        assert code == (-9 if number < counts[how] and how == "killed" else 0), where
        assert between["aliases"]["champion"] in ("1", "2"), where
        restored = [record for record in between["records"] if record[:2] == ["1", "2"]]
        assert restored or between["aliases"]["champion"] == "2", where
        assert after["aliases"]["champion"] == "1", where
        assert list(map(str, after["production"])) == ["1"], where
        assert [record for record in after["records"] if record[:2] == ["1", "2"]] == [["1", "2", "done"]], where


def test_killed_or_cut_off_at_any_point_there_is_one_champion_and_doing_it_again_finishes_it(client, tmp_path):
    client.set_registered_model_alias("wine", "previous", "1")
    runs, counts = interrupted_runs(tmp_path)
    assert min(counts.values()) > 10  # two records, two aliases, a stage, tags of version and run, an alias less
    for how, number, code, said, between, again, after in runs:
        where = f"{how} at change {number}"
        interrupted = number < counts[how]
        assert code == (-9 if interrupted and how == "killed" else 0), where
        assert ("connection refused" in (said or "")) == (interrupted and how == "away"), where
        assert between["aliases"]["champion"] in ("1", "2"), where
        assert len(between["production"]) == 1, where
        assert between["records"] in ([], [["2", "1", "begun"]], [["2", "1", "done"]]), where
        assert between["records"] or between["aliases"]["champion"] == "1", where
        assert between["records"] != [["2", "1", "done"]] or between["aliases"]["champion"] == "2", where
        assert again is None, where
        assert after["records"] == [["2", "1", "done"]], where
        assert after["aliases"] == {"champion": "2", "previous": "1"}, where
        assert list(map(str, after["production"])) == ["2"], where
        assert after["tags"]["2"].keys() == {"mooring.promoted", "mooring.ticket"}, where
