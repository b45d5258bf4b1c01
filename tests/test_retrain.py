"""What calls for a retraining, and its way from the ticket to the champion, whoever is killed on it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

from mooring.cli import main
from mooring.config import RetrainSettings
from mooring.demo.processes import wait_for
from mooring.monitor.state import State
from mooring.retrain import evaluation, job
from mooring.retrain.history import history
from mooring.retrain.machine import Retraining
from mooring.retrain.tickets import Cause, Promotion, TicketError, Tickets
from mooring.retrain.trigger import ask
from retraining import CHAMPION, MODEL, TRAIN, assessed, judged, labelled_log, python

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State(f"{tmp_path}/state.db") as opened:
        yield opened


def settings(**changed: Any) -> RetrainSettings:
    return RetrainSettings(**{"model": MODEL, "retrain_command": "train {data}", **changed})


@pytest.mark.parametrize(
    ("statuses", "changed", "due"),
    [
        (["ok"] * 5, {}, False),
        (["critical"] * 2, {}, False),
        (["ok", "critical", "ok", "critical", "critical"], {}, True),
        (["critical", "critical", "critical", "ok", "ok", "ok"], {}, False),
        (["warning"] * 5, {}, False),
        (["warning"] * 5, {"retrain_level": "warning"}, True),
        (["ok", "critical"], {"retrain_windows": "1/1"}, True),
        (["critical", "ok"], {"retrain_windows": "1/1"}, False),
        (["critical", "too_few"], {"retrain_windows": "1/1"}, True),
        (["critical"] * 5, {"retrain_when": ("performance",)}, False),
    ],
)
def test_so_many_of_the_last_windows_call_for_it(state, statuses, changed, due):
    judged(state, statuses, end=NOW)
    answer = ask(state, MODEL, settings(**changed), NOW)
    assert (answer.cause is not None) == due, answer.reason
    if due:
        assert answer.cause.windows
        assert state.verdict(answer.cause.verdict) is not None


@pytest.mark.parametrize(
    ("statuses", "when", "due"),
    [
        (["critical"] * 5, ("drift", "performance"), True),
        (["critical"] * 5, ("performance",), True),
        (["critical"] * 5, ("drift",), False),
        (["too_few", "critical", "critical", "ok", "too_few"], ("performance",), False),
        (["too_few", "critical", "critical", "critical", "too_few"], ("performance",), True),
        (["warning"] * 5, ("performance",), False),
    ],
)
def test_performance_calls_for_it_as_drift_does(state, statuses, when, due):
    judged(state, ["ok"] * 5, end=NOW)
    assessed(state, statuses)
    answer = ask(state, MODEL, settings(retrain_when=when), NOW)
    assert (answer.cause is not None) == due, answer.reason
    if due:
        assert answer.cause.kind == "performance"
        assert "critical on labels" in answer.reason


def test_what_is_long_past_calls_for_nothing(state):
    judged(state, ["critical"] * 5, end=NOW)
    answer = ask(state, MODEL, settings(), NOW + 2 * DAY)
    assert answer.cause is None
    assert "2026-03-01 12:00" in answer.reason


def test_the_windows_of_the_version_before_do_not_count(state):
    judged(state, ["critical"] * 5, end=NOW - timedelta(hours=1))
    judged(state, ["ok", "critical"], end=NOW, version="2")
    assert ask(state, MODEL, settings(), NOW).cause is None


def test_one_at_a_time_then_a_cooldown_then_so_many_a_week(state):
    judged(state, ["critical"] * 5, end=datetime.now(UTC))
    tickets = Tickets(state)
    now = datetime.now(UTC)
    first = tickets.open(MODEL, ask(state, MODEL, settings(), now).cause, "why", champion="1", directory="d")
    assert "is under way" in ask(state, MODEL, settings(), now).reason
    with pytest.raises(TicketError, match="under way already"):
        tickets.open(MODEL, Cause(kind="manual"), "why", champion="1", directory="d")
    tickets.move(first, "refused", "gate")
    assert "cools down until" in ask(state, MODEL, settings(), now).reason
    without = settings(retrain_cooldown=0.0)
    assert ask(state, MODEL, without, datetime.now(UTC)).cause is not None
    seldom = settings(retrain_cooldown=0.0, retrain_max_per_week=1)
    assert "in the last 7 days" in ask(state, MODEL, seldom, datetime.now(UTC)).reason


def test_the_same_verdict_leads_to_one_ticket(state):
    judged(state, ["critical"] * 5)
    cause = ask(state, MODEL, settings(), datetime.now(UTC)).cause
    tickets = Tickets(state)
    first = tickets.open(MODEL, cause, "why", champion="1", directory="d")
    assert tickets.open(MODEL, cause, "why", champion="1", directory="d") == first
    ended = tickets.move(first, "failed", "failed")
    assert tickets.open(MODEL, cause, "why", champion="1", directory="d") == ended


def test_who_comes_second_changes_nothing(state):
    tickets = Tickets(state)
    first = tickets.open(MODEL, Cause(kind="manual"), "why", champion="1", directory="d")
    tickets.move(first, "training", "dataset", attempt=1)
    with pytest.raises(TicketError, match="gone on meanwhile"):
        tickets.move(first, "training", "dataset", attempt=1)
    assert [step.what for step in tickets.steps(first.id)] == ["opened", "dataset"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store with a champion, and a log with labels."""
    directory = tmp_path_factory.mktemp("trained")
    python(CHAMPION, cwd=directory, env={"MLFLOW_TRACKING_URI": f"sqlite:///{directory}/mlflow.db"})
    return directory


