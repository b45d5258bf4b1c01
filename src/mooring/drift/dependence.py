"""Rows that are not independent of each other: how many independent ones they are worth, by their order.

Where neighbours in time resemble each other, means of many rows vary more than those of as many independent rows:
by the design effect. A profile keeps, beside its counts, sums of bounded scores of each feature over some hundred
batches of rows in their order (`BatchSums`); sketches add, whatever was split how. A stream pools what its windows
show (`Dependence`), and of that follows each feature's design effect at any number of rows (`DesignEffect`).

References
----------
Kish, L. (1965). Survey Sampling. Wiley. The design effect; the ratio's variance between clusters.
Rao, J. and Scott, A. (1981). The analysis of categorical data from complex sample surveys. Journal of the
American Statistical Association 76(374). The mean design effect of a feature's cells.
von Neumann, J. (1941). Distribution of the ratio of the mean square successive difference to the variance. Annals
of Mathematical Statistics 12(4). Between windows, so that slow drift does not count as dependence.
Straatsma, T., Berendsen, H. and Stam, A. (1986). Estimation of statistical errors in molecular simulation
calculations. Molecular Physics 57(1). The correction of batches that are short, for an autoregressive process.
Flegal, J. and Jones, G. (2010). Batch means and spectral variance estimators in Markov chain Monte Carlo. Annals
of Statistics 38(2).

"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mooring.drift.columns import Column, as_texts, is_number, plain
from mooring.drift.counting import CategoryCounter, NumberCounter
from mooring.drift.grid import CategoricalGrid, Floats, Grid, Integers, Numbers, NumericGrid, TextGrid

BATCHES = 128
"""How many batches of rows a sketch keeps, at most."""
_LEVELS = (BATCHES, 64, 32, 16, 8)
_BETWEEN = len(_LEVELS)  # the level of whole windows
_ENOUGH = 60.0
"""With how many degrees of freedom a level is believed as it is."""
_SOME, _FEWEST = 4.0, 7.0
_FRESH = 1 - 1 / 256
"""What is left of a window's weight in the pool after one more window."""
_MOST_CORRELATED = 0.9999
_WHOLE = 0.9  # of a request, so that it counts as in one batch
_CLEAR = 2.0  # standard errors above 1
_MOST_GROWTH = 0.95
_STEPS = 30
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


def batches_of(keys: Integers) -> tuple[int, Integers]:
    """Return by how many bits ascending keys must be cut to make few enough batches, and where these begin.

    >>> shift, starts = batches_of(np.arange(256))
    >>> shift, starts[:3].tolist()
    (1, [0, 2, 4])
    """
    # Neighbours fall apart as long as their highest bit that differs is not cut off.
    bits = np.frexp((keys[1:] ^ keys[:-1]).astype(np.float64))[1]
    apart = np.cumsum(np.bincount(bits, minlength=2)[::-1])[::-1][1:]
    shift = int(np.count_nonzero(apart >= BATCHES))
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
            values = _lengths(column) if isinstance(self._grid, TextGrid) else _floats(column)
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


def encoded(texts: Column) -> pa.DictionaryArray:
    """Return texts as places in a dictionary of them."""
    if isinstance(texts, pa.ChunkedArray):
        if texts.num_chunks == 1:
            texts = texts.chunk(0)
        elif pa.types.is_dictionary(texts.type):
            texts = texts.unify_dictionaries().combine_chunks()
        else:
            texts = pa.concat_arrays(texts.chunks) if texts.num_chunks else pa.array([], texts.type)
    return texts if isinstance(texts, pa.DictionaryArray) else texts.dictionary_encode()


def _among(known: Numbers, column: Column) -> Integers | None:
    """Return the places of a column's numbers among known ones; behind them, of new ones and of none."""
    values = _floats(column)
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


def _floats(column: Column) -> Floats | None:
    """Return a column's numbers, NaN where there is none; None if it holds something else."""
    column = plain(column)
    kind = column.type
    if pa.types.is_null(kind) or not (is_number(kind) or pa.types.is_boolean(kind)):
        return None
    if kind != pa.float64():
        column = pc.cast(column, pa.float64(), safe=False)
    if column.null_count:
        column = column.fill_null(np.nan)
    values: Floats = column.to_numpy()
    return values


def _lengths(column: Column) -> Floats | None:
    texts = as_texts(column)
    if texts is None:
        return None
    if pa.types.is_dictionary(texts.type):
        texts = texts.cast(texts.type.value_type)
    return _floats(pc.utf8_length(texts))


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


class DesignEffect(NamedTuple):
    """How many times as much means of rows vary as those of as many independent rows.

    Units of `unit` rows, such as requests, vary `base` times as much, and follow each other as an autoregressive
    process of order 1 whose correlation is `correlation`.

    >>> DesignEffect(1.0, 1.0, 0.5).at(math.inf), DesignEffect(1.0, 1.0, 0.5).at(1)
    (3.0, 1.0)
    >>> DesignEffect(33.0, 33.0).at(1000)
    33.0
    """

    unit: float = 1.0
    base: float = 1.0
    correlation: float = 0.0

    def at(self, rows: float) -> float:
        """Return the design effect of so many rows that follow each other; never less than 1."""
        return max(1.0, self.base * of_autoregression(self.correlation, max(rows / self.unit, 1.0)))


