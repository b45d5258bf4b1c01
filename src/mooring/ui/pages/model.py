"""The page of a model: how it is, what happened to it, which features drifted when, how well it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from markupsafe import Markup
from msgspec import Meta

from mooring.drift.baseline import BaselineParts
from mooring.drift.judgement import Judgement
from mooring.monitor.results import was_judged
from mooring.report import figures
from mooring.report import performance as performing
from mooring.report.course import WindowSummary, course
from mooring.report.verdict import Headline, verdict
from mooring.report.words import from_log, moment, name, plural
from mooring.state.assessments import Assessment, Assessments
from mooring.state.cells import Cell, cells_of
from mooring.state.estimations import Estimations, JointDrift
from mooring.state.incidents import StreamStates
from mooring.state.judgements import judgement_of
from mooring.state.rollouts import in_words
from mooring.state.verdicts import Verdicts
from mooring.state.windows import Judged
from mooring.status import ALARMING, STATUSES, Severity, Status, urgency
from mooring.ui import charts, heat, incidents, paths, streams, timeline, windows
from mooring.ui.estimated import ModelEstimates, estimates
from mooring.ui.feature_detail import FeatureInWindow, feature_in, unjudged
from mooring.ui.heat import HeatRow, Order
from mooring.ui.incidents import IncidentLine
from mooring.ui.labelled import ModelPerformance, labelled
from mooring.ui.pages.models import ModelLine, lines
from mooring.ui.responses import NotFound
from mooring.ui.routing import Page, address
from mooring.ui.sources import Sources
from mooring.ui.streams import StreamMeter
from mooring.ui.timeline import PutIntoService, Retrained, Sent
from mooring.ui.windows import Choice, Chosen, ChosenWindows, Here, WindowPoint, finite

_MAPPED = 200
_SEGMENTS = 50
_OPEN, _ENDED = 10, 5


class ModelQuery(Chosen, frozen=True, kw_only=True):
    """Which windows, and what of them."""

    feature: Annotated[str, Meta(description="the feature that is looked at; without, the one drifted most")] = ""
    sort: Annotated[Order, Meta(description="the order of the features")] = "drift"
    features: Annotated[int, Meta(ge=1, le=1000, description="so many features at most")] = 40
    measure: Annotated[str, Meta(description="how well the model did is told by this measure")] = ""


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


class ModelPage(msgspec.Struct, frozen=True, kw_only=True):
    """A model. `line` is how it is now; `sentence` and `notes` are about the windows in the range.

    `evidence` is how far the streams of the version that is shown are from an incident. `incidents` are those of
    the variant, in the range if one is given: open ones first, then what has ended, each the newest first; all of
    them are found at `all_incidents`. `in_sample` are the outputs whose baseline is in-sample.
    """

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
    evidence: tuple[StreamMeter, ...]
    incidents: tuple[IncidentLine, ...]
    all_incidents: str
    in_sample: tuple[str, ...]
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
    estimates: ModelEstimates | None
    together: JointDrift | None
    cell_address: str
    log: str

    @property
    def timeline(self) -> charts.Figure:
        """What happened, on one axis of time."""
        return charts.timeline(
            [charts.Mark(one.end, one.status or "none", _of_window(one), one.see) for one in self.windows],
            incidents.spans(
                [one for one in self.incidents if self.windows and one.updated > self.windows[0].start]
            ),
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
            {row.feature: row.cells for row in self.heat},
            self.cell_address,
            [one.id for one in self.mapped],
            [at for at in range(1, len(self.mapped)) if self.mapped[at].version != self.mapped[at - 1].version],
            incidents.brackets(self.incidents, self.mapped),
        )

    @property
    def first_incidents(self) -> tuple[IncidentLine, ...]:
        """Those that are open, or the newest of them, and a few that have ended."""
        ended = [one for one in self.incidents if not one.is_open]
        return (*[one for one in self.incidents if one.is_open][:_OPEN], *ended[:_ENDED])

    @property
    def has_brackets(self) -> bool:
        """Whether an incident stands above the heat map."""
        return any(one.incidents for one in self.mapped)

    @property
    def places(self) -> dict[str, str]:
        """What incidents are called in a table of windows, by their ids."""
        return {one.id: f"{one.what} since {moment(one.start)}" for one in self.incidents}

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
        return figures.strip(row.cells)

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
        return self.performance.figure


def told(sources: Sources, query: ModelQuery, model: str) -> ModelPage:
    """Return what is to be told of a model. Raises NotFound for one that the state does not know."""
    found = windows.found(sources, model, query)
    line = next(iter(lines(sources, model)), None)
    if line is None:
        raise NotFound(f"The state {sources.state.name} has nothing of a model {name(model, 80)!r}.")
    state, here = sources.state, windows.here_of(model, query)
    newest = max(found.judged, key=lambda one: (one.window.start, one.window.number), default=None)
    picked = found.picked
    judgements = _judgements(sources, [newest, picked])
    judgement = judgements.get(picked.window.id) if picked is not None else None
    baseline = windows.baseline_of(state, picked) if picked is not None else None
    latest = windows.baseline_of(state, newest) if newest is not None else baseline
    assessed = Assessments(state).history(
        model,
        variant=found.variant,
        version=query.version or ...,
        start=query.span[0],
        end=query.span[1],
        newest=min(query.newest, _MAPPED),
    )
    estimated = Estimations(state).history(
        model,
        variant=found.variant,
        version=query.version or ...,
        start=query.span[0],
        end=query.span[1],
        newest=min(query.newest, _MAPPED),
    )
    said = _headline(sources, model, found, newest, judgements, latest, assessed)
    first, mapped = _around(found)
    cells = Verdicts(state).cells(one.verdict.id for one in mapped.judged if one.verdict is not None)
    weighing = baseline if query.sort == "importance" else None
    features = heat.histories(mapped, cells, judgements.values(), judgement, weighing)
    rows, more = heat.rows(features, query.sort, query.features, query, model)
    of_it = incidents.found(state, model, variant=found.variant, version=query.version, span=query.span)
    points = [windows.point(one, paths.MODEL, here) for one in found.windows]
    shown = incidents.marked(points, of_it, found.variant)
    span = _reach(query, shown)
    feature = query.feature or next(iter(judgement.features if judgement else ()), "")
    return ModelPage(
        model=model,
        line=line,
        status=said.status,
        label=said.label,
        sentence=said.sentence,
        notes=tuple(said.notes),
        monitored_by=_monitored_by(sources, model),
        baseline=_made_of(latest),
        baseline_rows=latest.rows if latest else None,
        newest_rows=newest.window.rows if newest else None,
        newest_at=newest.window.end if newest else None,
        variant=found.variant,
        variants=windows.choices(found.variants, found.variant, "variant", paths.MODEL, here),
        versions=windows.choices(["", *found.versions], query.version, "version", paths.MODEL, here),
        windows=shown,
        evidence=_evidence(sources, model, found, query),
        incidents=of_it,
        all_incidents=address(paths.INCIDENTS, {"model": model}),
        in_sample=windows.in_sample(latest, judgements.get(newest.window.id) if newest is not None else None),
        alerts=timeline.sent(state, model, *span),
        retrainings=timeline.retrained(state, model, *span),
        rollouts=timeline.put_into_service(state, model, *span),
        heat_from=first,
        heat_windows=len(mapped.windows),
        heat=rows,
        more_features=more,
        looked_at=_looked_at(found, picked, judgement, cells, here, query) if picked is not None else None,
        cell=feature_in(state, found, picked, judgement, feature) if picked is not None and feature else None,
        cell_page=windows.feature_address(model, feature, query) if feature else None,
        performance=labelled(assessed, query.measure, here),
        unmeasured=performing.unmeasured(assessed),
        estimates=estimates(estimated, assessed, _moved(found), query.measure, here),
        together=next((one.joint for one in reversed(estimated) if one.joint is not None), None),
        cell_address=_cell_address(here),
        log=sources.log,
    )


def _evidence(sources: Sources, model: str, found: ChosenWindows, query: ModelQuery) -> tuple[StreamMeter, ...]:
    """Return the meters of the version that is chosen, else of that of the newest window."""
    newest = max((one.window for one in found.windows), key=lambda one: (one.start, one.number), default=None)
    if newest is None and not query.version:
        return ()
    version = query.version or (newest.version if newest is not None else None)
    known = StreamStates(sources.state).of_version(model, version, found.variant)
    return tuple(streams.of_stream(known, version, found.variant, sources.budget))


def _moved(found: ChosenWindows) -> set[str]:
    """Return the ids of the windows whose drift alarms."""
    return {one.window.id for one in found.windows if one.verdict is not None and one.verdict.status in ALARMING}


def _monitored_by(sources: Sources, model: str) -> str | None:
    """Return the host whose monitor is running for a model."""
    holder = sources.state.holder(f"monitor/{model}")
    return holder.holder.partition(":")[0] if holder else None


def _made_of(baseline: BaselineParts | None) -> str | None:
    if baseline is None:
        return None
    return "the log" if from_log(baseline) else "training data"


def _headline(
    sources: Sources,
    model: str,
    found: ChosenWindows,
    newest: Judged | None,
    judgements: Mapping[str, Judgement],
    baseline: BaselineParts | None,
    assessed: Sequence[Assessment],
) -> Headline:
    """Return what is said first of the windows."""
    known = [
        _summary(one, judgements.get(one.window.id) if one is newest else None)
        for one in found.windows
        if one.verdict is not None
    ]
    said = verdict(model, course(known, len(known)), log=sources.log, of_log=from_log(baseline))
    return performing.with_performance(said, performing.section(assessed), model)


def _around(found: ChosenWindows) -> tuple[int, ChosenWindows]:
    """Return the windows of the heat map, and where they begin: the newest or those about the one looked at."""
    place = found.place if found.place is not None else len(found.windows)
    first = max(0, min(place - _MAPPED // 2, len(found.windows) - _MAPPED))
    return first, found._replace(windows=found.windows[first : first + _MAPPED])


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


PAGE = Page(
    "model",
    paths.MODEL,
    "A model: how it is and since when, what happened to it, which features drifted, how well it did.",
    ModelQuery,
    ModelPage,
    told,
)
