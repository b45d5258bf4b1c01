"""What is learnt of each version from its held-out rows, so that its performance can be told without labels."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from mooring.drift.reference_rows import ReferenceRows, UnreadableRows
from mooring.monitor.baselines import OF_REGISTRY
from mooring.performance.scored import UnscorableError
from mooring.registry import baselines
from mooring.registry.client import TrackingError

if TYPE_CHECKING:
    from mooring.estimation import Estimator
    from mooring.state.baselines import StoredBaselines

_KEPT = 4
_AGAIN_SECONDS = 60.0
"""After so long MLflow is asked again for what it did not have, or did not say."""


class Learnt(NamedTuple):
    """The rows that a baseline came with, and what is learnt from them; where that can't be, why and what to do.

    `source` is where the baseline is from. Without one there is nothing to say.
    """

    rows: ReferenceRows | None
    estimator: Estimator | None
    why_not: str
    source: str = ""

    @property
    def in_registry(self) -> bool:
        """Whether the baseline was logged with the model, so that rows may stand beside it."""
        return self.source.startswith(OF_REGISTRY)


class Estimators:
    """Learns of each version once, by the rows beside its baseline, and holds those that were asked for last."""

    def __init__(self, stored: StoredBaselines) -> None:
        self._stored = stored
        self._learnt: dict[tuple[str, str | None], Learnt] = {}
        self._asked: dict[tuple[str, str | None], float] = {}

    def of(self, model: str, version: str | None) -> Learnt:
        """Return what is learnt of a version; rows that name none are the champion's."""
        key = model, version
        kept = self._stored.newest(model, version)
        if kept is None:
            return Learnt(None, None, "")
        known = self._learnt.pop(key, None)
        now = time.monotonic()
        if known is not None and known.source == kept.source and known.rows is None:
            known = known if now - self._asked[key] < _AGAIN_SECONDS else None
        if known is None or known.source != kept.source:
            self._asked[key] = now
            known = learnt(kept.source)
        self._learnt[key] = known
        for old in list(self._learnt)[:-_KEPT]:
            del self._learnt[old], self._asked[old]
        return known


def learnt(source: str) -> Learnt:
    """Return what can be learnt from the rows beside a baseline; only those in MLflow have such rows."""
    model, _, version = source.removeprefix(OF_REGISTRY).rpartition("/")
    if not source.startswith(OF_REGISTRY) or not model:
        return Learnt(None, None, f"the baseline is of {source}, and came without held-out rows: {_HOW}", source)
    try:
        data = baselines.find_rows(model, version)
    except TrackingError as error:
        return Learnt(None, None, f"{error}. It is tried again", source)
    of = f"version {version} of {model}"
    if data is None:
        return Learnt(None, None, f"the baseline of {of} came without rows: {_HOW}", source)
    try:
        rows = ReferenceRows.from_bytes(data)
    except UnreadableRows as error:
        return Learnt(None, None, f"the rows beside the baseline of {of} can't be read: {error}", source)
    return learnt_from(rows, of)._replace(source=source)


def learnt_from(rows: ReferenceRows, of: str) -> Learnt:
    """Return what can be learnt from rows; `of` says whose they are."""
    if rows.labels is None:
        return Learnt(rows, None, f"the baseline of {of} came without held-out rows: {_HOW}")
    from mooring.estimation import EstimationError, Estimator

    try:
        return Learnt(rows, Estimator.fit(rows.labels, dict(rows.outputs), rows.inputs), "")
    except (EstimationError, UnscorableError) as error:
        return Learnt(rows, None, f"nothing can be learnt from the held-out rows of {of}: {error}")


_HOW = (
    "log the baseline with mooring.log_baseline(…, evaluation=(labels, predictions, inputs)) of rows that the "
    "model was not trained on"
)
