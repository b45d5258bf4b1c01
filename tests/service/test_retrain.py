"""A retraining by commands and by webhook, and how it is cancelled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

import moves
from mlflow_store import new_store
from mooring.retrain import manual
from mooring.retrain.evaluation import records
from mooring.retrain.job import jobs
from mooring.retrain.machine import Retraining
from mooring.state.retrainings import Cause, TicketError, Tickets
from mooring.state.rollouts import Rollouts, moved, new
from mooring.state.state import State
from ports import reserved_port
from retrain_places import champion, configured, due, mooring, settings
from retraining import MODEL, TRAIN, with_champion
from supervised import commands
from waiting import PATIENCE, wait_for


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State(f"{tmp_path}/state.db") as opened:
        yield opened


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_champion(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def place(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return due(tmp_path, trained, monkeypatch)


def test_a_worse_model_is_refused_and_the_champion_stays(place):
    configured(place, [sys.executable, "train.py", "{data}", "1000"])
    text = mooring("retrain", "--now", cwd=place, code=3)
    assert "refused" in text
    assert champion() == "1"
    [entry] = json.loads(mooring("history", "--json", cwd=place))
    assert (entry["status"], entry["version"], entry["promoted"]) == ("refused", "2", None)
    assert "1" in mooring("history", cwd=place)
    import mlflow

    assert mlflow.MlflowClient().get_model_version(MODEL, "2").tags["mooring.gate"] == "refused"


@pytest.mark.proof
def test_by_hand_with_the_same_record(place):
    text = mooring("retrain", "--now", cwd=place)
    assert champion() == "2"
    assert "promoted" in text
    assert "training on" in mooring("retrain", "show", cwd=place)
    assert "version 1 of wine is the champion now" in mooring("rollback", "--reason", "it is slow", cwd=place)
    assert champion() == "1"
    mooring("promote", "2", cwd=place)
    found = json.loads(mooring("history", "--json", cwd=place))
    assert [(one["kind"], one["version"], one["status"]) for one in found] == [
        ("manual", "2", "promoted"),
        ("rollback", "1", "done"),
        ("promotion", "2", "done"),
    ]
    assert found[1]["reason"] == "it is slow"


@pytest.mark.proof
def test_a_job_that_fails_is_tried_again_and_then_given_up(place):
    configured(place, [sys.executable, "-c", "print('no memory'); raise SystemExit(9)"])
    text = mooring("retrain", "--now", cwd=place, code=4)
    assert "training ended with code 9" in text
    assert "no memory" in mooring("retrain", "show", cwd=place)
    [entry] = json.loads(mooring("history", "--json", cwd=place))
    assert [step["what"] for step in entry["steps"]] == ["opened", "dataset", "attempt failed", "failed"]
    assert champion() == "1"


WAITING = """
import mlflow, os, time
client = mlflow.MlflowClient()
source = client.get_model_version("wine", "1").source
made = client.create_model_version("wine", source, tags={"mooring.ticket": os.environ["MOORING_TICKET"]})
client.set_registered_model_alias("wine", "champion", made.version)

def train(**given):
    open("pid", "w").write(f"{os.getpid()}\\n")
    time.sleep(600)
