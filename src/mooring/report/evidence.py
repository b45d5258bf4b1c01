"""How far a stream is from an incident, in words and as a share of a scale that people can read."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Literal, NamedTuple

from markupsafe import Markup

from mooring.report import figures
from mooring.report.words import moment, percent
from mooring.state.incidents import ACTIVE, StreamState

LEAST = 0.05
"""The level at which the scale begins; at its end, at 1, an incident opens."""
MARKS = (0.1, 0.25, 0.5)
"""The levels that have a mark on the scale."""
_GROWING = 0.25
"""From which level on it is said since when it grows: below, evidence comes and goes where nothing changes."""
Standing = Literal["none", "quiet", "growing", "small", "open"]
"""Without evidence, far from an incident, nearer to one, past it by too small an effect, or in one."""


class EvidenceReading(NamedTuple):
    """How a stream stands; `share` is its place on the scale, from 0 to 1."""

    standing: Standing
    share: float
    text: str

    @property
    def bar(self) -> Markup:
        """The same as a small figure, which tells nothing that does not stand beside it."""
        return bar(self.share, self.standing)


def read(stream: StreamState | None, now: datetime, *, per_window: bool = False) -> EvidenceReading:
    """Return how a stream stands; None was never looked at. `per_window`: so is the budget."""
    if per_window:
        return EvidenceReading("none", 0.0, "none adds up: the budget is for each window, judged by itself")
    if stream is None:
        return EvidenceReading("none", 0.0, "none yet: no window of it was looked at")
    if stream.incident_id is not None:
        since = f", since {moment(stream.since)}" if stream.since else ""
        return EvidenceReading("open", 1.0, f"an incident is open{since}{_asleep(stream, now)}")
    if stream.kind != "drift":
        which = "each window with labels" if stream.kind == "performance" else "each window"
        return EvidenceReading("none", 0.0, f"none adds up: {which} is judged by itself{_asleep(stream, now)}")
    if stream.level >= 1:
        text = f"enough: something has changed for certain, by too little to matter{_since(stream)}"
        return EvidenceReading("small", 1.0, f"{text}{_asleep(stream, now)}")
    text = f"{percent(stream.level)} of what opens an incident{_since(stream)}{_asleep(stream, now)}"
    return EvidenceReading("growing" if stream.level >= _GROWING else "quiet", share_of(stream.level), text)


def bar(share: float, standing: Standing) -> Markup:
    """Return a place on the scale as a bar, which is striped in an incident."""
    marks = [share_of(level) for level in MARKS]
    return figures.gauge(share, marks, f"gauge {standing}", striped=standing == "open")


def share_of(level: float) -> float:
    """Return the place of a level of evidence on the scale.

    While something drifts evidence is multiplied from window to window, so the scale is logarithmic.

    >>> [round(share_of(level), 2) for level in (0.0, 0.05, 0.1, 0.25, 0.5, 1.0, 50.0)]
    [0.0, 0.0, 0.23, 0.54, 0.77, 1.0, 1.0]
    """
    if not level > LEAST:
        return 0.0
    return min(1 - math.log(level) / math.log(LEAST), 1.0)


def is_asleep(updated: datetime, now: datetime) -> bool:
    """Whether a stream has had no window for so long that it has no share of the false alarms any more."""
    return now - updated >= ACTIVE


def _since(stream: StreamState) -> str:
    return f", growing since {moment(stream.since)}" if stream.since and stream.level >= _GROWING else ""


def _asleep(stream: StreamState, now: datetime) -> str:
    return f"; no window since {moment(stream.updated)}" if is_asleep(stream.updated, now) else ""
