"""A feature's statistics: what the windows show, and draws of the same."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mooring.drift import measures
from mooring.drift.baseline import Baseline, make
from mooring.drift.judge import values_of
from mooring.drift.measure_table import MEASURES
from mooring.drift.profile import Profile, profile
from mooring.drift.statistics import MERGED, FeatureNull


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
        assert seen["mean_shift", scale] == pytest.approx(abs(values["mean_shift"]), abs=0.01)  # by cells' means
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


def test_the_mean_of_values_out_of_range_is_known_in_either_direction() -> None:
    random = np.random.default_rng(5)
    for far in (1e6, -1e6):
        baseline = make({"x": pa.array(random.normal(size=2000))})
        one = window(baseline, [*random.normal(size=398), far, far / 2])
        seen = dict(zip(null_of(baseline, one).statistics, null_of(baseline, one).observed, strict=True))
        feature = baseline.features["x"]
        [value] = [one.value for one in values_of("x", feature, one.features["x"]) if one.measure == "mean_shift"]
        assert seen["mean_shift", 1] == pytest.approx(abs(value), rel=1e-4)


def test_a_measure_weighs_what_the_table_says_and_merged_windows_less() -> None:
    baseline = make({"x": pa.array(np.arange(500.0))})
    null = null_of(baseline, window(baseline, [1.0]), window(baseline, [1.0]))
    weights = dict(zip(null.statistics, np.exp(null.log_weights), strict=True))
    for (measure, scale), weight in weights.items():
        test = MEASURES[measure].test
        assert test is not None
        assert weight == pytest.approx(test.weight * (1.0 if scale == 1 else MERGED))


def test_what_is_missing_is_a_question_of_its_own_where_anything_ever_is() -> None:
    random = np.random.default_rng(6)
    values = random.normal(size=1000)
    complete = make({"x": pa.array(values)})
    assert len(null_of(complete, window(complete, values[:200])).questions) == 1
    assert len(null_of(complete, window(complete, [*values[:200], np.nan])).questions) == 2
    some = make({"x": pa.array([*values, np.nan])})
    null = null_of(some, window(some, values[:200]), window(some, values[200:400]))
    of_values, of_rows = ([null.statistics[at].measure for at in one] for one in null.questions)
    assert set(of_rows) == {"null_rate"}
    assert "null_rate" not in of_values


def test_the_score_of_a_shift_is_about_its_chance_in_merged_windows_too() -> None:
    random = np.random.default_rng(7)
    baseline = make({"x": pa.array(random.normal(size=1000))})
    merged = pa.array(random.normal(size=1500))
    null = null_of(baseline, window(baseline, random.normal(size=500)), window(baseline, merged))
    drawn = null.draw(4000)
    for at, (statistic, score) in enumerate(zip(null.statistics, null.scores(drawn), strict=True)):
        if statistic.measure == "mean_shift":
            assert abs(np.log(np.mean(score.of(drawn[:, at]) >= 4.0)) + 4.0) < 0.7


@pytest.mark.parametrize("rate", [0.01, 0.3, 5.0])
def test_the_score_of_ks_is_about_its_chance_where_values_are_few(rate: float) -> None:
    random = np.random.default_rng(8)
    baseline = make({"x": pa.array(random.poisson(rate, 3000).astype(float))})
    null = null_of(baseline, window(baseline, random.poisson(rate, 1000).astype(float)))
    drawn = null.draw(8000)
    scores = null.scores(drawn)[0].of(drawn[:, 0])
    chance = np.mean(scores[:, None] <= scores[None, :8000:8], axis=0)
    for score, share in zip(scores[::8], 1 - chance, strict=True):
        if 0.002 < share < 0.05:
            assert abs(score + np.log(share)) < 1.5
