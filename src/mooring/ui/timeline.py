"""What happened to a model in a time: alerts, retrainings and rollouts, as a timeline shows them."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import or_, select

from mooring.state.state import State
from mooring.state.tables import alerts, rollouts, tickets
from mooring.ui import paths
from mooring.ui.routing import address

_MOST = 200


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """An alert. `channel` is named without its secrets; `see` is the page about what it says."""

    kind: str
    status: str
    channel: str
    created: datetime
    error: str | None
    see: str


class Retrained(msgspec.Struct, frozen=True, kw_only=True):
    """A retraining, under way as long as it has not ended."""

    number: int
    status: str
    reason: str
    candidate: str | None
    created: datetime
    ended: datetime | None
    see: str


class PutIntoService(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout of a version, under way as long as it has not ended."""

    number: int
    status: str
    version: str
    reason: str
    created: datetime
    ended: datetime | None
    see: str


def sent(state: State, model: str, start: datetime, end: datetime) -> tuple[Sent, ...]:
    """Return the newest alerts that were made between two times, the oldest of them first."""
    columns = [alerts.c[name] for name in ("kind", "status", "channel", "created", "last_error")]
    query = (
        select(*columns)
        .where(alerts.c.model == model, alerts.c.created >= start, alerts.c.created <= end)
        .order_by(alerts.c.created.desc())
        .limit(_MOST)
    )
    see = address(paths.HISTORY, {"model": model})
    with state.database.reading() as connection:
        found = [
            Sent(kind=row[0], status=row[1], channel=row[2], created=row[3], error=row[4], see=see)
            for row in connection.execute(query)
        ]
    return tuple(found[::-1])


def retrained(state: State, model: str, start: datetime, end: datetime) -> tuple[Retrained, ...]:
    """Return the newest retrainings that were under way between two times, the oldest of them first."""
    names = ("number", "status", "reason", "candidate", "created", "ended")
    query = (
        select(*(tickets.c[name] for name in names))
        .where(
            tickets.c.model == model,
            tickets.c.created <= end,
            or_(tickets.c.ended.is_(None), tickets.c.ended >= start),
        )
        .order_by(tickets.c.number.desc())
        .limit(_MOST)
    )
    with state.database.reading() as connection:
        found = [
            Retrained(**row._mapping, see=address(paths.RETRAINING, {"model": model, "number": row.number}))
            for row in connection.execute(query)
        ]
    return tuple(found[::-1])


def put_into_service(state: State, model: str, start: datetime, end: datetime) -> tuple[PutIntoService, ...]:
    """Return the newest rollouts that were under way between two times, the oldest of them first."""
    names = ("number", "status", "version", "reason", "created", "ended")
    query = (
        select(*(rollouts.c[name] for name in names))
        .where(
            rollouts.c.model == model,
            rollouts.c.created <= end,
            or_(rollouts.c.ended.is_(None), rollouts.c.ended >= start),
        )
        .order_by(rollouts.c.number.desc())
        .limit(_MOST)
    )
    with state.database.reading() as connection:
        found = [
            PutIntoService(**row._mapping, see=address(paths.ROLLOUT, {"model": model, "number": row.number}))
            for row in connection.execute(query)
        ]
    return tuple(found[::-1])
