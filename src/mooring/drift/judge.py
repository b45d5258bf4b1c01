"""The judgement of a window: all measures of all features, and which of them alarm.

An alarm means that the value is more than chance gives when nothing has changed, and large enough to matter. The
user sets a budget, the probability that an unchanged window raises any alarm at all.

Within a feature the statistics that alarm, of the window alone and merged with those before it, are drawn jointly,
and the feature's p-value is that of its most surprising statistic (Westfall and Young 1993), the window's first
measure weighing most (Genovese, Roeder and Wasserman 2006). Over features the budget is kept by the rule of
Benjamini and Hochberg (1995), which, when nothing has changed, gives any alarm with at most that probability.
Draws are few while the answer is plain (Besag and Clifford 1991).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from itertools import accumulate
from statistics import median

import msgspec
import numpy as np

from mooring.drift.baseline import Baseline, Feature, PastStatistics
from mooring.drift.common_cells import effective_rows_of, is_empty
from mooring.drift.dependence import Dependence, DesignEffect, effective_rows
from mooring.drift.judgement import Judgement, Result
from mooring.drift.measure_table import MEASURES, Pair, Test
from mooring.drift.null import GammaScores, tail_p_value, tail_value
from mooring.drift.profile import FeatureProfile, Profile
from mooring.drift.statistics import FeatureNull, Statistic
from mooring.status import Severity, worst

DEFAULT_BUDGET = 0.001
SCALES = (1, 4, 16)
_PLAIN = 20
_SURE = {100: 0.0, 400: 1e-4, 1600: 1e-2, 4000: 1.0}
"""How far below what alarms a p-value must lie to be sure after so many draws."""
_LEAST_PAST = 30


class AlarmRules(msgspec.Struct, frozen=True):
    """What alarms.

    `thresholds` are fixed ones, by `measure` or `feature.measure`: they stand in the place of the calibrated one.
    With `floors` off every difference that is significant alarms, however small.
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
    rules: AlarmRules | None = None,
    *,
    scales: Sequence[int] = SCALES,
    past: Mapping[str, PastStatistics] | None = None,
    before: Profile | None = None,
    effects: Mapping[str, DesignEffect] | None = None,
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
        The budget, whether least effects count, fixed thresholds.
    scales
        How many windows are merged, ascending, beginning with 1.
    past
        By feature, statistics of past windows, by which those here are judged instead of draws.
    before
        All earlier windows, which in-sample outputs are compared with instead of the baseline. Without it, or
        statistics of past windows, these have values only.
    effects
        By feature, the design effect of rows that follow each other. By default what the windows themselves show.
    seed
        The same seed gives the same judgement.

    Raises ValueError where a profile is on other grids than the baseline's.
    """
    rules = rules or AlarmRules()
    if any(window.digest != baseline.digest for window in windows):
        raise ValueError("the windows' profiles are not on this baseline's grids")
    reached = [scale for scale in scales if scale <= len(windows)]
    increments = _increments(windows, reached)
    if effects is None:
        effects = _shown_by(windows).design_effects(baseline.grids)
    worth: list[float] = []
    results: list[Result] = []
    families: dict[str, Family] = {}
    names: list[str] = []
    for name, feature in baseline.features.items():
        if feature.role == "label":
            continue
        names.append(name)
        here = [one.features[name] for one in increments]
        usual = (past or {}).get(name)
        grown = feature.in_sample and usual is None and before is not None and before.rows > 0
        effect = effects.get(name)
        effective = _effective(increments, effect)
        worth.append(effective[0])
        rows = effective_rows_of(baseline, name, effect)
        if grown and before is not None:
            feature = msgspec.structs.replace(feature, profile=before.features[name])
            rows = before.effective_rows if effect is None else before.rows / effect.at(math.inf)
        for scale, merged in zip(reached, accumulate(here), strict=True):
            results += values_of(name, feature, merged, scale)
        if feature.in_sample and usual is None and not grown:
            continue
        random = np.random.default_rng([seed, zlib.crc32(name.encode())])
        null = FeatureNull(feature, here, reached, effective, random, reference_rows=rows)
        families[name] = Family(name, null, rules, usual)
    for family in families.values():
        family.find(rules.budget / len(families))
    p_values = [family.p_value for family in families.values()]
    most = cutoff(p_values, rules.budget)
    for result in results:
        if result.feature in families:
            families[result.feature].write(result, most)
        _apply_fixed(result, rules)
    newest = windows[0]
    return Judgement(
        results,
        worst(result.severity for result in results),
        _ranked(results, baseline),
        newest.rows,
        median(worth) if worth else newest.effective_rows,
        rules.budget,
        seed,
        [name for name in names if 0 < newest.rows == newest.features[name].absent],
        sorted(newest.unknown),
        _least_budget(p_values),
        unwatched=[name for name in names if name not in families],
    )


class Family:
    """The statistics of a feature, whose largest score is what the feature is judged by."""

    def __init__(self, name: str, null: FeatureNull, rules: AlarmRules, past: PastStatistics | None) -> None:
        self._null = null
        self._past = past
        self._tests = [_test(statistic.measure) for statistic in null.statistics]
        self._min_effects = [test.min_effect if rules.floors else 0.0 for test in self._tests]
        self._tested = np.array([rules.fixed(name, one.measure) is None for one in null.statistics])
        self._tested &= null.observed >= self._min_effects
        self.p_value = 1.0
        self._p_values: list[float | None] = [None] * len(null.statistics)
        self._joint: list[float] = [1.0] * len(null.statistics)
        self._thresholds: list[float | None] = [None] * len(null.statistics)
        self._usual = np.zeros(len(null.statistics))

    def find(self, alpha: float) -> None:
        """Find the p-value of the feature's most surprising statistic, to be compared with about `alpha`."""
        if not self._tested.any():
            return
        if self._past is not None:
            self._find_in_past(self._past, alpha)
            return
        drawn = np.empty((0, len(self._null.statistics)))
        log_weights, least = self._null.log_weights, self._null.least_p_value()
        for count in _SURE:
            drawn = np.concatenate([drawn, self._null.draw(count - len(drawn))])
            scores = self._null.scores(drawn)
            by_chance = np.stack([score.of(drawn[:, at]) for at, score in enumerate(scores)], axis=1)
            seen = np.array([score.of(value) for score, value in zip(scores, self._null.observed, strict=True)])
            largest = (by_chance + log_weights).max(axis=1)
            observed = seen + log_weights
            top = float(observed[self._tested].max())
            self.p_value = max(tail_p_value(largest, top), least)
            if self.p_value < alpha * _SURE[count] or np.count_nonzero(largest >= top) >= _PLAIN:
                break
        critical = tail_value(largest, alpha)
        self._usual = np.mean(drawn**2, axis=0)
        for at in np.flatnonzero(self._tested):
            self._joint[at] = max(tail_p_value(largest, float(observed[at])), least)
            alone = max(tail_p_value(by_chance[:, at], float(seen[at])), least)
            self._p_values[at] = min(alone, self._joint[at])  # where it never varies, few draws say little
            self._thresholds[at] = scores[at].value(critical - float(log_weights[at]))

    def _find_in_past(self, past: PastStatistics, alpha: float) -> None:
        places = {Statistic(*statistic): place for place, statistic in enumerate(past.statistics)}
        tests = max(1, len(self._null.statistics))
        for at in np.flatnonzero(self._tested):
            place = places.get(self._null.statistics[at])
            if place is None or len(past.values) < _LEAST_PAST:
                continue
            scores = GammaScores.fit(past.values[:, place])
            p_value = float(np.exp(-scores.of(self._null.observed[at])))
            self._p_values[at] = p_value
            self._joint[at] = min(1.0, p_value * tests)
            self._thresholds[at] = scores.value(-float(np.log(alpha / tests)))
        self.p_value = min(self._joint)

    def write(self, result: Result, most: float) -> None:
        """Write what was found into the result of one of the statistics."""
        try:
            at = self._null.statistics.index(Statistic(result.measure, result.scale))
        except ValueError:
            return  # it is given as a value only
        measure, test = MEASURES[result.measure], self._tests[at]
        effect = float(self._null.observed[at])
        threshold = max(self._thresholds[at] or 0.0, self._min_effects[at])
        result.strength = effect / test.min_effect
        result.p_value = self._p_values[at]
        result.threshold = threshold + ((result.reference or 0.0) if measure.from_reference else 0.0)
        # What chance gives, on sparse cells most of all, is no effect.
        beyond = math.sqrt(max(effect**2 - (0.0 if measure.rate else float(self._usual[at])), 0.0))
        result.excess = beyond / test.min_effect if self._tested[at] else 0.0
        result.effect_severity = _severity_of(result.excess, beyond, test)
        if not self._tested[at] or self._joint[at] > most:
            return
        result.alarm = True
        result.severity = worst(["warning", result.effect_severity])


