"""Moves of the champion's alias that Mooring made."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import select

from mooring.state.repository import Repository, chunks, created_within, upsert
from mooring.state.tables import promotions


class Promotion(msgspec.Struct, frozen=True, kw_only=True):
    """A move of the champion that Mooring made. It is written down before it begins, and again once it is done."""

    id: str
    model: str
    ticket_id: str | None
    kind: Literal["promotion", "rollback", "restored"]
    version: str
    previous: str | None
    status: Literal["begun", "done", "failed"]
    reason: str
    who: str
    created: datetime
    ended: datetime | None = None


_PROMOTION = [promotions.c[name] for name in Promotion.__struct_fields__]


class Promotions(Repository):
    """The moves of champions in a state."""

    def put(self, promotion: Promotion) -> None:
        """Write a move of the champion, or what became of it."""
        with self._writing() as connection:
            columns = msgspec.structs.asdict(promotion)
            connection.execute(upsert(connection, promotions, columns, ("status", "reason", "ended")))

    def newest(
        self,
        model: str | None,
        count: int = 100,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        without_ticket: bool = False,
    ) -> list[Promotion]:
        """Return the moves of a model's champion, or of all, the newest first.

        Those that were begun from `start` on and before `end`, or of them only those that no ticket is behind.
        """
        alone = [promotions.c.ticket_id.is_(None)] if without_ticket else []
        query = select(*_PROMOTION).where(*created_within(promotions, model, start, end), *alone)
        with self._reading() as connection:
            found = connection.execute(query.order_by(promotions.c.created.desc(), promotions.c.id).limit(count))
            return [Promotion(**row._mapping) for row in found]

    def of_tickets(self, ticket_ids: Sequence[str]) -> dict[str, Promotion]:
        """Return the newest move of the champion that each of these tickets led to, by the ticket's id."""
        found: dict[str, Promotion] = {}
        with self._reading() as connection:
            for some in chunks(ticket_ids):
                query = select(*_PROMOTION).where(promotions.c.ticket_id.in_(some)).order_by(promotions.c.created)
                found |= {row.ticket_id: Promotion(**row._mapping) for row in connection.execute(query)}
        return found

    def models(self) -> list[str]:
        """Return the names of the models whose champion was moved."""
        with self._reading() as connection:
            return sorted(connection.scalars(select(promotions.c.model).distinct()))
