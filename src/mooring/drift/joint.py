"""Whether features go together otherwise than they did, though each by itself may be as it was.

Of each pair of features the correlation in the one sample is compared with that in the other: of ranks, of how far
ranks are from the middle, of categories and of missing values (`mooring.drift.rank_scores`). As ranks are those in
a row's own sample, a feature that moves or stretches changes nothing here. What chance gives is found by
permutation of requests, of two statistics at once: the largest difference, which finds one pair among thousands,
and the sum of all squares, which finds many small ones.

A change that shows in no two features, but in three of them at once, is not found.

References
----------
Rémillard, B. and Scaillet, O. (2009). Testing for equality between two copulas. Journal of Multivariate Analysis
100(3). Ranks within each sample.
Chung, E. and Romano, J. (2013). Exact and asymptotically robust permutation tests. Annals of Statistics 41(2).
When a permutation test holds though the two samples differ in what is not tested.
Westfall, P. and Young, S. (1993). Resampling-based multiple testing. Wiley. The pairs' own p-values.
Besag, J. and Clifford, P. (1991). Sequential Monte Carlo p-values. Biometrika 78(2). Few draws where nothing
shows.

"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from mooring.drift.columns import Column
from mooring.drift.grid import Integers
from mooring.drift.joint_null import Strengths, p_value_of, strengths_of
from mooring.drift.rank_scores import PooledScores, ScoredSample, Scores

FEWEST_ROWS = 100
"""Rows that each sample has at least, or nothing can be told."""
FEWEST_REQUESTS = 30
"""Requests of equal size that each sample's rows are worth at least (Kish's effective size)."""
MOST_FEATURES = 300
"""Of more features there would be too many pairs for time and memory."""
_MOST_SCORES = 256
_STAGES = ((100, 0.2), (200, 0.02), (1000, 0.0))
"""So many draws are made; if they say more than this p-value, no more."""
_MANY_PAIRS = 5000
_FEWEST_COMPLETE = 30
_LEAST_VARIANCE = 1e-7
_MOST_PAIRS, _PAIR_LEVEL = 5, 0.01


class PairShift(NamedTuple):
    """Two features that go together otherwise than they did.

    `reference` and `current` are the correlations of what `labels` say of the two, -1 to 1. `p_value` is that of
    the pair among all pairs.
    """

    features: tuple[str, str]
    labels: tuple[str, str]
    reference: float
    current: float
    p_value: float


@dataclass(frozen=True)
class JointShift:
    """What is to be said of a window's features together.

    `p_value` and `effect` are None where nothing can be told, and `reason` says why. `effect` is half of how far
    the correlation moved of the pair that moved most, less what chance gives: 0 to 1, and 0.6 where it went from
    0.6 to -0.6. `pairs` are those that carry it, the surest first; `left_out` says why features were not compared.
    """

    p_value: float | None
    effect: float | None
    pairs: list[PairShift] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    reason: str = ""

    @property
    def features(self) -> list[str]:
        """The features of `pairs`, first those of most of them."""
        found = [name for pair in self.pairs for name in pair.features]
        return sorted(dict.fromkeys(found), key=lambda name: -found.count(name))


def joint_shift(
    reference: Mapping[str, Column],
    current: Mapping[str, Column],
    *,
    reference_groups: ArrayLike,
    current_groups: ArrayLike,
    seed: int,
) -> JointShift:
    """Test whether the features of two samples of rows depend on each other alike.

    Parameters
    ----------
    reference, current
        Columns by name; those that only one of the two has are left out.
    reference_groups, current_groups
        The request of each row. Rows of one request stay together when chance is drawn.
    seed
        Of the draws; the same seed gives the same result.

    Raises ValueError if columns or groups of a sample differ in length.

    A correlation turns round, and both features are distributed as they were:

    >>> import pyarrow as pa
    >>> random = np.random.default_rng(0)
    >>> x, z, other = random.normal(size=(3, 1000))
    >>> before = {"x": pa.array(x), "y": pa.array(0.6 * x + 0.8 * z), "other": pa.array(other)}
    >>> after = {"x": pa.array(x), "y": pa.array(-0.6 * x + 0.8 * z), "other": pa.array(other)}
    >>> rows = np.arange(1000)
    >>> found = joint_shift(before, after, reference_groups=rows, current_groups=rows, seed=1)
    >>> found.p_value < 1e-6, found.effect > 0.5, found.features
    (True, True, ['x', 'y'])
    """
    names = [name for name in reference if name in current]
    left_out = {name: "only one of the samples has it" for name in {**reference, **current} if name not in names}
    if len(names) > MOST_FEATURES:
        return _untold(f"{len(names):,} features are too many pairs: name at most {MOST_FEATURES}", left_out)
    sides = []
    for side, columns, groups in (
        ("reference", reference, reference_groups),
        ("current sample", current, current_groups),
    ):
        requests = np.unique(np.asarray(groups), return_inverse=True)[1]
        if wrong := [name for name in names if len(columns[name]) != len(requests)]:
            raise ValueError(f"{wrong[0]} has {len(columns[wrong[0]])} rows in the {side}, groups {len(requests)}")
        if why_not := _too_few(requests):
            return _untold(f"the {side} has {why_not}", left_out)
        sides.append(requests)
    shared = ({name: columns[name] for name in names} for columns in (reference, current))
    pool = PooledScores(*shared, most=_MOST_SCORES)
    left_out |= pool.left_out
    differences = _Differences(pool)
    if not len(differences.pairs[0]):
        return _untold("fewer than two features can be compared", left_out)
    requests = np.concatenate([sides[0], sides[1] + sides[0].max() + 1])
    with threadpool_limits(1, "blas"):  # small products: threads that wait for each other cost more than they save
        return _tested(differences, requests, sides, left_out, np.random.default_rng(seed))


class _Compared(NamedTuple):
    """Correlations of pairs in two samples, nan where too few rows have both, or all are alike.

    `differences` are in units of the standard deviation that they have if features are independent: so a feature
    of which more is missing than before, which is known less well, is no stronger for that. 0 where not known.
    """

    before: Scores
    after: Scores
    differences: Scores


class _Differences:
    """The pairs of scores that are compared: those of two features."""

    def __init__(self, pool: PooledScores) -> None:
        self.pool = pool
        features = np.array(pool.features)
        first, second = np.triu_indices(len(features), 1)
        apart = features[first] != features[second]
        self.pairs = first[apart], second[apart]
        kinds = pool.presence
        self._flat = self.pairs[0] * len(features) + self.pairs[1]
        kinds_of_all = int(kinds.max(initial=0)) + 1
        self._rows = kinds[self.pairs[0]] * kinds_of_all + kinds[self.pairs[1]]
        self._means = (
            self.pairs[0] * kinds_of_all + kinds[self.pairs[1]],
            self.pairs[1] * kinds_of_all + kinds[self.pairs[0]],
        )

    def between(self, reference: ScoredSample, current: ScoredSample) -> _Compared:
        """Return both samples' correlations of each pair, and their differences."""
        (before, rows), (after, others) = self._correlations(reference), self._correlations(current)
        return _Compared(before, after, np.nan_to_num((after - before) / np.sqrt(1 / rows + 1 / others)))

    def _correlations(self, sample: ScoredSample) -> tuple[Scores, Scores]:
        """Return the correlation of each pair, nan where it is not known, and how many rows have both.

        The covariance is that of the rows that have both, the standard deviations those of all that have the one.
        """
        scores, present = sample
        together, sums = present @ present.T, scores @ present.T
        products = scores @ scores.T
        own = np.maximum(together[0, self.pool.presence], 1)
        variances = np.maximum(np.diag(products) / own - (sums[:, 0] / own) ** 2, 0)
        scales = np.where(variances > _LEAST_VARIANCE, np.sqrt(np.maximum(variances, _LEAST_VARIANCE)), np.nan)
        products /= scales[:, None] * scales
        sums /= scales[:, None]
        rows = together.take(self._rows)
        rows[rows < _FEWEST_COMPLETE] = np.nan
        found: Scores = products.take(self._flat)
        first, second = (sums.take(one) for one in self._means)  # of each score where the other one is there
        found -= first * second / rows
        found /= rows
        return found, rows


