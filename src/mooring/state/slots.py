"""What is usual of a stream by hour of the week: sums that tell whether it is seasonal, and profiles."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from sqlalchemy import ColumnElement, select

from mooring.state.repository import Repository, of_stream, upsert
from mooring.state.tables import slots


class StoredSlot(NamedTuple):
    """An hour of the week of a part of a stream, on the grids of a baseline; the bytes are the monitor's own."""

    slot: int
    sums: bytes
    data: bytes


class SlotKey(msgspec.Struct, frozen=True):
    """Of which part of which stream, and on the grids of which baseline."""

    model: str
    version: str | None
    variant: str
    part: str
    baseline: str


class Slots(Repository):
    """The hours of the week of the streams of a state."""

    def put(self, key: SlotKey, found: StoredSlot) -> None:
        """Write an hour of the week as it is now."""
        columns = {**msgspec.structs.asdict(key), **found._asdict()}
        keys = "model version variant part slot"
        with self._writing() as connection:
            connection.execute(upsert(connection, slots, columns, ["baseline", "sums", "data"], keys))

    def of(self, key: SlotKey, slot: int) -> StoredSlot | None:
        """Return an hour of the week; None where there is none yet."""
        query = select(slots.c.slot, slots.c.sums, slots.c.data).where(*_of(key), slots.c.slot == slot)
        with self._reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else StoredSlot(*row)

    def sums(self, key: SlotKey) -> dict[int, bytes]:
        """Return the sums of all hours of the week."""
        with self._reading() as connection:
            rows = connection.execute(select(slots.c.slot, slots.c.sums).where(*_of(key))).all()
        return {row.slot: row.sums for row in rows}


def _of(key: SlotKey) -> list[ColumnElement[bool]]:
    stream = of_stream(slots, key.model, key.version, key.variant)
    return [*stream, slots.c.part == key.part, slots.c.baseline == key.baseline]
