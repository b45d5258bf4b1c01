"""Tickets: one for each retraining, from what called for it to what came of it, each step written down once."""

from __future__ import annotations

import getpass
import socket
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, func, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from mooring.log.listing import folder_name
from mooring.state.promotions import Promotion, Promotions
from mooring.state.repository import EventJournal, Repository, Transaction, created_within, under_way_within
from mooring.state.rollouts import Rollouts
from mooring.state.tables import steps, tickets
from mooring.state.transitions import Move, Transitions

Status = Literal[
    "approval",  # waits for somebody to approve it
    "dataset",  # its data are to be gathered; they may lack labels
    "training",
    "gating",
    "promoting",
    "promoted",
    "challenger",  # passed, and a supervisor puts it into service
    "rolled_back",  # by the supervisor, as it proved worse under traffic
    "refused",
    "failed",
    "cancelled",
]
EventName = Literal[
    "opened",
    "approved",
    "dataset",
    "trained",
    "attempt failed",
    "gate",
    "handed back",
    "promoted",
    "not promoted",
    "rolled back",
    "aborted",
    "superseded",
    "failed",
    "cancelled",
]
Act = Literal["approve", "cancel"]
"""What a person can do to a retraining."""
# The supervisor may end a rollout before it is written down here that the gate was passed.
_ROLLED_OUT: tuple[Status, ...] = ("gating", "challenger")
TRANSITIONS: Transitions[Status, EventName] = Transitions(
    "opened",
    ("approval", "dataset"),
    [
        Move("approved", ("approval",), ("dataset",)),
        Move("dataset", ("dataset",), ("training",)),
        Move("attempt failed", ("training",)),
        Move("trained", ("training",), ("gating",)),
        Move("gate", ("gating",), ("challenger", "promoting", "refused")),
        Move("handed back", ("challenger",), ("promoting",)),
        Move("promoted", ("promoting", *_ROLLED_OUT), ("promoted",)),
        Move("not promoted", ("promoting",), ("failed",)),
        Move("rolled back", _ROLLED_OUT, ("rolled_back",)),
        Move("aborted", _ROLLED_OUT, ("rolled_back",)),
        Move("superseded", _ROLLED_OUT, ("cancelled",)),
        Move("failed", ("dataset", "training", "gating"), ("failed",)),
        Move("cancelled", ("approval", "dataset", "training", "gating", "challenger"), ("cancelled",)),
    ],
)
ENDED = TRANSITIONS.ended
_UNDECIDED = TRANSITIONS.leading_to("gate")
_UNPROVEN = TRANSITIONS.after("gate", "failed", "cancelled") & ENDED
_ACTS: dict[Act, EventName] = {"approve": "approved", "cancel": "cancelled"}
_TAKEN_BACK = timedelta(seconds=60)
_MOST_MODELS = 10_000
_NAMESPACE = uuid.UUID("0d4b3e0a-4c55-5a0f-8d9f-2a1de1d4f6c3")


class TicketError(ValueError):
    """A ticket that is not there, or not in a state for what is asked; the message says so."""


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """What called for a retraining. `verdict` names the newest of the verdicts that did, `windows` their times."""

    kind: Literal["drift", "joint", "performance", "estimated", "manual"]
    verdict: str | None = None
    windows: tuple[tuple[datetime, datetime], ...] = ()


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """A retraining. `champion` is the version that it is to better, `candidate` the one that came of it.

    `number` counts a model's tickets from 1; `attempt` how often training was begun; `message` says where it is.
    """

    id: str
    model: str
    number: int
    cause: Cause
    reason: str
    status: Status
    attempt: int = 0
    champion: str | None = None
    candidate: str | None = None
    run_id: str | None = None
    directory: str
    message: str = ""
    created: datetime
    updated: datetime
    ended: datetime | None = None

    @property
    def is_undecided(self) -> bool:
        """Whether the gate has not passed what came of it: it goes on, or has just ended without.

        Then its versions may still have aliases that the job gave them, which are taken back in a moment.
        """
        if self.status in _UNPROVEN and self.ended is not None:
            return datetime.now(UTC) - self.ended < _TAKEN_BACK
        return self.status in _UNDECIDED

    @property
    def ends_with_rollout(self) -> bool:
        """Whether a rollout of its candidate ends it."""
        return self.status in TRANSITIONS.before("rolled back")

    @property
    def in_words(self) -> str:
        """Its status as it is told."""
        return self.status.replace("_", " ")

    def may_have_made(self, model: str, version: str, made: datetime) -> bool:
        """Whether a version of a model, registered at `made`, can have come of it: anybody can tag a version."""
        if self.model != model:
            return False
        return version == self.candidate or self.ended is None or made <= self.ended