def of_autoregression(rho: float, length: float) -> float:
    """Return the design effect of the mean of so many values of an autoregressive process of order 1."""
    apart = 1 - rho
    return (1 + rho) / apart - 2 * rho * (1 - math.pow(rho, length)) / (length * apart * apart)


class Dependence(msgspec.Struct):
    """What the windows of a stream have shown of how their rows depend on each other, the latest weighing most.

    By channel: of how many `rows` there are which sums of scores (`totals`) and of their squares; by level of
    batches and channel the `variances` between batches, as sums of squares over their rows. By level: degrees of
    freedom (`freedom`), and sums over these of the rows of a batch (`lengths`) and of the number of batches
    (`counts`). `weight` is the sum over rows of how many came in the same request. `last_rows` and `last` are the
    newest window's rows and sums.
    """

    rows: float = 0.0
    weight: float = 0.0
    totals: Floats = msgspec.field(default_factory=lambda: np.zeros(0))
    squares: Floats = msgspec.field(default_factory=lambda: np.zeros(0))
    variances: Floats = msgspec.field(default_factory=lambda: np.zeros((_BETWEEN + 1, 0)))
    freedom: Floats = msgspec.field(default_factory=lambda: np.zeros(_BETWEEN + 1))
    lengths: Floats = msgspec.field(default_factory=lambda: np.zeros(_BETWEEN + 1))
    counts: Floats = msgspec.field(default_factory=lambda: np.zeros(_BETWEEN + 1))
    last_rows: float = 0.0
    last: Floats = msgspec.field(default_factory=lambda: np.zeros(0))

    def after(self, order: BatchSums | None, weight: int) -> Dependence:
        """Return it after one more window, whose rows came in requests of this weight."""
        if order is None:
            return self
        rows, totals = float(order.rows.sum()), order.sums.sum(axis=1).astype(np.float64)
        channels = len(totals)
        known = len(self.totals) == channels
        found = Dependence(
            rows,
            float(weight),
            totals,
            order.squares.astype(np.float64),
            np.zeros((_BETWEEN + 1, channels)),
            last_rows=rows,
            last=totals,
        )
        for level, most in enumerate(_LEVELS):
            counts, sums = _merged(order, most)
            share = float(np.sum((counts / rows) ** 2))
            freedom = 1 / share - 1
            if freedom < 1:
                continue
            apart = sums - counts * (totals / rows)[:, None]
            found._add(
                level, freedom, rows / (1 + freedom), 1 + freedom, np.sum(apart**2, axis=1) / (rows * (1 - share))
            )
        if known and self.last_rows:
            both = rows * self.last_rows / (rows + self.last_rows)
            step = totals / rows - self.last / self.last_rows
            found._add(_BETWEEN, 2 / 3, 2 * both, 0.0, both * step**2)
        if known:
            found.rows += _FRESH * self.rows
            found.weight += _FRESH * self.weight
            found.totals = found.totals + _FRESH * self.totals
            found.squares = found.squares + _FRESH * self.squares
            found.variances += _FRESH * self.variances
            found.freedom += _FRESH * self.freedom
            found.lengths += _FRESH * self.lengths
            found.counts += _FRESH * self.counts
        return found

    def _add(self, level: int, freedom: float, length: float, count: float, variances: Floats) -> None:
        self.freedom[level] = freedom
        self.lengths[level] = freedom * length
        self.counts[level] = freedom * count
        self.variances[level] = freedom * variances

    def design_effects(self, grids: Mapping[str, Grid]) -> dict[str, DesignEffect]:
        """Return the design effect of each feature, of those of which enough is known."""
        widths = [(name, channels_of(grid)) for name, grid in grids.items()]
        if len(self.totals) != sum(width + 1 for _, width in widths) or not self.rows:
            return {}
        names, starts, at = [], [], 0
        for name, width in widths:  # of values, then of the lack of them
            for size in (width, 1):
                if size:
                    names.append(name)
                    starts.append(at)
                at += size
        variance = np.maximum(self.squares - self.totals**2 / self.rows, 0.0) / self.rows
        of_all = np.add.reduceat(variance, starts)
        between = np.add.reduceat(self.variances, starts, axis=1)
        found: dict[str, DesignEffect] = {}
        for group in np.flatnonzero(of_all > 0):
            effect = self._of(between[:, group] / of_all[group])
            known = found.get(names[group])
            if effect is not None and (known is None or effect.at(math.inf) > known.at(math.inf)):
                found[names[group]] = effect
        return found

    def _of(self, variances: Floats) -> DesignEffect | None:
        """Return the design effect that the variances between batches amount to, in units of the rows' variance.

        The longest batches tell most, where enough of them have been seen. Of yet longer ones, of which fewer
        have, it is taken what they show at least, and of windows what they show at most. What is not clearly more
        than chance gives is left to shorter batches. None where too few have been seen in all.
        """
        request = self.weight / self.rows
        lengths = np.divide(self.lengths, self.freedom, out=np.zeros(_BETWEEN + 1), where=self.freedom > 0)
        counts = np.divide(self.counts, self.freedom, out=np.zeros(_BETWEEN + 1), where=self.freedom > 0)
        # Of windows of one large request its rows are cut into batches; else requests are, and stay whole.
        unit = 1.0 if request > lengths[0] * counts[0] / 2 else request
        usable = [level for level in range(_BETWEEN + 1)
                  if self.freedom[level] >= _SOME and lengths[level] >= _WHOLE * unit]  # fmt: skip
        enough = [level for level in usable if self.freedom[level] >= _ENOUGH]
        if not usable:
            return None
        main = enough[-1] if enough else max(usable, key=lambda level: float(self.freedom[level]))
        if self.freedom[main] < _FEWEST:
            return None
        seen = np.divide(variances, self.freedom, out=np.zeros(_BETWEEN + 1), where=self.freedom > 0)
        spread = np.sqrt(2 / np.maximum(self.freedom, 1.0))
        clear = seen > 1 + _CLEAR * spread

        def at(level: int, share: float = 1.0) -> DesignEffect:
            whole = request if level == _BETWEEN else unit
            return _solved(
                share * float(seen[level]), float(lengths[level]), float(counts[level]), whole, self.rows
            )

        found = [at(main)]
        if not clear[main]:  # shorter batches are more, and tell small effects better
            finest = at(max(usable, key=lambda level: float(self.freedom[level])))
            found = [min(found[0], finest, key=lambda effect: effect.at(math.inf))]
        found += [at(level, 1 - float(spread[level])) for level in usable if level > main and clear[level]]
        finer = [level for level in usable if 3 * lengths[level] <= lengths[main]]
        if main in enough and finer and clear[main]:
            # That it grows from batches to longer ones tells, too, where it is no such process of single rows.
            base = max(float(seen[finer[-1]]), 1.0)
            growth = _solved(
                float(seen[main]) / base, float(lengths[main] / lengths[finer[-1]]), 0.0, 1.0, math.inf
            )
            found.append(DesignEffect(float(lengths[finer[-1]]), base, min(growth.correlation, _MOST_GROWTH)))
        most = max(found, key=lambda effect: effect.at(math.inf))
        freedom = float(self.freedom[_BETWEEN])
        if freedom < _FEWEST:
            return most
        # Rows in a table's order, or a pattern that comes back, depend within windows, not between them.
        bound = max(1.0, float(variances[_BETWEEN]) / freedom * (1 + 3 * math.sqrt(2 / freedom)))
        length = float(lengths[_BETWEEN])
        return DesignEffect(length, bound) if most.at(length) > bound else most


