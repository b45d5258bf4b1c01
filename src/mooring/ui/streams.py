"""Evidence as a meter: how far each stream is from an incident; and how many false alarms are to be expected."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from markupsafe import Markup

from mooring.report import evidence
from mooring.report.evidence import Standing
from mooring.report.words import number, plural
from mooring.state.incidents import Kind, StreamState
from mooring.ui import paths
from mooring.ui.routing import address
from mooring.ui.sources import FalseAlarmBudget
from mooring.ui.windows import finite

SHOWN = 3
"""How many streams of a model the first page shows."""
_YEAR_SECONDS = 365 * 86_400


class StreamMeter(msgspec.Struct, frozen=True, kw_only=True):
    """How far a stream is from an incident.

    `level` is the evidence, in units of that which opens one, None where there is none; `share` its place on a
    logarithmic scale that begins at 0.05, 0 to 1. `since` is when it began to grow, `incident` where the one that
    is open is shown.
    """

    kind: Kind
    version: str | None
    variant: str
    standing: Standing
    level: float | None
    share: float
    text: str
    since: datetime | None
    updated: datetime | None
    windows: int
    incident: str | None

    @property
    def bar(self) -> Markup:
        """The same as a small figure, which tells nothing that does not stand beside it."""
        return evidence.bar(self.share, self.standing)


class ExpectedFalseAlarms(msgspec.Struct, frozen=True, kw_only=True):
    """How many false alarms a year are to be expected where nothing changes, over all that is watched.

    `budget` is what was asked for, `per_window` whether that is for each window. `streams` had a window in the
    last week. `judged_per_year` is how many times a year a window is judged, at the rate of the last week.
    """

    per_year: float | None
    budget: str
    per_window: bool
    streams: int
    judged_per_year: float | None

    @property
    def text(self) -> str:
        """The same in a sentence."""
        if self.per_window:
            if self.per_year is None:
                return f"The budget is {self.budget}; no window was judged in the last week."
            return (
                f"Where nothing changes, about {number(self.per_year, 2)} false alarms a year are to be expected: "
                f"{self.budget}, and {plural(round(self.judged_per_year or 0), 'verdict')} a year "
                "at the rate of the last week."
            )
        over = f"over {plural(self.streams, 'stream')} with a window in the last week"
        if not self.streams:
            over = "whatever is watched; nothing had a window in the last week"
        return (
            f"Where nothing changes, about {number(self.per_year or 0, 2)} false alarms a year are to be "
            f"expected: {self.budget}, {over}."
        )


def expected(budget: FalseAlarmBudget, streams: int, judged_per_year: float) -> ExpectedFalseAlarms:
    """Return how many false alarms a year are to be expected.

    >>> round(expected(FalseAlarmBudget("1 per 90d", 90 * 86_400.0), 2, 8760).per_year, 2)
    4.06
    >>> expected(FalseAlarmBudget("0.001 per window", 0.0, 0.001), 2, 8760).per_year
    8.76
    """
    if budget.per_window is None:
        per_year: float | None = _YEAR_SECONDS / budget.seconds
    else:
        per_year = budget.per_window * judged_per_year if judged_per_year else None
    return ExpectedFalseAlarms(
        per_year=per_year,
        budget=budget.text,
        per_window=budget.per_window is not None,
        streams=streams,
        judged_per_year=judged_per_year or None,
    )


def meter(stream: StreamState, budget: FalseAlarmBudget, now: datetime | None = None) -> StreamMeter:
    """Return how far a stream is from an incident."""
    found = evidence.read(stream, now or datetime.now(UTC), per_window=budget.per_window is not None)
    incident = None
    if stream.incident_id is not None:
        incident = address(paths.INCIDENT, {"model": stream.model, "incident": stream.incident_id})
    return StreamMeter(
        kind=stream.kind,
        version=stream.version,
        variant=stream.variant,
        standing=found.standing,
        level=None if found.standing == "none" else finite(stream.level),
        share=found.share,
        text=found.text,
        since=stream.since,
        updated=stream.updated,
        windows=stream.windows,
        incident=incident,
    )


def nobody_looked(version: str | None, variant: str, budget: FalseAlarmBudget) -> StreamMeter:
    """Return the meter of a stream that was never looked at."""
    found = evidence.read(None, datetime.now(UTC), per_window=budget.per_window is not None)
    return StreamMeter(
        kind="drift",
        version=version,
        variant=variant,
        standing=found.standing,
        level=None,
        share=0.0,
        text=found.text,
        since=None,
        updated=None,
        windows=0,
        incident=None,
    )


def nearest(streams: Sequence[StreamState], budget: FalseAlarmBudget) -> tuple[list[StreamMeter], int]:
    """Return the streams of a model that are nearest to an incident, and how many more there are.

    Those that had no window for a week are left out, unless it is so of all: then the newest is there.
    """
    if budget.per_window is not None:
        return [], 0
    now = datetime.now(UTC)
    awake = [one for one in streams if not evidence.is_asleep(one.updated, now)] or list(streams[:1])
    meters = [one for one in (meter(stream, budget, now) for stream in awake) if one.standing != "none"]
    meters.sort(key=lambda one: (one.standing != "open", -(one.level or 0.0), one.variant, one.version or ""))
    return meters[:SHOWN], max(len(meters) - SHOWN, 0)


def of_stream(
    streams: Sequence[StreamState], version: str | None, variant: str, budget: FalseAlarmBudget
) -> list[StreamMeter]:
    """Return the meters of a version and variant, that of drift in any case."""
    found = [one for one in streams if (one.version, one.variant) == (version, variant)]
    meters = [meter(one, budget) for one in sorted(found, key=lambda one: one.kind)]
    if not any(one.kind == "drift" for one in meters):
        meters.insert(0, nobody_looked(version, variant, budget))
    return meters
