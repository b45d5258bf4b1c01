"""Distributions to be looked at: a feature's baseline and window on few cells of common width."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mooring.drift.common_cells import by_identity
from mooring.drift.grid import CategoricalGrid, Floats, Grid, NumericGrid, TextGrid, TimestampGrid, single
from mooring.drift.measures import shares
from mooring.drift.profile import (
    CategoricalProfile,
    FeatureProfile,
    NumericProfile,
    TextProfile,
    TimestampProfile,
)

MOST_CELLS = 40
_LEAST_CELLS = 16
_CATEGORIES = 10
_LATTICE_SHARE = 0.8


class Histogram(NamedTuple):
    """Shares of baseline and window in cells of one `width` from `start` on, and below and above those cells.

    All shares are of the feature's finite values. The cells cover where the values mostly are; what lies far
    outside is in `below` and `above`, each of baseline and window.
    """

    start: float
    width: float
    reference: Floats
    current: Floats
    below: tuple[float, float]
    above: tuple[float, float]

    @property
    def end(self) -> float:
        """Where the last cell ends."""
        return self.start + self.width * len(self.reference)


class Bars(NamedTuple):
    """Shares of baseline and window by category, the most frequent first; `new` ones the baseline does not have.

    `rest` is the number of further categories, and `rest_shares` are theirs together.
    """

    names: list[str]
    reference: Floats
    current: Floats
    new: list[bool]
    rest: int
    rest_shares: tuple[float, float]


class ClockShares(NamedTuple):
    """Shares of baseline and window by hour of the day and by day of the week, Monday first; UTC."""

    hours: tuple[Floats, Floats]
    weekdays: tuple[Floats, Floats]


Distribution = Histogram | Bars | ClockShares


def distribution(grid: Grid, reference: FeatureProfile, current: FeatureProfile) -> Distribution | None:
    """Return a feature's distribution in baseline and window; None where there is nothing to draw."""
    a, b = reference.values, current.values
    match grid:
        case NumericGrid() if isinstance(a, NumericProfile) and isinstance(b, NumericProfile):
            return histogram(grid, a, b)
        case TextGrid() if isinstance(a, TextProfile) and isinstance(b, TextProfile):
            return histogram(grid.lengths, a.lengths, b.lengths)
        case CategoricalGrid() if isinstance(a, CategoricalProfile) and isinstance(b, CategoricalProfile):
            return _bars(grid, a, b)
        case TimestampGrid() if isinstance(a, TimestampProfile) and isinstance(b, TimestampProfile):
            if not a.values + b.values:
                return None
            return ClockShares((shares(a.hours), shares(b.hours)), (shares(a.weekdays), shares(b.weekdays)))
        case _:
            return None


def histogram(grid: NumericGrid, reference: NumericProfile, current: NumericProfile) -> Histogram | None:
    """Return the histogram of numbers; None where baseline and window have none, or lie too far apart to draw.

    >>> from mooring.drift.grid import numeric_grid
    >>> from mooring.drift.profile import numeric_profile
    >>> values = np.arange(100.0)
    >>> grid = numeric_grid(values)
    >>> found = histogram(grid, numeric_profile(values, grid), numeric_profile(values + 50, grid))
    >>> len(found.current) <= MOST_CELLS, round(found.above[1], 2), round(float(found.current.sum()), 2)
    (True, 0.5, 0.5)
    """
    if not reference.values + current.values:
        return None
    below_edges = [np.cumsum(shares(one.counts))[:-1] for one in (reference, current)]
    positions = grid.positions(grid.edges)
    low, high = _where_values_are(positions, below_edges)
    cells = int(np.clip(2.5 * max(current.values, 1) ** (1 / 3), _LEAST_CELLS, MOST_CELLS - 4))
    start, width, count = _layout(grid, reference, low, high, cells)
    if not np.isfinite(width) or width <= 0 or not np.isfinite(start + width * count):
        return None
    edges = start + width * np.arange(count + 1)
    cumulated = [np.interp(edges, positions, below) for below in below_edges]
    ends = [1.0 if one.values else 0.0 for one in (reference, current)]
    return Histogram(
        float(start) + grid.origin,
        float(width),
        np.diff(cumulated[0]),
        np.diff(cumulated[1]),
        (float(cumulated[0][0]), float(cumulated[1][0])),
        (_no_less(float(ends[0] - cumulated[0][-1])), _no_less(float(ends[1] - cumulated[1][-1]))),
    )


