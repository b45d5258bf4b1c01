"""How well a model does on rows with labels, as a baseline keeps it."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from mooring.drift.baseline import Feature, HeldOut
from mooring.drift.columns import plain
from mooring.drift.segments import segments_of
from mooring.performance.judge import LEAST_ROWS, held_out
from mooring.performance.measures import scored_of
from mooring.performance.scored import UnscorableError

HELD_OUT = "held-out rows"
IN_SAMPLE = "in-sample: the training data's own rows, which the model has seen"


def held_out_of(labels: pa.ChunkedArray, outputs: Mapping[str, pa.ChunkedArray], about: str = HELD_OUT) -> HeldOut:
    """Return how well predictions fit labels. Raises ValueError where they can't be compared, or are too few."""
    scored = scored_of(plain(labels), {name: plain(column) for name, column in outputs.items()})
    if scored.rows < LEAST_ROWS:
        raise UnscorableError(f"{scored.rows} rows with label and prediction are too few: it takes {LEAST_ROWS}")
    return held_out(scored, about)


def held_out_in(
    column: pa.ChunkedArray,
    feature: Feature,
    value: str,
    labels: pa.ChunkedArray,
    outputs: Mapping[str, pa.ChunkedArray],
) -> HeldOut | None:
    """Return how well predictions fit labels where a column has a value; None for too few such rows."""
    rows = pa.array(segments_of(column, feature) == value)
    try:
        return held_out_of(labels.filter(rows), {name: one.filter(rows) for name, one in outputs.items()})
    except UnscorableError:
        return None


def in_sample(labels: pa.ChunkedArray, outputs: Mapping[str, pa.ChunkedArray]) -> tuple[HeldOut | None, str]:
    """Return how well predictions of the training data fit their labels, or None and why that can't be told."""
    try:
        return held_out_of(labels, outputs, IN_SAMPLE), ""
    except UnscorableError as error:
        return None, f"not kept: {error}"