@pytest.fixture
def place(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a registry that has a champion, a labelled log, a state that calls for retraining."""
    database = tmp_path / "mlflow.db"
    database.write_bytes((trained / "mlflow.db").read_bytes())
    (tmp_path / "train.py").write_text(TRAIN)
    labelled_log(tmp_path / "log")
    configured(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    monkeypatch.chdir(tmp_path)
    with State(f"{tmp_path}/state.db") as state:
        judged(state, ["critical"] * 5)
    return tmp_path


TRAINS = (sys.executable, "train.py", "{data}")


def configured(directory: Path, command: Sequence[str] | str | None = TRAINS, **retrain: Any) -> None:
    own = {} if command is None else {"command": command if isinstance(command, str) else list(command)}
    chosen = {**own, "label": "quality", **retrain}
    content = {"model": MODEL, "log": "log", "state": "sqlite:///state.db", "retrain": chosen}
    content["gate"] = {"latency": 100}  # the champion here does next to nothing
    (directory / "mooring.yaml").write_text(json.dumps(content))


def mooring(*arguments: str, cwd: Path, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mooring", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def champion() -> str:
    import mlflow

    return str(mlflow.MlflowClient().get_model_version_by_alias(MODEL, "champion").version)


DYING = """
import os, signal, sys, time
from pathlib import Path
from mooring.config import RetrainSettings, load
from mooring.monitor.state import State
from mooring.retrain import dataset, job, machine, registry
from mooring.retrain.tickets import Tickets

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
    (dataset, ("make",)),
    (job, ("start",)),
    (registry, ("set_challenger", "move_champion", "candidates")),
):
    for name in names:
        dying(place, name)
settings = load(RetrainSettings, {})
with State(settings.state) as state:
    running = machine.Retraining(settings, state, "wine", lambda text: print(text, flush=True))
    while True:
        running.go_on()
        if all(one.ended for one in Tickets(state).newest("wine")) and Tickets(state).newest("wine"):
            break
        time.sleep(0.2)
