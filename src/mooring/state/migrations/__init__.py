"""Bringing a state's tables to the form that this code knows.

A change to `tables.py` needs a new file in `versions/`: copy the newest, name it after what it does, and set its
`revision` and `down_revision`. On SQLite an existing table is altered through `op.batch_alter_table`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from mooring.state.tables import VERSION_TABLE

HERE = Path(__file__).parent
_ADVISORY_LOCK = 0x6D6F6F72  # PostgreSQL names such locks by a number


class NewerState(Exception):
    """The tables are of a revision that this code does not have."""


def at_head(connection: Connection, scripts: Path = HERE) -> bool:
    """Whether the tables have the form that this code knows. Raises NewerState."""
    script, current = ScriptDirectory(scripts), _context(connection).get_current_revision()
    if current is None:
        return False
    try:
        script.get_revision(current)
    except CommandError:
        raise NewerState(current) from None
    return current == script.get_current_head()


def upgrade(connection: Connection, scripts: Path = HERE) -> None:
    """Bring the tables to the newest form, in the caller's transaction, unless another process did meanwhile.

    Raises NewerState.
    """
    if connection.dialect.name == "postgresql":  # on SQLite the transaction itself keeps others out
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
    if not at_head(connection, scripts):
        _run(connection, lambda current, _: ScriptDirectory(scripts)._upgrade_revs("head", current))


def downgrade(connection: Connection, revision: str, scripts: Path = HERE) -> None:
    """Bring the tables back to an older revision, or to none with `base`, in the caller's transaction."""
    _run(connection, lambda current, _: ScriptDirectory(scripts)._downgrade_revs(revision, current))


def _run(connection: Connection, steps: Any) -> None:
    context = _context(connection, fn=steps)
    with Operations.context(context):
        context.run_migrations()


def _context(connection: Connection, **opts: Any) -> MigrationContext:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, **opts})
