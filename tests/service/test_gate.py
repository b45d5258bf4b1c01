"""What passes the gate and what it refuses, with real models in a real MLflow."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.models import ModelSignature, infer_signature

from commands import mooring_here
from mlflow_store import new_store
from monitoring import START, Traffic
from mooring.log.labels import labels_table, write_labels
from mooring.retrain import gate
from mooring.retrain.evaluation import __main__, records
from mooring.settings import GateSettings

Predict = Callable[[pd.DataFrame], np.ndarray]
INPUTS = pd.DataFrame({"alcohol": [9.5], "sugar": [2.5], "colour": ["red"]})
_SAID = np.array([1.5])


def rows(count: int, seed: int = 0) -> pd.DataFrame:
    """Return labelled rows: the label is twice the alcohol and some noise."""
    random = np.random.default_rng(seed)
    alcohol = random.normal(10, 1, count)
    return pd.DataFrame(
        {
            "alcohol": alcohol,
            "sugar": random.gamma(2, 3, count),
            "colour": random.choice(["red", "white"], count, p=[0.2, 0.8]),
            "quality": 2 * alcohol + random.normal(0, 0.5, count),
        }
    )


def python_model(predict: Predict):
    """Return a PythonModel; its class is local, so it travels with the model."""

    class Model(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input: pd.DataFrame, params=None):
            return predict(model_input)

    return Model()


def shifted(by: float) -> Predict:
    return lambda frame: 2 * frame["alcohol"].to_numpy() + by


def not_a_number(frame: pd.DataFrame) -> np.ndarray:
    return np.where(frame["sugar"] > 12, np.nan, 2 * frame["alcohol"])


def bad_on_reds(frame: pd.DataFrame) -> np.ndarray:
    return np.where(frame["colour"] == "red", 2 * frame["alcohol"] + 1.0, 2 * frame["alcohol"])


def slow(frame: pd.DataFrame) -> np.ndarray:
    time.sleep(0.02)
    return 2 * frame["alcohol"].to_numpy()


def absurd_on_rare(frame: pd.DataFrame) -> np.ndarray:
    return np.where(frame["sugar"] > 400, 1e6, 2 * frame["alcohol"])


def broken(frame: pd.DataFrame) -> np.ndarray:
    raise RuntimeError("no such table: embeddings")


MODELS: dict[str, Predict] = {
    "champion": shifted(0.5),
    "better": shifted(0.0),
    "worse": shifted(1.0),
    "equal": shifted(0.5),
    "nan": not_a_number,
    "segment": bad_on_reds,
    "slow": slow,
    "range": absurd_on_rare,
    "broken": broken,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A directory with MLflow in it; what this process is told stays in this module."""
    directory = tmp_path_factory.mktemp("gate")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("MLFLOW_TRACKING_URI", new_store(directory))
        for name in ("MOORING_SAMPLE", "MLFLOW_MONITORING_FORMAT", "MLFLOW_MONITORING_DIR", "MOORING_SPOOL"):
            patch.setenv(name, "")
        patch.setattr(sys, "path", list(sys.path))
        # The gate logs to an experiment of its own, which MLflow takes for that of all that comes after.
        patch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
        patch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
        yield directory
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)


def register(predict: Predict, signature: ModelSignature | None = None, name: str = "wine") -> str:
    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(
            python_model=python_model(predict),
            name="model",
            signature=signature or infer_signature(INPUTS, _SAID),
            pip_requirements=["mlflow"],
            registered_model_name=name,
        )
    return str(info.registered_model_version)


@pytest.fixture(scope="module")
def versions(home) -> dict[str, str]:
    return {name: register(predict) for name, predict in MODELS.items()}


@pytest.fixture(scope="module")
def holdout(home) -> Path:
    path = home / "holdout.parquet"
    rows(600).to_parquet(path)
    return path


@pytest.fixture
def settings(home) -> GateSettings:
    # How long a prediction takes is up to what else this machine does.
    return GateSettings(log=str(home / "no-log"), gate_latency=1e6)


