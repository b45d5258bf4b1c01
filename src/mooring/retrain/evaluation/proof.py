"""Proof that one of two models is better: a paired bootstrap of what both predicted of the same rows."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from mooring.performance.bootstrap import improvement, paired
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