def _tested(
    differences: _Differences,
    requests: Integers,
    sides: list[Integers],
    left_out: dict[str, str],
    random: np.random.Generator,
) -> JointShift:
    is_current = np.repeat([False, True], [side.max() + 1 for side in sides])
    observed = differences.between(*differences.pool.observed())
    if not np.isfinite(observed.after - observed.before).any():
        return _untold("no two features vary together in both samples", left_out)
    stages = _STAGES if len(observed.before) <= _MANY_PAIRS else _STAGES[:2]
    found = np.empty((stages[-1][0] + 1, len(observed.before)), np.float32)
    found[0] = observed.differences
    drawn = 0
    for draws, plain in stages:
        for at in range(drawn, draws):
            divided = differences.pool.divided(random.permutation(is_current)[requests])
            found[at + 1] = differences.between(*divided).differences
        drawn = draws
        strengths = strengths_of(found[: drawn + 1])
        p_value = p_value_of(strengths)
        if p_value > plain:
            break
    pairs = _carrying(differences, observed, strengths)
    return JointShift(p_value, _effect(observed, strengths), pairs, left_out)


def _effect(observed: _Compared, strengths: Strengths) -> float:
    """Return half the difference of the strongest pair, less the part of it that the strongest has by chance."""
    strongest, by_chance = float(strengths.largest[0]), float(np.median(strengths.largest[1:]))
    if strongest <= by_chance:
        return 0.0
    at = np.argmax(np.abs(strengths.observed))
    difference = abs(float(observed.after[at] - observed.before[at]))
    return difference / 2 * math.sqrt(1 - (by_chance / strongest) ** 2)


def _carrying(differences: _Differences, observed: _Compared, strengths: Strengths) -> list[PairShift]:
    """Return the pairs of features that differ by more than chance gives among all pairs, at least the first."""
    found: dict[tuple[str, str], PairShift] = {}
    draws = len(strengths.largest) - 1
    pool, strength = differences.pool, np.abs(strengths.observed)
    for at in np.argsort(-strength):
        p_value = (1 + int(np.count_nonzero(strengths.largest[1:] >= strength[at]))) / (draws + 1)
        if found and (p_value > _PAIR_LEVEL or len(found) == _MOST_PAIRS):
            break
        first, second = (int(side[at]) for side in differences.pairs)
        features = pool.features[first], pool.features[second]
        labels = pool.labels[first], pool.labels[second]
        one = PairShift(features, labels, float(observed.before[at]), float(observed.after[at]), p_value)
        found.setdefault((min(features), max(features)), one)
    return list(found.values())


def _too_few(requests: Integers) -> str:
    """Return what a sample has too few of; empty where it has enough."""
    if len(requests) < FEWEST_ROWS:
        return f"{len(requests)} rows, and {FEWEST_ROWS} are the fewest that tell anything"
    sizes = np.bincount(requests)
    worth = len(requests) ** 2 / float(sizes @ sizes)
    if worth < FEWEST_REQUESTS:
        return f"rows of few requests, worth {worth:.0f} of equal size; {FEWEST_REQUESTS} are the fewest"
    return ""


def _untold(reason: str, left_out: dict[str, str]) -> JointShift:
    return JointShift(None, None, left_out=left_out, reason=reason)
