"""The state as a whole: opened, closed, written to in one transaction, and who may write what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Self

from sqlalchemy import Connection

from mooring.settings import DEFAULT_STATE
from mooring.state.database import Database
from mooring.state.leases import Holder, Lease, holder, holders
from mooring.state.repository import Transaction


class State:
    """What is remembered between two runs, of all models; each of its repositories has one part of that.

    Everything that belongs together is written in one transaction:

    >>> from datetime import date
    >>> from tempfile import TemporaryDirectory
    >>> from mooring.state.baselines import StoredBaselines
    >>> from mooring.state.objects import DoneObject, Objects
    >>> directory = TemporaryDirectory()
    >>> with State(f"{directory.name}/state.db") as state:
    ...     with state.begin() as tx:
    ...         kept = StoredBaselines(tx).put("wine", "3", b"...", "models:/wine/3")
    ...         Objects(tx).mark_done("wine", "mooring-log", [DoneObject("a.parquet", date(2026, 3, 1), 1000)])
    ...     Objects(state).seen("wine", "mooring-log", ["a.parquet", "b.parquet"])
    {'a.parquet'}
    >>> directory.cleanup()

    Raises StateError where the database is not there, refuses, or was written by a newer Mooring.
    """

    def __init__(self, url: str = DEFAULT_STATE) -> None:
        self.database = Database(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self.database.close()

    @property
    def name(self) -> str:
        """Where it lies, without a password."""
        return self.database.name

    @contextmanager
    def begin(self, lease: Lease | None = None) -> Iterator[Transaction]:
        """Yield a transaction: all of it is written at the end, or, after an exception or a kill, nothing.

        With a lease nothing is written unless this process still has it at the end; else LeaseLost is raised.
        """
        with self.writing(lease) as connection:
            yield Transaction(connection)

    def reading(self) -> AbstractContextManager[Connection]:
        """Yield a connection that sees one moment of the state; for repositories."""
        return self.database.reading()

    @contextmanager
    def writing(self, lease: Lease | None = None) -> Iterator[Connection]:
        """Yield the connection of a transaction, see `begin`; for repositories."""
        with self.database.writing() as connection:
            if lease is not None:
                lease.check(connection)
            yield connection

    def lease(self, name: str, seconds: float = 60.0, every: str = "") -> Lease:
        """Return the lease of a job, such as `monitor/NAME`, done `every` so often; it is not acquired yet."""
        return Lease(self.database, name, seconds, every)

    def holder(self, name: str) -> Holder | None:
        """Return who has a lease, or None where nobody has."""
        return holder(self.database, name)

    def holders(self) -> dict[str, Holder]:
        """Return who has which lease."""
        return holders(self.database)