@pytest.fixture
def judge(home, versions, holdout, settings, tmp_path):
    def run(candidate: str, champion: str | None = "champion", **changed) -> gate.GateVerdict:
        path = changed.pop("holdout", holdout)
        given = msgspec.structs.replace(settings, **changed)
        command = records.command(
            given,
            model="wine",
            champion=versions.get(champion, champion) if champion else None,
            candidate=versions.get(candidate, candidate),
            holdout=path,
            label="quality",
            output=tmp_path / "evaluation.json",
        )
        # In this process, which has imported MLflow already; the tests of the command have one of its own.
        assert __main__.main(command[command.index("--model") :]) == 0
        return gate.decide(records.read(tmp_path / "evaluation.json"), given)

    return run


def of(verdict: gate.GateVerdict, name: str) -> gate.Check:
    [check] = [check for check in verdict.checks if check.name == name]
    return check


def broke(verdict: gate.GateVerdict) -> set[str]:
    return {check.name for check in verdict.checks if not check.passed}


def test_a_better_one_passes_and_is_told_by_how_much(judge):
    verdict = judge("better")
    assert verdict.passed, verdict.reasons
    assert verdict.metric == "rmse"
    data = rows(600)
    expected = [math.sqrt(np.mean((MODELS[name](data) - data["quality"]) ** 2)) for name in ("champion", "better")]
    assert (verdict.champion_value, verdict.candidate_value) == pytest.approx(expected)
    assert verdict.improvement == pytest.approx(1 - expected[1] / expected[0])
    assert 0.02 < verdict.low < verdict.improvement
    assert "95 %" in of(verdict, "better").message
    assert verdict.in_words.startswith("passed: rmse is ")


def test_verdicts_go_to_json_and_back(judge):
    verdict = judge("worse")
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=gate.GateVerdict) == verdict


def test_a_verdict_has_how_far_predictions_lie_from_the_champions(judge):
    found = judge("segment").difference
    data = rows(600)
    distances = np.abs(MODELS["segment"](data) - MODELS["champion"](data))
    assert (found.kind, found.columns, found.rows, found.requests) == ("number", ("prediction",), 600, 600)
    assert (found.d50, found.d95) == pytest.approx((0.5, 0.5), rel=1e-3)
    assert found.share == np.mean(distances > found.d95) == 0
    assert judge("better", champion=None).difference is None
    assert judge("broken").difference is None


def test_verdicts_of_before_are_read_too(judge):
    verdict = msgspec.to_builtins(judge("better"))
    del verdict["difference"]
    assert msgspec.convert(verdict, gate.GateVerdict).difference is None


@pytest.mark.parametrize("name", ["worse", "equal"])
def test_one_that_is_not_better_is_refused(judge, name):
    verdict = judge(name)
    assert broke(verdict) == {"better", "threshold"}
    assert verdict.in_words.startswith("refused: rmse is ")
    assert "minimum relative change" not in verdict.in_words


def test_an_equal_one_is_refused_when_nothing_more_is_asked_for_too(judge):
    assert "better" in broke(judge("equal", gate_better_by=0.0))


def test_what_is_asked_for_may_be_more_than_it_gives(judge):
    assert broke(judge("better", gate_better_by=0.6)) == {"better", "threshold"}


def test_few_rows_are_refused_however_good_it_is(judge, home):
    rows(60).to_parquet(home / "few.parquet")
    verdict = judge("better", holdout=home / "few.parquet")
    assert "60 labelled rows; 100 are needed" in of(verdict, "rows").message
    assert not verdict.passed


def test_rows_of_few_requests_prove_nothing(judge, home):
    rows(600).assign(request_id=np.repeat(["a", "b", "c"], 200)).to_parquet(home / "requests.parquet")
    verdict = judge("better", holdout=home / "requests.parquet")
    assert "requests" in broke(verdict)
    assert "worth 3 independent ones" in of(verdict, "requests").message


