"""The monitor joins labels to the rows of the log, and says how well the model does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner
from sklearn import metrics

import mooring
from labelling import HOUR, Labelling, by_hand, values
from mlflow_store import new_store
from monitoring import START, Monitoring, Traffic
from mooring.cli import main
from mooring.comparison import evaluated
from mooring.ids import new_request_id
from mooring.log.labels import labels_table, write_labels
from mooring.log.listing import open_log
from mooring.log.reader import read_log
from mooring.monitor.alerting.channels import CommandChannel
from mooring.monitor.loop import run
from mooring.monitor.performance_results import as_dicts as performance_dicts
from mooring.monitor.results import as_dicts
from mooring.report.from_state import small_report, whole_report
from mooring.state.alerts import Alerts
from mooring.state.assessments import Assessments
from mooring.state.incidents import Incidents
from mooring.state.windows import Windows
from mooring.ui.pages.model import ModelQuery
from mooring.ui.pages.model import told as page_of_model
from mooring.ui.sources import Sources


def test_performance_of_a_window_is_that_of_its_labelled_rows(tmp_path: Path) -> None:
    it = Labelling(tmp_path, budget="0.001 per window")
    it.ask(300)
    rows = it.rows()
    labelled = it.label(rows.iloc[:300].sample(200, random_state=0))
    [one] = it.look()
    assert values(one) == pytest.approx(by_hand(labelled))
    assert (one.rows, one.labelled, one.coverage) == (300, 200, pytest.approx(2 / 3))
    assert (one.status, one.look, one.delay) == ("ok", 1, pytest.approx(3600))
    assert one.budget == pytest.approx(0.0005)
    low, high = one.measures["rmse"].low, one.measures["rmse"].high
    assert low is not None
    assert high is not None
    assert low < one.measures["rmse"].value < high
    assert one.before["rmse"] == pytest.approx(0.5, abs=0.03)


def test_labels_of_bad_outcomes_that_come_first_give_no_verdict_until_all_are_there(tmp_path: Path) -> None:
    it = Labelling(tmp_path, segment=("colour",))
    it.ask(600)
    rows = it.rows()
    labelled = rows.assign(label=rows["prediction"] + it.rng.normal(0, 0.5, 600)).sort_values("label")
    it.label_as(labelled.iloc[:150])
    [one] = it.look()
    assert (one.status, one.look, one.labelled) == ("too_few", 0, 150)
    assert "labelled so far, and not at random: prediction of rows with labels differs" in one.message
    assert values(one) == pytest.approx(by_hand(labelled.iloc[:150]))
    assert performance_dicts([one])[0]["status"] == "too_few"
    it.label_as(labelled.iloc[150:])
    [one] = it.look()
    assert (one.status, one.look, one.coverage) == ("ok", 1, 1.0)


def test_rows_that_got_no_answer_do_not_make_labels_of_the_others_less_random(tmp_path: Path) -> None:
    it = Labelling(tmp_path)
    sent = it.traffic.exchanges(600, START, 1.0, per_request=1)
    it.traffic.write(
        [
            msgspec.structs.replace(one, response=b'{"predictions": [null]}') if at % 3 == 0 else one
            for at, one in enumerate(sent)
        ]
    )
    rows = it.rows()
    it.label(rows[rows["prediction"].notna()].sample(200, random_state=0))
    [one] = it.look()
    assert (one.status, one.labelled, one.rows) == ("ok", 200, 600)


def test_labels_of_one_segment_first_give_no_verdict(tmp_path: Path) -> None:
    """What the model says of that segment is like what it says of others."""
    it = Labelling(tmp_path, segment=("colour",))
    it.ask(600)
    colours = read_log(it.log, columns=["request_id", "row", "input.colour"]).to_pandas()
    rows = it.rows().merge(colours, on=["request_id", "row"])
    it.label(rows[rows["input.colour"] == "red"])
    [one] = it.look()
    assert one.status == "too_few"
    assert "labelled so far, and not at random: colour" in one.message


def test_a_verdict_is_withdrawn_when_labels_turn_out_not_to_be_random(tmp_path: Path) -> None:
    it = Labelling(tmp_path)
    it.ask(600)
    rows = it.rows()
    it.label(rows.iloc[:60], noise=1.5)
    [one] = it.look()
    assert (one.status, one.look) == ("critical", 1)
    it.label(rows.iloc[60:].sort_values("prediction").iloc[:200])
    [one] = it.look()
    assert (one.status, one.look, one.judged) == ("too_few", 1, 60)
    it.label(rows, late=2 * HOUR)
    [one] = it.look()
    assert (one.status, one.look) == ("ok", 2)


def test_a_window_is_judged_once_more_when_all_its_rows_have_labels(tmp_path: Path) -> None:
    it = Labelling(tmp_path)
    it.ask(300)
    rows = it.rows()
    it.label(rows.iloc[:250])
    [one] = it.look()
    assert (one.look, one.judged) == (1, 250)
    it.label(rows.iloc[250:])
    [one] = it.look()
    assert (one.look, one.judged) == (2, 300)
    it.label(rows.iloc[:10], late=2 * HOUR)
    [one] = it.look()
    assert one.look == 2


def test_without_labels_nothing_is_said_of_performance(tmp_path: Path) -> None:
    it = Labelling(tmp_path)
    it.ask(300)
    assert it.look() == []
    said = [line for line in it.monitoring.said if not line.startswith("performance is not estimated")]
    assert not any("label" in line for line in said)


def test_labels_that_came_before_their_rows_are_found_when_the_window_ends(tmp_path: Path) -> None:
    it = Labelling(tmp_path)
    it.ask(100)
    it.look()
    later = it.traffic.exchanges(300, START + HOUR, 1.0)
    other = Labelling(tmp_path / "other")
    other.traffic.write(later)
    rows = other.rows()
    labelled = it.label(rows)
    [first] = it.look()
    assert (first.status, first.message) == ("too_few", "no labels yet")
    it.traffic.write(later)
    [_, one] = it.look()
    assert one.labelled == 300
    assert values(one) == pytest.approx(by_hand(labelled))


def test_a_window_has_its_share_of_the_time_in_which_one_false_alarm_may_be(tmp_path: Path) -> None:
    it = Labelling(tmp_path, false_alarms="1 per 30d")
    it.ask(300)
    it.label(it.rows())
    [one] = it.look()
    # An hour of 30 days, which drift and performance share; half of it is the first look's.
    assert one.budget == pytest.approx(1 / (24 * 30) / 2 / 2)


def test_late_corrected_and_repeated_labels_count_once_the_latest_wins(tmp_path: Path) -> None:
    it = Labelling(tmp_path, budget="0.001 per window")
    it.ask(300)
    rows = it.rows().iloc[:300]
    it.label(rows.iloc[:100])
    [one] = it.look()
    assert (one.labelled, one.look) == (100, 1)
    # Too few more to be judged again, but they are counted; some of them are known already.
    second = it.label(rows.iloc[80:120], late=2 * HOUR)
    [one] = it.look()
    assert (one.labelled, one.look, one.judged) == (120, 1, 100)
    third = it.label(rows.iloc[:300], late=3 * HOUR)
    [one] = it.look()
    assert (one.labelled, one.look, one.budget) == (300, 2, pytest.approx(0.00025))
    assert values(one) == pytest.approx(by_hand(third))
    # What became known earlier does not count, though it is read later.
    it.label(rows.iloc[:50], noise=100.0, late=HOUR / 2)
    [one] = it.look()
    assert values(one) == pytest.approx(by_hand(third))
    assert len(second) == 40


def test_labels_may_name_the_clients_ids_and_unknown_ones_are_told(tmp_path: Path) -> None:
    it = Labelling(tmp_path)
    sent = it.traffic.exchanges(300, START, 1.0)
    named = [msgspec.structs.replace(one, client_request_id=f"order {at}") for at, one in enumerate(sent)]
    it.traffic.write(named)
    labelled = it.label(it.rows().iloc[:300], ids="client_request_id")
    strangers = labels_table(
        pa.chunked_array([["nobody", "0190a000-0000-7000-8000-000000000000"]]), pa.chunked_array([[1.0, 2.0]])
    )
    write_labels(str(it.log), "wine", strangers)
    [one] = it.look()
    assert values(one) == pytest.approx(by_hand(labelled))
    assert any("2 of 32 requests that labels name are not in the log" in line for line in it.monitoring.said)


def test_a_label_is_of_every_request_that_has_its_id_on_whatever_day(tmp_path: Path) -> None:
    it = Labelling(tmp_path)
    old = new_request_id(int((START - 9 * 24 * HOUR).timestamp() * 1e9))  # an order's, long before it was scored
    ids = [old, *(f"order {at}" for at in range(1, 100))]
    for hour in (0, 30):
        sent = zip(it.traffic.exchanges(100, START + hour * HOUR, 1.0, per_request=1), ids, strict=True)
        it.traffic.write([msgspec.structs.replace(one, client_request_id=id_) for one, id_ in sent])
    it.label(it.rows().iloc[:50], ids="client_request_id")
    assert [one.labelled for one in it.look()] == [50, 50]
    # Labels that come later touch both windows, too.
    it.label(it.rows().iloc[:60], ids="client_request_id", late=2 * HOUR)
    assert [one.labelled for one in it.look()] == [60, 60]


def test_only_new_labels_are_read_and_only_their_windows_are_assessed(tmp_path: Path) -> None:
    it = Labelling(tmp_path)
    for hour in range(3):
        it.ask(100, hour=hour)
    rows = it.rows()
    it.label(rows.iloc[:300])
    before = {one.window.id: one for one in it.look()}
    assert len(before) == 3
    it.monitoring.said.clear()
    assert {one.window.id: one for one in it.look()} == before
    assert not any("label" in line for line in it.monitoring.said)
    it.label(rows.iloc[100:200], late=2 * HOUR)
    after = {one.window.id: one for one in it.look()}
    changed = [name for name in after if after[name] != before[name]]
    assert changed == [it.found()[1].window.id]


def test_a_model_that_does_worse_alarms_and_is_told_of_once(tmp_path: Path) -> None:
    it = Labelling(tmp_path)
    it.monitoring = Monitoring(it.monitoring.settings, channels=[CommandChannel(["true"])])
    errors = (0.5, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5)
    for hour in range(len(errors)):
        it.ask(200, hour=hour)
    rows = it.rows()
    for hour, noise in enumerate(errors):
        it.label(rows.iloc[200 * hour : 200 * (hour + 1)], noise=noise)
        it.look()
        [*open_ones] = [one for one in Incidents(it.monitoring.state).newest("wine") if one.closed is None]
        assert len(open_ones) == (1 <= hour < len(errors) - 1)
    assert [one.status for one in it.found()] == ["ok", "critical", "critical", *["ok"] * 4]
    [incident] = Incidents(it.monitoring.state).newest("wine")
    assert (incident.kind, incident.severity, incident.features) == ("performance", "critical", ("rmse",))
    assert (incident.start, incident.closed) == (it.found()[1].window.start, it.found()[-1].window.end)
    assert "worse than" in it.found()[1].message
    told = [
        msgspec.json.decode(one.payload)
        for one in Alerts(it.monitoring.state).newest("wine")
        if "performance" in one.kind
    ]
    assert [one["kind"] for one in told[::-1]] == ["new", "ended"]
    assert {one["about"] for one in told} == {"performance"}
    assert told[1]["severity"] == "critical"
    assert told[1]["measures"]["rmse"]["value"] == pytest.approx(1.0, abs=0.15)


def test_few_labels_wait_for_more_and_a_model_without_a_baseline_is_measured(tmp_path: Path) -> None:
    it = Labelling(tmp_path)
    it.ask(300)
    it.label(it.rows().iloc[:20])
    [one] = it.look()
    assert (one.status, one.look, one.labelled) == ("too_few", 0, 20)
    assert "fewer than the 30 wanted" in one.message
    bare = Labelling(tmp_path / "bare")
    bare.monitoring.keep(bare.traffic.baseline())
    bare.ask(300)
    labelled = bare.label(bare.rows().iloc[:300])
    [one] = bare.look()
    assert one.status == "no_baseline"
    assert "evaluation=" in one.message
    assert values(one) == pytest.approx(by_hand(labelled))


def test_windows_are_judged_once_there_is_a_baseline_that_they_can_be_judged_by(tmp_path: Path) -> None:
    it = Labelling(tmp_path)
    it.monitoring.keep(it.traffic.baseline())
    it.ask(300)
    it.label(it.rows(), noise=1.0)
    [one] = it.look()
    assert one.status == "no_baseline"
    it.monitoring.keep(it.baseline)
    [one] = it.look()
    assert (one.status, one.look) == ("critical", 1)


def test_an_open_window_is_assessed_where_only_one_look_is_taken(tmp_path: Path) -> None:
    it = Labelling(tmp_path)
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    it.traffic.write(it.traffic.exchanges(300, now, 0.001))
    it.label(it.rows())
    assert it.look() == []
    [one] = it.look(provisional=True)
    assert one.labelled == 300
    assert Assessments(it.monitoring.state).history("wine", variant="champion", status="closed") == []


def test_segments_have_their_own_performance(tmp_path: Path) -> None:
    it = Labelling(tmp_path, segment=("colour", "alcohol"))
    it.ask(600, per_request=1)
    rows = it.rows().iloc[:600]
    colours = read_log(it.log, columns=["request_id", "input.colour", "input.alcohol"]).to_pandas()
    labelled = it.label(rows).merge(colours, on="request_id")
    [one] = it.look()
    found = {segment.value: segment for segment in one.segments if segment.column == "colour"}
    assert set(found) == {"red", "white", "rosé"}
    for colour, part in labelled.groupby("input.colour"):
        assert found[colour].labelled == found[colour].rows == len(part)
        assert found[colour].measures["rmse"].value == pytest.approx(by_hand(part)["rmse"])
    quarters = [segment.labelled for segment in one.segments if segment.column == "alcohol"]
    assert sum(quarters) == 600
    assert len(quarters) == 4
    assert min(quarters) > 100


def test_labels_of_another_kind_than_in_training_are_said_not_judged(tmp_path: Path) -> None:
    it = Labelling(tmp_path)
    it.ask(300)
    rows = it.rows().iloc[:300]
    table = labels_table(
        pa.chunked_array([pa.array(rows["request_id"])]),
        pa.chunked_array([["good"] * 300]),
        pa.chunked_array([pa.array(rows["row"])]),
    )
    write_labels(str(it.log), "wine", table)
    [one] = it.look()
    assert (one.status, one.labelled) == ("no_baseline", 300)
    assert "predicts numbers" in one.message


def test_one_label_that_is_no_number_does_not_keep_a_window_from_being_judged(tmp_path: Path) -> None:
    it = Labelling(tmp_path)
    it.ask(300)
    rows = it.rows()
    it.label(rows, noise=1.0)
    odd = labels_table(pa.chunked_array([rows["request_id"].tolist()[:1]]), pa.chunked_array([["unknown"]]))
    write_labels(str(it.log), "wine", odd)
    [one] = it.look()
    assert (one.status, one.judged, one.labelled) == ("critical", 299, 300)


def test_a_monitor_that_is_to_stop_writes_what_it_has_and_goes_on_there(tmp_path: Path) -> None:
    it = Labelling(tmp_path)
    for hour in range(4):
        it.ask(100, hour=hour)
    it.look()
    it.label(it.rows())
    opened = open_log(str(it.log))
    asked = iter(range(100))
    performance = it.monitoring.watch.watch.performance
    assert performance.look(opened, stopping=lambda: next(asked) >= 3) == 2
    assert [one.look for one in it.found()] == [1, 1]
    it.look()
    assert [one.labelled for one in it.found()] == [100] * 4


def test_metrics_tell_of_the_newest_assessment(tmp_path: Path) -> None:
    from prometheus_client import CollectorRegistry, generate_latest

    it = Labelling(tmp_path)
    it.ask(300)
    it.label(it.rows().iloc[:300])
    it.look()
    registry = CollectorRegistry()
    registry.register(it.monitoring.metrics)
    text = generate_latest(registry).decode()
    stream = 'model="wine",variant="champion",version=""'
    assert re.search(rf'mooring_performance{{measure="rmse",{stream}}} 0\.[45]', text)
    assert f"mooring_performance_status{{{stream}}} 0.0" in text
    assert f"mooring_label_coverage{{{stream}}} 1.0" in text
    assert 'mooring_labels_total{model="wine"} 300.0' in text


def test_what_was_found_is_there_as_data_and_on_the_command_line(tmp_path: Path) -> None:
    it = Labelling(tmp_path, segment=("colour",))
    for hour in range(2):
        it.ask(300, hour=hour)
    rows = it.rows()
    it.label(rows.iloc[:300])
    it.label(rows.iloc[300:], noise=1.0)
    it.look()
    where = it.monitoring.settings.state

    table = mooring.performance("wine", state=where)
    whole = table[table["segment"] == ""].set_index(["start", "measure"])
    assert len(whole) == 8
    newest = whole.loc[START + HOUR].loc["rmse"]
    assert newest["low"] < newest["value"] < newest["high"]
    assert (newest["status"], newest["rows"], newest["coverage"], newest["delay"]) == (
        "critical",
        300,
        1.0,
        3600.0,
    )
    assert "colour=red" in set(table["segment"])

    said = CliRunner().invoke(main, ["performance", "--model", "wine", "--state", where, "--json"])
    assert said.exit_code == 2, said.output
    first, second = json.loads(said.stdout)
    assert (first["status"], second["status"]) == ("ok", "critical")
    assert second["measures"]["rmse"]["value"] == pytest.approx(newest["value"])
    assert {one["value"] for one in first["segments"]} >= {"red", "white"}
    shown = CliRunner().invoke(main, ["performance", "--model", "wine", "--state", where])
    assert shown.exit_code == 2
    assert "300 of 300" in shown.stdout
    assert "critical" in shown.stdout
    none = CliRunner().invoke(main, ["performance", "--state", f"sqlite:///{tmp_path}/none.db"])
    assert none.exit_code == 1


def test_mlflow_has_performance_as_metrics_at_the_windows_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))
    it = Labelling(tmp_path)
    it.ask(300)
    labelled = it.label(it.rows())
    assert run(it.monitoring.settings, once=True)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("mooring/wine")
    [logged] = client.search_runs([experiment.experiment_id])
    [rmse] = client.get_metric_history(logged.info.run_id, "performance/rmse")
    assert rmse.value == pytest.approx(by_hand(labelled)["rmse"])
    assert (rmse.timestamp, rmse.step) == (int((START + HOUR).timestamp() * 1000), 1)
    assert logged.data.metrics["performance/coverage"] == 1.0
    assert logged.data.tags["mooring.performance"] == "ok"
    run(it.monitoring.settings, once=True)
    assert len(client.get_metric_history(logged.info.run_id, "performance/rmse")) == 1


def test_variants_are_told_apart(tmp_path: Path) -> None:
    it = Labelling(tmp_path)
    it.ask(100)
    it.ask(100, variant="canary")
    it.label(it.rows())
    assert {(one.window.variant, one.labelled) for one in it.look()} == {("champion", 100), ("canary", 100)}


def test_the_report_shows_the_measure_over_time(tmp_path: Path) -> None:
    it = Labelling(tmp_path, segment=("colour",))
    for hour in range(3):
        it.ask(200, hour=hour)
    it.label(it.rows().iloc[:400])
    it.look()
    for page in (whole_report(it.monitoring.state, "wine"), small_report(it.monitoring.state, "wine")):
        assert '<section id="performance">' in page
        assert "rmse of each window with its 95" in page
        assert "colour = red" in page
        assert page.count("200 labelled rows") == 1
        assert "wine is well" in page
    it.label(it.rows().iloc[400:], noise=1.0)
    it.look()
    for page in (whole_report(it.monitoring.state, "wine"), small_report(it.monitoring.state, "wine")):
        assert "wine does worse on labelled rows: rmse" in page


class Moved(Traffic):
    """Traffic in which one colour's alcohol is another."""

    shifted = 0.0

    def columns(self, rows: int, shift: float = 0.0) -> dict:
        found = super().columns(rows, shift)
        found["alcohol"] = found["alcohol"] + self.shifted * (found["colour"] == "rosé")
        return found