"""


@pytest.mark.slow
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
        [promotion] = Tickets(state).promotions(MODEL)
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


@pytest.mark.slow
def test_a_job_that_registers_nothing_or_takes_too_long_is_told_so(place):
    configured(place, [sys.executable, "-c", "pass"], attempts=1)
    assert "registered no new version" in mooring("retrain", "--now", cwd=place, code=4)
    configured(place, [sys.executable, "-c", "import time; time.sleep(600)"], attempts=1, timeout="1s")
    assert "took longer than 1 s" in mooring("retrain", "--now", cwd=place, code=4)


@pytest.mark.slow
def test_a_job_that_promotes_by_itself_has_that_taken_back(place):
    (place / "train.py").write_text(
        TRAIN + "\nmlflow.MlflowClient().set_registered_model_alias('wine', 'champion', '2')\n"
    )
    configured(place, [sys.executable, "train.py", "{data}", "1000"])
    assert "taken back" in mooring("retrain", "--now", cwd=place, code=3)
    assert champion() == "1"


@pytest.mark.slow
def test_without_the_alias_the_version_that_answers_is_the_one_to_better(place):
    import mlflow

    mlflow.MlflowClient().delete_registered_model_alias(MODEL, "champion")
    configured(place, (*TRAINS, "1000"))
    mooring("retrain", "--now", cwd=place, code=3)
    [entry] = json.loads(mooring("history", "--json", cwd=place))
    assert (entry["previous"], entry["status"]) == ("1", "refused")


@pytest.mark.slow
def test_it_waits_for_labels_and_says_what_is_missing(place):
    configured(place, min_labels=1000)
    text = mooring("retrain", "--now", cwd=place, code=4)
    assert "600 of 1000" in text.replace(",", "")
    configured(place, min_labels=100)
    mooring("retrain", "--now", cwd=place)
    assert champion() == "2"


@pytest.mark.slow
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


def test_a_retraining_can_be_cancelled_with_its_job(place):
    pid = place / "pid"
    code = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    configured(place, [sys.executable, "-c", code])
    with subprocess.Popen([sys.executable, "-m", "mooring", "retrain", "--now"], cwd=place) as running:
        try:
            wait_for(lambda: pid.exists() and bool(pid.read_text()), 60, "the job does not begin")
            running.send_signal(signal.SIGINT)
            assert running.wait(30) == 130
            job = int(pid.read_text())
            os.kill(job, 0)
            mooring("retrain", "cancel", "1", cwd=place)
            wait_for(lambda: not alive(job), 30, "the job goes on")
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


@pytest.mark.parametrize(
    ("retrain", "words"),
    [
        ({"command": None}, "command"),
        ({"python": "a:b"}, "one of"),
        ({"command": "train {nothing}"}, "{nothing}"),
        ({"windows": "6/5"}, "6/5"),
        ({"range": "often"}, "range"),
        ({"range": "1.2.3d"}, "1.2.3d"),
        ({"timeout": "inf"}, "timeout"),
        ({"cooldwn": "1d"}, "cooldwn"),
    ],
)
def test_settings_that_cannot_be_meant_are_a_sentence(tmp_path, monkeypatch, retrain, words):
    monkeypatch.chdir(tmp_path)
    configured(tmp_path, **{"command": ["train"], **retrain})
    with State("sqlite:///state.db") as state:
        judged(state, ["critical"] * 5)
    result = CliRunner().invoke(main, ["retrain", "--now"])
    assert result.exit_code == 2, result.output
    assert words in result.output


def test_a_tickets_directory_stays_where_all_are_and_is_its_own(state, tmp_path):
    tickets = Tickets(state)
    ticket = tickets.open("../../a b/c", Cause(kind="manual"), "why", champion=None, directory=f"{tmp_path}/all")
    assert Path(ticket.directory).parent == tmp_path / "all"
    with State(f"{tmp_path}/anew.db") as anew:
        other = Tickets(anew).open("../../a b/c", ticket.cause, "why", champion=None, directory=f"{tmp_path}/all")
    assert (other.number, other.directory == ticket.directory) == (1, False)


@pytest.mark.parametrize("name", ["", "\N{SUPERSCRIPT TWO}", "9"])
def test_a_name_that_is_no_tickets_names_none(state, name):
    Tickets(state).open(MODEL, Cause(kind="manual"), "why", champion="1", directory="d")
    with pytest.raises(TicketError, match="no ticket"):
        Tickets(state).named(MODEL, name)


def test_after_a_cancelled_one_there_is_a_cooldown_too(state):
    judged(state, ["critical"] * 5, end=datetime.now(UTC))
    now = datetime.now(UTC)
    ticket = Tickets(state).open(
        MODEL, ask(state, MODEL, settings(), now).cause, "why", champion="1", directory="d"
    )
    Tickets(state).move(ticket, "cancelled", "cancelled")
    assert "cools down until" in ask(state, MODEL, settings(), now).reason


def test_a_server_that_was_not_restarted_calls_for_nothing(state):
    judged(state, ["critical"] * 5, end=NOW)
    done = Promotion(
        id="p", model=MODEL, ticket_id=None, kind="promotion", version="2", previous="1", status="done",
        reason="", who="me", created=NOW,
    )  # fmt: skip
    Tickets(state).put_promotion(done)
    answer = ask(state, MODEL, settings(), NOW)
    assert answer.cause is None
    assert "restart the server" in answer.reason


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
