"""How often intervals hold and unchanged windows alarm."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from mooring.performance.bootstrap import intervals
from mooring.performance.judge import held_out, judge, judge_unknown_classes
from mooring.performance.measures import LabelledRows
from mooring.performance.permutation import p_value_of
from mooring.performance.selection import selection


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
        groups = np.arange(40)
        if kind == "errors":
            old, new = random.normal(size=200) ** 2, random.normal(size=40) ** 2
        elif kind == "heavy tails":
            old, new = random.standard_t(4, 200) ** 2, random.standard_t(4, 40) ** 2
        else:
            old = random.normal(size=200) ** 2
            new, groups = np.repeat(random.normal(size=40) ** 2, 5), np.repeat(groups, 5)
        alarms += p_value_of(old, new, groups, trial) <= budget
    interval = stats.binomtest(alarms, trials).proportion_ci(0.999)
    assert interval.low <= budget <= interval.high


def test_rows_of_a_request_that_are_not_alike_alarm_no_more_often_than_the_budget_says() -> None:
    """Heavy tails: a choice of the rows that stand for the others would be a lottery."""
    random = np.random.default_rng(5)
    groups = np.repeat(np.arange(100), 3)

    def heavy(rows: int) -> np.ndarray:
        return np.exp(3 * random.normal(size=rows))

    chances = [p_value_of(heavy(500), heavy(300), groups, trial) for trial in range(300)]
    assert np.sum(np.array(chances) <= 0.01) <= 9


BUDGET = 0.001
LOSSES = {
    "squared": lambda u: u**2,
    "squared, t3": lambda u: stats.t.ppf(stats.norm.cdf(u), 3) ** 2,
    "lognormal": lambda u: np.exp(2 * u),
    "log loss": lambda u: np.log1p(np.exp(-1.5 - 1.5 * u)),
    "10% errors": lambda u: (u > stats.norm.isf(0.1)) * 1.0,
    "2% errors": lambda u: (u > stats.norm.isf(0.02)) * 1.0,
}
"""Losses as functions of a normal variable, whose correlation within a request is given."""
CELLS = [(100, 1000, 10, 0.0), (100, 100, 10, 0.5), (1000, 30, 10, 0.3), (1000, 300, 3, 0.3), (5000, 100, 10, 0.0)]
"""Held-out rows, requests, rows of each, and how far these are alike."""
TRIALS = 350


def false_alarms(
    loss: str, old: int, requests: int, rows: int, alike: float, trials: int, seed: int = 0, budget: float = BUDGET
) -> int:
    """Return of how many unchanged windows the p-value is at most the budget."""
    random = np.random.default_rng([seed, old, requests, rows])
    groups = np.repeat(np.arange(requests), rows)
    alarms = 0
    for trial in range(trials):
        shared = np.repeat(random.normal(size=requests), rows)
        new = np.sqrt(alike) * shared + np.sqrt(1 - alike) * random.normal(size=requests * rows)
        alarms += (
            p_value_of(LOSSES[loss](random.normal(size=old)), LOSSES[loss](new), groups, trial, enough=budget)
            <= budget
        )
    return alarms


@pytest.mark.parametrize("loss", LOSSES)
def test_unchanged_windows_of_requests_of_several_rows_keep_to_the_budget(loss: str) -> None:
    """Printed with `-s`: of each cell the rate of false alarms and its 95 % interval."""
    total = 0
    for cell in CELLS:
        alarms = false_alarms(loss, *cell, TRIALS)
        low, high = stats.binomtest(alarms, TRIALS).proportion_ci(0.95, "exact")
        print("{:12} {:5} held out, {:4} requests of {:2}, {:.1f} alike:".format(loss, *cell), end=" ")
        print(f"{alarms / TRIALS:.4f} ({low:.4f} to {high:.4f})")
        assert stats.binomtest(alarms, TRIALS, BUDGET, alternative="greater").pvalue > 0.001
        total += alarms
    trials = TRIALS * len(CELLS)
    assert stats.binomtest(total, trials, BUDGET, alternative="greater").pvalue > 0.001


@pytest.mark.parametrize("kind", ["numbers", "classes"])
def test_labels_that_are_dealt_out_at_random_seldom_look_as_if_they_were_not(kind: str) -> None:
    random = np.random.default_rng(7)
    groups, trials, found = np.repeat(np.arange(100), 5), 600, 0
    for trial in range(trials):
        said = np.sqrt(0.7) * np.repeat(random.normal(size=100), 5) + np.sqrt(0.3) * random.normal(size=500)
        column = pa.array(said if kind == "numbers" else np.array(["a", "b", "c"])[np.digitize(said, [1, 2])])
        labelled = np.repeat(random.random(100) < 0.3, 5) if trial % 2 else random.random(500) < 0.3
        found += selection({"prediction": column}, labelled, groups).p_value <= 0.05
    assert stats.binomtest(found, trials, 0.05, alternative="greater").pvalue > 0.001


def test_rare_classes_that_held_out_rows_lack_by_chance_seldom_alarm() -> None:
    random = np.random.default_rng(8)
    shares = np.array([0.9, *np.full(20, 0.005)])
    trials, alarms = 2000, 0
    for _ in range(trials):
        old, new = (random.choice(21, size, p=shares) for size in (300, 1000))
        known = np.unique(old)
        order = np.concatenate([known, np.setdiff1d(np.arange(21), known)])
        place = np.argsort(order)
        names = tuple(map(str, order))
        before = held_out(LabelledRows(place[old], place[old] * 0, np.arange(300), None, names[: len(known)]), "")
        rows = LabelledRows(place[new], place[new] * 0, np.arange(1000), None, names, len(known))
        found = judge_unknown_classes(before, rows, 0.01, floors=False)
        alarms += found is not None and found.status != "ok"
    assert stats.binomtest(alarms, trials, 0.01, alternative="greater").pvalue > 0.001


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
