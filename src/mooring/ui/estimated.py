"""How well a model is estimated to do before there are labels, and how right that was once there are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec

from mooring.monitor.harm import Sort, harm_of
from mooring.performance.measures import first_of
from mooring.report.words import number, percent, plural
from mooring.state.assessments import Assessment
from mooring.state.estimations import Causes, Estimation
from mooring.status import JUDGED, STATUSES, Status
from mooring.ui import charts, paths
from mooring.ui.labelled import Interval, interval
from mooring.ui.routing import address
from mooring.ui.windows import Here, finite


class EstimatedWindow(msgspec.Struct, frozen=True, kw_only=True):
    """What is estimated of a window; `reference` on held-out rows, `measured` by labels that came since.

    `refuted` are the measures whose labels lie outside of the interval. `outside` is the share of rows where
    held-out rows are too few.
    """

    window: str
    start: datetime
    end: datetime
    version: str | None
    status: Status
    message: str
    rows: int
    outside: float
    judged: bool
    measures: dict[str, Interval]
    measured: dict[str, float | None]
    refuted: tuple[str, ...]
    reference: dict[str, float] = msgspec.field(name="before")
    causes: Causes | None
    see: str


class ModelEstimates(msgspec.Struct, frozen=True, kw_only=True):
    """How well the model is estimated to do, told by `measure`.

    `harm` says of the newest window whether what moved does harm, and `text` says it. Of the `scored` windows that
    have labels by now, `held` is the number of those whose labels lie within the interval, which 90 % are to.
    """

    measure: str
    status: Status
    harm: Sort
    text: str
    scored: int
    held: int
    windows: tuple[EstimatedWindow, ...]

    @property
    def causes(self) -> Causes | None:
        """Because of what the newest window is worse of which that was asked."""
        return next((one.causes for one in reversed(self.windows) if one.causes is not None), None)

    @property
    def figure(self) -> charts.Figure:
        """The estimate of each window with its interval, and what labels showed since."""
        return charts.estimated(
            [_point(one, self.measure) for one in self.windows],
            [one.reference.get(self.measure) for one in self.windows],
            [one.measured.get(self.measure) for one in self.windows],
            self.measure.replace("_", " "),
        )


def estimates(
    estimated: Sequence[Estimation],
    assessed: Sequence[Assessment],
    moved: Collection[str],
    wanted: str,
    here: Here,
) -> ModelEstimates | None:
    """Return what is estimated of windows, by a measure that is `wanted` if there is; None where nothing is.

    `moved` are the ids of the windows whose drift alarms.
    """
    estimated = [one for one in estimated if one.status != "no_baseline"]
    if not estimated:
        return None
    labelled = {one.window.id: one for one in assessed if one.status in JUDGED}
    newest = max(estimated, key=lambda one: (one.window.end, one.window.start, one.window.number))
    known = next((one.measures for one in (newest, *reversed(estimated)) if one.measures), {})
    measure = wanted if wanted in known else first_of(known) if known else ""
    windows = [_window(one, labelled.get(one.window.id), here) for one in estimated]
    scored = [one for one in windows if measure in one.measured and measure in one.measures]
    harm = harm_of(newest.window.id in moved, newest, labelled.get(newest.window.id))
    return ModelEstimates(
        measure=measure,
        status=newest.status,
        harm=harm.sort,
        text=harm.text or newest.message,
        scored=len(scored),
        held=sum(measure not in one.refuted for one in scored),
        windows=tuple(sorted(windows, key=lambda one: (one.end, one.start))),
    )


def _window(one: Estimation, labelled: Assessment | None, here: Here) -> EstimatedWindow:
    measured = {name: found.value for name, found in labelled.measures.items()} if labelled is not None else {}
    return EstimatedWindow(
        window=one.window.id,
        start=one.window.start,
        end=one.window.end,
        version=one.window.version,
        status=one.status,
        message=one.message,
        rows=one.rows,
        outside=one.outside,
        judged=one.status in JUDGED,
        measures={name: interval(each) for name, each in one.measures.items()},
        measured={name: finite(value) for name, value in measured.items() if name in one.measures},
        refuted=tuple(
            name for name, each in one.measures.items() if name in measured and each.refuted_by(measured[name])
        ),
        reference={name: each.held_out for name, each in one.measures.items() if each.held_out is not None},
        causes=one.causes,
        see=address(paths.MODEL, here | {"window": one.window.id}),
    )


def _point(one: EstimatedWindow, which: str) -> charts.Point:
    found = one.measures.get(which)
    value = found.value if found else None
    said = STATUSES[one.status].word if one.judged else "can't tell"
    text = f"{said}: estimated {which.replace('_', ' ')} {number(value) if value is not None else '–'}"
    if found and found.low is not None and found.high is not None:
        text += f" ({number(found.low)} to {number(found.high)})"
    if (measured := one.measured.get(which)) is not None:
        text += f"<br>measured {number(measured)}" + (", outside of the interval" if which in one.refuted else "")
    text += f"<br>{plural(one.rows, 'row')} looked at, {percent(one.outside)} of them out of support"
    low, high = (found.low, found.high) if found else (None, None)
    return charts.Point(one.end, one.status if one.judged else None, value, low, high, text, one.see)
