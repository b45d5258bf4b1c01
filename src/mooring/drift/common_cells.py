"""A feature's counts on cells that the baseline and windows have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mooring.drift.baseline import Baseline, Feature
from mooring.drift.dependence import DesignEffect
from mooring.drift.grid import Integers, Numbers, NumericGrid
from mooring.drift.profile import CategoricalProfile, FeatureProfile, NumericProfile, TextProfile, with_infinities


def rows_of(profile: FeatureProfile) -> int:
    """Return of how many rows a feature's profile is."""
    numbers = numbers_of(profile)
    return profile.unusable + profile.values.values + (numbers.infinities if numbers else 0)


def effective_rows_of(baseline: Baseline, name: str, effect: DesignEffect | None = None) -> float:
    """Return how many independent rows a feature of the baseline is worth: outputs may be of fewer than inputs.

    The stream's design effect is that of a baseline from its log, too; rows of others count as they came.
    """
    rows = rows_of(baseline.features[name].profile)
    if effect is not None and baseline.of_log:
        return rows / effect.at(math.inf)
    return rows * baseline.effective_rows / baseline.rows if baseline.rows else 0.0


def numbers_of(profile: FeatureProfile) -> NumericProfile | None:
    """Return the profile of a feature's numbers, or of its texts' lengths; None where it has neither."""
    values = profile.values.lengths if isinstance(profile.values, TextProfile) else profile.values
    return values if isinstance(values, NumericProfile) else None


def is_empty(profile: FeatureProfile) -> bool:
    """Whether a feature has no value at all."""
    return rows_of(profile) == profile.unusable


def lacking(feature: Feature, window: FeatureProfile) -> int:
    """Return how many rows have no usable value. Where the baseline has none, values of any type are some."""
    return window.unusable - (window.misfits if is_empty(feature.profile) else 0)


def outside_of(numbers: NumericProfile, baseline: NumericProfile) -> int:
    """Return how many values lie below or above all of the baseline; infinities do unless it has such.

    Finite values are compared with the baseline's finite ones.
    """
    own, others = with_infinities([numbers, baseline])
    infinities = sum(int(own[at]) for at in (0, -1) if not others[at])
    return int(numbers.counts[0]) + int(numbers.counts[-1]) + infinities


def numeric_cells(profiles: Sequence[NumericProfile], grid: NumericGrid, edges: Numbers) -> list[Integers]:
    """Return the counts in the cells between `edges`, some of the grid's, and of infinities at either end."""
    return [
        np.concatenate([one[:1], coarser(one[1:-1], grid.edges, edges), one[-1:]])
        for one in with_infinities(profiles)
    ]


def by_identity(profiles: Sequence[CategoricalProfile]) -> list[Integers]:
    """Return counts on common cells: the baseline's categories, each new one by its name, and the unnamed rest."""
    names = sorted({name for one in profiles for name in one.new})
    return [
        np.concatenate([one.counts, np.array([one.new.get(name, 0) for name in names] + [one.more], np.int64)])
        for one in profiles
    ]


def coarser(counts: Integers, edges: Numbers, wanted: Numbers) -> Integers:
    """Return the counts in the cells between `wanted`, which are some of `edges`."""
    return np.add.reduceat(counts, np.concatenate(([0], np.searchsorted(edges, wanted) + 1)))