def test_drift_of_one_segment_is_found_though_the_whole_hardly_moves(tmp_path: Path) -> None:
    it = Labelling(tmp_path, segment=("colour",))
    columns = it.traffic.columns(5000)
    made = mooring.baseline(columns, predictions=columns["alcohol"] / 2, segments=["colour"])
    assert {value: one.rows > 400 for value, one in made.segments["colour"].items()} == {
        "red": True,
        "white": True,
        "rosé": True,
    }
    it.monitoring.keep(mooring.drift.baseline.Baseline.from_bytes(made.to_bytes()))
    it.traffic = Moved(it.log)
    it.ask(900)
    it.look()
    it.traffic.shifted = 1.0
    it.ask(900, hour=1)
    it.look()
    state = it.monitoring.state
    first, second = (judged.verdict for judged in Windows(state).history("wine"))
    assert (first.status, first.budget) == ("ok", pytest.approx(0.00025))
    assert second.status in ("warning", "critical")
    assert "colour=rosé: alcohol" in second.message
    assert "colour=red" not in second.message
    _, told = as_dicts(state, Windows(state).history("wine"))
    assert set(told["segments"]) == {"colour=red", "colour=white", "colour=rosé"}
    assert [name for name, one in told["segments"].items() if one["results"]] == ["colour=rosé"]
    assert "rosé" in whole_report(state, "wine")


