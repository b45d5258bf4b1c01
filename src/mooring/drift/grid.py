"""Grids: the cells that a baseline fixes for each feature, on which every later profile counts."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Numbers = NDArray[Any]
"""Numbers of the type that they are compared in: float64, float32, int64 or uint64."""

QUANTILES = 1536
UNIFORM = 1024
FEW_VALUES = 2048
OWN_CELL_SHARE = 1 / 4096
_LARGE = 1e100
_SMALL = 1000  # of fewer values each is more than 1/1000
KS_CELLS = 128
EXTREMES = 16
BINS = 10
MAX_CATEGORIES = 10_000


class NumericGrid(msgspec.Struct, frozen=True, tag="numeric", eq=False, omit_defaults=True):
    """Cells of a number: cell i holds the values v with edges[i - 1] <= v < edges[i], the outer ones are open.

    The first edge is the baseline's least value and the last one lies just above its greatest, so the outer cells
    hold what is out of range. Between them lie the baseline's quantiles, a uniform grid, a cell of its own for
    each value that repeats often, and the edges of `bins`. No cell, but for those of one value, holds more than
    1/1000 of the baseline; hence the Kolmogorov-Smirnov distance of any sample is known to 1/1000.

    Values are compared in the type of the edges: float32 where the model gets no more, int64 or uint64 where the
    baseline has integers that float64 can't tell apart.

    `bins` are the inner edges of the cells for measures that compare shares: the baseline's deciles, and a cell of
    its own for a value on which three or more fall. `steps` are those of the coarser cells on which the null
    distribution of the Kolmogorov-Smirnov distance is drawn; `ends` give each of the baseline's least and greatest
    values a cell, for that of the number of values out of range. `center` and `scale` are the baseline's mean and
    standard deviation. `unit` is the power of two in which a profile keeps its sums, so that none overflows. Where
    `texts` the baseline's column was text, most of it numbers: there texts of numbers are numbers.
    """

    edges: Numbers
    bins: Numbers
    steps: Numbers
    ends: Numbers
    center: float
    scale: float
    unit: float = 1.0
    texts: bool = False

    @property
    def cells(self) -> int:
        """How many cells there are."""
        return len(self.edges) + 1

    @property
    def origin(self) -> float:
        """What positions are counted from: 0, and of integers that float64 can't tell apart the center."""
        return self.center if self.edges.dtype.kind in "iu" else 0.0

    def positions(self, values: Numbers) -> Floats:
        """Return how far values lie from the origin."""
        return distances(values, self.origin)


class CategoricalGrid(msgspec.Struct, frozen=True, tag="categorical", eq=False):
    """A cell for each category of the baseline, in sorted order. Of `numbers` the categories are their texts.

    Where `texts` the baseline's column was text, most of it numbers or truths: there such texts are these.

    >>> category_text(5.0), category_text(0.5)
    ('5', '0.5')
    """

    categories: list[str]
    numbers: Numbers | None = None
    # Unset it is not written, so that grids of earlier versions keep their digest.
    texts: bool | msgspec.UnsetType = msgspec.UNSET

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
    """Unsupported types, such as maps: only whether a value is there."""


Grid = NumericGrid | CategoricalGrid | TimestampGrid | TextGrid | OtherGrid


def category_text(value: Any) -> str:
    """Return the text of a number that is a category: integers without a point, as training data has them.

    >>> category_text(np.float32(0.1)), category_text(np.int64(2**60 + 1))
    ('0.1', '1152921504606846977')
    """
    if isinstance(value, np.integer):
        return str(value)
    whole = float(value)
    if whole.is_integer():
        return str(int(whole))
    return str(value) if isinstance(value, np.float32) else repr(whole)


def is_single(grid: Grid) -> bool:
    """Whether a grid's numbers are compared as float32."""
    numbers = grid.edges if isinstance(grid, NumericGrid) else getattr(grid, "numbers", None)
    return numbers is not None and numbers.dtype == np.float32


def following(values: Numbers) -> Numbers:
    """Return the next greater value of the same type; of the greatest one itself, or infinity.

    >>> following(np.array([2**60])), following(np.array([1.0], np.float32))
    (array([1152921504606846977]), array([1.0000001], dtype=float32))
    """
    if values.dtype.kind == "f":
        found: Numbers = np.nextafter(values, values.dtype.type(np.inf))
        return found
    return np.where(values == np.iinfo(values.dtype).max, values, values + values.dtype.type(1))


def single(edges: Numbers) -> NDArray[np.bool_]:
    """Return which of the cells between edges hold one value only."""
    found: NDArray[np.bool_] = following(edges[:-1]) == edges[1:]
    return found


def distances(values: Numbers, origin: float) -> Floats:
    """Return values less an origin as floats; of integers exactly, as long as floats can tell these apart.

    >>> distances(np.array([2**60 + 1]), float(2**60))
    array([1.])
    """
    if values.dtype.kind == "f":
        return np.asarray(values.astype(np.float64) - origin)
    low = values & values.dtype.type(2047)  # what is left has no more bits than a float
    return np.asarray((values - low).astype(np.float64) - origin + low.astype(np.float64))


