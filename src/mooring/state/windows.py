"""Windows: rows of a model that are judged together, each with its profile, and with its newest verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from types import EllipsisType
from typing import Any, Literal, NamedTuple

import msgspec
from sqlalchemy import Connection, Row, Select, and_, func, literal_column, select, update

from mooring.state import verdicts as verdict_rows
from mooring.state.database import insert
from mooring.state.repository import Repository, chunks, of_stream, stable_id, upsert
from mooring.state.tables import answering, models, verdicts, windows
from mooring.state.verdicts import Verdict, verdict_of
from mooring.status import Severity, Status

_EARLIEST = datetime.min.replace(tzinfo=UTC)


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of one model, version and variant that are judged together: those from `start` on and before `end`.

    `requests` is the number of requests that they came in, `weight` the sum over the rows of their request's
    number of rows, `late` how many rows came after the window had been closed, `revision` how often it was opened
    again for them. `number` counts a model's windows from 1, and is 0 until the window is written.

    >>> hour = datetime(2026, 3, 1, 12, tzinfo=UTC), datetime(2026, 3, 1, 13, tzinfo=UTC)
    >>> Window(model="wine", version="3", start=hour[0], end=hour[1]).id
    '5d8c43dc-3681-5be3-b1f1-d6bb18d2a8ec'
    """

    model: str
    version: str | None = None
    variant: str = "champion"
    start: datetime
    end: datetime
    number: int = 0
    rows: int = 0
    requests: int = 0
    weight: int = 0
    late: int = 0
    revision: int = 0
    status: Literal["open", "closed"] = "open"

    @property
    def id(self) -> str:
        """The window's id, which follows from what it is a window of and where it begins."""
        return stable_id(self.model, self.version or "", self.variant, self.start.astimezone(UTC))


class Judged(NamedTuple):
    """A window and its newest verdict: that of its last revision, the final one rather than a provisional one."""

    window: Window
    verdict: Verdict | None


class Recent(NamedTuple):
    """A window and what its newest verdict says, as short as a page of all models needs it.

    `status`, `alarms` and `provisional` are those of the verdict; None, 0 and False where there is none.
    """

    window_id: str
    start: datetime
    end: datetime
    rows: int
    version: str | None
    variant: str
    status: Status | None
    alarms: int
    provisional: bool


class Watched(NamedTuple):
    """A model, version and variant that is watched. `standing` is the worst that was told of a lasting drift."""

    model: str
    version: str | None
    variant: str
    standing: Severity
    newest: Judged | None


_WINDOW = [windows.c[name] for name in Window.__struct_fields__]


