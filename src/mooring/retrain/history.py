"""What happened to a model, link by link: verdict, ticket, run, version, gate, rollout, promotion."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from mooring.state.promotions import Promotion, Promotions
from mooring.state.retrainings import Ticket, Tickets, TicketStep
from mooring.state.rollouts import Event, Rollout, Rollouts
from mooring.state.state import State
from mooring.state.verdicts import Verdicts


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
    events: tuple[Event, ...] = ()


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
    steps: tuple[TicketStep, ...] = ()


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
    found, moved, rolled = Tickets(state), Promotions(state), Rollouts(state)
    tickets = found.newest(model, newest, start=start, end=end)
    moves = moved.newest(model, newest, start=start, end=end, without_ticket=True)
    alone = rolled.without_ticket(model, newest, start=start, end=end)
    began = sorted(one.created for some in (tickets, moves, alone) for one in some)[-newest:]
    tickets = [one for one in tickets if one.created >= began[0]]
    moves = [one for one in moves if one.created >= began[0]]
    alone = [one for one in alone if one.created >= began[0]]
    ids = [one.id for one in tickets]
    steps, promoted, rollouts = found.steps_of(ids), moved.of_tickets(ids), rolled.of_tickets(ids)
    events = rolled.events_of([one.id for one in (*rollouts.values(), *alone)])
    windows = Verdicts(state).window_ids([one.cause.verdict for one in tickets if one.cause.verdict])
    entries = [
        _of_ticket(
            one,
            steps[one.id],
            promoted.get(one.id),
            _rolled_out(rollouts[one.id], events) if one.id in rollouts else None,
            windows.get(one.cause.verdict or ""),
        )
        for one in tickets
    ]
    entries += [_by_hand(one) for one in moves]
    entries += [_alone(_rolled_out(one, events)) for one in alone]
    return sorted(entries, key=lambda one: one.created)[-newest:]


def _rolled_out(rollout: Rollout, events: dict[str, list[Event]]) -> RolledOut:
    told = {name: getattr(rollout, name) for name in RolledOut.__struct_fields__ if name != "events"}
    return RolledOut(**told, events=tuple(events[rollout.id]))


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
    ticket: Ticket, steps: list[TicketStep], move: Promotion | None, rolled: RolledOut | None, window: str | None
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
