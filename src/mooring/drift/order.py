"""The order of rows, as a profile keeps it: sums over some hundred batches of rows that follow each other.

Each feature has bounded scores, of its values and of their lack. Sketches add, whatever was split how: a batch
holds the rows whose keys, times and places in their requests, agree in all but their last bits. What they tell is
in `mooring.drift.dependence`.

References
----------
Rao, J. and Scott, A. (1981). The analysis of categorical data from complex sample surveys. Journal of the
American Statistical Association 76(374). The mean design effect of a feature's cells.

"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import numpy as np
import pyarrow.compute as pc

from mooring.drift.columns import Column, as_floats, as_lengths, as_texts, encoded
from mooring.drift.counting import CategoryCounter, NumberCounter
from mooring.drift.grid import CategoricalGrid, Floats, Grid, Integers, Numbers, NumericGrid, TextGrid

BATCHES = 128
"""How many batches of rows a sketch keeps, at most."""
_REACH, _UNIT = 3.0, 256.0
"""How many robust standard deviations a number's score goes, and its score at one."""
_GOLDEN, _SILVER = 0.6180339887498949, 0.41421356237309515


class BatchSums(msgspec.Struct):
    """Sums over batches of rows that follow each other in time.

    A batch holds the rows whose key, of microseconds, lies between two multiples of 2**`shift`: `keys` are these
    multiples, `rows` how many rows each batch has, `sums` (channels, batches) the sums of their scores, and
    `squares` (channels) those of all rows' squared scores. All are integers, and the shift is the least at which
    there are no more than `BATCHES`, so any split of the rows gives the same sum.
    """

    shift: int
    keys: Integers
    rows: Integers
    sums: Integers
    squares: Integers

    def __add__(self, other: BatchSums) -> BatchSums:
        """Return the sketch of both samples.

        >>> one, two = (Runs(np.array(keys)) for keys in ([5, 6], [6]))
        >>> both = one.order([one.sums(None)]) + two.order([two.sums(None)])
        >>> both.keys.tolist(), both.rows.tolist()
        ([5, 6], [1, 2])
        """
        shift = max(self.shift, other.shift)
        keys = np.concatenate([self.keys >> (shift - self.shift), other.keys >> (shift - other.shift)])
        place = np.argsort(keys, kind="stable")
        keys = keys[place]
        more, starts = batches_of(keys)
        return BatchSums(
            shift + more,
            keys[starts] >> more,
            np.add.reduceat(np.concatenate([self.rows, other.rows])[place], starts),
            np.add.reduceat(np.concatenate([self.sums, other.sums], axis=1)[:, place], starts, axis=1),
            self.squares + other.squares,
        )


def keys_of(times: Integers, rows: Integers, request_rows: Integers) -> Integers:
    """Return the keys of rows: when they were received, in microseconds, and which row of its request each is.

    A request begins at a multiple of a power of two that is no less than its rows, so that it stays in one batch
    unless it is longer than that.

    >>> keys_of(np.array([1001, 1001, 1010]), np.array([0, 1, 0]), np.array([2, 2, 1])).tolist()
    [1000, 1001, 1010]
    """
    if not len(request_rows) or request_rows.max() <= 1:
        return times
    bits = np.frexp(np.maximum(request_rows, 1) - 0.5)[1]
    return (times >> bits << bits) + rows


def batches_of(keys: Integers, most: int = BATCHES) -> tuple[int, Integers]:
    """Return by how many bits ascending keys must be cut to make `most` batches at most, and where these begin.

    >>> shift, starts = batches_of(np.arange(256))
    >>> shift, starts[:3].tolist()
    (1, [0, 2, 4])
    """
    # Neighbours fall apart as long as their highest bit that differs is not cut off.
    bits = np.frexp((keys[1:] ^ keys[:-1]).astype(np.float64))[1]
    apart = np.cumsum(np.bincount(bits, minlength=2)[::-1])[::-1][1:]
    shift = int(np.count_nonzero(apart >= most))
    return shift, np.concatenate([[0], np.flatnonzero(bits > shift) + 1])


class Runs:
    """Rows brought into their order, and cut into batches, to sum scores over these."""

    def __init__(self, keys: Integers) -> None:
        self._place: Integers | None = None
        if (keys[1:] < keys[:-1]).any():
            self._place = np.argsort(keys, kind="stable")
            keys = keys[self._place]
        self.shift, self._starts = batches_of(keys)
        self.keys = keys[self._starts] >> self.shift
        self.rows = np.diff(np.append(self._starts, len(keys)))

    def sums(self, scores: Floats | None) -> tuple[Floats, float]:
        """Return the sums of integer scores over the batches and of their squares; of None, all of which are 0."""
        if scores is None:
            return np.zeros(len(self._starts)), 0.0
        ordered = scores if self._place is None else scores.take(self._place)
        return np.add.reduceat(ordered, self._starts), float(np.einsum("i,i->", scores, scores))

    def order(self, channels: list[tuple[Floats, float]]) -> BatchSums:
        """Return the sketch of sums of several channels."""
        sums = np.array([one for one, _ in channels]).reshape(len(channels), len(self._starts))
        squares = np.array([one for _, one in channels])
        return BatchSums(self.shift, self.keys, self.rows, sums.astype(np.int64), squares.astype(np.int64))


