"""Assessments: how well a model did on the labelled rows of each window, at each look."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from types import EllipsisType
from typing import Any, Literal

import msgspec
from sqlalchemy import Row, Select, func, select, update

from mooring.drift.stored import FormatError, dump, load
from mooring.performance.fairness import Fairness
from mooring.state.repository import Repository, chunks, stable_id, upsert
from mooring.state.tables import performance, windows
from mooring.state.windows import OF_WINDOW, Window, chosen, window_in
from mooring.status import Severity, Status

FORMAT = 1
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


class Measured(msgspec.Struct, frozen=True):
    """What a measure gave on labelled rows, and the interval in which it lies with 95 % probability."""

    value: float
    low: float | None = None
    high: float | None = None


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """How the model did on the rows of a window in which a feature has one value, or is in one range.

    `status` and `chance` are there where it was judged: the baseline has held-out rows of the segment.
    """

    column: str
    value: str
    rows: int
    labelled: int
    measures: dict[str, Measured] = {}
    status: Severity | None = None
    chance: float | None = None


class Assessment(msgspec.Struct, frozen=True, kw_only=True):
    """How well the model did on the labelled rows of a window.

    `look` counts how often it was judged: 0 where it could not be, for want of labels or of a baseline. `labelled`
    of the `rows` have a label, which came `delay` seconds after them in the middle. `chance` is that of a loss as
    large if nothing had changed, judged with `judged` labelled rows and compared with `budget`. `before` is what
    the measures were on the baseline's held-out rows. `fairness` has rates and errors by protected columns.
    """

    window: Window
    look: int = 0
    status: Status
    task: str = ""
    rows: int
    labelled: int
    delay: float | None = None
    chance: float | None = None
    budget: float = 0.0
    message: str = ""
    created: datetime
    tracked: datetime | None = None
    judged: int = 0
    measures: dict[str, Measured] = {}
    before: dict[str, float] = {}
    segments: tuple[Segment, ...] = ()
    fairness: tuple[Fairness, ...] = ()

    @property
    def id(self) -> str:
        """The assessment's id: the same one however often it is computed."""
        return stable_id(self.window.id, "performance", self.look)

    @property
    def coverage(self) -> float:
        """The share of rows that have a label."""
        return min(self.labelled / self.rows, 1.0) if self.rows else 0.0


class _Results(msgspec.Struct, frozen=True):
    judged: int
    measures: dict[str, Measured]
    before: dict[str, float]
    segments: tuple[Segment, ...]
    fairness: tuple[Fairness, ...] = ()


class Assessments(Repository):
    """The assessments in a state."""

    def history(
        self,
        model: str,
        *,
        version: str | EllipsisType | None = ...,
        variant: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        status: Literal["open", "closed"] | None = None,
        newest: int = 100,
    ) -> list[Assessment]:
        """Return how well a model did in its newest windows that were assessed, the oldest of them first.

        The windows are chosen as `Windows.history` does; of each it is the newest look.
        """
        query = chosen(_newest_looks(), model, version, variant, start, end, status, newest)
        with self._reading() as connection:
            return [_assessment(row) for row in connection.execute(query)][::-1]

    def unassessed(self, model: str, since: datetime, *, with_open: bool = False) -> list[Window]:
        """Return the windows from `since` on that were not assessed with all their rows, the oldest first."""
        done = select(performance.c.id).where(
            performance.c.window_id == windows.c.id, performance.c.rows == windows.c.rows
        )
        query = select(*OF_WINDOW).where(windows.c.model == model, windows.c.start >= since, ~done.exists())
        if not with_open:
            query = query.where(windows.c.status == "closed")
        with self._reading() as connection:
            return [window_in(row) for row in connection.execute(query.order_by(windows.c.start))]

    def untracked(self, model: str, limit: int = 100) -> list[Assessment]:
        """Return the newest looks that are not logged to MLflow yet, the oldest windows first."""
        query = _newest_looks().where(
            windows.c.model == model, performance.c.tracked.is_(None), windows.c.status == "closed"
        )
        with self._reading() as connection:
            return [_assessment(row) for row in connection.execute(query.order_by(windows.c.number).limit(limit))]

    def statuses(self, window_ids: Iterable[str]) -> dict[str, tuple[Status, str]]:
        """Return the status and the message of the newest look at each of these windows that was assessed."""
        query = select(*(performance.c[name] for name in ("window_id", "status", "message")))
        found: dict[str, tuple[Status, str]] = {}
        with self._reading() as connection:
            for some in chunks(sorted(set(window_ids))):
                of_these = query.where(performance.c.window_id.in_(some)).order_by(performance.c.look)
                found |= {row.window_id: (row.status, row.message) for row in connection.execute(of_these)}
        return found

    def put(self, assessment: Assessment) -> None:
        """Write an assessment; one of the same window and look is replaced."""
        kept = _Results(
            assessment.judged, assessment.measures, assessment.before, assessment.segments, assessment.fairness
        )
        columns = {
            "id": assessment.id,
            "window_id": assessment.window.id,
            "results": dump(kept, "performance", FORMAT),
            **{name: getattr(assessment, name) for name in _PLAIN},
        }
        with self._writing() as connection:
            connection.execute(upsert(connection, performance, columns, (*_PLAIN, "results")))

    def mark_tracked(self, ids: Iterable[str]) -> None:
        """Note that these are logged to MLflow."""
        with self._writing() as connection:
            for some in chunks(list(ids)):
                tracked = update(performance).where(performance.c.id.in_(some))
                connection.execute(tracked.values(tracked=datetime.now(UTC)))


def _newest_looks() -> Select[Any]:
    other = performance.alias()
    last = select(func.max(other.c.look)).where(other.c.window_id == windows.c.id).scalar_subquery()
    columns = [performance.c[name] for name in (*_PLAIN, "results")]
    return (
        select(*OF_WINDOW, *columns)
        .join_from(windows, performance, performance.c.window_id == windows.c.id)
        .where(performance.c.look == last)
    )


def _assessment(row: Row[Any]) -> Assessment:
    try:
        kept = load(row.results, _Results, "performance", FORMAT)
    except FormatError:
        kept = _Results(0, {}, {}, ())  # another version wrote it; the rest says the most of it
    return Assessment(
        window=window_in(row),
        **{name: row._mapping[name] for name in _PLAIN},
        judged=kept.judged,
        measures=kept.measures,
        before=kept.before,
        segments=kept.segments,
        fairness=kept.fairness,
    )
