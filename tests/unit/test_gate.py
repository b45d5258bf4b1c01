"""What the gate compares: rows of requests, predictions and signatures."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

from mooring.drift.baseline import make
from mooring.drift.segments import segments_of
from mooring.performance.scored import LabelledRows, scored_of
from mooring.retrain.evaluation.difference import difference
from mooring.retrain.evaluation.process import _segments
from mooring.retrain.evaluation.proof import better, requests
from mooring.retrain.evaluation.records import Evaluated, Evaluation
from mooring.retrain.evaluation.signatures import as_input, differences
from mooring.retrain.gate import _parts, decide
from mooring.settings import GateSettings
from mooring.state.baselines import StoredBaselines
from mooring.state.state import State


def test_rows_of_a_large_request_count_as_one_of_a_small_one():
    old, new = (pa.table({"prediction": values}) for values in (np.zeros(12), np.r_[np.ones(10), np.zeros(2)]))
    groups = np.r_[np.zeros(10, int), 1, 2]
    assert difference(old, new, np.arange(12), classes=True).share == pytest.approx(10 / 12)
    found = difference(old, new, groups, classes=True)
    assert found.share == pytest.approx(1 / 3)
    assert (found.rows, found.requests) == (12, 3)


def test_the_largest_distance_of_several_columns_counts():
    old = pa.table({"low": [1.0, 2.0, 3.0], "high": [2.0, 3.0, 4.0], "unit": ["m", "m", "m"]}).drop(["unit"])
    new = pa.table({"low": [1.1, 2.0, 3.0], "high": [2.0, 3.7, math.nan]})
    found = difference(old, new, np.arange(3), classes=False)
    assert found.columns == ("prediction.low", "prediction.high")
    assert (found.rows, found.d50, found.d95) == pytest.approx((2, 0.1, 0.7), rel=1e-3)


def test_the_label_counts_where_there_are_probabilities_too():
    old, new = (
        pa.table({"note": ["x", "y"], "label": ["a", one], "probability": [0.7, 0.8]}) for one in ("a", "b")
    )
    found = difference(old, new, np.arange(2), classes=True)
    assert (found.kind, found.columns, found.share) == ("class", ("prediction.label",), 0.5)


def test_probabilities_differ_as_numbers():
    old, new = (pa.table({"0": [0.2, 0.5], "1": [0.8, one]}) for one in (0.5, 0.75))
    assert difference(old, new, np.arange(2), classes=True).kind == "number"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"a": [1.0], "b": [1.0]}, {"prediction": [1.0]}),
        ({"prediction": [[1.0]]}, {"prediction": [[1.0]]}),
        ({"prediction": [math.nan]}, {"prediction": [1.0]}),
        ({"prediction": [None]}, {"prediction": ["a"]}),
    ],
)
def test_what_can_not_be_compared_has_no_difference(old, new):
    assert difference(pa.table(old), pa.table(new), np.arange(1), classes=False) is None


def signature(**columns: str) -> ModelSignature:
    specs = [ColSpec(kind.rstrip("?"), name, required=not kind.endswith("?")) for name, kind in columns.items()]
    return ModelSignature(Schema(specs), Schema([ColSpec("double")]))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({"a": "double"}, {"a": "double"}, []),
        ({"a": "double", "b": "long"}, {"a": "double"}, []),
        ({"a": "double"}, {"a": "double", "b": "long?"}, []),
        ({"a": "integer"}, {"a": "long"}, []),
        ({"a": "double"}, {"a": "double", "b": "long"}, ["it needs a new column b"]),
        ({"a": "double"}, {"a": "string"}, ["the column a is string, and the champion's is double"]),
        ({"a": "double"}, {"a": "long"}, ["the column a is long, and the champion's is double"]),
        ({"a": "double?"}, {"a": "double"}, ["it needs the column a, which the champion can do without"]),
    ],
)
def test_differences_of_inputs(old: Mapping[str, str], new: Mapping[str, str], told: list[str]):
    assert differences(signature(**old), signature(**new)) == told


def test_another_output_is_a_difference():
    old, new = (
        ModelSignature(None, Schema([ColSpec(kind, name)])) for kind, name in (("double", None), ("long", "y"))
    )
    assert differences(old, new) == ["it answers y (long) where the champion answers double"]


def test_rows_of_the_log_get_the_types_of_the_signature():
    schema = Schema([ColSpec("long", "a"), ColSpec("float", "b"), ColSpec("double", "c"), ColSpec("long", "d")])
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [0.5, 1.5], "c": [1.0, 2.0], "d": [0.5, 1.0], "e": ["x", "y"]})
    found = as_input(frame, schema)
    assert [str(kind) for kind in found.dtypes] == ["int64", "float32", "float64", "float64"]


def test_rows_of_one_request_count_for_one():
    labels = np.zeros(400)
    random = np.random.default_rng(1)
    old, new = (np.repeat(random.normal(0, noise, 40), 10) for noise in (1.0, 0.9))
    alone = better(
        LabelledRows(labels, old, np.arange(400)), LabelledRows(labels, new, np.arange(400)), "rmse", 0.95
    )
    groups = np.repeat(np.arange(40), 10)
    together = better(LabelledRows(labels, old, groups), LabelledRows(labels, new, groups), "rmse", 0.95)
    assert together.low < alone.low
    assert requests(LabelledRows(labels, old, groups)) == 40


def _evaluated(champion: np.ndarray, candidate: np.ndarray, labels: np.ndarray, sex: list[str]) -> Evaluated:
    """Return an evaluation of two classes of which only the predictions matter."""
    found = Evaluation(
        model="wine", champion="1", candidate="2", created=datetime.now(UTC), rows=len(labels), metric="accuracy"
    )
    scored = [scored_of(labels, said, classes=("0", "1")) for said in (champion, candidate)]
    return Evaluated(found, *scored, protected={"sex": pa.array(sex)})


@pytest.mark.parametrize(("share", "most", "passed"), [(0.4, 0.05, False), (0.4, 0.6, True), (0.0, 0.0, True)])
def test_a_candidate_that_errs_more_on_one_group_is_refused(share, most, passed):
    random = np.random.default_rng(3)
    labels, sex = random.integers(2, size=800), random.choice(["f", "m"], 800)
    champion = np.where(random.random(800) < 0.2, 1 - labels, labels)
    candidate = np.where((sex == "f") & (random.random(800) < share), 1 - labels, champion)
    settings = GateSettings(protected=("sex",), gate_fairness=most)
    verdict = decide(_evaluated(champion, candidate, labels, sex.tolist()), settings)
    [check] = (one for one in verdict.checks if one.name == "fairness sex")
    assert check.passed is passed
    assert ("sex is f" in check.message) or passed
    assert {who: [one.column for one in found] for who, found in verdict.fairness.items()} == {
        "champion": ["sex"],
        "candidate": ["sex"],
    }


def test_a_candidate_as_good_by_luck_of_other_rows_is_seldom_refused_for_groups():
    """They err as often on every group as the champion does, on other rows."""
    refused = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        labels, sex = random.integers(2, size=400), random.choice(["f", "m", "x"], 400)
        said = [np.where(random.random(400) < 0.25, 1 - labels, labels) for _ in range(2)]
        verdict = decide(_evaluated(*said, labels, sex.tolist()), GateSettings(protected=("sex",)))
        refused += any(one.name == "fairness sex" and not one.passed for one in verdict.checks)
    assert refused <= 6  # of 40 at 5 % each more come once in a thousand


def test_a_protected_column_without_large_groups_is_said():
    labels = np.arange(40) % 2
    evaluated = _evaluated(labels, labels, labels, [f"town {at}" for at in range(40)])
    verdict = decide(evaluated, GateSettings(protected=("sex",)))
    [check] = (one for one in verdict.checks if one.name == "fairness sex")
    assert check.passed
    assert check.message == "no group of sex has the 30 rows that it takes to be looked at"


def test_segments_are_cut_as_the_baseline_is_not_as_the_holdout(tmp_path):
    random = np.random.default_rng(0)
    trained = {"alcohol": pa.array(random.normal(10, 1, 2000)), "colour": pa.array(["red", "white"] * 1000)}
    baseline = make(trained)
    state = f"sqlite:///{tmp_path}/state.db"
    with State(state) as opened, opened.begin() as tx:
        StoredBaselines(tx).put("wine", "3", baseline.to_bytes(), "test")
    # The holdout lies above nearly all of the training data.
    holdout = pa.table({"alcohol": random.normal(12, 1, 300), "colour": ["red"] * 299 + ["rosé"]})
    given = Namespace(model="wine", champion="3", state=state, segment=["alcohol", "colour"])
    found = _segments(given, holdout)
    assert found["alcohol"].to_pylist() == segments_of(holdout["alcohol"], baseline.features["alcohol"]).tolist()
    assert pc.mean(pc.starts_with(found["alcohol"], "from ")).as_py() > 0.8
    assert [(one, int(rows.sum())) for one, rows in _parts(found["colour"], 30)] == [("red", 299)]


def test_without_the_baseline_s_column_the_holdout_s_own_quartiles_are_taken(tmp_path):
    state = f"sqlite:///{tmp_path}/state.db"
    with State(state) as opened, opened.begin() as tx:
        StoredBaselines(tx).put("wine", "3", make({"sugar": pa.array(np.arange(200.0))}).to_bytes(), "test")
    holdout = pa.table({"alcohol": np.arange(400) / 7})
    found = _segments(Namespace(model="wine", champion="3", state=state, segment=["alcohol"]), holdout)
    parts = [int(rows.sum()) for _, rows in _parts(found["alcohol"], 30)]
    assert len(parts) == 4
    assert min(parts) > 80