def channels_of(grid: Grid) -> int:
    """Return how many scores there are of a feature's values; one more is of rows without any."""
    match grid:
        case NumericGrid() | TextGrid():
            return 1
        case CategoricalGrid():
            return 2
        case _:
            return 0


class Scorer:
    """Scores of a feature's values, integers, one array for each channel.

    Of a number it is its distance from the median, in robust standard deviations and bounded, so that no tail
    decides; of a category two fixed numbers at random, whose mean design effect is about that of all categories.
    """

    def __init__(self, grid: Grid, counter: NumberCounter | CategoryCounter | None = None) -> None:
        self.channels = channels_of(grid)
        self._grid = grid
        self._counter = counter
        if isinstance(grid, CategoricalGrid):
            places = np.arange(grid.cells + 2)
            self._scores = [np.rint((places * step % 1.0 - 0.5) * 2 * _UNIT) for step in (_GOLDEN, _SILVER)]
            for scores in self._scores:
                scores[-1] = 0.0  # of rows without a value
        elif isinstance(grid, NumericGrid | TextGrid):
            self._center, self._spread = _robust(grid if isinstance(grid, NumericGrid) else grid.lengths)

    def none(self, runs: Runs) -> list[tuple[Floats, float]]:
        """Return the sums where there is no such column at all."""
        return [runs.sums(None)] * self.channels + [runs.sums(np.ones(int(runs.rows.sum())))]

    def unknown(self, runs: Runs) -> list[tuple[Floats, float]]:
        """Return the sums where it is not known which row has which value."""
        return [runs.sums(None)] * (self.channels + 1)

    def sums(self, column: Column, runs: Runs) -> list[tuple[Floats, float]]:
        """Return the sums of a column's scores over batches of rows, those of rows without a value last."""
        if isinstance(self._grid, CategoricalGrid):
            codes = self._codes(column)
            if codes is None:
                return self.none(runs)
            missing = codes == len(self._scores[0]) - 1 if column.null_count else None
            found = [runs.sums(scores.take(codes)) for scores in self._scores]
        elif self.channels:
            take = as_lengths if isinstance(self._grid, TextGrid) else as_floats
            values = take(column, nan=True)
            if values is None:
                return self.none(runs)
            with np.errstate(invalid="ignore", over="ignore"):
                scores = values - self._center
                scores *= _UNIT / self._spread
                np.maximum(scores, -_REACH * _UNIT, out=scores)
                np.minimum(scores, _REACH * _UNIT, out=scores)
                np.rint(scores, out=scores)
            one = runs.sums(scores)
            missing = None
            if np.isnan(one[1]):
                missing = np.isnan(scores)
                scores[missing] = 0.0
                one = runs.sums(scores)
            found = [one]
        else:
            found = []
            missing = np.asarray(pc.is_null(column), bool) if column.null_count else None
        return [*found, runs.sums(None if missing is None else missing.astype(np.float64))]

    def _codes(self, column: Column) -> Integers | None:
        """Return the places of a column's values among the categories; behind them, of new ones and of none."""
        grid = self._grid
        assert isinstance(grid, CategoricalGrid)
        if grid.numbers is not None:
            return _among(grid.numbers, column)
        texts = as_texts(column)
        if texts is None:
            return None
        assert isinstance(self._counter, CategoryCounter)
        coded = encoded(texts)
        places = self._counter.find(coded.dictionary)
        table = np.append(np.where(places >= 0, places, grid.cells), grid.cells + 1)
        codes: Integers = table.take(coded.indices.fill_null(len(places)).to_numpy().astype(np.int64))
        return codes


def _among(known: Numbers, column: Column) -> Integers | None:
    """Return the places of a column's numbers among known ones; behind them, of new ones and of none."""
    values = as_floats(column, nan=True)
    if values is None:
        return None
    with np.errstate(over="ignore"):
        wanted = values.astype(known.dtype).astype(np.float64) if known.dtype.kind == "f" else values
    floats = np.append(known.astype(np.float64), np.inf)
    places = floats[:-1].searchsorted(wanted)
    codes: Integers = np.where(floats[places] == wanted, places, len(known))
    codes[np.isnan(values)] = len(known) + 1
    return codes


def _robust(grid: NumericGrid) -> tuple[float, float]:
    """Return the median of a baseline's numbers and a standard deviation that no tail decides."""
    steps = grid.steps.astype(np.float64)
    if not len(steps):
        return 0.0, 1.0
    low, middle, high = (float(steps[round(share * (len(steps) - 1))]) for share in (0.16, 0.5, 0.84))
    spread = (high / 2 - low / 2) or grid.scale
    return middle, spread if 0 < spread < math.inf else 1.0


def without(order: BatchSums | None, grids: Mapping[str, Grid], left_out: set[str]) -> BatchSums | None:
    """Return a sketch in which some features have neither values nor a lack of them."""
    if order is None or not left_out:
        return order
    sums, squares, at = order.sums.copy(), order.squares.copy(), 0
    for name, grid in grids.items():
        width = channels_of(grid) + 1
        if name in left_out:
            sums[at : at + width] = 0
            squares[at : at + width] = 0
        at += width
    return msgspec.structs.replace(order, sums=sums, squares=squares)
