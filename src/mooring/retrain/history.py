"""What happened to a model, link by link: verdict, ticket, run, version, gate, rollout, promotion."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import select

from mooring.state.retrainings import Promotion, Step, Ticket, Tickets, chunks, within
from mooring.state.state import State
from mooring.state.tables import rollout_events, rollouts, verdicts


class Happened(msgspec.Struct, frozen=True):
    """Something that happened to a rollout, what is to be known of it, who did it, and when."""

    what: str
    detail: dict[str, Any]
    who: str
    at: datetime


class RolledOut(msgspec.Struct, frozen=True, kw_only=True):
    """How a version was put into service, see `mooring rollout status`; `number` counts the model's rollouts."""

    id: str
    model: str
    number: int
    cause: str
    status: str
    version: str
    previous: str | None
    reason: str
    ticket_id: str | None
    who: str
    created: datetime
    ended: datetime | None
    events: tuple[Happened, ...] = ()


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A retraining and what came of it, or a move of the champion or a rollout without one.

    Its fields are those of `--json`. `verdict` and `windows` are what called for it, `window` is the id of the one
    that the verdict is of, `run` is MLflow's, `version` the one that came of it, `gate` what the gate said,
    `rollout` how it was put into service, `previous` the champion before. A retraining has `steps`, and a rollout
    `events`, each with who did it and when.
    """

    kind: str
    model: str
    ticket: str | None = None
    number: int | None = None
    created: datetime
    ended: datetime | None = None
    status: str
    reason: str
    message: str = ""
    verdict: str | None = None
    window: str | None = None
    windows: tuple[tuple[datetime, datetime], ...] = ()
    dataset: dict[str, Any] | None = None
    run: str | None = None
    version: str | None = None
    gate: dict[str, Any] | None = None
    rollout: RolledOut | None = None
    promoted: datetime | None = None
    previous: str | None = None
    who: str
    steps: tuple[Step, ...] = ()


def history(
    state: State,
    model: str | None,
    newest: int = 100,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
) -> list[Entry]:
    """Return the newest of what happened to a model, or to all, the oldest first.

    What began from `start` on and before `end`. It takes as many queries for all models as for one.
    """
    found = Tickets(state)
    tickets = found.newest(model, newest, start=start, end=end)
    moves = found.promotions(model, newest, start=start, end=end, without_ticket=True)
    alone = _rollouts(state, *within(rollouts, model, start, end), rollouts.c.ticket_id.is_(None), newest=newest)
    began = [one.created for some in (tickets, moves, alone) for one in some]
    begun = sorted(began)[-newest:]
    since = begun[0] if begun else None
    ids = [one.id for one in tickets if since is None or one.created >= since]
    steps, promoted = found.steps_of(ids), found.promotions_of(ids)
    rolled = {
        one.ticket_id: one
        for some in chunks(ids)
        for one in reversed(_rollouts(state, rollouts.c.ticket_id.in_(some)))
    }
    windows = _windows(state, [one.cause.verdict for one in tickets if one.id in steps and one.cause.verdict])
    entries = [
        _of_ticket(
            one, steps[one.id], promoted.get(one.id), rolled.get(one.id), windows.get(one.cause.verdict or "")
        )
        for one in tickets
        if one.id in steps
    ]
    entries += [_by_hand(one) for one in moves if since is None or one.created >= since]
    entries += [_alone(one) for one in alone if since is None or one.created >= since]
    return sorted(entries, key=lambda one: one.created)[-newest:]


def _rollouts(state: State, *where: Any, newest: int | None = None) -> list[RolledOut]:
    """Return rollouts, the newest first, each with what happened to it."""
    columns = [rollouts.c[name] for name in RolledOut.__struct_fields__ if name != "events"]
    query = select(*columns).where(*where).order_by(rollouts.c.created.desc(), rollouts.c.number.desc())
    events: dict[str, list[Happened]] = {}
    with state.database.reading() as connection:
        found = connection.execute(query.limit(newest)).all()
        for some in chunks([row.id for row in found]):
            of_these = select(rollout_events).where(rollout_events.c.rollout_id.in_(some))
            for row in connection.execute(of_these.order_by(rollout_events.c.number)):
                detail = msgspec.json.decode(row.detail)
                events.setdefault(row.rollout_id, []).append(Happened(row.what, detail, row.who, row.at))
    return [RolledOut(**row._mapping, events=tuple(events.get(row.id, ()))) for row in found]


def _windows(state: State, verdict_ids: Sequence[str]) -> dict[str, str]:
    """Return by verdict the id of the window that it is of."""
    found: dict[str, str] = {}
    with state.database.reading() as connection:
        for some in chunks(verdict_ids):
            query = select(verdicts.c.id, verdicts.c.window_id).where(verdicts.c.id.in_(some))
            found |= {row.id: row.window_id for row in connection.execute(query)}
    return found


def _alone(rolled: RolledOut) -> Entry:
    """Return a rollout that no retraining is behind."""
    return Entry(
        kind="rollout",
        model=rolled.model,
        number=None,
        created=rolled.created,
        ended=rolled.ended,
        status=rolled.status,
        reason=rolled.reason or ("passed the gate" if rolled.cause == "challenger" else "the alias was moved"),
        version=rolled.version,
        rollout=rolled,
        previous=rolled.previous,
        who=rolled.who,
    )


def _of_ticket(
    ticket: Ticket, steps: list[Step], move: Promotion | None, rolled: RolledOut | None, window: str | None
) -> Entry:
    details = {step.what: step.detail for step in steps}
    return Entry(
        kind=ticket.cause.kind,
        model=ticket.model,
        ticket=ticket.id,
        number=ticket.number,
        created=ticket.created,
        ended=ticket.ended,
        status=ticket.status,
        reason=ticket.reason,
        message=ticket.message,
        verdict=ticket.cause.verdict,
        window=window,
        windows=ticket.cause.windows,
        dataset=details.get("dataset"),
        run=ticket.run_id,
        version=ticket.candidate,
        gate=details.get("gate"),
        rollout=rolled,
        promoted=move.ended if move is not None and move.status == "done" else None,
        previous=ticket.champion,
        who=steps[0].who,
        steps=tuple(steps),
    )


def _by_hand(move: Promotion) -> Entry:
    return Entry(
        kind=move.kind,
        model=move.model,
        created=move.created,
        ended=move.ended,
        status=move.status,
        reason=move.reason,
        version=move.version,
        promoted=move.ended if move.status == "done" else None,
        previous=move.previous,
        who=move.who,
    )
