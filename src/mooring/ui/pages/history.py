"""What happened: from a drift to a champion, link by link, what people did by hand, and who was told of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from mooring.report import words
from mooring.retrain.history import Entry, RolledOut, history
from mooring.state.alerts import Alert, Alerts
from mooring.state.promotions import Promotions
from mooring.state.retrainings import Tickets
from mooring.state.rollouts import EventName, Rollouts
from mooring.ui import paths
from mooring.ui.pages.rollout import Occurred, said
from mooring.ui.path_params import model_of, time_of
from mooring.ui.routing import Page, WindowRange, address, asked
from mooring.ui.sources import Sources

_RUN = 8  # letters of a run's id
_TEXT = 500
_KINDS = {
    "new": "drift",
    "worsened": "drift has worsened",
    "ended": "drift has ended",
    "performance_new": "loss of performance",
    "estimated_new": "estimated loss of performance",
    "joint_new": "features no longer go together",
    "performance_worsened": "loss of performance has worsened",
    "performance_ended": "loss of performance has ended",
    "rolled_back": "rolled back",
}
_DECIDING: dict[str, EventName] = {"promoted": "full", "aborted": "aborted"}
"""The event that says who ended a rollout so."""
State = Literal["done", "now", "failed", "none"]
"""How a link of a chain is: behind it, in it, where it ended, or not reached."""


class Of(WindowRange, frozen=True, kw_only=True):
    """What is told: of which model, and from when to when it began."""

    newest: Annotated[int, Meta(ge=1, le=100, description="the newest of it, so many at most")] = 50
    model: Annotated[str, Meta(description="of this model only")] = ""


class ChainLink(msgspec.Struct, frozen=True, kw_only=True):
    """A link of a chain. `see` is the dashboard's page about it, `mlflow` where MLflow's UI shows it."""

    name: str
    text: str
    state: State
    see: str | None = None
    mlflow: str | None = None
    at: datetime | None = None
    who: str | None = None


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """A retraining and what came of it, or a move of the champion or a rollout without one."""

    model: str
    kind: str
    title: str
    status: str
    under_way: bool
    see: str
    links: tuple[ChainLink, ...]
    acts: tuple[Occurred, ...]
    created: datetime
    ended: datetime | None


class AlertSent(msgspec.Struct, frozen=True, kw_only=True):
    """An alert to a channel, named without its secrets. `error` is what kept it from being sent last."""

    model: str
    kind: str
    text: str
    channel: str
    status: str
    attempts: int
    created: datetime
    sent: datetime | None
    error: str | None
    see: str


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What happened, the newest first; `older` is the page of what came before, `newest` that of what is new."""

    chains: tuple[Chain, ...]
    alerts: tuple[AlertSent, ...]
    models: tuple[str, ...]
    model: str
    older: str | None
    newest: str | None
    all_alerts: bool
    mlflow: bool


def told(sources: Sources, query: Of) -> History:
    """Return the newest of what happened in a time."""
    model = model_of(query.model) or None
    start, end = (time_of(time) for time in query.span)
    entries = history(sources.state, model, query.newest, start=start, end=end)[::-1]
    is_more = len(entries) == query.newest
    since = entries[-1].created if is_more else start
    found = Alerts(sources.state).newest(model, query.newest, start=since, end=end)
    here = asked(query)
    known = (repository(sources.state).models() for repository in (Tickets, Promotions, Rollouts))
    return History(
        chains=tuple(_chain(sources, entry) for entry in entries),
        alerts=tuple(_alert(one) for one in found),
        models=tuple(sorted({model for models in known for model in models})),
        model=query.model,
        older=address(paths.HISTORY, here | {"end": entries[-1].created}) if is_more else None,
        newest=address(paths.HISTORY, here | {"end": None}) if end is not None else None,
        all_alerts=len(found) < query.newest,
        mlflow=bool(sources.mlflow),
    )


def _chain(sources: Sources, entry: Entry) -> Chain:
    of = {"model": entry.model}
    if entry.number is not None:
        title, see = f"Retraining {entry.number}", address(paths.RETRAINING, {**of, "number": entry.number})
    elif entry.rollout is not None:
        title, see = (
            f"Rollout {entry.rollout.number}",
            address(paths.ROLLOUT, {**of, "number": entry.rollout.number}),
        )
    else:
        title, see = entry.kind.capitalize(), address(paths.MODEL, of)
    return Chain(
        model=entry.model,
        kind=entry.kind,
        title=title,
        status=entry.status.replace("_", " "),
        under_way=entry.ended is None,
        see=see,
        links=tuple(_links(sources, entry, see)),
        acts=tuple(sorted(_acts(entry), key=lambda act: act.at)),
        created=entry.created,
        ended=entry.ended,
    )


