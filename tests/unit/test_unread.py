"""How much of the log is not read yet: what `mooring drift`, `report` and `performance` say on stderr."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from monitoring import START, Monitoring, Traffic, settings, without_mlflow
from mooring.cli import main
from mooring.monitor import unread


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A directory with a log and a state where the commands look for them: 1000 rows are judged."""
    without_mlflow(tmp_path, monkeypatch)
    traffic = Traffic(tmp_path / "mooring-log")
    traffic.write(traffic.exchanges(1000))
    (tmp_path / ".mooring").mkdir()
    monitoring = Monitoring(settings(traffic.log, f"sqlite:///{tmp_path}/.mooring/state.db"))
    monitoring.keep(traffic.baseline())
    monitoring.watch.look()
    monitoring.state.close()
    return tmp_path


def more(place: Path, rows: int, hours: int) -> None:
    traffic = Traffic(place / "mooring-log", seed=hours)
    traffic.write(traffic.exchanges(rows, START + timedelta(hours=hours)), f"later-{hours:08d}")


def said(place: Path, *command: str) -> str:
    done = CliRunner().invoke(main, list(command))
    assert done.exit_code in (0, 1, 2), done.output
    return done.stderr


@pytest.mark.parametrize("command", [["drift"], ["drift", "--json"], ["report"], ["performance", "--json"]])
def test_what_no_look_has_read_is_said_with_its_age(place, command):
    assert "all rows of wine in the log are read" in said(place, *command)
    more(place, 300, 1)
    more(place, 40, 2)
    text = said(place, *command)
    assert re.search(r"340 rows of wine in the log are not read yet, the first written \d+[smh] ago, and no", text)
    assert "`mooring monitor --once`" in text


def test_a_monitor_that_runs_is_named_with_when_it_looks(place):
    more(place, 300, 1)
    monitoring = Monitoring(settings(place / "mooring-log", f"sqlite:///{place}/.mooring/state.db"))
    with monitoring.state.lease("monitor/wine", every="5m"):
        text = said(place, "drift")
    assert re.search(r"300 rows .* a monitor runs \(process \d+ on \S+ since .* UTC\), and looks every 5m", text)


def test_machine_output_stays_alone_on_stdout(place):
    more(place, 300, 1)
    done = CliRunner().invoke(main, ["drift", "--json"])
    assert len(json.loads(done.stdout)) == 1


def test_of_very_many_objects_only_some_are_opened(place, monkeypatch):
    monkeypatch.setattr(unread, "_COUNTED", 2)
    for hour in range(3):
        more(place, 10, hour + 1)
    assert "over 20 rows of wine" in said(place, "drift")


def test_verdicts_are_shown_where_the_log_is_gone(place):
    (place / "mooring-log").rename(place / "elsewhere")
    done = CliRunner().invoke(main, ["drift"])
    assert "unchanged" in done.stdout or "ok" in done.stdout
    assert done.stderr == ""
