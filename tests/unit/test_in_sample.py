"""Predictions of rows that the model was trained on are no measure of later ones: what is compared instead."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import mooring
from commands import mooring_here
from judging import Columns, arrow, window
from monitoring import START, Monitoring, Traffic, settings, without_mlflow
from mooring.drift.baseline import Baseline, BaselineParts, PastStatistics, make
from mooring.drift.blocks import PastWindows, p_values, profile_of
from mooring.drift.judge import AlarmRules, judge, values_of
from mooring.drift.profile import Profile
from mooring.exchange import Exchange
from mooring.monitor.building import from_data
from mooring.state.incidents import Incidents
from mooring.state.windows import Windows


def sample(rows: int, seed: int, spread: float = 1.0) -> Columns:
    random = np.random.default_rng(seed)
    return {"x": random.normal(size=rows), "prediction": random.normal(0, spread, rows)}


def trained(*, held_out: bool = False, rows: int = 2000) -> Baseline:
    """Return a baseline whose predictions are more spread than those of other rows, as an overfit model's are."""
    return make(arrow(sample(rows, 0, spread=2.0)), roles={"prediction": "output"}, held_out=held_out)


def windows(made: Baseline, count: int, spread: float = 1.0) -> list[Profile]:
    return [window(made, sample(300, seed + 1, spread)) for seed in range(count)]


def test_the_outputs_of_a_baseline_are_those_of_the_held_out_rows():
    x, fitted, later = np.arange(100.0), np.zeros(100), np.linspace(1, 2, 40)
    made = mooring.baseline({"x": x}, predictions=fitted, labels=fitted, evaluation=(later, later))
    assert list(made.features) == ["x", "prediction", "label"]
    assert made.features["prediction"].profile.values.minimum == 1.0
    assert (made.rows, made.in_sample) == (100, [])
    alone = mooring.baseline({"x": x}, evaluation=(later, later))
    assert list(alone.features) == ["x", "prediction"]
    assert (alone.in_sample, alone.warning()) == ([], "")
    assert Baseline.from_bytes(alone.to_bytes()).in_sample == []


def test_without_held_out_rows_they_are_in_sample_and_it_is_said_what_to_do():
    made = mooring.baseline({"x": [1.0, 2.0]}, predictions=[1.0, 2.0])
    assert Baseline.from_bytes(made.to_bytes()).in_sample == ["prediction"]
    assert "evaluation=(labels, predictions)" in made.warning()
    assert "in-sample output" in made._repr_html_()


def test_out_of_fold_predictions_are_taken_for_held_out_and_so_is_the_performance():
    values = np.linspace(0, 1, 100)
    made = mooring.baseline({"x": values}, predictions=values, labels=values, held_out=True)
    assert made.in_sample == []
    assert made.performance.about == "held-out rows"
    both = mooring.baseline({"x": values}, predictions=values, evaluation=(values + 9, values + 9), held_out=True)
    assert both.features["prediction"].profile.values.maximum == 1.0


def test_a_baseline_that_is_given_an_evaluation_later_has_its_outputs():
    from mooring.comparison import evaluated

    values = np.linspace(0, 1, 100)
    made = mooring.baseline({"x": values}, predictions=values, importance={"prediction": 3.0})
    assert evaluated(made, (values, values)).in_sample == []
    assert evaluated(made, (values, values)).features["prediction"].importance == 3.0
    assert evaluated(made, (values, values)).digest == made.digest


def test_kinds_of_the_outputs_are_those_that_are_given():
    classes = np.repeat([3, 4, 5, 6], 25)
    made = mooring.baseline({"x": classes / 2}, evaluation=(classes, classes), kinds={"prediction": "numeric"})
    assert made.features["prediction"].kind == "numeric"
    with pytest.raises(ValueError, match="other rows of predictions"):
        mooring.baseline({"x": classes / 2}, evaluation=(classes, classes[:50]))
    named = mooring.baseline({"prediction": classes / 2}, evaluation=(classes, classes))
    assert {name: one.role for name, one in named.features.items()} == {
        "input.prediction": "input",
        "prediction": "output",
    }


