"""Bringing a state's tables to the form that this code knows.

A change to `tables.py` needs a new file in `versions/`: copy the newest, name it rNNNN_ and what it does, where
NNNN is its `revision`, and set that and its `down_revision`. On SQLite an existing table is altered through
`op.batch_alter_table`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, column, inspect, select, table, text

from mooring.state.tables import VERSION_TABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from alembic.script import ScriptDirectory

HERE = Path(__file__).parent
_ADVISORY_LOCK = 0x6D6F6F72  # PostgreSQL names such locks by a number


class NewerState(Exception):
    """The tables are of a revision that this code does not have."""


def at_head(connection: Connection, scripts: Path = HERE) -> bool:
    """Whether the tables have the form that this code knows. Raises NewerState."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return False
    current = connection.scalar(select(column("version_num")).select_from(table(VERSION_TABLE)))
    if current is None:
        return False
    known = _revisions(scripts)
    if current not in known:
        raise NewerState(current)
    return bool(current == max(known))


def upgrade(connection: Connection, scripts: Path = HERE) -> None:
    """Bring the tables to the newest form, in the caller's transaction, unless another process did meanwhile.

    Raises NewerState.
    """
    if connection.dialect.name == "postgresql":  # on SQLite the transaction itself keeps others out
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
    if not at_head(connection, scripts):
        _run(connection, scripts, lambda script, current: script._upgrade_revs("head", current))


def downgrade(connection: Connection, revision: str, scripts: Path = HERE) -> None:
    """Bring the tables back to an older revision, or to none with `base`, in the caller's transaction."""
    _run(connection, scripts, lambda script, current: script._downgrade_revs(revision, current))


def _revisions(scripts: Path) -> set[str]:
    """Return the revisions that there are files for: in r0001_monitor.py lies 0001."""
    return {path.name[1:5] for path in (scripts / "versions").glob("r[0-9]*.py")}


def _run(connection: Connection, scripts: Path, steps: Callable[[ScriptDirectory, Any], Any]) -> None:
    # A sixth of a second, which every command that opens a state would pay.
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(scripts)
    opts = {"version_table": VERSION_TABLE, "fn": lambda current, _: steps(script, current)}
    context = MigrationContext.configure(connection, opts=opts)
    with Operations.context(context):
        context.run_migrations()