def _severity_of(excess: float, beyond: float, test: Test) -> Severity:
    if excess < 1.0:
        return "ok"
    return "critical" if beyond >= test.large else "warning"


def _test(measure: str) -> Test:
    test = MEASURES[measure].test
    assert test is not None, "of what is drawn there is a test"
    return test


def values_of(name: str, feature: Feature, window: FeatureProfile, scale: int = 1) -> list[Result]:
    """Return the values of all measures that suit a feature; of merged windows only of those that alarm."""
    pair, empty, found = Pair(feature, window), is_empty(feature.profile), []
    for measure, entry in MEASURES.items():
        if not entry.suits(feature) or (scale > 1 and entry.test is None):
            continue
        value = math.nan if empty and entry.grids else entry.value(pair)
        if value is None:
            continue
        reference = entry.reference(pair) if entry.reference is not None else None
        found.append(Result(name, feature.role, feature.kind, measure, value, scale, reference))
    return found


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


def _effective(increments: Sequence[Profile], effect: DesignEffect | None) -> list[float]:
    """Return the effective rows of the windows up to each scale: as many independent ones tell as much."""
    rows = accumulate(one.rows for one in increments)
    weights = accumulate(one.weight for one in increments)
    return [*accumulate((effective_rows(*both, effect) for both in zip(rows, weights, strict=True)), max)]


