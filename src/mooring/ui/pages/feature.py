"""The page of a feature: how far it was from its threshold, and one window against the baseline."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from mooring.drift.judgement import Judgement
from mooring.drift.tensors import column_of
from mooring.monitor.results import was_judged
from mooring.report.words import measure, name, number, plural
from mooring.state.cells import Cell, strongest
from mooring.state.judgements import judgement_of
from mooring.state.verdicts import Verdicts
from mooring.state.windows import Judged
from mooring.status import ALARMING, STATUSES, Severity, Status, urgency
from mooring.ui import charts, paths, windows
from mooring.ui.feature_detail import FeatureInWindow, MeasureValue, feature_in, unjudged, value_of
from mooring.ui.responses import NotFound
from mooring.ui.routing import Page, address, written
from mooring.ui.sources import Sources
from mooring.ui.windows import Choice, Chosen, WindowPoint, finite

_SEGMENTS = 50


class FeatureQuery(Chosen, frozen=True, kw_only=True):
    """Which windows."""


class FeaturePoint(msgspec.Struct, frozen=True, kw_only=True):
    """The feature in a window: its strongest measure, None where that was not judged."""

    window: str
    start: datetime
    end: datetime
    version: str | None
    rows: int
    status: Status | None
    severity: Severity | None
    measure: str | None
    scale: int | None
    value: float | None
    ratio: float | None
    see: str


class FeatureSegment(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the window's rows, in which some feature has one value: how this one is there."""

    segment: str
    rows: int
    severity: Severity
    strongest: MeasureValue | None


class FeaturePage(msgspec.Struct, frozen=True, kw_only=True):
    """A feature over windows. `before` and `after` are its neighbours, in the order of the model's heat map.

    `per_window` says that the budget of false alarms is for each window.
    """

    model: str
    feature: str
    model_page: str
    before: Choice | None
    after: Choice | None
    variant: str
    variants: tuple[Choice, ...]
    versions: tuple[Choice, ...]
    windows: tuple[FeaturePoint, ...]
    alarms: int
    judged: int
    looked_at: WindowPoint | None
    earlier: str | None
    later: str | None
    why_not: str
    unreadable: bool
    cell: FeatureInWindow | None
    segments: tuple[FeatureSegment, ...]
    rows_command: str
    per_window: bool

    @property
    def figure(self) -> charts.Figure:
        """How far it was from its threshold, window by window."""
        return charts.ratios(
            [
                charts.Point(one.end, one.severity, one.ratio, None, None, _said(one), one.see)
                for one in self.windows
            ]
        )


def told(sources: Sources, query: FeatureQuery, model: str, feature: str) -> FeaturePage:
    """Return what is to be told of a feature. Raises NotFound for one that neither windows nor baseline have."""
    found = windows.found(sources, model, query)
    if not found.variants:
        raise NotFound(f"The state {sources.state.name} has no windows of a model {name(model, 80)!r}.")
    state, picked = sources.state, found.picked
    here = windows.here_of(model, query, feature=feature)
    verdict = picked.verdict if picked is not None else None
    judgement = judgement_of(Verdicts(state).results(verdict.id)) if verdict is not None else None
    is_judged = verdict is not None and was_judged(verdict)
    cells = Verdicts(state).cells(one.verdict.id for one in found.judged if one.verdict is not None)
    cell = feature_in(state, found, picked, judgement, feature) if picked is not None else None
    there = any(feature in some for some in cells.values())
    if cell is not None and not there and not cell.measures and cell.kind is None:
        raise NotFound(f"{name(model, 80)} has no feature {name(feature, 80)!r} in these windows.")
    before, after = _neighbours(windows.order_of(judgement), model, feature, query)
    earlier, later = windows.beside(found, paths.FEATURE, here)
    points = tuple(_point(one, cells, feature, here) for one in found.windows)
    kept = {key: value for key, value in here.items() if key in Chosen.__struct_fields__}
    return FeaturePage(
        model=model,
        feature=feature,
        model_page=address(paths.MODEL, {"model": model, **kept}),
        before=before,
        after=after,
        variant=found.variant,
        variants=windows.choices(found.variants, found.variant, "variant", paths.FEATURE, here),
        versions=windows.choices(["", *found.versions], query.version, "version", paths.FEATURE, here),
        windows=points,
        alarms=sum(one.severity in ALARMING for one in points),
        judged=sum(one.severity is not None for one in points),
        looked_at=windows.point(picked, paths.FEATURE, here) if picked is not None else None,
        earlier=earlier,
        later=later,
        why_not=unjudged(picked) if picked is not None else "",
        unreadable=is_judged and judgement is None,
        cell=cell,
        segments=_segments(judgement, feature) if judgement and is_judged else (),
        rows_command=_command(sources, model, feature, picked),
        per_window=sources.budget.per_window is not None,
    )


