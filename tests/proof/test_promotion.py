"""A move of the champion killed or cut off at any point: there is always exactly one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from mlflow import MlflowClient

from registries import champion_and_challenger
from waiting import PATIENCE

# In processes of their own: one moves the champion and is killed right before its n-th change, or is told then
# that MLflow is away; the next says what MLflow has, moves the champion again, and says what MLflow has then.
INTERRUPTED = """
import json, os, shutil, sys
import mlflow
import mlflow.store.model_registry.sqlalchemy_store, mlflow.store.tracking.sqlalchemy_store
from mlflow.exceptions import MlflowException
from mooring.monitor.tracking import TrackingError
from mooring.retrain import registry

CHANGES = ("set_registered_model_alias", "delete_registered_model_alias", "transition_model_version_stage",
           "set_model_version_tag", "set_tag")

def stopping(number, how):
    class Client(mlflow.MlflowClient):
        made = 0

        def __getattribute__(self, name):
            method = super().__getattribute__(name)
            if name not in CHANGES:
                return method
            def change(*arguments, **keywords):
                Client.made += 1
                if Client.made == number and how == "killed":
                    os._exit(9)
                if Client.made == number and how == "away":
                    raise MlflowException("connection refused")
                return method(*arguments, **keywords)
            return change
    return Client

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
        mlflow.MlflowClient = stopping(number, how)
    try:
        registry.move_champion("wine", "2", expected="1", tags={"mooring.ticket": "t"})
    except TrackingError as error:
        return str(error)

def state():
    client = mlflow.MlflowClient()
    model = client.get_registered_model("wine")
    versions = client.search_model_versions("name='wine'")
    return {
        "aliases": {name: str(version) for name, version in model.aliases.items()},
        "production": [one.version for one in versions if one.current_stage == "Production"],
        "tags": {one.version: one.tags for one in versions},
    }

shutil.copy("mlflow.db", "before.db")
for how in ("killed", "away"):
    for number in range(1, 50):
        shutil.copy("before.db", "mlflow.db")
        code, said = child(lambda: move(number, how))
        print(json.dumps([how, number, code, said, *child(lambda: [state(), move(), state()])[1]]), flush=True)
        if code == 0 and said is None:
            break
"""


@pytest.fixture
def client(tmp_path, monkeypatch) -> MlflowClient:
    return champion_and_challenger(tmp_path, monkeypatch)


def test_killed_or_cut_off_at_any_point_there_is_one_champion_and_doing_it_again_finishes_it(client, tmp_path):
    client.set_registered_model_alias("wine", "previous", "1")
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", INTERRUPTED],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    runs = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("[")]
    counts = {how: max(number for of, number, *_ in runs if of == how) for how in ("killed", "away")}
    assert min(counts.values()) > 6  # two aliases, a stage, tags of the version and its run, an alias less
    for how, number, code, said, between, again, after in runs:
        where = f"{how} at change {number}"
        interrupted = number < counts[how]
        assert code == (9 if interrupted and how == "killed" else 0), where
        assert ("connection refused" in (said or "")) == (interrupted and how == "away"), where
        assert between["aliases"]["champion"] in ("1", "2"), where
        assert len(between["production"]) == 1, where
        assert again is None, where
        assert after["aliases"] == {"champion": "2", "previous": "1"}, where
        assert list(map(str, after["production"])) == ["2"], where
        assert after["tags"]["2"].keys() == {"mooring.promoted", "mooring.ticket"}, where
