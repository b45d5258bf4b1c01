"""A report on what the monitor's state knows of a model."""

from __future__ import annotations

from datetime import UTC, datetime

from mooring.drift.baseline import Baseline, profile_from_bytes
from mooring.drift.profile import Profile
from mooring.drift.stored import FormatError
from mooring.monitor.results import history, was_judged
from mooring.report.course import answering
from mooring.report.model import Report, ReportWindow
from mooring.report.page import html, svg
from mooring.state.assessments import Assessments
from mooring.state.baselines import StoredBaselines
from mooring.state.estimations import Estimations
from mooring.state.incidents import Incidents, StreamStates
from mooring.state.judgements import judgement_of
from mooring.state.state import State
from mooring.state.verdicts import Verdicts
from mooring.state.windows import Judged, Windows

_PROFILES = 20
_SMALL = 48
_INCIDENTS = 20


def of_state(
    state: State,
    model: str,
    *,
    log: str = "",
    version: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    newest: int = 100,
) -> Report:
    """Return a report on a model's newest windows: of those in [start, end), or of a version, where given."""
    judged = history(state, model, version=version, start=start, end=end, newest=newest)
    variant = answering((one.window.variant, one.window.rows) for one in judged)
    answered = [one.window.version for one in judged if one.window.variant == variant]
    answered_by = answered[-1] if answered else version
    baseline = _baseline(state, model, answered_by)
    profiles = Windows(state).profiles(one.window.id for one in judged[-_PROFILES:])
    windows = [_window(state, one, profiles.get(one.window.id), baseline) for one in judged]
    of_windows = {one.window.id for one in judged if one.window.variant == variant}
    assessed = Assessments(state).history(
        model, version=version or ..., variant=variant, start=start, end=end, newest=newest
    )
    estimated = Estimations(state).history(
        model, version=version or ..., variant=variant, start=start, end=end, newest=newest
    )
    streams = StreamStates(state).of_version(model, answered_by, variant)
    return Report(
        model=model,
        log=log,
        created=datetime.now(UTC),
        baseline=baseline,
        windows=windows,
        performance=[one for one in assessed if one.window.id in of_windows],
        estimated=[one for one in estimated if one.window.id in of_windows],
        incidents=Incidents(state).newest(
            model,
            _INCIDENTS,
            start=judged[0].window.start if judged else start,
            end=end,
            version=version or ...,
            variant=variant,
        ),
        stream=next((one for one in streams if one.kind == "drift"), None),
    )


def small_report(state: State, model: str) -> str:
    """Return the small report that goes to MLflow, as HTML without a script."""
    return svg(of_state(state, model, newest=_SMALL))


def whole_report(state: State, model: str) -> str:
    """Return the report on a model's newest windows, as HTML."""
    return html(of_state(state, model))


def _baseline(state: State, model: str, version: str | None) -> Baseline | None:
    kept = StoredBaselines(state).newest(model, version)
    try:
        return Baseline.from_bytes(kept.data) if kept else None
    except FormatError:
        return None  # the windows say so


def _window(state: State, judged: Judged, data: bytes | None, baseline: Baseline | None) -> ReportWindow:
    window, verdict = judged
    assert verdict is not None
    return ReportWindow(
        start=window.start,
        end=window.end,
        rows=window.rows,
        requests=window.requests,
        version=window.version,
        variant=window.variant,
        severity=verdict.status,
        provisional=verdict.provisional,
        judgement=judgement_of(Verdicts(state).results(verdict.id)) if was_judged(verdict) else None,
        profile=_profile(data, baseline),
        late_rows=window.late,
        message=verdict.message,
    )


def _profile(data: bytes | None, baseline: Baseline | None) -> Profile | None:
    """Return a window's profile, if it is on the baseline's grids and this version of Mooring can read it."""
    try:
        found = profile_from_bytes(data) if data else None
    except FormatError:
        return None
    return found if found is not None and baseline is not None and found.digest == baseline.digest else None
