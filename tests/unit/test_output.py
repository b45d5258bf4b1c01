"""Tables of the command line, which people read in a terminal and programs through a pipe."""

from __future__ import annotations

import re

import pytest

from mooring.cli.output import show

COLUMNS = ["window", "status", "message", "feature"]
ROW = [
    "2026-03-01T12:00:00Z",
    "critical",
    "further from the training data than chance gives",
    "volatile_acidity_of_the_wine",
]


def lines_in_a_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    for name, value in (("COLUMNS", str(width)), ("FORCE_COLOR", "1"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    show(COLUMNS, [ROW])
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_terminal_shows_whole_words_within_its_width(width, monkeypatch, capsys):
    lines = lines_in_a_terminal(width, monkeypatch, capsys)
    assert max(map(len, lines)) <= width
    text = " ".join(lines)
    for word in " ".join([*COLUMNS, *ROW]).split():
        assert word in text.split()


def test_what_has_no_room_stays_whole_all_the_same(monkeypatch, capsys):
    text = " ".join(lines_in_a_terminal(30, monkeypatch, capsys))
    assert {"2026-03-01T12:00:00Z", "volatile_acidity_of_the_wine", "training"} <= set(text.split())


def test_a_pipe_gets_a_row_in_a_line(capsys):
    show(COLUMNS, [ROW])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert len(rows) == 3
    assert rows[2].split() == " ".join(ROW).split()
