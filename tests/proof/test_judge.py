"""How often the judgement alarms when nothing has changed."""

from __future__ import annotations

import numpy as np
from scipy import stats

from judging import BARE, arrow, window, wine_like
from mooring.drift.baseline import make
from mooring.drift.judge import judge


def test_chance_is_uniform_when_nothing_has_changed() -> None:
    random = np.random.default_rng(1)
    found = []
    for seed in range(240):
        baseline = make(arrow({"x": np.round(random.exponential(size=200), 1)}))
        sample = window(baseline, {"x": np.round(random.exponential(size=60), 1)})
        found.append(judge(baseline, [sample], BARE, seed=seed).p_value)
    for level in (0.05, 0.2, 0.5):
        hits = sum(chance <= level for chance in found)
        assert stats.binom.ppf(1e-7, len(found), level * 0.7) <= hits <= stats.binom.isf(1e-7, len(found), level)


def test_an_unchanged_window_seldom_alarms_whatever_it_holds() -> None:
    random = np.random.default_rng(2)
    alarms = 0
    for seed in range(40):
        baseline = make(arrow(wine_like(random, 1000)))
        windows = [window(baseline, wine_like(random, 150)) for _ in range(4)]
        alarms += bool(judge(baseline, windows, BARE, seed=seed).alarms)
    assert alarms <= 3  # each has a chance of 1 in 1,000, so four of 40 have 1 in 10 million
