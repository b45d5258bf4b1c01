"""What is said of features together: found where it changed, untold where nothing can be told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring.drift.columns import Column
from mooring.drift.joint import FEWEST_ROWS, MOST_FEATURES, JointShift, joint_shift
from mooring.drift.rank_scores import PooledScores

Columns = dict[str, Column]


def correlated(rng: np.random.Generator, rows: int, correlation: float, features: int = 4) -> Columns:
    values = rng.normal(size=(rows, features))
    values[:, 1] = correlation * values[:, 0] + np.sqrt(1 - correlation**2) * values[:, 1]
    return {f"x{at}": pa.array(values[:, at]) for at in range(features)}


def compared(reference: Columns, current: Columns, per_request: int = 1, seed: int = 0) -> JointShift:
    groups = [np.arange(len(next(iter(one.values())))) // per_request for one in (reference, current)]
    return joint_shift(reference, current, reference_groups=groups[0], current_groups=groups[1], seed=seed)


@pytest.mark.parametrize("rows", [200, 1000])
def test_a_correlation_that_turns_round_is_found_and_named(rows: int) -> None:
    rng = np.random.default_rng(rows)
    found = compared(correlated(rng, 2000, 0.6), correlated(rng, rows, -0.6))
    assert found.p_value is not None
    assert found.effect is not None
    assert found.p_value < 1e-6
    assert 0.45 < found.effect < 0.65
    assert set(found.features) == {"x0", "x1"}
    assert found.pairs[0].reference > 0.4 > -0.4 > found.pairs[0].current
    assert not found.reason


@pytest.mark.parametrize(
    "move",
    [
        lambda values: values + 3,
        lambda values: values * 10,
        lambda values: np.exp(values),
        lambda values: -7 + values**3,
    ],
)
def test_a_feature_that_moves_by_itself_changes_nothing(move: Any) -> None:
    rng = np.random.default_rng(3)
    reference, current = correlated(rng, 800, 0.8), correlated(rng, 500, 0.8)
    moved = {name: pa.array(move(column.to_numpy())) for name, column in current.items()}
    assert compared(reference, moved) == compared(reference, current)


def test_the_same_seed_gives_the_same_result() -> None:
    rng = np.random.default_rng(4)
    reference, current = correlated(rng, 500, 0.5), correlated(rng, 300, 0.4)
    assert compared(reference, current, seed=7) == compared(reference, current, seed=7)
    assert compared(reference, current, seed=7).p_value != compared(reference, current, seed=8).p_value


def test_a_curve_that_turns_round_is_found() -> None:
    rng = np.random.default_rng(5)
    sides = []
    for sign in (1, -1):
        x, noise = rng.normal(size=(2, 1000))
        sides.append(
            {"x": pa.array(x), "y": pa.array(sign * x**2 + noise), "other": pa.array(rng.normal(size=1000))}
        )
    found = compared(*sides)
    assert found.p_value is not None
    assert found.p_value < 1e-6
    assert set(found.features) == {"x", "y"}
    assert "the distance of x from its middle" in found.pairs[0].labels


def test_categories_that_exclude_each_other_where_they_went_together_are_found() -> None:
    rng = np.random.default_rng(6)
    sides = []
    for differs in (0.3, 0.7):
        a = rng.random(1000) < 0.5
        b = np.where(rng.random(1000) < differs, ~a, a)
        sides.append(
            {"a": pa.array(np.where(a, "yes", "no")), "b": pa.array(b), "x": pa.array(rng.normal(size=1000))}
        )
    found = compared(*sides)
    assert found.p_value is not None
    assert found.p_value < 1e-6
    assert set(found.features) == {"a", "b"}


def test_values_that_lack_where_another_feature_is_high_are_found() -> None:
    rng = np.random.default_rng(7)
    sides = []
    for depends in (False, True):
        x, y = rng.normal(size=(2, 1000))
        lacks = (x if depends else rng.normal(size=1000)) > 1
        sides.append({"x": pa.array(x), "y": pa.array(np.where(lacks, np.nan, y), from_pandas=True)})
    found = compared(*sides)
    assert found.p_value is not None
    assert found.p_value < 1e-6
    assert set(found.pairs[0].labels) == {"x", "y is missing"}


def test_rows_of_one_request_count_as_one() -> None:
    rng = np.random.default_rng(8)

    def side(requests: int, correlation: float) -> Columns:
        return {name: pa.array(np.repeat(one, 20)) for name, one in correlated(rng, requests, correlation).items()}

    reference, current = side(100, 0.3), side(50, 0.0)
    by_request, by_row = compared(reference, current, per_request=20), compared(reference, current)
    assert by_row.p_value is not None
    assert by_request.p_value is not None
    assert by_row.p_value < 1e-4 < 0.01 < by_request.p_value


def few_rows() -> tuple[Columns, Columns, int]:
    rng = np.random.default_rng(0)
    return correlated(rng, 500, 0.5), correlated(rng, FEWEST_ROWS - 1, 0.5), 1


def few_requests() -> tuple[Columns, Columns, int]:
    rng = np.random.default_rng(0)
    return correlated(rng, 500, 0.5), correlated(rng, 500, 0.5), 50


def no_rows() -> tuple[Columns, Columns, int]:
    empty = {name: pa.array([], pa.float64()) for name in ("x", "y")}
    return empty, empty, 1


def no_features() -> tuple[Columns, Columns, int]:
    values: Columns = {"x": pa.array(np.arange(500) / 2)}
    return values, {"y": values["x"]}, 1


def unusable() -> Columns:
    rng = np.random.default_rng(1)
    return {
        "x": pa.array(rng.normal(size=500)),
        "constant": pa.array([3.0] * 500),
        "nothing": pa.array([None] * 500, pa.float64()),
        "null": pa.nulls(500),
        "comment": pa.array([f"comment {at}" for at in range(500)]),
        "number": pa.array(range(500)),
        "day": pa.array(range(500), pa.int32()).cast(pa.date32()),
        "vector": pa.array([[1.0, 2.0]] * 500),
        "one": pa.array(["a"] * 500),
    }


def one_feature() -> tuple[Columns, Columns, int]:
    return unusable(), unusable(), 1


def many_features() -> tuple[Columns, Columns, int]:
    column = pa.array(np.random.default_rng(0).normal(size=200))
    columns: Columns = {f"x{at}": column for at in range(5000)}
    return columns, columns, 1


def constant_before() -> tuple[Columns, Columns, int]:
    rng = np.random.default_rng(2)
    return {name: pa.array([1.0] * 500) for name in ("x0", "x1")}, correlated(rng, 500, 0.5, features=2), 1


@pytest.mark.parametrize(
    ("sides", "reason"),
    [
        (few_rows, "the current sample has 99 rows, and 100 are the fewest that tell anything"),
        (few_requests, "the reference has rows of few requests, worth 10 of equal size; 30 are the fewest"),
        (no_rows, "the reference has 0 rows, and 100 are the fewest that tell anything"),
        (no_features, "fewer than two features can be compared"),
        (one_feature, "fewer than two features can be compared"),
        (constant_before, "no two features vary together in both samples"),
        (many_features, f"5,000 features are too many pairs: name at most {MOST_FEATURES}"),
    ],
)
def test_what_cannot_be_told_has_a_reason_and_no_numbers(sides: Any, reason: str) -> None:
    reference, current, per_request = sides()
    found = compared(reference, current, per_request)
    assert found.reason == reason
    assert (found.p_value, found.effect, found.pairs, found.features) == (None, None, [], [])


def test_each_column_that_is_no_feature_is_left_out_for_a_reason() -> None:
    reference, current, _ = one_feature()
    current["z"] = current["x"]
    assert compared(reference, current).left_out == {
        "z": "only one of the samples has it",
        "constant": "it has one value, or none but one often enough",
        "nothing": "it has no values",
        "null": "it has no values",
        "comment": "nearly each of its texts is another",
        "number": "it numbers the rows",
        "day": "it is date32[day], neither a number, nor a boolean, nor a category",
        "vector": "it is list<item: double>, neither a number, nor a boolean, nor a category",
        "one": "it has one value, or none but one often enough",
    }


def test_a_sample_compared_with_itself_shows_nothing() -> None:
    columns = correlated(np.random.default_rng(9), 300, 0.5)
    found = compared(columns, columns)
    assert found.p_value is not None
    assert found.p_value > 0.9
    assert found.effect == 0


def test_a_column_whose_length_is_not_that_of_the_groups_is_named() -> None:
    columns = correlated(np.random.default_rng(0), 500, 0.5)
    with pytest.raises(ValueError, match="x0 has 500 rows in the current sample, groups 499"):
        joint_shift(columns, columns, reference_groups=range(500), current_groups=range(499), seed=0)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_ranks_are_those_within_each_of_the_two_samples(data: st.DataObject) -> None:
    """Of values that both samples have, any division's scores are those of the divided samples by themselves."""
    seed = data.draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    distinct = data.draw(st.integers(2, 6))
    values = rng.integers(0, distinct, 200).astype(float)
    values[:distinct] = values[100 : 100 + distinct] = range(distinct)  # each of them in either sample
    values[rng.random(200) < data.draw(st.sampled_from([0.0, 0.3]))] = np.nan
    halves = [{"x": pa.array(one, from_pandas=True)} for one in (values[:100], values[100:])]
    chosen = rng.random(200) < 0.4
    pool = PooledScores(*halves, most=10)
    if not pool.labels or pool.labels[0] != "x":
        return
    for sample, side in zip(pool.divided(chosen), (values[~chosen], values[chosen]), strict=True):
        there = ~np.isnan(side)
        below = (side[there][:, None] > side[there]).sum(axis=1)
        alike = (side[there][:, None] == side[there]).sum(axis=1)
        expected = np.zeros(len(side))
        expected[there] = (2 * below + alike) / there.sum() - 1
        assert np.allclose(sample.scores[0], expected, atol=1e-6)
