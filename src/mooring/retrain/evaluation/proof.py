"""Proof that one of two models is better: a paired bootstrap of what both predicted of the same rows."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from mooring.performance.bootstrap import improvement, paired
from mooring.performance.fairness import Growth, growths
from mooring.performance.measures import evaluate
from mooring.performance.scored import Floats, LabelledRows

_DRAWS = 2000
_TAIL_DRAWS = 50


class Better(NamedTuple):
    """By what share of the champion's value a candidate is better, and what that is at least and at most.

    Each of the two bounds holds with the confidence asked for. An improvement that can't be told is nan.
    """

    improvement: float
    low: float
    high: float

    def by(self, share: float) -> bool:
        """Return whether it is proven better, and by at least this share."""
        return self.low >= share and self.low > 0

    def worse_by(self, share: float) -> bool:
        """Return whether it is worse by more than this share as it is, and proven to be worse at all."""
        return self.improvement < -share and self.high < 0


def better(
    champion: LabelledRows, candidate: LabelledRows, metric: str, confidence: float, *, seed: int = 0
) -> Better:
    """Return how much better a candidate is than the champion on the same rows.

    The bounds are a paired bootstrap's: requests are drawn with replacement, the same for both, so that what is
    hard for both does not blur the difference. Of a candidate that is truly better by less than some share, the
    lower bound exceeds that share with probability 1 - confidence, nearly. For few requests the percentile is
    expanded (Hesterberg 2015), as the bounds were too narrow without.

    >>> random = np.random.default_rng(0)
    >>> labels, rows = random.normal(size=500), np.arange(500)
    >>> old, new = (LabelledRows(labels, labels + random.normal(0, noise, 500), rows) for noise in (1.0, 0.8))
    >>> better(old, new, "rmse", 0.95).by(0.02), better(old, old, "rmse", 0.95).by(0.0)
    (True, False)

    References
    ----------
    Hesterberg, T. (2015). What Teachers Should Know About the Bootstrap. The American Statistician 69(4).

    """
    before, after = (np.array([evaluate(one).get(metric, math.nan)]) for one in (champion, candidate))
    gain = float(improvement(before, after, metric)[0])
    chance = 1 - confidence
    draws = paired(champion, candidate, metric, draws=max(_DRAWS, math.ceil(_TAIL_DRAWS / chance)), seed=seed)
    tail = _expanded(chance, requests(champion))
    # A draw in which nothing can be told speaks for neither.
    low = _quantile(np.where(np.isnan(draws), -np.inf, draws), tail)
    return Better(gain, low, _quantile(np.where(np.isnan(draws), np.inf, draws), 1 - tail))


class Grown(NamedTuple):
    """By how much groups are further apart, or one fares worse, and what that is at least with some confidence."""

    growth: Growth
    low: float

    def by(self, share: float) -> bool:
        """Return whether it grew by more than this share as it is, and is proven to have grown at all."""
        return self.growth.growth > share and self.low > 0


def grown(
    champion: LabelledRows,
    candidate: LabelledRows,
    values: NDArray[np.object_],
    confidence: float,
    *,
    least: int,
    seed: int = 0,
) -> list[Grown]:
    """Return what a candidate does to groups that the champion did not, by the protected value of each row.

    The bounds share the confidence (Bonferroni). Each is as many standard errors of a paired bootstrap below as
    Student's t asks for with `least` rows, of which every figure has at least so many.

    >>> random = np.random.default_rng(0)
    >>> sex, labels = random.choice(["f", "m"], 1000), random.integers(2, size=1000)
    >>> said = np.where((random.random(1000) < 0.2) & (sex == "f"), 1 - labels, labels)
    >>> old, new = (LabelledRows(labels, one, np.arange(1000), classes=("no", "yes")) for one in (labels, said))
    >>> any(one.by(0.05) for one in grown(old, old, sex, 0.95, least=30))
    False
    >>> any(one.by(0.05) for one in grown(old, new, sex, 0.95, least=30))
    True
    """
    found = growths(champion, candidate, values, least=least, draws=_DRAWS, seed=seed)
    times = -float(special.stdtrit(least - 1, (1 - confidence) / max(len(found), 1)))
    return [Grown(one, one.growth - times * float(np.nanstd(one.draws))) for one in found]


def _quantile(draws: Floats, share: float) -> float:
    return float(np.quantile(draws, share, method="inverted_cdf"))  # as there may be infinite ones


def requests(scored: LabelledRows) -> float:
    """Return how many requests of one row these rows are worth, as those of one request are not independent.

    >>> requests(LabelledRows(np.zeros(4), np.zeros(4), np.array([0, 0, 1, 1])))
    2.0
    """
    return float(scored.rows**2 / np.sum(np.bincount(scored.groups).astype(float) ** 2))


def _expanded(chance: float, count: float) -> float:
    if count <= 2:
        return 0.0
    return float(special.ndtr(math.sqrt(count / (count - 1)) * special.stdtrit(count - 1, chance)))
