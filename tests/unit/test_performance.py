"""Performance of labelled rows: the measures against scikit-learn, intervals and alarms against simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from mooring.performance.bootstrap import intervals, paired
from mooring.performance.judge import effective_rows, held_out, judge, judge_unknown_classes
from mooring.performance.measures import LabelledRows, evaluate, losses, primary, scored_of, task_of, weighted
from mooring.performance.permutation import p_value_of
from mooring.performance.scored import UnscorableError
from mooring.performance.selection import selection


def _groups(random: np.random.Generator, rows: int) -> np.ndarray:
    """Return requests of 1 to 4 rows."""
    return np.repeat(np.arange(rows), random.integers(1, 5, rows))[:rows]


def _regression(random: np.random.Generator, rows: int = 300) -> LabelledRows:
    labels = 100 + random.normal(size=rows)
    return scored_of(labels, labels + random.normal(0.2, 0.5, rows), _groups(random, rows))


def _classes(random: np.random.Generator, names: list[str], rows: int = 400, digits: int = 2) -> LabelledRows:
    """Return rows whose probabilities have few digits, so that there are ties."""
    labels = random.choice(names, rows)
    logits = random.normal(size=(rows, len(names))) + 1.5 * (labels[:, None] == np.array(names))
    shares = np.round(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), digits)
    shares[:, -1] = 1 - shares[:, :-1].sum(axis=1)
    columns = {name: shares[:, at] for at, name in enumerate(names)}
    return scored_of(labels, columns, _groups(random, rows))


def _by_sklearn(scored: LabelledRows) -> dict[str, float]:
    truth, said = scored.labels, scored.predictions
    if scored.classes is None:
        return {
            "rmse": metrics.root_mean_squared_error(truth, said),
            "mae": metrics.mean_absolute_error(truth, said),
            "r2": metrics.r2_score(truth, said),
            "bias": float(np.mean(said - truth)),
        }
    two = len(scored.classes) == 2
    how = {"average": "binary" if two else "macro", "zero_division": 0}
    shares = scored.probabilities
    assert shares is not None
    named = list(range(len(scored.classes)))
    return {
        "accuracy": metrics.accuracy_score(truth, said),
        "precision": metrics.precision_score(truth, said, **how),
        "recall": metrics.recall_score(truth, said, **how),
        "f1": metrics.f1_score(truth, said, **how),
        "log_loss": metrics.log_loss(truth, shares, labels=named),
        "brier": (
            metrics.brier_score_loss(truth, shares[:, 1])
            if two
            else float(((shares - np.eye(len(named))[truth]) ** 2).sum(axis=1).mean())
        ),
        "roc_auc": (
            metrics.roc_auc_score(truth, shares[:, 1])
            if two
            else metrics.roc_auc_score(truth, shares, multi_class="ovr", labels=named)
        ),
    }


def _cases() -> list[LabelledRows]:
    random = np.random.default_rng(0)
    return [
        _regression(random),
        _classes(random, ["0", "1"]),
        _classes(random, ["no", "yes"], digits=1),
        _classes(random, ["5", "6", "7", "10"]),
        _classes(random, ["red", "rosé", "white"], digits=1),
    ]


@pytest.mark.parametrize("scored", _cases(), ids=["regression", "0/1", "ties", "numbers", "texts"])
def test_measures_are_those_of_scikit_learn(scored: LabelledRows) -> None:
    assert evaluate(scored) == pytest.approx(_by_sklearn(scored), abs=1e-9)


@pytest.mark.parametrize("scored", _cases(), ids=["regression", "0/1", "ties", "numbers", "texts"])
def test_a_weight_is_how_often_the_rows_of_a_request_count(scored: LabelledRows) -> None:
    random = np.random.default_rng(1)
    weights = random.integers(0, 4, (5, int(scored.groups.max()) + 1))
    found = weighted(scored, weights)
    for draw, times in enumerate(weights):
        rows = np.repeat(np.arange(scored.rows), times[scored.groups])
        assert {name: one[draw] for name, one in found.items()} == pytest.approx(
            _by_sklearn(scored.only(rows)), abs=1e-9
        )


def test_measures_that_rows_do_not_define_are_left_out() -> None:
    same = scored_of([5.5, 5.5], [5.25, 5.75])
    assert set(evaluate(same)) == {"rmse", "mae", "bias"}
    one_class = scored_of([1, 1, 1], [0.9, 0.8, 0.2], classes=("0", "1"))
    assert "roc_auc" not in evaluate(one_class)
    assert evaluate(one_class)["accuracy"] == pytest.approx(2 / 3)
    assert evaluate(scored_of(np.array([]), np.array([]), task="regression")) == {}


@pytest.mark.parametrize(
    ("labels", "predictions", "task"),
    [
        ([5, 6, 7], [5.2, 6.0, 6.9], "regression"),
        ([5, 6, 7], [5.0, 6.0, 7.0], "classification"),
        (np.arange(100), np.arange(100), "regression"),
        (["a", "b"], ["a", "a"], "classification"),
        ([True, False], [True, True], "classification"),
    ],
)
def test_the_task_follows_from_labels_and_predictions(labels, predictions, task: str) -> None:
    assert task_of(labels, predictions) == task


def test_outputs_of_many_forms_are_understood() -> None:
    random = np.random.default_rng(0)
    labels = random.choice(["a", "b"], 50)
    share = np.where(labels == "b", 0.7, 0.2)
    both = np.stack([1 - share, share], axis=1)
    said = np.where(share > 0.5, "b", "a")
    forms = {
        "columns of the log": pa.StructArray.from_arrays(
            [pa.array(1 - share), pa.array(share)], ["prediction.a", "prediction.b"]
        ),
        "array": both,
        "lists": pa.array(both.tolist()),
        "lists as the log has them": pa.array([str(one) for one in both.tolist()]),
        "frame": pd.DataFrame({"prediction": said, "probability": share}),
        "frame with each": pd.DataFrame({"label": said, "proba_a": 1 - share, "proba_b": share}),
        "mapping": {"prediction": said.tolist(), "probabilities": both.tolist()},
    }
    for name, form in forms.items():
        scored = scored_of(labels, form)
        assert scored.classes == ("a", "b"), name
        assert scored.probabilities == pytest.approx(both), name
        assert primary(scored) == "log_loss"
    assert primary(scored_of(labels, pd.Series(said))) == "accuracy"
    assert primary(scored_of([1.5, 2.5], np.array([[1.0], [2.0]]))) == "rmse"


def test_labels_of_0_and_1_make_numbers_between_probabilities() -> None:
    scored = scored_of([0, 1, 1], [0.25, 0.75, 0.5])
    assert scored.classes == ("0", "1")
    assert scored.predictions.tolist() == [0, 1, 0]
    assert scored_of([0, 1, 1], [0.25, 0.75, 0.5], task="regression").classes is None


def test_a_boolean_and_a_number_name_the_same_class() -> None:
    # The log has labels of both kinds as doubles.
    scored = scored_of(pa.array([1.0, 0.0, 1.0]), pa.array([True, False, False]))
    assert evaluate(scored)["accuracy"] == pytest.approx(2 / 3)


def test_rows_without_a_label_or_a_prediction_are_left_out() -> None:
    scored = scored_of([1.5, None, 2.5, 3.5], [1.0, 2.0, None, 3.0], np.array([7, 7, 8, 9]))
    assert (scored.labels.tolist(), scored.groups.tolist()) == ([1.5, 3.5], [0, 1])


def test_a_class_that_training_never_saw_is_wrong() -> None:
    scored = scored_of(["a", "c"], {"a": [0.9, 0.6], "b": [0.1, 0.4]}, classes=("a", "b"))
    assert scored.classes == ("a", "b", "c")
    assert evaluate(scored)["accuracy"] == 0.5
    assert losses(scored)[1] > 30


def _with_unknown(rows: int, unknown: int) -> LabelledRows:
    """Return rows of which nine in ten are right, and some of a class that the baseline lacks."""
    truth = np.arange(rows) % 2
    says = np.where(np.arange(rows) % 10 == 9, 1 - truth, truth)
    labels = np.where(np.arange(rows) < unknown, "c", np.array(["a", "b"])[truth])
    share = np.where(says == 1, 0.8, 0.2)
    found = scored_of(labels, {"a": 1 - share, "b": share}, classes=("a", "b"))
    return found._replace(known=2)


def test_classes_that_the_baseline_never_had_are_left_out_of_log_loss_and_area_and_counted() -> None:
    without, some = _with_unknown(400, 0), _with_unknown(400, 20)
    rest = some.only(~some.unknown)
    found = evaluate(some)
    assert evaluate(without)["unknown_class_rate"] == 0
    assert found["unknown_class_rate"] == 0.05
    assert found["log_loss"] == pytest.approx(metrics.log_loss(rest.labels, rest.probabilities[:, :2]))
    assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(rest.labels, rest.probabilities[:, 1]))
    assert found["accuracy"] == pytest.approx(np.mean(some.labels == some.predictions))
    assert found["precision"] == pytest.approx(
        metrics.precision_score(some.labels, some.predictions, labels=[1], average="macro")
    )
    low, high = intervals(some, draws=200)["log_loss"]
    assert low < found["log_loss"] < high < 1
    assert "unknown_class_rate" not in evaluate(without._replace(known=None))


def test_a_class_that_the_baseline_never_had_does_not_make_the_log_loss_alarm() -> None:
    before = held_out(_with_unknown(3000, 0), "test set")
    rows = _with_unknown(400, 20)
    found = judge(before, rows, 0.001)
    assert (found.measure, found.status) == ("log_loss", "ok")
    assert found.value == pytest.approx(found.reference, rel=0.1)
    unknown = judge_unknown_classes(before, rows, 0.001)
    assert (unknown.status, unknown.rate, unknown.classes) == ("critical", 0.05, ("c",))
    # Twenty rows of one request may be one event.
    at_once = rows._replace(groups=np.maximum(np.arange(400) - 19, 0))
    assert judge_unknown_classes(before, at_once, 0.001).status == "ok"
    assert judge_unknown_classes(before, _with_unknown(400, 1), 0.001).status == "ok"
    assert judge_unknown_classes(before, _with_unknown(400, 0), 0.001) is None


def test_labels_of_which_none_is_a_class_of_the_baseline_are_refused_not_wrong() -> None:
    with pytest.raises(UnscorableError, match="no class in common: labels are no, yes, the classes"):
        scored_of(["yes", "no"], {"0": [0.9, 0.6], "1": [0.1, 0.4]}, classes=("0", "1"))


def test_a_few_texts_among_numbers_are_left_out_of_a_regression() -> None:
    labels = ["1.5", " 2e0", "unknown", "-3"]
    scored = scored_of(labels, [1.0, 2.0, 3.0, 4.0], task="regression")
    assert scored.labels.tolist() == [1.5, 2.0, -3.0]
    with pytest.raises(UnscorableError, match="predicts numbers"):
        scored_of(["good", "1", "bad"], [1.0, 2.0, 3.0], task="regression")


def test_infinite_predictions_and_nested_ones_are_no_classes() -> None:
    scored = scored_of([0, 1], [np.inf, 1.0], classes=("0", "1"))
    assert evaluate(scored)["accuracy"] == 0.5
    with pytest.raises(UnscorableError, match="neither a number"):
        scored_of([0, 1], ['[["a"]]', '[["a"]]'])


def test_texts_without_end_are_too_many_for_classes() -> None:
    names = [f"{number}" for number in range(8000)]
    with pytest.raises(UnscorableError, match="too many for classes"):
        scored_of(["1", *(f"label {name}" for name in names[1:])], names, task="classification")


def test_predictions_beyond_all_bounds_are_critical() -> None:
    """Their squares are infinite, which nothing is larger than."""
    random = np.random.default_rng(0)
    labels = random.normal(size=600)
    before = held_out(scored_of(labels, labels + random.normal(size=600)), "")
    for huge in (1e200, -1.7e308):
        scored = scored_of(labels, np.full(600, huge))
        assert np.isfinite(list(evaluate(scored).values())).all()
        assert judge(before, scored, 0.001).status == "critical"
        assert intervals(scored, draws=20)["rmse"][0] > 1e40


def test_of_many_classes_only_the_area_has_no_interval() -> None:
    random = np.random.default_rng(0)
    shares = random.dirichlet(np.ones(500), 500)
    scored = LabelledRows(np.arange(500), shares.argmax(1), np.arange(500), shares, tuple(map(str, range(500))))
    found = intervals(scored, draws=500)
    assert "roc_auc" in evaluate(scored)
    assert found.keys() == evaluate(scored).keys() - {"roc_auc"}


@pytest.mark.parametrize(
    ("labels", "output", "message"),
    [
        ([1.5, 2.5], {"low": [1.0, 2.0], "high": [3.0, 4.0]}, "call that one prediction"),
        ([1.5], [1.0, 2.0], "another number of rows"),
        (["a", "x"], {"x": [0.5, 0.1], "y": [0.5, 0.9]}, None),
        (["a", "b"], {"x": [0.5, 0.1], "y": [0.5, 0.9]}, "no class in common"),
    ],
)
def test_what_can_not_be_compared_is_refused_with_the_reason(labels, output, message: str | None) -> None:
    if message is None:
        assert scored_of(labels, output).classes == ("a", "x", "y")
        return
    with pytest.raises(UnscorableError, match=message):
        scored_of(labels, output)


def test_rows_of_one_request_are_drawn_together() -> None:
    random = np.random.default_rng(0)
    errors = np.repeat(random.normal(size=40), 10)
    wide = intervals(LabelledRows(np.zeros(400), errors, np.repeat(np.arange(40), 10)))["bias"]
    narrow = intervals(LabelledRows(np.zeros(400), errors, np.arange(400)))["bias"]
    assert (wide[1] - wide[0]) > 2.5 * (narrow[1] - narrow[0])


def test_pairs_tell_what_intervals_do_not() -> None:
    random = np.random.default_rng(0)
    labels, noise = random.normal(size=300), random.standard_t(4, 300)
    worse = scored_of(labels, labels + noise, task="regression")
    better = scored_of(labels, labels + 0.95 * noise, task="regression")
    assert paired(worse, better, "rmse", draws=500) == pytest.approx(0.05)
    assert intervals(worse)["rmse"][0] < evaluate(better)["rmse"]
    with pytest.raises(ValueError, match="same rows"):
        paired(worse, better.only(np.arange(10)), "rmse")


def test_a_model_that_does_worse_alarms_and_how_much_says_how_badly() -> None:
    random = np.random.default_rng(0)

    def scored(noise: float, rows: int = 2000) -> LabelledRows:
        labels = random.normal(size=rows)
        return LabelledRows(labels, labels + random.normal(0, noise, rows), np.arange(rows))

    before = held_out(scored(1.0, 20_000), "test set")
    assert (before.measure, before.task, before.rows, len(before.losses)) == ("rmse", "regression", 20_000, 5000)
    assert judge(before, scored(1.0), 0.001).status == "ok"
    assert judge(before, scored(0.5), 0.001).status == "ok"
    assert judge(before, scored(1.15), 0.001).status == "warning"
    assert judge(before, scored(1.5), 0.001).status == "critical"
    # Certain, but too little to matter.
    rows = scored(1.0, 20_000)
    before = held_out(rows, "test set")
    slight = rows._replace(predictions=rows.labels + 1.045 * (rows.predictions - rows.labels))
    assert judge(before, slight, 0.01).status == "ok"
    assert judge(before, slight, 0.01, floors=False).status == "warning"


def test_of_classes_without_probabilities_errors_are_judged() -> None:
    random = np.random.default_rng(0)
    with_shares = _classes(random, ["a", "b"], rows=2000)
    without = with_shares._replace(probabilities=None)
    before = held_out(with_shares, "test set")
    assert before.measure == "log_loss"
    assert judge(before, without, 0.001).measure == "accuracy"
    flipped = without._replace(
        predictions=np.where(random.random(2000) < 0.3, 1 - without.predictions, without.predictions)
    )
    found = judge(before, flipped, 0.001)
    assert (found.status, found.measure) == ("critical", "accuracy")
    assert found.change > 0.25


def test_few_held_out_rows_and_many_rows_a_request_do_not_alarm_without_a_change() -> None:
    """Held-out rows that happen to be a little better than usual: request means vary far less than they do."""
    random = np.random.default_rng(0)
    old = random.normal(size=100) ** 2
    old *= 0.75 / old.mean()  # 1.8 standard errors below the mean of 1
    new, groups = random.normal(size=10_000) ** 2, np.repeat(np.arange(1000), 10)
    assert 0.005 < p_value_of(old, new, groups) < 0.1


def test_requests_of_equal_rows_count_as_one_row_each() -> None:
    random = np.random.default_rng(0)
    old, new = random.exponential(size=500), random.exponential(1.6, size=60)
    one = p_value_of(old, new, enough=0.001)
    ten = p_value_of(old, np.repeat(new, 10), np.repeat(np.arange(60), 10), enough=0.001)
    assert ten == pytest.approx(one, rel=0.3)
    assert p_value_of(old, random.exponential(1.6, size=600), np.repeat(np.arange(60), 10)) < one / 10


def test_losses_that_are_all_equal_are_no_worse() -> None:
    equal = np.full(500, 0.1)
    assert p_value_of(equal, equal[:90], np.repeat(np.arange(30), 3)) == 1
    assert p_value_of(np.zeros(100), np.repeat([1.0, 0.0], [30, 0])) < 1e-6


@given(sizes=st.lists(st.integers(1, 12), min_size=2, max_size=40), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_requests_of_any_sizes_give_a_p_value_that_their_order_does_not_change(sizes, seed) -> None:
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    old, new = random.exponential(size=50), random.exponential(size=len(groups))
    found = p_value_of(old, new, groups)
    assert 0 < found <= 1
    mixed = np.argsort(random.random(len(groups)))
    assert p_value_of(old, new[mixed], groups[mixed]) == pytest.approx(found, abs=0.2)


def test_labels_that_follow_the_prediction_are_not_random_and_those_dealt_out_are() -> None:
    random = np.random.default_rng(0)
    said = np.where(random.random(1000) < 0.1, "poor", "fine")
    columns = {"prediction": pa.array(said), "colour": pa.array(random.choice(["red", "white"], 1000))}
    each, ten = np.arange(1000), np.repeat(np.arange(100), 10)
    dealt = random.random(1000) < 0.1
    by_request = np.repeat(random.random(100) < 0.3, 10)
    assert selection(columns, dealt, each).p_value > 0.05
    assert selection(columns, by_request, ten).p_value > 0.05
    poor_first = dealt & (random.random(1000) < 0.3) | (said == "poor")
    assert selection(columns, poor_first, each) == (pytest.approx(0, abs=1e-6), "prediction")
    # Within each request, too.
    assert selection(columns, poor_first, ten).p_value < 1e-6
    assert selection(columns, columns["colour"].to_numpy(zero_copy_only=False) == "red", each).column == "colour"


def test_labels_of_all_rows_or_of_what_nothing_is_known_of_can_not_be_other_than_random() -> None:
    columns = {"prediction": pa.array(np.arange(50.0))}
    everything = np.ones(50, np.bool_)
    assert selection(columns, everything, np.arange(50)).p_value == 1
    assert selection({"prediction": pa.array([[1.0]] * 50)}, np.arange(50) < 9, np.arange(50)).p_value == 1
    assert selection({"prediction": pa.nulls(50)}, np.arange(50) < 9, np.arange(50)).p_value == 1
    # A single request of which the first rows have labels, and these are the smallest.
    assert selection(columns, np.arange(50) < 25, np.zeros(50, np.int64)).p_value < 0.001


def test_rows_of_one_request_count_for_less() -> None:
    assert effective_rows(LabelledRows(np.zeros(6), np.zeros(6), np.array([0, 0, 0, 1, 2, 3]))) == pytest.approx(
        3.0
    )