def _links(sources: Sources, entry: Entry, see: str) -> Iterator[ChainLink]:
    version = sources.version_link(entry.model, entry.version)
    if entry.number is None:
        yield _begun(entry)
        yield ChainLink(name="version", text=f"{entry.version}", state="done", mlflow=version)
        if entry.rollout is not None:
            yield _rollout(entry.model, entry.rollout)
        yield _champion(entry)
        return
    steps = {step.what: step for step in entry.steps}
    yield _cause(entry)
    yield ChainLink(
        name="retraining",
        text=f"{entry.number}",
        state=_reached(entry, "dataset" in steps),
        see=see,
        at=entry.created,
        who=entry.who,
    )
    trained, gate = steps.get("trained"), steps.get("gate")
    yield ChainLink(
        name="run",
        text=(entry.run or "")[:_RUN] or "none",
        state=_reached(entry, trained is not None, reachable="dataset" in steps),
        mlflow=sources.run_link(entry.run),
        at=trained.at if trained else None,
        who=trained.who if trained else None,
    )
    yield ChainLink(
        name="version",
        text=entry.version or "none",
        state=_reached(entry, entry.version is not None, reachable=False),
        mlflow=version,
        at=trained.at if trained else None,
    )
    yield ChainLink(
        name="gate",
        text=_gate(entry.gate),
        state="failed" if gate and not gate.detail.get("passed") else _reached(
            entry, gate is not None, reachable=trained is not None
        ),
        see=f"{see}#gate" if gate else None,
        at=gate.at if gate else None,
        who=gate.who if gate else None,
    )  # fmt: skip
    if entry.rollout is not None:
        yield _rollout(entry.model, entry.rollout)
    yield _champion(entry)


def _reached(entry: Entry, done: bool, *, reachable: bool = True) -> State:
    if done:
        return "done"
    if not reachable:
        return "none"
    return "now" if entry.ended is None else "failed"


def _cause(entry: Entry) -> ChainLink:
    if entry.kind == "manual":
        return ChainLink(name="asked for", text="by hand", state="done", at=entry.created, who=entry.who)
    see = address(paths.MODEL, {"model": entry.model, "window": entry.window}) if entry.window else None
    at = entry.windows[-1][1] if entry.windows else entry.created
    name = "loss" if entry.kind == "performance" else entry.kind
    return ChainLink(name=name, text=entry.reason[:_TEXT], state="done", see=see, at=at)


def _begun(entry: Entry) -> ChainLink:
    names = {"promotion": "promoted by hand", "rollback": "rolled back by hand", "restored": "champion restored"}
    if entry.rollout is not None:
        name = "alias moved" if entry.rollout.cause == "moved" else "challenger"
        return ChainLink(
            name=name, text=f"from {entry.previous or 'none'}", state="done", at=entry.created, who=entry.who
        )
    name = names.get(entry.kind, entry.kind)
    return ChainLink(name=name, text=entry.reason[:_TEXT], state="done", at=entry.created, who=entry.who)


def _rollout(model: str, one: RolledOut) -> ChainLink:
    state: State = "done" if one.status == "promoted" else "now" if one.ended is None else "failed"
    return ChainLink(
        name="rollout",
        text=f"{one.number}: {one.status.replace('_', ' ')}",
        state=state,
        see=address(paths.ROLLOUT, {"model": model, "number": one.number}),
        at=one.ended or one.created,
        who=next((event.who for event in one.events if event.what == _DECIDING.get(one.status)), one.who),
    )


def _champion(entry: Entry) -> ChainLink:
    rolled = entry.rollout
    since = entry.promoted or (rolled.ended if rolled is not None and rolled.status == "promoted" else None)
    if since is not None:
        return ChainLink(name="champion", text=f"version {entry.version}", state="done", at=since)
    if entry.ended is None:
        return ChainLink(name="champion", text="not yet", state="none")
    stays = f"stays version {entry.previous}" if entry.previous else "not this one"
    return ChainLink(name="champion", text=stays, state="none", at=entry.ended)


def _gate(gate: dict[str, Any] | None) -> str:
    if gate is None:
        return "not yet"
    better = gate.get("improvement")
    by = f", {words.percent(better)} better" if better is not None and better > 0 else ""
    return f"passed{by}" if gate.get("passed") else "refused"


def _acts(entry: Entry) -> Iterator[Occurred]:
    for step in entry.steps:
        texts = [f"{value}" for value in step.detail.values() if isinstance(value, str | int)]
        text = _gate(step.detail) if step.what == "gate" else "; ".join(texts) if step.what != "dataset" else ""
        if step.what == "dataset":
            text = f"{step.detail.get('training_rows', 0):,} rows"
        yield Occurred(step.what, text[:_TEXT], step.who, step.at)
    if entry.rollout is not None:
        for event in entry.rollout.events:
            text = said(event.what, event.detail)[:_TEXT]
            yield Occurred(f"rollout: {event.what}", text, event.who, event.at)
    if not entry.steps and entry.rollout is None:
        yield Occurred(entry.kind, entry.reason[:_TEXT], entry.who, entry.created)


def _alert(alert: Alert) -> AlertSent:
    payload = msgspec.json.decode(alert.payload)
    number = payload.get("number") if alert.rollout_id is not None else None
    see = address(paths.MODEL, {"model": alert.model, "window": (payload.get("window") or {}).get("id")})
    if number is not None:
        see = address(paths.ROLLOUT, {"model": alert.model, "number": number})
    return AlertSent(
        model=alert.model,
        kind=_KINDS.get(alert.kind, alert.kind),
        text=f"{payload.get('text', '')}"[:_TEXT],
        channel=alert.channel,
        status=alert.status,
        attempts=alert.attempts,
        created=alert.created,
        sent=alert.sent,
        error=alert.last_error,
        see=see,
    )


PAGE = Page(
    "history",
    paths.HISTORY,
    "What happened: drift, retraining, run, version, gate, rollout, champion, who did what and when, and alerts.",
    Of,
    History,
    told,
)
