"""Segments: the rows in which a feature has one value, or lies in one quartile of the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mooring.drift.baseline import Baseline, Feature, make
from mooring.drift.columns import Column, as_texts, plain
from mooring.drift.grid import Floats, NumericGrid, category_text, is_single
from mooring.drift.loose import fitted, is_loose
from mooring.drift.profile import NumericProfile, cells_of

MOST = 20
"""How many segments of a feature are looked at: those with the most rows."""
LEAST_ROWS = 100
"""How many rows of the baseline a segment needs to have a baseline of its own."""


def segments_of(column: Column, feature: Feature | None = None) -> NDArray[np.object_]:
    """Return the name of each row's segment, None where the feature has no value.

    A number's segments are the quartiles of the baseline's feature where that is numeric, else each value is one.

    >>> segments_of(pa.array(["red", None])).tolist(), segments_of(pa.array([5.0, 7.5])).tolist()
    (['red', None], ['5', '7.5'])
    """
    column = plain(column)
    texts = as_texts(column)
    if texts is not None:
        return np.array(texts.to_pylist() or [], object)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return np.full(len(column), None, object)
    numbers = (
        pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        if isinstance(column, pa.Array)
        else pc.cast(column, pa.float64(), safe=False).to_numpy()
    )
    there = np.isfinite(numbers)
    found = np.full(len(numbers), None, object)
    cuts = quartiles(feature) if feature is not None else None
    if cuts is not None:
        names = np.array(_names(cuts), object)
        found[there] = names[np.searchsorted(cuts, numbers[there], side="right")]
        return found
    distinct, places = np.unique(numbers[there], return_inverse=True)
    found[there] = (
        np.array([category_text(float(one)) for one in distinct], object)[places] if len(distinct) else None
    )
    return found


def largest(names: NDArray[np.object_], least: float, most: int = MOST) -> list[str]:
    """Return the segments with at least so many rows, those with the most rows first."""
    there = names[names != None]  # noqa: E711  NumPy compares each element
    distinct, counts = np.unique(there.astype(str), return_counts=True)
    order = sorted(zip(distinct.tolist(), counts.tolist(), strict=True), key=lambda one: (-one[1], one[0]))
    return [name for name, count in order if count >= least][:most]


def baselines_of(
    columns: Mapping[str, Column], whole: Baseline, features: Sequence[str]
) -> dict[str, dict[str, Baseline]]:
    """Return baselines of the segments of some features, by feature and value; `whole` is that of all `columns`.

    Raises ValueError for a feature that there is not.

    >>> columns = {"x": pa.array(np.arange(300.0)), "c": pa.array(["a", "b", "a"] * 100)}
    >>> found = baselines_of(columns, make(columns), ["c"])
    >>> {value: one.rows for value, one in found["c"].items()}
    {'a': 200, 'b': 100}
    """
    found: dict[str, dict[str, Baseline]] = {}
    for feature in features:
        if feature not in columns:
            raise ValueError(f"there is no column {feature} to make segments of; there is: {', '.join(columns)}")
        names = segments_of(columns[feature], whole.features[feature])
        found[feature] = {}
        for value in largest(names, LEAST_ROWS):
            rows = pa.array(names == value)
            found[feature][value] = make(
                {name: _part(column, rows, whole.features[name]) for name, column in columns.items()},
                roles={name: one.role for name, one in whole.features.items()},
                kinds={name: one.kind for name, one in whole.features.items()},
                singles=[name for name, one in whole.features.items() if is_single(one.grid)],
                importance={
                    name: one.importance for name, one in whole.features.items() if one.importance is not None
                },
                held_out=not whole.in_sample,
            )
    return found


def _part(column: Column, rows: pa.Array, feature: Feature) -> Column:
    """Return some rows of a column: nulls where all of them are odd cells, of which there is no grid."""
    part = column.filter(rows)
    wanted = cells_of(feature.grid)
    if not is_loose(part) or wanted is None:
        return part
    fit, _ = fitted(part, wanted)
    return pa.nulls(len(part), fit.type) if len(fit) == fit.null_count else part


def quartiles(feature: Feature) -> Floats | None:
    """Return the inner edges of a numeric feature's quartiles; None of another."""
    values = feature.profile.values
    if not isinstance(feature.grid, NumericGrid) or not isinstance(values, NumericProfile) or not values.values:
        return None
    below = np.cumsum(values.counts)[:-1]  # how many values lie below each edge
    places = np.searchsorted(below, below[-1] * np.array([0.25, 0.5, 0.75]))
    return np.unique(feature.grid.edges[np.minimum(places, len(feature.grid.edges) - 1)].astype(np.float64))


def _names(cuts: Floats) -> list[str]:
    """Return what quartiles are called.

    >>> _names(np.array([1.0, 2.5]))
    ['below 1', '1 to 2.5', 'from 2.5']
    """
    texts = [f"{one:.6g}" for one in cuts]
    between = [f"{low} to {high}" for low, high in pairwise(texts)]
    return [f"below {texts[0]}", *between, f"from {texts[-1]}"]
