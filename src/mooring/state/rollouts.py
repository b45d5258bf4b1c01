"""Rollouts in the state: one for each new version put into service, and what happened to it, written down once."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import Column, ColumnElement, case, func, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from mooring.rollout_plan import Plan, Step
from mooring.state.database import insert
from mooring.state.repository import EventJournal, Repository, chunks, created_within, under_way_within
from mooring.state.tables import rollout_events, rollouts, serving
from mooring.state.transitions import Move, Transitions

Cause = Literal["challenger", "moved"]
"""Why a version is rolled out: it passed the gate, or somebody made it the champion."""
Wish = Literal["pause", "resume", "promote", "abort"]
"""What a person can ask of a rollout that is under way."""
Status = Literal[
    "loading",  # its files are fetched and its servers start
    "checking",  # it is put requests that the champion has answered
    "stepping",  # it goes through the steps of the plan
    "promoting",  # it answers everything, and is to be made the champion
    "promoted",
    "rolling_back",  # the champion answers everything again, and the registry is to say so
    "rolled_back",
    "aborting",  # the same, as somebody asked for it
    "aborted",
    "superseded",  # another version came before it was done
]
EventName = Literal[
    "begun",
    "loaded",
    "step",
    "skipped",
    "full",
    "promoted",
    "asked",
    "paused",
    "resumed",
    "promote",
    "failed",
    "rolled back",
    "aborted",
    "superseded",
]
_TO_GO: tuple[Status, ...] = ("loading", "checking", "stepping")
TRANSITIONS: Transitions[Status, EventName] = Transitions(
    "begun",
    ("loading",),
    [
        Move("loaded", ("loading",), ("checking",)),
        Move("step", ("checking", "stepping"), ("stepping",)),
        Move("skipped", ("stepping",)),
        Move("full", ("checking", "stepping"), ("promoting",)),
        Move("promoted", ("promoting",), ("promoted",)),
        Move("asked", _TO_GO),
        Move("paused", _TO_GO),
        Move("resumed", _TO_GO),
        Move("promote", _TO_GO),
        # A supervisor that takes a rollout up again may not get the version's files any more.
        Move("failed", (*_TO_GO, "promoting"), ("rolling_back",)),
        Move("rolled back", ("rolling_back",), ("rolled_back",)),
        Move("aborted", _TO_GO, ("aborting",)),
        Move("aborted", ("aborting",), ("aborted",)),
        Move("superseded", (*_TO_GO, "promoting"), ("superseded",)),
    ],
)
ENDED = TRANSITIONS.ended
TO_GO = TRANSITIONS.before("asked")
"""Where a rollout can still be asked for something."""
ENDINGS: dict[Status, EventName] = {
    end: move.event for move in TRANSITIONS.moves for end in move.after if end in ENDED
}
"""The event by which a rollout ends so."""


class RolloutError(ValueError):
    """A rollout that is not there, or not in a state for what is asked; the message says so."""


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """A version that is put into service in the place of `previous`, which may be none.

    `step` is the place in the plan, from 0; its clock stands at `seconds`, and the new version has answered
    `requests` in it. `counts` are those of the whole rollout: by variant, and those left out. `evidence` is what
    the guards know. `wish` is what a person has asked for and the supervisor has not done yet.
    """

    id: str
    model: str
    number: int
    version: str
    previous: str | None
    cause: Cause
    ticket_id: str | None = None
    plan: Plan = ()
    status: Status = "loading"
    step: int = 0
    seconds: float = 0.0
    requests: int = 0
    paused: bool = False
    counts: dict[str, int] = {}
    evidence: dict[str, Any] = {}
    reason: str = ""
    wish: Wish | None = None
    wish_by: str | None = None
    wish_reason: str | None = None
    who: str = "mooring"
    created: datetime
    updated: datetime
    ended: datetime | None = None

    @property
    def at(self) -> Step | None:
        """The step of the plan that it is in, None outside of them."""
        return self.plan[self.step] if self.status == "stepping" and self.step < len(self.plan) else None

    @property
    def can(self) -> tuple[Wish, ...]:
        """What can be asked of it now."""
        if self.status not in TO_GO:
            return ()
        return ("resume" if self.paused or self.wish == "pause" else "pause", "promote", "abort")


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a rollout, who did it, and what is to be known of it."""

    rollout_id: str
    number: int
    what: EventName
    detail: dict[str, Any]
    who: str
    at: datetime


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """The version that a supervisor serves; `follows` is what it was told to: `@champion`, or a version.

    `held_back` says why what an alias names is not served, or rolled out; it is empty where nothing is held back.
    """

    model: str
    host: str
    follows: str
    version: str
    since: datetime
    held_back: str = ""


