"""Rows that are not independent of each other: how many independent ones they are worth, by their order.

Where neighbours in time resemble each other, means of many rows vary more than those of as many independent rows:
by the design effect. A profile keeps sums over batches of rows in their order (`mooring.drift.order`). A stream
pools what its windows show (`Dependence`), and of that follows each feature's design effect at any number of rows
(`DesignEffect`).

References
----------
Kish, L. (1965). Survey Sampling. Wiley. The design effect; the ratio's variance between clusters.
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

from mooring.drift.grid import Floats, Grid, Integers
from mooring.drift.order import BATCHES, BatchSums, batches_of, channels_of

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
    _, starts = batches_of(order.keys, most)
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
