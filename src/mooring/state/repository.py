"""What the repositories have in common: where they read and write, and how they name and choose rows."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Connection, Insert, Table, func, select

from mooring.state.database import insert
from mooring.state.leases import Lease

_AT_ONCE = 500  # names in a query
_NAMESPACE = uuid.UUID("6f0e7c52-3d1b-5a0c-9a8e-0c7d0b1f6a11")

Item = TypeVar("Item")
Entry = TypeVar("Entry", bound=msgspec.Struct)


class Source(Protocol):
    """What a repository reads from and writes to: a state, or a transaction in it."""

    def reading(self) -> AbstractContextManager[Connection]:
        """Yield a connection that sees one moment."""

    def writing(self, lease: Lease | None = None) -> AbstractContextManager[Connection]:
        """Yield a connection whose changes are made all at the end, or not at all."""


class Transaction:
    """What is written together: repositories made of it read and write in it. See `State.begin`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def reading(self) -> AbstractContextManager[Connection]:
        """Yield its connection."""
        return nullcontext(self.connection)

    def writing(self, lease: Lease | None = None) -> AbstractContextManager[Connection]:
        """Yield its connection. Whoever began it has seen to the lease."""
        return nullcontext(self.connection)


class EventJournal(Generic[Entry]):
    """What happened to the rows of a table, each with a number, who did it and when. `owner` names such a row."""

    def __init__(self, table: Table, owner: str, kind: type[Entry]) -> None:
        self._table = table
        self._owner = owner
        self._kind = kind
        self._columns = [table.c[name] for name in kind.__struct_fields__]

    def add(
        self, connection: Connection, owner: str, what: str, detail: dict[str, Any], who: str, at: datetime
    ) -> None:
        """Write what happened last."""
        of_it = self._table.c[self._owner] == owner
        last = connection.scalar(select(func.max(self._table.c.number)).where(of_it)) or 0
        told = {"what": what, "detail": msgspec.json.encode(detail).decode(), "who": who, "at": at}
        connection.execute(self._table.insert().values({self._owner: owner, "number": last + 1, **told}))

    def of(self, connection: Connection, owners: Sequence[str]) -> dict[str, list[Entry]]:
        """Return what happened to several rows, by their ids, each in its order."""
        found: dict[str, list[Entry]] = {name: [] for name in owners}
        for some in chunks(owners):
            query = select(*self._columns).where(self._table.c[self._owner].in_(some))
            for row in connection.execute(query.order_by(self._table.c.number)):
                entry = self._kind(**{**row._mapping, "detail": msgspec.json.decode(row.detail)})
                found[row._mapping[self._owner]].append(entry)
        return found


class Repository:
    """The rows of one concern.

    Of a state, each method reads or writes in a transaction of its own; of a transaction, it is a part of that.
    With a lease nothing is written unless this process still has it; else LeaseLost is raised.
    """

    def __init__(self, source: Source, lease: Lease | None = None) -> None:
        self._source = source
        self._lease = lease

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._source.reading()

    def _writing(self) -> AbstractContextManager[Connection]:
        return self._source.writing(self._lease)


def stable_id(*parts: object) -> str:
    """Return an id that is the same for the same parts, on whatever machine."""
    return str(uuid.uuid5(_NAMESPACE, msgspec.json.encode(parts).decode()))


def upsert(
    connection: Connection, table: Table, columns: Mapping[str, Any], changing: Iterable[str], keys: str = "id"
) -> Insert:
    """Return a statement that writes a row, or, where its `keys` are there already, what is `changing` of it."""
    statement = insert(connection, table).values(columns)
    changes = {name: statement.excluded[name] for name in changing}
    return statement.on_conflict_do_update(index_elements=keys.split(), set_=changes)


def chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Yield items, as many at a time as a query may name.

    >>> [len(some) for some in chunks(["1"] * 1200)]
    [500, 500, 200]
    """
    for start in range(0, len(items), _AT_ONCE):
        yield items[start : start + _AT_ONCE]


def created_within(
    table: Table, model: str | None, start: datetime | None, end: datetime | None
) -> list[ColumnElement[bool]]:
    """Return the conditions that rows are of a model, if one is named, made from `start` on and before `end`."""
    given = ((table.c.model.__eq__, model), (table.c.created.__ge__, start), (table.c.created.__lt__, end))
    return [condition(value) for condition, value in given if value is not None]


def under_way_within(table: Table, model: str, start: datetime, end: datetime) -> list[ColumnElement[bool]]:
    """Return the conditions that rows are of a model, and were made by `end` and had not ended before `start`."""
    return [table.c.model == model, table.c.created <= end, table.c.ended.is_(None) | (table.c.ended >= start)]


def of_stream(table: Table, model: str, version: str | None, variant: str) -> list[ColumnElement[bool]]:
    """Return the conditions that rows are of a model, version and variant."""
    return [table.c.model == model, table.c.version == version, table.c.variant == variant]
