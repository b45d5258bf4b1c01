"""The judgement of a window: all measures of all features, and which of them alarm.

An alarm means that the value is more than chance gives when nothing has changed, and large enough to matter. The
user sets a budget, the chance that an unchanged window raises any alarm at all.

Within a feature the statistics that alarm, of the window alone and merged with those before it, are drawn jointly,
and the feature's chance is that of its most surprising statistic (Westfall and Young 1993), the window's first
measure weighing most (Genovese, Roeder and Wasserman 2006). Over features the budget is kept by the rule of
Benjamini and Hochberg (1995), which, when nothing has changed, gives any alarm with at most that chance. Draws are
few while the answer is plain (Besag and Clifford 1991).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from mooring.drift import measures
from mooring.drift.baseline import Baseline, Feature, Past, Role
from mooring.drift.grid import CategoricalGrid, Floats, Integers, Kind, NumericGrid, TextGrid, TimestampGrid
from mooring.drift.null import GammaScores, tail_chance, tail_value
from mooring.drift.profile import (
    CategoricalProfile,
    FeatureProfile,
    NumericProfile,
    Profile,
    TextProfile,
    TimestampProfile,
    with_infinities,
)
from mooring.drift.statistics import (
    FeatureNull,
    Statistic,
    by_identity,
    is_empty,
    lacking,
    numeric_cells,
    outside_of,
    rows_of,
)
from mooring.status import Severity, worst

DEFAULT_BUDGET = 0.001
SCALES = (1, 4, 16)
FLOORS = {"ks": 0.05, "js": 0.05, "null_rate": 0.01, "new_category_rate": 0.01, "out_of_range_rate": 0.01}
"""The least effect that alarms by default: of distances the value, of the null rate its difference."""
LARGE = {"ks": 0.2, "js": 0.2, "null_rate": 0.1, "new_category_rate": 0.1, "out_of_range_rate": 0.1}
"""The effect from which an alarm is critical."""
RATES = frozenset({"null_rate", "new_category_rate", "out_of_range_rate"})
_PLAIN = 20
_SURE = {100: 0.0, 400: 1e-4, 1600: 1e-2, 4000: 1.0}
"""How far below what alarms a chance must lie to be sure after so many draws."""
_LEAST_PAST = 30


class Result(msgspec.Struct):
    """A measure of a feature in a window, or in the newest `scale` windows together.

    `p_value` is the chance of such a value when nothing has changed; None where it was not needed, the value being
    below the floor, or the measure does not alarm. `threshold` is the value from which the measure alarms.
    `reference` is the baseline's own rate, for rates. `strength` is the effect in units of the floor.
    """

    feature: str
    role: Role
    kind: Kind
    measure: str
    value: float
    scale: int = 1
    reference: float | None = None
    p_value: float | None = None
    threshold: float | None = None
    alarm: bool = False
    severity: Severity = "ok"
    strength: float = 0.0


class Judgement(msgspec.Struct):
    """What is to be said of a window: every result, and the features that alarm, the most drifted first.

    `chance` is that of an unchanged window with an alarm as sure as the surest here: the least budget at which
    anything calibrated alarms. `segments` are the judgements of the rows in which a feature has one value, by
    FEATURE=VALUE, where that was asked for.
    """

    results: list[Result]
    severity: Severity
    features: list[str]
    rows: int
    effective_rows: float
    budget: float
    seed: int
    missing: list[str] = []
    unknown: list[str] = []
    chance: float = 1.0
    segments: dict[str, Judgement] = {}

    @property
    def alarms(self) -> list[Result]:
        """The results that alarm."""
        return [result for result in self.results if result.alarm]


class Rules(msgspec.Struct, frozen=True):
    """What alarms.

    `thresholds` are fixed ones, by `measure` or `feature.measure`: they stand in the place of the calibrated one.
    With `floors` off every difference that is more than chance alarms, however small.
    """

    budget: float = DEFAULT_BUDGET
    floors: bool = True
    thresholds: Mapping[str, float] = {}

    def fixed(self, feature: str, measure: str) -> float | None:
        """Return the fixed threshold of a measure, if there is one."""
        return self.thresholds.get(f"{feature}.{measure}", self.thresholds.get(measure))


def judge(
    baseline: Baseline,
    windows: Sequence[Profile],
    rules: Rules | None = None,
    *,
    scales: Sequence[int] = SCALES,
    past: Mapping[str, Past] | None = None,
    seed: int = 0,
) -> Judgement:
    """Return the judgement of the newest of `windows`, alone and merged with those before it.

    Parameters
    ----------
    baseline
        What the windows are compared with.
    windows
        Profiles on its grids, newest first; a scale is left out where there are not as many.
    rules
        The budget, the floors, fixed thresholds.
    scales
        How many windows are merged, ascending, beginning with 1.
    past
        By feature, statistics of past windows, from which chance is taken instead of drawn.
    seed
        The same seed gives the same judgement.

    Raises ValueError where a profile is on other grids than the baseline's.
    """
    rules = rules or Rules()
    if any(window.digest != baseline.digest for window in windows):
        raise ValueError("the windows' profiles are not on this baseline's grids")
    reached = [scale for scale in scales if scale <= len(windows)]
    increments = _increments(windows, reached)
    effective = _effective(increments)
    results: list[Result] = []
    families: dict[str, Family] = {}
    for name, feature in baseline.features.items():
        if feature.role == "label":
            continue
        here = [one.features[name] for one in increments]
        random = np.random.default_rng([seed, zlib.crc32(name.encode())])
        null = FeatureNull(feature, here, reached, effective, random)
        families[name] = Family(name, null, rules, (past or {}).get(name))
        merged = here[0]
        for place, scale in enumerate(reached):
            merged = merged + here[place] if place else merged
            results += values_of(name, feature, merged, scale)
    alpha = rules.budget / max(len(families), 1)
    for family in families.values():
        family.find(alpha)
    chances = [family.chance for family in families.values()]
    cutoff = _cutoff(chances, rules.budget)
    for result in results:
        families[result.feature].write(result, cutoff)
        _apply_fixed(result, rules)
    newest = windows[0]
    return Judgement(
        results,
        _worst(results),
        _ranked(results, baseline),
        newest.rows,
        effective[0],
        rules.budget,
        seed,
        [name for name in families if 0 < newest.rows == newest.features[name].absent],
        sorted(newest.unknown),
        _least_budget(chances),
    )


class Family:
    """The statistics of a feature, whose largest score is what the feature is judged by."""

    def __init__(self, name: str, null: FeatureNull, rules: Rules, past: Past | None) -> None:
        self._null = null
        self._past = past
        self._heeded = np.array(
            [
                rules.fixed(name, statistic.measure) is None
                and (not rules.floors or value >= FLOORS[statistic.measure])
                for statistic, value in zip(null.statistics, null.observed, strict=True)
            ]
        )
        self._floors = FLOORS if rules.floors else {}
        self.chance = 1.0
        self._chances: list[float | None] = [None] * len(null.statistics)
        self._joint: list[float] = [1.0] * len(null.statistics)
        self._thresholds: list[float | None] = [None] * len(null.statistics)
        self._usual = np.zeros(len(null.statistics))

    def find(self, alpha: float) -> None:
        """Find the chance of the feature's most surprising statistic, to be compared with about `alpha`."""
        if not self._heeded.any():
            return
        if self._past is not None:
            self._find_in_past(alpha)
            return
        drawn = np.empty((0, len(self._null.statistics)))
        handicaps, least = self._null.handicaps, self._null.least_chance()
        for count in _SURE:
            drawn = np.concatenate([drawn, self._null.draw(count - len(drawn))])
            scores = self._null.scores(drawn)
            by_chance = np.stack([score.of(drawn[:, at]) for at, score in enumerate(scores)], axis=1)
            seen = np.array([score.of(value) for score, value in zip(scores, self._null.observed, strict=True)])
            largest = (by_chance - handicaps).max(axis=1)
            observed = seen - handicaps
            top = float(observed[self._heeded].max())
            self.chance = max(tail_chance(largest, top), least)
            if self.chance < alpha * _SURE[count] or np.count_nonzero(largest >= top) >= _PLAIN:
                break
        critical = tail_value(largest, alpha)
        self._usual = np.mean(drawn**2, axis=0)
        for at in np.flatnonzero(self._heeded):
            self._joint[at] = max(tail_chance(largest, float(observed[at])), least)
            alone = max(tail_chance(by_chance[:, at], float(seen[at])), least)
            self._chances[at] = min(alone, self._joint[at])  # where it never varies, few draws say little
            self._thresholds[at] = scores[at].value(critical + float(handicaps[at]))

    def _find_in_past(self, alpha: float) -> None:
        assert self._past is not None
        places = {Statistic(*statistic): place for place, statistic in enumerate(self._past.statistics)}
        tests = max(1, len(self._null.statistics))
        for at in np.flatnonzero(self._heeded):
            place = places.get(self._null.statistics[at])
            if place is None or len(self._past.values) < _LEAST_PAST:
                continue
            scores = GammaScores.fit(self._past.values[:, place])
            chance = float(np.exp(-scores.of(self._null.observed[at])))
            self._chances[at] = chance
            self._joint[at] = min(1.0, chance * tests)
            self._thresholds[at] = scores.value(-float(np.log(alpha / tests)))
        self.chance = min(self._joint)

    def write(self, result: Result, cutoff: float) -> None:
        """Write what was found into the result of one of the statistics."""
        try:
            at = self._null.statistics.index(Statistic(result.measure, result.scale))
        except ValueError:
            return  # it is given as a value only
        floor = self._floors.get(result.measure, 0.0)
        effect = float(self._null.observed[at])
        threshold = max(self._thresholds[at] or 0.0, floor)
        result.strength = effect / FLOORS[result.measure]
        result.p_value = self._chances[at]
        result.threshold = threshold + (result.reference or 0.0) if result.measure == "null_rate" else threshold
        if not self._heeded[at] or self._joint[at] > cutoff:
            return
        result.alarm = True
        # What chance gives on sparse cells is no effect.
        beyond = effect**2 - float(self._usual[at]) if result.measure not in RATES else effect**2
        result.severity = "critical" if beyond >= LARGE[result.measure] ** 2 else "warning"