def test_a_segment_that_does_worse_is_found_though_the_whole_hardly_does(tmp_path: Path) -> None:
    it = Labelling(tmp_path, segment=("colour",), budget="0.001 per window")
    columns = it.traffic.columns(5000)
    predictions = columns["alcohol"] / 2
    labels = predictions + it.rng.normal(0, 0.5, 5000)
    made = mooring.baseline(
        columns, predictions=predictions, segments=["colour"], evaluation=(labels, predictions, columns)
    )
    assert made.segments["colour"]["rosé"].performance.measures["rmse"] == pytest.approx(0.5, abs=0.05)
    it.monitoring.keep(mooring.drift.baseline.Baseline.from_bytes(made.to_bytes()))
    it.ask(1000)
    it.ask(1000, hour=1)
    rows = it.rows()
    colours = read_log(it.log, columns=["request_id", "input.colour"]).to_pandas()
    rows = rows.merge(colours, on="request_id").sort_values("time")
    it.label(rows.iloc[:1000])
    rosy = rows.iloc[1000:]["input.colour"] == "rosé"
    it.label(rows.iloc[1000:][~rosy])
    it.label(rows.iloc[1000:][rosy], noise=0.9)
    first, second = it.look()
    assert {one.value: one.status for one in first.segments} == {"red": "ok", "white": "ok", "rosé": "ok"}
    assert (first.status, first.budget) == ("ok", pytest.approx(0.00025))
    assert {one.value: one.status for one in second.segments} == {"red": "ok", "white": "ok", "rosé": "critical"}
    assert second.status == "critical"
    assert "colour=rosé: rmse" in second.message
    [*_, told] = performance_dicts(it.found())
    assert {one["value"]: one["status"] for one in told["segments"]}["rosé"] == "critical"


