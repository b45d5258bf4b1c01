"""The monitor tells rates and errors by protected columns, of inputs and of labels, window by window."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import mooring
from labelling import Labelling
from monitoring import START
from mooring.cli import main
from mooring.log.reader import read_log
from mooring.performance.fairness import Fairness
from mooring.report.from_state import whole_report
from mooring.state.assessments import Assessment


def _labelled(it: Labelling, rows: int = 600) -> pd.DataFrame:
    """Label rows so that those of `f` have a larger error, and two of ten rows have no sex."""
    it.ask(rows)
    found = it.rows()
    sex = np.array(["f", "m", "m", "f", None], object)[np.arange(rows) % 5]
    noise = it.rng.normal(0, np.where(sex == "f", 1.5, 0.3), rows)
    return it.label_as(found.assign(sex=sex, label=found["prediction"] + noise))


def _mae(rows: pd.DataFrame) -> dict[str, float]:
    error = (rows["label"] - rows["prediction"]).abs()
    return error.groupby(rows["sex"].fillna("(missing)")).mean().to_dict()


def _rates(found: Fairness, measure: str) -> dict[str, float]:
    return {one.group: one.value for one in found.rates if one.measure == measure}


def test_a_column_that_only_labels_have_tells_errors_apart(tmp_path: Path) -> None:
    it = Labelling(tmp_path, protected=("sex",))
    rows = _labelled(it)
    [one] = it.look()
    [found] = one.fairness
    expected = _mae(rows)
    assert _rates(found, "mae") == pytest.approx(expected)
    assert found.groups == {"f": 240, "m": 240, "(missing)": 120}
    assert "120 of 600 rows have no value of sex" in found.message
    [apart] = (each for each in found.disparities if each.measure == "mae_difference")
    assert apart.value == pytest.approx(expected["f"] - min(expected["m"], expected["(missing)"]))
    assert apart.low > 0.5


def test_an_input_tells_them_apart_and_a_column_of_neither_is_said(tmp_path: Path) -> None:
    it = Labelling(tmp_path, protected=("colour", "nobody"))
    it.ask(600)
    colours = read_log(it.log, columns=["request_id", "row", "input.colour"]).to_pandas()
    rows = it.label(it.rows().merge(colours, on=["request_id", "row"]))
    [one] = it.look()
    by_colour, nobody = one.fairness
    error = (rows["label"] - rows["prediction"]).abs().groupby(rows["input.colour"]).mean()
    assert _rates(by_colour, "mae") == pytest.approx(error.to_dict())
    assert nobody.message == "no row has a value of nobody"


def test_rows_that_have_no_usable_label_do_not_shift_the_values_of_others(tmp_path: Path) -> None:
    it = Labelling(tmp_path, protected=("sex",))
    it.ask(600)
    rows = it.rows()
    sex = np.array(["f", "m"], object)[np.arange(600) % 2]
    rows = rows.assign(sex=sex, label=rows["prediction"] + np.where(sex == "f", 1.0, 0.0))
    texts = rows["label"].map(repr).where(np.arange(600) % 7 > 0, "unknown")
    it.label_as(rows.assign(label=texts))
    [one] = it.look()
    assert one.measures["mae"].value == pytest.approx(0.5, abs=0.05)
    assert _rates(one.fairness[0], "mae") == pytest.approx({"f": 1.0, "m": 0.0})


def test_without_protected_columns_there_is_nothing(tmp_path: Path) -> None:
    it = Labelling(tmp_path)
    _labelled(it)
    [one] = it.look()
    assert one.fairness == ()


def test_a_state_keeps_it_and_a_window_is_assessed_to_the_same_again(tmp_path: Path) -> None:
    found: list[Assessment] = []
    for name in ("first", "second"):
        it = Labelling(tmp_path / name, protected=("sex",))
        _labelled(it)
        found += it.look()
        assert it.found()[0].fairness == found[-1].fairness
    assert [one.rates for one in found[0].fairness] == [one.rates for one in found[1].fairness]


def test_it_is_there_as_data_on_the_command_line_and_in_the_report(tmp_path: Path) -> None:
    it = Labelling(tmp_path, protected=("sex",))
    rows = _labelled(it)
    it.look()
    where = it.monitoring.settings.state

    table = mooring.performance("wine", state=where).set_index(["segment", "measure"])
    assert table.loc[("sex=f", "mae"), "value"] == pytest.approx(_mae(rows)["f"])
    assert table.loc[("sex=f", "mae"), "labelled"] == 240
    assert table.loc[("sex", "mae_difference"), "low"] > 0.5
    assert set(table["start"]) == {START}

    command = ["performance", "--model", "wine", "--state", where]
    [told] = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
    [fairness] = told["fairness"]
    assert (fairness["column"], fairness["groups"]["m"]) == ("sex", 240)
    assert {one["measure"] for one in fairness["disparities"]} == {
        "mean_prediction_difference",
        "bias_difference",
        "mae_difference",
    }
    shown = CliRunner().invoke(main, command).stdout
    assert "By sex, in the window from" in shown
    assert "mae_difference" in shown
    assert "120 of 600 rows have no value of sex" in shown

    page = whole_report(it.monitoring.state, "wine")
    assert "Rates and errors by sex" in page
    assert "mae difference" in page
    assert "(missing)" in page
