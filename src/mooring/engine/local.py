"""Profiles computed in this process."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from mooring.drift.baseline import Baseline
from mooring.drift.grid import CategoricalGrid
from mooring.drift.order import without
from mooring.drift.profile import Profile, cells_of, empty, profile
from mooring.engine.sources import batches


def profile_of(
    data: Any,
    baseline: Baseline,
    *,
    columns: Collection[str] | None = None,
    request_rows: str | None = None,
    misfits: str | None = None,
) -> Profile:
    """Return the profile of any data on the grids of a baseline.

    `data` is what `mooring.engine.sources` takes, of which only `columns` are read; `request_rows` and `misfits`
    are columns of it, as `mooring.drift.profile.profile` describes.

    Raises SourceError for data that can't be read.

    >>> from mooring.drift.baseline import make
    >>> import pyarrow as pa
    >>> profile_of({"x": [1.0, 9.0]}, make({"x": pa.array([1.0, 2.0, 3.0])})).rows
    2
    """
    grids = baseline.grids
    categories = [
        name for name, grid in grids.items() if isinstance(grid, CategoricalGrid) and grid.numbers is None
    ]
    loose = [name for name, grid in grids.items() if cells_of(grid) not in (None, "texts")]
    rows = batches(data, columns, categories=categories, loose=loose)
    return profile(rows, grids, request_rows=request_rows, misfits=misfits)


def of_inputs_alone(found: Profile, baseline: Baseline) -> Profile:
    """Return the profile of rows that have no output of their own: what they lack is no missing prediction.

    >>> from mooring.drift.baseline import make
    >>> import pyarrow as pa
    >>> made = make({"x": pa.array([1.0, 2.0]), "y": pa.array([1.0, 2.0])}, roles={"y": "output"})
    >>> found = of_inputs_alone(profile_of({"x": [1.0], "y": pa.nulls(1, pa.float64())}, made), made)
    >>> found.rows, found.features["x"].nulls, found.features["y"].nulls
    (1, 0, 0)
    """
    blank = empty(baseline.grids, found.digest)
    kept = {
        name: blank.features[name] if baseline.features[name].role == "output" else feature
        for name, feature in found.features.items()
    }
    outputs = {name for name, feature in baseline.features.items() if feature.role == "output"}
    return msgspec.structs.replace(found, features=kept, order=without(found.order, baseline.grids, outputs))
