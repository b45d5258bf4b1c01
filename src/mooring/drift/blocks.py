"""A block of windows against all that came before it: the p-values of each feature, and of which way it moved."""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterator, Mapping
from functools import reduce
from operator import add
from typing import NamedTuple

import msgspec
import numpy as np

from mooring.drift.baseline import Baseline
from mooring.drift.common_cells import effective_rows_of, rows_of
from mooring.drift.dependence import DesignEffect, effective_rows
from mooring.drift.evidence import BLOCKS, Signed
from mooring.drift.judge import DEFAULT_BUDGET, AlarmRules, Family, values_of
from mooring.drift.judgement import Result
from mooring.drift.likes import Like
from mooring.drift.past import find_in_past
from mooring.drift.profile import Profile, empty
from mooring.drift.statistics import FeatureNull

_ALPHA = 1e-6
"""About where a p-value decides alone: what is far from it needs few draws."""


class BlockPValue(NamedTuple):
    """How probable a block as unlike what was before it is when nothing changes.

    `signed` are the p-values of a rise and of a fall, of the values and, where any are missing, of how many are.
    `results` say by how much it differs from a reference of its own, as those of a judgement do.
    """

    p_value: float
    signed: list[Signed]
    results: tuple[Result, ...] = ()


class PastWindows(msgspec.Struct):
    """The windows of a stream so far: how many, and their profiles, apart as the running blocks need them.

    `settled` are those before the running block of 16; `of_16` those of that before the running block of 4, and
    `of_4` those of that one. None is a profile of no window.
    """

    windows: int = 0
    settled: Profile | None = None
    of_16: Profile | None = None
    of_4: Profile | None = None

    @property
    def digest(self) -> str | None:
        """The grids that the profiles are on; None where there is none."""
        return next((one.digest for one in (self.settled, self.of_16, self.of_4) if one is not None), None)

    @property
    def whole(self) -> Profile | None:
        """The profile of all windows so far; None of no window."""
        parts = [one for one in (self.settled, self.of_16, self.of_4) if one is not None]
        return reduce(add, parts) if parts else None

    def after(self, window: Profile) -> PastWindows:
        """Return what it is after one more window."""
        count = self.windows + 1
        of_4 = _sum(self.of_4, window)
        if count % BLOCKS[1] != 0:
            return PastWindows(count, self.settled, self.of_16, of_4)
        of_16 = _sum(self.of_16, of_4)
        if count % BLOCKS[2] != 0:
            return PastWindows(count, self.settled, of_16)
        return PastWindows(count, _sum(self.settled, of_16))

    def blocks(self, baseline: Profile, window: Profile) -> Iterator[tuple[int, Profile, Profile]]:
        """Yield each block that ends with this window: its length, all that was before it, and the block."""
        count = self.windows + 1
        settled = _sum(self.settled, baseline)
        before_4 = _sum(self.of_16, settled)
        yield BLOCKS[0], _sum(self.of_4, before_4), window
        if count % BLOCKS[1] == 0:
            yield BLOCKS[1], before_4, _sum(self.of_4, window)
        if count % BLOCKS[2] == 0:
            yield BLOCKS[2], settled, _sum(self.of_16, _sum(self.of_4, window))

    def with_window(self, window: Profile) -> Profile:
        """Return the profile of all windows so far and this one."""
        return _sum(self.whole, window)


def _sum(one: Profile | None, other: Profile) -> Profile:
    return other if one is None else one + other


def profile_of(baseline: Baseline) -> Profile:
    """Return what the baseline itself holds, as a profile; of in-sample outputs that is nothing."""
    none = empty(baseline.grids, baseline.digest).features
    features = {
        name: none[name] if feature.in_sample else feature.profile for name, feature in baseline.features.items()
    }
    return Profile(baseline.digest, features, baseline.rows, baseline.weight)


def p_values(
    baseline: Baseline,
    before: Profile,
    block: Profile,
    *,
    length: int = 1,
    thresholds: Mapping[str, float] | None = None,
    only: Collection[str] | None = None,
    likes: Mapping[str, Like] | None = None,
    effects: Mapping[str, DesignEffect] | None = None,
    seed: int = 0,
) -> dict[str, BlockPValue]:
    """Return, of each feature, how probable a block as unlike `before` is when nothing changes.

    Parameters
    ----------
    baseline
        Whose grids both profiles are on; labels are left out, and so are in-sample outputs as long as there was no
        window before the block.
    before
        The baseline, as `profile_of` has it, and all windows before the block.
    block
        The windows of the block together.
    length
        How many these are. Where the baseline knows what is usual of past windows, such blocks are held against
        the baseline alone, as those windows were.
    thresholds
        Fixed ones, by `measure` or `feature.measure`, which stand in the place of chance.
    only
        The features that are wanted; None are all.
    likes
        References of features that are to be compared with these instead.
    effects
        By feature, the design effect of rows that follow each other; without one, rows of a request count as one.
    seed
        The same seed gives the same p-values.

    """
    rules, found = AlarmRules(floors=False, thresholds=thresholds or {}), {}
    for name, feature in baseline.features.items():
        if feature.role == "label" or (only is not None and name not in only):
            continue
        past = baseline.past.get(name)
        like, effect = (likes or {}).get(name), (effects or {}).get(name)
        known = feature
        if like is not None:
            rows = _like_rows(like, block, effect)
            known = msgspec.structs.replace(feature, profile=like.profile)
        elif past is not None:
            rows = effective_rows_of(baseline, name, effect)
        else:
            rows = _reference_rows(baseline, name, before, effect)
            known = msgspec.structs.replace(feature, profile=before.features[name])
        if not rows:
            continue
        random = np.random.default_rng([seed, zlib.crc32(name.encode())])
        window = block.features[name]
        worth = effective_rows(block.rows, block.weight, effect)
        null = FeatureNull(known, [window], [length], [worth], random, reference_rows=rows)
        family = Family(name, null, rules)
        if past is None:
            family.find(_ALPHA)
        else:
            family.take(find_in_past({name: null}, {name: past}, _ALPHA)[name])
        results = values_of(name, known, window, length) if like is not None else []
        for result in results:
            family.write(result, DEFAULT_BUDGET)
        found[name] = BlockPValue(family.p_value, family.signed, tuple(results))
    return found


def _reference_rows(baseline: Baseline, name: str, before: Profile, effect: DesignEffect | None) -> float:
    """Return how many independent rows a feature's reference is worth, of the baseline and the windows since."""
    feature = baseline.features[name]
    own = 0 if feature.in_sample else rows_of(feature.profile)
    rows = before.rows - baseline.rows + own
    if rows == own:
        return 0.0 if feature.in_sample else effective_rows_of(baseline, name, effect)
    since = before.weight - baseline.weight if effect is None else (rows - own) * effect.at(math.inf)
    return float(rows**2 / (since + (own**2 / effective_rows_of(baseline, name, effect) if own else 0)))


def _like_rows(like: Like, block: Profile, effect: DesignEffect | None) -> float:
    """Return how many independent rows a reference is worth, whose requests are as large as the block's."""
    if effect is None or not block.rows or not like.of_log:
        return like.effective_rows
    return like.effective_rows * (block.weight / block.rows) / effect.at(math.inf)
