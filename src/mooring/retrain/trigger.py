"""Whether the monitor's verdicts call for a retraining, and if not, why not."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from mooring.monitor.harm import Harm, harm_of
from mooring.settings import RetrainSettings
from mooring.state.assessments import Assessments
from mooring.state.estimations import Estimations
from mooring.state.incidents import Incidents
from mooring.state.retrainings import Cause, Ticket, Tickets
from mooring.state.state import State
from mooring.state.windows import Judged, Window, Windows
from mooring.status import JUDGED, Severity, at_least, severity_of, worst

NEWS = timedelta(days=1)
_WEEK = timedelta(days=7)
_TICKETS = 1000
_MOST_WINDOWS = 200
_LONGEST = 1000 * 365.0 * 86_400


class Answer(NamedTuple):
    """Whether there is to be a retraining, for which cause, and the reason for or against it in a sentence."""

    cause: Cause | None
    reason: str


class RatedWindow(NamedTuple):
    """A window, the id of the verdict on it, and how bad that is."""

    start: datetime
    end: datetime
    verdict: str
    message: str
    severity: Severity | None


def ask(state: State, model: str, settings: RetrainSettings, now: datetime) -> Answer:
    """Return whether the verdicts on the champion call for a retraining now.

    They do where an incident is open that has been as bad as `retrain_level`, and its newest window is of the last
    day.
    Then nothing must be under way, the last ticket be longer ago than `retrain_cooldown`, and there be fewer than
    `retrain_max_per_week`. What somebody asked for by hand counts for neither.
    """
    found = Tickets(state)
    if (ticket := found.unended(model)) is not None:
        return Answer(None, f"retraining {ticket.number} is under way: {ticket.status}")
    called = called_for(state, model, settings, now)
    if called.cause is None:
        return called
    if refused := _too_soon(found.newest(model, _TICKETS), settings, now):
        return Answer(None, f"{called.reason}; {refused}")
    return called


def check(settings: RetrainSettings) -> None:
    """Raise ValueError for times that can't be."""
    if settings.range_seconds is None and settings.retrain_range not in ("drifted", "all"):
        raise ValueError(f"--retrain-range {settings.retrain_range}: that is no time; give 30d, say")
    for name, seconds in (
        ("cooldown", settings.retrain_cooldown),
        ("timeout", settings.retrain_timeout),
        ("range", settings.range_seconds or 0.0),
    ):
        if not seconds <= _LONGEST:
            raise ValueError(f"--retrain-{name} {seconds:g}s: it takes at most 1000 years")


def called_for(state: State, model: str, settings: RetrainSettings, now: datetime) -> Answer:
    """Return whether the verdicts on the champion alone call for a retraining; see `ask` for the rest."""
    judged = _final(Windows(state).history(model, variant="champion", newest=_MOST_WINDOWS))
    if not judged:
        return Answer(None, f"there is no verdict on {model} yet")
    version = judged[-1].window.version
    if (moved := _replaced(state, model, version)) is not None:
        return Answer(
            None,
            f"the verdicts are on version {version}, and version {moved} is the champion by now: restart the "
            "server, so that it answers",
        )
    judged = [one for one in judged if one.window.version == version]
    reasons = []
    for kind in settings.retrain_when:
        bad = _lasting(_drifts(judged)) if kind == "drift" else _open_incident(state, judged[-1].window, kind)
        if not bad:
            reasons.append(f"nothing is open in {kind}")
            continue
        if kind == "drift" and settings.retrain_drift == "only_harmful":
            harm = _harm(state, judged[-len(bad) :])
            if not harm.may_harm:
                reasons.append(f"drift is open, and --retrain-drift only_harmful: {harm.text}")
                continue
        severity = worst(one.severity or "ok" for one in bad)
        what = f"{kind} has been {severity} since {bad[0].start:%Y-%m-%d %H:%M}, in {len(bad)} windows"
        if severity not in at_least(settings.retrain_level):
            reasons.append(f"{what}, and {settings.retrain_level} is wanted")
        elif now - bad[-1].end > NEWS:
            reasons.append(f"{what}, but the newest of them is of {bad[-1].end:%Y-%m-%d %H:%M}")
        else:
            windows = tuple((one.start, one.end) for one in bad)
            says = f": {bad[-1].message}" if bad[-1].message else ""
            return Answer(Cause(kind=kind, verdict=bad[-1].verdict, windows=windows), f"{what}{says}")
    return Answer(None, "; ".join(reasons) or "--retrain-when names nothing")


