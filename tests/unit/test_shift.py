"""The score of a difference of means: about -ln of its probability by chance, however the values lie."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mooring.drift.null import split
from mooring.drift.shift import ShiftScores


@pytest.mark.parametrize(
    ("counts", "values"),
    [
        (np.full(200, 20), np.sort(np.random.default_rng(1).normal(size=200))),
        (np.array([3995, 5]), np.array([0.0, 1e4])),
    ],
)
def test_scores_grow_with_the_difference_and_can_be_turned_back(counts: np.ndarray, values: np.ndarray) -> None:
    scores = ShiftScores.of_pool(counts, values, 0.25)
    shifts = np.linspace(0, 3 * scores.shifts[-1], 200)
    assert np.all(np.diff(scores.of(shifts)) >= 0)
    for score in (2.0, 4.0, 6.0):
        least = scores.value(score)
        assert float(scores.of(least)) == pytest.approx(score, rel=1e-6)


@pytest.mark.parametrize("kind", ["normal", "lognormal", "cauchy", "outliers", "zeros"])
def test_the_score_of_a_difference_of_means_is_about_its_chance_whatever_the_values(kind: str) -> None:
    random = np.random.default_rng(11)
    values = {
        "normal": random.normal(size=400),
        "lognormal": random.lognormal(0, 2, 400),
        "cauchy": random.standard_cauchy(400),
        "outliers": np.append(random.normal(size=395), [1e4] * 5),
        "zeros": np.where(random.random(400) < 0.9, 0.0, random.lognormal(size=400)),
    }[kind]
    distinct, counts = np.unique(values, return_counts=True)
    drawn = split(np.tile(counts, (20_000, 1)), 100, random)
    shifts = np.abs(drawn @ distinct / 100 - (counts - drawn) @ distinct / 300)
    scores = ShiftScores.of_pool(counts, distinct, 0.25).of(shifts)
    for level in (2.0, 4.0):
        assert abs(math.log(np.mean(scores >= level)) + level) < 1.2


def test_odd_values_that_all_fall_into_the_window_are_no_surer_than_that() -> None:
    scores = ShiftScores.of_pool(np.array([3995, 5]), np.array([0.0, 1e4]), 0.25)
    assert float(scores.of(5 * 1e4 / 1000)) == pytest.approx(-5 * math.log(0.25), abs=0.1)


def test_values_without_any_difference_have_no_score() -> None:
    for counts in ([7], [0, 7], [0, 0]):
        scores = ShiftScores.of_pool(np.array(counts), np.arange(len(counts), dtype=float), 0.5)
        assert float(scores.of(0.0)) == 0.0
        assert np.isfinite(scores.of([0.5, 1e30])).all()
