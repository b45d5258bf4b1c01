"""How probable a difference of means is when rows of baseline and window are thrown together and drawn from.

A normal distribution says it of many ordinary values. It says nonsense where a few values lie far off: these alone
decide, and how probable it is that they all fall into the window is what counts. A saddlepoint approximation of
sampling without replacement holds for both.

References
----------
Robinson, J. (1982). Saddlepoint approximations for permutation tests and confidence intervals. Journal of the
Royal Statistical Society B 44(1).
Skovgaard, I. (1987). Saddlepoint expansions for conditional distributions. Journal of Applied Probability 24(4).

"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from mooring.drift.grid import Floats, Integers
from mooring.drift.null import MOST

_TILTS = np.geomspace(0.4, 30.0, 16)
"""Where the tail is computed, in standard deviations; between them it is interpolated."""
_STEPS = 6
_CLOSE = 1e-6
_OUTERMOST = 8
_GROUPS = 24


class ShiftScores(NamedTuple):
    """Scores of a difference of means, in either direction: -ln of the probability of as much or more.

    `scores` are those of `shifts`, which ascend.

    Five of 4,000 values lie far off. That all of them are among the 1,000 of a window has probability 1/4^5:

    >>> scores = ShiftScores.of_pool(np.array([3995, 5]), np.array([0.0, 1e4]), 0.25)
    >>> float(np.exp(-scores.of(5 * 1e4 / 1000)).round(4))
    0.001
    """

    shifts: Floats
    scores: Floats

    @classmethod
    def of_pool(cls, counts: Integers | Floats, values: Floats, share: float) -> ShiftScores:
        """Return the scores where a window is a `share` of `counts` rows with `values`, which ascend."""
        never = cls(np.array([0.0, 1.0]), np.array([0.0, MOST]))
        weights, values = _grouped(counts[counts > 0].astype(np.float64), values[counts > 0])
        if len(values) < 2 or not 0 < share < 1:
            return never
        total = float(weights.sum())
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            centered = values - float(weights @ values) / total
            farthest = float(np.abs(centered).max())
            if not 0 < farthest < math.inf:
                return never
            centered /= farthest
            deviation = math.sqrt(float(weights @ centered**2) * share * (1 - share))
            tilts = _TILTS / deviation
            tails = [_tail_of_sums(weights, centered * sign, share, tilts) for sign in (1, -1)]
        sums = np.unique(np.concatenate([one for one, _ in tails]))
        # Beyond the farthest sum of a side nothing can be drawn there.
        up, down = (np.interp(sums, *tail, right=2 * MOST) for tail in tails)
        scores = np.clip(np.maximum.accumulate(-np.logaddexp(-up, -down)), 0.0, MOST)
        return cls(sums * farthest / (total * share * (1 - share)), scores)

    def of(self, values: ArrayLike) -> Floats:
        """Return the scores of differences; beyond the last one known they go on as steeply."""
        shifts = np.abs(np.asarray(values, np.float64))
        further = np.minimum(np.maximum(shifts - self.shifts[-1], 0.0) * self._slope, MOST)
        return np.asarray(np.minimum(np.interp(shifts, self.shifts, self.scores) + further, MOST))

    def value(self, score: float) -> float:
        """Return the least difference that has a score."""
        last = float(self.scores[-1])
        if score > last:
            return float(self.shifts[-1]) + (score - last) / max(self._slope, 1e-300)
        at = int(np.searchsorted(self.scores, score))
        if not at:
            return 0.0
        low, high = self.scores[at - 1 : at + 1].tolist()
        part = (score - low) / (high - low)
        return float(self.shifts[at - 1] + part * (self.shifts[at] - self.shifts[at - 1]))

    @property
    def _slope(self) -> float:
        return float(self.scores[-1]) / max(float(self.shifts[-1]), 1e-300)


def _grouped(counts: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Return counts and values of fewer groups; the outermost values stay as they are."""
    if len(values) <= 2 * _OUTERMOST + _GROUPS:
        return counts, values
    inner, far = counts[_OUTERMOST:-_OUTERMOST], np.abs(values[_OUTERMOST:-_OUTERMOST] - np.median(values))
    # The farther values lie from the others the finer, or groups would vary less than the values do.
    extent = inner / inner.sum() + (inner * far) / max(float(inner @ far), 1e-300)
    group = ((np.cumsum(extent) - extent / 2) * (_GROUPS / extent.sum())).astype(np.int64)
    starts = np.concatenate(([0], np.flatnonzero(np.diff(group)) + 1)) + _OUTERMOST
    places = np.concatenate([np.arange(_OUTERMOST), starts, np.arange(len(counts) - _OUTERMOST, len(counts))])
    sums = np.add.reduceat(counts, places)
    return sums, np.add.reduceat(counts * values, places) / sums


def _tail_of_sums(counts: Floats, values: Floats, share: float, tilts: Floats) -> tuple[Floats, Floats]:
    """Return sums of a window's values, ascending from 0, and -ln of the probability of each or more.

    Rows are drawn independently with log odds that grow with their value, by a tilt, and such that a `share` is
    drawn in the mean: the sum that this makes usual is one of those returned.
    """
    total = float(counts.sum())
    slopes, usual = tilts[:, None] * values, float(special.logit(share))
    logits = slopes + (usual + _intercepts(slopes, counts / total, share))[:, None]
    drawn, left = special.expit(logits), special.expit(-logits)
    solved = np.abs(drawn @ counts / total - share) <= 2 * _CLOSE * share
    rate = (special.rel_entr(drawn, share) + special.rel_entr(left, 1 - share)) @ counts
    moments = (drawn * left) @ np.stack([counts, counts * values, counts * values**2], axis=1)
    spread = np.maximum(moments[:, 0] * moments[:, 2] - moments[:, 1] ** 2, 0.0) / (total * share * (1 - share))
    root = np.sqrt(2 * rate)
    corrected = root + np.log(np.maximum(tilts * np.sqrt(spread), 1e-300) / root) / root
    # The rate bounds the probability (Chernoff): where a few values decide, it is nearer than the normal tail.
    # Nothing is less probable than the farthest that can be drawn.
    scores = np.clip(-special.log_ndtr(-corrected), rate, float(rate[solved].max(initial=0.0)))
    return _ascending(drawn @ (counts * values), solved), _ascending(scores, solved)


def _ascending(values: Floats, known: NDArray[np.bool_]) -> Floats:
    return np.asarray(np.maximum.accumulate(np.append(0.0, np.where(known & np.isfinite(values), values, 0.0))))


def _intercepts(slopes: Floats, weights: Floats, share: float) -> Floats:
    """Return what to add to each row's slopes so that a `share` is drawn, by Newton's method within bounds."""
    usual = float(special.logit(share))
    high, low = -slopes.min(axis=1), -slopes.max(axis=1)
    # Values that are sure to be drawn are drawn once: else a few far ones would leave nothing to the others.
    found = np.clip(-np.log(np.minimum(np.exp(np.minimum(slopes, MOST)), 1 / share) @ weights), low, high)
    for _ in range(_STEPS):
        drawn = special.expit(slopes + (found + usual)[:, None])
        part = drawn @ weights
        low, high = np.where(part < share, found, low), np.where(part < share, high, found)
        step = (special.logit(part) - usual) * part * (1 - part) / (part - drawn**2 @ weights)
        newton = found - step
        better = np.where((newton > low) & (newton < high), newton, (low + high) / 2)
        found = np.where(np.abs(part - share) <= _CLOSE * share, found, better)
    return np.asarray(found, np.float64)
