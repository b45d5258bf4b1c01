"""What happened to a model, link by link: verdict, ticket, run, version, gate, rollout, promotion."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import select

from mooring.monitor.schema import rollouts
from mooring.monitor.state import State
from mooring.retrain.tickets import Promotion, Step, Ticket, Tickets


class RolledOut(msgspec.Struct, frozen=True, kw_only=True):
    """How a version was put into service, see `mooring rollout status`; `number` counts the model's rollouts."""

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


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A retraining and what came of it, or a move of the champion or a rollout without one.

    Its fields are those of `--json`. `verdict` and `windows` are what called for it, `run` is MLflow's, `version`
    the one that came of it, `gate` what the gate said, `rollout` how it was put into service, `previous` the
    champion before. A retraining has `steps`, each with who did it and when.
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


def history(state: State, model: str, newest: int = 100) -> list[Entry]:
    """Return what happened to a model, the oldest first."""
    found = Tickets(state)
    moves = found.promotions(model, newest)
    rolled = _rollouts(state, model, newest)
    of_ticket = {one.ticket_id: one for one in reversed(rolled) if one.ticket_id is not None}
    entries = [
        _of_ticket(ticket, found.steps(ticket.id), moves, of_ticket.get(ticket.id))
        for ticket in found.newest(model, newest)
    ]
    entries += [_by_hand(move) for move in moves if move.ticket_id is None]
    entries += [_alone(model, one) for one in rolled if one.ticket_id is None]
    return sorted(entries, key=lambda one: one.created)[-newest:]


def _rollouts(state: State, model: str, newest: int) -> list[RolledOut]:
    """Return a model's newest rollouts, the newest first."""
    columns = [rollouts.c[name] for name in RolledOut.__struct_fields__]
    query = select(*columns).where(rollouts.c.model == model).order_by(rollouts.c.number.desc()).limit(newest)
    with state.database.reading() as connection:
        return [RolledOut(**row._mapping) for row in connection.execute(query)]


def _alone(model: str, rolled: RolledOut) -> Entry:
    """Return a rollout that no retraining is behind."""
    return Entry(
        kind="rollout",
        model=model,
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


def _of_ticket(ticket: Ticket, steps: list[Step], moves: list[Promotion], rolled: RolledOut | None) -> Entry:
    move = next((one for one in moves if one.ticket_id == ticket.id), None)
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
