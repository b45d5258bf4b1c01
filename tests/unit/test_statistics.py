"""A feature's statistics: what the windows show, and draws of the same."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mooring.drift import measures
from mooring.drift.baseline import Baseline, make
from mooring.drift.judge import values_of
from mooring.drift.profile import Profile, profile
from mooring.drift.statistics import FeatureNull


def window(baseline: Baseline, values: object) -> Profile:
    return profile([pa.table({"x": pa.array(values)})], baseline.grids)


def null_of(baseline: Baseline, *windows: Profile, effective: list[float] | None = None) -> FeatureNull:
    scales = [1, 4, 16][: len(windows)]
    worth = effective or [float(rows) for rows in np.cumsum([one.rows for one in windows])]
    increments = [one.features["x"] for one in windows]
    return FeatureNull(baseline.features["x"], increments, scales, worth, np.random.default_rng(0))


def test_what_is_seen_are_the_measures_of_the_window_alone_and_merged() -> None:
    random = np.random.default_rng(1)
    baseline = make({"x": pa.array(random.normal(size=2000))})
    first, before = (window(baseline, random.normal(0.3, 1, 300)) for _ in range(2))
    null = null_of(baseline, first, before)
    seen = dict(zip(null.statistics, null.observed, strict=True))
    for scale, one in ((1, first), (4, first + before)):
        values = {
            result.measure: result.value
            for result in values_of("x", baseline.features["x"], one.features["x"], scale)
        }
        assert seen["js", scale] == pytest.approx(values["js"], abs=1e-6)
        assert seen["ks", scale] == pytest.approx(values["ks"], abs=0.02)  # on fewer cells
        assert seen["out_of_range_rate", scale] == pytest.approx(values["out_of_range_rate"])


def test_categories_are_measured_by_name_and_new_ones_too() -> None:
    baseline = make({"x": pa.array(["a", "b", "c"] * 100)})
    null = null_of(baseline, window(baseline, ["a", "b", "new", "newer"] * 10))
    seen = {one.measure: float(value) for one, value in zip(null.statistics, null.observed, strict=True)}
    assert seen["new_category_rate"] == pytest.approx(0.5)
    exact = measures.js([100, 100, 100, 0, 0], [10, 10, 0, 10, 10])
    assert seen["js"] == pytest.approx(float(exact), abs=1e-6)


def test_the_null_rate_is_its_difference_in_either_direction() -> None:
    baseline = make({"x": pa.array([1.0, 2.0, 3.0, None] * 50)})
    for values, difference in (([1.0, None], 0.25), ([1.0, 2.0, 3.0, 2.5], 0.25), ([1.0, 2.0, 3.0, None], 0.0)):
        null = null_of(baseline, window(baseline, values * 10))
        seen = {one.measure: float(value) for one, value in zip(null.statistics, null.observed, strict=True)}
        assert seen["null_rate"] == pytest.approx(difference)


@pytest.mark.parametrize(
    "values", [[1.0] * 500, [None, 1.0] * 250, ["a"] * 500, [True, False] * 250, [0.0] * 499 + [1.0]]
)
def test_statistics_are_drawn_of_whatever_values_there_are(values: list[object]) -> None:
    baseline = make({"x": pa.array(values)})
    null = null_of(baseline, window(baseline, values[:50]), window(baseline, values[:100]))
    drawn = null.draw(300)
    assert drawn.shape == (300, len(null.statistics))
    assert np.isfinite(drawn).all()
    for scores, of, seen in zip(null.scores(drawn), drawn.T, null.observed, strict=True):
        assert np.isfinite(scores.of(of)).all()
        assert np.isfinite(scores.of(seen)).all()


def test_a_window_is_drawn_with_as_many_rows_as_it_is_worth() -> None:
    random = np.random.default_rng(2)
    baseline = make({"x": pa.array(random.normal(size=2000))})
    one = window(baseline, random.normal(size=1000))
    many, few = (null_of(baseline, one, effective=[worth]).draw(300).mean(axis=0) for worth in (1000.0, 40.0))
    assert few[0] > 3 * many[0]


def test_random_numbers_are_used_only_once_something_is_drawn() -> None:
    baseline = make({"x": pa.array(["a", "b", "c"] * 500)})
    random = np.random.default_rng(4)
    before = random.bit_generator.state
    one = window(baseline, ["a", "b", "c"] * 100).features["x"]
    null = FeatureNull(baseline.features["x"], [one], [1], [30.0], random)  # worth less: the pool takes a sample
    assert random.bit_generator.state == before
    null.draw(1)
    assert random.bit_generator.state != before


def test_no_chance_is_less_than_that_of_just_what_was_seen() -> None:
    baseline = make({"x": pa.array([0.0] * 999_999)}, kinds={"x": "numeric"})
    null = null_of(baseline, window(baseline, [0.0] * 999 + [5.0]))
    assert null.least_p_value() == pytest.approx(1000 / 1_000_999)
    both = null_of(baseline, window(baseline, [0.0] * 998 + [5.0, 5.0]))
    assert both.least_p_value() == pytest.approx(1e-6, rel=0.01)
    coin = make({"x": pa.array([0.0, 1.0] * 500)}, kinds={"x": "numeric"})
    assert null_of(coin, window(coin, [0.0])).least_p_value() == pytest.approx(0.5, rel=0.01)


def test_the_drawn_distance_is_that_of_the_measure() -> None:
    random = np.random.default_rng(3)
    baseline = make({"x": pa.array(random.integers(0, 300, 3000).astype(str))})
    null = null_of(baseline, window(baseline, random.integers(0, 300, 200).astype(str)))
    seen = dict(zip(null.statistics, null.observed, strict=True))["js", 1]
    feature = baseline.features["x"]
    exact = {one.measure: one.value for one in values_of("x", feature, window(baseline, ["1"]).features["x"], 1)}
    assert exact.keys() >= {"js", "new_category_rate", "null_rate"}
    drawn = null.draw(500)[:, 0]
    assert drawn.min() < seen < drawn.max()
