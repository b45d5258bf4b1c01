"""The loop with a version that fails in service, a worse one, on PostgreSQL, and interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from demos import DEMO, demo, fared, history_of, live, plain_environ, rollouts_of, whats
from mooring.demo.processes import running
from mooring.demo.traffic import DemoTraffic
from mooring.demo.train import SAMPLE, read
from mooring.state.retrainings import Tickets
from mooring.state.rollouts import Rollouts
from mooring.state.state import State
from ports import reserved_port
from postgres import Postgres
from retraining import CHAMPION, MODEL, TRAIN, judged, labelled_log, python
from waiting import PATIENCE, wait_for


def test_a_version_that_fails_in_service_is_rolled_back_and_the_champion_answers(tmp_path):
    place, output = demo(tmp_path, "--bad-model")
    entry = history_of(place)
    assert (entry["status"], entry["gate"]["passed"], entry["rollout"]["status"]) == (
        "rolled_back",
        True,
        "rolled_back",
    )
    told = whats(place)
    assert (told[:4], told[-2:]) == (["begun", "loaded", "step", "step"], ["failed", "rolled back"])
    assert "full" not in told
    [rollout] = rollouts_of(place)
    assert rollout.reason.startswith("errors: ")

    requests, failed, answered = fared(output)
    assert sum(answered.values()) + failed == requests
    assert failed <= rollout.counts["canary"]
    assert live(place) == answered + Counter({"2": failed})
    [alert] = [one for one in alerts(place) if one["kind"] == "rolled_back"]
    assert (alert["version"], alert["previous"], alert["reason"]) == ("2", "1", rollout.reason)
    for part in (f"guard   {rollout.reason}", "mooring.rollout = rolled back", alert["text"]):
        assert part in output

    code = f"""
