"""The state: what the monitor has read, concluded and said. Who wants to know of windows and verdicts asks it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from types import EllipsisType
from typing import Any, Literal, NamedTuple, Self, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    delete,
    func,
    literal_column,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy import (
    insert as plain_insert,
)
from sqlalchemy.exc import IntegrityError

from mooring.drift.stored import FormatError
from mooring.state import assessments
from mooring.state.cells import Cell, cells_of, decode
from mooring.state.database import DEFAULT_URL, Database, StateError, insert
from mooring.state.leases import Holder, Lease, holder, holders
from mooring.state.tables import (
    JUDGED,
    Alert,
    Assessment,
    Baseline,
    Level,
    Status,
    Verdict,
    Window,
    alerts,
    answering,
    baselines,
    decode_summary,
    encode_summary,
    models,
    objects,
    values,
    verdict_cells,
    verdicts,
    windows,
)

_AT_ONCE = 500  # names in a query
_WORKED_OUT = 100
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_WINDOW = [windows.c[name] for name in Window.__struct_fields__]
_VERDICT = [verdicts.c[name] for name in Verdict.__struct_fields__]
_ALERT = [alerts.c[name] for name in Alert.__struct_fields__]
_BASELINE = [baselines.c[name] for name in Baseline.__struct_fields__]

Item = TypeVar("Item")


class StateConflict(StateError):
    """An object of the log is done already: counted twice, it would spoil its windows, so nothing is written."""


class Done(NamedTuple):
    """An object of the log whose rows are in their windows."""

    name: str
    day: date
    rows: int


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
    standing: Level
    newest: Judged | None


class State:
    """What is remembered between two runs, of all models.

    Everything that belongs together is written in one transaction:

    >>> from tempfile import TemporaryDirectory
    >>> directory = TemporaryDirectory()
    >>> hour = datetime(2026, 3, 1, 12, tzinfo=UTC), datetime(2026, 3, 1, 13, tzinfo=UTC)
    >>> with State(f"{directory.name}/state.db") as state:
    ...     with state.begin() as tx:
    ...         tx.mark_done("wine", "mooring-log", [Done("a.parquet", date(2026, 3, 1), 1000)])
    ...         window = tx.put_window(Window(model="wine", start=hour[0], end=hour[1], rows=1000), b"profile")
    ...         tx.put_verdict(Verdict(window_id=window.id, status="ok", created=hour[1]), b"results")
    ...     state.seen("wine", "mooring-log", ["a.parquet", "b.parquet"])
    ...     [(judged.window.rows, judged.verdict.status) for judged in state.history("wine")]
    True
    {'a.parquet'}
    [(1000, 'ok')]
    >>> directory.cleanup()

    Raises StateError where the database is not there, refuses, or was written by a newer Mooring.
    """

    def __init__(self, url: str = DEFAULT_URL) -> None:
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

    # Writing

    @contextmanager
    def begin(self, lease: Lease | None = None) -> Iterator[Transaction]:
        """Yield a transaction: all of it is written at the end, or, after an exception or a kill, nothing.

        With a lease nothing is written unless this process still has it at the end; else LeaseLost is raised.
        """
        with self.database.writing() as connection:
            if lease is not None:
                lease.check(connection)
            yield Transaction(connection)

    def lease(self, name: str, seconds: float = 60.0, every: str = "") -> Lease:
        """Return the lease of a job, such as `monitor/NAME`, done `every` so often; it is not acquired yet."""
        return Lease(self.database, name, seconds, every)

    def holder(self, name: str) -> Holder | None:
        """Return who has a lease, or None where nobody has."""
        return holder(self.database, name)

    def holders(self) -> dict[str, Holder]:
        """Return who has which lease."""
        return holders(self.database)

    # Objects of the log

    def seen(self, model: str, log: str, names: Iterable[str]) -> set[str]:
        """Return which of these objects of a log are done."""
        there = objects.c.model == model, objects.c.log == log
        with self.database.reading() as connection:
            return {
                name
                for some in _chunks(sorted(set(names)))
                for name in connection.scalars(select(objects.c.name).where(*there, objects.c.name.in_(some)))
            }

    def newest_day(self, model: str, log: str) -> date | None:
        """Return the newest day that a done object of a log is of."""
        query = select(func.max(objects.c.day)).where(objects.c.model == model, objects.c.log == log)
        with self.database.reading() as connection:
            newest: date | None = connection.scalar(query)
            return newest

    # Baselines

    def baseline(self, model: str, version: str | None, digest: str | None = None) -> Baseline | None:
        """Return a version's newest baseline, or the one of this digest."""
        query = select(*_BASELINE).where(baselines.c.model == model, baselines.c.version == version)
        if digest is not None:
            query = query.where(baselines.c.digest == digest)
        with self.database.reading() as connection:
            row = connection.execute(query.order_by(baselines.c.created.desc()).limit(1)).first()
            return Baseline(**row._mapping) if row else None

    # Windows and verdicts

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
        query = select(windows.c.id, *_WINDOW).where(windows.c.model == model)
        if not isinstance(version, EllipsisType):
            query = query.where(windows.c.version == version)
        for column, value in ((windows.c.variant, variant), (windows.c.status, status)):
            if value is not None:
                query = query.where(column == value)
        if start is not None:
            query = query.where(windows.c.start >= start)
        if end is not None:
            query = query.where(windows.c.start < end)
        return self._judged(query.order_by(windows.c.start.desc(), windows.c.number.desc()).limit(newest))[::-1]

    def overlapping(
        self, model: str, version: str | None, variant: str, start: datetime, end: datetime
    ) -> list[Window]:
        """Return the windows that have a part of the time from `start` to before `end`, the oldest first."""
        of_it = windows.c.model == model, windows.c.version == version, windows.c.variant == variant
        # They do not overlap each other, so all but one of them begin within it.
        first = select(func.max(windows.c.start)).where(*of_it, windows.c.start <= start).scalar_subquery()
        query = select(*_WINDOW).where(
            *of_it,
            windows.c.start >= func.coalesce(first, start, type_=windows.c.start.type),
            windows.c.start < end,
            windows.c.end > start,
        )
        with self.database.reading() as connection:
            return [_window(row) for row in connection.execute(query.order_by(windows.c.start))]

    def profiles(self, window_ids: Iterable[str]) -> dict[str, bytes]:
        """Return the profiles of windows, as far as they are kept still."""
        with self.database.reading() as connection:
            return {
                row.id: row.profile
                for some in _chunks(sorted(set(window_ids)))
                for row in connection.execute(
                    select(windows.c.id, windows.c.profile).where(
                        windows.c.id.in_(some), windows.c.profile.is_not(None)
                    )
                )
            }

    def verdict(self, verdict_id: str) -> Judged | None:
        """Return a verdict and its window."""
        query = select(*_WINDOW, *_VERDICT).join_from(windows, verdicts).where(verdicts.c.id == verdict_id)
        with self.database.reading() as connection:
            row = connection.execute(query).first()
            return _row_judged(row) if row else None

    def results(self, verdict_id: str) -> bytes | None:
        """Return all results of a verdict."""
        with self.database.reading() as connection:
            return connection.scalar(select(verdicts.c.results).where(verdicts.c.id == verdict_id))

    def cells(self, verdict_ids: Iterable[str]) -> dict[str, dict[str, Cell]]:
        """Return what each feature amounts to, by verdict and feature; nothing of what could not be judged.

        Of verdicts written before cells were kept they are worked out from the results, which takes some
        milliseconds each: only of the last 100 of those named.
        """
        wanted = list(dict.fromkeys(verdict_ids))
        found: dict[str, dict[str, Cell]] = {}
        with self.database.reading() as connection:
            for some in _chunks(wanted):
                query = select(verdict_cells).where(verdict_cells.c.verdict_id.in_(some))
                for row in connection.execute(query):
                    with suppress(FormatError):  # then they are worked out, too
                        found[row.verdict_id] = decode(row.data)
            missing = [one for one in wanted if one not in found][-_WORKED_OUT:]
            return found | _worked_out(connection, missing)

    def recent(self, models: Sequence[str] | None = None, newest: int = 60) -> dict[str, list[Recent]]:
        """Return the newest windows of each model, or of those named, the oldest of them first; no shadow's.

        Of all versions and the other variants together.
        """
        with self.database.reading() as connection:
            if models is None:
                return _recent(connection, None, newest)
            found: dict[str, list[Recent]] = {}
            for some in _chunks(sorted(set(models))):
                found |= _recent(connection, some, newest)
            return found

    def models(self, model: str | None = None) -> list[Watched]:
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
        with self.database.reading() as connection:
            watched = connection.execute(query).all()
            ids = [row.newest for row in watched if row.newest is not None]
            found = {
                judged.window.id: judged
                for some in _chunks(ids)
                for judged in _judged(connection, select(windows.c.id, *_WINDOW).where(windows.c.id.in_(some)))
            }
            return [Watched(*row[:4], found.get(row.newest)) for row in watched]

    def untracked(self, model: str, limit: int = 100) -> list[Judged]:
        """Return final verdicts that are not logged to MLflow yet, the oldest windows first."""
        query = (
            select(*_WINDOW, *_VERDICT)
            .join_from(windows, verdicts)
            .where(windows.c.model == model, verdicts.c.tracked.is_(None), verdicts.c.provisional.is_(False))
            .order_by(windows.c.number, verdicts.c.revision)
            .limit(limit)
        )
        with self.database.reading() as connection:
            return [_row_judged(row) for row in connection.execute(query)]

    # Performance

    def assessments(
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

        The windows are chosen as `history` does; of each it is the newest look.
        """
        with self.database.reading() as connection:
            return assessments.assessments(connection, model, version, variant, start, end, status, newest)

    def unassessed(self, model: str, since: datetime, *, with_open: bool = False) -> list[Window]:
        """Return the windows from `since` on that were not assessed with all their rows, the oldest first."""
        with self.database.reading() as connection:
            return assessments.unassessed(connection, model, since, with_open=with_open)

    def untracked_assessments(self, model: str, limit: int = 100) -> list[Assessment]:
        """Return assessments that are not logged to MLflow yet, the oldest windows first."""
        with self.database.reading() as connection:
            return assessments.untracked(connection, model, limit)

    def assessed(self, window_ids: Iterable[str]) -> dict[str, tuple[Status, str]]:
        """Return the status and the message of the newest look at each of these windows that was assessed."""
        with self.database.reading() as connection:
            return {
                name: told
                for some in _chunks(sorted(set(window_ids)))
                for name, told in assessments.statuses(connection, some).items()
            }

    def _judged(self, chosen: Select[Any]) -> list[Judged]:
        with self.database.reading() as connection:
            return _judged(connection, chosen)

    # Alerts

    def standing(self, model: str, version: str | None, variant: str) -> Level:
        """Return the worst that is known of a drift that lasts, or ok."""
        with self.database.reading() as connection:
            return Transaction(connection).standing(model, version, variant)

    def due_alerts(self, model: str, now: datetime, *, rollouts: bool = False) -> list[Alert]:
        """Return what is to be sent now, the oldest first: of each channel only the first that waits.

        Those about verdicts, which the monitor sends, or those about rollouts, which the supervisor does.
        """
        earlier = alerts.alias()
        waits = select(earlier.c.id).where(
            earlier.c.rollout_id.is_not(None) if rollouts else earlier.c.rollout_id.is_(None),
            earlier.c.model == alerts.c.model,
            earlier.c.channel == alerts.c.channel,
            earlier.c.status == "pending",
            tuple_(earlier.c.created, earlier.c.id) < tuple_(alerts.c.created, alerts.c.id),
        )
        return self._alerts(
            and_(
                alerts.c.model == model,
                alerts.c.rollout_id.is_not(None) if rollouts else alerts.c.rollout_id.is_(None),
                alerts.c.status == "pending",
                alerts.c.next_attempt <= now,
                ~waits.exists(),
            ),
            1000,
        )[::-1]

    def alerts(self, model: str, newest: int = 100) -> list[Alert]:
        """Return a model's newest alerts, sent or not, the newest first."""
        return self._alerts(alerts.c.model == model, newest)

    def failed_alerts(self, since: datetime) -> dict[str, int]:
        """Return by model how many alerts could not be sent, of those made since then."""
        query = select(alerts.c.model, func.count()).where(alerts.c.status == "failed", alerts.c.created >= since)
        with self.database.reading() as connection:
            return {row[0]: row[1] for row in connection.execute(query.group_by(alerts.c.model))}

    def _alerts(self, which: ColumnElement[bool], limit: int) -> list[Alert]:
        query = select(*_ALERT).where(which).order_by(alerts.c.created.desc(), alerts.c.id.desc()).limit(limit)
        with self.database.reading() as connection:
            return [Alert(**row._mapping) for row in connection.execute(query)]


class Transaction:
    """What can be written; see `State.begin`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def mark_done(self, model: str, log: str, done: Iterable[Done]) -> None:
        """Note that these objects' rows are in their windows. Raises StateConflict where one was noted already."""
        now = datetime.now(UTC)
        rows = [{"model": model, "log": log, "done": now, **one._asdict()} for one in done]
        if not rows:
            return
        try:
            self.connection.execute(plain_insert(objects), rows)
        except IntegrityError:
            raise StateConflict(
                f"an object of {log} is done already, by another monitor of {model}: nothing is counted twice"
            ) from None

    def put_baseline(self, model: str, version: str | None, data: bytes, source: str) -> Baseline:
        """Keep a version's baseline, which is its newest now."""
        digest = hashlib.sha256(data).hexdigest()
        baseline = Baseline(
            model=model, version=version, digest=digest, created=datetime.now(UTC), source=source, data=data
        )
        statement = insert(self.connection, baselines).values(values(baseline))
        self.connection.execute(
            statement.on_conflict_do_update(
                index_elements=["model", "version", "digest"],
                set_={"created": statement.excluded.created, "source": statement.excluded.source},
            )
        )
        return baseline

    def put_window(self, window: Window, profile: bytes) -> Window:
        """Write a window, new or as it is now, with the profile of all its rows; return it with its number."""
        self.connection.execute(
            insert(self.connection, models)
            .values(
                model=window.model,
                version=window.version,
                variant=window.variant,
                standing="ok",
                created=datetime.now(UTC),
            )
            .on_conflict_do_nothing()
        )
        last = select(func.coalesce(func.max(windows.c.number), 0)).where(windows.c.model == window.model)
        columns = {**values(window), "profile": profile, "number": last.scalar_subquery() + 1}
        statement = insert(self.connection, windows).values(columns)
        fixed = ("id", "model", "version", "variant", "start", "number")
        written = statement.on_conflict_do_update(
            index_elements=[windows.c.id],
            set_={name: statement.excluded[name] for name in columns if name not in fixed},
        ).returning(*_WINDOW)
        return _window(self.connection.execute(written).one())

    def prune(self, model: str, before: datetime) -> int:
        """Forget the profiles of closed windows that ended before; return how many. Their verdicts stay."""
        pruned = self.connection.execute(
            update(windows)
            .where(
                windows.c.model == model,
                windows.c.start < before,
                windows.c.end <= before,
                windows.c.status == "closed",
                windows.c.profile.is_not(None),
            )
            .values(profile=None)
        )
        return pruned.rowcount

    def put_verdict(self, verdict: Verdict, results: bytes, cells: bytes = b"") -> bool:
        """Write a verdict, all its results and its cells, if any, and return whether that changed anything.

        A final verdict is written once: the same one again changes nothing. A provisional one is replaced when it
        comes out otherwise, or for more rows.
        """
        columns = {**values(verdict), "summary": encode_summary(verdict.summary), "results": results}
        statement = insert(self.connection, verdicts).values(columns)
        if verdict.provisional:
            new = statement.excluded
            told = [verdicts.c[name] for name in ("status", "rows", "seed", "budget", "baseline")]
            changing = statement.on_conflict_do_update(
                index_elements=[verdicts.c.id],
                set_={name: new[name] for name in columns if name != "id"},
                where=or_(*(column.is_distinct_from(new[column.name]) for column in told)),
            )
        else:
            changing = statement.on_conflict_do_nothing(index_elements=[verdicts.c.id])
        if self.connection.execute(changing.returning(verdicts.c.id)).first() is None:
            return False
        if verdict.provisional:
            self.connection.execute(delete(verdict_cells).where(verdict_cells.c.verdict_id == verdict.id))
        if cells:
            self.connection.execute(plain_insert(verdict_cells).values(verdict_id=verdict.id, data=cells))
        return True

    def mark_tracked(self, verdict_ids: Iterable[str]) -> None:
        """Note that these verdicts are logged to MLflow."""
        for some in _chunks(list(verdict_ids)):
            self.connection.execute(
                update(verdicts).where(verdicts.c.id.in_(some)).values(tracked=datetime.now(UTC))
            )

    def put_assessment(self, assessment: Assessment) -> None:
        """Write how well a model did in a window, new or as it is at this look now."""
        assessments.put(self.connection, assessment)

    def mark_assessments_tracked(self, ids: Iterable[str]) -> None:
        """Note that these assessments are logged to MLflow."""
        for some in _chunks(list(ids)):
            assessments.mark_tracked(self.connection, some)

    def statuses(self, model: str, version: str | None, variant: str, newest: int) -> list[Status]:
        """Return what the final verdicts on the newest windows say, the newest window at the end."""
        query = (
            select(windows.c.id, verdicts.c.status)
            .join_from(windows, verdicts)
            .where(_is(windows, model, version, variant), verdicts.c.provisional.is_(False))
            .order_by(windows.c.start.desc(), verdicts.c.revision.desc())
            .limit(2 * newest)
        )
        found: dict[str, Status] = {}
        for row in self.connection.execute(query):
            found.setdefault(row.id, row.status)  # of a window that was judged again the last one
        return list(found.values())[:newest][::-1]

    def standing(self, model: str, version: str | None, variant: str) -> Level:
        """Return what `set_standing` noted, or ok."""
        query = select(models.c.standing).where(_is(models, model, version, variant))
        return self.connection.scalar(query) or "ok"

    def set_standing(self, model: str, version: str | None, variant: str, standing: Level) -> None:
        """Note how bad a lasting drift is known to be; ok where there is none."""
        self.connection.execute(
            update(models).where(_is(models, model, version, variant)).values(standing=standing)
        )

    def put_alert(self, alert: Alert) -> bool:
        """Put an alert in the queue, and return whether it was not there yet."""
        written = insert(self.connection, alerts).values(values(alert)).on_conflict_do_nothing()
        return self.connection.execute(written.returning(alerts.c.id)).first() is not None

    def update_alert(self, alert: Alert) -> None:
        """Write what became of an alert: its status, attempts, times and error."""
        changing = ("status", "attempts", "next_attempt", "last_error", "sent")
        self.connection.execute(
            update(alerts).where(alerts.c.id == alert.id).values({name: getattr(alert, name) for name in changing})
        )


def _judged(connection: Connection, chosen: Select[Any]) -> list[Judged]:
    """Return chosen windows, in their order, each with its newest verdict."""
    found = connection.execute(chosen).all()
    newest: dict[str, Verdict] = {}
    for some in _chunks([row.id for row in found]):
        query = select(*_VERDICT).where(verdicts.c.window_id.in_(some))
        for row in connection.execute(query.order_by(verdicts.c.revision, verdicts.c.provisional.desc())):
            newest[row.window_id] = _verdict(row)
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


def _worked_out(connection: Connection, verdict_ids: Sequence[str]) -> dict[str, dict[str, Cell]]:
    """Return the cells of judged verdicts, from their results."""
    query = select(verdicts.c.id, verdicts.c.results).where(
        verdicts.c.id.in_(verdict_ids), verdicts.c.status.in_(JUDGED)
    )
    found = connection.execute(query).all() if verdict_ids else []
    if not found:
        return {}
    from mooring.state.judgements import judgement_of  # it brings the statistics, which take a while to import

    judged = {row.id: judgement_of(row.results) for row in found}
    return {id: cells_of(judgement) for id, judgement in judged.items() if judgement is not None}


def _row_judged(row: Row[Any]) -> Judged:
    return Judged(_window(row[: len(_WINDOW)]), _verdict(row[len(_WINDOW) :]))


def _window(row: Sequence[Any]) -> Window:
    return Window(**dict(zip(Window.__struct_fields__, row, strict=True)))


def _verdict(row: Sequence[Any]) -> Verdict:
    columns = dict(zip(Verdict.__struct_fields__, row, strict=True))
    return Verdict(**{**columns, "summary": decode_summary(columns["summary"])})


def _is(table: Any, model: str, version: str | None, variant: str) -> ColumnElement[bool]:
    return and_(table.c.model == model, table.c.version == version, table.c.variant == variant)


def _chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), _AT_ONCE):
        yield items[start : start + _AT_ONCE]