class Windows(Repository):
    """The windows in a state, with what was concluded for them.

    >>> from tempfile import TemporaryDirectory
    >>> from mooring.state.state import State
    >>> from mooring.state.verdicts import Verdicts
    >>> directory = TemporaryDirectory()
    >>> hour = datetime(2026, 3, 1, 12, tzinfo=UTC), datetime(2026, 3, 1, 13, tzinfo=UTC)
    >>> with State(f"{directory.name}/state.db") as state:
    ...     with state.begin() as tx:
    ...         one = Windows(tx).put(Window(model="wine", start=hour[0], end=hour[1], rows=1000), b"profile")
    ...         Verdicts(tx).put(Verdict(window_id=one.id, status="ok", created=hour[1]), b"results")
    ...     [(judged.window.rows, judged.verdict.status) for judged in Windows(state).history("wine")]
    True
    [(1000, 'ok')]
    >>> directory.cleanup()
    """

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
    ) -> list[Judged]:
        """Return a model's newest windows and their verdicts, the oldest of them first.

        Those that begin from `start` on and before `end`; of all versions (None is what has none) and variants
        unless one is given.
        """
        query = select(windows.c.id, *_WINDOW)
        with self._reading() as connection:
            return _judged(connection, chosen(query, model, version, variant, start, end, status, newest))[::-1]

    def overlapping(
        self, model: str, version: str | None, variant: str, start: datetime, end: datetime
    ) -> list[Window]:
        """Return the windows that have a part of the time from `start` to before `end`, the oldest first."""
        of_it = of_stream(windows, model, version, variant)
        # They do not overlap each other, so all but one of them begin within it.
        first = select(func.max(windows.c.start)).where(*of_it, windows.c.start <= start).scalar_subquery()
        query = select(*_WINDOW).where(
            *of_it,
            windows.c.start >= func.coalesce(first, start, type_=windows.c.start.type),
            windows.c.start < end,
            windows.c.end > start,
        )
        with self._reading() as connection:
            return [_window(row) for row in connection.execute(query.order_by(windows.c.start))]

    def find(self, model: str, window_id: str) -> Judged | None:
        """Return a window of a model and its newest verdict."""
        query = select(windows.c.id, *_WINDOW).where(windows.c.id == window_id, windows.c.model == model)
        with self._reading() as connection:
            return next(iter(_judged(connection, query)), None)

    def judged(self, verdict_id: str) -> Judged | None:
        """Return a verdict and its window."""
        query = select(*_WINDOW, *verdict_rows.COLUMNS).join_from(windows, verdicts)
        with self._reading() as connection:
            row = connection.execute(query.where(verdicts.c.id == verdict_id)).first()
            return _row_judged(row) if row else None

    def untracked(self, model: str, limit: int = 100) -> list[Judged]:
        """Return final verdicts that are not logged to MLflow yet, the oldest windows first."""
        query = (
            select(*_WINDOW, *verdict_rows.COLUMNS)
            .join_from(windows, verdicts)
            .where(windows.c.model == model, verdicts.c.tracked.is_(None), verdicts.c.provisional.is_(False))
            .order_by(windows.c.number, verdicts.c.revision)
            .limit(limit)
        )
        with self._reading() as connection:
            return [_row_judged(row) for row in connection.execute(query)]

    def profiles(self, window_ids: Iterable[str]) -> dict[str, bytes]:
        """Return the profiles of windows, as far as they are kept still."""
        kept = select(windows.c.id, windows.c.profile).where(windows.c.profile.is_not(None))
        with self._reading() as connection:
            return {
                row.id: row.profile
                for some in chunks(sorted(set(window_ids)))
                for row in connection.execute(kept.where(windows.c.id.in_(some)))
            }

    def recent(self, models: Sequence[str] | None = None, newest: int = 60) -> dict[str, list[Recent]]:
        """Return the newest windows of each model, or of those named, the oldest of them first; no shadow's.

        Of all versions and the other variants together.
        """
        with self._reading() as connection:
            if models is None:
                return _recent(connection, None, newest)
            found: dict[str, list[Recent]] = {}
            for some in chunks(sorted(set(models))):
                found |= _recent(connection, some, newest)
            return found

    def watched(self, model: str | None = None) -> list[Watched]:
        """Return what is watched, or that of one model, each with its newest window that has a verdict."""
        newest = (
            select(windows.c.id)
            .where(
                windows.c.model == models.c.model,
                windows.c.version == models.c.version,
                windows.c.variant == models.c.variant,
                select(verdicts.c.id).where(verdicts.c.window_id == windows.c.id).exists(),
            )
            .order_by(windows.c.start.desc())
            .limit(1)
            .correlate(models)
            .scalar_subquery()
        )
        names = [models.c.model, models.c.version, models.c.variant, models.c.standing]
        query = select(*names, newest.label("newest")).order_by(*names)
        if model is not None:
            query = query.where(models.c.model == model)
        with self._reading() as connection:
            watched = connection.execute(query).all()
            ids = [row.newest for row in watched if row.newest is not None]
            found = {
                judged.window.id: judged
                for some in chunks(ids)
                for judged in _judged(connection, select(windows.c.id, *_WINDOW).where(windows.c.id.in_(some)))
            }
            return [Watched(*row[:4], found.get(row.newest)) for row in watched]

    def put(self, window: Window, profile: bytes) -> Window:
        """Write a window, new or as it is now, with the profile of all its rows; return it with its number."""
        stream = {"model": window.model, "version": window.version, "variant": window.variant}
        last = select(func.coalesce(func.max(windows.c.number), 0)).where(windows.c.model == window.model)
        columns = {"id": window.id, **msgspec.structs.asdict(window), "profile": profile}
        columns["number"] = last.scalar_subquery() + 1
        fixed = ("id", *stream, "start", "number")
        with self._writing() as connection:
            watched = insert(connection, models).values(**stream, standing="ok", created=datetime.now(UTC))
            connection.execute(watched.on_conflict_do_nothing())
            changing = [name for name in columns if name not in fixed]
            written = upsert(connection, windows, columns, changing).returning(*_WINDOW)
            return _window(connection.execute(written).one())

    def prune(self, model: str, before: datetime) -> int:
        """Forget the profiles of closed windows that ended before; return how many. Their verdicts stay."""
        statement = update(windows).where(
            windows.c.model == model,
            windows.c.start < before,
            windows.c.end <= before,
            windows.c.status == "closed",
            windows.c.profile.is_not(None),
        )
        with self._writing() as connection:
            return connection.execute(statement.values(profile=None)).rowcount

    def standing(self, model: str, version: str | None, variant: str) -> Severity:
        """Return the worst that is known of a drift that lasts, or ok."""
        with self._reading() as connection:
            query = select(models.c.standing).where(*of_stream(models, model, version, variant))
            return connection.scalar(query) or "ok"

    def set_standing(self, model: str, version: str | None, variant: str, standing: Severity) -> None:
        """Note how bad a lasting drift is known to be; ok where there is none."""
        with self._writing() as connection:
            connection.execute(
                update(models).where(*of_stream(models, model, version, variant)).values(standing=standing)
            )


