"""A feature's counts on cells that the baseline and windows have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mooring.drift.baseline import Baseline, Feature
from mooring.drift.dependence import DesignEffect
from mooring.drift.grid import Floats, Integers, Numbers, NumericGrid
from mooring.drift.profile import CategoricalProfile, FeatureProfile, NumericProfile, TextProfile, with_infinities

_FARTHEST = 1e30
"""Beyond so many standard deviations means are no farther: their squares are floats, too."""


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


def cell_means(profiles: Sequence[NumericProfile], grid: NumericGrid, edges: Numbers) -> Floats:
    """Return the mean value of profiles together in the cells between `edges`, some of the grid's.

    From the grid's center on, in its standard deviations, or in that of the profiles where it has none. Within a
    cell of the grid values are taken for its middle; of those beyond the grid's ends the sums are known.
    """
    counts = np.sum([one.counts for one in profiles], axis=0).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        lasts = grid.edges[1:] if grid.edges.dtype.kind == "f" else grid.edges[1:] - grid.edges.dtype.type(1)
        first, last = (grid.positions(one) / grid.unit for one in (grid.edges[:-1], lasts))
        ends = (grid.positions(grid.edges[[0, -1]]) / grid.unit).tolist()
        low, high = (sum(one.low for one in profiles), sum(one.high for one in profiles))
        below = min(low / counts[0], ends[0]) if counts[0] else ends[0]
        above = max(high / counts[-1], ends[1]) if counts[-1] else ends[1]
        center = grid.center / grid.unit if not grid.origin else 0.0
        middles = np.concatenate(([below], first + (last - first) / 2, [above])) - center
        starts = np.concatenate(([0], np.searchsorted(grid.edges, edges) + 1))
        sums = np.add.reduceat(counts, starts)
        means = np.add.reduceat(counts * middles, starts) / np.maximum(sums, 1)
        scale = grid.scale / grid.unit
        if not 0 < scale < math.inf:
            scale = float(np.abs(means[sums > 0] - means[sums > 0].mean()).max(initial=0.0)) or 1.0
        scaled = np.nan_to_num(means / scale, posinf=_FARTHEST, neginf=-_FARTHEST)
    return np.asarray(np.clip(scaled, -_FARTHEST, _FARTHEST), np.float64)


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