def values_of(name: str, feature: Feature, window: FeatureProfile, scale: int = 1) -> list[Result]:
    """Return the values of all measures that suit a feature; of merged windows only of those that alarm."""
    found: dict[str, float] = {}
    references = {"null_rate": measures.null_rate(lacking(feature, feature.profile), rows_of(feature.profile))}
    before, after = feature.profile.values, window.values
    match feature.grid:
        case NumericGrid():
            assert isinstance(before, NumericProfile)
            assert isinstance(after, NumericProfile)
            found = _numeric(feature.grid, before, after)
        case TextGrid():
            assert isinstance(before, TextProfile)
            assert isinstance(after, TextProfile)
            found = _numeric(feature.grid.lengths, before.lengths, after.lengths)
        case CategoricalGrid():
            assert isinstance(before, CategoricalProfile)
            assert isinstance(after, CategoricalProfile)
            found = _categorical(before, after)
        case TimestampGrid():
            assert isinstance(before, TimestampProfile)
            assert isinstance(after, TimestampProfile)
            found = {
                "hour_js": float(measures.js(before.hours, after.hours)),
                "weekday_js": float(measures.js(before.weekdays, after.weekdays)),
                "longest_gap": float(after.longest_gap()) if after.values else math.nan,
            }
            references["longest_gap"] = float(before.longest_gap())
    if is_empty(feature.profile):
        found = dict.fromkeys(found, math.nan)
    found["null_rate"] = measures.null_rate(lacking(feature, window), rows_of(window))
    if window.misfits or window.cast:
        found["type_change_rate"] = (window.misfits + window.cast) / rows_of(window)
    return [
        Result(name, feature.role, feature.kind, measure, value, scale, references.get(measure))
        for measure, value in found.items()
        if scale == 1 or measure in FLOORS
    ]