OF_WINDOW = [windows.c[name].label(f"window_{name}") for name in Window.__struct_fields__]
"""A window's columns in a query for what is said of it, whose own columns may have the same names."""


def window_in(row: Row[Any]) -> Window:
    """Return the window in a row of such a query."""
    return Window(**{name: row._mapping[f"window_{name}"] for name in Window.__struct_fields__})


def final_verdict_id(window: Window) -> str:
    """Return the id of the final verdict on a window as it is now."""
    return stable_id(window.id, window.revision, False)


def chosen(
    query: Select[Any],
    model: str,
    version: str | EllipsisType | None,
    variant: str | None,
    start: datetime | None,
    end: datetime | None,
    status: str | None,
    newest: int,
) -> Select[Any]:
    """Return a query for a model's newest windows, the newest first; see `Windows.history`."""
    query = query.where(windows.c.model == model)
    if not isinstance(version, EllipsisType):
        query = query.where(windows.c.version == version)
    for column, value in ((windows.c.variant, variant), (windows.c.status, status)):
        if value is not None:
            query = query.where(column == value)
    if start is not None:
        query = query.where(windows.c.start >= start)
    if end is not None:
        query = query.where(windows.c.start < end)
    return query.order_by(windows.c.start.desc(), windows.c.number.desc()).limit(newest)


def _judged(connection: Connection, chosen: Select[Any]) -> list[Judged]:
    """Return chosen windows, in their order, each with its newest verdict."""
    found = connection.execute(chosen).all()
    newest: dict[str, Verdict] = {}
    for some in chunks([row.id for row in found]):
        query = select(*verdict_rows.COLUMNS).where(verdicts.c.window_id.in_(some))
        for row in connection.execute(query.order_by(verdicts.c.revision, verdicts.c.provisional.desc())):
            newest[row.window_id] = verdict_of(row)
    return [Judged(_window(row[1:]), newest.get(row.id)) for row in found]


def _recent(connection: Connection, names: Sequence[str] | None, newest: int) -> dict[str, list[Recent]]:
    """Return each model's newest windows, from one statement that takes the same time however many there are."""
    distinct = select(models.c.model).distinct()
    each = (distinct if names is None else distinct.where(models.c.model.in_(names))).subquery()
    other = windows.alias()
    # So many windows from the end; where there are fewer, from the first on.
    since = (
        select(other.c.start)
        .where(other.c.model == each.c.model, other.c.variant != literal_column("'shadow'"))
        .order_by(other.c.start.desc())
        .limit(1)
        .offset(newest - 1)
        .correlate(each)
        .scalar_subquery()
    )
    window = [windows.c[name] for name in ("id", "start", "end", "rows", "version", "variant")]
    verdict = [verdicts.c[name] for name in ("status", "alarms", "provisional")]
    query = (
        select(each.c.model, windows.c.number, verdicts.c.revision, *window, *verdict)
        .join_from(
            each,
            windows,
            and_(
                windows.c.model == each.c.model,
                answering,
                windows.c.start >= func.coalesce(since, _EARLIEST, type_=windows.c.start.type),
            ),
        )
        .outerjoin(verdicts, verdicts.c.window_id == windows.c.id)
    )
    found: dict[str, dict[int, tuple[tuple[int, bool], Recent]]] = {}
    for row in connection.execute(query):
        model, number, revision, id, start, end, rows, version, variant, status, alarms, provisional = row
        of_model = found.setdefault(model, {})
        rank = -1 if revision is None else revision, not provisional
        if number not in of_model or of_model[number][0] < rank:
            recent = Recent(id, start, end, rows, version, variant, status, alarms or 0, bool(provisional))
            of_model[number] = rank, recent
    return {model: _in_order(of_model)[-newest:] for model, of_model in sorted(found.items())}


def _in_order(numbered: dict[int, tuple[tuple[int, bool], Recent]]) -> list[Recent]:
    ordered = sorted(numbered.items(), key=lambda item: (item[1][1].start, item[0]))
    return [recent for _, (_, recent) in ordered]


def _row_judged(row: Row[Any]) -> Judged:
    return Judged(_window(row[: len(_WINDOW)]), verdict_of(row[len(_WINDOW) :]))


def _window(row: Sequence[Any] | Row[Any]) -> Window:
    return Window(**dict(zip(Window.__struct_fields__, row, strict=True)))