def _solved(seen: float, length: float, count: float, unit: float, rows: float) -> DesignEffect:
    """Return the design effect of which batches of this length and number show so much, of so many rows in all."""
    if seen <= unit or length < 2 * unit:  # as if units were independent of each other
        return DesignEffect(unit, max(seen, 1.0))
    low, high = 0.0, _MOST_CORRELATED
    for _ in range(_STEPS):
        middle = (low + high) / 2
        effect = DesignEffect(unit, unit, middle)
        shown = effect.at(length)
        if count > 1:  # they were compared with the mean of their window
            shown = (count * shown - effect.at(length * count)) / (count - 1)
        if shown / max(1 - effect.at(rows) / rows, 1e-9) < seen:
            low = middle
        else:
            high = middle
    return DesignEffect(unit, unit, low)


def _merged(order: BatchSums, most: int) -> tuple[Integers, Integers]:
    """Return rows and sums of batches that were merged until there are no more than `most`."""
    bits = np.frexp((order.keys[1:] ^ order.keys[:-1]).astype(np.float64))[1]
    apart = np.cumsum(np.bincount(bits, minlength=2)[::-1])[::-1][1:]
    shift = int(np.count_nonzero(apart >= most))
    starts = np.concatenate([[0], np.flatnonzero(bits > shift) + 1])
    return np.add.reduceat(order.rows, starts), np.add.reduceat(order.sums, starts, axis=1)


def effective_rows(rows: int, weight: int, effect: DesignEffect | None) -> float:
    """Return how many independent rows tell as much; without a design effect, as if all of a request were alike.

    >>> effective_rows(1000, 33_000, None), effective_rows(1000, 1000, DesignEffect(1.0, 1.0, 0.5)) < 335
    (30.303030303030305, True)
    """
    if effect is not None:
        return rows / effect.at(rows) if rows else 0.0
    return rows**2 / weight if weight else 0.0


def typical(effects: Mapping[str, DesignEffect], rows: float) -> float:
    """Return the median feature's design effect of so many rows; 1 where none is known."""
    return median([one.at(rows) for one in effects.values()] or [1.0])
