"""What a rollout reads in MLflow's registry, and what it makes of it there at its end.

Each function may be called again after a kill, or after MLflow or the state was away, and finishes what it began.
"""

from __future__ import annotations

from typing import NamedTuple

from mooring import promotion
from mooring.registry import aliases, versions
from mooring.state.database import StateError
from mooring.state.leases import Lease
from mooring.state.retrainings import EventName, Status, Ticket, Tickets
from mooring.state.rollouts import Rollout
from mooring.state.state import State


class Held(NamedTuple):
    """A version that the followed alias names, and that is not served yet: why, and which it is to better."""

    version: str
    why: str
    champion: str | None = None


class Seen(NamedTuple):
    """What the registry says: the version that the followed alias names, and a challenger that passed the gate.

    `ticket` is the retraining that the challenger came of, where it says so. Where the alias names a version that
    only the gate may put into service, `held` tells of it, and `followed` is None. `refused` tells of one
    that has the alias `challenger`, and is none.
    """

    followed: str | None
    challenger: str | None = None
    ticket: str | None = None
    held: Held | None = None
    refused: Held | None = None


def look(model: str, alias: str, state: State | None, served: str | None) -> Seen:
    """Return what the registry says now, and the state of what it names other than `served`.

    Raises TrackingError.
    """
    named = aliases.of(model)
    followed, challenger = named.get(alias), named.get(aliases.CHALLENGER)
    held = None
    if alias == aliases.CHAMPION and followed is not None and followed != served:
        held = _held(model, followed, state)
    seen = Seen(followed) if held is None else Seen(None, held=held)
    if challenger is None or challenger == followed:
        return seen
    if versions.tags_of(model, challenger).get(aliases.GATE) != "passed":
        return seen
    claim = versions.claim_of(model, challenger)
    if claim is None or not claim.tickets:
        return seen if claim is None else seen._replace(challenger=challenger)
    try:
        known = _tickets(state).known(claim.tickets)
    except StateError:
        return seen  # a rollout can't be written down now anyway
    for ticket in known:
        if not ticket.may_have_made(model, challenger, claim.made):
            return seen._replace(refused=Held(challenger, _false(ticket, challenger)))
    # Of several it is the one that is not decided yet, if there is one: the rollout waits for it.
    names = [one.id for one in sorted(known, key=lambda one: not one.is_undecided)] or claim.tickets
    return seen._replace(challenger=challenger, ticket=names[0])


def _held(model: str, version: str, state: State | None) -> Held | None:
    """Return why a version that is named champion is not served: its retraining has not come to an end.

    A job may name it so by itself. Where the state does not answer, the registry has to do.
    """
    claim = versions.claim_of(model, version)
    if claim is None or not claim.tickets:
        return None
    try:
        tickets = _tickets(state)
        for ticket in tickets.known(claim.tickets):
            if not ticket.may_have_made(model, version, claim.made):
                why, of_it = _false(ticket, version), tickets.unended(model)
            elif ticket.is_undecided:
                why, of_it = f"its retraining {ticket.number} has not passed the gate ({ticket.in_words})", ticket
            else:
                continue
            if any(one.version == version and one.ticket_id is None for one in tickets.promotions.newest(model)):
                return None  # a person wants it so
            return Held(version, why, of_it.champion if of_it is not None else None)
    except StateError as error:
        if versions.tags_of(model, version).get(aliases.GATE) == "passed":
            return None
        return Held(version, f"its retraining can't be asked for: {error}")
    return None


def _tickets(state: State | None) -> Tickets:
    if state is None:
        raise StateError("the state is not there")
    return Tickets(state)


def _false(ticket: Ticket, version: str) -> str:
    return (
        f"its tag {versions.TICKET} names retraining {ticket.number} of {ticket.model}, which it can't have come "
        f"of; mooring promote {version} puts it into service all the same"
    )


def promote(state: State, lease: Lease | None, rollout: Rollout) -> None:
    """Make a version that answers everything the champion, and bring its ticket to its end.

    Raises PermanentError, and TrackingError, StateError, and TicketError where this is to be called again.
    """
    tickets = Tickets(state, lease)
    ticket = _ticket(tickets, rollout)
    if rollout.cause == "challenger":
        begun = promotion.begun(
            rollout.model,
            rollout.version,
            rollout.previous,
            reason="passed the gate and its rollout",
            name=f"{rollout.id}/promotion",
            ticket_id=rollout.ticket_id,
            who=_who(rollout),
        )
        tags = {aliases.ROLLOUT: "promoted"}
        tags |= {versions.TICKET: rollout.ticket_id} if rollout.ticket_id is not None else {}
        promotion.promote(tickets.promotions, begun, tags=tags)
    if ticket is not None:
        detail = {"version": rollout.version, "previous": rollout.previous, "rollout": rollout.number}
        told_so = f"version {rollout.version} is the champion, and answers"
        tickets.move(ticket, "promoted", "promoted", detail, message=told_so)


def roll_back(state: State, lease: Lease | None, rollout: Rollout) -> bool:
    """Make the registry say that a version was taken out of service again, and bring its ticket to its end.

    The champion's alias goes back where it is at that version, and the version is no challenger any more. Return
    whether the alias may be at that version nevertheless, as there is none to go back to.
    Raises TrackingError, StateError, and TicketError where this is to be called again.
    """
    tickets = Tickets(state, lease)
    if rollout.previous is None:
        named = aliases.champion(rollout.model) == rollout.version
    else:
        restored = promotion.begun(
            rollout.model,
            rollout.previous,
            rollout.version,
            reason=rollout.reason,
            name=f"{rollout.id}/restored",
            kind="restored",
            who=_who(rollout),
        )
        named = not promotion.restore(tickets.promotions, restored)
    what: EventName = "aborted" if rollout.status == "aborting" else "rolled back"
    aliases.end_rollout(rollout.model, rollout.version, what, rollout.reason)
    end_ticket(tickets, rollout, "rolled_back", what)
    return named


def put_back(rollout: Rollout) -> None:
    """Take the alias from a challenger that another version came before. Raises TrackingError."""
    aliases.end_rollout(rollout.model, rollout.version, "superseded", rollout.reason)


def end_ticket(tickets: Tickets, rollout: Rollout, status: Status, what: EventName) -> None:
    """Bring the retraining that a version came of to its end, where it waits for the rollout."""
    if (ticket := _ticket(tickets, rollout)) is not None:
        message = f"version {rollout.version} was {what}: {rollout.reason}"
        tickets.move(ticket, status, what, {"why": rollout.reason, "rollout": rollout.number}, message=message)


def _ticket(tickets: Tickets, rollout: Rollout) -> Ticket | None:
    """Return the retraining that waits for a rollout, or will in a moment, as it has just passed the gate."""
    ticket = tickets.unended(rollout.model)
    if ticket is None or ticket.candidate != rollout.version or not ticket.ends_with_rollout:
        return None
    return ticket


def _who(rollout: Rollout) -> str:
    """Return who wanted a version promoted at once, else whose rollout it is."""
    return rollout.evidence.get("promote") or rollout.who
