"""Counting values in the cells of a grid, fast: most of the time that a profile takes is spent here.

The cell of a number is found by a table of evenly wide buckets, finer than the cells: in nearly all of them lies
no edge, so that all their values are in one cell, or but one value that repeats. Only what falls into the others
is compared with edges. Where a baseline is so skewed that its edges crowd in few buckets, values are sorted.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mooring.drift.columns import Column, as_numbers, as_texts, filled
from mooring.drift.grid import (
    CategoricalGrid,
    Floats,
    Integers,
    Numbers,
    NumericGrid,
    category_text,
    distances,
    single,
)

NEW_CATEGORIES = 1000

BUCKETS = 32_768
_BLOCK = 65_536
_PART = 16_384  # what stays in the processor's nearest cache
_LONG = 16_384
_REACH = 2.0
_LEAST_SQUARES, _MOST_SQUARES = 1e-200, 1e200


class NumberCounter:
    """Counts of the values in the cells of a grid, with what else a profile keeps of them.

    Moments are about the grid's center. `low` and `high` are the sums of the values' positions in the two open
    cells. All sums are in the grid's unit. Of the infinities `minus` are negative.

    >>> from mooring.drift.grid import numeric_grid
    >>> counter = NumberCounter(numeric_grid(np.array([1.0, 2.0, 4.0])))
    >>> counter.add(np.array([2.0, 9.0, np.nan, -np.inf]))
    >>> int(counter.counts().sum()), counter.nans, counter.infinities, counter.minus, counter.maximum
    (2, 1, 1, 1, 9.0)
    """

    def __init__(self, grid: NumericGrid) -> None:
        self.nans = 0
        self.infinities = 0
        self.minus = 0
        self.total = 0.0
        self.squares = 0.0
        self.minimum = math.inf
        self.maximum = -math.inf
        self.low = 0.0
        self.high = 0.0
        self._grid = grid
        self._kind = grid.edges.dtype
        self._edges = grid.edges.astype(np.float64) if self._kind.kind == "f" else grid.edges
        self._counts = np.zeros(grid.cells, np.int64)
        self._table: Table | None = None
        self._tabled = self._kind.kind == "f"
        self._buffer = np.empty(_PART)

    def add(self, values: Numbers) -> None:
        """Count more values, in any order: floats, or integers where the grid has these."""
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(values), _BLOCK):
                part = values[start : start + _BLOCK]
                if self._kind == np.float64:
                    self._add(part)
                elif self._kind.kind == "f":
                    self._add(part.astype(self._kind).astype(np.float64))
                elif part.dtype == self._kind:
                    self._add_integers(part)
                else:
                    self._add_integers(self._as_integers(part))

    def counts(self) -> Integers:
        """Return the counts so far."""
        return self._counts if self._table is None else self._counts + self._table.counts()

    def _add(self, values: Floats) -> None:
        low, high = float(values.min()), float(values.max())
        if not math.isfinite(low) or not math.isfinite(high):
            nans = int(np.count_nonzero(np.isnan(values)))
            finite = values[np.isfinite(values)]
            self.nans += nans
            self.infinities += len(values) - len(finite) - nans
            self.minus += int(np.count_nonzero(values == -np.inf))
            values = finite
            if not len(values):
                return
            low, high = float(values.min()), float(values.max())
        self._note_ends(values, low, high)
        center, unit = self._grid.center, self._grid.unit
        table = self._table_for(len(values))
        inside = table is not None and table.covers(low, high)
        places = np.empty(0 if table is None else len(values), np.int64)
        for start in range(0, len(values), _PART):
            part = values[start : start + _PART]
            centered = np.subtract(part, center, out=self._buffer[: len(part)])
            total, squares = float(centered.sum()), float(np.dot(centered, centered))
            if squares < _MOST_SQUARES and (squares > _LEAST_SQUARES or not total):
                self.total += total / unit
                self.squares += squares / unit / unit
            else:
                scaled = part / unit - center / unit
                self.total += float(scaled.sum())
                self.squares += float(np.dot(scaled, scaled))
            if table is not None:
                places[start : start + len(part)] = table.buckets(centered, inside)
        if table is not None:
            self._tabled = table.add(values, places)
        else:
            self._counts += count_sorted(values, self._edges)

    def _add_integers(self, values: Numbers) -> None:
        if not len(values):
            return
        self._note_ends(values, int(values.min()), int(values.max()))
        scaled = distances(values, self._grid.center) / self._grid.unit
        self.total += float(scaled.sum())
        self.squares += float(np.dot(scaled, scaled))
        self._counts += count_sorted(values, self._edges)

    def _as_integers(self, values: Numbers) -> Numbers:
        """Return numbers as integers of the grid's type, and count those that are none, or too far out to be one.

        Of a fraction the integer below is returned: it lies between the same edges.
        """
        bounds = np.iinfo(self._kind)
        if values.dtype.kind == "f":
            infinite = np.isinf(values)
            self.nans += int(np.count_nonzero(np.isnan(values)))
            self.infinities += int(np.count_nonzero(infinite))
            self.minus += int(np.count_nonzero(values[infinite] < 0))
            values = np.floor(values[np.isfinite(values)])
            below, above = values < float(bounds.min), values >= float(bounds.max)
        else:
            below = values < 0 if bounds.min == 0 else np.zeros(len(values), bool)
            above = values > bounds.max if values.dtype == np.uint64 else np.zeros(len(values), bool)
        if below.any() or above.any():
            self._add_far(values[below], values[above])
            values = values[~(below | above)]
        return values.astype(self._kind)

    def _add_far(self, below: Numbers, above: Numbers) -> None:
        grid = self._grid
        sums = []
        for at, values in ((0, below), (-1, above)):
            scaled = distances(values, grid.center) / grid.unit
            self._counts[at] += len(values)
            self.total += float(scaled.sum())
            self.squares += float(np.dot(scaled, scaled))
            sums.append(float(scaled.sum()))
            if len(values):
                self.minimum = min(self.minimum, float(values.min()))
                self.maximum = max(self.maximum, float(values.max()))
        self.low += sums[0]
        self.high += sums[1]

    def _note_ends(self, values: Numbers, low: float, high: float) -> None:
        self.minimum, self.maximum = min(self.minimum, float(low)), max(self.maximum, float(high))
        grid = self._grid
        if low < self._edges[0]:
            self.low += float((grid.positions(values[values < self._edges[0]]) / grid.unit).sum())
        if high >= self._edges[-1]:
            self.high += float((grid.positions(values[values >= self._edges[-1]]) / grid.unit).sum())

    def _table_for(self, count: int) -> Table | None:
        if not self._tabled or count < _LONG:
            return None
        if self._table is None:
            self._table = Table.of(self._grid)
            self._tabled = self._table is not None
        return self._table


class CategoryCounter:
    """Counts of the categories of a grid, and of new ones by name, as a profile keeps them.

    >>> counter = CategoryCounter(CategoricalGrid(["a", "b"]))
    >>> counter.add(pa.array(["a", "c", None]))
    0
    >>> counter.counts, counter.new
    (array([1, 0]), {'c': 1})
    """

    def __init__(self, grid: CategoricalGrid) -> None:
        self.counts = np.zeros(grid.cells, np.int64)
        self.new: dict[str, int] = {}
        self.more = 0
        self._grid = grid
        self._names: pa.Array | None = None
        self._places: Integers = np.empty(0, np.int64)

    def add(self, column: Column) -> int:
        """Count a column's values, and return how many of them are of another type."""
        if self._grid.numbers is not None:
            numbers = as_numbers(column)
            return filled(column) if numbers is None else self.add_numbers(numbers)
        texts = as_texts(column)
        if texts is None:
            return filled(column)
        for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
            self._add_texts(chunk)
        return 0

    def _add_texts(self, texts: pa.Array) -> None:
        if isinstance(texts, pa.DictionaryArray):
            codes = texts.indices.drop_null() if texts.indices.null_count else texts.indices
            names = texts.dictionary
            totals = np.bincount(codes.to_numpy().astype(np.int64, copy=False), minlength=len(names))
        else:
            counted = pc.value_counts(texts)
            names, totals = counted.field(0), counted.field(1).to_numpy()
        places = self.find(names)
        known = places >= 0
        np.add.at(self.counts, places[known], totals[known])
        others = np.flatnonzero(~known & (totals > 0))
        if len(others):
            taken = names.take(pa.array(others)).to_pylist()
            counted = zip(taken, totals[others].tolist(), strict=True)
            self._add_new((name, count) for name, count in counted if name is not None)

    def find(self, names: pa.Array) -> Integers:
        """Return the places of names among the categories, -1 of others. Batches often share their dictionary."""
        if self._names is None or not names.equals(self._names):
            wanted = pa.array(self._grid.categories, names.type)
            self._places = pc.index_in(names, value_set=wanted).fill_null(-1).to_numpy().astype(np.int64)
            self._names = names
        return self._places

    def add_numbers(self, numbers: Numbers) -> int:
        """Count numbers, and return how many are none. They are compared in the type that the grid has them in."""
        known = self._grid.numbers
        assert known is not None
        there = numbers[~np.isnan(numbers)]
        if known.dtype.kind == "f":
            with np.errstate(over="ignore"):
                there = there.astype(known.dtype)
        distinct, totals = np.unique(there, return_counts=True)
        places, found = _among(known, distinct)
        self.counts[places[found]] += totals[found]
        self._add_new(
            (category_text(value), count)
            for value, count in zip(distinct[~found], totals[~found].tolist(), strict=True)
        )
        return len(numbers) - len(there)

    def _add_new(self, counted: Iterable[tuple[str, int]]) -> None:
        for name, count in counted:
            self.new[name] = self.new.get(name, 0) + count
        self.new, self.more = least(self.new, self.more)


