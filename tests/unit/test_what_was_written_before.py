"""A state, a log and a spool that an earlier version wrote are read, and gone on with."""

from __future__ import annotations

import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from monitoring import START, Monitoring, settings
from mooring.log.drain import Drain
from mooring.log.reader import read_log
from mooring.settings import LogSettings
from mooring.state.assessments import Assessments
from mooring.state.baselines import StoredBaselines
from mooring.state.retrainings import Tickets
from mooring.state.rollouts import Rollouts
from mooring.state.verdicts import Verdicts
from mooring.state.windows import Windows

WRITTEN = Path(__file__).parents[1] / "data" / "state-and-log-r0005.tar.xz"


@pytest.fixture
def before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with four hours of traffic, of which two drift, and what the monitor made of it."""
    with tarfile.open(WRITTEN) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect("state.db")) as connection, connection:  # it knows the log by its whole path
        connection.execute("UPDATE mooring_objects SET log = ? || '/' || log", (str(tmp_path),))
    return tmp_path


@pytest.fixture
def monitoring(before: Path):
    made = Monitoring(settings(Path("log"), "sqlite:///state.db", window=3600.0))
    yield made
    made.state.close()


def test_windows_and_verdicts_stay_and_nothing_is_judged_again(monitoring):
    there = [(150, "ok"), (150, "ok"), (150, "critical"), (150, "critical"), (1, "too_few")]
    assert monitoring.verdicts() == there
    monitoring.watch.look()
    assert monitoring.verdicts() == there
    assert monitoring.said == []
    assessed = Assessments(monitoring.state).history("wine")
    assert [(one.labelled, one.rows) for one in assessed] == [(150, 150)] * 3 + [(0, 150), (0, 1)]


def test_what_was_judged_has_its_profiles_cells_and_baseline(monitoring):
    newest = Windows(monitoring.state).history("wine")[3]
    assert newest.window.start == START.replace(hour=15)
    assert Windows(monitoring.state).profiles([newest.window.id])
    cells = Verdicts(monitoring.state).cells([newest.verdict.id])[newest.verdict.id]
    assert {name for name, cell in cells.items() if cell.severity == "critical"} == {"alcohol", "prediction"}
    assert StoredBaselines(monitoring.state).newest("wine", "1") is not None


def test_retrainings_rollouts_and_promotions_stay(monitoring):
    tickets, rollouts = Tickets(monitoring.state), Rollouts(monitoring.state)
    ticket = tickets.unended("wine")
    assert (ticket.status, ticket.candidate, ticket.cause.kind) == ("challenger", "2", "drift")
    assert [step.what for step in tickets.steps(ticket.id)] == ["opened", "dataset", "trained", "gate passed"]
    assert tickets.newest("beer")[0].status == "cancelled"
    assert [(one.version, one.who) for one in tickets.promotions.newest("wine")] == [("1", "ann@host")]
    rollout = rollouts.unended("wine")
    assert (rollout.status, rollout.previous, [str(step) for step in rollout.plan]) == (
        "checking",
        "1",
        ["canary 10% 1m 50"],
    )
    assert [event.what for event in rollouts.events(rollout.id)] == ["begun", "loaded"]
    assert [one.version for one in rollouts.serving("wine")] == ["1"]
    going_on = msgspec.structs.replace(rollout, status="stepping")
    assert rollouts.move(rollout, going_on, "step").status == "stepping"


def test_the_log_is_read_and_what_waits_in_the_spool_is_added(before):
    assert read_log(str(before / "log"), model="wine").num_rows == 601
    Drain(LogSettings(log=str(before / "log"), spool=str(before / "spool"))).once()
    assert read_log(str(before / "log"), model="wine").num_rows == 604
    assert not list((before / "spool").glob("*/*.segment"))