def test_the_first_version_passes_if_it_predicts(judge):
    verdict = judge("worse", champion=None)
    assert verdict.passed
    assert "no champion" in of(verdict, "champion").message
    assert broke(judge("nan", champion=None)) == {"finite"}


def test_predictions_that_are_no_numbers_are_refused(judge):
    verdict = judge("nan")
    assert {"finite", "better"} <= broke(verdict)
    assert "no finite number" in of(verdict, "finite").message


def test_one_that_can_not_predict_is_refused_with_its_own_words(judge):
    verdict = judge("broken")
    assert not verdict.passed
    assert any("no such table: embeddings" in reason for reason in verdict.reasons)


def test_a_segment_that_is_worse_is_refused_though_all_is_better(judge):
    whole = judge("segment", gate_metric="mae")
    assert whole.metric == "mae"
    verdict = judge("segment", gate_metric="mae", gate_better_by=0.0, gate_segment=("colour", "sugar"))
    assert "segment colour" in broke(verdict)
    assert "segment sugar" not in broke(verdict)
    assert "where colour is red" in of(verdict, "segment colour").message
    assert judge("better", gate_segment=("colour", "sugar")).passed


def test_a_segment_of_few_rows_is_not_looked_at(judge):
    verdict = judge("segment", gate_segment=("colour",), gate_segment_rows=500)
    assert "segment colour" not in broke(verdict)


def test_groups_of_a_protected_column_may_not_fare_worse(judge, holdout, tmp_path):
    """The column is an input here, and one that no model is given there."""
    data = pd.read_parquet(holdout)
    path = tmp_path / "with-sex.parquet"
    sex = np.where(data["colour"] == "red", "f", "m")
    data.assign(**{"protected.sex": sex}).to_parquet(path)
    verdict = judge("segment", protected=("colour", "sex"), holdout=path)
    assert broke(verdict) >= {"fairness colour", "fairness sex"}
    told = of(verdict, "fairness sex")
    assert "mae where sex is f is 1" in told.message
    assert told.value > 0.5
    errors = (MODELS["segment"](data) - data["quality"]).abs().groupby(sex).mean()
    [_, by_sex] = verdict.fairness["candidate"]
    mae = {one.group: one.value for one in by_sex.rates if one.measure == "mae"}
    assert mae == pytest.approx(errors.to_dict())
    assert of(judge("segment", protected=("sex",), holdout=path, gate_fairness=2.0), "fairness sex").passed
    assert judge("better", protected=("colour", "sex"), holdout=path).passed
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=gate.GateVerdict) == verdict


def test_a_slow_one_is_refused(judge, settings, tmp_path):
    judge("slow")
    evaluated = records.read(tmp_path / "evaluation.json")
    slow = evaluated.found.latency["candidate"]
    assert min(slow.single, slow.batch) >= 0.02
    quick = records.Latency(0.002, 0.002, slow.batch_rows)  # as the champion is where it is alone
    found = msgspec.structs.replace(evaluated.found, latency={"champion": quick, "candidate": slow})
    verdict = gate.decide(evaluated._replace(found=found), msgspec.structs.replace(settings, gate_latency=2.0))
    assert broke(verdict) == {"latency"}
    assert of(verdict, "latency").value > 2


def test_a_large_one_is_refused(judge, versions, home):
    with mlflow.start_run():
        weights = home / "weights.bin"
        weights.write_bytes(os.urandom(3_000_000))
        info = mlflow.pyfunc.log_model(
            python_model=python_model(shifted(0.0)),
            name="model",
            artifacts={"weights": str(weights)},
            signature=infer_signature(INPUTS, _SAID),
            pip_requirements=["mlflow"],
            registered_model_name="wine",
        )
    verdict = judge(str(info.registered_model_version))
    assert broke(verdict) == {"size"}
    assert "it has 3" in of(verdict, "size").message


def test_another_schema_is_refused_with_the_difference(judge, home):
    wider = infer_signature(INPUTS.assign(pH=[3.1]), _SAID)
    version = register(shifted(0.0), wider)
    verdict = judge(version)
    assert not verdict.passed
    assert "it needs a new column pH" in of(verdict, "schema").message