def test_segments_that_the_baseline_does_not_have_are_said(tmp_path: Path) -> None:
    it = Labelling(tmp_path, segment=("colour",))
    it.ask(300)
    it.look()
    assert any("has no segments by colour" in line for line in it.monitoring.said)
    with pytest.raises(ValueError, match="no column flavour"):
        mooring.baseline(it.traffic.columns(200), segments=["flavour"])


def test_a_baseline_keeps_how_well_the_model_did_and_says_on_which_rows() -> None:
    rng = np.random.default_rng(0)
    data, labels = {"x": rng.normal(size=200)}, rng.normal(size=200)
    near, far = labels + rng.normal(0, 0.1, 200), labels + rng.normal(0, 0.5, 200)
    inside = mooring.baseline(data, predictions=near, labels=labels).performance
    assert inside is not None
    assert inside.about.startswith("in-sample")
    held = mooring.baseline(data, predictions=near, labels=labels, evaluation=(labels, far)).performance
    assert held is not None
    assert held.about == "held-out rows"
    assert held.measures["rmse"] == pytest.approx(metrics.root_mean_squared_error(labels, far))
    assert mooring.baseline(data).performance is None
    with pytest.raises(ValueError, match="too few"):
        mooring.baseline(data, evaluation=([1.0], [1.0]))
    with pytest.raises(ValueError, match="is a pair"):
        mooring.baseline(data, evaluation=labels)
    two = np.stack([near, far], axis=1)
    assert "not kept" in mooring.baseline(data, predictions=two, labels=labels).about["performance"]


