"""How each stream stands: the evidence that it has shown, and the incidents that came of it.

An incident is one drift, or one loss of performance, measured or estimated, of a version: it is opened once the
evidence is strong enough and the effect matters, and closed when that has passed, however many windows lie
between. Labels come late and in any order, so of performance there is no evidence that grows: each window has its
share of the false alarms. Nor is there of what is estimated, or of features together: each window is
compared with the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from types import EllipsisType
from typing import Any, Literal, NamedTuple

import msgspec
from sqlalchemy import Row, and_, func, select, update

from mooring.state.repository import Repository, of_stream, stable_id, upsert
from mooring.state.tables import incidents, streams
from mooring.status import Severity

Kind = Literal["drift", "joint", "performance", "estimated"]
"""What is watched of a stream: its features one by one, and together; performance measured, and estimated."""
ACTIVE = timedelta(days=7)
"""For how long after its last window a stream has its share of the false alarms that may be."""


class StreamKey(NamedTuple):
    """Which stream is meant, and what is watched of it."""

    model: str
    version: str | None
    variant: str
    kind: Kind


class StreamState(msgspec.Struct, frozen=True, kw_only=True):
    """How a stream stands after the newest of its windows, which ended at `updated`.

    `level` is the evidence, in units of that which opens an incident, and `since` when it began to grow.
    `baseline` is the digest of what it is against. Of the false alarms that may be it has a share by its `weight`
    among those of all streams. `data` is what the next window needs to go on from here.
    """

    model: str
    version: str | None
    variant: str
    kind: Kind
    baseline: str
    windows: int = 0
    level: float = 0.0
    since: datetime | None = None
    updated: datetime
    weight: float = 1.0
    incident_id: str | None = None
    data: bytes = b""


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One drift, or one loss of performance, measured or estimated.

    It shows in the windows since `start`; it was opened with the one that ended at `opened`, and has lasted for
    `windows` since; the newest of them ended at `updated`. `features` are those that moved, the strongest first;
    of performance the measures that are worse, and the segments in which they are. `severity` is the worst that
    it has been.
    """

    model: str
    version: str | None
    variant: str
    kind: Kind
    severity: Severity
    features: tuple[str, ...] = ()
    level: float = 0.0
    windows: int = 1
    message: str = ""
    start: datetime
    opened: datetime
    updated: datetime
    closed: datetime | None = None

    @property
    def id(self) -> str:
        """Its id, the same one however often the windows are judged."""
        return stable_id(self.model, self.version, self.variant, self.kind, self.opened)


_STATE = [streams.c[name] for name in StreamState.__struct_fields__]
_INCIDENT = [incidents.c[name] for name in Incident.__struct_fields__]
_KEYS = StreamKey._fields


class StreamStates(Repository):
    """How the streams of a state stand."""

    def put(self, found: StreamState) -> None:
        """Write how a stream stands now."""
        columns = msgspec.structs.asdict(found)
        with self._writing() as connection:
            changing = [name for name in columns if name not in _KEYS]
            connection.execute(upsert(connection, streams, columns, changing, " ".join(_KEYS)))

    def of(self, model: str, version: str | None, variant: str, kind: Kind) -> StreamState | None:
        """Return how a stream stands, None where it was never looked at."""
        query = select(*_STATE).where(*of_stream(streams, model, version, variant), streams.c.kind == kind)
        with self._reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else StreamState(**row._mapping)

    def of_version(self, model: str, version: str | None, variant: str) -> list[StreamState]:
        """Return how the streams of a version and variant stand, one for each kind, without data."""
        columns = [column for column in _STATE if column.name != "data"]
        query = select(*columns).where(*of_stream(streams, model, version, variant)).order_by(streams.c.kind)
        with self._reading() as connection:
            return [StreamState(**row._mapping) for row in connection.execute(query)]

    def latest(self, model: str | None = None, each: int = 20) -> dict[str, list[StreamState]]:
        """Return how streams stand by model, without data: of each model, or of one, the newest `each`."""
        newest_first = func.row_number().over(partition_by=streams.c.model, order_by=streams.c.updated.desc())
        columns = [column for column in _STATE if column.name != "data"]
        numbered = select(*columns, newest_first.label("place"))
        if model is not None:
            numbered = numbered.where(streams.c.model == model)
        of_all = numbered.subquery()
        query = select(*(of_all.c[column.name] for column in columns)).where(of_all.c.place <= each)
        found: dict[str, list[StreamState]] = {}
        with self._reading() as connection:
            for row in connection.execute(query.order_by(of_all.c.model, of_all.c.updated.desc(), of_all.c.kind)):
                found.setdefault(row.model, []).append(StreamState(**row._mapping))
        return found

    def awake(self, at: datetime) -> int:
        """Return how many streams had a window of late."""
        query = select(func.count()).select_from(streams).where(streams.c.updated > at - ACTIVE)
        with self._reading() as connection:
            return int(connection.execute(query).scalar_one())

    def sharing(self, at: datetime, own: Iterable[StreamKey], weight: float = 1.0) -> float:
        """Return how many streams of a weight the false alarms that may be are shared among.

        These are those that had a window of late, by their weights, and one's `own`, which are of this weight.
        """
        columns = [streams.c[name] for name in (*_KEYS, "weight")]
        with self._reading() as connection:
            rows = connection.execute(select(*columns).where(streams.c.updated > at - ACTIVE)).all()
        weights = {StreamKey(*row[:-1]): row.weight for row in rows} | dict.fromkeys(own, weight)
        return float(sum(weights.values()) / weight)