def test_logged_traffic_is_tried_and_what_leaves_the_range_of_labels_refused(judge, home):
    log = home / "traffic-log"
    traffic = Traffic(log)
    exchanges = traffic.exchanges(400)
    wild = json.loads(exchanges[0].request)
    wild["dataframe_split"]["data"][0][1] = 500.0
    traffic.write([msgspec.structs.replace(exchanges[0], request=json.dumps(wild).encode()), *exchanges[1:]])
    assert judge("better", log=str(log)).passed
    verdict = judge("range", log=str(log))
    assert broke(verdict) == {"range"}
    assert "1e+06" in of(verdict, "range").message
    ids, values = (pa.chunked_array([column]) for column in (["x", "y"], [-1e6, 1e6]))
    write_labels(str(log), "wine", labels_table(ids, values))
    assert judge("range", log=str(log)).passed


def test_mlflow_has_the_evaluation_of_both(judge, versions):
    judge("better")
    experiment = mlflow.get_experiment_by_name("mooring/wine")
    runs = mlflow.search_runs([experiment.experiment_id], output_format="list", max_results=2)
    found = {run.data.tags["mooring.as"]: run for run in runs}
    assert found["candidate"].data.tags["mooring.evaluated"] == versions["better"]
    metrics = found["champion"].data.metrics
    assert metrics["rmse"] == pytest.approx(metrics["root_mean_squared_error"])
    assert metrics["rmse"] > found["candidate"].data.metrics["rmse"]
    model_id = mlflow.pyfunc.load_model(f"models:/wine/{versions['champion']}").model_id
    logged = mlflow.get_logged_model(model_id).metrics
    assert metrics["rmse"] in [metric.value for metric in logged if metric.key == "rmse"]


def test_classes_are_compared_too(home, settings, tmp_path):
    def classify(error: float) -> Predict:
        return lambda frame: np.where(frame["alcohol"] + error * np.sin(1e4 * frame["sugar"]) > 10, "good", "bad")

    signature = infer_signature(INPUTS, np.array(["good"]))
    names = [register(classify(error), signature, "cellar") for error in (1.0, 0.2)]
    data = rows(800).drop(columns="quality")
    data.assign(verdict=np.where(data["alcohol"] > 10, "good", "bad")).to_csv(home / "cellar.csv", index=False)
    found = []
    for old, new in (names, names[::-1]):
        output = tmp_path / f"{new}.json"
        command = records.command(settings, model="cellar", champion=old, candidate=new,
                                     holdout=home / "cellar.csv", label="verdict", output=output)  # fmt: skip
        assert __main__.main(command[command.index("--model") :]) == 0
        found.append(gate.decide(records.read(output), settings))
    assert [verdict.passed for verdict in found] == [True, False]
    assert found[0].metric == "accuracy"
    before, after = (classify(error)(data) for error in (1.0, 0.2))
    assert found[0].difference.kind == "class"
    assert found[0].difference.share == pytest.approx(np.mean(before != after))


def mooring(*arguments: str) -> subprocess.CompletedProcess[str]:
    gate = ("gate", "--model", "wine")
    return mooring_here(*gate, *arguments, directory=Path(), env={"MOORING_GATE_LATENCY": "1e6"})


def test_the_command_passes_refuses_and_says_what_is_missing(home, versions, holdout):
    given = ["--holdout", str(holdout), "--label", "quality", "--champion", versions["champion"]]
    good = mooring(*given, "--candidate", versions["better"], "--json")
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["passed"] is True
    bad = mooring(*given, "--candidate", versions["worse"])
    assert bad.returncode == 3, bad.stderr
    assert "better" in bad.stdout
    assert "refused" in bad.stderr
    missing = mooring(*given, "--candidate", "99")
    assert missing.returncode == 1
    assert "there is no version 99 of the model wine" in missing.stderr
    assert "Traceback" not in missing.stderr


