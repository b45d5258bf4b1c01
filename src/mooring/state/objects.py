"""Which objects of a log are done: their rows are in their windows, or were joined with labels."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import NamedTuple

from sqlalchemy import func, insert, select
from sqlalchemy.exc import IntegrityError

from mooring.state.database import StateError
from mooring.state.repository import Repository, chunks
from mooring.state.tables import objects


class StateConflict(StateError):
    """An object of the log is done already: counted twice, it would spoil its windows, so nothing is written."""


class DoneObject(NamedTuple):
    """An object of the log whose rows are in their windows."""

    name: str
    day: date
    rows: int


class Objects(Repository):
    """The objects of logs that are done."""

    def seen(self, model: str, log: str, names: Iterable[str]) -> set[str]:
        """Return which of these objects of a log are done."""
        there = select(objects.c.name).where(objects.c.model == model, objects.c.log == log)
        with self._reading() as connection:
            return {
                name
                for some in chunks(sorted(set(names)))
                for name in connection.scalars(there.where(objects.c.name.in_(some)))
            }

    def newest_day(self, model: str, log: str) -> date | None:
        """Return the newest day that a done object of a log is of."""
        query = select(func.max(objects.c.day)).where(objects.c.model == model, objects.c.log == log)
        with self._reading() as connection:
            newest: date | None = connection.scalar(query)
            return newest

    def mark_done(self, model: str, log: str, done: Iterable[DoneObject]) -> None:
        """Note that these objects' rows are in their windows. Raises StateConflict where one was noted already."""
        now = datetime.now(UTC)
        rows = [{"model": model, "log": log, "done": now, **one._asdict()} for one in done]
        if not rows:
            return
        try:
            with self._writing() as connection:
                connection.execute(insert(objects), rows)
        except IntegrityError:
            raise StateConflict(
                f"an object of {log} is done already, by another monitor of {model}: nothing is counted twice"
            ) from None
