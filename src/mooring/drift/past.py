"""What is usual, taken from past windows in which nothing was wrong rather than from draws.

A window is one more of its kind: where nothing has changed it is as likely as any of the past ones to be the most
unusual. So of W past windows the p-value is (1 + those at least as unusual) / (W + 1), never less than 1/(W + 1),
whatever the distribution. All features and measures are ranked by the one that is most unusual (Westfall and
Young 1993), hence many features cost no budget. Windows merged with those before them overlap; only those that do
not are counted, a fourth of the windows for four merged.

References
----------
Vovk, V., Gammerman, A. and Shafer, G. (2005). Algorithmic Learning in a Random World. Springer. Chapter 2.
Westfall, P. and Young, S. (1993). Resampling-Based Multiple Testing. Wiley.

"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np
from scipy import special

from mooring.drift.baseline import PastStatistics
from mooring.drift.grid import Floats
from mooring.drift.measure_table import min_effect
from mooring.drift.null import POWER, gamma_scores
from mooring.drift.statistics import MERGED, Statistic

_FARTHEST = 1e6
_LEAST_PART = 0.1


class Observed(Protocol):
    """The statistics of a feature in the window that is judged."""

    @property
    def statistics(self) -> list[Statistic]:
        """What they are."""

    @property
    def observed(self) -> Floats:
        """Their values."""

    @property
    def log_weights(self) -> Floats:
        """Their weights; those of merged windows are `MERGED` times as much."""


class PastRank(NamedTuple):
    """What past windows say of a statistic.

    `p_value` is its own, `joint` that of any statistic of any feature as unusual, `threshold` the value from which
    it alarms; where so few windows can't make it alarm, the value from which it is more unusual than all of them.
    """

    p_value: float
    joint: float
    threshold: float


def least_p_value(windows: int) -> float:
    """Return the least p-value that so many past windows can show.

    >>> least_p_value(199)
    0.005
    """
    return 1 / (windows + 1)


def windows_needed(budget: float) -> int:
    """Return how many past windows it takes for a p-value of the budget.

    >>> windows_needed(0.001), windows_needed(0.05)
    (999, 19)
    """
    return math.ceil(1 / budget - 1e-9) - 1


def find_in_past(
    observed: Mapping[str, Observed], past: Mapping[str, PastStatistics], budget: float
) -> dict[str, dict[Statistic, PastRank]]:
    """Return what past windows say of each statistic, by feature; of those that they lack nothing.

    Parameters
    ----------
    observed
        The window, by feature.
    past
        By feature, statistics of past windows in their order, as many of each feature.
    budget
        The probability of an alarm when nothing has changed. Of windows merged only those are looked at of which
        there are enough to show as much.

    """
    rows = min((len(past[name].values) for name in observed if name in past), default=0)
    scales = {one.scale for null in observed.values() for one in null.statistics}
    there = {scale for name in observed.keys() & past.keys() for _, scale in past[name].statistics}
    shares = _shares(sorted(scales & there), rows, budget)
    found: dict[str, dict[Statistic, PastRank]] = {name: {} for name in observed}
    for scale, share in shares.items():
        for name, statistic, of_it in _at_scale(observed, past, rows, scale, share, budget):
            found[name][statistic] = of_it
    return found


def _shares(scales: list[int], rows: int, budget: float) -> dict[int, float]:
    """Return by scale its share of the budget; the largest is left out where it is too seldom to use its own."""
    kept = list(scales)
    while kept:
        total = sum(_weight(scale) for scale in kept)
        shares = {scale: _weight(scale) / total for scale in kept}
        least = least_p_value(_independent(rows, kept[-1])) / shares[kept[-1]]
        if len(kept) == 1 or least <= budget:
            return shares
        kept.pop()
    return {}


def _weight(scale: int) -> float:
    return 1.0 if scale == 1 else MERGED


def _independent(rows: int, scale: int) -> int:
    return -(-rows // scale)


def _at_scale(
    observed: Mapping[str, Observed],
    past: Mapping[str, PastStatistics],
    rows: int,
    scale: int,
    share: float,
    budget: float,
) -> Iterator[tuple[str, Statistic, PastRank]]:
    names, values, weights, floors = [], [], [], []
    for name, null in observed.items():
        places = (
            {Statistic(*one): place for place, one in enumerate(past[name].statistics)} if name in past else {}
        )
        for at, statistic in enumerate(null.statistics):
            if statistic.scale != scale or statistic not in places:
                continue
            usual = past[name].values[len(past[name].values) - rows :, places[statistic]][::-1][::scale]
            names.append((name, statistic))
            values.append(np.concatenate(([null.observed[at]], usual)))
            weights.append(float(null.log_weights[at]))
            floors.append((_LEAST_PART * min_effect(statistic.measure)) ** POWER)
    if not names or not rows:
        return
    # Those here come first; of each row the scores are by all others, so that any could as well be the new one.
    powers = np.nan_to_num(np.clip(np.abs(np.array(values).T), 0.0, _FARTHEST)) ** POWER
    mean, variance = _others(powers), _others(powers**2)
    mean, variance = mean + floors, np.maximum(variance - mean**2, 0.0) + np.square(floors)
    shape, width = mean**2 / variance, variance / mean
    # Rows that are alike are to tie, in whatever order the others were added up.
    scores = np.round(gamma_scores(shape, powers / width) + weights, 6)
    unusual = np.sort(scores[1:].max(axis=1))
    count = len(unusual) + 1
    allowed = int(budget * share * count + 1e-9) - 1
    critical = float(unusual[-1 - min(max(allowed, 0), len(unusual) - 1)])
    for at, (name, statistic) in enumerate(names):
        above = len(unusual) - int(np.searchsorted(unusual, scores[0, at]))
        alone = int(np.count_nonzero(powers[1:, at] >= powers[0, at]))
        tail = math.exp(-max(critical - weights[at], 0.0))
        threshold = float(special.gammainccinv(shape[0, at], tail) * width[0, at]) ** (1 / POWER)
        joint = min((1 + above) / count / share, 1.0)
        yield name, statistic, PastRank(min((1 + alone) / count, joint), joint, threshold)


def _others(values: Floats) -> Floats:
    """Return of each row the mean of all others, added up without it: one that is giant must not blur it."""
    none = np.zeros((1, values.shape[1]))
    before = np.concatenate([none, np.cumsum(values, axis=0)[:-1]])
    after = np.concatenate([np.cumsum(values[::-1], axis=0)[::-1][1:], none])
    return np.asarray((before + after) / max(len(values) - 1, 1), np.float64)
