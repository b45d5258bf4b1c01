"""Leases: of several processes that could do a job, one does it, until it ends or is not heard of for a while."""

from __future__ import annotations

import os
import random
import socket
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

from sqlalchemy import ColumnElement, Connection, Interval, delete, func, literal, or_, select, update

from mooring.state.database import Database, StateError, insert
from mooring.state.tables import Utc, leases

_FORM = "%Y%m%dT%H%M%SZ"
_STARTED = datetime.now(UTC)


class LeaseLost(StateError):
    """Another process has the lease now: what this one was about to write is not written."""


class LeaseHeld(StateError):
    """Another process has the lease."""


class Holder(NamedTuple):
    """Who has a lease, as `HOST:PROCESS:…:STARTED:EVERY`, and until when, unless it is renewed."""

    holder: str
    expires: datetime

    @property
    def in_words(self) -> str:
        """Where that process runs, and since when."""
        host, process, _, started, _ = self._parts
        try:
            since = f" since {datetime.strptime(started, _FORM).replace(tzinfo=UTC):%Y-%m-%d %H:%M:%S} UTC"
        except ValueError:
            since = ""  # an older version's
        return f"process {process} on {host}{since}"

    @property
    def every(self) -> str:
        """How often it does its job, such as `1m`; '' where it does it once, or never said."""
        return self._parts[4]

    @property
    def _parts(self) -> list[str]:
        return [*self.holder.split(":"), "", "", "", "", ""][:5]


class Lease:
    """The right to do a job, for so many seconds at a time by the database's own clock.

    As a context manager it is acquired, renewed by a thread of its own, and released; LeaseHeld is raised where
    another has it. Hand it to `State.begin`, which makes sure that nothing is written without it.

    >>> from tempfile import TemporaryDirectory
    >>> directory = TemporaryDirectory()
    >>> database = Database(f"{directory.name}/state.db")
    >>> one, other = Lease(database, "monitor/wine"), Lease(database, "monitor/wine")
    >>> one.acquire(), other.acquire()
    (True, False)
    >>> one.release()
    >>> other.acquire()
    True
    >>> database.close(); directory.cleanup()
    """

    def __init__(self, database: Database, name: str, seconds: float = 60.0, every: str = "") -> None:
        self.name = name
        self.seconds = seconds
        own = f"{random.getrandbits(48):012x}"
        self.me = f"{socket.gethostname()}:{os.getpid()}:{own}:{_STARTED.strftime(_FORM)}:{every}"
        self._database = database
        self._ended = threading.Event()
        self._keeper: threading.Thread | None = None

    def acquire(self) -> bool:
        """Take the lease where nobody has it, or who had it let it expire; return whether this one has it now."""
        with self._database.writing() as connection:
            statement = insert(connection, leases).values(
                name=self.name, holder=self.me, expires=_clock(connection, self.seconds)
            )
            taken = statement.on_conflict_do_update(
                index_elements=[leases.c.name],
                set_={"holder": statement.excluded.holder, "expires": statement.excluded.expires},
                where=or_(leases.c.expires <= _clock(connection), leases.c.holder == self.me),
            ).returning(leases.c.name)
            return connection.execute(taken).first() is not None

    def renew(self) -> None:
        """Have it for the whole time again. Raises LeaseLost."""
        with self._database.writing() as connection:
            self.check(connection)

    def check(self, connection: Connection) -> None:
        """Renew it within a transaction, at whose end it still holds. Raises LeaseLost."""
        renewed = connection.execute(
            update(leases)
            .where(leases.c.name == self.name, leases.c.holder == self.me)
            .values(expires=_clock(connection, self.seconds))
            .returning(leases.c.name)
        )
        if renewed.first() is None:
            raise LeaseLost(f"another process has taken over {self.name}, since this one was not heard of in time")

    def release(self) -> None:
        """Let others have it."""
        with self._database.writing() as connection:
            connection.execute(delete(leases).where(leases.c.name == self.name, leases.c.holder == self.me))

    def __enter__(self) -> Self:
        if not self.acquire():
            now = holder(self._database, self.name)
            raise LeaseHeld(
                f"{self.name} is being done by {now.holder if now else 'another process'}; should that have been "
                f"killed, it is free again after {self.seconds:.0f} seconds"
            )
        self._ended.clear()
        self._keeper = threading.Thread(target=self._keep, name=f"lease of {self.name}", daemon=True)
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._keeper is not None:
            self._keeper.join()
        with suppress(StateError):  # it expires by itself
            self.release()

    def _keep(self) -> None:
        while not self._ended.wait(self.seconds / 3):
            try:
                self.renew()
            except LeaseLost:
                return  # the next transaction says so
            except StateError:
                continue  # the database may be back before the lease expires


def holder(database: Database, name: str) -> Holder | None:
    """Return who has a lease, or None where nobody has."""
    with database.reading() as connection:
        query = select(leases.c.holder, leases.c.expires).where(
            leases.c.name == name, leases.c.expires > _clock(connection)
        )
        row = connection.execute(query).first()
        return Holder(*row) if row else None


def holders(database: Database) -> dict[str, Holder]:
    """Return who has which lease."""
    with database.reading() as connection:
        query = select(leases.c.name, leases.c.holder, leases.c.expires)
        found = connection.execute(query.where(leases.c.expires > _clock(connection)))
        return {name: Holder(*rest) for name, *rest in found}


def _clock(connection: Connection, plus: float = 0.0) -> ColumnElement[datetime]:
    """Return the database's time, that much later: hosts disagree on theirs. SQLite's is that of this host."""
    later = timedelta(seconds=plus)
    if connection.dialect.name == "sqlite":
        return literal(datetime.now(UTC) + later, Utc())
    return func.clock_timestamp() + literal(later, Interval())
