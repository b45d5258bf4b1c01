"""The tables. A row of each is a plain class beside the repository that reads and writes it.

Times are aware datetimes, kept in UTC. A change here goes into a new file in `migrations/versions`, too.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    literal_column,
)

VERSION_TABLE = "mooring_version"


class Utc(TypeDecorator[datetime]):
    """An aware datetime, in UTC. SQLite keeps no time zone, so none goes there."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what goes into the database. Raises ValueError for a time without a zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None]:
        """Return what makes a time in UTC of what came from the database; a page has thousands of them."""
        return _from_text if dialect.name == "sqlite" else _in_utc


def _from_text(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(f"{value}+00:00")


def _in_utc(value: datetime | None) -> datetime | None:
    return None if value is None else value.astimezone(UTC)


class VersionText(TypeDecorator[str]):
    """A model's version, None where the log names none; kept as '', since unique keys tell two NULLs apart."""

    impl = Text
    cache_ok = True
    coerce_to_is_types = ()

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str:
        """Return what goes into the database."""
        return value or ""

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """Return what came from the database."""
        return value or None


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

objects = Table(
    "mooring_objects",
    metadata,
    Column("model", Text, primary_key=True),
    Column("log", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("day", Date, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("done", Utc, nullable=False),
    Index(None, "model", "log", "day"),
)

models = Table(
    "mooring_models",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", VersionText, primary_key=True),
    Column("variant", Text, primary_key=True),
    Column("standing", Text, nullable=False),
    Column("created", Utc, nullable=False),
)

baselines = Table(
    "mooring_baselines",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", VersionText, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("created", Utc, nullable=False),
    Column("source", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

windows = Table(
    "mooring_windows",
    metadata,
    Column("id", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("version", VersionText, nullable=False),
    Column("variant", Text, nullable=False),
    Column("start", Utc, nullable=False),
    Column("end", Utc, nullable=False),
    Column("number", Integer, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("weight", BigInteger, nullable=False),
    Column("late", BigInteger, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("profile", LargeBinary),
    ForeignKeyConstraint(
        ["model", "version", "variant"],
        ["mooring_models.model", "mooring_models.version", "mooring_models.variant"],
    ),
    UniqueConstraint("model", "version", "variant", "start"),
    UniqueConstraint("model", "number"),
    Index(None, "model", "start"),
    Index(None, "model", "status"),
)
# A page of all models is answered from this index alone, and from the one of its name on verdicts. It has not all
# variants: SQLite would take it for questions about one of them, too, and go through those of the others.
answering = windows.c.variant != literal_column("'shadow'")
Index(
    "ix_mooring_windows_recent",
    *(windows.c[name] for name in ("model", "start", "end", "rows", "version", "variant", "number", "id")),
    sqlite_where=answering,
    postgresql_where=answering,
)

verdicts = Table(
    "mooring_verdicts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("window_id", Text, ForeignKey("mooring_windows.id"), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("provisional", Boolean, nullable=False),
    Column("status", Text, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("budget", Float, nullable=False),
    Column("baseline", Text),
    Column("alarms", Integer, nullable=False),
    Column("message", Text, nullable=False),
    Column("summary", Text, nullable=False),
    Column("created", Utc, nullable=False),
    Column("tracked", Utc),
    Column("results", LargeBinary, nullable=False),
    UniqueConstraint("window_id", "revision", "provisional"),
    Index("ix_mooring_verdicts_recent", "window_id", "revision", "provisional", "status", "alarms"),
)
# Few wait to be logged to MLflow at any time.
_untracked = verdicts.c.tracked.is_(None)
Index("ix_mooring_verdicts_untracked", verdicts.c.window_id, sqlite_where=_untracked, postgresql_where=_untracked)

# Beside the results, which are large: on SQLite, what stands behind them in a row is slow to reach.
verdict_cells = Table(
    "mooring_verdict_cells",
    metadata,
    Column("verdict_id", Text, ForeignKey("mooring_verdicts.id"), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

# How each stream stands, drift and performance apart: what its evidence has come to, and which incident is open.
streams = Table(
    "mooring_streams",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", VersionText, primary_key=True),
    Column("variant", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("baseline", Text, nullable=False),
    Column("windows", Integer, nullable=False),
    Column("level", Float, nullable=False),
    Column("since", Utc),
    Column("updated", Utc, nullable=False),
    Column("weight", Float, nullable=False, server_default="1"),
    Column("incident_id", Text),
    Column("data", LargeBinary, nullable=False),
)

slots = Table(
    "mooring_slots",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", VersionText, primary_key=True),
    Column("variant", Text, primary_key=True),
    Column("part", Text, primary_key=True),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("baseline", Text, nullable=False),
    Column("sums", LargeBinary, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

notes = Table(
    "mooring_notes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("model", Text),
    Column("start", Utc, nullable=False),
    Column("end", Utc, nullable=False),
    Column("name", Text, nullable=False),
    Column("created", Utc, nullable=False),
)

incidents = Table(
    "mooring_incidents",
    metadata,
    Column("id", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("version", VersionText, nullable=False),
    Column("variant", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("features", Text, nullable=False),
    Column("level", Float, nullable=False),
    Column("windows", Integer, nullable=False),
    Column("message", Text, nullable=False),
    Column("start", Utc, nullable=False),
    Column("opened", Utc, nullable=False),
    Column("updated", Utc, nullable=False),
    Column("closed", Utc),
    Index(None, "model", "opened"),
)

alerts = Table(
    "mooring_alerts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("verdict_id", Text, ForeignKey("mooring_verdicts.id")),
    Column("rollout_id", Text, ForeignKey("mooring_rollouts.id")),
    Column("model", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("payload", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created", Utc, nullable=False),
    Column("next_attempt", Utc, nullable=False),
    Column("last_error", Text),
    Column("sent", Utc),
    UniqueConstraint("verdict_id", "kind", "channel"),
    Index(None, "model", "status"),
    Index(None, "model", "created"),
)

performance = Table(
    "mooring_performance",
    metadata,
    Column("id", Text, primary_key=True),
    Column("window_id", Text, ForeignKey("mooring_windows.id"), nullable=False),
    Column("look", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("labelled", BigInteger, nullable=False),
    Column("delay", Float),
    Column("chance", Float),
    Column("budget", Float, nullable=False),
    Column("message", Text, nullable=False),
    Column("created", Utc, nullable=False),
    Column("tracked", Utc),
    Column("results", LargeBinary, nullable=False),
    UniqueConstraint("window_id", "look"),
)

# Of a window how its model does on its rows, as far as that can be told without labels.
estimations = Table(
    "mooring_estimations",
    metadata,
    Column("window_id", Text, ForeignKey("mooring_windows.id"), primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("window_rows", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("chance", Float),
    Column("budget", Float, nullable=False),
    Column("message", Text, nullable=False),
    Column("created", Utc, nullable=False),
    Column("results", LargeBinary, nullable=False),
)

tickets = Table(
    "mooring_tickets",
    metadata,
    Column("id", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("cause", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("champion", VersionText, nullable=False),
    Column("candidate", VersionText, nullable=False),
    Column("run_id", Text),
    Column("directory", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("created", Utc, nullable=False),
    Column("updated", Utc, nullable=False),
    Column("ended", Utc),
    UniqueConstraint("model", "number"),
)
# Never two at once for one model.
_unended = tickets.c.ended.is_(None)
Index("uq_mooring_tickets_unended", tickets.c.model, unique=True, sqlite_where=_unended, postgresql_where=_unended)

steps = Table(
    "mooring_steps",
    metadata,
    Column("ticket_id", Text, ForeignKey("mooring_tickets.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("what", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("who", Text, nullable=False),
    Column("at", Utc, nullable=False),
)

promotions = Table(
    "mooring_promotions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("ticket_id", Text, ForeignKey("mooring_tickets.id")),
    Column("kind", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("previous", VersionText, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("who", Text, nullable=False),
    Column("created", Utc, nullable=False),
    Column("ended", Utc),
    Index(None, "model", "created"),
)

rollouts = Table(
    "mooring_rollouts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("previous", VersionText, nullable=False),
    Column("cause", Text, nullable=False),
    Column("ticket_id", Text, ForeignKey("mooring_tickets.id")),
    Column("plan", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("step", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("counts", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("wish", Text),
    Column("wish_by", Text),
    Column("wish_reason", Text),
    Column("who", Text, nullable=False),
    Column("created", Utc, nullable=False),
    Column("updated", Utc, nullable=False),
    Column("ended", Utc),
    UniqueConstraint("model", "number"),
)
# Never two at once for one model.
_under_way = rollouts.c.ended.is_(None)
Index(
    "uq_mooring_rollouts_unended",
    rollouts.c.model,
    unique=True,
    sqlite_where=_under_way,
    postgresql_where=_under_way,
)

rollout_events = Table(
    "mooring_rollout_events",
    metadata,
    Column("rollout_id", Text, ForeignKey("mooring_rollouts.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("what", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("who", Text, nullable=False),
    Column("at", Utc, nullable=False),
)

serving = Table(
    "mooring_serving",
    metadata,
    Column("model", Text, primary_key=True),
    Column("host", Text, primary_key=True),
    Column("follows", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("since", Utc, nullable=False),
    Column("held_back", Text, nullable=False, server_default=""),
)

leases = Table(
    "mooring_leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("expires", Utc, nullable=False),
)
