"""The page of a model: how it is, what happened to it, which features drifted when, how well it did."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import msgspec
from markupsafe import Markup
from msgspec import Meta

from mooring.drift.baseline import BaselineParts
from mooring.drift.judge import Judgement
from mooring.monitor.results import was_judged
from mooring.report import figures
from mooring.report import performance as performing
from mooring.report.course import WindowSummary, course
from mooring.report.verdict import verdict
from mooring.report.words import from_log, name, number, percent, plural
from mooring.state.assessments import Assessment, Assessments, Measured
from mooring.state.cells import Cell, cells_of
from mooring.state.judgements import judgement_of
from mooring.state.rollouts import in_words
from mooring.state.verdicts import Verdicts
from mooring.state.windows import Judged
from mooring.status import STATUSES, Severity, Status, urgency
from mooring.ui import charts, paths, timeline, windows
from mooring.ui.feature_detail import FeatureInWindow, feature_in, unjudged
from mooring.ui.pages.models import ModelLine, lines
from mooring.ui.responses import NotFound
from mooring.ui.routing import Page, address
from mooring.ui.sources import Sources
from mooring.ui.timeline import PutIntoService, Retrained, Sent
from mooring.ui.windows import Choice, Chosen, ChosenWindows, Here, WindowPoint, finite

_MAPPED = 200
_SEGMENTS = 50


class ModelQuery(Chosen, frozen=True, kw_only=True):
    """Which windows, and what of them."""

    feature: Annotated[str, Meta(description="the feature that is looked at; without, the one drifted most")] = ""
    sort: Annotated[
        Literal["drift", "alarms", "importance", "name"], Meta(description="the order of the features")
    ] = "drift"
    features: Annotated[int, Meta(ge=1, le=1000, description="so many features at most")] = 40
    measure: Annotated[str, Meta(description="how well the model did is told by this measure")] = ""


class HeatRow(msgspec.Struct, frozen=True, kw_only=True):
    """A feature over the windows: of each its strongest measure, None where that was not judged.

    `ratios` are values relative to their threshold: from 1 on as large as what alarms.
    """

    feature: str
    role: str
    see: str
    importance: float | None
    alarms: int
    ratios: tuple[float | None, ...]
    severities: tuple[Severity | None, ...]
    measures: tuple[str | None, ...]
    scales: tuple[int | None, ...]
    values: tuple[float | None, ...]


class DriftedFeature(msgspec.Struct, frozen=True, kw_only=True):
    """A feature that alarms in the window that is looked at."""

    feature: str
    severity: Severity
    measure: str
    scale: int
    value: float | None
    ratio: float | None
    alarms: int
    see: str
    page: str


class DriftSegment(msgspec.Struct, frozen=True, kw_only=True):
    """What was judged of the rows of the window in which a feature has one value."""

    segment: str
    rows: int
    severity: Severity
    features: tuple[str, ...]


class LookedAt(msgspec.Struct, frozen=True, kw_only=True):
    """The window that is looked at. `why_not` says why nothing is said of it, `unreadable` that it can't be.

    `outside` is where the windows up to it are shown, if it is not among those that are.
    """

    window: WindowPoint
    earlier: str | None
    later: str | None
    outside: str | None
    why_not: str
    unreadable: bool
    effective_rows: float | None
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    drifted: tuple[DriftedFeature, ...]
    segments: tuple[DriftSegment, ...]
    more_segments: int


class Interval(msgspec.Struct, frozen=True):
    """A measure, and the interval in which it lies with 95 % probability."""

    value: float | None
    low: float | None
    high: float | None


class Assessed(msgspec.Struct, frozen=True, kw_only=True):
    """How well the model did in a window, as far as labels have come; `before` on the baseline's held-out rows."""

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
    before: dict[str, float]
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