_ROLLOUT = [rollouts.c[name] for name in Rollout.__struct_fields__]
_WITHOUT_EVIDENCE = [column for column in _ROLLOUT if column.name != "evidence"]
_EVENTS = EventJournal(rollout_events, "rollout_id", Event)
_SERVED = [serving.c[name] for name in Served.__struct_fields__]
_MOST_MODELS = 10_000
_NEWEST = rollouts.c.number.desc()
_NEWEST = rollouts.c.number.desc()
_JSON: dict[str, Any] = {"plan": Plan, "counts": dict[str, int], "evidence": dict[str, Any]}
_WISHES = ("wish", "wish_by", "wish_reason")


def new(
    model: str,
    version: str,
    previous: str | None,
    cause: Cause,
    plan: Plan = (),
    *,
    ticket_id: str | None = None,
    who: str = "mooring",
) -> Rollout:
    """Return a rollout that begins now; `Rollouts.open` writes it down and numbers it."""
    now = datetime.now(UTC)
    return Rollout(
        id=str(uuid.uuid4()),
        model=model,
        number=0,
        version=version,
        previous=previous,
        cause=cause,
        ticket_id=ticket_id,
        plan=plan,
        who=who,
        created=now,
        updated=now,
    )


def moved(rollout: Rollout, status: Status, **changes: Any) -> Rollout:
    """Return a rollout as it is in another status, from now on."""
    now = datetime.now(UTC)
    ended = now if status in ENDED else None
    return msgspec.structs.replace(rollout, status=status, updated=now, ended=ended, **changes)


