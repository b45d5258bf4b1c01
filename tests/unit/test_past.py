"""What is usual by past windows: no p-value that so many of them can't show, no more alarms than the budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mooring.drift.baseline import PastStatistics
from mooring.drift.measure_table import MEASURES
from mooring.drift.past import find_in_past, least_p_value, windows_needed
from mooring.drift.statistics import MERGED, Statistic

MEASURED = ("ks", "js", "mean_shift", "out_of_range_rate", "null_rate")


class Window:
    def __init__(self, statistics: list[Statistic], observed: np.ndarray) -> None:
        self.statistics, self.observed = statistics, observed
        tests = [MEASURES[one.measure].test for one in statistics]
        weights = [test.weight if test else 0.0 for test in tests]
        merged = [1.0 if one.scale == 1 else MERGED for one in statistics]
        self.log_weights = np.log(np.array(weights) * merged)


def least(windows: dict[str, np.ndarray], scales: tuple[int, ...], budget: float) -> float:
    """Return the p-value of the last row of each feature's statistics, judged by those before it."""
    statistics = [Statistic(measure, scale) for scale in scales for measure in MEASURED]
    names = [tuple(one) for one in statistics]
    past = {name: PastStatistics(names, rows[:-1]) for name, rows in windows.items()}
    here = {name: Window(statistics, rows[-1]) for name, rows in windows.items()}
    found = find_in_past(here, past, budget).values()
    return min((one.joint for of_feature in found for one in of_feature.values()), default=1.0)


def stream(random: np.random.Generator, count: int, scales: tuple[int, ...]) -> np.ndarray:
    """Return statistics of windows, alone and merged with those before them: skewed ones, and rare ones."""
    of_one = np.abs(random.normal(size=(count + scales[-1], len(MEASURED)))) * 0.03
    of_one[:, 3] = random.poisson(0.5, len(of_one)) / 1000
    sums = np.cumsum(np.vstack([np.zeros(len(MEASURED)), of_one]), axis=0)
    return np.hstack([((sums[scale:] - sums[:-scale]) / scale)[-count - 1 :] for scale in scales])


@given(st.integers(1, 60), st.floats(0, np.inf), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_no_p_value_is_less_than_so_many_windows_can_show(windows: int, value: float, seed: int) -> None:
    rows = {name: stream(np.random.default_rng([seed, at]), windows, (1,)) for at, name in enumerate("xyz")}
    rows["x"][-1] = value
    found = least(rows, (1,), 0.001)
    assert least_p_value(windows) * (1 - 1e-9) <= found <= 1.0


def test_a_window_beyond_all_past_ones_has_the_least() -> None:
    rows = {name: stream(np.random.default_rng(at), 99, (1,)) for at, name in enumerate("xyz")}
    for at in range(len(MEASURED)):
        for value in (5.0, np.inf):
            far = {name: one.copy() for name, one in rows.items()}
            far["y"][-1, at] = value
            assert least(far, (1,), 0.01) == pytest.approx(0.01)


def test_one_like_all_others_is_nothing_unusual() -> None:
    assert least({"x": np.full((51, len(MEASURED)), 0.02)}, (1,), 0.05) == 1.0
    assert least({"x": np.zeros((51, len(MEASURED)))}, (1,), 0.05) == 1.0


def test_merged_windows_that_overlap_count_once() -> None:
    # Of 100 windows there are 25 times four: at 0.05 these show nothing, and cost nothing.
    random = np.random.default_rng(3)
    rows = {"x": stream(random, 100, (1, 4))}
    rows["x"][-1, len(MEASURED)] = 9.0
    assert least(rows, (1, 4), 0.05) > 0.05
    many = {"x": stream(random, 1000, (1, 4))}
    many["x"][-1, len(MEASURED)] = 9.0
    assert least(many, (1, 4), 0.05) == pytest.approx(11 / 251)


def test_how_many_windows_a_budget_takes() -> None:
    for budget in (0.05, 0.01, 0.001, 0.3):
        needed = windows_needed(budget)
        assert least_p_value(needed) <= budget < least_p_value(needed - 1)


@pytest.mark.parametrize(("windows", "scales"), [(30, (1,)), (100, (1,)), (400, (1, 4))])
def test_unchanged_windows_alarm_no_more_than_the_budget(windows: int, scales: tuple[int, ...]) -> None:
    random, count = np.random.default_rng(windows), 300
    for budget in (0.05, 0.01):
        hits = sum(
            least({name: stream(random, windows, scales) for name in "xyz"}, scales, budget) <= budget
            for _ in range(count)
        )
        assert hits <= stats.binom.isf(1e-6, count, budget)
