"""What a person asks of a retraining: that it begin, or that it end."""

from __future__ import annotations

from pathlib import Path

from mooring.retrain.machine import end_jobs
from mooring.state.retrainings import Ticket, TicketError, Tickets

_TRIES = 10


def approve(tickets: Tickets, ticket: Ticket, *, who: str, reason: str = "") -> Ticket:
    """Let a retraining begin that waits to be approved. Raises TicketError where it does not, or not any more.

    >>> from tempfile import TemporaryDirectory
    >>> from mooring.state.state import State
    >>> from mooring.state.retrainings import Cause
    >>> directory = TemporaryDirectory()
    >>> with State(f"{directory.name}/state.db") as state:
    ...     found = Tickets(state)
    ...     ticket = found.open(
    ...         "wine", Cause(kind="drift"), "it drifts", champion="1", directory="retrain", status="approval"
    ...     )
    ...     ticket = approve(found, ticket, who="ann", reason="labels are in")
    ...     ticket.status, [(step.what, step.who, step.detail) for step in found.steps(ticket.id)][1]
    ('dataset', ('approved', 'ann', {'reason': 'labels are in'}))
    >>> directory.cleanup()
    """
    if "approve" not in ticket.can:
        raise TicketError(f"retraining {ticket.number} does not wait to be approved: it is {ticket.in_words}")
    return tickets.move(ticket, "dataset", "approved", {"reason": reason} if reason else {}, who=who, message="")


def cancel(tickets: Tickets, ticket: Ticket, *, who: str, reason: str) -> Ticket:
    """End a retraining, also where the monitor notes something down at the same moment, and its jobs on this host.

    Raises TicketError where there is nothing to cancel, OSError where a job can't be ended, TrackingError where
    MLflow does not tell whether it made its version the champion.
    """
    cancelled = _cancelled(tickets, ticket, who, reason)
    if cancelled.attempt and not is_elsewhere(cancelled):
        end_jobs(tickets, cancelled, lambda _: None)
    return cancelled


def is_elsewhere(ticket: Ticket) -> bool:
    """Whether a retraining that has begun has its directory, and its jobs, on another host."""
    return ticket.attempt > 0 and not Path(ticket.directory).exists()


def _cancelled(tickets: Tickets, ticket: Ticket, who: str, reason: str) -> Ticket:
    for _ in range(_TRIES):
        if ticket.status == "challenger":
            raise TicketError(
                f"version {ticket.candidate} has passed the gate, and mooring serve rolls it out: end that with "
                "mooring rollout abort"
            )
        if "cancel" not in ticket.can:
            break
        try:
            return tickets.move(ticket, "cancelled", "cancelled", {"reason": reason}, who=who, message=reason)
        except TicketError:
            ticket = tickets.named(None, ticket.id)
    raise TicketError(f"retraining {ticket.number} is {ticket.in_words}: there is nothing to cancel")
