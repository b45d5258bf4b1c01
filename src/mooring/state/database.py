"""Where the state lies: an SQLite file, or a database of PostgreSQL; opened, and its tables brought up to date."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection

from mooring.files import OWN, check, close, close_file, make_directory
from mooring.settings import DEFAULT_STATE
from mooring.state import migrations

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

_BUSY_SECONDS = 30.0
_CONNECT_SECONDS = 10


class StateError(Exception):
    """A state that can't be used; the message says why, and what to do."""


class Database:
    """An opened database with the tables that this code knows.

    `url` is `sqlite:///PATH`, `postgresql://USER@HOST/NAME`, or the path of an SQLite file. Raises StateError,
    here and later, where the database is not there, refuses, or was written by a newer Mooring.
    """

    def __init__(self, url: str = DEFAULT_STATE) -> None:
        parsed = _parse(url)
        self.name = _shown(parsed)
        try:
            self._engine = _open(parsed)
        except ModuleNotFoundError as error:
            what = "pip install 'mooring[postgres]'" if error.name == "psycopg" else f"install {error.name}"
            raise StateError(f"{self.name} needs a driver: {what}") from None
        except (NoSuchModuleError, SQLAlchemyError) as error:
            raise StateError(f"{self.name} is no state: {error}") from None
        isolation = {"isolation_level": "REPEATABLE READ"} if self._engine.dialect.name == "postgresql" else {}
        self._reader = self._engine.execution_options(**{_PURPOSE: "reading"}, **isolation)
        try:
            with self.explained():
                self._migrate()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection that sees one moment of the database and changes nothing."""
        with self.explained(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Yield a connection whose changes are made all at the end, or, after an exception, not at all."""
        with self.explained(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """Yield a connection that may change the tables themselves, all at the end or not at all."""
        migrator = self._engine.execution_options(**{_PURPOSE: "migrating"})
        with self.explained(), migrator.begin() as connection:
            yield connection
            if connection.dialect.name == "sqlite":
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
                assert not broken, f"a migration left rows without those that they name: {broken[:3]}"

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the database's errors into StateErrors."""
        try:
            yield
        except migrations.NewerState as error:
            raise StateError(
                f"the state {self.name} was written by a newer Mooring (its tables are of revision {error}): "
                "upgrade this one, or name another state with --state"
            ) from None
        except NoConnection as error:
            raise StateError(f"the state {self.name} has no connection to spare: {error}") from error
        except DBAPIError as error:
            raise StateError(self._explain(error)) from error

    def _explain(self, error: DBAPIError) -> str:
        reason = str(error.orig).strip().partition("\n")[0]
        if "locked" in reason:
            return f"the state {self.name} is held by another process for over {_BUSY_SECONDS:.0f} seconds: end it"
        if self._engine.dialect.name == "sqlite":
            todo = "check that it is an SQLite file that may be written to, with room on its disk"
        else:
            todo = "check that the database runs, and what this user may do there"
        return f"the state {self.name} can't be used: {reason}; {todo}, or name another with --state"

    def _migrate(self) -> None:
        with self._reader.connect() as connection:
            if migrations.at_head(connection):
                return
        with self.migrating() as connection:
            migrations.upgrade(connection)


def insert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT that can be told what to do where a row is there already."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)


_PURPOSE = "mooring_purpose"


def _parse(url: str) -> URL:
    if "://" not in url:
        return URL.create("sqlite", database=url)
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StateError("the state's URL can't be read: it looks like postgresql://USER@HOST/NAME") from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise StateError(f"{_shown(parsed)} is no state: it is sqlite:///PATH or postgresql://USER@HOST/NAME")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise StateError(f"a state in memory would be forgotten: name a file, as in {DEFAULT_STATE}")
    return parsed


def _shown(url: URL) -> str:
    secret = [name for name in url.query if "password" in name]
    if url.drivername == "postgresql+psycopg":
        url = url.set(drivername="postgresql")
    return url.difference_update_query(secret).render_as_string(hide_password=True)


def _open(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        arguments: dict[str, Any] = {}
        if url.get_driver_name() == "psycopg":
            # PgBouncer and its like give each transaction another server, where what was prepared is unknown.
            arguments = {"connect_timeout": _CONNECT_SECONDS, "prepare_threshold": None}
        return create_engine(url, connect_args=arguments, pool_pre_ping=True, hide_parameters=True)
    path = Path(url.database or "")
    try:
        make_directory(path.parent, path.parent)
    except OSError as error:
        raise StateError(f"the directory of the state {path} can't be made: {error.strerror}") from None
    with suppress(OSError):  # SQLite says what is wrong
        _close(path)
    engine = create_engine(url, connect_args={"timeout": _BUSY_SECONDS}, hide_parameters=True)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _close(path: Path) -> None:
    """Make the file where there is none, and have nobody else read it; SQLite makes those beside it as it is."""
    if OWN in path.absolute().parts:
        check(path.parent, "the state")
    with suppress(FileExistsError):
        made = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        close_file(made, path.parent)
        os.close(made)
    for suffix in ("", "-wal", "-shm"):
        if (one := Path(f"{path}{suffix}")).is_file():
            close(one)


def _set_up_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # else Python's sqlite3 begins and ends transactions where it thinks fit
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            # Of two processes that open a new file, SQLite tells one so at once, without waiting.
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    purpose = connection.get_execution_options().get(_PURPOSE)
    # A migration makes a table anew to alter it, while others name its rows.
    connection.exec_driver_sql(f"PRAGMA foreign_keys = {'OFF' if purpose == 'migrating' else 'ON'}")
    # A transaction that reads first and then writes would be refused, at once, where another wrote in between.
    connection.exec_driver_sql("BEGIN" if purpose == "reading" else "BEGIN IMMEDIATE")