def _numeric(grid: NumericGrid, before: NumericProfile, after: NumericProfile) -> dict[str, float]:
    reference, current = with_infinities([before, after])
    ends = (grid.positions(grid.edges[[0, -1]]) / grid.unit).tolist()
    edges, a, b = _spread(grid, before.counts, after.counts)
    distance = measures.wasserstein(
        a,
        b,
        edges / grid.unit,
        below=ends[0] * float(after.counts[0]) - after.low,
        above=after.high - ends[1] * float(after.counts[-1]),
        scale=(grid.scale if grid.scale > 0 else 1.0) / grid.unit,
    )
    values = after.values + after.infinities
    return {
        "ks": float(measures.ks(reference, current)),
        **_of_cells(*numeric_cells([before, after], grid, grid.bins)),
        "wasserstein": distance,
        "mean_shift": measures.mean_shift(before.offset(), after.offset(), grid.scale / grid.unit),
        "out_of_range_rate": measures.out_of_range_rate(outside_of(after, before), values),
    }


def _spread(grid: NumericGrid, before: Integers, after: Integers) -> tuple[Floats, Integers, Integers]:
    """Return where the cells' values lie, as edges, and counts between these.

    Between the last integer of a cell and the first of the next there are none.
    """
    edges = grid.positions(grid.edges)
    if grid.edges.dtype.kind == "f":
        return edges, before, after
    a, b = (np.insert(one, np.arange(2, len(edges) + 1), 0) for one in (before, after))
    return np.insert(edges, np.arange(1, len(edges)), edges[1:] - 1), a, b