@pytest.mark.parametrize(
    ("changed", "label", "told"),
    [
        ({}, "color", "the holdout has no column color of labels; it has alcohol, sugar, colour, quality"),
        ({"gate_segment": ("color",)}, "quality", "the holdout has no column color of segments"),
        ({"protected": ("sex",)}, "quality", "the holdout has no protected column sex, nor protected.sex"),
        ({"gate_metric": "accurate"}, "quality", "set gate_metric to one of"),
        ({}, "alcohol", "the champion, version 1, can't predict the holdout here"),
    ],
)
def test_what_can_not_be_compared_is_an_error_and_no_refusal(
    changed, label, told, versions, holdout, settings, tmp_path, capsys
):
    given = msgspec.structs.replace(settings, **changed)
    command = records.command(given, model="wine", champion=versions["champion"], candidate=versions["better"],
                                 holdout=holdout, label=label, output=tmp_path / "evaluation.json")  # fmt: skip
    assert __main__.main(command[command.index("--model") :]) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "evaluation.json").exists()


def test_the_command_takes_the_newest_labelled_rows_of_the_log(home, versions):
    log = home / "labelled-log"
    traffic = Traffic(log)
    exchanges = traffic.exchanges(1000, START, per_request=1)
    traffic.write(exchanges)
    ids = [one.request_id for one in exchanges]
    values = [2 * json.loads(one.request)["dataframe_split"]["data"][0][0] for one in exchanges]
    write_labels(str(log), "wine", labels_table(*(pa.chunked_array([column]) for column in (ids, values))))
    ended = mooring(
        "--log", str(log), "--champion", versions["champion"], "--candidate", versions["better"], "--json"
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["rows"] == 200
    assert found["candidate_value"] == pytest.approx(0, abs=1e-6)


def test_the_command_takes_protected_values_that_came_with_labels(home, versions):
    log = home / "protected-log"
    traffic = Traffic(log)
    exchanges = traffic.exchanges(1500, START, per_request=1)
    traffic.write(exchanges)
    inputs = [json.loads(one.request)["dataframe_split"] for one in exchanges]
    values = [dict(zip(one["columns"], one["data"][0], strict=True)) for one in inputs]
    write_labels(
        str(log),
        "wine",
        labels_table(
            pa.chunked_array([[one.request_id for one in exchanges]]),
            pa.chunked_array([[2 * one["alcohol"] for one in values]]),
            protected={"sex": pa.chunked_array([["f" if one["colour"] == "red" else "m" for one in values]])},
        ),
    )
    given = ["--log", str(log), "--champion", versions["champion"], "--protected", "sex", "--json"]
    worse_on_reds = register(lambda frame: 2 * frame["alcohol"].to_numpy() + (frame["colour"] == "red"))
    ended = mooring(*given, "--candidate", worse_on_reds)
    assert ended.returncode == 3, ended.stderr
    found = json.loads(ended.stdout)
    [refused] = (one for one in found["checks"] if one["name"] == "fairness sex")
    assert not refused["passed"], found
    assert "mae where sex is f is 1, the champion's 0.5" in refused["message"]
    assert found["fairness"]["candidate"][0]["column"] == "sex"
    assert mooring(*given, "--candidate", versions["better"]).returncode == 0


@pytest.mark.proof
def test_a_model_that_logs_its_requests_does_not_log_those_of_the_gate(
    home, holdout, settings, tmp_path, monkeypatch
):
    from mooring.capture.pyfunc import log_model

    version = register(shifted(0.0), name="own")
    copy = log_model(f"models:/own/{version}", name="logging", registered_model_name="logging")
    monkeypatch.chdir(tmp_path)
    command = records.command(settings, model="logging", champion=None,
                                 candidate=str(copy.registered_model_version), holdout=holdout, label="quality",
                                 output=tmp_path / "found" / "evaluation.json")  # fmt: skip
    records.run(command)
    assert records.read(tmp_path / "found" / "evaluation.json").found.failure is None
    assert [path.name for path in tmp_path.iterdir()] == ["found"]
