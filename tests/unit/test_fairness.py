"""Fairness: rates by protected values against fairlearn, and what is said where there is little to compare.

The figures are those of fairlearn 0.15.0 (scikit-learn 1.9.1) on the same rows, which are made without any chance.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.performance.fairness import MISSING, OTHER, Fairness, fairness, growths
from mooring.performance.scored import LabelledRows, scored_of

AT = np.arange(1200)
SEX = np.array(["f", "m", "x"], object)[AT * 7 % 13 % 3]
HARD = np.select([SEX == "f", SEX == "m"], [5, 2], 3) > AT * 5 % 19
"""Rows that are predicted wrongly: more of f than of x, and more of x than of m."""

TWO = {
    "demographic_parity_difference": 0.03935041332004452,
    "demographic_parity_ratio": 0.9156253928346952,
    "equalized_odds_difference": 0.1679902052476746,
    "equalized_odds_ratio": 0.37636512846411213,
    "equal_opportunity_difference": 0.14152046783625727,
    "equal_opportunity_ratio": 0.8407894736842105,
    "accuracy_difference": 0.15706747962713252,
}
TWO_BY_GROUP = {
    "selection_rate": {"f": 0.46637744034707157, "m": 0.42702702702702705, "x": 0.43360433604336046},
    "true_positive_rate": {"f": 0.7473684210526316, "m": 0.8888888888888888, "x": 0.8344370860927153},
    "false_positive_rate": {"f": 0.2693726937269373, "m": 0.10138248847926268, "x": 0.1559633027522936},
    "accuracy": {"f": 0.737527114967462, "m": 0.8945945945945946, "x": 0.8401084010840109},
}
THREE = {
    "demographic_parity_difference": (0.00987328792206843, 0.01607792650594614, 0.007213022238682254),
    "demographic_parity_ratio": (0.9723248747638991, 0.9543634239946606, 0.9765830756899119),
    "equalized_odds_difference": (0.15240555376170484, 0.15365958053930662, 0.16666666666666674),
    "equalized_odds_ratio": (0.38013933863212634, 0.4121715076071922, 0.41475826972010177),
    "equal_opportunity_difference": (0.15240555376170484, 0.15365958053930662, 0.16666666666666674),
    "equal_opportunity_ratio": (0.8296643810898593, 0.8261220536002583, 0.8163265306122448),
}
"""Of each of three classes against the others."""
NUMBERS = {
    "mean_prediction_difference": 0.10220903830659911,
    "mae_difference": 0.3159516132184245,
    "bias_difference": 0.09841866256500406,
}
NUMBERS_BY_GROUP = {
    "mean_prediction": {"f": 0.8013015184381779, "m": 0.7984684684684685, "x": 0.9006775067750676},
    "mae": {"f": 0.47396963123644253, "m": 0.158018018018018, "x": 0.24701897018970193},
    "bias": {"f": 0.0006507592190889406, "m": -0.00018018018018017715, "x": 0.09823848238482388},
}


def _two(rows: np.ndarray | slice = slice(None)) -> LabelledRows:
    labels = (AT * 11 % 17 < 7).astype(np.int64)
    said = np.where(HARD, 1 - labels, labels)
    return scored_of(labels[rows], said[rows])


def _disparities(found: Fairness, of: str | None = None) -> dict[str, float]:
    return {one.measure: one.value for one in found.disparities if one.of in (of, None)}


def _by_group(found: Fairness) -> dict[str, dict[str, float]]:
    tables: dict[str, dict[str, float]] = {}
    for one in found.rates:
        tables.setdefault(one.measure, {})[one.group] = one.value
    return tables


def test_two_classes_have_the_figures_of_fairlearn() -> None:
    found = fairness(_two(), SEX, "sex")
    assert _disparities(found, "1") == pytest.approx(TWO, abs=1e-12)
    assert {name: pytest.approx(one, abs=1e-12) for name, one in TWO_BY_GROUP.items()} == _by_group(found)
    assert found.groups == {"f": 461, "m": 370, "x": 369}
    assert found.message == ""


def test_each_of_three_classes_has_the_figures_of_fairlearn_for_it_against_the_others() -> None:
    labels = AT * 11 % 17 % 3
    said = np.where(HARD, (labels + 1 + AT % 2) % 3, labels)
    found = fairness(scored_of(labels, said), SEX, "sex")
    for place, of in enumerate("012"):
        expected = {name: values[place] for name, values in THREE.items()}
        ours = {one.measure: one.value for one in found.disparities if one.of == of}
        assert ours == pytest.approx(expected, abs=1e-12)


def test_numbers_have_the_figures_of_fairlearn() -> None:
    labels = AT * 11 % 17 / 10
    spread = np.select([SEX == "f", SEX == "m"], [10, 30], 20)
    said = labels + (AT * 5 % 19 - 9) / spread + np.where(SEX == "x", 0.1, 0)
    found = fairness(scored_of(labels, said, task="regression"), SEX, "sex")
    assert _disparities(found) == pytest.approx(NUMBERS, abs=1e-12)
    assert {name: pytest.approx(one, abs=1e-12) for name, one in NUMBERS_BY_GROUP.items()} == _by_group(found)


def test_a_difference_says_between_which_groups_it_is() -> None:
    found = fairness(_two(), SEX, "sex")
    largest = {one.measure: (one.lowest, one.highest) for one in found.disparities}
    assert largest["accuracy_difference"] == ("f", "m")
    assert largest["equalized_odds_difference"] == ("m", "f")


def test_intervals_hold_the_figures_and_a_difference_that_is_certain_is_above_0() -> None:
    found = fairness(_two(), SEX, "sex")
    assert all(one.low is not None and one.low <= one.value <= (one.high or 0) for one in found.rates)
    assert all(one.low <= one.value <= one.high <= 1 for one in found.disparities)
    lows = {one.measure: one.low for one in found.disparities}
    assert lows["accuracy_difference"] > 0.05
    assert lows["demographic_parity_difference"] == 0


def test_rows_without_a_value_are_a_group_of_their_own() -> None:
    values = np.where(AT % 5 == 0, None, SEX)
    found = fairness(_two(), values, "sex")
    assert found.groups[MISSING] == 240
    assert MISSING in _by_group(found)["accuracy"]
    assert "240 of 1,200 rows have no value of sex" in found.message


def test_a_tiny_group_is_shown_and_not_compared() -> None:
    tiny = np.where(AT < 10, "tiny", SEX)
    found = fairness(_two(), tiny, "sex")
    others = _two(np.flatnonzero(AT >= 10))
    assert _disparities(found, "1") == _disparities(fairness(others, SEX[10:], "sex"), "1")
    (shown,) = (one for one in found.rates if one.group == "tiny" and one.measure == "accuracy")
    assert (shown.rows, shown.compared, shown.low) == (10, False, None)
    assert "tiny: fewer than 30 independent rows, so shown and not compared" in found.message


def test_a_rate_of_few_rows_is_not_compared_though_its_group_is_large() -> None:
    labels = np.where(SEX == "x", AT < 15, AT % 2 == 0)
    found = fairness(scored_of(labels.astype(int), (AT % 2 == 0).astype(int)), SEX, "sex")
    compared = {(one.group, one.measure): one.compared for one in found.rates}
    assert compared["x", "accuracy"]
    assert compared["x", "selection_rate"]
    assert not compared["x", "true_positive_rate"]
    assert "x: fewer than 30 independent rows for some rates" in found.message


def test_rows_of_few_requests_are_not_many_independent_ones() -> None:
    requests = AT // 100
    found = fairness(_two()._replace(groups=requests), SEX, "sex")
    assert found.disparities == ()
    assert "nothing to compare" in found.message


def test_one_group_alone_has_rates_and_nothing_to_compare() -> None:
    found = fairness(_two(), ["f"] * len(AT), "sex")
    assert found.disparities == ()
    assert {one.measure for one in found.rates} == set(TWO_BY_GROUP)
    assert found.message == "fewer than two groups have enough rows, so there is nothing to compare"


def test_a_column_of_which_no_value_is_known_is_said_so() -> None:
    found = fairness(_two(), [None] * len(AT), "sex")
    assert found.message == "no row has a value of sex"


def test_rare_values_of_many_are_one_group_that_is_not_compared() -> None:
    many = np.where(AT % 2 == 0, SEX, [f"town {at % 50}" for at in AT])
    found = fairness(_two(), many, "town")
    assert OTHER in found.groups
    assert len(found.groups) == 20
    assert OTHER not in {name for one in found.disparities for name in (one.lowest, one.highest)}


def test_no_rows_are_said_to_be_none() -> None:
    assert fairness(_two(np.array([], np.int64)), [], "sex").message == "no row has a label and a prediction"


def test_values_of_another_number_of_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="3 values of 1200 rows"):
        fairness(_two(), ["f"] * 3, "sex")


def test_a_ratio_of_rates_that_are_all_0_is_left_out_and_one_of_0_to_something_is_0() -> None:
    labels = AT % 2
    never = fairness(scored_of(labels, np.zeros(len(AT), int)), SEX, "sex")
    assert _disparities(never, "1")["demographic_parity_difference"] == 0
    assert "demographic_parity_ratio" not in _disparities(never, "1")
    only_m = fairness(scored_of(labels, (SEX == "m").astype(int)), SEX, "sex")
    (ratio,) = (one for one in only_m.disparities if one.measure == "demographic_parity_ratio")
    assert (ratio.value, ratio.low) == (0, 0)
    assert 0 < ratio.high < 0.2


def test_a_group_whose_rows_are_all_right_is_not_certain_to_be_so() -> None:
    labels = np.zeros(40, int)
    found = fairness(LabelledRows(labels, labels, np.arange(40), None, ("a", "b")), ["f"] * 40, "sex")
    (accuracy,) = (one for one in found.rates if one.measure == "accuracy")
    assert accuracy.value == accuracy.high == 1
    assert accuracy.low is not None
    assert 0.85 < accuracy.low < 0.95


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 2), st.integers(0, 2), st.integers(0, 9)),
        min_size=1,
        max_size=60,
    )
)
def test_rates_are_what_counting_rows_gives(rows: list[tuple[str | None, int, int, int]]) -> None:
    values, labels, said, requests = (list(one) for one in zip(*rows, strict=True))
    codes = np.unique(requests, return_inverse=True)[1]
    scored = LabelledRows(np.array(labels), np.array(said), codes, None, ("x", "y", "z"))
    for one in fairness(scored, values, "column", draws=20).rates:
        own = [
            (label, guess)
            for value, label, guess in zip(values, labels, said, strict=True)
            if (MISSING if value is None else value) == one.group
        ]
        of = "xyz".index(one.of) if one.of else -1
        among = {
            "accuracy": [label == guess for label, guess in own],
            "selection_rate": [guess == of for _, guess in own],
            "true_positive_rate": [guess == of for label, guess in own if label == of],
            "false_positive_rate": [guess == of for label, guess in own if label != of],
        }[one.measure]
        assert one.rows == len(among)
        assert one.value == pytest.approx(np.mean(among))


def test_the_same_seed_gives_the_same() -> None:
    assert fairness(_two(), SEX, "sex") == fairness(_two(), SEX, "sex")


def test_growth_is_what_a_second_model_adds_to_a_difference_and_to_a_groups_errors() -> None:
    scored = _two()
    right = scored._replace(predictions=scored.labels)
    found = {(one.measure, one.group): one for one in growths(right, scored, SEX)}
    odds = found["equalized_odds_difference", None]
    assert (odds.before, odds.after) == (0, pytest.approx(TWO["equalized_odds_difference"]))
    assert odds.growth == pytest.approx(TWO["equalized_odds_difference"])
    assert found["accuracy", "f"].growth == pytest.approx(1 - TWO_BY_GROUP["accuracy"]["f"])
    assert np.quantile(odds.draws, 0.01) > 0
    assert all(one.growth == 0 for one in growths(scored, scored, SEX))


def test_growth_of_numbers_is_a_share_of_the_first_models_error() -> None:
    labels = AT * 11 % 17 / 10
    old = scored_of(labels, labels + np.where(AT % 2 == 0, 1.0, -1.0), task="regression")
    new = scored_of(
        labels, labels + np.where(AT % 2 == 0, 1.0, -1.0) * np.where(SEX == "f", 1.5, 1), task="regression"
    )
    found = {(one.measure, one.group): one.growth for one in growths(old, new, SEX)}
    assert found["mae", "f"] == pytest.approx(0.5)
    assert found["mae", "m"] == pytest.approx(0)
    assert found["mae_difference", None] == pytest.approx(0.5)


def test_growth_of_other_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="not of the same rows"):
        growths(_two(), _two(np.flatnonzero(AT < 100)), SEX)
