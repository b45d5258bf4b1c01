"""How often what is drawn itself has a small p-value: as often as it says, whatever the values are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from judging import arrow, window
from mooring.drift.baseline import make
from mooring.drift.judge import AlarmRules, Family
from mooring.drift.null import tail_p_value
from mooring.drift.statistics import FeatureNull

DRAWN, OTHERS = 4000, 5000


def values(kind: str, rows: int, random: np.random.Generator) -> np.ndarray:
    match kind:
        case "ties":
            return np.round(random.normal(size=rows), 1)
        case "zeros":
            return np.where(random.random(rows) < 0.95, 0, random.lognormal(0, 1.5, rows))
        case "outliers":
            return np.where(random.random(rows) < 0.999, 0.0, 1e4) + random.normal(size=rows)
        case "lognormal":
            return random.lognormal(0, 2, rows)
        case "missing":
            return np.where(random.random(rows) < 0.1, np.nan, random.normal(size=rows))
        case _:
            return np.char.add("g", random.zipf(1.6, rows).astype(str))


@pytest.mark.parametrize("kind", ["ties", "zeros", "outliers", "lognormal", "missing", "categories"])
@pytest.mark.parametrize(("reference", "rows"), [(1000, 200), (3000, 1000)])
def test_a_feature_alarms_as_often_as_it_may(kind: str, reference: int, rows: int) -> None:
    random = np.random.default_rng([reference, rows])
    hits = {0.05: 0, 0.01: 0}
    for _ in range(2):
        baseline = make(arrow({"x": values(kind, reference, random)}))
        sample = window(baseline, {"x": values(kind, rows, random)}).features["x"]
        null = FeatureNull(baseline.features["x"], [sample], [1], [float(rows)], random)
        drawn = null.draw(DRAWN)
        scores, places = null.scores(drawn), null.questions[0]
        by_chance, others = (
            (np.stack([scores[at].of(of[:, at]) for at in places], axis=1) + null.log_weights[places]).max(axis=1)
            for of in (drawn, null.draw(OTHERS))
        )
        likeliest = np.sort(others)[-OTHERS // 8 :]
        p_values = np.array([tail_p_value(by_chance, float(one)) for one in likeliest])
        for level in hits:
            hits[level] += int(np.count_nonzero(p_values <= level))
    for level, count in hits.items():
        # What is drawn to compare with varies, too: as if each had a share that does by so much.
        spread = np.sqrt(level / DRAWN / 2 + level / OTHERS / 2)
        assert count / OTHERS / 2 <= level + stats.norm.isf(1e-6) * spread


@pytest.mark.parametrize("kind", ["ties", "zeros", "outliers", "lognormal", "missing"])
def test_a_rise_and_a_fall_are_each_as_probable_as_they_say(kind: str) -> None:
    # Of skewed values nearly all that is surprising goes one way: half of a p-value would be too little for it.
    random, windows = np.random.default_rng(3), 300
    baseline = make(arrow({"x": values(kind, 3000, random)}))
    sample = window(baseline, {"x": values(kind, 200, random)}).features["x"]
    null = FeatureNull(baseline.features["x"], [sample], [1], [200.0], random)
    hits = np.zeros((2, 2))
    for one in null.draw(windows):  # each could as well have been the window
        null.observed, null.signs = np.abs(one), np.sign(one)
        family = Family("x", null, AlarmRules(floors=False))
        family.find(0.05)
        for question, both in enumerate(family.signed):
            hits[question] += np.array(both) <= 0.05
    assert np.all(hits <= stats.binom.isf(1e-6, windows, 0.05))
