"""The baselines that windows were compared with, by model, version and digest."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import msgspec
from sqlalchemy import select

from mooring.state.repository import Repository, upsert
from mooring.state.tables import baselines


class StoredBaseline(msgspec.Struct, frozen=True, kw_only=True):
    """A baseline and where it is from: the URI of an artifact, or a log and `START..END`."""

    model: str
    version: str | None
    digest: str
    created: datetime
    source: str
    data: bytes


_BASELINE = [baselines.c[name] for name in StoredBaseline.__struct_fields__]


class StoredBaselines(Repository):
    """The baselines in a state."""

    def newest(self, model: str, version: str | None, digest: str | None = None) -> StoredBaseline | None:
        """Return a version's newest baseline, or the one of this digest."""
        query = select(*_BASELINE).where(baselines.c.model == model, baselines.c.version == version)
        if digest is not None:
            query = query.where(baselines.c.digest == digest)
        with self._reading() as connection:
            row = connection.execute(query.order_by(baselines.c.created.desc()).limit(1)).first()
            return StoredBaseline(**row._mapping) if row else None

    def newest_digest(self, model: str, version: str | None) -> str | None:
        """Return the digest of a version's newest baseline."""
        query = select(baselines.c.digest).where(baselines.c.model == model, baselines.c.version == version)
        with self._reading() as connection:
            return connection.scalar(query.order_by(baselines.c.created.desc()).limit(1))

    def data(self, model: str, digest: str) -> bytes | None:
        """Return the baseline of this digest, of whichever version of a model."""
        query = select(baselines.c.data).where(baselines.c.model == model, baselines.c.digest == digest)
        with self._reading() as connection:
            return connection.scalar(query.limit(1))

    def put(self, model: str, version: str | None, data: bytes, source: str) -> StoredBaseline:
        """Keep a version's baseline, which is its newest now."""
        digest = hashlib.sha256(data).hexdigest()
        baseline = StoredBaseline(
            model=model, version=version, digest=digest, created=datetime.now(UTC), source=source, data=data
        )
        with self._writing() as connection:
            columns = msgspec.structs.asdict(baseline)
            keys = "model version digest"
            connection.execute(upsert(connection, baselines, columns, ("created", "source"), keys))
        return baseline