def test_a_segment_has_the_outputs_of_its_own_held_out_rows():
    colours = np.array(["red", "white"] * 300)
    inputs = pd.DataFrame({"colour": colours, "x": np.arange(600.0)})
    later = pd.DataFrame({"colour": ["red"] * 60 + ["white"] * 10, "x": np.arange(70.0)})
    values = np.linspace(5, 6, 70)
    made = mooring.baseline(
        inputs, predictions=np.zeros(600), evaluation=(values, values, later), segments=["colour"]
    )
    red, white = made.segments["colour"]["red"], made.segments["colour"]["white"]
    assert (red.in_sample, white.in_sample, made.in_sample) == ([], ["prediction"], [])
    assert red.features["prediction"].profile.values.minimum == 5.0
    blind = mooring.baseline(inputs, evaluation=(values, values), segments=["colour"])
    assert blind.segments["colour"]["red"].in_sample == ["prediction"]
    assert blind.segments["colour"]["red"].digest == profile_of(blind.segments["colour"]["red"]).digest


def test_in_sample_outputs_have_values_but_alarm_only_against_earlier_windows():
    made = trained()
    first, *later = windows(made, 6)
    found = judge(made, [first])
    ours = [one for one in found.results if one.feature == "prediction"]
    assert [one.value for one in ours if one.measure == "ks"] > [0.1]
    assert not any(one.alarm or one.p_value is not None or one.excess is not None for one in ours)
    assert found.unwatched == ["prediction"]
    assert judge(trained(held_out=True), [first]).features == ["prediction"]

    before = first
    for one in later:
        found = judge(made, [one], before=before)
        assert (found.features, found.unwatched) == ([], [])
        before = before + one
    assert judge(made, windows(made, 1, spread=2.0), before=before).features == ["prediction"]


def test_fixed_thresholds_and_past_windows_hold_for_in_sample_outputs_too():
    made = trained()
    [first] = windows(made, 1)
    assert judge(made, [first], AlarmRules(thresholds={"prediction.ks": 0.1})).features == ["prediction"]
    names = ["ks", "js", "out_of_range_rate", "null_rate"]
    usual = [
        [{one.measure: one.value for one in values_of("prediction", made.features["prediction"], each)}[name]
         for name in names]
        for each in (one.features["prediction"] for one in windows(made, 41)[1:])
    ]  # fmt: skip
    past = {"prediction": PastStatistics([(name, 1) for name in names], np.array(usual))}
    rules = AlarmRules(0.05)  # of 40 windows nothing is surer than 1 in 41
    assert judge(made, [first], rules, past=past).features == []
    assert judge(made, windows(made, 1, spread=0.2), rules, past=past).features == ["prediction"]


def test_a_baseline_of_outputs_alone_can_be_judged():
    made = make({"p": pa.array([1.0, 2.0] * 50)}, roles={"p": "output"}, held_out=False)
    found = judge(made, [window(made, {"p": [3.0] * 50})])
    assert (found.severity, found.p_value) == ("ok", 1.0)


def test_blocks_compare_in_sample_outputs_with_the_windows_before_them_alone():
    made = trained()
    history, reference, seen = PastWindows(), profile_of(made), []
    for one in windows(made, 8):
        for _, before, block in history.blocks(reference, one):
            found = p_values(made, before, block)
            seen.append(found.get("prediction"))
            assert "x" in found
        history = history.after(one)
    assert seen[0] is None
    assert all(one.p_value > 1e-3 for one in seen[1:] if one is not None)
    assert sum(one is not None for one in seen) >= 8
    [moved] = windows(made, 1, spread=2.0)
    [(_, before, block)] = history.blocks(reference, moved)
    assert p_values(made, before, block)["prediction"].p_value < 1e-6
    assert "prediction" not in p_values(made, reference, moved)


