"""Because of what the loss changed: inputs that moved, or what they mean, and when it says that it can't tell."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mooring.estimation import EstimationError
from mooring.estimation.attribution import attribute
from mooring.estimation.loss_model import LossRows, encode
from planted_causes import planted


def rows(count: int, seed: int, *, low: float = 0.0, more: float = 0.0, labelled: bool = True) -> LossRows:
    random = np.random.default_rng(seed)
    x, y = random.uniform(low, 1, count), random.uniform(size=count)
    losses = random.exponential(0.3 + 2 * x + more * (y > 0.7))
    return LossRows({"x": pa.array(x), "y": pa.array(y)}, losses if labelled else None)


@pytest.fixture(scope="module")
def held_out() -> LossRows:
    return rows(800, 0)


def test_inputs_that_moved_are_told_from_what_they_mean(held_out):
    found = attribute(held_out, rows(800, 1, low=0.5))
    assert found.measured
    assert found.inputs.lower < 0.5 < found.inputs.upper
    assert not found.relation.beyond_chance
    assert found.relation_by_feature == []
    assert [one.feature for one in found.named] == ["x"]
    assert sum(one.value for one in found.by_feature) == pytest.approx(found.inputs.value)
    assert found.inputs.value + found.relation.value == pytest.approx(found.total.value)


def test_a_relation_that_changed_is_told_by_where_it_did(held_out):
    found = attribute(held_out, rows(800, 2, more=3.0))
    assert found.relation.lower < 0.9 < found.relation.upper
    assert not found.inputs.beyond_chance
    assert found.named == []
    assert found.relation_by_feature[0].feature == "y"
    assert found.relation_by_feature[0].named
    assert "y says" in str(found)


def test_without_labels_only_inputs_are_told_and_it_says_so(held_out):
    found = attribute(held_out, rows(400, 1, low=0.5, labelled=False))
    assert not found.measured
    assert found.total == found.inputs
    assert found.relation is None
    assert "not known without labels" in str(found)
    assert found.named[0].feature == "x"


def test_where_some_rows_have_labels_it_is_of_these(held_out):
    window = rows(800, 1, low=0.5)
    losses = np.where(np.arange(800) % 3 == 0, window.losses, np.nan)
    found = attribute(held_out, window._replace(losses=losses))
    assert found.rows == 267
    assert found.total.value == pytest.approx(np.nanmean(losses) - held_out.losses.mean())


def test_where_nothing_changed_no_feature_is_named(held_out):
    found = attribute(held_out, rows(800, 7))
    assert found.named == []
    assert "chance explains it" in str(found)
    assert "no feature is told from noise" in str(found)


def test_a_planted_category_is_named_first():
    case = planted(3, held_out=1000, rows=600)
    assert case.table.category
    assert attribute(case.held_out, case.window).named[0].feature == "x0"


def test_rows_of_one_request_make_intervals_wider(held_out):
    window = rows(200, 3)
    alone = attribute(held_out, window)
    several = LossRows(
        {name: pa.array(np.repeat(column.to_numpy(), 4)) for name, column in window.features.items()},
        np.repeat(window.losses, 4),
        np.repeat(np.arange(200), 4),
    )
    together = attribute(held_out, several)
    widths = [one.total.upper - one.total.lower for one in (alone, together)]
    assert widths[1] == pytest.approx(widths[0], rel=0.15)


def test_rows_where_no_held_out_row_was_are_not_told(held_out):
    far = rows(500, 1)
    far = far._replace(features={**far.features, "x": pa.array(far.features["x"].to_numpy() + 20)})
    found = attribute(held_out, far)
    assert found.inputs is None
    assert found.relation is None
    assert found.total is not None
    assert "Can't tell because of what" in str(found)


def one_feature(count: int, losses: object) -> LossRows:
    return LossRows({"x": pa.array(np.random.default_rng(9).normal(size=count))}, losses)


NULLS = {"x": pa.nulls(300, pa.float64())}


@pytest.mark.parametrize(
    ("given", "window", "says"),
    [
        (one_feature(300, None), one_feature(300, np.arange(300.0)), "no held-out row has a loss"),
        (one_feature(0, np.empty(0)), one_feature(300, np.arange(300.0)), "no held-out row has a loss"),
        (one_feature(5, np.arange(5.0)), one_feature(300, np.arange(300.0)), "5 held-out rows .* it takes 100"),
        (one_feature(300, np.arange(300.0)), one_feature(5, np.arange(5.0)), "5 rows with labels .* it takes 30"),
        (one_feature(300, np.ones(300)), one_feature(300, np.arange(300.0)), "has the same loss, 1"),
        (LossRows(NULLS, np.arange(300.0)), LossRows(NULLS, np.arange(300.0)), "no feature to go by"),
        (LossRows({}, np.arange(300.0)), LossRows({}, np.arange(300.0)), "no feature to go by"),
        (one_feature(300, np.arange(300.0)), LossRows({"y": NULLS["x"]}, np.arange(300.0)), "no column x"),
        (one_feature(300, np.arange(300.0)), LossRows({"x": pa.array(["a"] * 300)}), "x is string"),
        (one_feature(300, np.arange(299.0)), one_feature(300, np.arange(300.0)), "300 values"),
        (one_feature(300, np.arange(300.0))._replace(groups=np.zeros(300, int)), one_feature(300, None), "1 req"),
    ],
)
def test_what_is_missing_is_said(given, window, says):
    with pytest.raises(EstimationError, match=says):
        attribute(given, window)


def test_a_loss_that_only_one_row_has_is_no_cause_of_failure():
    losses = (np.arange(300) == 3) * 1.0
    assert attribute(one_feature(300, losses), one_feature(300, losses)).named == []


def test_of_thousands_of_features_those_that_tell_most_are_taken():
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 400))
    losses = random.exponential(np.exp(x[:, 7]))
    columns = {f"f{at}": pa.array(x[:, at]) for at in range(400)}
    found = encode(LossRows(columns, losses), LossRows(columns, losses))
    assert len(found.encoder.names) == found.window.matrix.shape[1] == 100
    assert "f7" in found.encoder.names
    assert "of 400 features the 100 are taken" in found.encoder.left_out.popitem()[1]
