"""Retrainings and rollouts on their way, by the moves that they make."""

from __future__ import annotations

from typing import Any

from mooring.state.retrainings import Ticket, Tickets
from mooring.state.rollouts import Rollout, Rollouts, moved


def trained(tickets: Tickets, ticket: Ticket, detail: dict[str, Any] | None = None, **changes: Any) -> Ticket:
    """Bring a ticket from its data to the gate, with version 2."""
    if ticket.status == "approval":
        ticket = tickets.move(ticket, "dataset", "approved")
    ticket = tickets.move(ticket, "training", "dataset", {"training_rows": 600}, attempt=1)
    return tickets.move(ticket, "gating", "trained", detail, **{"candidate": "2", **changes})


def loaded(rollouts: Rollouts, rollout: Rollout) -> Rollout:
    """Bring a rollout that has begun to its check."""
    return rollouts.move(rollout, moved(rollout, "checking"), "loaded", {"servers": 1})


def promoted(rollouts: Rollouts, rollout: Rollout) -> Rollout:
    """Bring a rollout that has begun to its good end."""
    full = loaded(rollouts, rollout)
    for status, what in (("promoting", "full"), ("promoted", "promoted")):
        full = rollouts.move(full, moved(full, status), what)
    return full


def rolled_back(rollouts: Rollouts, rollout: Rollout, reason: str) -> Rollout:
    """Bring a rollout that is under way to its bad end."""
    failed = rollouts.move(rollout, moved(rollout, "rolling_back", reason=reason), "failed", {"why": reason})
    return rollouts.move(failed, moved(failed, "rolled_back"), "rolled back")
