"""Sums over rows whose requests are drawn with replacement: what intervals of means are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mooring.estimation.intervals import LEVEL
from mooring.performance.scored import Floats, Integers

DRAWS = 1000
_CELLS = 4_000_000


def drawn_sums(columns: Sequence[Floats], groups: Integers, random: np.random.Generator) -> Floats:
    """Return the sum of each column, first of all rows, then of 1,000 draws of the requests: (columns, 1001).

    >>> sums = drawn_sums([np.ones(100)], np.repeat(np.arange(50), 2), np.random.default_rng(0))
    >>> sums.shape, float(sums[0, 0]), set((sums % 2).ravel().tolist())
    ((1, 1001), 100.0, {0.0})

    References
    ----------
    Davison, A. and Hinkley, D. (1997). Bootstrap Methods and their Application, section 3.8.

    """
    sums = np.stack([np.bincount(groups, one) for one in columns], axis=1)
    count = len(sums)
    found = [sums.sum(axis=0)[None]]
    step = max(1, _CELLS // count)
    for first in range(0, DRAWS, step):
        some = min(step, DRAWS - first)
        drawn = random.integers(count, size=(some, count)) + np.arange(some)[:, None] * count
        weights = np.bincount(drawn.ravel(), minlength=some * count).reshape(some, count)
        found.append(weights.astype(np.float64) @ sums)
    return np.asarray(np.concatenate(found).T, np.float64)


class LossPart(NamedTuple):
    """A part of a change in mean loss, and between what it lies with a probability of 90 %."""

    value: float
    lower: float
    upper: float

    @property
    def beyond_chance(self) -> bool:
        """Whether the interval has 0 outside of it."""
        return self.lower > 0 or self.upper < 0

    def __str__(self) -> str:
        return f"{self.value:+.4g} ({self.lower:+.4g} to {self.upper:+.4g})"


def part_of(draws: Floats) -> LossPart:
    """Return the first as the value, and the interval from the others; draws that are not defined do not count.

    >>> str(part_of(np.arange(101.0)))
    '+0 (+5.95 to +95.05)'
    """
    others = draws[1:][np.isfinite(draws[1:])]
    lower, upper = np.quantile(others, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return LossPart(float(draws[0]), float(lower), float(upper))
