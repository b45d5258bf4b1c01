"""The judgement of a window: all measures of all features, and which of them alarm.

An alarm means that the value is more than chance gives when nothing has changed, and large enough to matter. The
user sets a budget, the probability that an unchanged window raises any alarm at all.

Of a feature it is asked whether its values are others, and, where any ever are missing, whether more or fewer are.
The statistics of a question, of the window alone and merged with those before it, are drawn jointly, and its
p-value is that of the most surprising one (Westfall and Young 1993), each measure weighing what the table of
measures says, the window alone most (Genovese, Roeder and Wasserman 2006). Over all questions the budget is kept
by the rule of Benjamini and Hochberg (1995), which, when nothing has changed, gives any alarm with at most that
probability. Draws are few while the answer is plain (Besag and Clifford 1991).
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
from mooring.drift.evidence import NOTHING, Signed, signed
from mooring.drift.grid import Floats
from mooring.drift.judgement import Judgement, Result
from mooring.drift.measure_table import MEASURES, Pair, Test
from mooring.drift.null import tail_p_value, tail_value
from mooring.drift.past import PastRank, find_in_past
from mooring.drift.profile import FeatureProfile, Profile
from mooring.drift.statistics import FeatureNull, Statistic
from mooring.status import Severity, worst

DEFAULT_BUDGET = 0.001
SCALES = (1, 4, 16)
_PLAIN = 20
_NEAREST = 20
_SURE = {100: 0.0, 400: 1e-4, 1600: 1e-2, 4000: 0.1, 16_000: 1.0}
"""How far below what alarms a p-value must lie to be sure after so many draws."""


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
    nulls: dict[str, FeatureNull] = {}
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
        nulls[name] = FeatureNull(feature, here, reached, effective, random, reference_rows=rows)
        families[name] = Family(name, nulls[name], rules)
    questions = sum(len(family.p_values) for family in families.values())
    found = find_in_past(nulls, past, rules.budget) if past else {}
    for name, family in families.items():
        if past:
            family.take(found[name])
        else:
            family.find(rules.budget / max(questions, 1))
    p_values = [one for family in families.values() for one in family.p_values]
    if past:  # these are of all features together already
        p_values = [min(p_values, default=1.0)]
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
    """The statistics of a feature: of each question about it the largest score is what it is judged by.

    `p_values` are those of the questions: whether the values are others, and, where any ever are missing, whether
    more or fewer are. `signed` are those of a rise and of a fall of each.
    """

    def __init__(self, name: str, null: FeatureNull, rules: AlarmRules) -> None:
        self._null = null
        self._tests = [_test(statistic.measure) for statistic in null.statistics]
        self._min_effects = [test.min_effect if rules.floors else 0.0 for test in self._tests]
        self._tested = np.array([rules.fixed(name, one.measure) is None for one in null.statistics])
        self._tested &= null.observed >= self._min_effects
        self.p_values = [1.0] * len(null.questions)
        self.signed = [NOTHING] * len(null.questions)
        self._p_values: list[float | None] = [None] * len(null.statistics)
        self._joint: list[float] = [1.0] * len(null.statistics)
        self._thresholds: list[float | None] = [None] * len(null.statistics)
        self._usual = np.zeros(len(null.statistics))

    @property
    def p_value(self) -> float:
        """The feature's p-value: that of its most surprising question, times how many there are (Bonferroni)."""
        return min(1.0, len(self.p_values) * min(self.p_values, default=1.0))

    def find(self, alpha: float) -> None:
        """Find the p-value of each question's most surprising statistic, to be compared with about `alpha`."""
        asked = [at for at, question in enumerate(self._null.questions) if self._tested[question].any()]
        drawn = np.empty((0, len(self._null.statistics)))
        for count in _SURE:
            if not asked:
                return
            drawn = np.concatenate([drawn, self._null.draw(count - len(drawn))])
            scored = _Scored(self._null, drawn)
            self._usual = np.mean(drawn**2, axis=0)
            asked = [at for at in asked if not self._answer(at, scored, alpha)]

    def _answer(self, question: int, scored: _Scored, alpha: float) -> bool:
        """Answer a question by what was drawn so far, if it is plain or surely alarms, or no more is drawn."""
        places, least = self._null.questions[question], scored.least
        tested = places[self._tested[places]]
        largest = scored.weighted[:, places].max(axis=1)
        top = float(scored.observed_weighted[tested].max())
        p_value = max(tail_p_value(largest, top), least)
        count = len(largest)
        plain = np.count_nonzero(largest >= top) >= _PLAIN
        if not plain and p_value >= alpha * _SURE[count] and count < max(_SURE):
            return False
        self.p_values[question] = p_value
        self.signed[question] = self._signed(question, scored.drawn, largest, top)
        critical = tail_value(largest, alpha)
        for at in tested:
            self._joint[at] = max(tail_p_value(largest, float(scored.observed_weighted[at])), least)
            alone = max(tail_p_value(scored.by_chance[:, at], float(scored.observed[at])), least)
            self._p_values[at] = min(alone, self._joint[at])  # where it never varies, few draws say little
            self._thresholds[at] = scored.scores[at].value(critical - float(self._null.log_weights[at]))
        return True

    def _signed(self, question: int, drawn: Floats, largest: Floats, top: float) -> Signed:
        """Return the p-values of a rise and of a fall, by how many of the draws as surprising go the same way.

        Of skewed values nearly all surprising draws do: half of the p-value would be too little for that way.
        """
        p_value, at = self.p_values[question], self._null.direction(question)
        if at is None:
            return Signed(p_value, p_value)
        sign = self._null.signs[at]
        if sign == 0:
            return NOTHING
        same = np.sign(drawn[:, at]) == sign
        beyond = np.count_nonzero(same & (largest > top)) / (len(largest) + 1)
        alike = largest >= min(top, float(np.partition(largest, -_NEAREST)[-_NEAREST]))
        part = (np.count_nonzero(same & alike) + 1) / (np.count_nonzero(alike) + 1)
        towards, away = p_value * part, 1 - beyond
        return Signed(towards, away) if sign > 0 else Signed(away, towards)

    def take(self, found: Mapping[Statistic, PastRank]) -> None:
        """Take what past windows say of the feature's statistics for what draws would."""
        for at in np.flatnonzero(self._tested):
            of_it = found.get(self._null.statistics[at])
            if of_it is not None:
                self._p_values[at], self._joint[at], self._thresholds[at] = of_it
        self.p_values = [min(self._joint)]
        self.signed = [signed(self.p_values[0], self._rose())]

    def _rose(self) -> bool | None:
        most = int(np.argmin(self._joint))
        for question, places in enumerate(self._null.questions):
            at = self._null.direction(question)
            if most in places and at is not None:
                return bool(self._null.signs[at] > 0)
        return None

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


class _Scored:
    """Draws of a feature's statistics and what is observed, brought to one scale."""

    def __init__(self, null: FeatureNull, drawn: Floats) -> None:
        self.drawn = drawn
        self.least = null.least_p_value()
        self.scores = null.scores(drawn)
        self.by_chance = np.stack([score.of(drawn[:, at]) for at, score in enumerate(self.scores)], axis=1)
        self.observed = np.array([score.of(one) for score, one in zip(self.scores, null.observed, strict=True)])
        self.weighted = self.by_chance + null.log_weights
        self.observed_weighted = self.observed + null.log_weights


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
