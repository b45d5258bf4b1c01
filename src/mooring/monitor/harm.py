"""Moved, or harmful: what drift, estimates and labels say together of a window."""

from __future__ import annotations

from typing import Literal, NamedTuple

from mooring.performance.measures import first_of, lower_is_better
from mooring.state.assessments import Assessment
from mooring.state.estimations import EstimatedMeasure, Estimation
from mooring.status import ALARMING, JUDGED

Sort = Literal["none", "moved", "harmless", "estimated", "measured", "unknown"]
_IF = "if labels given the inputs are what they were"


class Harm(NamedTuple):
    """Whether what a window shows does harm, and a sentence that says it and by what.

    `none`: nothing moved. `moved`: it did, and nothing says yet what comes of it. `harmless` and `estimated`: the
    model is estimated, or measured, to do as well as before, or estimated to do worse. `measured`: labels say that
    it does worse. `unknown`: it can't be told, as held-out rows do not speak for these.
    """

    sort: Sort
    text: str

    @property
    def may_harm(self) -> bool:
        """Whether it is not known to do no harm."""
        return self.sort not in ("none", "harmless")


def harm_of(moved: bool, estimation: Estimation | None, assessment: Assessment | None) -> Harm:
    """Return what is to be said of a window of which it is known whether inputs or predictions `moved`.

    Labels go before estimates, where there are enough of them to judge.

    >>> harm_of(False, None, None).sort, harm_of(True, None, None).sort
    ('none', 'moved')
    """
    if assessment is not None and assessment.status in JUDGED:
        if assessment.status in ALARMING:
            return Harm("measured", f"worse, measured: {assessment.message}")
        if moved:
            return Harm("harmless", f"moved, harmless as measured: {assessment.message}".rstrip(": "))
    worse = estimation is not None and estimation.status in ALARMING
    if not moved and not worse:
        return Harm("none", "")
    if estimation is None:
        return Harm("moved", "moved; whether it harms is not known before there are labels")
    if estimation.status not in JUDGED:
        outside = ": outside what the held-out rows can speak for" if estimation.outside else ""
        return Harm("unknown", f"moved, can't tell whether it harms{outside}. {estimation.unknown}".rstrip(". "))
    name = first_of(estimation.measures)
    said = f"estimated {name.replace('_', ' ')} {change_of(name, estimation.measures[name])}"
    if worse:
        return Harm("estimated", f"moved, {said}")
    return Harm("harmless", f"moved, harmless {_IF}: {said}")


def change_of(measure: str, found: EstimatedMeasure) -> str:
    """Return by how much a measure is estimated to differ from that of held-out rows, with its interval.

    Shares in points, what has a unit as a share of what it was.

    >>> change_of("accuracy", EstimatedMeasure(0.869, 0.861, 0.877, 0.9))
    '−3.1 % (−3.9 to −2.3)'
    """
    before = found.held_out
    numbers = (found.value, found.low, found.high)
    if before is None or (lower_is_better(measure) and before <= 0):
        return "{:.4g} ({:.4g} to {:.4g})".format(*numbers)
    scale = before if lower_is_better(measure) else 1.0
    value, low, high = (f"{100 * (one - before) / scale:+.1f}".replace("-", "−") for one in numbers)
    return f"{value} % ({low} to {high})"
