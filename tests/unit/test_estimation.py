"""Performance without labels: what `mooring.estimate` says, of what, and when it says that it can't."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.metrics import brier_score_loss

import mooring
from mooring.estimation import EstimationError, Estimator
from mooring.performance.measures import evaluate, scored_of
from moved_tables import classes, numbers

SHARED = Path(__file__).parents[3] / "shared"
CLASS_MEASURES = ["log_loss", "brier", "accuracy", "precision", "recall", "f1", "roc_auc"]


def table(rows: int, seed: int, shift: float = 0.0, name: str = "weaker above") -> pd.DataFrame:
    sample = classes(name, rows, np.random.default_rng(seed), shift)
    frame = pd.DataFrame({name: column.to_numpy() for name, column in sample.features.items()})
    return frame.assign(
        y_pred=sample.output["prediction"], score=sample.output["probability"], y_true=sample.labels
    )


@pytest.fixture(scope="module")
def held_out() -> pd.DataFrame:
    return table(3000, 0)


@pytest.fixture(scope="module")
def moved() -> pd.DataFrame:
    return table(1500, 1, shift=1.0)


def estimated(reference: Any, current: Any, **given: Any) -> pd.DataFrame:
    return mooring.estimate(reference, current, **given).to_pandas().set_index("measure")


def test_a_shift_into_a_region_where_the_model_errs_is_estimated(held_out, moved):
    found = mooring.estimate(held_out, moved.drop(columns="y_true"), probabilities="score")
    assert found.by_features
    assert [one.measure for one in found.estimates] == CLASS_MEASURES
    accuracy = found["accuracy"]
    realised = (moved.y_true == moved.y_pred).mean()
    assert accuracy.realised is None
    assert accuracy.held_out == pytest.approx((held_out.y_true == held_out.y_pred).mean())
    assert abs(accuracy.estimated - realised) < 0.5 * abs(accuracy.held_out - realised)


def test_the_result_is_a_row_for_each_measure(held_out, moved):
    rows = mooring.estimate(held_out, moved, probabilities="score").to_pandas()
    assert list(rows) == ["measure", "estimated", "lower", "upper", "realised", "out_of_support"]
    assert (rows.lower <= rows.estimated).all()
    assert (rows.estimated <= rows.upper).all()
    realised = rows.set_index("measure").realised
    assert realised["accuracy"] == pytest.approx((moved.y_true == moved.y_pred).mean())
    assert realised["brier"] == pytest.approx(brier_score_loss(moved.y_true, moved.score))


def test_tables_of_any_make_give_the_same(held_out, moved, tmp_path):
    expected = estimated(held_out, moved, probabilities="score")
    held_out.to_parquet(tmp_path / "reference.parquet")
    moved.to_parquet(tmp_path / "current.parquet")
    for reference, current in (
        (pl.from_pandas(held_out), pl.from_pandas(moved)),
        (pa.Table.from_pandas(held_out), pa.Table.from_pandas(moved)),
        (tmp_path / "reference.parquet", str(tmp_path / "current.parquet")),
    ):
        pd.testing.assert_frame_equal(estimated(reference, current, probabilities="score"), expected)
    both = {"reference": held_out.assign(other=1 - held_out.score), "current": moved.assign(other=1 - moved.score)}
    by_class = estimated(*both.values(), probabilities={0: "other", 1: "score"}, features=list(held_out)[:5])
    pd.testing.assert_frame_equal(by_class, expected)


def test_without_features_a_shift_that_scores_do_not_show_is_not_seen_and_the_text_says_what_is_assumed(
    held_out, moved
):
    found = mooring.estimate(held_out, moved, probabilities="score", features=[])
    assert not found.by_features
    assert "accuracy" in found.refuted
    assert "Labels lie outside of the interval of" in str(found)
    assert "Assumed: " in str(found)


def test_features_that_say_nothing_of_errors_are_not_used():
    random = np.random.default_rng(3)
    scores = random.random(4000)
    labels = (random.random(4000) < scores).astype(int)
    output = {"prediction": (scores > 0.5).astype(int), "probability": scores}
    noise = {f"noise {at}": pa.array(random.normal(size=4000)) for at in range(10)}
    with_noise = Estimator.fit(labels, output, noise).estimate(output, noise)
    assert not with_noise.by_features
    alone = Estimator.fit(labels, output).estimate(output)
    assert [one.estimated for one in with_noise.estimates] == [one.estimated for one in alone.estimates]


def test_concept_shift_is_not_seen_nor_called_harmless_until_labels_refute_it(held_out):
    same = table(1500, 2)
    flipped = same.assign(y_true=np.where(same.x0 > 0.5, 1 - same.y_true, same.y_true))
    before = mooring.estimate(held_out, flipped.drop(columns="y_true"), probabilities="score")
    assert "concept shift" in str(before)
    assert "harmless" not in str(before)
    assert before.refuted == []
    after = mooring.estimate(held_out, flipped, probabilities="score")
    assert [one.estimated for one in after.estimates] == [one.estimated for one in before.estimates]
    assert {"accuracy", "f1", "roc_auc"} <= set(after.refuted)
    assert "Go by what was measured" in str(after)


def test_classes_without_probabilities(held_out, moved):
    found = mooring.estimate(held_out.drop(columns="score"), moved.drop(columns="score"))
    assert [one.measure for one in found.estimates] == ["accuracy", "precision", "recall", "f1"]
    accuracy = found["accuracy"]
    assert abs(accuracy.estimated - accuracy.realised) < 0.5 * abs(accuracy.held_out - accuracy.realised)


def three(rows: int, seed: int, low: float = 0.0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    x = random.uniform(low, 3, size=rows)
    names = np.array(["bad", "fair", "good"])
    said = np.minimum(x.astype(int), 2)
    right = random.random(rows) < np.where(x > 2, 0.6, 0.95)
    truth = np.where(right, said, random.integers(3, size=rows))
    shares = {f"p {name}": np.where(said == at, 0.8, 0.1) for at, name in enumerate(names)}
    return pd.DataFrame({"x": x, "y_pred": names[said], "y_true": names[truth], **shares})


@pytest.mark.parametrize("given", [None, {"bad": "p bad", "fair": "p fair", "good": "p good"}])
def test_several_classes(given):
    reference, current = three(3000, 0), three(1000, 1, low=1.0)
    found = mooring.estimate(reference, current, probabilities=given, features=["x"])
    assert [one.measure for one in found.estimates] == (CLASS_MEASURES if given else CLASS_MEASURES[2:6])
    assert not {"accuracy", "f1", "recall"} & set(found.refuted)


def test_errors_of_a_regression():
    random = np.random.default_rng(0)
    held_out, window = numbers(3000, random), numbers(1500, random, shift=0.7)
    found = held_out.estimator().estimate(window.output, window.features, labels=window.labels)
    assert [one.measure for one in found.estimates] == ["rmse", "mae", "r2", "bias"]
    for measure, share in (("mae", 0.5), ("rmse", 0.7)):
        one = found[measure]
        assert abs(one.estimated - one.realised) < share * abs(one.held_out - one.realised)


def test_a_measure_of_ones_own(held_out, moved):
    def share_right(labels: Any, predictions: Any) -> float:
        return float((labels == predictions).mean())

    found = mooring.estimate(held_out, moved, probabilities="score", metrics={"right": share_right})
    assert found["right"].realised == found["accuracy"].realised
    assert found["right"].estimated == pytest.approx(found["accuracy"].estimated, abs=0.003)
    assert found["right"].lower < found["right"].estimated < found["right"].upper


def test_requests_whose_rows_are_right_or_wrong_together_make_intervals_wider():
    random = np.random.default_rng(0)

    def sample(requests: int) -> pd.DataFrame:
        right = np.repeat(random.random(requests) < 0.8, 10)
        said = random.integers(2, size=10 * requests)
        frame = pd.DataFrame({"y_pred": said, "y_true": np.where(right, said, 1 - said)})
        return frame.assign(request=np.repeat(np.arange(requests), 10).astype(str))

    reference, current = sample(300), sample(100)
    alike = mooring.estimate(reference, current, groups="request")["accuracy"]
    apart = mooring.estimate(reference, current, features=[])["accuracy"]
    assert 2.5 < (alike.upper - alike.lower) / (apart.upper - apart.lower) < 4  # √10 is 3.2


def test_out_of_support_is_told_and_beyond_a_limit_no_number_is(held_out):
    window = table(1000, 5)
    part = window.assign(x3=np.where(np.arange(1000) < 150, 9.0, window.x3))
    some = mooring.estimate(held_out, part, probabilities="score")
    assert 0.13 < some.out_of_support < 0.17
    assert not some.unknown
    most = mooring.estimate(held_out, window.assign(x3=window.x3 + 9), probabilities="score")
    assert most.out_of_support > 0.95
    assert most["accuracy"].estimated is None
    assert most["accuracy"].realised is not None
    assert most.to_pandas()[["estimated", "lower", "upper"]].isna().all(axis=None)
    assert str(most).startswith("Can't tell: ")


def test_a_class_that_no_held_out_row_is_predicted_to_be_is_out_of_support():
    reference, current = three(2000, 0), three(500, 1)
    current.loc[:49, "y_pred"] = "awful"
    found = mooring.estimate(reference, current.drop(columns="y_true"), features=["x"])
    assert found.out_of_support >= 0.1
    assert not found.unknown


def test_columns_that_can_not_be_features_are_left_out(held_out, moved):
    def more(frame: pd.DataFrame, day: str) -> pd.DataFrame:
        return frame.assign(id=np.arange(len(frame)), at=pd.Timestamp(day), note=[f"n{at}" for at in frame.index])

    found = mooring.estimate(more(held_out, "2026-01-01"), more(moved, "2026-02-01"), probabilities="score")
    assert set(found.left_out) == {"id", "at", "note"}
    assert [one.estimated for one in found.estimates] == [
        one.estimated for one in mooring.estimate(held_out, moved, probabilities="score").estimates
    ]


BAD: dict[str, tuple[Any, Any, str]] = {
    "no labels": (lambda frame: frame.drop(columns="y_true"), None, "the reference has no column y_true"),
    "labels all null": (lambda frame: frame.assign(y_true=None), None, "the reference has no value in y_true"),
    "five rows": (lambda frame: frame[:5], None, "5 held-out rows with labels, of 5 requests, are too few"),
    "five current rows": (None, lambda frame: frame[:5], "5 rows with what the model said are too few"),
    "one class": (lambda frame: frame.assign(y_true=1), None, "all held-out rows are of one class, 1"),
    "predictions all null": (None, lambda frame: frame.assign(y_pred=None), "has no value in y_pred"),
    "no probabilities": (None, lambda frame: frame.assign(score=np.nan), "has no value in score"),
    "scores for probabilities": (lambda frame: frame.assign(score=9 * frame.score), None, "between 0 and 1"),
    "labels of another type": (
        lambda frame: frame.assign(y_true=np.where(frame.y_true == 1, "yes", "no")),
        None,
        "no class in common",
    ),
    "a feature of another type": (None, lambda frame: frame.assign(x1="high"), "x1 is .*, and a number in"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_sentence(case, held_out, moved):
    old, new, message = BAD[case]
    reference = old(held_out) if old else held_out
    current = new(moved) if new else moved
    with pytest.raises(ValueError, match=message):
        mooring.estimate(reference, current, probabilities="score")


def test_constant_predictions_without_anything_else_say_so(held_out, moved):
    frames = [frame[["y_true"]].assign(y_pred=1) for frame in (held_out, moved)]
    with pytest.raises(EstimationError, match="all held-out rows have the same prediction"):
        mooring.estimate(*frames)


def test_a_regression_without_an_error_says_so():
    frame = pd.DataFrame({"x": np.arange(300.0), "y_pred": np.arange(300) / 7, "y_true": np.arange(300) / 7})
    with pytest.raises(EstimationError, match="every held-out prediction equals its label"):
        mooring.estimate(frame, frame)


def test_of_many_features_those_that_go_with_errors_are_taken():
    random = np.random.default_rng(0)

    def wide(rows: int, seed: int) -> pd.DataFrame:
        noise = pd.DataFrame(random.normal(size=(rows, 300))).add_prefix("noise ")
        return pd.concat([noise, table(rows, seed, name="lower above")], axis=1)

    found = mooring.estimate(wide(2000, 0), wide(300, 1), probabilities="score")
    assert len(found.left_out) == 205
    assert "x1" not in found.left_out
    assert "of 305 features the 100 are taken" in next(iter(found.left_out.values()))


def test_brier_of_several_classes_is_the_sum_over_classes():
    labels = np.array([0, 1, 2])
    shares = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.25, 0.25]])
    scored = scored_of(labels, shares)
    expected = ((shares - np.eye(3)[labels]) ** 2).sum(axis=1).mean()
    assert evaluate(scored)["brier"] == pytest.approx(expected)


@pytest.mark.skipif(
    not (SHARED / "oracle/estimates.json").is_file(), reason="../shared has no oracle/estimates.json"
)
@pytest.mark.parametrize(
    ("name", "stem", "label", "given"),
    [
        ("work_home", "work_home", "work_home_actual", {"probabilities": "y_pred_proba"}),
        pytest.param("used cars", "used_cars", "y_true", {}, marks=pytest.mark.proof),
    ],
)
def test_errors_are_at_most_those_of_nannyml(name, stem, label, given):
    sets = json.loads((SHARED / "oracle/estimates.json").read_text())["sets"]
    oracle = next(one for title, one in sets.items() if title.startswith(name))
    read = [pd.read_parquet(SHARED / f"data/estimate/{stem}_{part}.parquet") for part in ("reference", "analysis")]
    read = [frame.drop(columns=["id", "timestamp"]) for frame in read]
    features = [one for one in read[0] if one not in ("y_pred", "y_pred_proba", label)]

    def parts(frame: pd.DataFrame) -> tuple[dict[str, Any], dict[str, pa.Array]]:
        output = {"prediction": frame.y_pred}
        if "probabilities" in given:
            output["probability"] = frame.y_pred_proba
        return output, {one: pa.array(frame[one]) for one in features}

    reference, analysis = read
    estimator = Estimator.fit(reference[label], *parts(reference))
    chunks = [analysis[at : at + 5000] for at in range(0, len(analysis), 5000)]
    found = [estimator.estimate(*parts(chunk)) for chunk in chunks]
    for measure, one in oracle["metrics"].items():
        apart = [abs(e[measure].estimated - true) for e, true in zip(found, one["realised"], strict=True)]
        assert np.mean(apart) <= one["mae"], measure