def numeric_grid(values: Numbers) -> NumericGrid:
    """Return the grid of a baseline's values, of which NaN and infinities are left out.

    >>> grid = numeric_grid(np.array([1.0, 2.0, 2.0, 3.0, np.nan]))
    >>> grid.edges[0], float(grid.edges[-1]) > 3, grid.center
    (np.float64(1.0), True, 2.0)
    """
    kind = values.dtype
    values = np.sort(values[np.isfinite(values)])
    if not len(values):
        none = np.empty(0, kind)
        return NumericGrid(np.zeros(1, kind), none, none, none, 0.0, 0.0)
    starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    counts = np.diff(np.append(starts, len(values)))
    distinct = values[starts]
    own = distinct[counts >= max(1 if len(values) <= _SMALL else 2, OWN_CELL_SHARE * len(values))]
    center, scale = _moments(values)
    bins = _bins(values)
    extremes = np.union1d(distinct[:EXTREMES], distinct[-EXTREMES:])
    with np.errstate(over="ignore"):
        ends = np.union1d(extremes, following(extremes))
        parts = (
            distinct if len(distinct) <= FEW_VALUES else _quantiles(values, QUANTILES),
            _uniform(values[0], values[-1]),
            own,
            following(own),
            bins,
            ends,
        )
    edges = np.unique(np.concatenate(parts))
    edges, bins, ends = (part[np.isfinite(part)] for part in (edges, bins, ends))
    wanted = np.searchsorted(edges, _quantiles(values, KS_CELLS))
    steps = edges[np.unique(np.minimum(wanted, len(edges) - 1))]
    return NumericGrid(edges, bins, steps, ends, center, scale, _unit(float(values[0]), float(values[-1])))


def _bins(values: Numbers) -> Numbers:
    """Return the inner deciles. A value of more than two tenths has a cell of its own, or all might be in one."""
    deciles, times = np.unique(_quantiles(values, BINS), return_counts=True)
    repeated = deciles[times > 2]
    with np.errstate(over="ignore"):
        return np.union1d(deciles[1:-1], np.union1d(repeated, following(repeated)))


def _quantiles(values: Numbers, count: int) -> Numbers:
    """Return the quantiles of sorted values that cut them into so many parts, none of them rounded down.

    So a value is not less than the one returned just where it is not less than the quantile.
    """
    shares = np.linspace(0, 1, count + 1)
    if values.dtype.kind == "f":
        shift = 4 if max(-float(values[0]), float(values[-1])) > _LARGE else 0  # or a difference may overflow
        found = np.ldexp(np.quantile(np.ldexp(values.astype(np.float64), -shift), shares), shift)
        return _rounded_up(found, values.dtype)
    places = shares * (len(values) - 1)
    at = places.astype(np.int64)
    low, high = values[at].tolist(), values[np.minimum(at + 1, len(values) - 1)].tolist()
    between = zip(low, high, (places - at).tolist(), strict=True)
    return np.array([a + math.ceil((b - a) * part) for a, b, part in between], values.dtype)


def _uniform(low: Any, high: Any) -> Numbers:
    if low.dtype.kind == "f":
        half = np.linspace(float(low) / 2, float(high) / 2, UNIFORM + 1)
        return _rounded_up(
            2 * half if abs(half).max() > _LARGE else np.linspace(float(low), float(high), UNIFORM + 1), low.dtype
        )
    first, width = int(low), int(high) - int(low)
    return np.array([first + width * at // UNIFORM for at in range(UNIFORM + 1)], low.dtype)


def _rounded_up(values: Floats, kind: np.dtype[Any]) -> Numbers:
    """Return floats as those of a type; of its values the same ones are less than them as before."""
    with np.errstate(over="ignore"):
        found = values.astype(kind)
        return np.where(found < values, following(found), found)


def _moments(values: Numbers) -> tuple[float, float]:
    """Return mean and standard deviation of sorted values, though their squares be no floats."""
    if values.dtype.kind in "iu":
        low = int(values[0])
        above = (values - values[0]).view(np.uint64).astype(np.float64)
        return float(low + round(float(above.mean()))), float(above.std())
    floats = values.astype(np.float64)
    greatest = float(max(abs(floats[0]), abs(floats[-1])))
    if 1 / _LARGE < greatest < _LARGE or not greatest:
        return float(np.mean(floats)), float(np.std(floats))
    power = math.frexp(greatest)[1]
    scaled = np.ldexp(floats, -power)
    return math.ldexp(float(np.mean(scaled)), power), math.ldexp(float(np.std(scaled)), power)


def _unit(low: float, high: float) -> float:
    """Return a unit in which sums of such values are floats, and those of all but the greatest others."""
    power = math.frexp(max(abs(low), abs(high)))[1]
    return 2.0**64 if abs(power) <= 300 else math.ldexp(1.0, max(-1000, min(power, 1000)))
