"""Verdicts: what the monitor concluded for each window, with all its results and the cells of a heat map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, delete, or_, select, update

from mooring.drift.stored import FormatError
from mooring.state.cells import Cell, cells_of, decode
from mooring.state.database import insert
from mooring.state.repository import Repository, chunks, stable_id
from mooring.state.tables import verdict_cells, verdicts
from mooring.status import JUDGED, Status

_WORKED_OUT = 100


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a measure gave for a feature; `scale` is how many windows were taken together."""

    feature: str
    measure: str
    value: float | None
    threshold: float | None = None
    p_value: float | None = None
    scale: int = 1


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the monitor concluded for one window, at one of its revisions.

    `rows` is how many were judged: a provisional verdict is on a window that is not closed yet. `baseline` is the
    digest of the one compared with, `summary` the features that moved most, `alarms` how many alarms there were.
    With `seed`, `budget` and the profiles it can be computed again.
    """

    window_id: str
    revision: int = 0
    provisional: bool = False
    status: Status
    rows: int = 0
    seed: int = 0
    budget: float = 0.0
    baseline: str | None = None
    alarms: int = 0
    message: str = ""
    summary: tuple[Finding, ...] = ()
    created: datetime
    tracked: datetime | None = None

    @property
    def id(self) -> str:
        """The verdict's id, fit for links: the same one however often the verdict is computed."""
        return stable_id(self.window_id, self.revision, self.provisional)


COLUMNS = [verdicts.c[name] for name in Verdict.__struct_fields__]
"""Those that `verdict_of` makes a verdict of."""


class Verdicts(Repository):
    """The verdicts in a state; `Windows` has them with their windows."""

    def results(self, verdict_id: str) -> bytes | None:
        """Return all results of a verdict; see `judgement_of`."""
        with self._reading() as connection:
            return connection.scalar(select(verdicts.c.results).where(verdicts.c.id == verdict_id))

    def cells(self, verdict_ids: Iterable[str]) -> dict[str, dict[str, Cell]]:
        """Return what each feature amounts to, by verdict and feature; nothing of what could not be judged.

        Of verdicts written before cells were kept they are worked out from the results, which takes some
        milliseconds each: only of the last 100 of those named.
        """
        wanted = list(dict.fromkeys(verdict_ids))
        found: dict[str, dict[str, Cell]] = {}
        with self._reading() as connection:
            for some in chunks(wanted):
                query = select(verdict_cells).where(verdict_cells.c.verdict_id.in_(some))
                for row in connection.execute(query):
                    with suppress(FormatError):  # then they are worked out, too
                        found[row.verdict_id] = decode(row.data)
            missing = [one for one in wanted if one not in found][-_WORKED_OUT:]
            return found | _worked_out(connection, missing)

    def window_ids(self, verdict_ids: Sequence[str]) -> dict[str, str]:
        """Return by verdict the id of the window that it is of."""
        found: dict[str, str] = {}
        with self._reading() as connection:
            for some in chunks(verdict_ids):
                query = select(verdicts.c.id, verdicts.c.window_id).where(verdicts.c.id.in_(some))
                found |= {row.id: row.window_id for row in connection.execute(query)}
        return found

    def put(self, verdict: Verdict, results: bytes, cells: bytes = b"") -> bool:
        """Write a verdict, all its results and its cells, if any, and return whether that changed anything.

        A final verdict is written once: the same one again changes nothing. A provisional one is replaced when it
        comes out otherwise, or for more rows.
        """
        columns = {"id": verdict.id, **msgspec.structs.asdict(verdict), "results": results}
        columns["summary"] = msgspec.json.encode(verdict.summary).decode()  # what is not finite becomes null
        with self._writing() as connection:
            statement = insert(connection, verdicts).values(columns)
            if verdict.provisional:
                new = statement.excluded
                compared = [verdicts.c[name] for name in ("status", "rows", "seed", "budget", "baseline")]
                changing = statement.on_conflict_do_update(
                    index_elements=[verdicts.c.id],
                    set_={name: new[name] for name in columns if name != "id"},
                    where=or_(*(column.is_distinct_from(new[column.name]) for column in compared)),
                )
            else:
                changing = statement.on_conflict_do_nothing(index_elements=[verdicts.c.id])
            if connection.execute(changing.returning(verdicts.c.id)).first() is None:
                return False
            if verdict.provisional:
                connection.execute(delete(verdict_cells).where(verdict_cells.c.verdict_id == verdict.id))
            if cells:
                connection.execute(verdict_cells.insert().values(verdict_id=verdict.id, data=cells))
            return True

    def mark_tracked(self, verdict_ids: Iterable[str]) -> None:
        """Note that these verdicts are logged to MLflow."""
        with self._writing() as connection:
            for some in chunks(list(verdict_ids)):
                connection.execute(
                    update(verdicts).where(verdicts.c.id.in_(some)).values(tracked=datetime.now(UTC))
                )


def verdict_of(row: Sequence[Any] | Row[Any]) -> Verdict:
    """Return the verdict whose `COLUMNS` a row has."""
    columns = dict(zip(Verdict.__struct_fields__, row, strict=True))
    columns["summary"] = msgspec.json.decode(columns["summary"], type=tuple[Finding, ...])
    return Verdict(**columns)


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
