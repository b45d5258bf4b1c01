"""What chance gives when nothing has changed: windows drawn from baseline and window together, and the tail."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from mooring.drift.grid import Floats, Integers

POPULATION = 900_000_000
"""numpy draws without replacement from fewer than a billion."""
TAIL_SHARE = 0.1
_LEAST_TAIL = 20


def split(pool: Integers, size: int | Integers, random: np.random.Generator) -> Integers:
    """Draw `size` items without replacement from each row of `pool`, counts in cells; return the counts drawn.

    That is the multivariate hypergeometric distribution, drawn by halving the cells again and again: how many
    items fall in the one half, how many of those in its halves. So all rows are drawn by a few calls.

    >>> drawn = split(np.array([[5, 0, 3], [1, 1, 1]]), 3, np.random.default_rng(0))
    >>> drawn.sum(axis=1), bool((drawn <= [[5, 0, 3], [1, 1, 1]]).all())
    (array([3, 3]), True)
    """
    rows, cells = pool.shape
    width = 1 << max(cells - 1, 0).bit_length()
    levels = [np.zeros((rows, width), np.int64)]
    levels[0][:, :cells] = pool
    while levels[-1].shape[1] > 1:
        levels.append(levels[-1][:, ::2] + levels[-1][:, 1::2])
    drawn = np.broadcast_to(np.asarray(size, np.int64), (rows,)).reshape(rows, 1)
    for counts in reversed(levels[:-1]):
        left, right = counts[:, ::2], counts[:, 1::2]
        taken = random.hypergeometric(left, right, drawn)
        drawn = np.stack([taken, drawn - taken], axis=2).reshape(rows, -1)
    found: Integers = drawn[:, :cells]
    return found


def thin(counts: Integers, size: int, random: np.random.Generator) -> Integers:
    """Return a sample of `size` items, drawn without replacement; all of them where there are no more.

    >>> int(thin(np.array([50, 50]), 10, np.random.default_rng(0)).sum())
    10
    """
    total = int(counts.sum())
    if total <= size:
        return counts
    while total > POPULATION:  # too many to draw from: halving them leaves the shares as they are
        counts = counts // 2
        total = int(counts.sum())
    sample: Integers = split(counts[None, :], min(size, total), random)[0]
    return sample


def nested(pool: Integers, sizes: list[int], draws: int, random: np.random.Generator) -> list[Integers]:
    """Draw nested windows of growing `sizes` from a pool of counts; return an array (draws, cells) of each.

    Each window is a part of the next larger one, as the newest window is of those merged with it.
    """
    windows: list[Integers] = []
    source = np.broadcast_to(pool, (draws, len(pool)))
    for size in reversed(sizes):
        source = split(source, size, random)
        windows.append(source)
    return windows[::-1]


def before_first(others: Integers, own: Integers, random: np.random.Generator) -> Integers:
    """Return how many of `own` items come before the first of `others`, all of them in random order.

    >>> before_first(np.array([1, 5]), np.array([0, 3]), np.random.default_rng(0)).tolist()[0]
    0
    """
    found = np.zeros_like(own)
    alive = np.flatnonzero(own)
    while len(alive):
        left = own[alive] - found[alive]
        alive = alive[random.random(len(alive)) * (left + others[alive]) < left]
        found[alive] += 1
    return found


class Scores(NamedTuple):
    """Turns values of a statistic into scores that are about exponential when nothing has changed.

    A score is -ln of the chance of such a value or a larger one, by a gamma distribution fitted to the squares of
    the drawn values. Squares, since those of distances between shares are about chi-square distributed. It only
    has to bring different statistics to one scale: the chance of the largest of several is drawn itself.
    """

    shape: float
    scale: float

    @classmethod
    def fit(cls, drawn: Floats) -> Scores:
        """Return the scores of a statistic of which `drawn` are values by chance."""
        squares = drawn**2
        mean, variance = float(squares.mean()), float(squares.var())
        if mean <= 0 or variance <= mean**2 * 1e-12:
            return cls(0.0, mean)
        return cls(mean**2 / variance, variance / mean)

    def of(self, values: ArrayLike) -> Floats:
        """Return the scores of values; 0 where the statistic never varies and has not grown."""
        squares = np.asarray(values, np.float64) ** 2
        if self.shape == 0:
            return np.where(squares > self.scale * (1 + 1e-9) + 1e-300, 700.0, 0.0)
        scaled = squares / self.scale
        chance = special.gammaincc(self.shape, scaled)
        # Beyond the smallest float the upper tail goes as this asymptotically.
        far = scaled - (self.shape - 1) * np.log(np.maximum(scaled, 1e-300)) + special.gammaln(self.shape)
        return np.where(chance > 1e-290, -np.log(np.maximum(chance, 1e-300)), np.maximum(far, 660.0))

    def value(self, score: float) -> float:
        """Return the value that has a score."""
        if self.shape == 0:
            return float(np.sqrt(self.scale))
        return float(np.sqrt(special.gammainccinv(self.shape, np.exp(-min(score, 690.0))) * self.scale))


def tail_chance(drawn: Floats, observed: float) -> float:
    """Return the chance of a value as large as `observed`, of which `drawn` are values by chance.

    Within the drawn values that is their share, the observed one counted with them. Where few are as large, it is
    taken from a generalised Pareto distribution fitted to the largest tenth.

    >>> values = np.random.default_rng(0).exponential(size=4000)
    >>> round(tail_chance(values, 1.0), 2), 1e-7 < tail_chance(values, 13.8) < 1e-5
    (0.38, True)

    References
    ----------
    Knijnenburg, T. et al. (2009). Fewer permutations, more accurate P-values. Bioinformatics 25(12).
    Hosking, J. and Wallis, J. (1987). Parameter and quantile estimation for the generalized Pareto distribution.
    Technometrics 29(3).

    """
    as_large = int(np.count_nonzero(drawn >= observed))
    share = (as_large + 1) / (len(drawn) + 1)
    tail = _tail(drawn)
    if as_large >= _LEAST_TAIL or tail is None or observed <= tail.start:
        return share
    return float(min(tail.chance(observed), share if as_large else 1.0))


def tail_value(drawn: Floats, chance: float) -> float:
    """Return the value that is exceeded with a chance, the inverse of `tail_chance`."""
    tail = _tail(drawn)
    if tail is None or chance * len(drawn) >= _LEAST_TAIL:
        return float(np.quantile(drawn, 1 - chance))
    return tail.value(chance)


class _Tail(NamedTuple):
    start: float
    share: float
    scale: float
    shape: float  # Hosking's sign: positive ends somewhere, negative is heavy

    def chance(self, value: float) -> float:
        excess = (value - self.start) / self.scale
        if abs(self.shape) < 1e-9:
            return self.share * float(np.exp(-excess))
        inner = 1 - self.shape * excess
        return float(self.share * inner ** (1 / self.shape)) if inner > 0 else 0.0

    def value(self, chance: float) -> float:
        ratio = min(chance / self.share, 1.0)
        if abs(self.shape) < 1e-9:
            return self.start - self.scale * float(np.log(ratio))
        return float(self.start + self.scale * (1 - ratio**self.shape) / self.shape)


def _tail(drawn: Floats) -> _Tail | None:
    """Fit the tail by its mean excess, as exponential: what is drawn are scores, whose tail is that."""
    ordered = np.sort(drawn)
    count = int(len(ordered) * TAIL_SHARE)
    if count < _LEAST_TAIL:
        return None
    start = float(ordered[-count - 1])
    excess = ordered[ordered > start] - start
    if len(excess) < _LEAST_TAIL:
        return None
    return _Tail(start, len(excess) / len(ordered), float(excess.mean()), 0.0)
