"""Rows that have all that an estimate needs: what the model said, features, and for held-out ones the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mooring.drift.columns import Column, is_number, plain
from mooring.engine.sources import from_values
from mooring.performance.kinds import as_predicted
from mooring.performance.scored import Floats, Integers, LabelledRows, Task, output_of, scored_of


class EstimationError(ValueError):
    """Data by which performance can't be estimated; the message says what is missing and what to do."""


class CompleteRows(NamedTuple):
    """Rows without those that lack what the model said, or their label where it is wanted."""

    scored: LabelledRows
    features: dict[str, Column]


def labelled_rows(
    labels: Any,
    output: Any,
    features: Mapping[str, Column] | None = None,
    groups: Integers | None = None,
    *,
    task: Task | None = None,
    classes: Sequence[str] | None = None,
) -> CompleteRows:
    """Return the rows that have a label and what the model said. Raises UnscorableError as `scored_of` does."""
    said = output_of(output)
    truth = _plain(from_values(labels))
    if any(len(one) != len(truth) for one in said.values()):
        raise EstimationError(f"there are {len(truth):,} labels, and the output has another number of rows")
    names = {*(classes or ()), *(_class_named(name) for name in said)} - {""}
    there = _present(truth)
    if there.any():
        truth = as_predicted(truth, said.get("prediction"), names)
        there = _present(truth)
    return _complete(truth, said, features, groups, there, task, classes)


def unlabelled_rows(
    output: Any,
    features: Mapping[str, Column] | None,
    groups: Integers | None,
    classes: Sequence[str] | None,
) -> CompleteRows:
    """Return the rows that have what the model said; their labels mean nothing.

    Classes that `classes` does not have come behind those that it has.
    """
    said = output_of(output)
    rows = len(next(iter(said.values())))
    nothing = pa.array([classes[0] if classes else 0.0] * rows)
    task: Task = "classification" if classes else "regression"
    return _complete(nothing, said, features, groups, np.ones(rows, np.bool_), task, classes)


def _complete(
    truth: pa.Array,
    said: dict[str, pa.Array],
    features: Mapping[str, Column] | None,
    groups: Integers | None,
    there: NDArray[np.bool_],
    task: Task | None,
    classes: Sequence[str] | None,
) -> CompleteRows:
    for one in said.values():
        there = there & _present(one)
    given = dict(features or {})
    if wrong := [name for name, column in given.items() if len(column) != len(there)]:
        raise EstimationError(
            f"the feature {wrong[0]} has {len(given[wrong[0]]):,} rows, the output {len(there):,}"
        )
    chosen = pa.array(there)
    output = {name.replace("probability of ", "probability_"): one.filter(chosen) for name, one in said.items()}
    codes = np.arange(len(there)) if groups is None else np.asarray(groups)
    scored = scored_of(truth.filter(chosen), output, codes[there], task=task, classes=classes)
    return CompleteRows(scored, {name: column.filter(chosen) for name, column in given.items()})


def _class_named(name: str) -> str:
    return name.removeprefix("probability of ") if name.startswith("probability of ") else ""


def _plain(column: Column) -> pa.Array:
    column = plain(column)
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column


def _present(column: pa.Array) -> NDArray[np.bool_]:
    """Return which values are there; of numbers, those that are finite."""
    if is_number(column.type):
        return np.isfinite(_floats(column))
    found: NDArray[np.bool_] = pc.is_valid(column).to_numpy(zero_copy_only=False)
    return found


def _floats(column: pa.Array) -> Floats:
    found: Floats = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return found