def _among(known: Numbers, distinct: Numbers) -> tuple[Integers, NDArray[np.bool_]]:
    """Return the places of numbers among known ones, and which are there: also where the types differ."""
    if known.dtype != distinct.dtype and known.dtype.kind in "iu":
        inside = np.zeros(len(distinct), bool)
        bounds = np.iinfo(known.dtype)
        if distinct.dtype.kind == "f":
            inside = (
                (distinct >= float(bounds.min)) & (distinct < float(bounds.max)) & (np.floor(distinct) == distinct)
            )
        else:
            inside = distinct <= bounds.max if bounds.min else distinct >= 0
        places = np.zeros(len(distinct), np.int64)
        found = np.zeros(len(distinct), bool)
        places[inside], found[inside] = _among(known, distinct[inside].astype(known.dtype))
        return places, found
    places = np.minimum(known.searchsorted(distinct), max(len(known) - 1, 0))
    return places, known[places] == distinct if len(known) else np.zeros(len(distinct), bool)


def least(new: dict[str, int], more: int) -> tuple[dict[str, int], int]:
    """Return the new categories with the least hashes, by name, and the rows of the rest added to `more`.

    >>> least({"b": 2, "a": 1}, 0)
    ({'a': 1, 'b': 2}, 0)
    """
    if len(new) <= NEW_CATEGORIES:
        return dict(sorted(new.items())), more
    kept = sorted(new, key=_hash)[:NEW_CATEGORIES]
    left = {name: new[name] for name in sorted(kept)}
    return left, more + sum(new.values()) - sum(left.values())


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def count_sorted(values: Numbers, edges: Numbers) -> Integers:
    """Return how many values are in each cell. Of sorted values each edge is found, instead of each value's cell.

    >>> count_sorted(np.array([3.0, 1.0, 2.0]), np.array([2.0, 5.0]))
    array([1, 2, 0])
    """
    bounds = np.empty(len(edges) + 2, np.int64)
    bounds[0], bounds[-1] = 0, len(values)
    bounds[1:-1] = np.sort(values).searchsorted(edges)
    counts: Integers = np.diff(bounds)
    return counts