def _neighbours(names: Sequence[str], model: str, feature: str, query: Chosen) -> list[Choice | None]:
    """Return the features before and after one in an order, None where there is none."""
    places = range(len(names))
    at = names.index(feature) if feature in names else None
    return [
        Choice(names[place], windows.feature_address(model, names[place], query), False)
        if place is not None and place in places
        else None
        for place in ((at - 1, at + 1) if at is not None else (None, None))
    ]


def _point(
    judged: Judged, cells: Mapping[str, Mapping[str, Cell]], feature: str, here: windows.Here
) -> FeaturePoint:
    window, verdict = judged
    cell = cells.get(verdict.id, {}).get(feature) if verdict is not None else None
    return FeaturePoint(
        window=window.id,
        start=window.start,
        end=window.end,
        version=window.version,
        rows=window.rows,
        status=verdict.status if verdict else None,
        severity=cell.severity if cell else None,
        measure=cell.measure if cell else None,
        scale=cell.scale if cell else None,
        value=finite(cell.value) if cell else None,
        ratio=finite(cell.ratio) if cell else None,
        see=address(paths.FEATURE, here | {"window": window.id}),
    )


def _segments(judgement: Judgement, feature: str) -> tuple[FeatureSegment, ...]:
    """Return how the feature is in the segments that were judged, the worst first."""
    found = []
    for segment, judged in judgement.segments.items():
        top = strongest(one for one in judged.results if one.feature == feature)
        if top is not None:
            value = value_of(top.result, True)
            found.append(FeatureSegment(segment=segment, rows=judged.rows, severity=top.severity, strongest=value))
    found.sort(key=lambda one: (urgency(one.severity), one.segment))
    return tuple(found[:_SEGMENTS])


def _said(one: FeaturePoint) -> str:
    if one.severity is None or one.measure is None:
        return f"{STATUSES[one.status].word if one.status else 'not judged yet'}: {plural(one.rows, 'row')}"
    over = f", {plural(one.scale, 'window')} together" if one.scale and one.scale > 1 else ""
    ratio = f"{number(one.ratio, 2)} × its threshold" if one.ratio is not None else "far beyond its threshold"
    return f"{STATUSES[one.severity].word}: {measure(one.measure)}{over}<br>{ratio}"


def _command(sources: Sources, model: str, feature: str, picked: Judged | None) -> str:
    """Return the command that shows the rows of a window."""
    column = column_of(feature) or feature
    quoted = '"' + column.replace('"', '""') + '"'
    sql = f"SELECT {quoted}, * FROM flat LIMIT 100"  # noqa: S608  for a person to run, or not
    parts = ["mooring", "log", "query", sql, "--log", sources.log]
    parts += ["--model", model]
    if picked is not None:
        window = picked.window
        parts += ["--variant", window.variant, "--start", written(window.start), "--end", written(window.end)]
    return shlex.join(parts)


PAGE = Page(
    "feature",
    paths.FEATURE,
    "A feature: how far it was from its threshold window by window, and a window against the baseline.",
    FeatureQuery,
    FeaturePage,
    told,
)
