"""The whole loop, on MLflow and the state in other places than one laptop, and when who began it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mooring.demo.processes import free_ports, running, wait_for
from mooring.monitor.state import State
from mooring.retrain.tickets import Tickets
from postgres import postgres
from retraining import CHAMPION, MODEL, TRAIN, judged, labelled_log, python

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An MLflow tracking server over HTTP on PostgreSQL, and the URL of a state there."""
    with postgres() as database:
        [port] = free_ports(1)
        backend = database.url().replace("postgresql://", "postgresql+psycopg://")
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
        command += ["--backend-store-uri", backend, "--artifacts-destination", str(tmp_path / "artifacts")]
        with running(command, tmp_path, tmp_path / "server.log") as process:
            wait_for(
                lambda: process.poll() is not None or _healthy(port), 120, (tmp_path / "server.log").read_text()
            )
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
            yield database.url()


def _healthy(port: int) -> bool:
    from urllib.error import URLError
    from urllib.request import urlopen

    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def test_it_closes_with_mlflow_and_the_state_on_postgresql(served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    python(CHAMPION, cwd=tmp_path)
    (tmp_path / "train.py").write_text(TRAIN)
    labelled_log(tmp_path / "log")
    retrain = {"command": [sys.executable, "train.py", "{data}"], "label": "quality"}
    content = {"model": MODEL, "log": "log", "state": served, "retrain": retrain, "gate": {"latency": 100}}
    (tmp_path / "mooring.yaml").write_text(json.dumps(content | {"every": "1s"}))
    with State(served) as state:
        judged(state, ["critical"] * 5)
        with running([sys.executable, "-m", "mooring", "monitor"], tmp_path, tmp_path / "monitor.log"):
            tickets = Tickets(state)
            wait_for(lambda: any(one.ended for one in tickets.newest(MODEL)), 240, "see monitor.log")
        [ticket] = tickets.newest(MODEL)
        [promotion] = tickets.promotions(MODEL)
    assert (ticket.status, ticket.candidate) == ("promoted", "2"), (tmp_path / "monitor.log").read_text()
    assert promotion.status == "done"
    import mlflow

    champion = mlflow.MlflowClient().get_model_version_by_alias(MODEL, "champion")
    assert (str(champion.version), champion.current_stage) == ("2", "Production")


def test_a_demo_killed_after_drift_has_begun_ends_in_a_new_champion_all_the_same(tmp_path):
    place = tmp_path / "d"
    demo = subprocess.Popen(
        [sys.executable, "-m", "mooring", "demo", "--dir", str(place)],
        env={name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")},
        stdout=subprocess.DEVNULL,
    )
    left: list[int] = []
    try:
        wait_for(lambda: _opened(place), 240, "there is no retraining")
        demo.send_signal(signal.SIGKILL)
        demo.wait()
        left = _of(place)
        with State(str(place / "state.db")) as state:
            wait_for(lambda: Tickets(state).newest("sklearn-monitor")[0].ended is not None, 240, "it does not end")
            [ticket] = Tickets(state).newest("sklearn-monitor")
        assert (ticket.status, ticket.candidate) == ("promoted", "2")
    finally:
        demo.kill()
        for process in left or _of(place):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _opened(place: Path) -> bool:
    if not (place / "state.db").exists():
        return False
    with State(str(place / "state.db")) as state:
        return bool(Tickets(state).newest("sklearn-monitor"))


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
