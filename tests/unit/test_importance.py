"""Importances by permutation, and that they order what drifted without judging it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.inspection import permutation_importance as by_sklearn

import mooring
from mooring.comparison import evaluated
from mooring.comparison.importance import permutation_importance
from mooring.performance.scored import scored_of


def _table(rows: int = 800, seed: int = 0, moved: float = 0.0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "alcohol": random.normal(10 + moved, 1, rows),
            "sugar": random.normal(5 + moved, 1, rows),
            "colour": pd.Categorical(random.choice(["red", "white"], rows)),
        }
    )


def _predict(table: pd.DataFrame) -> np.ndarray:
    return np.asarray(4 * table["alcohol"] + table["sugar"] + 2 * (table["colour"] == "red"), float)


def _evaluation(seed: int = 1) -> tuple[Any, Any, pd.DataFrame]:
    table = _table(seed=seed)
    noise = np.random.default_rng(seed).normal(0, 0.5, len(table))
    return _predict(table) + noise, _predict(table), table


def test_importances_are_the_shares_that_the_coefficients_say() -> None:
    made = mooring.baseline(_table(), evaluation=_evaluation(), model=_predict)
    found = {name: one.importance for name, one in made.features.items()}
    # The squared error grows by 2 variances of what a column adds: 2·16, 2·1, and 2·4/4 of a fair coin.
    assert found["prediction"] is None
    assert sum(one for one in found.values() if one is not None) == pytest.approx(1)
    assert found["alcohol"] == pytest.approx(16 / 18, abs=0.02)
    assert found["sugar"] == pytest.approx(1 / 18, abs=0.01)
    assert found["colour"] == pytest.approx(1 / 18, abs=0.01)


@pytest.mark.parametrize("classes", [False, True])
def test_importances_are_those_of_scikit_learn(classes: bool) -> None:
    random = np.random.default_rng(5)
    inputs = random.normal(size=(1500, 4))
    level = inputs @ [3.0, 1.0, 0.3, 0.0] + random.normal(0, 0.5, 1500)
    labels = (level > 0).astype(int) if classes else level
    forest = (RandomForestClassifier if classes else RandomForestRegressor)(50, random_state=0)
    model = forest.fit(inputs[:700], labels[:700])
    predict: Callable[[Any], Any] = model.predict_proba if classes else model.predict
    scoring = "neg_log_loss" if classes else "neg_mean_squared_error"
    theirs = by_sklearn(model, inputs[700:], labels[700:], scoring=scoring, n_repeats=10, random_state=0)
    shares = np.maximum(theirs.importances_mean, 0) / np.maximum(theirs.importances_mean, 0).sum()
    like = scored_of(labels[700:], predict(inputs[700:]))
    ours = permutation_importance(predict, inputs[700:], pa.chunked_array([labels[700:]]), like)
    assert list(ours.values()) == pytest.approx(shares, abs=0.03)


@pytest.mark.parametrize("kind", ["pandas", "polars", "numpy", "numbered"])
def test_inputs_come_to_the_model_as_they_were_given(kind: str) -> None:
    table = _table()[["alcohol", "sugar"]]
    inputs: Any = {
        "pandas": table,
        "polars": pl.DataFrame(table.to_dict("list")),
        "numpy": table.to_numpy(),
        "numbered": table.set_axis([0, 1], axis=1),
    }[kind]
    seen = set()

    class Model:
        def predict(self, rows: Any) -> np.ndarray:
            seen.add(type(rows))
            return np.asarray(rows, float) @ [1.0, 0.0]

    labels = table["alcohol"].to_numpy()
    like = scored_of(labels, labels)
    found = permutation_importance(Model(), inputs, pa.chunked_array([labels]), like)
    assert seen == {type(inputs)}
    assert list(found.values()) == [1.0, 0.0]


def test_the_same_call_gives_the_same_and_leaves_the_inputs_as_they_were() -> None:
    evaluation = _evaluation()
    before = evaluation[2].copy()
    made = [mooring.baseline(_table(), evaluation=evaluation, model=_predict) for _ in range(2)]
    first, second = (one.features["sugar"].importance for one in made)
    assert first == second
    pd.testing.assert_frame_equal(evaluation[2], before)


def test_a_model_that_goes_by_nothing_has_no_importances_above_0() -> None:
    labels, _, inputs = _evaluation()
    constant = np.full(len(labels), 45.0)
    made = mooring.baseline(
        _table(), evaluation=(labels, constant, inputs), model=lambda rows: np.full(len(rows), 45.0)
    )
    assert {one.importance for one in made.features.values() if one.role == "input"} == {0.0}


def test_a_baseline_that_is_there_gets_them_and_its_segments_too() -> None:
    plain = mooring.baseline(_table(), segments=["colour"])
    made = evaluated(plain, _evaluation(), model=_predict)
    whole = made.features["alcohol"].importance
    assert whole is not None
    assert {one.features["alcohol"].importance for one in made.segments["colour"].values()} == {whole}
    assert plain.features["alcohol"].importance is None


def test_an_input_that_is_called_as_the_prediction_has_its_own() -> None:
    table = _table()[["alcohol"]].assign(prediction=1.0)
    labels = table["alcohol"].to_numpy()
    made = mooring.baseline(
        table, evaluation=(labels, labels, table), model=lambda rows: rows["alcohol"].to_numpy()
    )
    assert {name: one.importance for name, one in made.features.items()} == {
        "alcohol": 1.0,
        "input.prediction": 0.0,
        "prediction": None,
    }


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"evaluation": _evaluation(), "importance": {"sugar": 1.0}}, "importance, or model"),
        ({}, "model needs evaluation"),
        ({"evaluation": _evaluation()[:2]}, "model needs evaluation"),
        ({"evaluation": (*_evaluation()[:2], _table(5))}, "other rows of inputs than of labels"),
        ({"evaluation": (*_evaluation()[:2], {"alcohol": np.zeros(800)})}, "a table of pandas or polars"),
        ({"evaluation": _evaluation(), "model": 5}, "an object with predict, or a function"),
    ],
)
def test_what_is_missing_for_it_is_said(how: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        mooring.baseline(_table(), **{"model": _predict, **how})


def test_what_the_model_goes_by_is_told_first_and_what_alarms_is_the_same() -> None:
    moved = _table(rows=600, seed=9, moved=0.6)
    moved["sugar"] += 0.6
    plain = mooring.compare(mooring.baseline(_table(4000)), moved)
    made = mooring.baseline(_table(4000), evaluation=_evaluation(), model=_predict)
    weighed = mooring.compare(made, moved)
    assert plain.features == ["sugar", "alcohol"]
    assert weighed.features == ["alcohol", "sugar"]
    assert [one for one in weighed.results if one.feature != "prediction"] == plain.results
