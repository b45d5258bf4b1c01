"""How often intervals hold and unchanged windows alarm."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mooring.performance.bootstrap import intervals
from mooring.performance.judge import held_out, judge, of_requests, p_value_of
from mooring.performance.measures import LabelledRows


def test_intervals_cover_what_they_should() -> None:
    random = np.random.default_rng(0)
    inside = {"rmse": 0, "bias": 0}
    trials = 600
    for trial in range(trials):
        errors = random.normal(0.1, 1.0, 400)
        found = intervals(LabelledRows(np.zeros(400), errors, np.arange(400)), draws=400, seed=trial)
        for name, truth in (("rmse", np.sqrt(1.01)), ("bias", 0.1)):
            inside[name] += found[name][0] <= truth <= found[name][1]
    for count in inside.values():
        assert 0.92 < count / trials < 0.98


@pytest.mark.parametrize("kind", ["errors", "heavy tails", "in requests"])
def test_unchanged_windows_alarm_as_often_as_the_budget_says(kind: str) -> None:
    random = np.random.default_rng(2)
    trials, budget = 2000 if kind == "errors" else 1000, 0.05
    alarms = 0
    for trial in range(trials):
        if kind == "errors":
            old, new = random.normal(size=200) ** 2, random.normal(size=40) ** 2
        elif kind == "heavy tails":
            old, new = random.standard_t(4, 200) ** 2, random.standard_t(4, 40) ** 2
        else:
            old = random.normal(size=200) ** 2
            new = of_requests(np.repeat(random.normal(size=40) ** 2, 5), np.repeat(np.arange(40), 5))
        alarms += p_value_of(old, new, trial) <= budget
    interval = stats.binomtest(alarms, trials).proportion_ci(0.999)
    assert interval.low <= budget <= interval.high


def test_rows_of_a_request_that_are_not_alike_alarm_no_more_often_than_the_budget_says() -> None:
    """Heavy tails: a choice of the rows that stand for the others would be a lottery."""
    random = np.random.default_rng(5)
    groups = np.repeat(np.arange(100), 3)

    def heavy(rows: int) -> np.ndarray:
        return np.exp(3 * random.normal(size=rows))

    chances = [
        p_value_of(
            np.exp(3 * random.normal(size=500)), of_requests(np.exp(3 * random.normal(size=300)), groups), trial
        )
        for trial in range(300)
    ]
    assert np.sum(np.array(chances) <= 0.01) <= 9


def test_errors_that_are_only_counted_never_alarm_too_often() -> None:
    random = np.random.default_rng(3)
    chances = [p_value_of((random.random(500) < 0.2) * 1.0, (random.random(100) < 0.2) * 1.0) for _ in range(2000)]
    assert (
        stats.binomtest(int(np.sum(np.array(chances) <= 0.05)), 2000, alternative="greater", p=0.05).pvalue > 0.001
    )
    assert np.mean(np.array(chances) <= 0.05) > 0.02


def test_all_looks_at_a_window_whose_labels_trickle_in_keep_to_the_budget() -> None:
    random = np.random.default_rng(4)
    trials, budget, alarmed = 400, 0.2, 0
    for trial in range(trials):
        before = held_out(LabelledRows(np.zeros(200), random.normal(size=200), np.arange(200)), "")
        rows = LabelledRows(np.zeros(90), random.normal(size=90), np.arange(90))
        looks = ((40, 1), (60, 2), (90, 3))
        alarmed += any(
            judge(before, rows.only(np.arange(count)), budget / 2**look, trial, floors=False).status != "ok"
            for count, look in looks
        )
    assert stats.binomtest(alarmed, trials, alternative="greater", p=budget).pvalue > 0.001
    assert alarmed / trials > budget / 4