def _categorical(before: CategoricalProfile, after: CategoricalProfile) -> dict[str, float]:
    reference, current = by_identity([before, after])
    return {
        **_of_cells(reference, current),
        "new_category_rate": float(measures.new_category_rate(reference, current)),
    }


def _of_cells(reference: Integers, current: Integers) -> dict[str, float]:
    """Return the measures that compare counts in cells, whatever the cells are."""
    return {
        "js": float(measures.js(reference, current)),
        "psi": float(measures.psi(reference, current)),
        "hellinger": float(measures.hellinger(reference, current)),
        "total_variation": float(measures.total_variation(reference, current)),
        "l_infinity": float(measures.l_infinity(reference, current)),
        "chi_square": float(measures.chi_square(reference, current)),
    }


def _increments(windows: Sequence[Profile], scales: Sequence[int]) -> list[Profile]:
    """Return the newest window, the sum of those that the second scale adds to it, and so on."""
    found, start = [], 0
    for scale in scales:
        merged = windows[start]
        for window in windows[start + 1 : scale]:
            merged = merged + window
        found.append(merged)
        start = scale
    return found


def _effective(increments: Sequence[Profile]) -> list[float]:
    """Return how many independent rows the windows up to each scale are worth."""
    rows = np.cumsum([one.rows for one in increments]).astype(np.float64)
    weights = np.cumsum([one.weight for one in increments]).astype(np.float64)
    worth = np.divide(rows**2, weights, out=np.zeros_like(rows), where=weights > 0)
    return [float(value) for value in np.maximum.accumulate(worth)]


def _cutoff(chances: Sequence[float], budget: float) -> float:
    """Return the chance up to which there are alarms, by the rule of Benjamini and Hochberg; below all if none.

    >>> _cutoff([0.001, 0.012, 0.2, 0.9], 0.05)
    0.025
    """
    ordered = np.sort(np.asarray(chances))
    passed = np.flatnonzero(ordered <= budget * np.arange(1, len(ordered) + 1) / len(ordered))
    return float(budget * (passed[-1] + 1) / len(ordered)) if len(passed) else -1.0


def _least_budget(chances: Sequence[float]) -> float:
    """Return the least budget that `_cutoff` would let pass some of the chances with.

    >>> _least_budget([0.001, 0.012, 0.2, 0.9])
    0.004
    """
    ordered = np.sort(np.asarray(chances))
    return float(np.min(ordered * len(ordered) / np.arange(1, len(ordered) + 1), initial=1.0))


def _apply_fixed(result: Result, rules: Rules) -> None:
    fixed = rules.fixed(result.feature, result.measure)
    if fixed is None or result.scale != 1:
        return
    result.threshold = fixed
    result.strength = abs(result.value) / fixed if fixed and not math.isnan(result.value) else 0.0
    result.alarm = abs(result.value) >= fixed
    result.severity = "warning" if result.alarm else "ok"


def _worst(results: Sequence[Result]) -> Severity:
    return worst(result.severity for result in results)


def _ranked(results: Sequence[Result], baseline: Baseline) -> list[str]:
    """Return the features that alarm by the strength of the effect, times their importance where it is known."""
    strengths: dict[str, float] = {}
    for result in results:
        if result.alarm:
            importance = baseline.features[result.feature].importance
            strength = result.strength * (1.0 if importance is None else abs(importance))
            strengths[result.feature] = max(strengths.get(result.feature, 0.0), strength)
    return sorted(strengths, key=lambda name: (-strengths[name], name))