class Incidents(Repository):
    """The incidents of a state."""

    def put(self, incident: Incident) -> None:
        """Write an incident, or what has become of it."""
        columns = {"id": incident.id, **msgspec.structs.asdict(incident)}
        columns["features"] = msgspec.json.encode(incident.features).decode()
        changing = ("severity", "features", "level", "windows", "message", "start", "updated", "closed")
        with self._writing() as connection:
            connection.execute(upsert(connection, incidents, columns, changing))

    def end_stale(self, model: str, kind: Kind, at: datetime) -> None:
        """Close what is open of a model's streams that have had no window for long, as another has one `at`.

        Their version no longer answers, so nothing more will come of them.
        """
        of_kind = (incidents.c.model == model, incidents.c.kind == kind, incidents.c.updated < at - ACTIVE)
        theirs = (streams.c.model == model, streams.c.kind == kind, streams.c.updated < at - ACTIVE)
        with self._writing() as connection:
            connection.execute(
                update(incidents).where(*of_kind, incidents.c.closed.is_(None)).values(closed=incidents.c.updated)
            )
            connection.execute(
                update(streams).where(*theirs, streams.c.incident_id.is_not(None)).values(incident_id=None)
            )

    def named(self, incident_id: str) -> Incident | None:
        """Return an incident by its id."""
        with self._reading() as connection:
            row = connection.execute(select(*_INCIDENT).where(incidents.c.id == incident_id)).first()
        return None if row is None else _incident(row)

    def of(
        self, model: str, version: str | None, variant: str, kind: Kind, *, since: datetime | None = None
    ) -> list[Incident]:
        """Return the incidents of a stream that are open, or lasted at any time since, the oldest first."""
        query = select(*_INCIDENT).where(*of_stream(incidents, model, version, variant), incidents.c.kind == kind)
        lasting = incidents.c.closed.is_(None)
        query = query.where(lasting if since is None else lasting | (incidents.c.closed >= since))
        with self._reading() as connection:
            return [_incident(row) for row in connection.execute(query.order_by(incidents.c.opened))]

    def newest(
        self,
        model: str | None = None,
        count: int = 100,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        is_open: bool | None = None,
        version: str | EllipsisType | None = ...,
        variant: str | None = None,
        before: Incident | None = None,
    ) -> list[Incident]:
        """Return the newest incidents, those of a model if one is named, the newest first.

        With `start` and `end` those that lasted at any time between. With `is_open` only open or only closed ones.
        Of all versions (None is what has none) and variants unless one is given. With `before` those that come
        after that one in this order.
        """
        query = select(*_INCIDENT).order_by(incidents.c.opened.desc(), incidents.c.id).limit(count)
        if model is not None:
            query = query.where(incidents.c.model == model)
        if start is not None:
            query = query.where(incidents.c.closed.is_(None) | (incidents.c.closed >= start))
        if end is not None:
            query = query.where(incidents.c.start < end)
        if is_open is not None:
            query = query.where(incidents.c.closed.is_(None) if is_open else incidents.c.closed.is_not(None))
        if version is not ...:
            query = query.where(incidents.c.version == version)
        if variant is not None:
            query = query.where(incidents.c.variant == variant)
        if before is not None:
            same_time = and_(incidents.c.opened == before.opened, incidents.c.id > before.id)
            query = query.where((incidents.c.opened < before.opened) | same_time)
        with self._reading() as connection:
            return [_incident(row) for row in connection.execute(query)]

    def open_counts(self, model: str | None = None) -> dict[str, int]:
        """Return how many incidents of each model are open, or of one; models that have none are left out."""
        query = select(incidents.c.model, func.count()).where(incidents.c.closed.is_(None))
        if model is not None:
            query = query.where(incidents.c.model == model)
        with self._reading() as connection:
            return {row[0]: row[1] for row in connection.execute(query.group_by(incidents.c.model))}


def _incident(row: Row[Any]) -> Incident:
    return Incident(**{**row._mapping, "features": tuple(msgspec.json.decode(row.features))})
