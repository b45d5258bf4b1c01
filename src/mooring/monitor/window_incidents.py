"""Incidents of what is judged window by window: losses of performance, and features that no longer go together.

Labels come late and in any order, so what a window says is looked at again as they do; the incidents are found
anew from all windows of late, and go on being those that they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from mooring.monitor.parts import BY_CHANCE, CALM_WINDOWS
from mooring.performance.measures import first_of
from mooring.settings import MonitorSettings
from mooring.state.assessments import Assessment
from mooring.state.estimations import Estimation, JointDrift
from mooring.state.incidents import Incident, Incidents, Kind, StreamKey, StreamState, StreamStates
from mooring.state.repository import Transaction
from mooring.state.state import State
from mooring.state.windows import Window
from mooring.status import ALARMING, JUDGED, Severity, severity_of, worst

_MOST_BUDGET = 0.05


class JointRating(NamedTuple):
    """Whether the features of a window go together as they did."""

    window: Window
    drift: JointDrift

    @property
    def status(self) -> Severity:
        """How bad it is."""
        return self.drift.status

    @property
    def chance(self) -> float:
        """How probable it is by chance."""
        return self.drift.chance

    @property
    def budget(self) -> float:
        """What that is compared with."""
        return self.drift.budget

    @property
    def message(self) -> str:
        """What it is, in words."""
        return self.drift.message


Rated = Assessment | Estimation | JointRating
"""What is said of a window: how well the model did, measured or estimated; how its features go together."""


class Loss(NamedTuple):
    """Windows in a row, the first of them worse than in training, and whether that has passed with the last."""

    windows: tuple[Rated, ...]
    passed: bool

    @property
    def worse(self) -> list[Rated]:
        """The windows that were worse themselves."""
        return [one for one in self.windows if one.status in ALARMING]


def budget_of(state: State, window: Window, kind: Kind, settings: MonitorSettings) -> float:
    """Return how probable a false alarm on a window may be: its share of the time in which one may be."""
    seconds = settings.false_alarm_seconds
    if not seconds:
        return settings.window_budget
    own = StreamKey(window.model, window.version, window.variant, kind)
    streams = StreamStates(state).sharing(window.end, [own], settings.weight)
    return min((window.end - window.start).total_seconds() / (seconds * streams), _MOST_BUDGET)


def losses(assessed: Iterable[Rated], *, goes_on: bool = False) -> list[Loss]:
    """Return the losses of performance in the windows of a stream, in their order.

    Each begins with a window that alarms, or with the first where one `goes_on` that began before it, and lasts
    until four in a row are no worse than chance explains.
    """
    found: list[Loss] = []
    running: list[Rated] = []
    calm = 0
    for one in assessed:
        if one.status not in JUDGED or not (running or goes_on or one.status in ALARMING):
            continue
        running.append(one)
        goes_on = False
        calm = calm + 1 if _is_calm(one) else 0
        if calm == CALM_WINDOWS:
            found.append(Loss(tuple(running), passed=True))
            running, calm = [], 0
    return [*found, Loss(tuple(running), passed=False)] if running else found


def incidents_after(assessed: Sequence[Rated], known: Sequence[Incident]) -> list[Incident]:
    """Return the incidents of a stream that are new or have changed.

    Parameters
    ----------
    assessed
        The newest assessment of each of its windows of late, in their order; only of windows that are closed.
    known
        Its incidents that lasted at any time of these windows.

    An open one that the windows no longer show, as more labels told otherwise, is closed.
    """
    if not assessed:
        return []
    earlier = any(one.closed is None and one.start < assessed[0].window.start for one in known)
    kept, changed = set(), []
    for loss in losses(assessed, goes_on=earlier):
        same = next((one for one in known if one.id not in kept and _overlaps(one, loss)), None)
        incident = _incident(loss, same)
        kept.add(incident.id)
        if incident != same:
            changed.append(incident)
    seen = [] if earlier else [one for one in known if one.closed is None and one.id not in kept]
    return changed + [msgspec.structs.replace(one, closed=one.updated) for one in seen]


def write_incidents(tx: Transaction, assessed: Sequence[Rated], weight: float) -> tuple[Severity, Severity]:
    """Write the incidents of a stream, and how it stands; return how bad what is open had been before, and is now.

    `assessed` are its newest windows, in their order; at least one. ok says that nothing is open.
    """
    newest = assessed[-1].window
    kind = kind_of(assessed[-1])
    found = Incidents(tx)
    before = found.of(newest.model, newest.version, newest.variant, kind, since=assessed[0].window.start)
    changed = incidents_after(assessed, before)
    for incident in changed:
        found.put(incident)
    found.end_stale(newest.model, kind, newest.end)
    now = {one.id: one for one in (*before, *changed)}.values()
    still = next((one for one in now if one.closed is None), None)
    StreamStates(tx).put(
        StreamState(
            model=newest.model,
            version=newest.version,
            variant=newest.variant,
            kind=kind,
            baseline="",
            windows=len(assessed),
            updated=newest.end,
            weight=weight,
            incident_id=None if still is None else still.id,
        )
    )
    return _standing(before), _standing(now)


def kind_of(rated: Rated) -> Kind:
    """Return what was judged."""
    if isinstance(rated, JointRating):
        return "joint"
    return "performance" if isinstance(rated, Assessment) else "estimated"


def _standing(incidents: Iterable[Incident]) -> Severity:
    """Return how bad it is known to be: as bad as what is open has been."""
    return worst(one.severity for one in incidents if one.closed is None)


def _incident(loss: Loss, same: Incident | None) -> Incident:
    worse = loss.worse
    first, newest = (worse or loss.windows)[0].window, loss.windows[-1].window
    before = same or Incident(
        model=first.model,
        version=first.version,
        variant=first.variant,
        kind=kind_of(loss.windows[0]),
        severity="warning",
        start=first.start,
        opened=first.end,
        updated=first.end,
    )
    moved = [name for one in worse for name in _moved(one)]
    severities = [found for one in worse if (found := severity_of(one.status)) is not None]
    return msgspec.structs.replace(
        before,
        severity=worst([before.severity, *severities]),
        features=tuple(dict.fromkeys([*before.features, *moved])),
        level=_level(worse[-1]) if worse else before.level,
        windows=max(len(loss.windows), before.windows),
        message=worse[-1].message if worse else before.message,
        start=min(before.start, first.start),
        updated=max(before.updated, newest.end),
        closed=newest.end if loss.passed else None,
    )


def _is_calm(one: Rated) -> bool:
    return one.status == "ok" and (one.chance is None or one.chance >= BY_CHANCE)


def _moved(one: Rated) -> list[str]:
    """Return the measure that is worse, and the segments in which it is; or the features that moved."""
    if isinstance(one, JointRating):
        return one.drift.features
    if isinstance(one, Estimation):
        return [first_of(one.measures)] if one.measures else []
    segments = [f"{part.column}={part.value}" for part in one.segments if part.status in ALARMING]
    whole = one.chance is not None and one.chance <= one.budget
    return [*([first_of(one.measures)] if one.measures and (whole or not segments) else []), *segments]


def _level(one: Rated) -> float:
    return one.budget / max(one.chance, 1e-16) if one.chance is not None and one.budget else 1.0


def _overlaps(incident: Incident, loss: Loss) -> bool:
    start, end = loss.windows[0].window.start, loss.windows[-1].window.end
    return incident.start < end and (incident.closed is None or incident.closed > start)
