"""The page of an incident: what moved, and the windows in which it shows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
from markupsafe import Markup

from mooring.report import figures
from mooring.report.words import moment, name
from mooring.state.assessments import Assessment, Assessments
from mooring.state.cells import Cell
from mooring.state.estimations import Estimation, Estimations, JointDrift
from mooring.state.incidents import Incident, Incidents
from mooring.state.state import State
from mooring.state.verdicts import Verdicts
from mooring.state.windows import Judged, Window, Windows
from mooring.status import ALARMING, Severity, Status
from mooring.ui import paths
from mooring.ui.incidents import IncidentLine, line
from mooring.ui.path_params import id_of, model_of
from mooring.ui.responses import NotFound
from mooring.ui.routing import Page, WindowRange, address, asked
from mooring.ui.sources import Sources
from mooring.ui.windows import finite

_FEATURES = 200
_INSTANT = timedelta(microseconds=1)


class IncidentQuery(WindowRange, frozen=True, kw_only=True):
    """Which of its windows, since there may be thousands."""


class IncidentWindow(msgspec.Struct, frozen=True, kw_only=True):
    """A window of an incident. `status` is of its drift, or of its performance, as the incident is."""

    id: str
    start: datetime
    end: datetime
    rows: int
    status: Status | None
    message: str
    see: str


class IncidentFeature(msgspec.Struct, frozen=True, kw_only=True):
    """A feature that moved, or a measure of performance that did.

    `segment` is the FEATURE=VALUE of the rows of which it moved, '' for all. `measure`, `value` and `ratio` are of
    its strongest measure in the newest of the windows that are shown, None where nothing is known of it there. Of
    performance `value` is the measure's own, and `reference` what it was before. In `alarms` of these windows it
    stood out by itself. `severities` has one for each of them, the oldest first.
    """

    name: str
    feature: str
    segment: str
    measure: str | None
    value: float | None
    reference: float | None
    ratio: float | None
    alarms: int
    severities: tuple[Severity | None, ...]
    see: str

    @property
    def strip(self) -> Markup:
        """How it was over the windows, as a small figure."""
        return figures.timeline([one or "no_baseline" for one in self.severities])


class IncidentPage(msgspec.Struct, frozen=True, kw_only=True):
    """An incident. Its windows are the newest first; `older` is the page of those before, `newest` of the newest.

    `ended_by` says why it ended, '' for one that is open. `model_page` shows the model in this time.
    """

    model: str
    incident: IncidentLine
    ended_by: str
    features: tuple[IncidentFeature, ...]
    more_features: int
    windows: tuple[IncidentWindow, ...]
    older: str | None
    newest: str | None
    model_page: str
    all_incidents: str

    @property
    def title(self) -> str:
        """What it is, in a sentence."""
        return _title(self)


class _Reading(NamedTuple):
    """What the windows of an incident say; lists begin with the oldest."""

    windows: list[IncidentWindow]
    features: list[IncidentFeature]


def told(sources: Sources, query: IncidentQuery, model: str, incident: str) -> IncidentPage:
    """Return an incident. Raises NotFound."""
    model, state = model_of(model), sources.state
    one = Incidents(state).named(id_of(incident, "incident"))
    if one is None or one.model != model:
        raise NotFound(f"There is no such incident of {name(model, 80)}: {name(incident, 80)}.")
    asked_start, asked_end = query.span
    start, end = max(asked_start or one.start, one.start), min(asked_end or one.updated, one.updated)
    read = {"drift": _of_drift, "joint": _of_joint, "performance": _of_performance, "estimated": _of_estimates}[
        one.kind
    ]
    found = read(state, one, start, end, query.newest)
    here = {"model": model, "incident": one.id, **asked(query)}
    first = found.windows[0] if found.windows else None
    is_older = len(found.windows) == query.newest and first is not None and first.start > start
    return IncidentPage(
        model=model,
        incident=line(one),
        ended_by=_ended_by(state, one),
        features=tuple(found.features),
        more_features=max(len(one.features) - _FEATURES, 0),
        windows=tuple(found.windows[::-1]),
        older=address(paths.INCIDENT, here | {"end": first.start}) if is_older and first is not None else None,
        newest=address(paths.INCIDENT, here | {"end": None}) if end < one.updated else None,
        model_page=_model_page(one, start=one.start, end=one.updated),
        all_incidents=address(paths.INCIDENTS, {"model": model}),
    )


def _of_drift(state: State, one: Incident, start: datetime, end: datetime, newest: int) -> _Reading:
    judged = Windows(state).history(
        one.model, version=one.version, variant=one.variant, start=start, end=end, newest=newest
    )
    cells = Verdicts(state).cells(each.verdict.id for each in judged if each.verdict is not None)
    of_windows = [cells.get(each.verdict.id, {}) if each.verdict is not None else {} for each in judged]
    known = {feature for some in of_windows for feature in some}
    last = judged[-1].window.id if judged else None
    return _Reading(
        [_window(one, each) for each in judged],
        [_feature(one, full, of_windows, known, last) for full in one.features[:_FEATURES]],
    )


def _window(one: Incident, judged: Judged) -> IncidentWindow:
    window, verdict = judged
    return IncidentWindow(
        id=window.id,
        start=window.start,
        end=window.end,
        rows=window.rows,
        status=verdict.status if verdict else None,
        message=verdict.message if verdict else "",
        see=_model_page(one, window=window.id, end=one.updated),
    )


def _feature(
    one: Incident,
    full: str,
    of_windows: Sequence[Mapping[str, Cell]],
    known: Collection[str],
    last: str | None,
) -> IncidentFeature:
    segment, feature = split(full, known)
    # What was measured of a segment is in the results of each window alone, and not among its cells.
    cells = [some.get(feature) if not segment else None for some in of_windows]
    now = next((cell for cell in reversed(cells) if cell is not None), None)
    kept = {"variant": one.variant, "version": one.version, "window": last, "end": one.updated}
    where = {"model": one.model, "feature": feature, **kept}
    return IncidentFeature(
        name=full,
        feature=feature,
        segment=segment,
        measure=now.measure if now else None,
        value=finite(now.value) if now else None,
        reference=None,
        ratio=finite(now.ratio) if now else None,
        alarms=sum(cell is not None and cell.severity != "ok" for cell in cells),
        severities=tuple(cell.severity if cell else None for cell in cells) if not segment else (),
        see=address(paths.FEATURE, where) if feature in known else _model_page(one, window=last, end=one.updated),
    )


def split(full: str, known: Collection[str]) -> tuple[str, str]:
    """Return of which segment a name in an incident is, '' for the whole, and of which feature.

    A feature may be called anything, so what is a segment's is known by the features that there are.

    >>> split("pH", {"pH"}), split("colour=red: pH", {"pH"}), split("a: b", {"a: b", "b"})
    (('', 'pH'), ('colour=red', 'pH'), ('', 'a: b'))
    """
    if full in known:
        return "", full
    parts = full.split(": ")
    for at in range(1, len(parts)):
        segment, feature = ": ".join(parts[:at]), ": ".join(parts[at:])
        if feature in known and "=" in segment:
            return segment, feature
    return "", full


def _of_performance(state: State, one: Incident, start: datetime, end: datetime, newest: int) -> _Reading:
    assessed = Assessments(state).history(
        one.model, version=one.version, variant=one.variant, start=start, end=end, newest=newest
    )
    windows = [_rated(one, each, each.window, each.labelled, "performance") for each in assessed]
    return _Reading(windows, [_measure(one, measure, assessed) for measure in one.features[:_FEATURES]])


def _of_estimates(state: State, one: Incident, start: datetime, end: datetime, newest: int) -> _Reading:
    estimated = Estimations(state).history(
        one.model, version=one.version, variant=one.variant, start=start, end=end, newest=newest
    )
    windows = [_rated(one, each, each.window, each.rows, "estimated") for each in estimated]
    return _Reading(windows, [_measure(one, measure, estimated) for measure in one.features[:_FEATURES]])


def _rated(
    one: Incident, said: Assessment | Estimation | JointDrift, window: Window, rows: int, place: str
) -> IncidentWindow:
    """Return a window with what is said of it, of so many rows; `place` is where the page of the model has it."""
    return IncidentWindow(
        id=window.id,
        start=window.start,
        end=window.end,
        rows=rows,
        status=said.status,
        message=said.message,
        see=f"{_model_page(one, window=window.id, end=one.updated)}#{place}",
    )


def _of_joint(state: State, one: Incident, start: datetime, end: datetime, newest: int) -> _Reading:
    known = Estimations(state).history(
        one.model, version=one.version, variant=one.variant, start=start, end=end, newest=newest
    )
    looked = [(each.window, each.joint, each.rows) for each in known if each.joint is not None]
    windows = [_rated(one, joint, window, rows, "together") for window, joint, rows in looked]
    return _Reading(
        windows, [_pair(one, pair, [joint for _, joint, _ in looked]) for pair in one.features[:_FEATURES]]
    )


def _pair(one: Incident, pair: str, drifts: Sequence[JointDrift]) -> IncidentFeature:
    of_it = [dict(zip(each.features, each.pairs, strict=True)).get(pair) for each in drifts]
    newest = next((each for each in reversed(of_it) if each is not None), None)
    return IncidentFeature(
        name=pair,
        feature=pair,
        segment="",
        measure=None,
        value=finite(newest.now) if newest else None,
        reference=finite(newest.before) if newest else None,
        ratio=None,
        alarms=sum(
            each is not None and drift.status in ALARMING for each, drift in zip(of_it, drifts, strict=True)
        ),
        severities=(),
        see=f"{_model_page(one, end=one.updated)}#together",
    )


def _measure(one: Incident, measure: str, rated: Sequence[Assessment | Estimation]) -> IncidentFeature:
    newest = next((each for each in reversed(rated) if measure in each.measures), None)
    see = _model_page(one, measure=measure if newest else None, end=one.updated)
    before = None
    if isinstance(newest, Assessment):
        before = newest.before.get(measure)
    elif newest is not None:
        before = newest.measures[measure].held_out
    return IncidentFeature(
        name=measure,
        feature=measure,
        segment="",
        measure=None,
        value=finite(newest.measures[measure].value) if newest else None,
        reference=finite(before),
        ratio=None,
        alarms=sum(each.status in ALARMING for each in rated if measure in each.measures),
        severities=(),
        see=f"{see}#{one.kind}",
    )


def _model_page(one: Incident, **more: object) -> str:
    given = {"model": one.model, "variant": one.variant, "version": one.version, **more}
    return address(paths.MODEL, given)


def _ended_by(state: State, one: Incident) -> str:
    """Say why an incident has ended, '' where it has not."""
    if one.closed is None:
        return ""
    # A window on another baseline ends it where that window begins, though nothing in it had calmed down.
    around = Windows(state).history(
        one.model, version=one.version, variant=one.variant, end=one.closed + _INSTANT, newest=2
    )
    verdicts = [each.verdict for each in around if each.verdict is not None]
    if one.kind == "drift" and len(verdicts) == 2 and around[1].window.start >= one.updated:
        last, after = verdicts
        if last.status != "ok" and last.baseline != after.baseline:
            return "the version got another baseline, and all begins anew against that"
    return "what moved is no longer away by as much as matters"


def _title(page: IncidentPage) -> str:
    one = page.incident
    who = f"{name(page.model, 80)}{f' version {name(one.version, 40)}' if one.version else ''}"
    if one.variant != "champion":
        who = f"{who} ({name(one.variant, 40)})"
    if one.kind == "performance":
        now, then = "has done worse than it did", "did worse"
    elif one.kind == "estimated":
        now, then = "is estimated to do worse than it did", "was estimated to do worse"
    elif one.kind == "joint":
        now, then = "has had features that no longer go together", "had features that did not go together"
    else:
        now, then = "has been drifting", "drifted"
    if one.is_open:
        return f"{who} {now} since {moment(one.start)}"
    return f"{who} {then} from {moment(one.start)} to {moment(one.closed or one.updated)}"


PAGE = Page(
    "incident",
    paths.INCIDENT,
    "An incident: what moved, since when, and the windows in which it shows.",
    IncidentQuery,
    IncidentPage,
    told,
)
