"""The monitor estimates performance before there are labels, by the held-out rows beside the baseline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner
from scipy import stats

import mooring
from labelling import HOUR
from mlflow_store import new_store
from monitoring import START, Monitoring, Traffic, settings
from mooring.cli import main
from mooring.log.labels import labels_table, write_labels
from mooring.log.listing import open_log
from mooring.log.reader import find, read_log
from mooring.monitor.alerting.channels import Channel, CommandChannel
from mooring.monitor.performance_results import as_dicts, assessments, estimations
from mooring.monitor.samples import sample_of, smallest
from mooring.registry import baselines
from mooring.report.from_state import whole_report
from mooring.state.alerts import Alerts
from mooring.state.estimations import Estimation, Estimations
from mooring.state.incidents import Incidents, StreamStates
from mooring.state.windows import Windows
from mooring.ui.pages.incident import IncidentQuery
from mooring.ui.pages.incident import told as incident_page
from mooring.ui.pages.model import ModelQuery
from mooring.ui.pages.model import told as model_page
from mooring.ui.sources import Sources


class LinkedTraffic(Traffic):
    """Traffic of which alcohol and sugar go together by a correlation of their normal scores."""

    together = 0.0

    def columns(self, rows: int, shift: float = 0.0) -> dict[str, Any]:
        found = super().columns(rows, shift)
        if self.together:
            score = found["alcohol"] - 10 - shift
            other = self.together * score + np.sqrt(1 - self.together**2) * self.rng.normal(size=rows)
            found["sugar"] = stats.expon.ppf(stats.norm.cdf(other), scale=5).round(3)
        return found


class Estimating:
    """Traffic of a registered model that errs the more the more alcohol there is, and a monitor of it."""

    def __init__(
        self,
        directory: Path,
        held_out: int = 1500,
        keep_rows: int = 2000,
        channels: Sequence[Channel] = (),
        together: float = 0.0,
        **changed,
    ) -> None:
        self.directory = directory
        self.traffic = LinkedTraffic(directory / "log")
        self.traffic.together = together
        self.rng = np.random.default_rng(3)
        client = mlflow.MlflowClient()
        client.create_registered_model("wine")
        inputs, labels, said = self.labelled(held_out)
        run_id = client.create_run("0").info.run_id
        mooring.log_baseline(
            self.traffic.columns(2000), evaluation=(labels, said, inputs), keep_rows=keep_rows, run_id=run_id
        )
        source = directory / "model"
        source.mkdir()
        (source / "MLmodel").write_text("flavors: {}\n")
        client.create_model_version("wine", source=f"file://{source}", run_id=run_id)
        chosen = settings(directory / "log", f"sqlite:///{directory}/state.db", settle=0.0, **changed)
        self.monitoring = Monitoring(chosen, channels)

    def labelled(self, rows: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        inputs = self.traffic.columns(rows)
        said = inputs["alcohol"] / 2
        return inputs, said + self.noise(inputs["alcohol"]), said

    def noise(self, alcohol: np.ndarray) -> np.ndarray:
        return self.rng.normal(size=len(alcohol)) * np.exp((alcohol - 10) / 2)

    def ask(self, hour: int, rows: int = 1000, shift: float = 0.0, start: datetime = START) -> None:
        sent = self.traffic.exchanges(rows, start + hour * HOUR, 1.0, shift=shift, version="1", per_request=1)
        self.traffic.write(sent)

    def label(self, rows: pd.DataFrame, labels: np.ndarray) -> None:
        columns = (rows["request_id"], labels, rows["row"], rows["time"].dt.tz_convert(None))
        table = labels_table(*(pa.chunked_array([pa.array(one)]) for one in columns))
        write_labels(str(self.traffic.log), "wine", table)

    @property
    def sources(self) -> Sources:
        return Sources(self.monitoring.state, str(self.traffic.log), self.directory / "spool", "")

    def look(self, **how) -> list[Estimation]:
        self.monitoring.watch.look(**how)
        return self.found()

    def found(self) -> list[Estimation]:
        return Estimations(self.monitoring.state).history("wine")


@pytest.fixture
def it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Estimating:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))
    return Estimating(tmp_path)


def test_a_move_to_where_the_model_errs_opens_an_incident_before_any_label(it: Estimating) -> None:
    it.ask(0)
    it.ask(1, shift=1.5)
    before, after = it.look()
    assert (before.status, after.status) == ("ok", "critical")
    # E|e| is √(2/π) · E exp(x/2): after a shift of 1.5 it is exp(0.75) = 2.1 times as large.
    assert after.loss is not None
    assert after.loss.now / after.loss.before == pytest.approx(2.1, rel=0.2)
    held_out = before.measures["mae"].held_out
    assert held_out == pytest.approx(0.9, abs=0.1)
    assert before.measures["mae"].low < held_out < before.measures["mae"].high
    assert "estimated rmse" in after.message
    assert "larger errors are expected; because of alcohol (+" in after.message
    assert after.causes is not None
    assert after.causes.low > 0
    assert after.causes.features[0].feature == "alcohol"
    assert model_page(it.sources, ModelQuery(), "wine").estimates.causes == after.causes
    [incident] = [one for one in Incidents(it.monitoring.state).newest("wine") if one.kind == "estimated"]
    assert (incident.severity, incident.features, incident.start) == ("critical", ("rmse",), START + HOUR)
    kinds = {one.kind for one in StreamStates(it.monitoring.state).of_version("wine", "1", "champion")}
    assert kinds == {"drift", "joint", "estimated"}


def test_a_move_that_does_no_harm_opens_none(it: Estimating) -> None:
    for hour in range(3):
        it.ask(hour, shift=-1.0)
    assert [one.status for one in it.look()] == ["ok"] * 3
    assert {one.kind for one in Incidents(it.monitoring.state).newest("wine")} == {"drift"}


@pytest.mark.parametrize("times", [1.0, 2.0])
def test_labels_that_come_later_score_the_estimate(it: Estimating, times: float) -> None:
    it.ask(0)
    it.look()
    rows = read_log(it.traffic.log).to_pandas()
    noise = it.noise(np.array([one["alcohol"] for one in rows["input"]]))
    said = np.array([one["prediction"] for one in rows["output"]])
    it.label(rows, said + times * noise)
    it.look()
    state = it.monitoring.state
    found = assessments(state, "wine")
    [one] = as_dicts(found, estimations(state, found))
    as_before = times == 1
    assert one["status"] == ("ok" if as_before else "critical")
    assert one["estimated"]["status"] == "ok"
    assert one["estimated"]["measures"]["rmse"]["refuted"] is not as_before
    shown = model_page(it.sources, ModelQuery(), "wine").estimates
    assert (shown.scored, shown.held, shown.harm) == (1, int(as_before), "none" if as_before else "measured")
    assert "estimated without labels" in whole_report(state, "wine").lower()
    table = mooring.performance("wine", state=it.monitoring.settings.state)
    assert table.set_index("measure")["estimated"].notna()[["rmse", "mae"]].all()


def test_pages_and_commands_show_estimates_before_any_label(it: Estimating) -> None:
    it.ask(0)
    it.ask(1, shift=-1.0)
    it.look()
    shown = model_page(it.sources, ModelQuery(), "wine").estimates
    assert (shown.measure, shown.status, shown.harm, shown.scored) == ("rmse", "ok", "harmless", 0)
    assert shown.text.startswith("moved, harmless if labels given the inputs are what they were: estimated rmse")
    assert "moved, harmless if labels" in whole_report(it.monitoring.state, "wine")
    asked = ["performance", "--state", it.monitoring.settings.state]
    told = CliRunner().invoke(main, [*asked, "--json"])
    assert told.exit_code == 0, told.output
    assert [one["estimated"]["status"] for one in json.loads(told.output)] == ["ok", "ok"]
    assert [one["labelled"] for one in json.loads(told.output)] == [0, 0]
    assert "rmse" in CliRunner().invoke(main, asked).output


def test_four_calm_windows_end_it(it: Estimating) -> None:
    it.ask(0, shift=1.5)
    for hour in range(1, 5):
        it.ask(hour, shift=-0.3)
    it.look()
    [incident] = [one for one in Incidents(it.monitoring.state).newest("wine") if one.kind == "estimated"]
    assert incident.closed == it.found()[-1].window.end


def test_each_window_is_estimated_once_and_again_when_it_has_more_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))
    it = Estimating(tmp_path, window=20 * 365 * 86_400.0, keep=40 * 365 * 86_400.0)  # it goes on for years
    it.ask(0, rows=400)
    [first] = it.look(provisional=True)
    assert (first.window.status, first.rows) == ("open", 400)
    it.look(provisional=True)
    assert it.found() == [first]
    it.ask(1, rows=300)
    assert [one.rows for one in it.look()] == [400]
    assert [one.rows for one in it.look(provisional=True)] == [700]
    it.ask(2, rows=400)
    assert [(one.window.status, one.rows) for one in it.look()] == [("closed", 1000)]


def test_rows_that_held_out_ones_can_not_speak_for_give_no_number(it: Estimating) -> None:
    it.ask(0, shift=9.0)
    [one] = it.look()
    assert (one.status, one.measures) == ("too_few", {})
    assert one.message.startswith("can't tell: ")
    assert "of the rows are where held-out rows are too few" in one.message
    assert one.outside > 0.9


def test_without_held_out_rows_nothing_is_estimated_and_it_is_said_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))
    it = Estimating(tmp_path, keep_rows=0)
    assert baselines.find_rows("wine", "1") is None
    it.ask(0)
    assert it.look() == []
    [said] = [one for one in it.monitoring.said if "not estimated" in one]
    assert "the baseline of version 1 of wine came without rows" in said
    assert "evaluation=(labels, predictions, inputs)" in said


def test_too_few_held_out_rows_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))
    it = Estimating(tmp_path, held_out=60)
    it.ask(0)
    [one] = it.look()
    assert (one.status, one.measures) == ("no_baseline", {})
    assert one.joint is not None
    assert any("60 held-out rows with labels" in one for one in it.monitoring.said)


def test_windows_that_the_log_has_forgotten_are_asked_for_once(it: Estimating) -> None:
    it.ask(0)
    it.monitoring.watch.watch.drift.look(open_log(str(it.traffic.log)))
    shutil.rmtree(it.traffic.log / "inferences")
    samples = it.monitoring.watch.watch.samples
    assert samples.look() == 1
    [one] = it.found()
    assert (one.status, one.message) == ("too_few", "can't tell: the log no longer has its rows")
    assert samples.look() == 0


def test_estimates_may_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))
    it = Estimating(tmp_path, estimates=False)
    it.ask(0)
    assert it.look() == []


@pytest.mark.parametrize("days", [0, 3])
def test_whoever_wants_to_know_is_told_once_and_not_of_what_is_long_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))
    it = Estimating(tmp_path, channels=[CommandChannel(["true"])])
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - days * 24 * HOUR - 4 * HOUR
    told = []
    for hour, shift in enumerate((0.0, 1.5, 1.5)):
        it.ask(hour, shift=shift, start=start)
        it.look()
        there = Alerts(it.monitoring.state).newest("wine")
        told.append([one.payload for one in there if one.kind.startswith("estimated")])
    if days:
        assert told == [[], [], []]
        return
    assert [len(one) for one in told] == [0, 1, 1]
    payload = json.loads(told[1][0])
    assert payload["about"] == "estimated"
    assert "without labels yet, it is estimated to do worse than in training (critical)" in payload["text"]
    assert payload["measures"]["mae"]["value"] > 1.5


def test_the_sample_is_of_whole_requests_and_the_same_in_any_order(tmp_path: Path) -> None:
    traffic = Traffic(tmp_path / "log")
    sent = traffic.exchanges(3000, START, 1.0, version="1", per_request=10)
    for part in range(3):
        traffic.write(sent[part::3])
    state = Monitoring(settings(tmp_path / "log", f"sqlite:///{tmp_path}/state.db", settle=0.0))
    state.watch.look()
    window = max((one.window for one in Windows(state.state).history("wine")), key=lambda one: one.rows)
    sample = sample_of(find(tmp_path / "log", model="wine"), window, 200)
    assert sample.rows == 200
    assert np.bincount(sample.groups).tolist() == [10] * 20
    assert set(sample.inputs) == {"alcohol", "sugar", "colour"}
    assert set(sample.outputs) == {"prediction"}


def test_a_sample_of_parts_is_that_of_the_whole() -> None:
    random = np.random.default_rng(0)
    ids = np.array([f"r{number}" for number in random.integers(0, 80, 400)])
    table = pa.table({"\0request_id": ids, "\0row": np.arange(400), "x": random.normal(size=400)})
    whole = smallest([table], 50)
    for _ in range(20):
        shuffled = table.take(random.permutation(400))
        cuts = np.sort(random.integers(0, 401, 3))
        parts = [shuffled.slice(a, b - a) for a, b in zip([0, *cuts], [*cuts, 400], strict=True)]
        assert smallest(parts, 50).equals(whole)


@pytest.mark.parametrize("flipped", [False, True])
def test_features_that_no_longer_go_together_open_an_incident(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flipped: bool
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))
    it = Estimating(tmp_path, together=0.6)
    it.ask(0)
    it.traffic.together = -0.6 if flipped else 0.6
    it.ask(1)
    before, after = it.look()
    assert before.joint is not None
    assert after.joint is not None
    assert before.joint.status == "ok"
    assert after.joint.status == ("critical" if flipped else "ok")
    state = it.monitoring.state
    found = [one for one in Incidents(state).newest("wine") if one.kind == "joint"]
    assert [one.features for one in found] == ([("alcohol × sugar",)] if flipped else [])
    assert "drift" not in {one.kind for one in Incidents(state).newest("wine")}
    page = model_page(it.sources, ModelQuery(), "wine")
    assert page.together is not None
    assert ("features no longer go together as they did: alcohol and sugar" in page.together.message) == flipped
    if flipped:
        shown = incident_page(it.sources, IncidentQuery(), "wine", found[0].id)
        [pair] = shown.features
        assert (pair.name, pair.value < -0.4, pair.reference > 0.4) == ("alcohol × sugar", True, True)
        assert [one.status for one in shown.windows] == ["critical"]
