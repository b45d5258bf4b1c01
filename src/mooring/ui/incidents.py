"""Incidents as pages show them: one for each drift, and which windows belong to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from mooring.report import evidence
from mooring.state.incidents import Incident, Incidents, Kind
from mooring.state.state import State
from mooring.status import Severity
from mooring.ui import charts, paths
from mooring.ui.routing import address
from mooring.ui.windows import WindowPoint, finite

MOST = 100
"""How many open incidents a page of a model has, and how many that have ended."""
_FEATURES = 8
_NAMES: dict[Kind, str] = {
    "drift": "drift",
    "joint": "drift of features together",
    "performance": "loss of performance",
    "estimated": "estimated loss of performance",
}


class IncidentLine(msgspec.Struct, frozen=True, kw_only=True):
    """An incident.

    It shows in the windows since `start` and was opened with the one that ended at `opened`; the newest of its
    windows ended at `updated`. `seconds` is how long it has lasted by then. `windows` counts those since it was
    opened. `asleep` says that it is open and had no window for a week. `features` are the first few of those that
    moved, the strongest first: for a loss of performance, measures.
    """

    id: str
    kind: Kind
    severity: Severity
    is_open: bool
    asleep: bool
    version: str | None
    variant: str
    start: datetime
    opened: datetime
    updated: datetime
    closed: datetime | None
    seconds: float
    windows: int
    level: float | None
    features: tuple[str, ...]
    more_features: int
    message: str
    see: str

    @property
    def what(self) -> str:
        """What sort of incident it is."""
        return _NAMES[self.kind]


def line(incident: Incident, now: datetime | None = None) -> IncidentLine:
    """Return an incident as it is shown."""
    is_open = incident.closed is None
    return IncidentLine(
        id=incident.id,
        kind=incident.kind,
        severity=incident.severity,
        is_open=is_open,
        asleep=is_open and evidence.is_asleep(incident.updated, now or datetime.now(UTC)),
        version=incident.version,
        variant=incident.variant,
        start=incident.start,
        opened=incident.opened,
        updated=incident.updated,
        closed=incident.closed,
        seconds=max(((incident.closed or incident.updated) - incident.start).total_seconds(), 0.0),
        windows=incident.windows,
        level=finite(incident.level),
        features=incident.features[:_FEATURES],
        more_features=max(len(incident.features) - _FEATURES, 0),
        message=incident.message,
        see=address(paths.INCIDENT, {"model": incident.model, "incident": incident.id}),
    )


def found(
    state: State,
    model: str,
    *,
    variant: str,
    version: str = "",
    span: tuple[datetime | None, datetime | None] = (None, None),
) -> tuple[IncidentLine, ...]:
    """Return the incidents of a variant, those that are open first, each the newest first; bounded."""
    known, now = Incidents(state), datetime.now(UTC)
    return tuple(
        line(one, now)
        for is_open in (True, False)
        for one in known.newest(
            model,
            MOST,
            start=span[0],
            end=span[1],
            is_open=is_open,
            version=version or ...,
            variant=variant,
        )
    )


def marked(shown: Iterable[WindowPoint], of: Sequence[IncidentLine], variant: str) -> tuple[WindowPoint, ...]:
    """Return windows with the ids of the incidents that they are part of."""
    by_version: dict[str | None, list[IncidentLine]] = {}
    for one in of:
        if one.variant == variant:
            by_version.setdefault(one.version, []).append(one)
    return tuple(
        msgspec.structs.replace(
            point,
            incidents=tuple(one.id for one in by_version.get(point.version, ()) if is_part(point, one)),
        )
        for point in shown
    )


def is_part(window: WindowPoint, of: IncidentLine) -> bool:
    """Whether a window of an incident's stream is one of those in which it shows."""
    return window.start >= of.start and window.end <= of.updated


def spans(of: Sequence[IncidentLine]) -> list[charts.ChartSpan]:
    """Return incidents as parts of a lane of the timeline, the oldest first."""
    return [
        charts.ChartSpan(one.start, one.closed or one.updated, one.severity, "", text(one), one.see, one.is_open)
        for one in sorted(of, key=lambda one: one.start)
    ]


def brackets(of: Sequence[IncidentLine], windows: Sequence[WindowPoint]) -> list[charts.Bracket]:
    """Return from which of these windows to which each incident shows."""
    known = {one.id: one for one in of}
    places: dict[str, list[int]] = {}
    for place, window in enumerate(windows):
        for id in window.incidents:
            places.setdefault(id, []).append(place)
    return [
        charts.Bracket(
            some[0],
            some[-1],
            known[id].severity,
            known[id].kind in ("performance", "estimated"),
            known[id].is_open,
            text(known[id]),
            known[id].see,
        )
        for id, some in places.items()
    ]


def text(one: IncidentLine) -> str:
    """Say what an incident is, for a figure."""
    how = "open" if one.is_open else "ended"
    features = ", ".join(charts.plain(name, 40) for name in one.features[:3])
    more = len(one.features) + one.more_features - 3
    moved = f"<br>{features}{f' and {more} more' if more > 0 else ''}" if features else ""
    return f"incident: {one.what}, {one.severity}, {how}{moved}"
