"""What can be done from the dashboard: with a rollout that is under way, with a retraining that waits or runs."""

from __future__ import annotations

from functools import partial

from mooring.registry.client import TrackingError
from mooring.retrain import manual
from mooring.state.retrainings import Ticket, TicketError, Tickets
from mooring.state.rollouts import RolloutError, Rollouts, Wish
from mooring.ui import paths
from mooring.ui.path_params import model_of, number_of
from mooring.ui.responses import NotFound, TooLate
from mooring.ui.routing import Action
from mooring.ui.sources import Sources

Shown = tuple[str, dict[str, str]]


def ask(wish: Wish, sources: Sources, who: str, reason: str, *, model: str, number: str) -> Shown:
    """Ask something of a rollout. Raises NotFound, and TooLate where it is not the one that is under way."""
    model, which, rollouts = model_of(model), number_of(number, "rollout"), Rollouts(sources.state)
    try:
        rollouts.numbered(model, which)
    except RolloutError as error:
        raise NotFound(_sentence(error)) from None
    try:
        rollouts.ask(model, wish, who=who, reason=reason, number=which)
    except RolloutError as error:
        raise TooLate(_sentence(error)) from None
    return "rollout", {"model": model, "number": f"{which}"}


def approve(sources: Sources, who: str, reason: str, *, model: str, number: str) -> Shown:
    """Let a retraining begin that waits for it. Raises NotFound, and TooLate where it waits no more."""
    tickets = Tickets(sources.state)
    ticket = _ticket(tickets, model, number)
    try:
        manual.approve(tickets, ticket, who=who, reason=reason)
    except TicketError as error:
        raise TooLate(_sentence(error)) from None
    return "retraining", {"model": ticket.model, "number": f"{ticket.number}"}


def cancel(sources: Sources, who: str, reason: str, *, model: str, number: str) -> Shown:
    """End a retraining, or refuse one that waits. Raises NotFound, and TooLate where there is nothing to end."""
    tickets = Tickets(sources.state)
    ticket = _ticket(tickets, model, number)
    try:
        manual.cancel(tickets, ticket, who=who, reason=reason or "from the dashboard")
    except TicketError as error:
        raise TooLate(_sentence(error)) from None
    except OSError as error:
        raise TooLate(f"Retraining {ticket.number} is cancelled, but its job goes on: {error}.") from None
    except TrackingError as error:
        raise TooLate(
            f"Retraining {ticket.number} is cancelled, and its job has ended; whether that made its version the "
            f"champion is not known: {error}."
        ) from None
    return "retraining", {"model": ticket.model, "number": f"{ticket.number}"}


def _ticket(tickets: Tickets, model: str, number: str) -> Ticket:
    try:
        return tickets.named(model_of(model), f"{number_of(number, 'retraining')}")
    except TicketError as error:
        raise NotFound(_sentence(error)) from None


def _sentence(error: Exception) -> str:
    text = f"{error}"
    return f"{text[:1].upper()}{text[1:]}."


def _of_rollout(wish: Wish, summary: str) -> Action:
    return Action(wish, f"{paths.ROLLOUT}/{wish}", summary, partial(ask, wish))


ACTIONS = (
    _of_rollout("pause", "Have a rollout stay in its step; the guards go on."),
    _of_rollout("resume", "Let a paused rollout go on."),
    _of_rollout("promote", "Let a new version answer everything now, and make it the champion."),
    _of_rollout("abort", "Take a new version out of service; the champion answers everything."),
    Action("approve", f"{paths.RETRAINING}/approve", "Let a retraining begin that waits to be approved.", approve),
    Action(
        "cancel", f"{paths.RETRAINING}/cancel", "End a retraining, its job too, or refuse one that waits.", cancel
    ),
)