class TicketStep(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a ticket, who did it, and what is to be known of it."""

    ticket_id: str
    number: int
    what: EventName
    detail: dict[str, Any]
    who: str
    at: datetime


_TICKET = [tickets.c[name] for name in Ticket.__struct_fields__]
_STEPS = EventJournal(steps, "ticket_id", TicketStep)


def me() -> str:
    """Return who acts: a user of this machine."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):  # a user id without a name, as in containers
        return socket.gethostname()


class Tickets(Repository):
    """The tickets in a state.

    Each change writes the ticket and its step in one transaction, and only from the status that it was expected
    in: so whoever comes second, or again after a kill, changes nothing.

    >>> from tempfile import TemporaryDirectory
    >>> from mooring.state.state import State
    >>> directory = TemporaryDirectory()
    >>> with State(f"{directory.name}/state.db") as state:
    ...     found = Tickets(state)
    ...     ticket = found.open("wine", Cause(kind="manual"), "asked for", champion="1", directory="retrain")
    ...     ticket = found.move(ticket, "cancelled", "cancelled", message="no longer wanted")
    ...     [(step.number, step.what) for step in found.steps(ticket.id)]
    [(1, 'opened'), (2, 'cancelled')]
    >>> directory.cleanup()
    """

    @property
    def promotions(self) -> Promotions:
        """The moves of the champion, written with the same lease."""
        return Promotions(self._source, self._lease)

    def can(self, ticket: Ticket) -> tuple[Act, ...]:
        """Return what a person can do to a ticket now; a rollout that is under way has to be ended instead."""
        if ticket.status == "challenger" and self.is_rolled_out(ticket.model):
            return ()
        return tuple(act for act, event in _ACTS.items() if ticket.status in TRANSITIONS.before(event))

    def is_rolled_out(self, model: str) -> bool:
        """Whether a rollout of the model is under way, or waits for its supervisor to come back."""
        return Rollouts(self._source).unended(model) is not None

    def open(
        self,
        model: str,
        cause: Cause,
        reason: str,
        *,
        champion: str | None,
        directory: str,
        status: Status = "dataset",
        who: str = "mooring",
    ) -> Ticket:
        """Open a ticket; the same verdict twice gives the same one. Raises TicketError where another is open."""
        now = datetime.now(UTC)
        name = uuid.uuid5(_NAMESPACE, f"{model}/{cause.verdict}") if cause.verdict else uuid.uuid4()
        with self._writing() as connection:
            row = connection.execute(select(*_TICKET).where(tickets.c.id == str(name))).first()
            if row is not None:
                return _ticket(row)
            number = connection.scalar(select(func.max(tickets.c.number)).where(tickets.c.model == model)) or 0
            ticket = Ticket(
                id=str(name),
                model=model,
                number=number + 1,
                cause=cause,
                reason=reason,
                status=status,
                champion=champion,
                directory=str(_directory(directory, model, number + 1, name)),
                message="waits to be approved" if status == "approval" else "",
                created=now,
                updated=now,
            )
            try:
                connection.execute(tickets.insert().values(_columns(ticket)))
            except IntegrityError:
                raise TicketError(f"a retraining of {model} is under way already") from None
            detail = {"reason": reason, "cause": msgspec.to_builtins(cause)}
            _STEPS.add(connection, ticket.id, "opened", detail, who, now)
            return ticket

    def move(
        self,
        ticket: Ticket,
        status: Status,
        what: EventName,
        detail: dict[str, Any] | None = None,
        *,
        who: str = "mooring",
        promotion: Promotion | None = None,
        **changes: Any,
    ) -> Ticket:
        """Bring a ticket from the status that it has here to another, and note what happened.

        `changes` are other fields of it, `promotion` what is begun or done with it. Raises TicketError where it
        has another status by now, and InvalidTransition where this event does not lead to that status.
        """
        TRANSITIONS.check(ticket.status, what, status)
        now = datetime.now(UTC)
        changed = msgspec.structs.replace(
            ticket, status=status, updated=now, ended=now if status in ENDED else None, **changes
        )
        with self._writing() as connection:
            written = connection.execute(
                update(tickets)
                .where(
                    tickets.c.id == ticket.id,
                    tickets.c.status == ticket.status,
                    tickets.c.attempt == ticket.attempt,
                    tickets.c.updated == ticket.updated,
                )
                .values(_columns(changed))
            )
            if written.rowcount != 1:
                raise TicketError(f"the retraining {ticket.number} of {ticket.model} has gone on meanwhile")
            if promotion is not None:
                Promotions(Transaction(connection)).put(promotion)
            _STEPS.add(connection, ticket.id, what, detail or {}, who, now)
        return changed

    def say(self, ticket: Ticket, message: str) -> Ticket:
        """Note where a ticket is, where that is not what it says already."""
        if ticket.message == message:
            return ticket
        changed = msgspec.structs.replace(ticket, message=message, updated=datetime.now(UTC))
        with self._writing() as connection:
            connection.execute(
                update(tickets)
                .where(tickets.c.id == ticket.id, tickets.c.updated == ticket.updated)
                .values(message=message, updated=changed.updated)
            )
        return changed

    def unended(self, model: str) -> Ticket | None:
        """Return the model's ticket that is under way, if there is one."""
        found = self._tickets(tickets.c.model == model, tickets.c.ended.is_(None), newest=1)
        return found[0] if found else None

    def newest(
        self,
        model: str | None,
        count: int = 100,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> list[Ticket]:
        """Return a model's newest tickets, or those of all models, the newest first.

        Those that were opened from `start` on and before `end`.
        """
        return self._tickets(*created_within(tickets, model, start, end), newest=count)

    def under_way(self, model: str, start: datetime, end: datetime, newest: int = 100) -> list[Ticket]:
        """Return a model's newest tickets that were open between two times, the newest first."""
        return self._tickets(*under_way_within(tickets, model, start, end), newest=newest)

    def latest(self) -> dict[str, Ticket]:
        """Return by model its newest ticket."""
        last = select(tickets.c.model, func.max(tickets.c.number)).group_by(tickets.c.model)
        found = self._tickets(tuple_(tickets.c.model, tickets.c.number).in_(last), newest=_MOST_MODELS)
        return {ticket.model: ticket for ticket in found}

    def named(self, model: str | None, name: str) -> Ticket:
        """Return a ticket by its number, or by its id or the beginning of it. Raises TicketError."""
        of_it = [tickets.c.model == model] if model else []
        if not name:
            raise TicketError("no ticket is named: give its number")
        if name.lstrip("#").isdecimal() and len(name) < 8:
            found = self._tickets(*of_it, tickets.c.number == int(name.lstrip("#")), newest=2)
        else:
            found = self._tickets(*of_it, tickets.c.id.startswith(name, autoescape=True), newest=2)
        if len(found) != 1:
            several = f"there are several tickets {name}: say of which model, with --model"
            raise TicketError(several if found else f"there is no ticket {name}")
        return found[0]

    def known(self, ids: Iterable[str]) -> list[Ticket]:
        """Return the tickets with these ids, of any model; those of another state are not known here."""
        wanted = [*ids]
        return self._tickets(tickets.c.id.in_(wanted), newest=len(wanted)) if wanted else []

    def steps(self, ticket_id: str) -> list[TicketStep]:
        """Return what happened to a ticket, in its order."""
        return self.steps_of([ticket_id])[ticket_id]

    def steps_of(self, ticket_ids: Sequence[str]) -> dict[str, list[TicketStep]]:
        """Return what happened to several tickets, by their ids, each in its order."""
        with self._reading() as connection:
            return _STEPS.of(connection, ticket_ids)

    def models(self) -> list[str]:
        """Return the names of the models that there are tickets of."""
        with self._reading() as connection:
            return sorted(connection.scalars(select(tickets.c.model).distinct()))

    def _tickets(self, *where: ColumnElement[bool], newest: int) -> list[Ticket]:
        query = select(*_TICKET).where(*where).order_by(tickets.c.created.desc(), tickets.c.number.desc())
        with self._reading() as connection:
            return [_ticket(row) for row in connection.execute(query.limit(newest))]


def _directory(parent: str, model: str, number: int, name: uuid.UUID) -> Path:
    """Return a ticket's own directory, the same wherever it is looked at from.

    The number alone would not do: a state that was begun anew counts from 1 again.
    """
    return Path(parent).absolute() / f"{folder_name(model)}-{number}-{name.hex[:8]}"


def _ticket(row: Any) -> Ticket:
    columns = dict(zip(Ticket.__struct_fields__, row, strict=True))
    return Ticket(**{**columns, "cause": msgspec.json.decode(columns["cause"], type=Cause)})


def _columns(ticket: Ticket) -> dict[str, Any]:
    return {**msgspec.structs.asdict(ticket), "cause": msgspec.json.encode(ticket.cause).decode()}