class ModelPage(msgspec.Struct, frozen=True, kw_only=True):
    """A model. `line` is how it is now; `sentence` and `notes` are about the windows in the range."""

    model: str
    line: ModelLine
    status: Status | None
    label: str
    sentence: str
    notes: tuple[str, ...]
    monitored_by: str | None
    baseline: str | None
    baseline_rows: int | None
    newest_rows: int | None
    newest_at: datetime | None
    variant: str
    variants: tuple[Choice, ...]
    versions: tuple[Choice, ...]
    windows: tuple[WindowPoint, ...]
    alerts: tuple[Sent, ...]
    retrainings: tuple[Retrained, ...]
    rollouts: tuple[PutIntoService, ...]
    heat_from: Annotated[int, Meta(description="the place of the window that the rows of `heat` begin with")]
    heat_windows: int
    heat: tuple[HeatRow, ...]
    more_features: int
    looked_at: LookedAt | None
    cell: FeatureInWindow | None
    cell_page: str | None
    performance: ModelPerformance | None
    unmeasured: str
    cell_address: str
    log: str

    @property
    def timeline(self) -> charts.Figure:
        """What happened, on one axis of time."""
        return charts.timeline(
            [charts.Mark(one.end, one.status or "none", _of_window(one), one.see) for one in self.windows],
            _versions(self.windows),
            [charts.Mark(one.created, one.status, _of_alert(one), one.see) for one in self.alerts],
            [_of_retraining(one) for one in self.retrainings],
            [_of_rollout(one) for one in self.rollouts],
        )

    @property
    def heat_map(self) -> charts.Figure:
        """Features × windows."""
        return charts.heat_map(
            [one.end for one in self.mapped],
            {row.feature: _cells(row) for row in self.heat},
            self.cell_address,
            [one.id for one in self.mapped],
            [at for at in range(1, len(self.mapped)) if self.mapped[at].version != self.mapped[at - 1].version],
        )

    @property
    def mapped(self) -> tuple[WindowPoint, ...]:
        """The windows of the heat map."""
        return self.windows[self.heat_from : self.heat_from + self.heat_windows]

    @property
    def place(self) -> int | None:
        """Where among those the one is that is looked at."""
        wanted = self.looked_at.window.id if self.looked_at else None
        return next((at for at, one in enumerate(self.mapped) if one.id == wanted), None)

    @property
    def judged(self) -> int:
        """Of how many of those it is said how they are."""
        return sum(one.judged for one in self.mapped)

    def strip(self, row: HeatRow) -> Markup:
        """Return a row of the heat map as a small figure."""
        return figures.strip(_cells(row))

    @property
    def inputs(self) -> list[HeatRow]:
        """The features."""
        return [row for row in self.heat if row.role != "output"]

    @property
    def predictions(self) -> list[HeatRow]:
        """The predictions."""
        return [row for row in self.heat if row.role == "output"]

    @property
    def performance_figure(self) -> charts.Figure:
        """The measure of each window, with its interval."""
        assert self.performance is not None
        which = self.performance.measure
        shown = self.performance.windows
        return charts.performance(
            [_of_assessed(one, which) for one in shown],
            [one.before.get(which) for one in shown],
            [one.coverage for one in shown],
            which.replace("_", " "),
        )


def told(sources: Sources, query: ModelQuery, model: str) -> ModelPage:
    """Return what is to be told of a model. Raises NotFound for one that the state does not know."""
    found = windows.found(sources, model, query)
    line = next(iter(lines(sources, model)), None)
    if line is None:
        raise NotFound(f"The state {sources.state.name} has nothing of a model {name(model, 80)!r}.")
    state, here = sources.state, windows.here_of(model, query)
    newest = max(found.judged, key=lambda one: (one.window.start, one.window.number), default=None)
    judgements = _judgements(sources, [newest, found.picked])
    picked = found.picked
    mapped = _around(found)
    cells = Verdicts(state).cells(one.verdict.id for one in mapped.judged if one.verdict is not None)
    baseline = windows.baseline_of(state, picked) if picked is not None else None
    latest = windows.baseline_of(state, newest) if newest is not None else baseline
    judgement = judgements.get(picked.window.id) if picked is not None else None
    assessed = Assessments(state).history(
        model,
        variant=found.variant,
        version=query.version or ...,
        start=query.span[0],
        end=query.span[1],
        newest=min(query.newest, _MAPPED),
    )
    known = [
        _summary(one, judgements.get(one.window.id) if one is newest else None)
        for one in found.windows
        if one.verdict is not None
    ]
    so_far = course(known, len(known))
    said = performing.with_performance(
        verdict(model, so_far, log=sources.log, of_log=from_log(latest)), performing.section(assessed), model
    )
    rows, more = _heat(mapped, cells, list(judgements.values()), judgement, baseline, query, model)
    shown = tuple(windows.point(one, paths.MODEL, here) for one in found.windows)
    start, end = _reach(query, shown)
    feature = query.feature or next(iter(judgement.features if judgement else ()), "")
    holder = state.holder(f"monitor/{model}")
    return ModelPage(
        model=model,
        line=line,
        status=said.status,
        label=said.label,
        sentence=said.sentence,
        notes=tuple(said.notes),
        monitored_by=holder.holder.partition(":")[0] if holder else None,
        baseline=None if latest is None else "the log" if from_log(latest) else "training data",
        baseline_rows=latest.rows if latest else None,
        newest_rows=newest.window.rows if newest else None,
        newest_at=newest.window.end if newest else None,
        variant=found.variant,
        variants=windows.choices(found.variants, found.variant, "variant", paths.MODEL, here),
        versions=windows.choices(["", *found.versions], query.version, "version", paths.MODEL, here),
        windows=shown,
        alerts=timeline.sent(state, model, start, end),
        retrainings=timeline.retrained(state, model, start, end),
        rollouts=timeline.put_into_service(state, model, start, end),
        heat_from=found.windows.index(mapped.windows[0]) if mapped.windows else 0,
        heat_windows=len(mapped.windows),
        heat=rows,
        more_features=more,
        looked_at=_looked_at(found, picked, judgement, cells, here, query) if picked is not None else None,
        cell=feature_in(state, found, picked, judgement, feature) if picked is not None and feature else None,
        cell_page=windows.feature_address(model, feature, query) if feature else None,
        performance=_performance(assessed, query, here),
        unmeasured=performing.unmeasured(assessed),
        cell_address=_cell_address(here),
        log=sources.log,
    )


