"""Performance by labels, with the state in PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from labelling import HOUR, Labelling, by_hand, values
from monitoring import START
from mooring.state.assessments import Assessments
from postgres import Postgres


def test_assessments_are_kept_in_postgresql_alike(tmp_path: Path, postgresql: Postgres) -> None:
    it = Labelling(tmp_path, state=postgresql.url())
    it.ask(300)
    rows = it.rows()
    it.label(rows.iloc[:100])
    it.look()
    labelled = it.label(rows, late=2 * HOUR)
    [one] = it.look()
    assert (one.look, one.labelled) == (2, 300)
    assert values(one) == pytest.approx(by_hand(labelled))
    assert Assessments(it.monitoring.state).unassessed("wine", START) == []
    assert [each.id for each in Assessments(it.monitoring.state).untracked("wine")] == [one.id]
    it.monitoring.state.close()
