"""What a person asks of a retraining: that it begin, or that it end."""

from __future__ import annotations

from pathlib import Path

from mooring.monitor.tracking import TrackingError
from mooring.retrain import registry
from mooring.retrain.machine import end_jobs
from mooring.retrain.tickets import Status, Ticket, TicketError, Tickets

_TRIES = 10


def approve(tickets: Tickets, ticket: Ticket, *, who: str, reason: str = "") -> Ticket:
    """Let a retraining begin that waits to be approved. Raises TicketError where it does not, or not any more.

    >>> from tempfile import TemporaryDirectory
    >>> from mooring.monitor.state import State
    >>> from mooring.retrain.tickets import Cause
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
    if ticket.status != "approval":
        raise TicketError(f"retraining {ticket.number} does not wait to be approved: it is {ticket.in_words}")
    return tickets.move(ticket, "dataset", "approved", {"reason": reason} if reason else {}, who=who, message="")


def cancel(tickets: Tickets, ticket: Ticket, *, who: str, reason: str) -> Ticket:
    """End a retraining, also where the monitor notes something down at the same moment, and its jobs on this host.

    One that has passed the gate and waits for a supervisor is cancelled, too, as long as no rollout is under way.
    Raises TicketError where there is nothing to cancel, OSError where a job can't be ended, TrackingError where
    MLflow does not tell whether it made its version the champion.
    """
    if ticket.status == "challenger" and not tickets.is_rolled_out(ticket.model):
        _disown(ticket)
    before, cancelled = _cancelled(tickets, ticket, who, reason)
    if cancelled.attempt and not is_elsewhere(cancelled):
        end_jobs(tickets, cancelled, lambda _: None)
    if before == "challenger" and tickets.is_rolled_out(cancelled.model):
        raise TicketError(
            f"retraining {cancelled.number} is cancelled, but mooring serve has begun a rollout at the same "
            f"moment: if it is of version {cancelled.candidate}, end it with mooring rollout abort"
        )
    return cancelled


def is_elsewhere(ticket: Ticket) -> bool:
    """Whether a retraining that has begun has its directory, and its jobs, on another host."""
    return ticket.attempt > 0 and not Path(ticket.directory).exists()


def _disown(ticket: Ticket) -> None:
    """Have the registry say no longer that a version passed the gate, before its retraining is cancelled.

    Else a supervisor that comes later rolls it out, where MLflow does not answer now.
    """
    assert ticket.candidate is not None
    try:
        registry.disown(ticket.model, [ticket.candidate])
    except TrackingError as error:
        raise TicketError(f"retraining {ticket.number} is not cancelled: {error}; try again later") from error


def _cancelled(tickets: Tickets, ticket: Ticket, who: str, reason: str) -> tuple[Status, Ticket]:
    """Cancel a ticket, and return what it was before, and the ticket."""
    for _ in range(_TRIES):
        if ticket.status == "challenger" and tickets.is_rolled_out(ticket.model):
            raise TicketError(
                f"version {ticket.candidate} has passed the gate, and mooring serve rolls it out: end that with "
                "mooring rollout abort"
            )
        if ticket.ended is not None or ticket.status == "promoting":
            break
        try:
            told = {"reason": reason}
            return ticket.status, tickets.move(ticket, "cancelled", "cancelled", told, who=who, message=reason)
        except TicketError:
            ticket = tickets.named(None, ticket.id)
    raise TicketError(f"retraining {ticket.number} is {ticket.in_words}: there is nothing to cancel")
