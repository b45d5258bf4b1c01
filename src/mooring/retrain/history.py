"""What happened to a model, link by link: verdict, ticket, run, version, gate, promotion."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from mooring.monitor.state import State
from mooring.retrain.tickets import Promotion, Step, Ticket, Tickets


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A retraining and what came of it, or a move of the champion by hand; its fields are those of `--json`.

    `verdict` and `windows` are what called for it, `run` is MLflow's, `version` the one that came of it, `gate`
    what the gate said, `previous` the champion before. A retraining has `steps`, each with who did it and when.
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
    promoted: datetime | None = None
    previous: str | None = None
    who: str
    steps: tuple[Step, ...] = ()


def history(state: State, model: str, newest: int = 100) -> list[Entry]:
    """Return what happened to a model, the oldest first."""
    found = Tickets(state)
    moves = found.promotions(model, newest)
    entries = [_of_ticket(ticket, found.steps(ticket.id), moves) for ticket in found.newest(model, newest)]
    entries += [_by_hand(move) for move in moves if move.ticket_id is None]
    return sorted(entries, key=lambda one: one.created)[-newest:]


def _of_ticket(ticket: Ticket, steps: list[Step], moves: list[Promotion]) -> Entry:
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
