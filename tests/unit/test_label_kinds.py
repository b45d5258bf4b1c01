"""Labels take the kind of what the model predicts, however they were written down."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

import mooring
from mooring.label import number_of, number_text
from mooring.log.label_files import Columns, read_file
from mooring.log.label_join import LabelIndex
from mooring.log.labels import LABELS
from mooring.performance.kinds import as_predicted
from mooring.performance.measures import evaluate, scored_of
from mooring.performance.scored import UnscorableError

FLAGS = [True, False, True, True, False, True, False, False, True, True]
PREDICTED = [True, False, True, True, False, True, False, False, True, False]
KINDS = {
    "booleans": PREDICTED,
    "texts": [str(one) for one in PREDICTED],
    "lower texts": [str(one).lower() for one in PREDICTED],
    "integers": [int(one) for one in PREDICTED],
    "floats": [float(one) for one in PREDICTED],
    "texts of integers": [str(int(one)) for one in PREDICTED],
    "texts of floats": [str(float(one)) for one in PREDICTED],
}
WRITTEN = {
    "booleans": FLAGS,
    "True": [str(one) for one in FLAGS],
    "true": [str(one).lower() for one in FLAGS],
    "TRUE": [str(one).upper() for one in FLAGS],
    "integers": [int(one) for one in FLAGS],
    "floats": [float(one) for one in FLAGS],
    "1": [str(int(one)) for one in FLAGS],
    "1.0": [str(float(one)) for one in FLAGS],
}


def accuracy(labels: Any, predictions: Any, **known: Any) -> float:
    return evaluate(scored_of(labels, predictions, **known))["accuracy"]


@pytest.mark.parametrize("predicted", KINDS)
@pytest.mark.parametrize("written", WRITTEN)
def test_booleans_are_the_same_in_every_spelling(predicted: str, written: str) -> None:
    right = accuracy_score(FLAGS, PREDICTED)
    assert accuracy(WRITTEN[written], KINDS[predicted]) == right == 0.9
    assert accuracy(pd.Series(WRITTEN[written]), pd.Series(KINDS[predicted])) == right


def as_csv(labels: Sequence[str]) -> pa.Array:
    """Return labels as the log has them from a CSV file."""
    numbers = count()
    lines = "".join(f"id-{next(numbers):04d},{one}\n" for one in labels)
    file = pa.BufferReader(f"request_id,label\n{lines}".encode())
    table = pa.concat_tables([piece.table for piece in read_file(file, "truth.csv", "csv", Columns())])
    assert table.schema == LABELS
    index = LabelIndex(table)
    return index.values(np.arange(len(index)))


@pytest.mark.parametrize(
    ("written", "predictions", "right"),
    [
        (["01", "1.0", "1", "2"], [1, 1, 1, 1], 0.75),
        (["01", "1.0", "1", "2"], [1.0, 1.0, 1.0, 1.0], 0.75),
        (["1.0", "2.0", "2.0"], ["1", "2", "1"], 2 / 3),
        (["1", "2", "2"], ["1.0", "2.0", "1.0"], 2 / 3),
        (["01", "02", "02"], ["01", "02", "01"], 2 / 3),
        (["01", "1", "02"], ["01", "01", "02"], 2 / 3),  # the text 01 is not the number 1
        (["01", "1", "2"], ["1", "1", "2"], 2 / 3),
        (["1.10", "1.1", "1.2"], ["1.1", "1.1", "1.2"], 2 / 3),  # versions
        (["00501", "00502"], ["00501", "00501"], 0.5),
        (["true", "false", "false"], ["true", "false", "true"], 2 / 3),
        (["true", "False", "FALSE"], [True, False, True], 2 / 3),
        (["true", "false", "unclear"], ["True", "False", "False"], 2 / 3),
        (["red", "white", "1"], ["red", "white", "white"], 2 / 3),
        (["9007199254740993", "1"], ["9007199254740993", "1"], 1.0),
        (["6.50", "7.5"], ["6.50", "7.5"], 1.0),
    ],
)
def test_what_csv_does_not_say_the_predictions_do(written, predictions, right: float) -> None:
    assert accuracy(as_csv(written), predictions) == pytest.approx(right)


@pytest.mark.parametrize(
    ("labels", "predictions", "right"),
    [
        (["1", "2", "x"], [1, 2, 2], 1.0),  # what is no number is left out
        ([1, 2, 2], ["1", "2", "1"], 2 / 3),
        ([1.0, 2.0, 2.0], ["1", "2", "1"], 2 / 3),
        ([1.0, 2.0, 2.0], ["1.0", "2.0", "1.0"], 2 / 3),
        ([1, 2, 10], ["01", "02", "10"], 1 / 3),
        ([True, False], pa.array(["TRUE", "TRUE"]), 0.5),
        ([3, 3], [4, 4], 0.0),  # numbers are numbers, if all are wrong
        ([True, True], [False, False], 0.0),
        (["a", None, "b"], ["a", "b", None], 1.0),
        ([1.5, 2.5], ["1.5", "2.50"], 0.5),
    ],
)
def test_each_kind_of_label_beside_each_kind_of_prediction(labels, predictions, right: float) -> None:
    assert accuracy(labels, predictions, task="classification") == pytest.approx(right)


@pytest.mark.parametrize(
    ("labels", "predictions", "known"),
    [
        (["yes", "no"], ["True", "False"], {}),
        (["yes", "no"], [True, False], {}),
        ([1, 2], ["red", "white"], {}),
        ([1, 2], ["01", "02"], {}),
        (["red", "white"], [1, 2], {}),
        ([5.0, 7.0, 3.0], [True, False, True], {}),
        ([3, 4], [0, 1], {"classes": ("0", "1")}),
        (["yes", "no"], [0.7, 0.1], {}),
    ],
)
def test_where_there_is_no_class_in_common_it_is_said(labels, predictions, known) -> None:
    with pytest.raises(UnscorableError, match="labels and predictions have no class in common: labels are "):
        scored_of(labels, predictions, **known)


def test_what_the_model_predicts_of_other_rows_are_classes_too() -> None:
    with pytest.raises(UnscorableError, match="no class in common"):
        scored_of(["fraud"], ["fine"])
    assert accuracy(["fraud"], ["fine"], seen={"fraud", "fine"}) == 0.0
    assert accuracy([True], ["False"], seen={"True", "False"}) == 0.0


def test_probabilities_name_classes_in_their_own_spelling() -> None:
    shares = {"False": [0.9, 0.2, 0.4], "True": [0.1, 0.8, 0.6]}
    for labels in ([0, 1, 0], [False, True, False], ["false", "true", "false"], [0.0, 1.0, 0.0]):
        assert accuracy(labels, shares) == pytest.approx(2 / 3)
        assert accuracy(labels, [0.1, 0.8, 0.6], classes=("False", "True")) == pytest.approx(2 / 3)
        assert accuracy(labels, [False, True, True], classes=("False", "True")) == pytest.approx(2 / 3)
        assert accuracy(labels, [0.1, 0.8, 0.6]) == pytest.approx(2 / 3)


def test_texts_that_are_numbers_beside_numbers_are_a_regression() -> None:
    scored = scored_of(["1.5", "2.5", "03.0"], [1.0, 2.0, 3.25])
    assert scored.task == "regression"
    assert scored.labels.tolist() == [1.5, 2.5, 3.0]


@given(
    st.lists(st.integers(-50, 50), min_size=1), st.sampled_from(["{:d}", "{:03d}", "{:d}.0", "{:+d}", " {:d} "])
)
def test_a_number_is_itself_however_it_is_spelled(numbers: list[int], spelled: str) -> None:
    found = as_predicted(pa.array([spelled.format(one) for one in numbers]), pa.array(numbers))
    assert found.to_pylist() == numbers


@given(st.lists(st.text(max_size=4), min_size=1))
def test_texts_beside_the_same_texts_stay_themselves(texts: list[str]) -> None:
    """Whatever they look like: no two texts that the model tells apart become one."""
    column = pa.array(texts, pa.string())
    assert as_predicted(column, column).equals(column)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_s_name_reads_as_the_number(number: float) -> None:
    assert number_of(number_text(number)) == number


def test_a_baseline_s_held_out_rows_are_typed_alike() -> None:
    data = {"x": np.arange(60.0)}
    predicted = ["True" if one % 2 else "False" for one in range(60)]
    flags = np.array([one % 2 == 1 for one in range(60)])
    flags[:6] = ~flags[:6]
    found = mooring.baseline(data, evaluation=(flags, predicted)).performance
    assert found is not None
    assert (found.classes, found.measures["accuracy"]) == (("False", "True"), 0.9)
