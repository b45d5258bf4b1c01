"""Estimations: what the rows of each window show one by one, and no profile of all of them.

That is how well the model does, as far as it can be told without labels, and whether features go together as they
did.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from types import EllipsisType
from typing import Any, Literal

import msgspec
from sqlalchemy import Row, select

from mooring.drift.stored import FormatError, dump, load
from mooring.state.repository import Repository, chunks, of_stream, upsert
from mooring.state.tables import estimations, windows
from mooring.state.windows import OF_WINDOW, Window, chosen, window_in
from mooring.status import Severity, Status

FORMAT = 1
_PLAIN = ("status", "rows", "chance", "budget", "message", "created")


class EstimatedMeasure(msgspec.Struct, frozen=True):
    """What a measure is estimated to be, and between what labels would show it with a probability of 90 %.

    `held_out` is what it was on the rows that it was learnt from.
    """

    value: float
    low: float
    high: float
    held_out: float | None = None

    def refuted_by(self, measured: float) -> bool:
        """Whether labels say otherwise.

        >>> EstimatedMeasure(0.91, 0.9, 0.92).refuted_by(0.86)
        True
        """
        return not self.low <= measured <= self.high


class ExpectedLoss(msgspec.Struct, frozen=True):
    """What is expected of a row: how probable an error is, or how large; now, and of held-out rows."""

    now: float
    before: float


class JointPair(msgspec.Struct, frozen=True):
    """Two features that go together otherwise than they did.

    `before` and `now` are the correlations of what `labels` say of the two, -1 to 1.
    """

    features: tuple[str, str]
    labels: tuple[str, str]
    before: float
    now: float


class JointDrift(msgspec.Struct, frozen=True, kw_only=True):
    """Whether features go together as they did in training.

    `chance` is that of differences as large if they do, compared with `budget`; `effect` is by how much the
    correlation moved that moved most, as a share of the way from -1 to 1. `pairs` carry it, the surest first.
    """

    status: Severity
    chance: float
    budget: float
    effect: float
    pairs: tuple[JointPair, ...] = ()
    message: str = ""

    @property
    def features(self) -> list[str]:
        """What carries it: pairs of features, as they are named in an incident."""
        return [" × ".join(one.features) for one in self.pairs]


class CauseFeature(msgspec.Struct, frozen=True):
    """What a feature's move did to the expected loss, with its 90 % interval."""

    feature: str
    value: float
    low: float
    high: float


class Causes(msgspec.Struct, frozen=True, kw_only=True):
    """Because of what the expected loss of a window's rows rose, by `loss` (90 %: `low` to `high`).

    `features` are those whose move did it beyond chance, the largest part first. `segment` says in which rows it
    is worst, where the half of the rows that it was not found by confirms it, else ''; `share` of them are there
    now, `share_before` of the held-out ones.
    """

    loss: float
    low: float
    high: float
    features: tuple[CauseFeature, ...] = ()
    segment: str = ""
    share: float = 0.0
    share_before: float = 0.0

    def __str__(self) -> str:
        names = [f"{one.feature} ({one.value:+.3g})" for one in self.features[:3]]
        said = f"because of {', '.join(names)}" if names else "no feature by itself is told from chance"
        if self.segment:
            said += f"; worst where {self.segment} ({self.share:.0%} of rows, before {self.share_before:.0%})"
        return said


class Estimation(msgspec.Struct, frozen=True, kw_only=True):
    """How well a model does on the rows of a window, estimated, and how its features go together.

    With the status `no_baseline` nothing is estimated, for want of held-out rows. `joint` is None where it can't
    be told, `causes` where nothing is worse, or where it was not asked.

    `rows` of them were looked at, drawn from all. `chance` is that of rows as harmful if nothing had moved,
    compared with `budget`. `unknown` says why performance can't be told; empty where it can. `outside` is the
    share of rows where held-out rows are too few.
    """

    window: Window
    status: Status
    rows: int = 0
    chance: float | None = None
    budget: float = 0.0
    message: str = ""
    created: datetime
    measures: dict[str, EstimatedMeasure] = {}
    loss: ExpectedLoss | None = None
    unknown: str = ""
    outside: float = 0.0
    held_out_rows: int = 0
    joint: JointDrift | None = None
    causes: Causes | None = None


class _StoredEstimation(msgspec.Struct, frozen=True):
    measures: dict[str, EstimatedMeasure] = {}
    loss: ExpectedLoss | None = None
    unknown: str = ""
    outside: float = 0.0
    held_out_rows: int = 0
    joint: JointDrift | None = None
    causes: Causes | None = None


class Estimations(Repository):
    """The estimations in a state."""

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
    ) -> list[Estimation]:
        """Return what is estimated of a model's newest windows, the oldest of them first.

        The windows are chosen as `Windows.history` does.
        """
        query = chosen(_all(), model, version, variant, start, end, status, newest)
        with self._reading() as connection:
            return [_estimation(row) for row in connection.execute(query)][::-1]

    def of(self, window_ids: Iterable[str]) -> dict[str, Estimation]:
        """Return what is estimated of windows, by their ids; those of which nothing is are left out."""
        found: dict[str, Estimation] = {}
        with self._reading() as connection:
            for some in chunks(sorted(set(window_ids))):
                rows = connection.execute(_all().where(estimations.c.window_id.in_(some)))
                found |= {one.window.id: one for one in map(_estimation, rows)}
        return found

    def waiting(
        self,
        model: str,
        version: str | None,
        variant: str,
        since: datetime,
        most: int,
        *,
        with_open: bool = False,
    ) -> list[Window]:
        """Return a stream's newest windows from `since` on that are not estimated with all their rows.

        The oldest of them first; only those that are closed, unless `with_open`.
        """
        done = select(estimations.c.window_id).where(
            estimations.c.window_id == windows.c.id,
            estimations.c.revision == windows.c.revision,
            estimations.c.window_rows == windows.c.rows,
        )
        query = select(*OF_WINDOW).where(*of_stream(windows, model, version, variant), windows.c.start >= since)
        query = query.where(~done.exists())
        if not with_open:
            query = query.where(windows.c.status == "closed")
        query = query.order_by(windows.c.start.desc()).limit(most)
        with self._reading() as connection:
            return [window_in(row) for row in connection.execute(query)][::-1]

    def put(self, found: Estimation) -> None:
        """Write what is estimated of a window, in the place of what was."""
        kept = _StoredEstimation(**{name: getattr(found, name) for name in _StoredEstimation.__struct_fields__})
        columns = {
            "window_id": found.window.id,
            "revision": found.window.revision,
            "window_rows": found.window.rows,
            "results": dump(kept, "estimation", FORMAT),
            **{name: getattr(found, name) for name in _PLAIN},
        }
        with self._writing() as connection:
            changing = [name for name in columns if name != "window_id"]
            connection.execute(upsert(connection, estimations, columns, changing, "window_id"))


def _all() -> Any:
    columns = [estimations.c[name] for name in (*_PLAIN, "results")]
    return select(*OF_WINDOW, *columns).join_from(windows, estimations, estimations.c.window_id == windows.c.id)


def _estimation(row: Row[Any]) -> Estimation:
    try:
        kept = load(row.results, _StoredEstimation, "estimation", FORMAT)
    except FormatError:
        kept = _StoredEstimation()  # another version wrote it; the rest says the most of it
    return Estimation(
        window=window_in(row),
        **{name: row._mapping[name] for name in _PLAIN},
        **{name: getattr(kept, name) for name in _StoredEstimation.__struct_fields__},
    )