def _replaced(state: State, model: str, version: str | None) -> str | None:
    """Return who became champion in the place of a version that traffic still has, None where nobody did."""
    moves = (one for one in Tickets(state).promotions.newest(model) if one.status == "done")
    newest = next(moves, None)
    if newest is None or newest.previous is None or newest.previous != version or newest.version == version:
        return None
    return newest.version


def _final(judged: Sequence[Judged]) -> list[Judged]:
    """Return the windows that something was said of for good."""
    return [
        one
        for one in judged
        if one.verdict is not None and not one.verdict.provisional and one.verdict.status in JUDGED
    ]


def _drifts(judged: Sequence[Judged]) -> list[RatedWindow]:
    return [
        RatedWindow(window.start, window.end, verdict.id, verdict.message, severity_of(verdict.status))
        for window, verdict in judged
        if verdict is not None
    ]


def _harm(state: State, judged: Sequence[Judged]) -> Harm:
    """Return what is known of the harm that a drift does in its newest window of which anything is known."""
    ids = [window.id for window, _ in judged]
    model, version = judged[-1].window.model, judged[-1].window.version
    estimated = Estimations(state).of(ids)
    assessed = {
        one.window.id: one
        for one in Assessments(state).history(
            model, version=version, variant="champion", start=judged[0].window.start, newest=_MOST_WINDOWS
        )
    }
    for name in reversed(ids):
        harm = harm_of(True, estimated.get(name), assessed.get(name))
        if harm.sort != "moved":
            return harm
    return harm_of(True, None, None)


def _open_incident(
    state: State, newest: Window, kind: Literal["joint", "performance", "estimated"]
) -> list[RatedWindow]:
    """Return the windows of what is open of a kind, up to the newest that is bad; none where nothing is."""
    model, version = newest.model, newest.version
    known = Incidents(state).of(model, version, "champion", kind)
    start = next((one.start for one in known if one.closed is None), None)
    if start is None:
        return []
    rated = _rated(state, model, version, start, kind)
    last = next((at for at in range(len(rated), 0, -1) if rated[at - 1].severity != "ok"), 0)
    return rated[:last]


def _rated(
    state: State,
    model: str,
    version: str | None,
    start: datetime,
    kind: Literal["joint", "performance", "estimated"],
) -> list[RatedWindow]:
    if kind == "performance":
        assessed = Assessments(state).history(
            model, version=version, variant="champion", start=start, newest=_MOST_WINDOWS
        )
        return [
            RatedWindow(one.window.start, one.window.end, one.id, one.message, severity_of(one.status))
            for one in assessed
            if one.status in JUDGED
        ]
    looked = Estimations(state).history(
        model, version=version, variant="champion", start=start, newest=_MOST_WINDOWS
    )
    said = [(one.window, one if kind == "estimated" else one.joint) for one in looked]
    return [
        RatedWindow(window.start, window.end, window.id, one.message, severity_of(one.status))
        for window, one in said
        if one is not None and one.status in JUDGED
    ]


def _lasting(rated: Sequence[RatedWindow]) -> list[RatedWindow]:
    """Return the newest windows that all are bad: those of what is open; none where the newest is well."""
    last = next((at for at in range(len(rated), 0, -1) if rated[at - 1].severity == "ok"), 0)
    return list(rated[last:])


def _too_soon(tickets: Sequence[Ticket], settings: RetrainSettings, now: datetime) -> str:
    """Return why there must be no retraining yet; nothing where there may be."""
    own = [one for one in tickets if one.cause.kind != "manual"]
    if not own:
        return ""
    again = max(one.ended or one.updated for one in own) + timedelta(seconds=settings.retrain_cooldown)
    if now < again:
        return f"the last retraining cools down until {again:%Y-%m-%d %H:%M:%S} UTC (--retrain-cooldown)"
    count = sum(now - one.created < _WEEK for one in own if one.status != "cancelled")
    if count >= settings.retrain_max_per_week:
        return f"there were {count} in the last 7 days (--retrain-max-per-week {settings.retrain_max_per_week})"
    return ""