"""


@pytest.mark.parametrize(
    "how", ["command", *(pytest.param(how, marks=pytest.mark.proof) for how in ("python", "webhook"))]
)
def test_a_retraining_can_be_cancelled_with_its_job(place, how):
    pid = place / "pid"
    (place / "waiting.py").write_text(WAITING)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    if how == "command":
        configured(place, [sys.executable, "-c", "import waiting; waiting.train()"])
    elif how == "python":
        configured(place, None, python="waiting:train")
    else:
        configured(place, None, webhook=f"http://127.0.0.1:{server.server_port}/train")
    with subprocess.Popen([sys.executable, "-m", "mooring", "retrain", "--now"], cwd=place) as running:
        try:
            if how == "webhook":
                wait_for(lambda: "waiting for a version" in output(place), "nobody is told")
                pid.write_text(f"{webhook_in(place)}\n")
            wait_for(lambda: pid.exists() and pid.read_text().endswith("\n"), "the job does not begin")
            running.send_signal(signal.SIGINT)
            assert running.wait(PATIENCE) == 130
            job = int(pid.read_text())
            os.kill(job, 0)
            assert "is cancelled" in mooring("retrain", "cancel", "1", cwd=place)
            assert not alive(job)
        finally:
            running.kill()
            server.shutdown()
            server.server_close()
            thread.join()
    assert champion() == "1"  # also where the job had named another
    assert "there is nothing to cancel" in mooring("retrain", "cancel", "1", cwd=place, code=1)


@pytest.mark.proof
def test_one_that_waits_for_labels_can_be_cancelled(place):
    configured(place, min_labels=100_000)
    assert "waits for labels" in mooring("retrain", "--now", cwd=place, code=4)
    assert "is cancelled" in mooring("retrain", "cancel", "1", cwd=place)
    assert "there is nothing to cancel" in mooring("retrain", "cancel", "1", cwd=place, code=1)


HANGING = """
class Hanging(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        import time
        from pathlib import Path
        Path("PLACE/predicts").touch()
        time.sleep(600)

with mlflow.start_run():
    mlflow.pyfunc.log_model(
        python_model=Hanging(), name="model", signature=mlflow.models.infer_signature(X.head(), y),
        pip_requirements=["mlflow"], registered_model_name="wine",
    )
"""


@pytest.mark.proof
def test_one_that_is_compared_can_be_cancelled_and_no_other_follows_unseen(place, state):
    (place / "train.py").write_text(TRAIN + HANGING.replace("PLACE", str(place)))
    with subprocess.Popen([sys.executable, "-m", "mooring", "retrain", "--now"], cwd=place) as running:
        try:
            wait_for((place / "predicts").exists, "the gate does not begin")
            assert "is cancelled" in mooring("retrain", "cancel", "1", cwd=place)
            [found] = place.glob(".mooring/retrain/*/gate")
            assert isinstance(jobs.look(found), jobs.Ended)
            assert running.wait(PATIENCE) == 4
        finally:
            running.kill()
    assert champion() == "1"
    assert [ticket.status for ticket in Tickets(state).newest(MODEL)] == ["cancelled"]


@pytest.mark.proof
def test_one_that_waits_for_a_supervisor_can_be_cancelled_until_that_rolls_it_out(place, state):
    import mlflow

    with state.lease(f"serve/{MODEL}", 600):
        assert "challenger: the supervisor rolls it out" in mooring("retrain", "--now", cwd=place)
        rollout = Rollouts(state).open(new(MODEL, "2", "1", "challenger"))
        assert "mooring rollout abort" in mooring("retrain", "cancel", "1", cwd=place, code=1)
        Rollouts(state).move(rollout, moved(rollout, "superseded"), "superseded")
    assert "is cancelled" in mooring("retrain", "cancel", "1", cwd=place)
    client = mlflow.MlflowClient()
    assert set(client.get_registered_model(MODEL).aliases) == {"champion"}
    assert "mooring.gate" not in client.get_model_version(MODEL, "2").tags
    assert champion() == "1"


def test_one_that_waits_for_a_supervisor_is_not_cancelled_by_halves_where_mlflow_does_not_answer(
    state, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{reserved_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tickets = Tickets(state)
    ticket = tickets.open(MODEL, Cause(kind="manual"), "why", champion="1", directory=f"{tmp_path}/all")
    ticket = tickets.move(moves.trained(tickets, ticket), "challenger", "gate")
    with pytest.raises(TicketError, match=r"retraining 1 is not cancelled: MLflow at .* try again later"):
        manual.cancel(tickets, ticket, who="ann", reason="by hand")
    assert tickets.named(MODEL, "1").status == "challenger"


class Taking(BaseHTTPRequestHandler):
    """Takes the order, and trains nothing."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()


def output(place: Path) -> str:
    return "".join(path.read_text() for path in place.glob(".mooring/retrain/*/attempt-1/output.log"))


def webhook_in(place: Path) -> int:
    """Return the process that waits for what others train."""
    [found] = [
        pid
        for pid, command in commands()
        if "mooring.retrain.job.webhook" in command and os.readlink(f"/proc/{pid}/cwd") == str(place)
    ]
    return found


def alive(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().split(")")[1][:3]
    except OSError:
        return False


TAMPERING = """
import sys
from pathlib import Path
import pandas as pd
ticket = Path(sys.argv[1]).parents[1]
found = sorted(path.name for path in Path.cwd().rglob("*.parquet") if ".mooring" in path.parts)
print("parquet files of the retraining:", found)
# What a gate that trusts the directory would take for the holdout, and for what it found itself.
(ticket / "holdout").mkdir(exist_ok=True)
pd.read_parquet(sys.argv[1]).assign(quality=7.0).to_parquet(ticket / "holdout" / "holdout.parquet")
(ticket / "gate").mkdir(exist_ok=True)
for name, text in ("job.json", "{}"), ("result.json", "{}"), ("gate.json", "{}"):
    (ticket / "gate" / name).write_text(text)
"""
SEALED = """
sealed = ticket / "holdout.sealed"
sealed.chmod(0o600)
"""


@pytest.mark.parametrize(
    ("how", "says"),
    [
        pytest.param("", None, marks=pytest.mark.proof),
        pytest.param(
            "sealed.write_bytes(b'nothing')", "was changed while the model was trained", marks=pytest.mark.proof
        ),
        (
            "import gzip\nsealed.write_bytes(gzip.compress(gzip.decompress(sealed.read_bytes())[:-1]))",
            "its digest is another",
        ),
        pytest.param("sealed.unlink()", "was removed while the model was trained", marks=pytest.mark.proof),
        pytest.param(
            "sealed.rename(ticket / 'other')\nsealed.symlink_to(ticket / 'other')",
            "was replaced while the model was trained",
            marks=pytest.mark.proof,
        ),
    ],
    ids=["beside it", "overwritten", "changed", "removed", "linked"],
)  # fmt: skip
def test_a_job_that_touches_the_holdout_gains_nothing_and_fails_its_ticket(place, how, says):
    (place / "train.py").write_text(TRAIN + TAMPERING + (SEALED + how if how else ""))
    configured(place, [sys.executable, "train.py", "{data}", "1000"])
    text = mooring("retrain", "--now", cwd=place, code=3 if says is None else 4)
    assert "refused" in text if says is None else says in text
    assert "parquet files of the retraining: ['training.parquet']" in mooring("retrain", "show", cwd=place)
    assert champion() == "1"


BOASTING = """
client = mlflow.MlflowClient()
version = client.search_model_versions("name='wine'")[0].version
client.set_model_version_tag("wine", version, "mooring.gate", "passed")
client.set_registered_model_alias("wine", "challenger", version)
client.set_registered_model_alias("wine", "champion", version)
"""


@pytest.mark.proof
@pytest.mark.parametrize(
    "then",
    ["", pytest.param("raise SystemExit(1)", marks=pytest.mark.proof)],
    ids=["ends well", "fails"],
)
def test_a_job_that_says_by_itself_that_it_passed_the_gate_has_that_taken_back(place, then):
    import mlflow

    (place / "train.py").write_text(TRAIN + BOASTING + then)
    configured(place, [sys.executable, "train.py", "{data}", "1000"], attempts=1)
    text = mooring("retrain", "--now", cwd=place, code=4 if then else 3)
    assert "training said by itself that version 2 of wine has passed the gate; that is taken back" in text
    client = mlflow.MlflowClient()
    assert set(client.get_registered_model(MODEL).aliases) == {"champion"}
    assert champion() == "1"
    assert client.get_model_version(MODEL, "2").tags.get("mooring.gate") == (None if then else "refused")


NAMING = """
client = mlflow.MlflowClient()
version = client.search_model_versions("name='wine'")[0].version
client.set_model_version_tag("wine", version, "mooring.ticket", "TICKET")
client.set_tag(client.get_model_version("wine", version).run_id, "mooring.ticket", "TICKET")
"""


@pytest.mark.proof
@pytest.mark.parametrize("whose", ["an ended one", "another model's"])
def test_a_job_that_names_another_retraining_has_taken_back_what_it_says_of_itself(place, state, whose):
    import mlflow

    tickets, other = Tickets(state), MODEL if whose == "an ended one" else "beer"
    ticket = tickets.open(other, Cause(kind="manual"), "why", champion="1", directory=f"{place}/all")
    if other == MODEL:
        tickets.move(moves.trained(tickets, ticket, candidate="1"), "promoted", "promoted")
    (place / "train.py").write_text(TRAIN + NAMING.replace("TICKET", ticket.id) + BOASTING)
    configured(place, [sys.executable, "train.py", "{data}", "1000"], attempts=1)
    text = mooring("retrain", "--now", cwd=place, code=4)
    assert "training said by itself that version 2 of wine has passed the gate; that is taken back" in text
    assert "training made version 2 of wine the champion by itself; that is taken back" in text
    assert "registered no new version" in text
    client = mlflow.MlflowClient()
    assert set(client.get_registered_model(MODEL).aliases) == {"champion"}
    assert champion() == "1"
    assert "mooring.gate" not in client.get_model_version(MODEL, "2").tags


def test_a_job_has_no_secrets_but_what_the_settings_name(place, monkeypatch):
    for name in ("MOORING_UI_TOKEN", "MOORING_STATE", "AWS_SECRET_ACCESS_KEY", "STORE_TOKEN"):
        monkeypatch.setenv(name, "sqlite:///state.db")
    code = "import os; print('it has', sorted(os.environ)); raise SystemExit(9)"
    configured(place, [sys.executable, "-c", code], attempts=1, environment=["STORE_*"])
    mooring("retrain", "--now", cwd=place, code=4)
    shown = mooring("retrain", "show", cwd=place)
    assert all(f"'{name}'" in shown for name in ("STORE_TOKEN", "MLFLOW_TRACKING_URI", "MOORING_TICKET", "PATH"))
    assert not any(name in shown for name in ("MOORING_UI_TOKEN", "MOORING_STATE", "AWS_SECRET_ACCESS_KEY"))


class Elsewhere(BaseHTTPRequestHandler):
    """Trains where Mooring is not: takes the order, and registers a version that carries the ticket."""

    orders: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Elsewhere.orders.append({"signature": self.headers["X-Mooring-Signature"], **json.loads(body)})
        self.send_response(503 if len(Elsewhere.orders) == 1 else 202)
        self.send_header("Content-Length", "0")
        self.end_headers()
        if len(Elsewhere.orders) == 2:
            threading.Thread(target=self.train, args=(json.loads(body)["ticket"],)).start()

    def train(self, ticket: str) -> None:
        import mlflow

        client = mlflow.MlflowClient()
        source = client.get_model_version(MODEL, "1")
        made = client.create_model_version(MODEL, source.source, tags={"mooring.ticket": ticket})
        assert str(made.version) == "2"


@pytest.mark.proof
def test_others_train_when_they_are_told(place):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/train"
        configured(place, None, webhook=url, secret="secret")
        mooring("retrain", "--now", cwd=place, code=3)  # it is no better than the champion: it is the same
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    [refused, taken] = Elsewhere.orders
    assert refused["ticket"] == taken["ticket"]
    assert taken["model"] == MODEL
    assert taken["signature"]
    assert Path(taken["training_data"]).exists()
    assert "secret" not in json.dumps(json.loads(mooring("history", "--json", cwd=place)))
    [entry] = json.loads(mooring("history", "--json", cwd=place))
    assert (entry["ticket"], entry["version"], entry["status"]) == (taken["ticket"], "2", "refused")


def test_a_dry_run_changes_nothing(place):
    text = mooring("retrain", "--dry-run", cwd=place)
    assert "training data: 480 rows" in text
    assert "holdout: 120 rows" in text
    assert "train.py" in text
    assert json.loads(mooring("history", "--json", cwd=place)) == []


def test_a_cancelled_ticket_has_no_job_even_if_it_began_meanwhile(state, tmp_path):
    tickets = Tickets(state)
    ticket = tickets.open(MODEL, Cause(kind="manual"), "why", champion="1", directory=f"{tmp_path}/all")
    tickets.move(ticket, "cancelled", "cancelled")
    running = Retraining(settings(state=f"{tmp_path}/state.db"), state, MODEL)
    with pytest.raises(TicketError, match="ended meanwhile"):
        running._begin(tickets, ticket, tmp_path / "job", ["sleep", "600"], {})
    assert isinstance(jobs.look(tmp_path / "job"), jobs.Ended | jobs.Lost)  # it may not even have begun


def test_the_job_of_one_that_was_cancelled_from_another_host_is_ended_by_the_monitor(state, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))
    tickets = Tickets(state)
    ticket = tickets.open(MODEL, Cause(kind="manual"), "why", champion="1", directory=f"{tmp_path}/all")
    ticket = tickets.move(ticket, "training", "dataset", attempt=1)
    directory = tmp_path / "all" / Path(ticket.directory).name / "attempt-1"
    jobs.start(directory, ["sleep", "600"], env={}, timeout=600)
    try:
        tickets.move(ticket, "cancelled", "cancelled", who="ann (dashboard)")
        running = Retraining(settings(state=f"{tmp_path}/state.db"), state, MODEL)
        assert not running.go_on()
        assert isinstance(jobs.look(directory), jobs.Ended | jobs.Lost)
    finally:
        jobs.stop(directory)


def test_the_gates_process_tells_a_reason_and_no_traceback(tmp_path):
    (tmp_path / "test.csv").write_text("a\n1\n")
    argv = records.command(
        settings(), model=MODEL, champion=None, candidate="1", holdout=tmp_path / "test.csv", label="quality",
        output=tmp_path / "out.json",
    )  # fmt: skip
    with pytest.raises(records.EvaluationError, match=r"^the holdout has no column quality"):
        records.run(argv)
