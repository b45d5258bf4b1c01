"""Which losses of performance last: the incidents that assessments of a stream's windows amount to.

Labels come late and in any order, so what a window says is looked at again as they do; the incidents are found
anew from all windows of late, and go on being those that they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from mooring.monitor.parts import BY_CHANCE, CALM_WINDOWS
from mooring.performance.measures import first_of
from mooring.state.assessments import Assessment
from mooring.state.incidents import Incident
from mooring.status import ALARMING, JUDGED, severity_of, worst


class Loss(NamedTuple):
    """Windows in a row, the first of them worse than in training, and whether that has passed with the last."""

    windows: tuple[Assessment, ...]
    passed: bool

    @property
    def worse(self) -> list[Assessment]:
        """The windows that were worse themselves."""
        return [one for one in self.windows if one.status in ALARMING]


def losses(assessed: Iterable[Assessment], *, goes_on: bool = False) -> list[Loss]:
    """Return the losses of performance in the windows of a stream, in their order.

    Each begins with a window that alarms, or with the first where one `goes_on` that began before it, and lasts
    until four in a row are no worse than chance explains.
    """
    found: list[Loss] = []
    running: list[Assessment] = []
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


def incidents_after(assessed: Sequence[Assessment], known: Sequence[Incident]) -> list[Incident]:
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


def _incident(loss: Loss, same: Incident | None) -> Incident:
    worse = loss.worse
    first, newest = (worse or loss.windows)[0].window, loss.windows[-1].window
    before = same or Incident(
        model=first.model,
        version=first.version,
        variant=first.variant,
        kind="performance",
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


def _is_calm(one: Assessment) -> bool:
    return one.status == "ok" and (one.chance is None or one.chance >= BY_CHANCE)


def _moved(one: Assessment) -> list[str]:
    """Return the measure that is worse, and the segments in which it is."""
    segments = [f"{part.column}={part.value}" for part in one.segments if part.status in ALARMING]
    whole = one.chance is not None and one.chance <= one.budget
    return [*([first_of(one.measures)] if one.measures and (whole or not segments) else []), *segments]


def _level(one: Assessment) -> float:
    return one.budget / max(one.chance, 1e-16) if one.chance is not None and one.budget else 1.0


def _overlaps(incident: Incident, loss: Loss) -> bool:
    start, end = loss.windows[0].window.start, loss.windows[-1].window.end
    return incident.start < end and (incident.closed is None or incident.closed > start)