def test_classes_with_probabilities_are_joined_and_judged(tmp_path: Path) -> None:
    it = Labelling(tmp_path)
    rng = np.random.default_rng(0)

    def shares(rows: int, skill: float) -> tuple[np.ndarray, np.ndarray]:
        truth = rng.choice(["fine", "poor"], rows)
        logit = rng.normal(skill * np.where(truth == "poor", 1, -1), 1.0)
        return truth, (1 / (1 + np.exp(-2 * logit))).round(4)

    def output(poor: np.ndarray) -> pd.DataFrame:
        said = np.where(poor > 0.5, "poor", "fine")
        return pd.DataFrame({"label": said, "proba_fine": 1 - poor, "proba_poor": poor})

    truth, poor = shares(2000, 1.0)
    it.monitoring.keep(evaluated(it.traffic.baseline(), (truth, output(poor))))
    for hour, skill in enumerate((1.0, 0.2)):
        truth, poor = shares(400, skill)
        sent = it.traffic.exchanges(400, START + hour * HOUR, per_request=1)
        answered = [
            msgspec.structs.replace(one, response=json.dumps({"predictions": said}).encode())
            for one, said in zip(sent, ([row] for row in output(poor).to_dict(orient="records")), strict=True)
        ]
        it.traffic.write(answered)
        ids = pa.chunked_array([[one.request_id for one in sent]])
        write_labels(str(it.log), "wine", labels_table(ids, pa.chunked_array([pa.array(truth)])))
    first, second = it.look()
    assert (first.status, second.status, first.task) == ("ok", "critical", "classification")
    both = np.stack([1 - poor, poor], axis=1)
    assert values(second)["log_loss"] == pytest.approx(metrics.log_loss(truth, both))
    assert values(second)["roc_auc"] == pytest.approx(metrics.roc_auc_score(truth == "poor", poor))
    assert values(second)["accuracy"] == pytest.approx(np.mean((poor > 0.5) == (truth == "poor")))
    assert "log_loss" in second.message