def _shown_by(windows: Sequence[Profile]) -> Dependence:
    """Return what windows, the newest first, show of how rows depend on each other."""
    found = Dependence()
    for window in reversed(windows):
        found = found.after(window.order, window.weight)
    return found


def cutoff(p_values: Sequence[float], budget: float) -> float:
    """Return the p-value up to which there are alarms, by the rule of Benjamini and Hochberg; below all if none.

    >>> cutoff([0.001, 0.012, 0.2, 0.9], 0.05)
    0.025
    """
    ordered = np.sort(np.asarray(p_values))
    passed = np.flatnonzero(ordered <= budget * np.arange(1, len(ordered) + 1) / len(ordered))
    return float(budget * (passed[-1] + 1) / len(ordered)) if len(passed) else -1.0


def _least_budget(p_values: Sequence[float]) -> float:
    """Return the least budget at which `cutoff` alarms for any of the p-values.

    >>> _least_budget([0.001, 0.012, 0.2, 0.9])
    0.004
    """
    ordered = np.sort(np.asarray(p_values))
    return float(np.min(ordered * len(ordered) / np.arange(1, len(ordered) + 1), initial=1.0))


def _apply_fixed(result: Result, rules: AlarmRules) -> None:
    fixed = rules.fixed(result.feature, result.measure)
    if fixed is None or result.scale != 1:
        return
    result.threshold = fixed
    result.strength = abs(result.value) / fixed if fixed and not math.isnan(result.value) else 0.0
    result.alarm = abs(result.value) >= fixed
    result.severity = "warning" if result.alarm else "ok"


def _ranked(results: Sequence[Result], baseline: Baseline) -> list[str]:
    """Return the features that alarm by the strength of the effect, times their importance where it is known."""
    strengths: dict[str, float] = {}
    for result in results:
        if result.alarm:
            importance = baseline.features[result.feature].importance
            strength = result.strength * (1.0 if importance is None else abs(importance))
            strengths[result.feature] = max(strengths.get(result.feature, 0.0), strength)
    return sorted(strengths, key=lambda name: (-strengths[name], name))
