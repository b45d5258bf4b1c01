"""A retraining killed at each step, and the ways in which a job or a model fails it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mooring.retrain.history import history
from mooring.state.retrainings import Tickets
from mooring.state.state import State
from postgres import postgres
from retrain_places import TRAINS, champion, configured, due, mooring
from retraining import MODEL, TRAIN, judged, with_champion
from waiting import PATIENCE, wait_for


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_champion(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def place(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return due(tmp_path, trained, monkeypatch)


DYING = """
import os, signal, sys, time
from pathlib import Path
from mooring.config import load
from mooring.settings import RetrainSettings
from mooring.state.state import State
from mooring.registry import aliases, versions
from mooring.retrain import machine
from mooring.retrain.dataset import gather
from mooring.retrain.job import jobs
from mooring.state.promotions import Promotions
from mooring.state.retrainings import Tickets

died = Path("died")

def die(point):
    known = died.read_text().splitlines() if died.exists() else []
    if point not in known:
        died.write_text("\\n".join([*known, point]))
        os.kill(os.getpid(), signal.SIGKILL)

def dying(place, name):
    real = getattr(place, name)
    def call(*given, **named):
        what = given[3] if place is Tickets and name == "move" else name
        die(f"before {what}")
        result = real(*given, **named)
        die(f"after {what}")
        return result
    setattr(place, name, call)

for place, names in (
    (Tickets, ("open", "move")),
    (Promotions, ("put",)),
    (gather, ("make",)),
    (jobs, ("start",)),
    (aliases, ("set_challenger", "move_champion")),
    (versions, ("candidates",)),
):
    for name in names:
        dying(place, name)
settings = load(RetrainSettings, {})
with State(settings.state) as state:
    running = machine.Retraining(settings, state, "wine")
    while True:
        running.go_on()
        if all(one.ended for one in Tickets(state).newest("wine")) and Tickets(state).newest("wine"):
            break
        time.sleep(0.2)
"""


def test_killed_before_and_after_each_step_it_retrains_once_and_promotes_once(place):
    deaths = 0
    while True:
        ended = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", DYING], cwd=place, timeout=300, check=False
        ).returncode
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        deaths += 1
        # As if the lease of the killed one had run out.
        with State("sqlite:///state.db") as state, state.database.writing() as connection:
            connection.exec_driver_sql("DELETE FROM mooring_leases")
    died = (place / "died").read_text().splitlines()
    assert deaths == len(died) >= 20, died
    with State("sqlite:///state.db") as state:
        [entry] = history(state, MODEL)
        [promotion] = Tickets(state).promotions.newest(MODEL)
    assert [step.what for step in entry.steps] == ["opened", "dataset", "trained", "gate", "promoted"]
    assert (entry.status, entry.version, entry.previous) == ("promoted", "2", "1")
    assert (promotion.status, promotion.version, promotion.previous) == ("done", "2", "1")
    import mlflow

    client = mlflow.MlflowClient()
    assert len(client.search_model_versions(f"name='{MODEL}'")) == 2
    aliases = {name: str(version) for name, version in client.get_registered_model(MODEL).aliases.items()}
    assert aliases == {"champion": "2", "previous": "1"}
    tags = client.get_model_version(MODEL, "2").tags
    assert tags["mooring.ticket"] == entry.ticket
    assert tags["mooring.gate"] == "passed"
    assert client.get_run(client.get_model_version(MODEL, "2").run_id).data.tags["mooring.ticket"] == entry.ticket


@pytest.mark.parametrize("command", [("monitor",), ("retrain", "--now")], ids=["monitor", "by hand"])
def test_the_state_restarts_in_each_step_and_it_retrains_once_and_promotes_once(place, monkeypatch, command):
    with postgres() as server:
        url = server.url()
        monkeypatch.setenv("MOORING_STATE", url)
        with State(url) as state:
            judged(state, ["critical"] * 5)
        with (place / "said.log").open("wb") as said:
            program = [sys.executable, "-m", "mooring", *command]
            running = subprocess.Popen(program, cwd=place, stdout=said, stderr=said)
        try:
            for status in ("training", "gating", "promoted"):
                wait_for(lambda status=status: reached(url, status), f"it is not {status}")
                server.stop()
                server.start()
            if command == ("monitor",):
                assert running.poll() is None, (place / "said.log").read_text()
            else:
                assert running.wait(PATIENCE) == 0, (place / "said.log").read_text()
        finally:
            running.terminate()
            running.wait(PATIENCE)
        with State(url) as state:
            [ticket] = Tickets(state).newest(MODEL)
            steps = [step.what for step in Tickets(state).steps(ticket.id)]
            assert steps == ["opened", "dataset", "trained", "gate", "promoted"]
            [promotion] = Tickets(state).promotions.newest(MODEL)
            assert (promotion.version, promotion.status) == ("2", "done")
        assert champion() == "2"


def reached(url: str, status: str) -> bool:
    """Whether the newest retraining has come so far, or further."""
    ways = ("dataset", "training", "gating", "promoting", "promoted")
    with State(url) as state:
        found = [ticket.status for ticket in Tickets(state).newest(MODEL, 1)]
    assert not found or found[0] in ways, found
    return bool(found) and ways.index(found[0]) >= ways.index(status)


def test_a_job_that_registers_nothing_or_takes_too_long_is_told_so(place):
    configured(place, [sys.executable, "-c", "pass"], attempts=1)
    assert "registered no new version" in mooring("retrain", "--now", cwd=place, code=4)
    configured(place, [sys.executable, "-c", "import time; time.sleep(600)"], attempts=1, timeout="1s")
    assert "took longer than 1 s" in mooring("retrain", "--now", cwd=place, code=4)


def test_a_job_that_promotes_by_itself_has_that_taken_back(place):
    (place / "train.py").write_text(
        TRAIN + "\nmlflow.MlflowClient().set_registered_model_alias('wine', 'champion', '2')\n"
    )
    configured(place, [sys.executable, "train.py", "{data}", "1000"])
    assert "taken back" in mooring("retrain", "--now", cwd=place, code=3)
    assert champion() == "1"


def test_without_the_alias_the_version_that_answers_is_the_one_to_better(place):
    import mlflow

    mlflow.MlflowClient().delete_registered_model_alias(MODEL, "champion")
    configured(place, (*TRAINS, "1000"))
    mooring("retrain", "--now", cwd=place, code=3)
    [entry] = json.loads(mooring("history", "--json", cwd=place))
    assert (entry["previous"], entry["status"]) == ("1", "refused")


def test_it_waits_for_labels_and_says_what_is_missing(place):
    configured(place, min_labels=1000)
    text = mooring("retrain", "--now", cwd=place, code=4)
    assert "600 of 1000" in text.replace(",", "")
    configured(place, min_labels=100)
    mooring("retrain", "--now", cwd=place)
    assert champion() == "2"


def test_manual_approval(place):
    configured(place, approval="manual")
    mooring("monitor", "--once", "--grace", "0s", cwd=place, code=0)
    assert "waits to be approved" in mooring("retrain", cwd=place)
    mooring("retrain", "approve", "1", cwd=place)
    mooring("retrain", "--now", cwd=place)
    [entry] = json.loads(mooring("history", "--json", cwd=place))
    assert [step["what"] for step in entry["steps"]] == [
        "opened", "approved", "dataset", "trained", "gate", "promoted",
    ]  # fmt: skip
    assert entry["steps"][1]["who"] != "mooring"