import mlflow
client = mlflow.MlflowClient("sqlite:///{place}/mlflow.db")
assert str(client.get_model_version_by_alias("{DEMO}", "champion").version) == "1"
assert client.get_model_version("{DEMO}", "2").tags["mooring.rollout.reason"].startswith("errors: ")
assert "challenger" not in client.get_registered_model("{DEMO}").aliases
"""
    python(code, cwd=place)


def test_a_worse_version_never_gets_a_request(tmp_path):
    place, output = demo(tmp_path, "--worse")
    entry = history_of(place)
    assert (entry["status"], entry["gate"]["passed"], entry["rollout"]) == ("refused", False, None)
    requests, failed, answered = fared(output)
    assert (failed, answered) == (0, {"1": requests})
    assert live(place) == answered


def alerts(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place / "alerts.jsonl").read_text().splitlines()]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgresql: Postgres) -> Iterator[str]:
    """An MLflow tracking server over HTTP on PostgreSQL, and the URL of a state there."""
    port = reserved_port()
    backend = postgresql.url().replace("postgresql://", "postgresql+psycopg://")
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", backend, "--artifacts-destination", str(tmp_path / "artifacts")]
    with running(command, tmp_path, tmp_path / "server.log") as process:
        wait_for(lambda: process.poll() is not None or _healthy(port), (tmp_path / "server.log").read_text())
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        yield postgresql.url()


def _healthy(port: int) -> bool:
    from urllib.error import URLError
    from urllib.request import urlopen

    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=PATIENCE) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


@pytest.mark.parametrize("supervised", [False, True], ids=["no supervisor", "mooring serve"])
def test_it_closes_with_mlflow_and_the_state_on_postgresql(served, tmp_path, monkeypatch, supervised):
    monkeypatch.chdir(tmp_path)
    python(CHAMPION, cwd=tmp_path)
    (tmp_path / "train.py").write_text(TRAIN)
    labelled_log(tmp_path / "log")
    retrain = {"command": [sys.executable, "train.py", "{data}"], "label": "quality"}
    content = {
        "model": MODEL,
        "log": "log",
        "state": served,
        "retrain": retrain,
        "gate": {"latency": 1e6},
        "rollout": {"latency": 1e3},
    }
    (tmp_path / "mooring.yaml").write_text(json.dumps(content | {"every": "1s", "poll": "1s"}))
    with State(served) as state, ExitStack() as stack:
        if supervised:
            serve = [sys.executable, "-m", "mooring", "serve", f"models:/{MODEL}@champion", "--port", "0"]
            serve += ["--rollout-step", "full"]  # no request comes that a step could wait for
            stack.enter_context(running(serve, tmp_path, tmp_path / "serve.log"))
            wait_for(lambda: state.holder(f"serve/{MODEL}") is not None, "see serve.log")
        judged(state, ["critical"] * 5)
        with running([sys.executable, "-m", "mooring", "monitor"], tmp_path, tmp_path / "monitor.log"):
            tickets = Tickets(state)
            wait_for(lambda: any(one.ended for one in tickets.newest(MODEL)), "see monitor.log", 6 * PATIENCE)
        [ticket] = tickets.newest(MODEL)
        [promotion] = tickets.promotions.newest(MODEL)
        assert [one.version for one in Rollouts(state).newest(MODEL)] == (["2"] if supervised else [])
    assert (ticket.status, ticket.candidate) == ("promoted", "2"), (tmp_path / "monitor.log").read_text()
    assert promotion.status == "done"
    import mlflow

    champion = mlflow.MlflowClient().get_model_version_by_alias(MODEL, "champion")
    assert (str(champion.version), champion.current_stage) == ("2", "Production")


def test_a_demo_killed_in_training_ends_in_a_new_champion_as_long_as_clients_ask(tmp_path):
    place, log = tmp_path / "d", tmp_path / "demo.log"
    with log.open("wb") as output:
        demo = subprocess.Popen(
            [sys.executable, "-m", "mooring", "demo", "--dir", str(place)], env=plain_environ(), stdout=output
        )
    left: list[int] = []
    try:
        wait_for(lambda: _trains(place), "there is no retraining", 6 * PATIENCE)
        demo.send_signal(signal.SIGKILL)
        demo.wait()
        left = _of(place)
        said = (place / "serve.log").read_text()
        patterns = (r"listening on http://127.0.0.1:(\d+)", r"counts on http://127.0.0.1:(\d+)")
        port, admin_port = (int(re.search(pattern, said)[1]) for pattern in patterns)
        wines = read(str(SAMPLE))
        with (
            State(str(place / "state.db")) as state,
            # It does not know the token that the demonstration made up: nobody else may send labels.
            DemoTraffic(
                port, admin_port, "another", wines[wines["alcohol"] > wines["alcohol"].median()]
            ) as traffic,
        ):
            wait_for(lambda: Tickets(state).newest(DEMO)[0].ended is not None, "it does not end", 6 * PATIENCE)
            [ticket] = Tickets(state).newest(DEMO)
        assert (ticket.status, ticket.candidate) == ("promoted", "2")
        assert traffic.failed.total() == 0, traffic.last_failure
    finally:
        demo.kill()
        for process in {*left, *_of(place)}:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue


def test_an_interrupted_demo_leaves_nothing_behind_not_even_the_training(tmp_path):
    place = tmp_path / "d"
    command = [sys.executable, "-m", "mooring", "demo", "--dir", str(place)]
    demo = subprocess.Popen(command, env=plain_environ(), stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: _trains(place) and len(_of(place)) > 5, "there is no retraining", 6 * PATIENCE)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(PATIENCE) != 0
        assert not _of(place)
    finally:
        demo.kill()


def _trains(place: Path) -> bool:
    if not (place / "state.db").exists():
        return False
    with State(str(place / "state.db")) as state:
        return any(ticket.status not in ("approval", "dataset") for ticket in Tickets(state).newest(DEMO))


def _of(place: Path) -> list[int]:
    """Return the processes that work in a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and Path(os.readlink(entry / "cwd")).is_relative_to(place):
                found.append(int(entry.name))
        except OSError:
            continue
    return found