def test_a_class_that_the_baseline_never_had_is_told_and_does_not_spoil_the_log_loss(tmp_path: Path) -> None:
    it = Labelling(tmp_path)
    rng = np.random.default_rng(0)

    def output(truth: np.ndarray) -> pd.DataFrame:
        poor = 1 / (1 + np.exp(-2 * rng.normal(np.where(truth == "poor", 1, -1), 1.0)))
        return pd.DataFrame(
            {"label": np.where(poor > 0.5, "poor", "fine"), "proba_fine": 1 - poor, "proba_poor": poor}
        )

    truth = rng.choice(["fine", "poor"], 2000)
    it.monitoring.keep(evaluated(it.traffic.baseline(), (truth, output(truth))))
    sent = it.traffic.exchanges(400, START, per_request=1)
    truth = rng.choice(["fine", "poor"], 400)
    said = output(truth)
    truth = np.where(np.arange(400) < 24, "corked", truth)
    it.traffic.write(
        [
            msgspec.structs.replace(one, response=json.dumps({"predictions": [row]}).encode())
            for one, row in zip(sent, said.to_dict(orient="records"), strict=True)
        ]
    )
    ids = pa.chunked_array([[one.request_id for one in sent]])
    write_labels(str(it.log), "wine", labels_table(ids, pa.chunked_array([pa.array(truth)])))
    [one] = it.look()
    known = truth != "corked"
    shares = said[["proba_fine", "proba_poor"]].to_numpy()[known]
    assert values(one)["log_loss"] == pytest.approx(metrics.log_loss(truth[known], shares))
    assert values(one)["roc_auc"] == pytest.approx(metrics.roc_auc_score(truth[known] == "poor", shares[:, 1]))
    assert values(one)["unknown_class_rate"] == pytest.approx(0.06)
    assert "6.00% of rows are of a class that the baseline never had (corked)" in one.message
    assert "worse than" not in one.message.partition(";")[0]
    assert one.status == "critical"


