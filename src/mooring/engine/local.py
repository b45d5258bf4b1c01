"""Profiles computed in this process."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mooring.drift.baseline import Baseline
from mooring.drift.grid import CategoricalGrid
from mooring.drift.profile import Profile, cells_of, profile
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