class Table:
    """Buckets of one width over the bulk of a baseline, and the counts in them.

    The bucket of a value is found by the same floating-point operations as that of an edge, and these never
    decrease: so a value in a bucket below that of an edge is less than the edge, and one in a bucket above it is
    not. Nothing depends on how they are rounded.
    """

    def __init__(self, grid: NumericGrid, low: float, high: float) -> None:
        self._center = grid.center
        self._scale = (BUCKETS - 2) / (high - low)
        self._offset = 1 - (low - grid.center) * self._scale
        self._edges: Floats = grid.edges.astype(np.float64)
        self._single = np.flatnonzero(single(grid.edges))
        self._padded = np.concatenate([self._edges, [math.inf, math.inf]])
        at = self.buckets(self._edges - grid.center).astype(np.int64)
        self._before = np.searchsorted(at, np.arange(BUCKETS)).astype(np.int32)
        edges_in = np.bincount(at, minlength=BUCKETS)
        self._is_mixed = edges_in > 0
        self._is_hard = edges_in > 2
        self._mixed = np.flatnonzero(self._is_mixed)
        self._repeated, self._repeated_at = self._single_values(at)
        self._all = np.zeros(BUCKETS, np.int64)
        self._hits = np.zeros(BUCKETS, np.int64)
        self._counts = np.zeros(grid.cells, np.int64)
        self._left: list[Floats] = []
        self._left_count = 0

    @classmethod
    def of(cls, grid: NumericGrid) -> Table | None:
        """Return the table of a grid, None of one that is too narrow or too wide for it.

        It covers the baseline's range, of outliers only so far as leaves the bulk enough buckets.
        """
        low, high = float(grid.edges[0]), float(grid.edges[-1])
        if len(grid.steps) > 2:
            bulk = float(grid.steps[1]), float(grid.steps[-2])
            reach = _REACH * (bulk[1] - bulk[0])
            if reach > 0:
                low, high = max(low, bulk[0] - reach), min(high, bulk[1] + reach)
        width = high - low
        if not 1e-290 < width < 1e290 or width < 1e-9 * max(abs(low), abs(high)):
            return None
        return cls(grid, low, high)

    def covers(self, low: float, high: float) -> bool:
        """Whether all values between two have a bucket without being brought into the range."""
        first, last = (np.array([low, high]) - self._center) * self._scale + self._offset
        return bool(first >= 0 and last < BUCKETS)

    def buckets(self, centered: Floats, inside: bool = False) -> Floats:
        """Return the buckets of values from which the center has been subtracted, in their place."""
        centered *= self._scale
        centered += self._offset
        return centered if inside else np.clip(centered, 0, BUCKETS - 1, out=centered)

    def add(self, values: Floats, places: Integers) -> bool:
        """Count values in their buckets, and say whether this was worth while."""
        counts = np.bincount(places, minlength=BUCKETS)
        mixed = int(counts[self._mixed].sum())
        if mixed <= len(values) // 2:
            self._all += counts
            odd = np.flatnonzero(self._is_mixed.take(places))
        else:
            self._hits += counts
            odd = np.flatnonzero(values != self._repeated.take(places))
            np.subtract.at(self._hits, places.take(odd), 1)
        hard = self._resolve(values.take(odd), places.take(odd)) if len(odd) else 0
        return len(odd) + 2 * hard <= len(values) // 2

    def counts(self) -> Integers:
        """Return the counts in the cells."""
        self._flush()
        counts = self._counts.copy()
        whole = np.flatnonzero(np.where(self._is_mixed, 0, self._all))
        np.add.at(counts, self._before[whole], self._all[whole])
        known = self._repeated[self._repeated_at]
        np.add.at(counts, self._edges.searchsorted(known, "right"), self._hits[self._repeated_at])
        return counts

    def _single_values(self, at: Integers) -> tuple[Floats, Integers]:
        """Return, by bucket, the value that has a cell of its own there, and the buckets of these."""
        repeated = np.full(BUCKETS, np.nan)
        repeated[at[self._single]] = self._edges[self._single]
        return repeated, np.unique(at[self._single])

    def _resolve(self, values: Floats, places: Integers) -> int:
        """Count values one by one; return for how many of them a table is of no use."""
        cells = self._before.take(places)
        above = values >= self._padded.take(cells)
        above_both = values >= self._padded.take(cells + 1)
        cells += above
        cells += above_both
        hard = self._is_hard.take(places)
        count = int(np.count_nonzero(hard))
        if count:
            self._left.append(values[hard])
            self._left_count += count
            if self._left_count >= _BLOCK:
                self._flush()
            cells = cells[~hard]
        self._counts += np.bincount(cells, minlength=len(self._counts))
        return count

    def _flush(self) -> None:
        if self._left_count:
            self._counts += count_sorted(np.concatenate(self._left), self._edges)
            self._left, self._left_count = [], 0
