"""The first page: every model with how it is, and what needs a person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from markupsafe import Markup

from mooring.log.listing import LogError, open_log
from mooring.log.listing import models as models_in
from mooring.log.store import StoreError
from mooring.report import figures
from mooring.state.alerts import Alerts
from mooring.state.assessments import Assessments
from mooring.state.incidents import ACTIVE, Incidents, StreamState, StreamStates
from mooring.state.leases import Holder
from mooring.state.retrainings import Ticket, Tickets
from mooring.state.rollouts import Rollout, Rollouts, Served, in_words
from mooring.state.windows import Recent, Watched, Windows
from mooring.status import JUDGED, Status, urgency
from mooring.ui import paths
from mooring.ui.routing import Page, Query, address
from mooring.ui.sources import FalseAlarmBudget, Sources
from mooring.ui.streams import ExpectedFalseAlarms, StreamMeter, expected, nearest

WINDOWS = 60
_LABELLED = 20
_RECENT = timedelta(days=7)


class Bar(msgspec.Struct, frozen=True):
    """A window of a sparkline: its rows, and what was said of it."""

    start: datetime
    rows: int
    status: Status | None


class Attention(msgspec.Struct, frozen=True):
    """Something that needs a person, or that one should know of; `see` is the page about it."""

    text: str
    see: str
    urgent: bool = True


class Latest(msgspec.Struct, frozen=True):
    """The newest retraining or rollout of a model."""

    number: int
    status: str
    text: str
    version: str | None
    updated: datetime
    under_way: bool
    see: str


class ModelLine(msgspec.Struct, frozen=True, kw_only=True):
    """A model. `status` is of its newest judged window, of the version that answers; None where there is none.

    `evidence` are its streams that are nearest to an incident, of which `more_streams` are left out. `incidents`
    is where its incidents are shown. `judged_per_year` is how many times a year a window of it is judged, for
    drift and where it has labels for performance, at the rate of the last week.
    """

    model: str
    see: str
    status: Status | None
    message: str
    since: datetime | None
    version: str | None
    served: tuple[str, ...] = ()
    windows: tuple[Bar, ...] = ()
    rows: int = 0
    performance: Status | None = None
    performance_message: str = ""
    retraining: Latest | None = None
    rollout: Latest | None = None
    attention: tuple[Attention, ...] = ()
    evidence: tuple[StreamMeter, ...] = ()
    more_streams: int = 0
    open_incidents: int = 0
    incidents: str = ""
    judged_per_year: float = 0.0

    @property
    def traffic(self) -> Markup:
        """The line of its traffic."""
        return sparkbars([bar.rows for bar in self.windows])

    @property
    def drift(self) -> Markup:
        """What was said of its windows, as a line."""
        return figures.timeline([bar.status or "no_baseline" for bar in self.windows])


class Models(msgspec.Struct, frozen=True):
    """All models, those that need somebody first; `logged` are those that the log has and nobody watches."""

    models: tuple[ModelLine, ...]
    false_alarms: ExpectedFalseAlarms
    logged: tuple[str, ...] = ()
    state: str = ""
    log: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """How many models are how."""
        found = dict.fromkeys((*JUDGED, "other"), 0)
        for line in self.models:
            found[line.status if line.status in JUDGED else "other"] += 1
        return found

    @property
    def asking(self) -> int:
        """How many models need a person."""
        return sum(any(one.urgent for one in line.attention) for line in self.models)


def told(sources: Sources, _: Query) -> Models:
    """Return every model that the state knows of."""
    found = lines(sources)
    found.sort(key=lambda line: (not any(one.urgent for one in line.attention), urgency(line.status), line.model))
    streams = StreamStates(sources.state).awake(datetime.now(UTC))
    return Models(
        tuple(found),
        expected(sources.budget, streams, sum(line.judged_per_year for line in found)),
        () if found else _logged(sources),
        sources.state.name,
        sources.log,
    )


def lines(sources: Sources, only: str | None = None) -> list[ModelLine]:
    """Return how each model is, or only one; of one that the state does not know nothing."""
    state, tickets, rollouts = sources.state, Tickets(sources.state), Rollouts(sources.state)
    watched: dict[str, list[Watched]] = {}
    for one in Windows(state).watched(only):
        watched.setdefault(one.model, []).append(one)
    if only is None:
        retrained, rolled = tickets.latest(), rollouts.latest()
    else:
        retrained = {one.model: one for one in tickets.newest(only, 1)}
        rolled = {one.model: one for one in rollouts.newest(only, 1)}
    served: dict[str, list[Served]] = {}
    for served_one in rollouts.served():
        served.setdefault(served_one.model, []).append(served_one)
    recent = Windows(state).recent(None if only is None else [only], newest=WINDOWS)
    assessed = Assessments(state).statuses(one.window_id for some in recent.values() for one in some[-_LABELLED:])
    failed = Alerts(state).failed(datetime.now(UTC) - _RECENT)
    holders = state.holders()
    streams, open_incidents = StreamStates(state).latest(only), Incidents(state).open_counts(only)
    names = sorted({*watched, *retrained, *rolled, *served})
    return [
        _line(
            name,
            watched.get(name, []),
            recent.get(name, []),
            assessed,
            retrained.get(name),
            rolled.get(name),
            served.get(name, []),
            failed.get(name, 0),
            holders,
            streams.get(name, []),
            open_incidents.get(name, 0),
            sources.budget,
        )
        for name in names
        if only in (None, name)
    ]


def _line(
    model: str,
    watched: Sequence[Watched],
    recent: Sequence[Recent],
    assessed: dict[str, tuple[Status, str]],
    ticket: Ticket | None,
    rollout: Rollout | None,
    served: Sequence[Served],
    failed: int,
    holders: dict[str, Holder],
    streams: Sequence[StreamState],
    open_incidents: int,
    budget: FalseAlarmBudget,
) -> ModelLine:
    answering = [one for one in recent if one.variant == "champion"] or list(recent)
    judged = next((one for one in reversed(answering) if one.status in JUDGED), None)
    shown = judged or next((one for one in reversed(answering) if one.status is not None), None)
    performance = _newest_assessment([assessed[one.window_id] for one in answering if one.window_id in assessed])
    see = address(paths.MODEL, {"model": model})
    found = next(
        (one.newest for one in watched if one.newest and shown and one.newest.window.id == shown.window_id), None
    )
    meters, more_streams = nearest(streams, budget)
    line = ModelLine(
        model=model,
        see=see,
        status=shown.status if shown else None,
        message=found.verdict.message if found and found.verdict else "",
        since=_since(answering, shown),
        version=answering[-1].version if answering else served[-1].version if served else None,
        served=tuple(sorted({one.version for one in served})),
        windows=tuple(Bar(one.start, one.rows, one.status) for one in answering),
        rows=sum(one.rows for one in answering),
        performance=performance[0],
        performance_message=performance[1],
        retraining=_retraining(ticket) if ticket else None,
        rollout=_rollout(rollout) if rollout else None,
        evidence=tuple(meters),
        more_streams=more_streams,
        open_incidents=open_incidents,
        incidents=address(paths.INCIDENTS, {"model": model}),
        judged_per_year=_judged_per_year(recent, streams),
    )
    needs = tuple(_attention(line, bool(watched), ticket, rollout, served, failed, holders))
    return msgspec.structs.replace(line, attention=needs)


def _newest_assessment(assessed: Sequence[tuple[Status, str]]) -> tuple[Status | None, str]:
    """Return the newest assessment that was judged, else the newest of all; they come oldest first."""
    judged = [one for one in assessed if one[0] in JUDGED]
    return (judged or assessed)[-1] if assessed else (None, "")


def _judged_per_year(recent: Sequence[Recent], streams: Sequence[StreamState]) -> float:
    """Return how many times a year a window is judged, by those of the last week."""
    now = datetime.now(UTC)
    judged = [one for one in recent if one.status in JUDGED and not one.provisional and one.end > now - ACTIVE]
    if not judged:
        return 0.0
    began = max(min(one.start for one in judged), now - ACTIVE)
    kinds = {one.kind for one in streams if one.updated > now - ACTIVE} | {"drift"}
    return len(kinds) * len(judged) * (timedelta(days=365) / (now - began))


def _since(windows: Sequence[Recent], shown: Recent | None) -> datetime | None:
    """Return since when it has been as it is now, well or not."""
    if shown is None or shown.status not in JUDGED:
        return shown.start if shown else None
    since = shown.start
    for one in reversed([one for one in windows if one.status in JUDGED]):
        if (one.status == "ok") != (shown.status == "ok"):
            break
        since = one.start
    return since


def _retraining(ticket: Ticket) -> Latest:
    return Latest(
        ticket.number,
        ticket.status,
        ticket.message or ticket.reason,
        ticket.candidate,
        ticket.updated,
        ticket.ended is None,
        address(paths.RETRAINING, {"model": ticket.model, "number": ticket.number}),
    )


def _rollout(rollout: Rollout) -> Latest:
    where = str(rollout.at) if rollout.at is not None else in_words(rollout.status)
    return Latest(
        rollout.number,
        rollout.status,
        f"{where}, paused" if rollout.paused else where,
        rollout.version,
        rollout.updated,
        rollout.ended is None,
        address(paths.ROLLOUT, {"model": rollout.model, "number": rollout.number}),
    )


def _attention(
    line: ModelLine,
    watched: bool,
    ticket: Ticket | None,
    rollout: Rollout | None,
    served: Sequence[Served],
    failed: int,
    holders: dict[str, Holder],
) -> Iterable[Attention]:
    if ticket is not None and line.retraining is not None:
        if ticket.status == "approval":
            yield Attention(f"retraining {ticket.number} waits to be approved", line.retraining.see)
        elif ticket.status == "failed" and _is_recent(ticket.ended):
            yield Attention(f"retraining {ticket.number} failed: {ticket.message}", line.retraining.see)
        elif ticket.status == "refused" and _is_recent(ticket.ended):
            yield Attention(f"the gate refused what retraining {ticket.number} made", line.retraining.see)
    if rollout is not None and line.rollout is not None:
        if rollout.ended is None and rollout.paused:
            yield Attention(f"the rollout of version {rollout.version} is paused", line.rollout.see)
        elif rollout.status == "rolled_back" and _is_recent(rollout.ended):
            yield Attention(f"version {rollout.version} was rolled back: {rollout.reason}", line.rollout.see)
        if rollout.ended is None and f"serve/{line.model}" not in holders:
            text = f"the rollout of version {rollout.version} stands still: mooring serve is not running"
            yield Attention(text, line.rollout.see)
    for one in served:
        if one.held_back:
            yield Attention(f"{one.host}: {one.held_back}", line.rollout.see if line.rollout else line.see)
    if failed:
        noun = "alert" if failed == 1 else "alerts"
        yield Attention(f"{failed} {noun} could not be sent", address(paths.HISTORY, {"model": line.model}))
    if line.status == "no_baseline":
        yield Attention("nobody can tell whether it drifts: it has no baseline", line.see)
    if watched and f"monitor/{line.model}" not in holders:
        yield Attention("no monitor is running for it: mooring monitor", line.see, urgent=False)


def _is_recent(time: datetime | None) -> bool:
    return time is not None and datetime.now(UTC) - time < _RECENT


def _logged(sources: Sources) -> tuple[str, ...]:
    """Return the models that the log has, for a first page that would be empty."""
    try:
        return tuple(models_in(open_log(sources.log), sources.log))
    except (LogError, StoreError):
        return ()  # the page says what to start


def sparkbars(rows: Sequence[int]) -> Markup:
    """Return bars of the rows of windows, as a small figure that tells nothing that does not stand beside it.

    >>> sparkbars([1, 2]).count("M")
    2
    """
    top = max([*rows, 1])
    bars = "".join(f"M{4 * at} 24V{24 - 22 * count / top:.1f}h3V24z" for at, count in enumerate(rows))
    return Markup(
        '<svg class="bars" viewBox="0 0 {} 24" preserveAspectRatio="none" aria-hidden="true"><path d="{}"/></svg>'
    ).format(4 * max(len(rows), 1), bars)


PAGE = Page("models", paths.MODELS, "Every model: how it is, and what needs a person.", Query, Models, told)
