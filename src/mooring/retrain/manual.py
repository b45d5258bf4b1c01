"""What a person asks for: that a retraining begins or ends, and that the champion moves; recorded like any."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from mooring import promotion
from mooring.registry import aliases, versions
from mooring.registry.client import TrackingError
from mooring.retrain.machine import end_jobs
from mooring.state.leases import Lease
from mooring.state.promotions import Promotion
from mooring.state.retrainings import Ticket, TicketError, Tickets, me
from mooring.state.state import State

_PATIENCE_SECONDS = 20.0
_TRIES = 10


class NoPrevious(ValueError):
    """There is no version to go back to."""


class Already(ValueError):
    """The version is the champion."""


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
    if "approve" not in tickets.can(ticket):
        raise TicketError(f"retraining {ticket.number} does not wait to be approved: it is {ticket.in_words}")
    return tickets.move(ticket, "dataset", "approved", {"reason": reason} if reason else {}, who=who, message="")


def cancel(tickets: Tickets, ticket: Ticket, *, who: str, reason: str) -> Ticket:
    """End a retraining, also where the monitor notes something down at the same moment, and its jobs on this host.

    One that has passed the gate and waits for a supervisor is cancelled, too, as long as no rollout is under way.
    Raises TicketError where there is nothing to cancel, OSError where a job can't be ended, TrackingError where
    MLflow does not tell whether it made its version the champion.
    """
    for _ in range(_TRIES):
        waits = ticket.status == "challenger"
        if "cancel" not in tickets.can(ticket):
            if not waits:
                break
            raise TicketError(
                f"version {ticket.candidate} has passed the gate, and mooring serve rolls it out: end that with "
                "mooring rollout abort"
            )
        if waits and ticket.candidate is not None:
            try:  # before it is cancelled: else a supervisor that comes later rolls it out, if MLflow is away now
                aliases.disown(ticket.model, [ticket.candidate])
            except TrackingError as error:
                raise TicketError(
                    f"retraining {ticket.number} is not cancelled: {error}; try again later"
                ) from error
        try:
            cancelled = tickets.move(ticket, "cancelled", "cancelled", {"reason": reason}, who=who, message=reason)
        except TicketError:
            ticket = tickets.named(None, ticket.id)
            continue
        if cancelled.attempt and not is_elsewhere(cancelled):
            end_jobs(tickets, cancelled)
        if waits and tickets.is_rolled_out(cancelled.model):
            raise TicketError(
                f"retraining {cancelled.number} is cancelled, but mooring serve has begun a rollout at the same "
                f"moment: if it is of version {cancelled.candidate}, end it with mooring rollout abort"
            )
        return cancelled
    raise TicketError(f"retraining {ticket.number} is {ticket.in_words}: there is nothing to cancel")


def is_elsewhere(ticket: Ticket) -> bool:
    """Whether a retraining that has begun has its directory, and its jobs, on another host."""
    return ticket.attempt > 0 and not Path(ticket.directory).exists()


def promote(state: State, model: str, version: str, reason: str) -> Promotion:
    """Make a version the champion.

    Raises Already, TrackingError, and LeaseHeld where a retraining is being worked on for long.
    """
    with _lease(state, model) as lease:
        tickets = Tickets(state, lease)
        return _move(tickets, model, version, reason, "promotion", _unfinished(tickets, model, "promotion"))


def rollback(state: State, model: str, reason: str) -> Promotion:
    """Make the version before the champion again.

    Raises NoPrevious, TrackingError, and LeaseHeld where a retraining is being worked on for long.
    """
    with _lease(state, model) as lease:
        tickets = Tickets(state, lease)
        # One that was killed, or lost MLflow, may have moved the alias previous already: then its record tells.
        if (begun := _unfinished(tickets, model, "rollback")) is not None:
            return _move(tickets, model, begun.version, reason, "rollback", begun)
        previous = aliases.champion(model, aliases.PREVIOUS)
        if previous is None or previous == aliases.champion(model):
            raise NoPrevious(
                f"no other version of {model} has the alias previous: name the one to go back to with mooring "
                "promote"
            )
        return _move(tickets, model, previous, reason, "rollback", None)


@contextmanager
def _lease(state: State, model: str) -> Iterator[Lease]:
    """Have the lease; a monitor that works on a retraining has it for a moment, again and again."""
    lease = state.lease(f"retrain/{model}")
    end = time.monotonic() + _PATIENCE_SECONDS
    while not lease.acquire():
        if time.monotonic() > end:
            break
        time.sleep(0.2)
    with lease:  # raises LeaseHeld where it is not ours by now
        yield lease


def _unfinished(tickets: Tickets, model: str, kind: Literal["promotion", "rollback"]) -> Promotion | None:
    """Return the newest move, where it is one by hand of this kind that was begun and not done."""
    newest = next(iter(tickets.promotions.newest(model, 1)), None)
    if newest is None or newest.ticket_id is not None or newest.kind != kind or newest.status == "done":
        return None
    return newest if aliases.champion(model) in (newest.version, newest.previous) else None


def _move(
    tickets: Tickets,
    model: str,
    version: str,
    reason: str,
    kind: Literal["promotion", "rollback"],
    unfinished: Promotion | None,
) -> Promotion:
    versions.get(model, version)  # before anything is written down
    if unfinished is not None and unfinished.version == version:
        begun = msgspec.structs.replace(unfinished, reason=reason)
    else:
        champion = aliases.champion(model)
        if champion == version:
            raise Already(f"version {version} of {model} is the champion already")
        begun = promotion.begun(model, version, champion, reason=reason, kind=kind, who=me())
    return promotion.promote(tickets.promotions, begun, final=Exception)  # a person may not try again