def _around(found: ChosenWindows) -> ChosenWindows:
    """Return the windows of the heat map: so many, the newest or those about the one that is looked at."""
    place = found.place if found.place is not None else len(found.windows)
    first = max(0, min(place - _MAPPED // 2, len(found.windows) - _MAPPED))
    return found._replace(windows=found.windows[first : first + _MAPPED])


def _judgements(sources: Sources, of: Sequence[Judged | None]) -> dict[str, Judgement]:
    """Return by window's id the judgements of a few windows, as far as this Mooring can read them."""
    found: dict[str, Judgement] = {}
    for one in of:
        if one is None or one.verdict is None or one.window.id in found:
            continue
        judgement = judgement_of(Verdicts(sources.state).results(one.verdict.id))
        if judgement is not None:
            found[one.window.id] = judgement
    return found


def _summary(judged: Judged, judgement: Judgement | None) -> WindowSummary:
    """Return a window with what its verdict sums up, and more where its results are at hand."""
    window, verdict = judged
    assert verdict is not None
    told = WindowSummary(
        start=window.start,
        end=window.end,
        rows=window.rows,
        version=window.version,
        variant=window.variant,
        status=verdict.status,
        judged=was_judged(verdict),
        provisional=verdict.provisional,
        drifted=tuple(one.feature for one in verdict.summary),
        message=verdict.message,
    )
    return told if judgement is None or not told.judged else told.with_found(judgement)


def _heat(
    found: ChosenWindows,
    cells: dict[str, dict[str, Cell]],
    judgements: Sequence[Judgement],
    judgement: Judgement | None,
    baseline: BaselineParts | None,
    query: ModelQuery,
    model: str,
) -> tuple[tuple[HeatRow, ...], int]:
    """Return the rows of the heat map, and how many features are left out."""
    of_windows = [cells.get(one.verdict.id) if one.verdict else None for one in found.windows]
    names = dict.fromkeys(windows.order_of(judgement))
    for some in reversed(of_windows):
        names.update(dict.fromkeys(some or ()))
    roles = {result.feature: result.role for one in judgements for result in one.results}
    history = {one: [some.get(one) if some else None for some in of_windows] for one in names}
    alarms = {one: sum(cell is not None and cell.severity != "ok" for cell in history[one]) for one in names}
    weights = _importances(baseline, names) if query.sort == "importance" else {}
    # First what alarms in the window that is looked at, then what did in others, then what comes nearest to it.
    at = found.place
    now = {one: history[one][at] if at is not None else None for one in names}
    rank = {one: place for place, one in enumerate(judgement.features)} if judgement else {}

    def drifted(one: str) -> tuple[int, int, float, str]:
        cell = now[one]
        return rank.get(one, len(rank)), -alarms[one], -(cell.ratio if cell else 0.0), one

    order = {
        "drift": drifted,
        "alarms": lambda one: (-alarms[one], *drifted(one)),
        "importance": lambda one: (-weights.get(one, 0.0), *drifted(one)),
        "name": lambda one: (one.casefold(), one),
    }[query.sort]
    ranked = sorted(names, key=order)
    outputs = [one for one in ranked if roles.get(one) == "output"]
    inputs = [one for one in ranked if roles.get(one) != "output"]
    shown = [*outputs, *inputs[: query.features]]
    rows = [
        _row(one, roles.get(one, "input"), history[one], alarms[one], weights.get(one), query, model)
        for one in shown
    ]
    return tuple(rows), len(inputs) - min(len(inputs), query.features)


def _row(
    feature: str,
    role: str,
    history: Sequence[Cell | None],
    alarms: int,
    importance: float | None,
    query: ModelQuery,
    model: str,
) -> HeatRow:
    return HeatRow(
        feature=feature,
        role=role,
        see=windows.feature_address(model, feature, query),
        importance=finite(importance),
        alarms=alarms,
        ratios=tuple(finite(cell.ratio) if cell else None for cell in history),
        severities=tuple(cell.severity if cell else None for cell in history),
        measures=tuple(cell.measure if cell else None for cell in history),
        scales=tuple(cell.scale if cell else None for cell in history),
        values=tuple(finite(cell.value) if cell else None for cell in history),
    )


def _importances(baseline: BaselineParts | None, names: dict[str, None]) -> dict[str, float]:
    found = {}
    for one in names:
        feature = windows.feature_of(baseline, one)
        if feature is not None and feature.importance is not None:
            found[one] = feature.importance
    return found


def _cells(row: HeatRow) -> list[Cell | None]:
    several = zip(row.ratios, row.severities, row.measures, row.scales, row.values, strict=True)
    return [
        Cell(float("inf") if ratio is None else ratio, severity, measured, scale or 1, value or 0.0)
        if severity is not None and measured is not None
        else None
        for ratio, severity, measured, scale, value in several
    ]


def _looked_at(
    found: ChosenWindows,
    picked: Judged,
    judgement: Judgement | None,
    cells: dict[str, dict[str, Cell]],
    here: Here,
    query: ModelQuery,
) -> LookedAt:
    window, verdict = picked
    earlier, later = windows.beside(found, paths.MODEL, here)
    judged = verdict is not None and was_judged(verdict)
    segments = sorted(
        (judgement.segments if judgement and judged else {}).items(),
        key=lambda one: (urgency(one[1].severity), one[0]),
    )
    outside = None
    if found.place is None:
        outside = address(paths.MODEL, here | {"start": None, "end": window.end, "variant": window.variant})
    return LookedAt(
        window=windows.point(picked, paths.MODEL, here),
        earlier=earlier,
        later=later,
        outside=outside,
        why_not=unjudged(picked),
        unreadable=judged and judgement is None,
        effective_rows=finite(judgement.effective_rows) if judgement else None,
        missing=tuple(judgement.missing) if judgement else (),
        unknown=tuple(judgement.unknown) if judgement else (),
        drifted=tuple(_drifted(judgement, found, cells, here, query)) if judgement and judged else (),
        segments=tuple(
            DriftSegment(segment=segment, rows=one.rows, severity=one.severity, features=tuple(one.features))
            for segment, one in segments[:_SEGMENTS]
        ),
        more_segments=max(len(segments) - _SEGMENTS, 0),
    )


def _drifted(
    judgement: Judgement, found: ChosenWindows, cells: dict[str, dict[str, Cell]], here: Here, query: ModelQuery
) -> list[DriftedFeature]:
    assert found.picked is not None
    own = cells_of(judgement)
    told = []
    for feature in judgement.features:
        cell = own.get(feature)
        if cell is None or cell.severity == "ok":
            continue  # it alarms by a threshold of 0, and nothing is a multiple of that
        over = [some[feature] for some in cells.values() if feature in some]
        see = address(paths.MODEL, here | {"window": found.picked.window.id, "feature": feature})
        told.append(
            DriftedFeature(
                feature=feature,
                severity=cell.severity,
                measure=cell.measure,
                scale=cell.scale,
                value=finite(cell.value),
                ratio=finite(cell.ratio),
                alarms=sum(one.severity != "ok" for one in over),
                see=see,
                page=windows.feature_address(here["model"], feature, query),
            )
        )
    return told


def _performance(assessed: list[Assessment], query: ModelQuery, here: Here) -> ModelPerformance | None:
    labelled = [one for one in assessed if one.measures]
    if not labelled:
        return None
    newest = labelled[-1]
    usual = performing.section(labelled[-1:])
    chosen = query.measure if query.measure in newest.measures else usual.measure if usual else ""
    measured = newest.measures[chosen]
    before = newest.before.get(chosen)
    sentence = (
        f"On {plural(newest.labelled, 'labelled row')} of {plural(newest.rows, 'row')} "
        "of the newest window with labels, "
        f"{chosen.replace('_', ' ')} is {number(measured.value)}"
    )
    if measured.low is not None and measured.high is not None:
        sentence += f" (95 %: {number(measured.low)} to {number(measured.high)})"
    if before is not None:
        sentence += f"; it was {number(before)} on the baseline's held-out rows"
    if newest.message and not newest.look:
        sentence += f". Not judged: {newest.message}"
    shown = sorted(assessed, key=lambda one: (one.window.end, one.window.start, one.window.number))
    return ModelPerformance(
        measure=chosen,
        measures=tuple(
            Choice(one, address(paths.MODEL, here | {"measure": one}), one == chosen) for one in newest.measures
        ),
        status=newest.status,
        sentence=f"{sentence}.",
        windows=tuple(_assessed(one, here) for one in shown),
        segments=tuple(
            PerformanceSegment(
                column=one.column,
                value=one.value,
                rows=one.rows,
                labelled=one.labelled,
                status=one.status,
                measured=_interval(one.measures[chosen]),
            )
            for one in newest.segments[:_SEGMENTS]
            if chosen in one.measures
        ),
    )


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
        judged=one.look > 0,
        measures={name: _interval(value) for name, value in one.measures.items()},
        before={name: value for name, value in one.before.items() if finite(value) is not None},
        see=address(paths.MODEL, here | {"window": one.window.id}),
    )


def _interval(measured: Measured) -> Interval:
    return Interval(finite(measured.value), finite(measured.low), finite(measured.high))


def _cell_address(here: Here) -> str:
    """Return the address of a cell with {x} and {y} where the window and the feature are to stand."""
    kept = {name: value for name, value in here.items() if name not in ("window", "feature")}
    plain = address(paths.MODEL, kept)
    return f"{plain}{'&' if '?' in plain else '?'}window={{x}}&feature={{y}}"


def _reach(query: ModelQuery, shown: Sequence[WindowPoint]) -> tuple[datetime, datetime]:
    """Return the time that the timeline is about."""
    start, end = query.span
    now = datetime.now(UTC)
    first = start or min((one.end for one in shown), default=datetime.min.replace(tzinfo=UTC))
    return first, end or now


def _versions(shown: Sequence[WindowPoint]) -> list[charts.ChartSpan]:
    """Return which version the windows are of, from when to when by the ends of windows."""
    found: list[charts.ChartSpan] = []
    last: WindowPoint | None = None
    reach = shown[-1].end - shown[0].end if shown else timedelta()
    for one in shown:
        version = one.version or "none"
        label = charts.plain(version, 20)
        if last is not None and (last.version or "none") == version:
            found[-1] = found[-1]._replace(end=one.end)
        else:
            # Windows are drawn where they end, so the first version begins just before the first does.
            began = max(one.start, last.end if last is not None else one.end - reach / 50)
            found.append(charts.ChartSpan(began, one.end, "ok", label, f"version {label}", one.see))
        last = one
    return found


def _of_window(one: WindowPoint) -> str:
    said = STATUSES[one.status].word if one.status else "not judged yet"
    also = ", provisional" if one.provisional else ""
    version = f"<br>version {charts.plain(one.version, 40)}" if one.version else ""
    message = f"<br>{charts.plain(one.message, 90)}" if one.message else ""
    return f"{said}{also}: {plural(one.rows, 'row')}{version}{message}"


def _of_alert(one: Sent) -> str:
    error = f"<br>{charts.plain(one.error, 90)}" if one.error and one.status != "sent" else ""
    return f"alert, {one.kind.replace('_', ' ')}: {one.status}<br>{charts.plain(one.channel, 60)}{error}"


def _of_retraining(one: Retrained) -> charts.ChartSpan:
    text = f"retraining {one.number}: {one.status.replace('_', ' ')}<br>{charts.plain(one.reason, 90)}"
    ended = one.ended or datetime.now(UTC)
    return charts.ChartSpan(one.created, ended, one.status, "", text, one.see, one.ended is None)


def _of_rollout(one: PutIntoService) -> charts.ChartSpan:
    text = f"rollout {one.number} of version {charts.plain(one.version, 40)}: {in_words(one.status)}"  # type: ignore[arg-type]
    ended = one.ended or datetime.now(UTC)
    return charts.ChartSpan(one.created, ended, one.status, "", text, one.see, one.ended is None)


def _of_assessed(one: Assessed, which: str) -> charts.Point:
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


PAGE = Page(
    "model",
    paths.MODEL,
    "A model: how it is and since when, what happened to it, which features drifted, how well it did.",
    ModelQuery,
    ModelPage,
    told,
)