def test_the_first_labels_do_not_make_the_whole_log_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = Labelling(tmp_path)
    for hour in range(5):
        it.ask(100, hour=hour)
    it.look()
    it.label(it.rows().iloc[200:300])
    from mooring.monitor import joining

    read: list[int] = []
    plain = joining.LoggedRows.read

    def counted(*given):
        rows = plain(*given)
        read.append(rows.table.num_rows)
        return rows

    monkeypatch.setattr(joining.LoggedRows, "read", counted)
    assert [one.labelled for one in it.look()] == [0, 0, 100, 0, 0]
    assert read == [100]
    # Of the others labels may come yet.
    it.label(it.rows().iloc[:100])
    assert [one.labelled for one in it.look()] == [100, 0, 100, 0, 0]


def flagged(it: Labelling, answer: Callable[[float], object], hour: int = 0) -> list[bool]:
    """Let the model answer whether there is much alcohol, and return what it said."""
    sent = it.traffic.exchanges(400, START + hour * HOUR, 1.0, per_request=1)
    said = [json.loads(one.request)["dataframe_split"]["data"][0][0] > 10 for one in sent]
    it.traffic.write(
        [
            msgspec.structs.replace(one, response=json.dumps({"predictions": [answer(each)]}).encode())
            for one, each in zip(sent, said, strict=True)
        ]
    )
    return [each for _, each in sorted(zip(((one.time_ns, one.request_id) for one in sent), said, strict=True))]


