"""The state in SQLite: all or nothing, once, by whoever has the lease."""

from __future__ import annotations

import sqlite3
from datetime import timezone

import msgspec
import pytest
from sqlalchemy import event

from mooring.state.alerts import Alerts
from mooring.state.assessments import Assessments
from mooring.state.database import StateError
from mooring.state.objects import Objects
from mooring.state.state import State
from mooring.state.verdicts import Verdicts
from mooring.state.windows import Windows
from state_contract import StateContract
from states import HOUR, LOG, NOON, put, verdict, window


class TestInSqlite(StateContract):
    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite:///{tmp_path}/made/state.db"


def test_ids_are_the_same_wherever_they_are_made_and_differ_for_what_differs():
    windows = [window(), window(version=None), window(variant="canary"), window(1), window(model="beer")]
    assert len({one.id for one in windows}) == len(windows)
    assert window().id == window(start=NOON.astimezone(timezone(HOUR)), rows=5, revision=3).id
    of = window()
    verdicts = [verdict(of), verdict(of, provisional=True), verdict(msgspec.structs.replace(of, revision=1))]
    assert len({one.id for one in verdicts}) == len(verdicts)
    assert verdict(of, "critical").id == verdict(of, "ok").id


def test_questions_are_answered_from_indexes(tmp_path):
    with State(str(tmp_path / "state.db")) as state:
        [one] = put(state, window())
        asked = []
        event.listen(state.database._engine, "before_cursor_execute", lambda *args: asked.append(args[2:4]))
        Objects(state).seen("wine", LOG, ["a"])
        Objects(state).newest_day("wine", LOG)
        Windows(state).history("wine")
        Windows(state).history("wine", version="3", variant="champion", start=NOON, end=NOON, newest=5)
        Windows(state).history("wine", status="open")
        Windows(state).overlapping("wine", "3", "champion", NOON, NOON)
        Windows(state).profiles([one.id])
        Windows(state).judged(verdict(one).id)
        Windows(state).watched()
        Windows(state).recent()
        Windows(state).recent(["wine"], newest=5)
        Verdicts(state).cells([verdict(one).id])
        Assessments(state).history("wine")
        Windows(state).untracked("wine")
        Alerts(state).due("wine", NOON)
        Alerts(state).newest("wine")
    with sqlite3.connect(tmp_path / "state.db") as connection:
        for statement, parameters in asked:
            if statement.startswith("SELECT"):
                plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
                scans = [step for step in plan if step.startswith("SCAN")]
                few = ("mooring_models", "anon_", "ix_mooring_verdicts_untracked")  # as many as there are models
                assert [step for step in scans if not any(name in step for name in few)] == [], statement
    connection.close()


def test_the_default_is_a_file_in_a_directory_that_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with State() as state:
        put(state, window())
    assert (tmp_path / ".mooring" / "state.db").exists()
    with State(".mooring/state.db") as state:
        assert len(Windows(state).history("wine")) == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "postgresql://ann:secret@127.0.0.1:1/state",
            "the state postgresql://ann:***@127.0.0.1:1/state can't be used",
        ),
        ("postgres://127.0.0.1:1/state?password=secret", "check that the database runs"),
        ("mysql://ann:secret@host/state", "mysql://ann:***@host/state is no state: it is sqlite:///PATH or"),
        ("sqlite://", "a state in memory would be forgotten: name a file"),
        ("://secret", "the state's URL can't be read"),
        ("sqlite:////dev/null/state.db", "the directory of the state /dev/null/state.db can't be made"),
        ("sqlite:////", "can't be used: unable to open database file; check that it is an SQLite file"),
    ],
)
def test_a_state_that_can_not_be_used_says_why_and_what_to_do_and_no_password(url, message):
    with pytest.raises(StateError) as error:
        State(url)
    assert message in str(error.value)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_database_is_not_touched(tmp_path):
    path = tmp_path / "state.db"
    path.write_text("something else altogether, and long enough to be looked at" * 100)
    with pytest.raises(StateError, match="file is not a database; check that it is an SQLite file"):
        State(str(path))
    assert path.read_text().startswith("something else")
