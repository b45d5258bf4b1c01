"""Grids: the cells that a baseline fixes for each feature, on which every later profile counts."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Kind = Literal["numeric", "categorical", "timestamp", "text", "other"]

QUANTILES = 1536
UNIFORM = 1024
FEW_VALUES = 2048
OWN_CELL_SHARE = 1 / 4096
_SMALL = 1000  # of fewer values each is more than 1/1000
KS_CELLS = 128
EXTREMES = 16
BINS = 10
MAX_CATEGORIES = 10_000


class NumericGrid(msgspec.Struct, frozen=True, tag="numeric", eq=False):
    """Cells of a number: cell i holds the values v with edges[i - 1] <= v < edges[i], the outer ones are open.

    The first edge is the baseline's least value and the last one lies just above its greatest, so the outer cells
    hold what is out of range. Between them lie the baseline's quantiles, a uniform grid, a cell of its own for
    each value that repeats often, and the edges of `bins`. No cell, but for those of one value, holds more than
    1/1000 of the baseline; hence the Kolmogorov-Smirnov distance of any sample is known to 1/1000.

    `bins` are the inner edges of the cells for measures that compare shares, the baseline's deciles. `steps` are
    those of the coarser cells on which the null distribution of the Kolmogorov-Smirnov distance is drawn; `ends`
    give each of the baseline's least and greatest values a cell, for that of the number of values out of range.
    `center` and `scale` are the baseline's mean and standard deviation.
    """

    edges: Floats
    bins: Floats
    steps: Floats
    ends: Floats
    center: float
    scale: float

    @property
    def cells(self) -> int:
        """How many cells there are."""
        return len(self.edges) + 1


class CategoricalGrid(msgspec.Struct, frozen=True, tag="categorical", eq=False):
    """A cell for each category of the baseline, in sorted order. Of `numbers` the categories are their texts.

    >>> category_text(5.0), category_text(0.5)
    ('5', '0.5')
    """

    categories: list[str]
    numbers: Floats | None = None

    @property
    def cells(self) -> int:
        """How many cells there are."""
        return len(self.categories)


class TimestampGrid(msgspec.Struct, frozen=True, tag="timestamp", eq=False):
    """Hours of the day, days of the week, and days of the calendar, all in UTC."""


class TextGrid(msgspec.Struct, frozen=True, tag="text", eq=False):
    """Texts too manifold to be categories: a grid of their lengths, in characters."""

    lengths: NumericGrid


class OtherGrid(msgspec.Struct, frozen=True, tag="other", eq=False):
    """What is none of these, such as lists: only whether it is there."""


Grid = NumericGrid | CategoricalGrid | TimestampGrid | TextGrid | OtherGrid


def category_text(value: float) -> str:
    """Return the text of a number that is a category: integers without a point, as training data has them."""
    return str(int(value)) if value.is_integer() else repr(value)


def numeric_grid(values: Floats) -> NumericGrid:
    """Return the grid of a baseline's values, of which NaN and infinities are left out.

    >>> grid = numeric_grid(np.array([1.0, 2.0, 2.0, 3.0, np.nan]))
    >>> grid.edges[0], float(grid.edges[-1]) > 3, grid.center
    (np.float64(1.0), True, 2.0)
    """
    values = np.sort(values[np.isfinite(values)])
    if not len(values):
        none = np.empty(0)
        return NumericGrid(np.array([0.0]), none, none, none, 0.0, 0.0)
    low, high = float(values[0]), float(values[-1])
    starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    counts = np.diff(np.append(starts, len(values)))
    distinct = values[starts]
    own = distinct[counts >= max(1 if len(values) <= _SMALL else 2, OWN_CELL_SHARE * len(values))]
    with np.errstate(over="ignore", invalid="ignore"):
        uniform = np.linspace(low, high, UNIFORM + 1)
        center, scale = float(np.mean(values)), float(np.std(values))
        bins = _bins(values, distinct)
        extremes = np.union1d(distinct[:EXTREMES], distinct[-EXTREMES:])
        ends = np.union1d(extremes, np.nextafter(extremes, np.inf))
        parts = (
            distinct if len(distinct) <= FEW_VALUES else np.quantile(values, np.linspace(0, 1, QUANTILES + 1)),
            uniform,
            own,
            np.nextafter(own, np.inf),
            bins,
            ends,
        )
    edges = np.unique(np.concatenate(parts))
    edges, ends = edges[np.isfinite(edges)], ends[np.isfinite(ends)]
    wanted = np.searchsorted(edges, np.quantile(values, np.linspace(0, 1, KS_CELLS + 1)))
    steps = edges[np.unique(np.minimum(wanted, len(edges) - 1))]
    return NumericGrid(edges, bins, steps, ends, center, scale)


def _bins(values: Floats, distinct: Floats) -> Floats:
    bins = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)))[1:-1]
    # Few values, one of them most often: all deciles fall on it.
    if len(bins) < 2 and 1 < len(distinct) <= 3 * BINS:
        return distinct[1:]
    return bins
