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

from mooring.monitor.state import State
from mooring.retrain import evaluation, job
from mooring.retrain.machine import Retraining
from mooring.retrain.tickets import Cause, TicketError, Tickets
from retrain_places import champion, configured, due, mooring, settings
from retraining import MODEL, with_champion
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


def test_a_job_that_fails_is_tried_again_and_then_given_up(place):
    configured(place, [sys.executable, "-c", "print('no memory'); raise SystemExit(9)"])
    text = mooring("retrain", "--now", cwd=place, code=4)
    assert "training ended with code 9" in text
    assert "no memory" in mooring("retrain", "show", cwd=place)
    [entry] = json.loads(mooring("history", "--json", cwd=place))
    assert [step["what"] for step in entry["steps"]] == ["opened", "dataset", "attempt failed", "failed"]
    assert champion() == "1"


def test_a_retraining_can_be_cancelled_with_its_job(place):
    pid = place / "pid"
    code = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    configured(place, [sys.executable, "-c", code])
    with subprocess.Popen([sys.executable, "-m", "mooring", "retrain", "--now"], cwd=place) as running:
        try:
            wait_for(lambda: pid.exists() and bool(pid.read_text()), "the job does not begin")
            running.send_signal(signal.SIGINT)
            assert running.wait(PATIENCE) == 130
            job = int(pid.read_text())
            os.kill(job, 0)
            mooring("retrain", "cancel", "1", cwd=place)
            wait_for(lambda: not alive(job), "the job goes on")
        finally:
            running.kill()
    assert "there is nothing to cancel" in mooring("retrain", "cancel", "1", cwd=place, code=1)


def alive(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().split(")")[1][:3]
    except OSError:
        return False


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
    running = Retraining(settings(state=f"{tmp_path}/state.db"), state, MODEL, print)
    with pytest.raises(TicketError, match="ended meanwhile"):
        running._begin(tickets, ticket, tmp_path / "job", ["sleep", "600"], {})
    assert isinstance(job.look(tmp_path / "job"), job.Ended | job.Lost)  # it may not even have begun


def test_the_job_of_one_that_was_cancelled_from_another_host_is_ended_by_the_monitor(state, tmp_path):
    tickets = Tickets(state)
    ticket = tickets.open(MODEL, Cause(kind="manual"), "why", champion="1", directory=f"{tmp_path}/all")
    ticket = tickets.move(ticket, "training", "dataset", attempt=1)
    directory = tmp_path / "all" / Path(ticket.directory).name / "attempt-1"
    job.start(directory, ["sleep", "600"], env={}, timeout=600)
    try:
        tickets.move(ticket, "cancelled", "cancelled", who="ann (dashboard)")
        running = Retraining(settings(state=f"{tmp_path}/state.db"), state, MODEL, print)
        assert not running.go_on()
        assert isinstance(job.look(directory), job.Ended | job.Lost)
    finally:
        job.stop(directory)


def test_the_gates_process_tells_a_reason_and_no_traceback(tmp_path):
    (tmp_path / "test.csv").write_text("a\n1\n")
    argv = evaluation.command(
        settings(), model=MODEL, champion=None, candidate="1", holdout=tmp_path / "test.csv", label="quality",
        output=tmp_path / "out.json",
    )  # fmt: skip
    with pytest.raises(evaluation.EvaluationError, match=r"^the holdout has no column quality"):
        evaluation.run(argv)