def truth_of(it: Labelling, said: list[bool], spelled: Callable[[bool], str]) -> None:
    """Add labels of which nine in ten are what the model said, as a CSV file."""
    ids = it.rows()["request_id"].iloc[-len(said) :]
    lines = [
        f"{id_},{spelled(each if at % 10 else not each)},{(START + 2 * HOUR).isoformat()}\n"
        for at, (id_, each) in enumerate(zip(ids, said, strict=True))
    ]
    file = it.log.parent / "truth.csv"
    file.write_text("request_id,label,time\n" + "".join(lines))
    result = CliRunner().invoke(main, ["labels", "add", str(file), "--log", str(it.log), "--model", "wine"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("answer", "spelled"), [(str, lambda one: str(one).lower()), (bool, lambda one: f"{one:d}.0")]
)
def test_labels_take_the_kind_of_what_the_model_predicts(tmp_path: Path, answer, spelled) -> None:
    it = Labelling(tmp_path)
    held = np.arange(200) % 2 == 0, [answer(one % 2 == 0 or one < 20) for one in range(200)]
    it.monitoring.keep(evaluated(it.traffic.baseline(), held))
    truth_of(it, flagged(it, answer), spelled)
    [one] = it.look()
    assert (one.task, one.look, one.measures["accuracy"].value) == ("classification", 1, 0.9)


def test_where_labels_and_predictions_have_no_class_in_common_all_say_so(tmp_path: Path) -> None:
    it = Labelling(tmp_path)
    held = np.arange(200) % 2 == 0, [str(one % 2 == 0 or one < 20) for one in range(200)]
    it.monitoring.keep(evaluated(it.traffic.baseline(), held))
    truth_of(it, flagged(it, str), lambda one: "yes" if one else "no")
    [one] = it.look()
    assert (one.status, one.labelled, one.measures) == ("no_baseline", 400, {})
    said = (
        "labels and predictions have no class in common: labels are no, yes, the classes of the model False, True"
    )
    assert said in one.message
    shown = CliRunner().invoke(main, ["performance", "--state", it.monitoring.settings.state, "--json"])
    assert said in json.loads(shown.output)[0]["message"]
    assert said in whole_report(it.monitoring.state, "wine")
    sources = Sources(it.monitoring.state, str(it.log), tmp_path / "spool", "")
    assert said in page_of_model(sources, ModelQuery(), "wine").unmeasured
