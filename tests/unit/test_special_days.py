"""Days that are not usual: noted by a command, or in a file, and what the monitor says of their windows."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from monitoring import START, Monitoring, Traffic, settings, without_mlflow
from mooring.cli import main
from mooring.state.incidents import Incidents
from mooring.state.windows import Windows


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_mlflow(tmp_path, monkeypatch)


def note(*arguments: str) -> str:
    found = CliRunner().invoke(main, ["note", "--state", "sqlite:///state.db", *arguments])
    assert found.exit_code == 0, found.output
    return found.output


def test_notes_are_listed_and_removed():
    note("2026-12-24/2026-12-27", "christmas sale", "--model", "wine")
    [one] = json.loads(note("2027-01-01", "--timezone", "Europe/Berlin", "--json"))[1:]
    assert (one["start"], one["end"], one["model"]) == ("2026-12-31T23:00:00Z", "2027-01-01T23:00:00Z", None)
    assert "christmas sale" in note("--model", "wine")
    assert "christmas sale" not in note("--model", "beer")
    note("--remove", one["id"])
    [left] = json.loads(note("--json"))
    assert left["name"] == "christmas sale"
    assert note("2026-12-24/2026-12-27", "another name", "--model", "wine").count("2026-12-24") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["soon"], "'soon' is no day; write 2026-12-25"),
        (["2026-12-25", "--timezone", "Mars/Base"], "there is no such time zone"),
        (["--remove", "12345678"], "there is no note 12345678"),
    ],
)
def test_a_mistake_is_a_sentence(arguments, words):
    found = CliRunner().invoke(main, ["note", "--state", "sqlite:///state.db", *arguments])
    assert found.exit_code == 1
    assert words in found.output


def test_what_a_holiday_shows_is_no_drift_and_says_so(tmp_path: Path):
    Path("days.txt").write_text(f"{START:%Y-%m-%d} a sale\n")
    traffic = Traffic(tmp_path / "log")
    monitoring = Monitoring(settings(traffic.log, "sqlite:///state.db", window_rows=500, holidays="days.txt"))
    monitoring.keep(traffic.baseline(3000))
    traffic.write(traffic.exchanges(1000, START, 3.0, shift=0.6, per_request=1))
    monitoring.watch.look()
    verdicts = [verdict for _, verdict in Windows(monitoring.state).history("wine") if verdict]
    assert [one.status for one in verdicts] == ["ok", "ok"]
    assert all("a sale" in one.message for one in verdicts)
    assert Incidents(monitoring.state).newest("wine") == []


def test_a_note_counts_from_the_next_look_on(tmp_path: Path):
    traffic = Traffic(tmp_path / "log")
    monitoring = Monitoring(settings(traffic.log, "sqlite:///state.db", window_rows=500))
    monitoring.keep(traffic.baseline(3000))
    traffic.write(traffic.exchanges(500, START - timedelta(days=1), 3.0, per_request=1))
    monitoring.watch.look()
    note(f"{START:%Y-%m-%d}", "launch", "--model", "wine")
    note(f"{START:%Y-%m-%d}", "tasting", "--model", "beer")
    traffic.write(traffic.exchanges(500, START, 3.0, shift=0.6, per_request=1))
    monitoring.watch.look()
    verdicts = [verdict for _, verdict in Windows(monitoring.state).history("wine") if verdict]
    assert ["launch" in one.message for one in verdicts] == [False, True]
    assert not any("tasting" in one.message for one in verdicts)


def test_a_file_that_is_wrong_is_said_at_the_start_and_kept_as_it_was_later(tmp_path: Path):
    days = Path("days.txt")
    days.write_text("2026-13-01\n")
    with pytest.raises(ValueError, match=r"days\.txt, line 1"):
        Monitoring(settings(tmp_path / "log", "sqlite:///state.db", holidays="days.txt"))
    days.write_text(f"{START:%Y-%m-%d} a sale\n")
    traffic = Traffic(tmp_path / "log")
    monitoring = Monitoring(settings(traffic.log, "sqlite:///state.db", window_rows=500, holidays="days.txt"))
    monitoring.keep(traffic.baseline(3000))
    days.write_text("tomorrow\n")
    start = START + timedelta(hours=1)
    traffic.write(traffic.exchanges(1000, start, 3.0, per_request=1))
    monitoring.watch.look()
    assert any("days.txt, line 1" in one and "as before" in one for one in monitoring.said)
    assert all("a sale" in one.message for _, one in Windows(monitoring.state).history("wine") if one)
