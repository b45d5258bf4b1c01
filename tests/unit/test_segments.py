"""Where it got worse: the segment that is found, how it reads, and when there is none."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mooring.estimation import EstimationError
from mooring.estimation.conditions import Among, Range, between
from mooring.estimation.loss_model import LossRows
from mooring.estimation.segments import worst_segment
from planted_segments import f1_of

COUNTRIES = np.array(["DE", "ES", "FR", "IT", "PL"])


def table(
    count: int,
    seed: int,
    *,
    more: float = 0.0,
    everywhere: float = 0.0,
    missing: float = 0.0,
    share: float = 0.2,
    labelled: bool = True,
) -> tuple[LossRows, np.ndarray]:
    """Return rows whose loss is more where age > 41.5 in DE and FR, and which of them are there."""
    random = np.random.default_rng(seed)
    age = random.uniform(20, 60, count)
    country = random.choice(COUNTRIES, count, p=[share, (1 - 2 * share) / 3, share, *[(1 - 2 * share) / 3] * 2])
    inside = (age > 41.5) & np.isin(country, ["DE", "FR"])
    losses = random.exponential(1 + everywhere + more * inside)
    age[random.random(count) < missing] = np.nan
    features = {"age": pa.array(age, from_pandas=True), "country": pa.array(country)}
    features |= {f"x{at}": pa.array(random.normal(size=count)) for at in range(3)}
    return LossRows(features, losses if labelled else None), inside


@pytest.fixture(scope="module")
def held_out() -> LossRows:
    return table(1000, 0)[0]


def test_a_planted_segment_is_found_and_read(held_out):
    window, inside = table(1000, 1, more=3.0)
    found = worst_segment(held_out, window)
    assert found.confirmed
    assert f1_of(found.segment.contains(window.features), inside) > 0.9
    age, country = found.segment.conditions
    assert age.startswith("age > 4")
    assert country == "country in {DE, FR}"
    assert found.rows == found.segment.contains(window.features).sum()
    assert found.losses.inside > 2 * found.losses.inside_before
    assert found.effect.lower > 1
    assert str(found).startswith(f"{age} and country in {{DE, FR}}: {found.rows} rows")


def test_a_window_that_is_worse_everywhere_alike_has_none(held_out):
    assert not worst_segment(held_out, table(1000, 2, everywhere=2.0)[0]).confirmed


def test_an_unchanged_window_has_none(held_out):
    found = worst_segment(held_out, table(1000, 3)[0])
    assert not found.confirmed
    assert str(found).startswith(("Not confirmed: ", "No segment got worse"))


def test_what_is_missing_is_a_condition_too():
    random = np.random.default_rng(4)

    def rows(more: float) -> LossRows:
        x = random.normal(size=1000)
        lost = random.random(1000) < 0.2
        losses = random.exponential(1 + more * lost)
        return LossRows({"x": pa.array(np.where(lost, np.nan, x), from_pandas=True)}, losses)

    found = worst_segment(rows(0.0), rows(4.0))
    assert found.confirmed
    assert found.segment.conditions == ["x is missing"]


def test_without_labels_it_is_where_moved_inputs_led_to():
    random = np.random.default_rng(5)

    def rows(low: float) -> LossRows:
        x = random.uniform(low, 1, 1000)
        return LossRows(
            {"x": pa.array(x), "y": pa.array(random.normal(size=1000))}, random.exponential(0.2 + 2 * x)
        )

    before, now = rows(0.0), rows(0.4)
    found = worst_segment(before, now._replace(losses=None))
    assert found.confirmed
    assert not found.measured
    assert "estimated loss" in str(found)
    assert found.segment.conditions[0].startswith("x > ")
    assert found.share > found.share_before
    assert not worst_segment(before, rows(0.0)._replace(losses=None)).confirmed


def test_without_labels_rows_where_no_held_out_row_was_are_not_told(held_out):
    window, _ = table(600, 6, labelled=False)
    age = pa.array(window.features["age"].to_numpy() + 500)
    found = worst_segment(table(1000, 6, more=3.0)[0], window._replace(features={**window.features, "age": age}))
    assert found.segment is None
    assert str(found).startswith("Can't tell: ")


def test_a_request_is_on_one_side_of_the_split(held_out):
    window, _ = table(300, 7, more=3.0)
    several = LossRows(
        {name: pa.concat_arrays([column] * 4) for name, column in window.features.items()},
        np.tile(window.losses, 4),
        np.tile(np.arange(300), 4),
    )
    once, four = worst_segment(held_out, window), worst_segment(held_out, several)
    assert four.p_value > once.p_value / 10
    assert four.effect.upper - four.effect.lower > 0.7 * (once.effect.upper - once.effect.lower)


@pytest.mark.parametrize(
    ("old", "new", "says"), [(150, 400, "150 held-out"), (400, 150, "150 rows of the window")]
)
def test_too_few_rows_are_said(old, new, says):
    with pytest.raises(EstimationError, match=f"{says}.* are too few to search by one half"):
        worst_segment(table(old, 0)[0], table(new, 1)[0])


def test_conditions_hold_where_they_say():
    matrix = np.array([[1.0, 0.0], [2.0, 1.0], [np.nan, np.nan]])
    assert Range(0, low=1.5).holds(matrix).tolist() == [False, True, False]
    assert Range(0, high=1.5, missing=True).holds(matrix).tolist() == [True, False, True]
    assert Range(0, high=-np.inf, missing=True).holds(matrix).tolist() == [False, False, True]
    assert Among(1, frozenset([1])).holds(matrix).tolist() == [False, True, False]
    assert Among(1, frozenset([1]), negated=True).holds(matrix).tolist() == [True, False, True]
    assert Among(1, frozenset([0, -1])).told("c", ["a", "b"]) == "c in {a, missing or new}"


@pytest.mark.parametrize(
    ("low", "high"), [(0.1, 0.2), (-5.0, -4.999), (1e-9, 2e-9), (3.0, 3.0000000001), (0, 1e9)]
)
def test_a_limit_lies_between_what_it_parts(low, high):
    assert low <= between(low, high) < high
