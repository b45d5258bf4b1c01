"""Notes of times that are not usual, such as a sale: what a model sees then is no drift, and not what is usual."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from sqlalchemy import delete, select

from mooring.state.repository import Repository, stable_id, upsert
from mooring.state.tables import notes


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """A time that is not usual, from `start` on and before `end`; `model` is None where it is of all models."""

    model: str | None = None
    start: datetime
    end: datetime
    name: str = ""
    created: datetime

    @property
    def id(self) -> str:
        """Its id, the same one for the same time of the same model."""
        return stable_id(self.model, self.start.astimezone(UTC), self.end.astimezone(UTC))[:8]


_NOTE = [notes.c[name] for name in Note.__struct_fields__]


class Notes(Repository):
    """The notes of a state."""

    def put(self, note: Note) -> None:
        """Write a note; one of the same time gets its name."""
        columns = {"id": note.id, **msgspec.structs.asdict(note)}
        with self._writing() as connection:
            connection.execute(upsert(connection, notes, columns, ["name", "created"]))

    def of(self, model: str | None) -> list[Note]:
        """Return the notes that are of a model or of all, by their time; with None those of every model."""
        query = select(*_NOTE).order_by(notes.c.start, notes.c.id)
        if model is not None:
            query = query.where(notes.c.model.is_(None) | (notes.c.model == model))
        with self._reading() as connection:
            return [Note(**row._mapping) for row in connection.execute(query)]

    def remove(self, note_id: str) -> bool:
        """Forget a note; return whether there was one."""
        with self._writing() as connection:
            return connection.execute(delete(notes).where(notes.c.id == note_id)).rowcount > 0
