"""How well the model is estimated to do before there are labels, as a section of the report."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from mooring.monitor.harm import harm_of
from mooring.performance.measures import first_of
from mooring.state.assessments import Assessment
from mooring.state.estimations import EstimatedMeasure, Estimation
from mooring.status import JUDGED, Status

_SHOWN = 12


class EstimatedLine(NamedTuple):
    """A window: what is estimated of it, and what labels showed since, None where there are none."""

    estimation: Estimation
    found: EstimatedMeasure | None
    measured: float | None

    @property
    def refuted(self) -> bool:
        """Whether labels show something outside of the interval."""
        return self.found is not None and self.measured is not None and self.found.refuted_by(self.measured)


class EstimatedSection(NamedTuple):
    """What the section shows: what is said of the newest window, and the newest ones by one measure."""

    measure: str
    status: Status
    text: str
    lines: list[EstimatedLine]


def section(
    found: Sequence[Estimation], assessed: Sequence[Assessment], moved: Collection[datetime]
) -> EstimatedSection | None:
    """Return the section on windows, the oldest first; None where nothing is estimated.

    `moved` says when the windows begin whose drift alarms.
    """
    found = [one for one in found if one.status != "no_baseline"]
    if not found:
        return None
    labelled = {one.window.id: one for one in assessed if one.status in JUDGED}
    newest = found[-1]
    known = next((one.measures for one in reversed(found) if one.measures), {})
    measure = first_of(known) if known else ""
    lines = []
    for one in found[-_SHOWN:][::-1]:
        truth = labelled.get(one.window.id)
        measured = truth.measures.get(measure) if truth is not None else None
        lines.append(EstimatedLine(one, one.measures.get(measure), None if measured is None else measured.value))
    said = harm_of(newest.window.start in moved, newest, labelled.get(newest.window.id))
    return EstimatedSection(measure, newest.status, said.text or newest.message, lines)