class Rollouts(Repository):
    """The rollouts in a state.

    Each change writes the rollout and its event in one transaction, and only from the status and step that it was
    expected in: so whoever comes second, or again after a kill, changes nothing.

    >>> from tempfile import TemporaryDirectory
    >>> from mooring.state.state import State
    >>> directory = TemporaryDirectory()
    >>> with State(f"{directory.name}/state.db") as state:
    ...     found = Rollouts(state)
    ...     before = found.open(new("wine", "2", "1", "challenger"))
    ...     after = found.move(before, moved(before, "superseded"), "superseded", {"by": "3"})
    ...     [(event.number, event.what) for event in found.events(after.id)]
    [(1, 'begun'), (2, 'superseded')]
    >>> directory.cleanup()
    """

    # The supervisor's

    def open(self, rollout: Rollout) -> Rollout:
        """Write a new rollout, and return it with its number; the same again changes nothing.

        Raises RolloutError where another of the model is under way.
        """
        with self._writing() as connection:
            if (
                row := connection.execute(select(*_ROLLOUT).where(rollouts.c.id == rollout.id)).first()
            ) is not None:
                return _rollout(row)
            of_it = rollouts.c.model == rollout.model
            number = connection.scalar(select(func.max(rollouts.c.number)).where(of_it)) or 0
            rollout = msgspec.structs.replace(rollout, number=number + 1)
            try:
                connection.execute(rollouts.insert().values(_columns(rollout)))
            except IntegrityError:
                raise RolloutError(f"a rollout of {rollout.model} is under way already") from None
            detail = {"cause": rollout.cause, "plan": [str(step) for step in rollout.plan]}
            _EVENTS.add(connection, rollout.id, "begun", detail, rollout.who, rollout.updated)
            return rollout

    def move(
        self,
        before: Rollout,
        after: Rollout,
        what: EventName,
        detail: dict[str, Any] | None = None,
        *,
        who: str = "mooring",
    ) -> Rollout:
        """Bring a rollout from what it was to what it is now, and note what happened; see `moved`.

        The same move again changes nothing. Raises RolloutError where it is neither the one nor the other by now,
        and InvalidTransition where this event does not lead from the one to the other.
        """
        TRANSITIONS.check(before.status, what, after.status)
        with self._writing() as connection:
            columns = {name: value for name, value in _columns(after).items() if name not in _WISHES}
            written = connection.execute(update(rollouts).where(*_is(before)).values(columns))
            if written.rowcount != 1:
                if connection.scalar(
                    select(rollouts.c.id).where(*_is(after), rollouts.c.updated == after.updated)
                ):
                    return after
                raise RolloutError(f"the rollout {before.number} of {before.model} has gone on meanwhile")
            _EVENTS.add(connection, after.id, what, detail or {}, who, after.updated)
        return after

    def keep(self, rollout: Rollout) -> Rollout:
        """Write a rollout's clock, counts and evidence, and return it as it is, with what was asked of it.

        Raises RolloutError where it is in another status or step by now.
        """
        names = ("seconds", "requests", "counts", "evidence")
        columns = _columns(rollout)
        with self._writing() as connection:
            statement = update(rollouts).where(*_is(rollout)).values({name: columns[name] for name in names})
            row = connection.execute(statement.returning(*_ROLLOUT)).first()
        if row is None:
            raise RolloutError(f"the rollout {rollout.number} of {rollout.model} has gone on meanwhile")
        return _rollout(row)

    def taken(self, rollout: Rollout) -> None:
        """Note that what was asked of a rollout is seen to; what was asked since stays."""
        with self._writing() as connection:
            connection.execute(
                update(rollouts)
                .where(rollouts.c.id == rollout.id, rollouts.c.wish == rollout.wish)
                .values(dict.fromkeys(_WISHES))
            )

    def put_serving(self, served: Served) -> None:
        """Write which version is served; `since` stays where that is the same."""
        with self._writing() as connection:
            statement = insert(connection, serving).values(msgspec.structs.asdict(served))
            same = serving.c.version == statement.excluded.version
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=[serving.c.model, serving.c.host, serving.c.follows],
                    set_={
                        "version": statement.excluded.version,
                        "since": case((same, serving.c.since), else_=statement.excluded.since),
                        "held_back": statement.excluded.held_back,
                    },
                )
            )

    # Anybody's

    def ask(self, model: str, wish: Wish, *, who: str, reason: str = "", number: int | None = None) -> Rollout:
        """Ask something of the rollout that is under way; the supervisor sees to it within about a second.

        That it was asked for is in its events from then on, whatever comes of it. `number` is that of the rollout
        which is meant. Raises RolloutError where none is under way, or another, or where that can't be asked any
        more.
        """
        with self._writing() as connection:
            where = rollouts.c.model == model, rollouts.c.ended.is_(None)
            row = connection.execute(select(*_ROLLOUT).where(*where)).first()
            if row is None:
                raise RolloutError(f"no rollout of {model} is under way")
            rollout = _rollout(row)
            if number not in (None, rollout.number):
                raise RolloutError(f"rollout {number} of {model} is not under way: rollout {rollout.number} is")
            if rollout.status not in TO_GO:
                raise RolloutError(f"rollout {rollout.number} of {model} is {in_words(rollout.status)}: too late")
            if wish == "resume" and wish not in rollout.can:
                raise RolloutError(f"rollout {rollout.number} of {model} is not paused")
            wished = {"wish": wish, "wish_by": who, "wish_reason": reason}
            still = rollouts.c.id == rollout.id, rollouts.c.status.in_(TO_GO)
            if connection.execute(update(rollouts).where(*still).values(wished)).rowcount != 1:
                raise RolloutError(f"rollout {rollout.number} of {model} has gone on meanwhile: too late")
            detail = {"wish": wish, "reason": reason} if reason else {"wish": wish}
            _EVENTS.add(connection, rollout.id, "asked", detail, who, datetime.now(UTC))
            return msgspec.structs.replace(rollout, wish=wish, wish_by=who, wish_reason=reason)

    def unended(self, model: str) -> Rollout | None:
        """Return the model's rollout that is under way, if there is one."""
        found = self._rollouts(rollouts.c.model == model, rollouts.c.ended.is_(None), newest=1)
        return found[0] if found else None

    def newest(self, model: str, count: int = 100, *, version: str | None = None) -> list[Rollout]:
        """Return a model's newest rollouts, or those of a version, the newest first."""
        of_it = [rollouts.c.version == version] if version is not None else []
        return self._rollouts(rollouts.c.model == model, *of_it, newest=count)

    def under_way(self, model: str, start: datetime, end: datetime, newest: int = 100) -> list[Rollout]:
        """Return a model's newest rollouts that were under way between two times, the newest first.

        Their evidence, which may be large, is left out.
        """
        between = under_way_within(rollouts, model, start, end)
        return self._rollouts(*between, newest=newest, columns=_WITHOUT_EVIDENCE)

    def without_ticket(
        self, model: str | None, newest: int = 100, *, start: datetime | None = None, end: datetime | None = None
    ) -> list[Rollout]:
        """Return the newest rollouts of a model, or of all, that no retraining is behind, the newest first.

        Those that were begun from `start` on and before `end`. Their evidence is left out.
        """
        alone = (*created_within(rollouts, model, start, end), rollouts.c.ticket_id.is_(None))
        newest_first = rollouts.c.created.desc()
        return self._rollouts(*alone, newest=newest, order=newest_first, columns=_WITHOUT_EVIDENCE)

    def of_tickets(self, ticket_ids: Sequence[str]) -> dict[str, Rollout]:
        """Return the newest rollout that each of these retrainings led to, by the ticket's id.

        Their evidence is left out.
        """
        return {
            rollout.ticket_id: rollout
            for some in chunks(ticket_ids)
            for rollout in self._rollouts(rollouts.c.ticket_id.in_(some), columns=_WITHOUT_EVIDENCE)[::-1]
            if rollout.ticket_id is not None
        }

    def latest(self) -> dict[str, Rollout]:
        """Return by model its newest rollout."""
        last = select(rollouts.c.model, func.max(rollouts.c.number)).group_by(rollouts.c.model)
        found = self._rollouts(tuple_(rollouts.c.model, rollouts.c.number).in_(last), newest=_MOST_MODELS)
        return {rollout.model: rollout for rollout in found}

    def numbered(self, model: str, number: int) -> Rollout:
        """Return a model's rollout by its number. Raises RolloutError."""
        found = self._rollouts(rollouts.c.model == model, rollouts.c.number == number, newest=1)
        if not found:
            raise RolloutError(f"there is no rollout {number} of {model}")
        return found[0]

    def events(self, rollout_id: str) -> list[Event]:
        """Return what happened to a rollout, in its order."""
        return self.events_of([rollout_id])[rollout_id]

    def events_of(self, rollout_ids: Sequence[str]) -> dict[str, list[Event]]:
        """Return what happened to several rollouts, by their ids, each in its order."""
        with self._reading() as connection:
            return _EVENTS.of(connection, rollout_ids)

    def serving(self, model: str, host: str | None = None) -> list[Served]:
        """Return what supervisors serve of a model, or were serving when they were last heard of."""
        on_it = [serving.c.host == host] if host is not None else []
        query = (
            select(*_SERVED).where(serving.c.model == model, *on_it).order_by(serving.c.host, serving.c.follows)
        )
        with self._reading() as connection:
            return [Served(**row._mapping) for row in connection.execute(query)]

    def served(self) -> list[Served]:
        """Return what supervisors serve, of all models."""
        with self._reading() as connection:
            return [Served(**row._mapping) for row in connection.execute(select(*_SERVED).order_by(*_SERVED[:3]))]

    def models(self) -> list[str]:
        """Return the names of the models that are served, or were rolled out."""
        with self._reading() as connection:
            found = {*connection.scalars(select(rollouts.c.model).distinct())}
            return sorted(found | {*connection.scalars(select(serving.c.model).distinct())})

    def _rollouts(
        self,
        *where: ColumnElement[bool],
        newest: int | None = None,
        order: ColumnElement[Any] = _NEWEST,
        columns: list[Column[Any]] = _ROLLOUT,
    ) -> list[Rollout]:
        query = select(*columns).where(*where).order_by(order, _NEWEST).limit(newest)
        with self._reading() as connection:
            return [_rollout(row) for row in connection.execute(query)]


def in_words(status: Status) -> str:
    """Return a status as it is told.

    >>> in_words("rolling_back")
    'rolling back'
    """
    return status.replace("_", " ")


def _is(rollout: Rollout) -> list[ColumnElement[bool]]:
    return [
        rollouts.c.id == rollout.id,
        rollouts.c.status == rollout.status,
        rollouts.c.step == rollout.step,
        rollouts.c.paused == rollout.paused,
    ]


def _rollout(row: Any) -> Rollout:
    columns = dict(row._mapping)
    told = {name: msgspec.json.decode(columns[name], type=kind) for name, kind in _JSON.items() if name in columns}
    return Rollout(**{**columns, **told})


def _columns(rollout: Rollout) -> dict[str, Any]:
    told = {name: msgspec.json.encode(getattr(rollout, name)).decode() for name in _JSON}
    return {**{name: getattr(rollout, name) for name in rollout.__struct_fields__}, **told}
