"""How assessments of a model's performance are kept in the state."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from types import EllipsisType
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, func, select, update

from mooring.drift.stored import FormatError, dump, load
from mooring.state.database import insert
from mooring.state.tables import Assessment, Measured, Segment, Status, Window, performance, windows

FORMAT = 1
_WINDOW = [windows.c[name].label(f"window_{name}") for name in Window.__struct_fields__]
_PLAIN = (
    "look",
    "status",
    "task",
    "rows",
    "labelled",
    "delay",
    "chance",
    "budget",
    "message",
    "created",
    "tracked",
)


class _Results(msgspec.Struct, frozen=True):
    judged: int
    measures: dict[str, Measured]
    before: dict[str, float]
    segments: tuple[Segment, ...]


def put(connection: Connection, assessment: Assessment) -> None:
    """Write an assessment; one of the same window and look is replaced."""
    kept = _Results(assessment.judged, assessment.measures, assessment.before, assessment.segments)
    columns = {
        "id": assessment.id,
        "window_id": assessment.window.id,
        "results": dump(kept, "performance", FORMAT),
        **{name: getattr(assessment, name) for name in _PLAIN},
    }
    statement = insert(connection, performance).values(columns)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[performance.c.id],
            set_={name: statement.excluded[name] for name in columns if name != "id"},
        )
    )


def assessments(
    connection: Connection,
    model: str,
    version: str | EllipsisType | None,
    variant: str | None,
    start: datetime | None,
    end: datetime | None,
    status: str | None,
    newest: int,
) -> list[Assessment]:
    """Return the newest look at each of the newest windows, the oldest window first."""
    query = _newest_looks().where(windows.c.model == model)
    if not isinstance(version, EllipsisType):
        query = query.where(windows.c.version == version)
    for column, value in ((windows.c.variant, variant), (windows.c.status, status)):
        if value is not None:
            query = query.where(column == value)
    if start is not None:
        query = query.where(windows.c.start >= start)
    if end is not None:
        query = query.where(windows.c.start < end)
    query = query.order_by(windows.c.start.desc(), windows.c.number.desc()).limit(newest)
    return [_assessment(row) for row in connection.execute(query)][::-1]


def unassessed(connection: Connection, model: str, since: datetime, *, with_open: bool) -> list[Window]:
    """Return the windows from `since` on that were not assessed with all their rows, the oldest first."""
    done = select(performance.c.id).where(
        performance.c.window_id == windows.c.id, performance.c.rows == windows.c.rows
    )
    query = select(*_WINDOW).where(windows.c.model == model, windows.c.start >= since, ~done.exists())
    if not with_open:
        query = query.where(windows.c.status == "closed")
    return [_window(row) for row in connection.execute(query.order_by(windows.c.start))]


def untracked(connection: Connection, model: str, limit: int) -> list[Assessment]:
    """Return the newest looks that are not logged to MLflow yet, the oldest windows first."""
    query = _newest_looks().where(
        windows.c.model == model, performance.c.tracked.is_(None), windows.c.status == "closed"
    )
    return [_assessment(row) for row in connection.execute(query.order_by(windows.c.number).limit(limit))]


def statuses(connection: Connection, window_ids: Sequence[str]) -> dict[str, tuple[Status, str]]:
    """Return the status and the message of the newest look at each of these windows that was assessed."""
    columns = [performance.c[name] for name in ("window_id", "status", "message")]
    query = select(*columns).where(performance.c.window_id.in_(window_ids)).order_by(performance.c.look)
    return {row.window_id: (row.status, row.message) for row in connection.execute(query)}


def mark_tracked(connection: Connection, ids: Sequence[str]) -> None:
    """Note that these are logged to MLflow."""
    connection.execute(update(performance).where(performance.c.id.in_(ids)).values(tracked=datetime.now(UTC)))


def _newest_looks() -> Select[Any]:
    other = performance.alias()
    last = select(func.max(other.c.look)).where(other.c.window_id == windows.c.id).scalar_subquery()
    columns = [performance.c[name] for name in (*_PLAIN, "results")]
    return (
        select(*_WINDOW, *columns)
        .join_from(windows, performance, performance.c.window_id == windows.c.id)
        .where(performance.c.look == last)
    )


def _window(row: Row[Any]) -> Window:
    return Window(**{name: row._mapping[f"window_{name}"] for name in Window.__struct_fields__})


def _assessment(row: Row[Any]) -> Assessment:
    try:
        kept = load(row.results, _Results, "performance", FORMAT)
    except FormatError:
        kept = _Results(0, {}, {}, ())  # another version wrote it; the rest says the most of it
    return Assessment(
        window=_window(row),
        **{name: row._mapping[name] for name in _PLAIN},
        judged=kept.judged,
        measures=kept.measures,
        before=kept.before,
        segments=kept.segments,
    )
