"""What draws give when nothing has changed: windows drawn from baseline and window together, and the tail."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from mooring.drift.grid import Floats, Integers

POPULATION = 900_000_000
"""numpy draws without replacement from fewer than a billion."""
_TAIL_SHARE, _MOST_TAIL = 0.1, 400
POWER = 1.75
MOST = 700.0
"""The score of what never happened."""
_COUNTED = 10
_LEAST_TAIL = 20
_FEWEST = 5
_PRIOR = 50


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


class Scores(Protocol):
    """Turns values of a statistic into scores: about -ln of the probability of such a value or a larger one.

    They only have to bring different statistics to one scale, on which probability falls off alike: that of the
    largest of several is drawn itself.
    """

    def of(self, values: ArrayLike) -> Floats:
        """Return the scores of values, growing with them."""

    def value(self, score: float) -> float:
        """Return the value that has a score."""


def gamma_scores(shape: float | Floats, scaled: Floats) -> Floats:
    """Return -ln of the probability that a gamma variable of this shape, and of scale 1, is as large or larger.

    >>> gamma_scores(1.0, np.array([0.0, 2.0, 800.0])).round(3).tolist()
    [-0.0, 2.0, 800.0]
    """
    p_value = special.gammaincc(shape, scaled)
    # Beyond the smallest float the upper tail goes as this asymptotically.
    far = scaled - (shape - 1) * np.log(np.maximum(scaled, 1e-300)) + special.gammaln(shape)
    return np.where(p_value > 1e-290, -np.log(np.maximum(p_value, 1e-300)), np.maximum(far, 660.0))


class GammaScores(NamedTuple):
    """Scores of a distance between shares, by a gamma distribution of a power of it.

    The squares of such distances are about chi-square distributed, or a sum of such, if counts are large; the tail
    of small ones is heavier. Of the powers tried this one brings both within a factor of 2 at a
    probability of 1e-5.
    """

    shape: float
    scale: float

    @classmethod
    def fit(cls, drawn: Floats) -> GammaScores:
        """Return the scores of a statistic of which `drawn` are values by chance."""
        powers = drawn**POWER
        mean, variance = float(powers.mean()), float(powers.var())
        if mean <= 0 or variance <= mean**2 * 1e-12:
            return cls(0.0, mean)
        return cls(mean**2 / variance, variance / mean)

    def of(self, values: ArrayLike) -> Floats:
        """Return the scores of values; 0 where the statistic never varies and has not grown."""
        powers = np.asarray(values, np.float64) ** POWER
        if self.shape == 0:
            return np.where(powers > self.scale * (1 + 1e-9) + 1e-300, MOST, 0.0)
        return gamma_scores(self.shape, powers / self.scale)

    def value(self, score: float) -> float:
        """Return the value that has a score."""
        if self.shape == 0:
            return float(self.scale ** (1 / POWER))
        return float((special.gammainccinv(self.shape, np.exp(-min(score, 690.0))) * self.scale) ** (1 / POWER))


class KolmogorovScores(NamedTuple):
    """Scores of the Kolmogorov-Smirnov distance, by its limiting distribution; ties and cells only change `scale`.

    References
    ----------
    Kolmogorov, A. (1933). Sulla determinazione empirica di una legge di distribuzione. Giornale dell'Istituto
    Italiano degli Attuari 4.

    """

    scale: float

    @classmethod
    def fit(cls, drawn: Floats) -> KolmogorovScores:
        """Return the scores of distances of which `drawn` are values by chance."""
        square = float(np.mean(drawn**2))
        return cls(math.pi / math.sqrt(12 * square) if square > 0 else math.inf)

    def of(self, values: ArrayLike) -> Floats:
        """Return the scores of values; 0 where the distance never varies and has not grown."""
        distances = np.asarray(values, np.float64)
        if math.isinf(self.scale):
            return np.where(distances > 0, MOST, 0.0)
        scaled = self.scale * distances
        p_value = special.kolmogorov(scaled)
        return np.where(p_value > 1e-290, -np.log(np.maximum(p_value, 1e-300)), 2 * scaled**2 - math.log(2))

    def value(self, score: float) -> float:
        """Return the distance that has a score."""
        return float(special.kolmogi(math.exp(-min(score, 690.0)))) / self.scale


class RateScores(NamedTuple):
    """Scores of a share, by the likelihood ratio of the binomial distribution.

    Parameters
    ----------
    usual
        The probability that a row counts.
    size
        Of how many rows the share is.
    others
        With how many further rows' share it is compared: then values are the difference from that, either way.
    spread
        How many times the variance is that of the binomial distribution.
    """

    usual: float
    size: float
    others: float = 0.0
    spread: float = 1.0

    @classmethod
    def fit(cls, drawn: Floats, size: int) -> RateScores:
        """Return the scores of a share of which `drawn` are values by chance; if all are 0 the next may not be."""
        usual = max(float(drawn.mean()), 1 / (len(drawn) * size))
        variance = usual * (1 - usual) / size
        return cls(usual, size, spread=max(1.0, float(drawn.var()) / variance if variance > 0 else 1.0))

    def of(self, values: ArrayLike) -> Floats:
        """Return the scores of shares, 0 of those that are no more than usual."""
        values = np.abs(np.asarray(values, np.float64))
        part = self.size / (self.size + self.others)
        share = self.usual + values * (1 - part) if self.others else np.maximum(values, self.usual)
        share = np.minimum(share, 1.0)
        ratio = self.size * _divergence(share, self.usual)
        if self.others:
            ratio += self.others * _divergence(np.maximum(self.usual - values * part, 0.0), self.usual)
        ratio = np.minimum(ratio / self.spread, MOST)
        return np.asarray(np.maximum(-special.log_ndtr(-np.sqrt(2 * np.maximum(ratio, 0.0))) - math.log(2), 0.0))

    def value(self, score: float) -> float:
        """Return the least share that has at least a score, 1 if none has."""
        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if float(self.of(middle)) < score else (low, middle)
        return high


class RangeScores(NamedTuple):
    """Scores of the share of values out of range.

    That k or more of n values lie beyond both ends of N others has probability (1 + k (1 - q)) q^k, where
    q = n/(N + n): among all in their order, those before the first and behind the last of the N. With ties it is
    less.
    """

    q: float
    values: float

    def of(self, rates: ArrayLike) -> Floats:
        """Return -ln of the probability of such a rate or a larger one."""
        k = np.asarray(rates, np.float64) * self.values
        return np.asarray(-(np.log1p(k * (1 - self.q)) + k * np.log(self.q)))

    def value(self, score: float) -> float:
        """Return the least rate that has at least a score."""
        few, enough = 0, 1
        while float(self.of(enough / self.values)) < score:
            few, enough = enough, enough * 2
        while enough - few > 1:
            middle = (few + enough) // 2
            if float(self.of(middle / self.values)) < score:
                few = middle
            else:
                enough = middle
        return min(enough / self.values, 1.0)


def _divergence(share: Floats, usual: float) -> Floats:
    """Return the Kullback-Leibler divergence of coins that fall with these shares."""
    return np.asarray(special.rel_entr(share, usual) + special.rel_entr(1 - share, 1 - usual), np.float64)


def tail_p_value(drawn: Floats, observed: float) -> float:
    """Return the p-value of the score `observed`: how probable one as large is, of which `drawn` are draws.

    Within the drawn ones that is their share, the observed one counted with them. Beyond, where fewer than ten are
    as large, probability falls off exponentially, as scores do: by how fast the largest do.

    >>> values = np.random.default_rng(0).exponential(size=4000)
    >>> round(tail_p_value(values, 1.0), 2), 3e-7 < tail_p_value(values, 13.8) < 3e-6
    (0.38, True)

    References
    ----------
    Knijnenburg, T. et al. (2009). Fewer permutations, more accurate P-values. Bioinformatics 25(12).
    Hosking, J. and Wallis, J. (1987). Parameter and quantile estimation for the generalized Pareto distribution.
    Technometrics 29(3).

    """
    as_large = int(np.count_nonzero(drawn >= observed))
    tail = _tail(drawn)
    if as_large >= _COUNTED or observed <= tail.start:
        return (as_large + 1) / (len(drawn) + 1)
    return min(tail.p_value(observed), (_COUNTED + 1) / (len(drawn) + 1))


def tail_value(drawn: Floats, p_value: float) -> float:
    """Return the score that has a p-value, the inverse of `tail_p_value`."""
    if p_value * len(drawn) >= _COUNTED:
        return float(np.quantile(drawn, 1 - p_value))
    return _tail(drawn).value(p_value)


class _Tail(NamedTuple):
    """An exponential tail, of which `scale` was estimated from as much as `worth` values.

    The probability is that of the next value, given those (the predictive one): as the scale is not known for
    sure, the tail is a little longer than that of an exponential distribution.
    """

    start: float
    share: float
    scale: float
    worth: float = math.inf

    def p_value(self, value: float) -> float:
        excess = (value - self.start) / self.scale
        if not math.isinf(self.worth):
            excess = self.worth * math.log1p(excess / self.worth)
        return self.share * math.exp(-excess)

    def value(self, p_value: float) -> float:
        excess = -math.log(min(p_value / self.share, 1.0))
        if not math.isinf(self.worth):
            excess = self.worth * math.expm1(excess / self.worth)
        return self.start + self.scale * excess


def _tail(drawn: Floats) -> _Tail:
    """Fit an exponential tail by its mean excess, drawn towards 1, which it would be of perfect scores.

    Where too few values differ to be fitted, 1 it is. The more are drawn, the farther out the tail begins: near
    its beginning it is not exponential yet.
    """
    ordered = np.sort(drawn)
    start = float(ordered[-min(int(len(ordered) * _TAIL_SHARE), _MOST_TAIL) - 1])
    largest = ordered[ordered > start]
    if len(largest) < _FEWEST:
        # Nearly all are alike, often zero: the score itself says it.
        return _Tail(0.0, 1.0, 1.0)
    start = float(largest[0])
    if len(np.unique(largest)) < _LEAST_TAIL:
        return _Tail(start, len(largest) / len(ordered), 1.0)
    worth = len(largest) + _PRIOR
    scale = (float(np.sum(largest - start)) + _PRIOR) / worth
    return _Tail(start, len(largest) / len(ordered), scale, worth)
