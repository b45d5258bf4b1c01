"""How often unchanged windows alarm against a model's predictions, and against requests of many rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import mooring
from judging import window
from mooring.drift.baseline import Baseline, make
from mooring.drift.blocks import p_values, profile_of
from mooring.drift.judge import judge
from mooring.engine import local
from wines import WINES

RUNS = 300
LEVEL = 0.01


@pytest.mark.parametrize("kind", ["normal", "rounded", "categories"])
def test_a_baseline_of_requests_of_equal_rows_keeps_the_budget(kind: str) -> None:
    """Windows of 500 against 200 requests of 100 equal rows: taken for 20,000 rows, 87 % of windows alarmed."""

    def draw(random: np.random.Generator, count: int) -> np.ndarray:
        if kind == "normal":
            return random.normal(size=count)
        if kind == "rounded":
            return np.round(random.exponential(size=count), 1)
        return random.choice(["a", "b", "c", "d", "e"], count, p=[0.4, 0.3, 0.15, 0.1, 0.05])

    alarms = 0
    for seed in range(RUNS):
        random = np.random.default_rng(seed)
        made = make({"x": pa.array(np.repeat(draw(random, 200), 100))}, weight=200 * 100**2)
        found = p_values(made, profile_of(made), window(made, {"x": draw(random, 500)}), seed=seed)
        alarms += found["x"].p_value <= LEVEL
    low = stats.binomtest(alarms, RUNS).proportion_ci(0.999, method="exact").low
    assert low <= LEVEL, f"{alarms} of {RUNS}"


MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "forest": (lambda: RandomForestRegressor(50, random_state=0), "predict"),
    "forest, classes": (lambda: RandomForestClassifier(50, random_state=0), "predict"),
    "forest, probabilities": (lambda: RandomForestClassifier(50, random_state=0), "predict_proba"),
    "boosting": (lambda: GradientBoostingRegressor(random_state=0), "predict"),
    "boosting, probabilities": (lambda: GradientBoostingClassifier(random_state=0), "predict_proba"),
    "linear": (LinearRegression, "predict"),
    "logistic": (lambda: make_pipeline(StandardScaler(), LogisticRegression()), "predict_proba"),
}
WINDOWS, WINDOW_ROWS, TRAINING_ROWS = 15, 200, 1398


@pytest.mark.skipif(not WINES.exists(), reason=f"no wines beside the repository, in ../shared/data/{WINES.name}")
@pytest.mark.parametrize("name", MODELS)
def test_predictions_of_unchanged_windows_do_not_alarm(name: str) -> None:
    """Against predictions of the training data those of forests alarmed in 13 to 15 of 15 windows."""
    new, method = MODELS[name]
    wines = pd.read_csv(WINES, sep=None, engine="python")
    quality = wines.pop("quality")
    labels = (quality >= 7).astype(str) if method == "predict_proba" else quality
    order = np.random.default_rng(0).permutation(len(wines))
    live, train, held_out = np.split(order, [WINDOWS * WINDOW_ROWS, WINDOWS * WINDOW_ROWS + TRAINING_ROWS])
    model = new().fit(wines.iloc[train], labels.iloc[train])
    predicted = _column(getattr(model, method)(wines))
    out_of_fold = _column(cross_val_predict(new(), wines.iloc[train], labels.iloc[train], cv=3, method=method))
    inputs = wines.iloc[train]
    windows = [wines.iloc[rows].assign(prediction=predicted[rows]) for rows in live.reshape(WINDOWS, WINDOW_ROWS)]
    in_sample = mooring.baseline(inputs, predictions=predicted[train])
    alarms = {
        "evaluation": _alarms(
            mooring.baseline(inputs, evaluation=(labels.iloc[held_out], predicted[held_out])), windows
        ),
        "out of fold": _alarms(mooring.baseline(inputs, predictions=out_of_fold, held_out=True), windows),
        "log": _alarms(in_sample, windows),
    }
    assert alarms == {"evaluation": 0, "out of fold": 0, "log": 0}


def _column(predicted: np.ndarray) -> np.ndarray:
    return predicted[:, 1] if predicted.ndim == 2 else predicted


def _alarms(made: Baseline, windows: list[pd.DataFrame]) -> int:
    """Return in how many windows predictions alarm, the windows before them merged as the monitor does."""
    profiles = [local.profile_of(one, made) for one in windows]
    count, before = 0, None
    for at, one in enumerate(profiles):
        found = judge(made, [one, *profiles[max(at - 15, 0) : at][::-1]], before=before, seed=at)
        count += any(alarm.role == "output" for alarm in found.alarms)
        before = one if before is None else before + one
    return count
