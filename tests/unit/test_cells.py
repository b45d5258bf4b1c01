"""Cells: what a feature amounts to in a window, kept short."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.drift.baseline import make
from mooring.drift.judgement import Judgement, Result
from mooring.drift.stored import FormatError, dump
from mooring.engine.local import profile_of
from mooring.monitor.drift_check import WindowCheck, check_window
from mooring.settings import JudgeSettings
from mooring.state.cells import FORMAT, Cell, Strongest, cells_of, decode, encode, ratio, strongest
from mooring.state.judgements import judgement_of
from mooring.state.windows import Window

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

numbers = st.floats(0, 1e300) | st.just(math.inf)
cells = st.builds(
    Cell,
    numbers,
    st.sampled_from(["ok", "warning", "critical"]),
    st.sampled_from(["ks", "js", "null_rate"]),
    st.sampled_from([1, 4, 16]),
    st.floats(-1e300, 1e300) | st.just(math.inf),
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), cells))
def test_what_is_kept_comes_back_with_a_few_digits(given_cells):
    found = decode(encode(given_cells))
    assert list(found) == list(given_cells)
    for name, cell in given_cells.items():
        assert _words(found[name]) == _words(cell)
        assert math.isclose(found[name].ratio, cell.ratio, rel_tol=5.1e-3, abs_tol=1e-320)
        assert math.isclose(found[name].value, cell.value, rel_tol=5.1e-4, abs_tol=1e-320)
    assert decode(encode(found)) == found


def _words(cell: Cell) -> tuple[str, str, int]:
    return cell.severity, cell.measure, cell.scale


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "this is no cells of Mooring's"),
        (b"mooring-cells 2\n", "of format 2 and this Mooring reads 1: upgrade it"),
        (encode({"x": Cell(1.0, "ok", "ks", 1, 0.1)})[:-3], "damaged"),
        (dump({"x": [1.0, "terrible", "ks", 1, 0.1]}, "cells", FORMAT), "damaged"),
    ],
)
def test_what_is_no_such_thing_is_said_to_be_none(data, says):
    with pytest.raises(FormatError, match=says):
        decode(data)


def test_what_a_later_mooring_adds_to_a_cell_is_left_out():
    data = dump({"x": [0.5, "ok", "ks", 1, 0.1, "more"]}, "cells", FORMAT)
    assert decode(data) == {"x": Cell(0.5, "ok", "ks", 1, 0.1)}


def result(feature: str = "x", measure: str = "ks", value: float = 0.1, **changed) -> Result:
    return Result(feature, "input", "numeric", measure, value, **{"threshold": 0.2, **changed})


def test_a_cell_is_the_worst_alarm_else_what_is_nearest_to_its_threshold():
    near = result(value=0.19)
    alarms = [
        result(value=0.3, scale=4, alarm=True, severity="warning", strength=6.0),
        result("x", "js", 0.25, alarm=True, severity="critical", strength=5.0),
    ]
    assert strongest([result(), near]) == Strongest(0.95, near)
    top = strongest([near, *alarms])
    assert top is not None
    assert (top.result, top.severity) == (alarms[1], "critical")
    assert top.cell == Cell(1.25, "critical", "js", 1, 0.25)
    # Without a threshold, or where there is no number, nothing is said.
    assert strongest([result(threshold=None), result(threshold=0.0), result(value=math.nan)]) is None
    assert strongest([result(value=math.nan), near]) == Strongest(0.95, near)


def test_a_rate_of_nulls_counts_from_what_is_usual():
    assert ratio(result("x", "null_rate", 0.3, reference=0.2, threshold=0.4)) == pytest.approx(0.5)
    assert ratio(result("x", "null_rate", 0.3, reference=0.5, threshold=0.4)) == pytest.approx(0.75)


def test_of_a_judgement_there_is_a_cell_for_each_feature_that_has_a_threshold():
    results = [result("b"), result("a", threshold=None), result("c", value=0.4), result("b", "js", 0.15)]
    found = cells_of(Judgement(results, "ok", [], 10, 10.0, 0.001, 0))
    assert {name: (cell.ratio, cell.measure) for name, cell in found.items()} == {
        "b": (pytest.approx(0.75), "js"),
        "c": (2.0, "ks"),
    }


def concluded(features: int, rows: int = 500, drift: float = 0.0, **settings) -> WindowCheck:
    random = np.random.default_rng(3)

    def columns(rows: int, drift: float) -> dict[str, pa.Array]:
        names = [f"feature_{at:03d}_of_the_customer" for at in range(features)]
        return {name: pa.array(random.normal(drift if not at else 0, 1, rows)) for at, name in enumerate(names)}

    baseline = make(columns(2000, 0.0))
    window = Window(model="wine", start=NOON, end=NOON + timedelta(hours=1), rows=rows, status="closed")
    profile = profile_of(pa.table(columns(rows, drift)), baseline)
    return check_window(window, [profile], baseline, JudgeSettings(**settings))


def test_what_is_concluded_has_its_cells():
    found = concluded(3, drift=2.0)
    assert found.verdict.status == "critical"
    kept = decode(found.cells)
    assert {name: cell.severity for name, cell in kept.items()} == {
        "feature_000_of_the_customer": "critical",
        "feature_001_of_the_customer": "ok",
        "feature_002_of_the_customer": "ok",
    }
    of_results = judgement_of(found.results)
    assert of_results is not None
    for name, cell in cells_of(of_results).items():
        assert _words(kept[name]) == _words(cell)
        assert kept[name].ratio == pytest.approx(cell.ratio, rel=5.1e-3)


def test_what_could_not_be_judged_has_none():
    few = concluded(2, rows=20, min_rows=100)
    assert few.verdict.status == "too_few"
    assert few.judgement is not None
    assert few.cells == b""
    assert WindowCheck(few.verdict, None).cells == b""


def test_of_two_hundred_features_they_take_few_kilobytes():
    found = concluded(200)
    assert len(decode(found.cells)) == 200
    assert len(found.cells) < 6000
