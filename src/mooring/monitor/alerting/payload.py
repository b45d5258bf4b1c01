"""What alerts say: of a drift, of a model's performance, of a version that was rolled back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec

from mooring.monitor.window_incidents import Rated, kind_of
from mooring.state.alerts import About, Kind
from mooring.state.assessments import Assessment, Measured
from mooring.state.estimations import Estimation
from mooring.state.verdicts import Finding, Verdict
from mooring.state.windows import Window
from mooring.status import ALARMING, Status

_RATED: dict[tuple[About, Kind], str] = {
    ("performance", "new"): "it does worse than in training",
    ("performance", "worsened"): "it does worse still",
    ("performance", "ended"): "it does as well as in training again",
    ("estimated", "new"): "without labels yet, it is estimated to do worse than in training",
    ("estimated", "worsened"): "without labels yet, it is estimated to do worse still",
    ("estimated", "ended"): "it is estimated to do as well as in training again",
    ("joint", "new"): "features no longer go together as in training",
    ("joint", "worsened"): "features go together still less as in training",
    ("joint", "ended"): "features go together as in training again",
}
FEATURES = 10
"""How many features an alert names, at most."""


class Period(msgspec.Struct, frozen=True):
    """The window that an alert is about."""

    id: str
    number: int
    start: datetime
    end: datetime
    rows: int


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """What an alert says, as JSON. `text` says it in a line; chat programs show that.

    `id` is that of the alert, which each channel has of its own. `about` is drift, of features one by one or
    together, or performance, measured or estimated; `measures` are those of performance.
    """

    id: str = ""
    kind: Kind
    text: str
    model: str
    version: str | None
    variant: str
    severity: Status
    window: Period
    verdict: str
    alarms: int
    message: str
    features: tuple[Finding, ...]
    report: str | None
    created: datetime
    about: About = "drift"
    measures: dict[str, Measured] = {}


class RolledBack(msgspec.Struct, frozen=True, kw_only=True):
    """What an alert says of a version that was taken out of service again, as JSON. `previous` answers instead.

    `id` is that of the alert, `rollout` the rollout's id, `number` counts the model's, `reason` is what was wrong.
    """

    id: str = ""
    kind: Literal["rolled_back"] = "rolled_back"
    text: str
    model: str
    version: str
    previous: str | None
    rollout: str
    number: int
    reason: str
    created: datetime
    about: Literal["rollout"] = "rollout"


def of_drift(kind: Kind, window: Window, verdict: Verdict, report: str | None = None) -> Payload:
    """Return what there is to say of a verdict; `report` is the report's path or URL."""
    what = {
        "new": f"drift ({verdict.status})",
        "worsened": f"the drift has worsened ({verdict.status})",
        "ended": "the drift has ended",
    }[kind]
    moved = ", ".join(
        f"{one.feature} {one.measure} {one.value:.3g}" for one in verdict.summary[:3] if one.value is not None
    )
    return Payload(
        kind=kind,
        text=". ".join(filter(None, [_line(window, what), moved if kind != "ended" else "", report])),
        model=window.model,
        version=window.version,
        variant=window.variant,
        severity=verdict.status,
        window=Period(window.id, window.number, window.start, window.end, verdict.rows),
        verdict=verdict.id,
        alarms=verdict.alarms,
        message=verdict.message,
        features=verdict.summary[:FEATURES],
        report=report,
        created=datetime.now(UTC),
    )


def of_rated(kind: Kind, rated: Rated, verdict_id: str, report: str | None = None) -> Payload:
    """Return what there is to say of how well a model did, or of how features go together.

    The verdict is the one on the same window.
    """
    window = rated.window
    about = kind_of(rated)
    what = _RATED[about, kind]
    if kind != "ended":
        what = f"{what} ({rated.status})"
    return Payload(
        kind=kind,
        text=". ".join(filter(None, [_line(window, what), rated.message, report])),
        model=window.model,
        version=window.version,
        variant=window.variant,
        severity=rated.status,
        window=Period(window.id, window.number, window.start, window.end, window.rows),
        verdict=verdict_id,
        alarms=int(rated.status in ALARMING),
        message=rated.message,
        features=(),
        report=report,
        created=datetime.now(UTC),
        about=about,
        measures=_measures(rated),
    )


def _measures(rated: Rated) -> dict[str, Measured]:
    if isinstance(rated, Assessment):
        return rated.measures
    if isinstance(rated, Estimation):
        return {name: Measured(one.value, one.low, one.high) for name, one in rated.measures.items()}
    return {}


def of_rollback(
    rollout_id: str, model: str, version: str, previous: str | None, number: int, reason: str
) -> RolledBack:
    """Return what there is to say of a version that was taken out of service again."""
    instead = f"version {previous} answers" if previous is not None else "none answers"
    return RolledBack(
        text=f"{model} version {version} was rolled back, {instead}: {reason}",
        model=model,
        version=version,
        previous=previous,
        rollout=rollout_id,
        number=number,
        reason=reason,
        created=datetime.now(UTC),
    )


def _line(window: Window, what: str) -> str:
    version = f" version {window.version}" if window.version else ""
    variant = "" if window.variant == "champion" else f" ({window.variant})"
    return f"{window.model}{version}{variant}: {what}, {window.start:%Y-%m-%d %H:%M} to {window.end:%H:%M} UTC"
