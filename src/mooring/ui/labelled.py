"""How well a model did, as far as labels have come: the part of its page about that."""

from __future__ import annotations

from datetime import datetime

import msgspec

from mooring.performance.measures import first_of
from mooring.report.words import number, percent, plural
from mooring.state.assessments import Assessment, Measured
from mooring.state.estimations import EstimatedMeasure
from mooring.status import JUDGED, STATUSES, Severity, Status
from mooring.ui import charts, paths
from mooring.ui.routing import address
from mooring.ui.windows import Choice, Here, finite

_SEGMENTS = 50


class Interval(msgspec.Struct, frozen=True):
    """A measure, and the interval in which it lies with 95 % probability; of what is estimated 90 %."""

    value: float | None
    low: float | None
    high: float | None


class Assessed(msgspec.Struct, frozen=True, kw_only=True):
    """How well the model did in a window, as far as labels have come; `reference` on held-out rows."""

    window: str
    start: datetime
    end: datetime
    version: str | None
    status: Status
    message: str
    rows: int
    labelled: int
    coverage: float
    delay: float | None
    judged: bool
    measures: dict[str, Interval]
    reference: dict[str, float] = msgspec.field(name="before")
    see: str


class PerformanceSegment(msgspec.Struct, frozen=True, kw_only=True):
    """How well it did where a feature has one value, in the newest window with labels."""

    column: str
    value: str
    rows: int
    labelled: int
    status: Severity | None
    measured: Interval


class ModelPerformance(msgspec.Struct, frozen=True, kw_only=True):
    """How well the model did, told by `measure` of those that there are."""

    measure: str
    measures: tuple[Choice, ...]
    status: Status
    sentence: str
    windows: tuple[Assessed, ...]
    segments: tuple[PerformanceSegment, ...]

    @property
    def figure(self) -> charts.Figure:
        """The measure of each window, with its interval."""
        return charts.performance(
            [_point(one, self.measure) for one in self.windows],
            [one.reference.get(self.measure) for one in self.windows],
            [one.coverage for one in self.windows],
            self.measure.replace("_", " "),
        )


def labelled(assessed: list[Assessment], wanted: str, here: Here) -> ModelPerformance | None:
    """Return how well the model did, by a measure that is `wanted` if there is; None without any labelled row."""
    newest = next((one for one in reversed(assessed) if one.measures), None)
    if newest is None:
        return None
    chosen = wanted if wanted in newest.measures else first_of(newest.measures)
    shown = sorted(assessed, key=lambda one: (one.window.end, one.window.start, one.window.number))
    return ModelPerformance(
        measure=chosen,
        measures=tuple(
            Choice(one, address(paths.MODEL, here | {"measure": one}), one == chosen) for one in newest.measures
        ),
        status=newest.status,
        sentence=_sentence(newest, chosen),
        windows=tuple(_assessed(one, here) for one in shown),
        segments=tuple(
            PerformanceSegment(
                column=one.column,
                value=one.value,
                rows=one.rows,
                labelled=one.labelled,
                status=one.status,
                measured=interval(one.measures[chosen]),
            )
            for one in newest.segments[:_SEGMENTS]
            if chosen in one.measures
        ),
    )


def _sentence(newest: Assessment, measure: str) -> str:
    """Say how well the model did in the newest window with labels."""
    measured, reference = newest.measures[measure], newest.before.get(measure)
    sentence = (
        f"On {plural(newest.labelled, 'labelled row')} of {plural(newest.rows, 'row')} "
        "of the newest window with labels, "
        f"{measure.replace('_', ' ')} is {number(measured.value)}"
    )
    if measured.low is not None and measured.high is not None:
        sentence += f" (95 %: {number(measured.low)} to {number(measured.high)})"
    if reference is not None:
        sentence += f"; it was {number(reference)} on the baseline's held-out rows"
    if newest.message and newest.status not in JUDGED:
        sentence += f". Not judged: {newest.message}"
    return f"{sentence}."


def _assessed(one: Assessment, here: Here) -> Assessed:
    return Assessed(
        window=one.window.id,
        start=one.window.start,
        end=one.window.end,
        version=one.window.version,
        status=one.status,
        message=one.message,
        rows=one.rows,
        labelled=one.labelled,
        coverage=one.coverage,
        delay=finite(one.delay),
        judged=one.status in JUDGED,
        measures={name: interval(value) for name, value in one.measures.items()},
        reference={name: value for name, value in one.before.items() if finite(value) is not None},
        see=address(paths.MODEL, here | {"window": one.window.id}),
    )


def interval(measured: Measured | EstimatedMeasure) -> Interval:
    """Return a measure as pages have it."""
    return Interval(finite(measured.value), finite(measured.low), finite(measured.high))


def _point(one: Assessed, which: str) -> charts.Point:
    found = one.measures.get(which)
    value = found.value if found else None
    said = STATUSES[one.status].word if one.judged else "not judged"
    text = f"{said}: {which.replace('_', ' ')} {number(value) if value is not None else '–'}"
    if found and found.low is not None and found.high is not None:
        text += f" ({number(found.low)} to {number(found.high)})"
    text += f"<br>{plural(one.labelled, 'labelled row')}, {percent(one.coverage)}"
    status = one.status if one.judged else None
    low, high = (found.low, found.high) if found else (None, None)
    return charts.Point(one.end, status, value, low, high, text, one.see)
