"""There is one vocabulary of severity, and everything that shows a status has it from there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mooring
from mooring.status import ALARMING, JUDGED, OUTCOMES, STATUSES, Status, at_least, rank, urgency, worst

SOURCES = Path(mooring.__file__).parent
STYLES = (SOURCES / "report/templates/common.css").read_text()


def test_ranks_follow_the_order_in_which_severities_are_listed() -> None:
    assert [rank(one) for one in JUDGED] == [0, 1, 2]
    assert [at_least(one) for one in JUDGED] == [JUDGED, ALARMING, ("critical",)]
    assert worst(reversed(JUDGED)) == worst(JUDGED) == "critical"


@pytest.mark.parametrize("status", [one for one in STATUSES if one not in JUDGED])
def test_what_could_not_be_judged_has_no_rank(status: Status) -> None:
    assert STATUSES[status].rank is None
    with pytest.raises(ValueError, match="could not be judged"):
        rank(status)


def test_who_needs_somebody_comes_first() -> None:
    assert sorted([None, *JUDGED, "too_few"], key=urgency) == ["critical", "warning", "too_few", "ok", None]


@pytest.mark.parametrize("status", STATUSES)
def test_the_style_sheet_has_what_a_status_looks_like(status: Status) -> None:
    look = STATUSES[status]
    assert f"{look.colour}:" in STYLES
    assert f".strip .{look.cell} " in STYLES or f".strip path.{look.cell} " in STYLES
    assert status == "ok" or f".sign.{status}" in STYLES  # what is ok is drawn as a sign without a class is
    assert look.word
    assert look.labelled


def test_outcomes_are_severities() -> None:
    assert set(OUTCOMES.values()) <= set(JUDGED)


def test_no_other_module_has_a_map_of_severities() -> None:
    own = re.compile(r"""["']warning["']\s*:\s*|["']warning["'],\s*["']critical["']""")
    found = [
        f"{path.relative_to(SOURCES)}:{number}"
        for path in sorted(SOURCES.rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if own.search(line) and ">>>" not in line and path.name != "status.py"
    ]
    assert [one for one in found if not one.startswith("settings.py")] == []