def _where_values_are(edges: Floats, below_edges: list[Floats]) -> tuple[float, float]:
    """Return the range that holds nearly all of both, but for outliers."""
    counted = [below for below in below_edges if below[-1] > 0]
    if not counted:  # all of the window's values lie above the baseline's, which has none itself
        return float(edges[0]), float(edges[-1])
    below = np.mean(counted, axis=0)
    places = np.minimum(np.searchsorted(below, (0.001, 0.25, 0.75, 0.999)), len(edges) - 1)
    least, low, high, most = edges[places]
    with np.errstate(over="ignore", invalid="ignore"):
        spread = high - low
        if spread > 0:
            least, most = max(least, low - 3 * spread), min(most, high + 3 * spread)
    return float(least), float(most)


def _layout(
    grid: NumericGrid, reference: NumericProfile, low: float, high: float, cells: int
) -> tuple[float, float, int]:
    """Return start, width and number of cells. Where values lie on a lattice, a cell holds whole steps of it."""
    if not low < high:
        width = abs(low) / 10 or 1.0
        return low - 2.5 * width, width, 5
    with np.errstate(over="ignore"):
        width = (high - low) / cells
    step, anchor = _lattice(grid, reference)
    if step <= 0 or not np.isfinite(width) or width > 1000 * step:
        return low, width, cells
    width = step * float(np.ceil(width / step * 0.999))
    first = anchor - step / 2
    start = first + width * float(np.floor((low - first) / width + 1e-9))
    return start, width, min(int(np.floor((high - start) / width + 1e-9)) + 1, MOST_CELLS)


def _lattice(grid: NumericGrid, reference: NumericProfile) -> tuple[float, float]:
    """Return the step between values that repeat, and one of them; a step of 0 where few repeat."""
    places = np.flatnonzero(single(grid.edges))
    counts = reference.counts[1:-1][places]
    if len(places) < 2 or counts.sum() < _LATTICE_SHARE * reference.values:
        return 0.0, 0.0
    own = grid.positions(grid.edges[places])
    with np.errstate(over="ignore"):
        gaps = np.sort(np.diff(own))
    step = float(gaps[len(gaps) // 4])
    return step, float(own[int(np.argmax(counts))])


def _bars(grid: CategoricalGrid, reference: CategoricalProfile, current: CategoricalProfile) -> Bars | None:
    if not reference.values + current.values:
        return None
    named = sorted({name for one in (reference, current) for name in one.new})
    a, b = (shares(counts) for counts in by_identity([reference, current]))
    names = [*grid.categories, *named]
    order = np.argsort(-np.maximum(a, b)[: len(names)], kind="stable")
    shown = order[:_CATEGORIES]
    if len(names) <= _CATEGORIES and grid.numbers is not None:
        shown = np.arange(len(names))  # numbers stay in their order
    kept = [int(place) for place in shown]
    left = len(names) - len(kept) + int(current.more > 0)
    return Bars(
        [names[place] for place in kept],
        a[kept],
        b[kept],
        [place >= len(grid.categories) for place in kept],
        left,
        (_rest(a, kept), _rest(b, kept)) if left else (0.0, 0.0),
    )


def _rest(shares_of_all: Floats, kept: list[int]) -> float:
    """Return the share of the categories that are not kept, 0 where there are no values."""
    return _no_less(float(1 - shares_of_all[kept].sum())) if shares_of_all.any() else 0.0


def _no_less(share: float) -> float:
    """Return a share that was found by taking others from 1, which by rounding may be a little below 0."""
    return max(share, 0.0)