def test_a_baseline_of_before_has_in_sample_outputs_unless_it_is_of_the_log():
    made = make(arrow(sample(100, 0)), roles={"prediction": "output"})

    def older(about: dict[str, str]) -> bytes:
        old = msgspec.structs.replace(made, about=about)
        for feature in old.features.values():
            feature.held_out = False  # what is read where nothing was written
        return old.to_bytes()

    assert Baseline.from_bytes(older({"data": "train.csv"})).in_sample == ["prediction"]
    assert Baseline.from_bytes(older({"log": "mooring-log"})).in_sample == []
    assert not BaselineParts.from_bytes(older({"log": "mooring-log"})).feature("prediction").in_sample


def test_a_file_has_in_sample_predictions_unless_it_is_said(tmp_path: Path):
    file = tmp_path / "train.csv"
    pd.DataFrame({"x": np.arange(50.0), "p": np.arange(50.0), "y": np.arange(50.0)}).to_csv(file, index=False)
    assert from_data(str(file), ["p"], "y").in_sample == ["prediction"]
    assert from_data(str(file), ["p"], "y", held_out=True).in_sample == []
    assert from_data(str(file), ["p"], "y", held_out=True).performance.about == "held-out rows"


def test_a_baseline_is_shown_with_what_is_in_sample(tmp_path: Path):
    rows = pd.DataFrame({"x": np.arange(50.0), "p": np.arange(50.0)})
    rows.to_csv(tmp_path / "train.csv", index=False)
    build = "baseline", "build", "--model", "wine", "--data", "train.csv", "--prediction", "p"
    built = mooring_here(*build, directory=tmp_path)
    assert "prediction is in-sample" in built.stderr
    shown = mooring_here("baseline", "show", "--model", "wine", directory=tmp_path)
    assert "in-sample output" in shown.stdout
    assert "prediction is in-sample" in shown.stderr
    assert "in-sample" not in mooring_here(*build, "--held-out", directory=tmp_path).stderr
    told = json.loads(mooring_here("baseline", "show", "--model", "wine", "--json", directory=tmp_path).stdout)
    assert {one["feature"]: one["in_sample"] for one in told["features"]} == {"x": False, "prediction": False}


def test_a_comparison_says_that_in_sample_predictions_are_not_judged():
    found = mooring.compare(trained(), pd.DataFrame(sample(300, 1)))
    assert "prediction" in repr(found).splitlines()[-1]
    assert not found.drifted


class Overfit(Traffic):
    """Traffic of a model that is surer of the rows that it was trained on, and may begin to predict otherwise."""

    offset = 0.0

    def baseline(self, rows: int = 3000) -> Baseline:
        columns = {name: pa.array(values) for name, values in self.columns(rows).items()}
        spread = 5 + 1.5 * (np.asarray(columns["alcohol"]) / 2 - 5)
        return make(columns | {"prediction": pa.array(spread)}, roles={"prediction": "output"}, held_out=False)

    def exchanges(self, rows: int, start: datetime = START, seconds: float = 1.0, **more: Any) -> list[Exchange]:
        found = super().exchanges(rows, start, seconds, per_request=1, **more)
        for one in found:
            said = json.loads(one.response)["predictions"]
            one.response = json.dumps({"predictions": [value + self.offset for value in said]}).encode()
        return found


def test_the_monitor_watches_in_sample_predictions_once_the_log_has_earlier_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    without_mlflow(tmp_path, monkeypatch)
    traffic = Overfit(tmp_path / "log")
    monitoring = Monitoring(settings(traffic.log, f"sqlite:///{tmp_path}/state.db", window=3600.0))
    monitoring.keep(traffic.baseline())

    def hours(first: int, count: int) -> list[str]:
        for hour in range(first, first + count):
            traffic.write(traffic.exchanges(300, START + timedelta(hours=hour)))
        monitoring.watch.look()
        return [status for _, status in monitoring.verdicts()][first:]

    assert hours(0, 6) == ["ok"] * 6
    first, second, *_ = (judged.verdict.message for judged in Windows(monitoring.state).history("wine"))
    assert "prediction: not judged yet" in first
    assert second == ""
    traffic.offset = 0.5
    assert hours(6, 1) == ["critical"]
    [incident] = Incidents(monitoring.state).newest("wine")
    assert incident.features == ("prediction",)
    traffic.offset = 0.0
    assert hours(7, 6)[-1] == "ok"
