"""The monitor killed at any write, and on Spark."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

import monitoring as support
from monitoring import START, Monitoring, Traffic, results, settings, without_mlflow
from mooring.state.windows import Windows
from waiting import PATIENCE


@pytest.fixture
def traffic(tmp_path, monkeypatch) -> Traffic:
    without_mlflow(tmp_path, monkeypatch)
    return Traffic(tmp_path / "log")


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[4:]
import monitoring as support
from monitoring import Monitoring, settings
from mooring.state.objects import Objects
from mooring.state.verdicts import Verdicts
from mooring.state.windows import Windows
from pathlib import Path
log, state, nth = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
calls = 0
def dying(repository, name):
    original = getattr(repository, name)
    def patched(*args, **kwargs):
        global calls
        calls += 1
        result = original(*args, **kwargs)
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(repository, name, patched)
for write in ((Objects, "mark_done"), (Windows, "put"), (Verdicts, "put"), (Windows, "prune")):
    dying(*write)
import mooring.monitor.ingest as incoming
incoming.CHUNK_ROWS = 1500
Monitoring(settings(log, state)).watch.look(provisional=True)
print(calls)
"""


def test_killed_at_any_write_it_gives_the_same_verdicts_each_once(traffic, tmp_path, monkeypatch):
    monkeypatch.setattr("mooring.monitor.ingest.CHUNK_ROWS", 1500)
    baseline = traffic.baseline()
    for number in range(3):
        traffic.write(traffic.exchanges(1200, START + timedelta(hours=number), shift=0.2 * number))
    whole = Monitoring(settings(traffic.log, f"{tmp_path}/whole.db"))
    whole.keep(baseline)
    whole.watch.look(provisional=True)
    wanted = results(whole)
    assert len(wanted) > 4
    for nth in itertools.count(1, 3):
        state = f"{tmp_path}/{nth}.db"
        Monitoring(settings(traffic.log, state)).keep(baseline)
        command = [
            sys.executable,
            "-c",
            KILLED,
            str(traffic.log),
            state,
            str(nth),
            str(Path(support.__file__).parent),
        ]
        first = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        again = Monitoring(settings(traffic.log, state))
        again.watch.look(provisional=True)
        assert results(again) == wanted
        assert [(w.rows, w.revision) for w, _ in Windows(again.state).history("wine")] == [
            (w.rows, w.revision) for w, _ in Windows(whole.state).history("wine")
        ]
        again.state.close()
        if first.returncode == 0:
            break
        assert first.returncode == -signal.SIGKILL, first.stderr
    assert nth > 10


def test_spark_finds_what_this_process_finds(traffic, tmp_path):
    pytest.importorskip("pyspark", reason="PySpark is not installed: make test-all installs it")
    baseline = traffic.baseline()
    for hour in range(3):
        traffic.write(traffic.exchanges(700, START + timedelta(hours=hour), shift=0.3 * hour))
    found = {}
    for engine in ("local", "spark"):
        monitoring = Monitoring(settings(traffic.log, f"{tmp_path}/{engine}.db", engine=engine))
        monitoring.keep(baseline)
        monitoring.watch.look()
        found[engine] = results(monitoring)
    assert found["spark"] == found["local"]
    assert len(found["local"]) == 3
