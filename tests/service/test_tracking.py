"""What the monitor finds in MLflow and logs there, on a store of its own and over a tracking server."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.request import urlopen

import mlflow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.utils.validation import _validate_metric_name, _validate_tag_name

from mlflow_store import new_store
from mooring.demo.processes import running
from mooring.log.signature import single_floats
from mooring.monitor.baselines import log_baseline
from mooring.monitor.tracking import Tracking, metric_name
from mooring.registry import aliases, baselines, versions
from mooring.registry.client import TrackingError
from mooring.state.verdicts import Verdict
from mooring.state.windows import Window
from ports import reserved_port
from waiting import PATIENCE, wait_for

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module", params=["store", "server"])
def uri(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("mlflow")
    store = new_store(directory)
    # Where a store's artifacts go without a server is up to the working directory.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        if request.param == "store":
            yield from used(store)
            return
        port = reserved_port()
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
        stores = ["--backend-store-uri", store, "--artifacts-destination", str(directory / "artifacts")]
        with running([*command, *stores], directory, directory / "server.log") as process:
            url = f"http://127.0.0.1:{port}"
            wait_for(lambda: answers(url) or process.poll() is not None, "the tracking server does not start")
            assert process.poll() is None, (directory / "server.log").read_text()
            yield from used(url)


def used(uri: str):
    """Make MLflow use this store, and forget it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


def answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=PATIENCE):
            return True
    except OSError:
        return False


@pytest.fixture
def client(uri):
    return mlflow.MlflowClient()


@pytest.fixture
def tracking(uri):
    return Tracking()


def judged(model: str, hour: int = 0, status: str = "ok", **changed) -> tuple[Window, Verdict]:
    start = NOON + hour * HOUR
    given = {"model": model, "version": "3", "start": start, "end": start + HOUR, "number": hour + 1}
    window = Window(**{**given, **changed})
    return window, Verdict(window_id=window.id, status=status, rows=1000, alarms=2, created=start)


def the_run(client, model: str):
    """Return the one run of the model's experiment."""
    experiment = client.get_experiment_by_name(f"mooring/{model}")
    [run] = client.search_runs([experiment.experiment_id])
    return run


# Verdicts


def test_verdicts_are_logged_to_one_run_of_the_model_that_a_restarted_monitor_finds_again(uri, client):
    for hour, status in enumerate(["ok", "warning", "critical"]):
        values = [("alcohol", "ks", 0.1 * hour), ("residual sugar (g/l)", "js", 0.5)]
        Tracking().log_verdict(*judged("wine", hour, status), values, report=f"<html>{hour}</html>")
    run = the_run(client, "wine")
    assert run.info.status == "FINISHED", "nothing runs between two verdicts"
    assert run.data.tags["mooring.model"] == "wine"
    history = client.get_metric_history(run.info.run_id, "alcohol/ks")
    assert [(point.step, point.value) for point in history] == [(1, 0.0), (2, 0.1), (3, 0.2)]
    ends = [int((NOON + hour * HOUR).timestamp() * 1000) for hour in (1, 2, 3)]
    assert [point.timestamp for point in history] == ends
    assert run.data.metrics == {
        "alcohol/ks": 0.2,
        metric_name("residual sugar (g/l)", "js"): 0.5,
        "severity": 2,
        "alarms": 2,
        "rows": 1000,
    }
    window, verdict = judged("wine", 2)
    expected = {"verdict": verdict.id, "severity": "critical", "model_version": "3"}
    assert {name: run.data.tags[f"mooring.{name}"] for name in expected} == expected
    assert run.data.tags["mooring.window_end"] == window.end.isoformat()
    paths = [one.path for at in (None, "drift") for one in client.list_artifacts(run.info.run_id, at)]
    drifts = ["drift/2026-03-01T14-00-00Z.html", "drift/2026-03-01T15-00-00Z.html"]
    assert sorted(paths) == ["drift", *drifts, "report.html"]
    local = client.download_artifacts(run.info.run_id, "report.html")
    assert Path(local).read_text() == "<html>2</html>"


def test_a_run_that_an_earlier_monitor_left_running_is_ended(client):
    Tracking().log_verdict(*judged("older"), [("alcohol", "ks", 0.1)])
    run_id = the_run(client, "older").info.run_id
    client.update_run(run_id, "RUNNING")
    Tracking().log_verdict(*judged("older", 1), [("alcohol", "ks", 0.2)], report="<html>")
    run = the_run(client, "older")
    assert (run.info.run_id, run.info.status, run.data.metrics["alcohol/ks"]) == (run_id, "FINISHED", 0.2)


def test_a_verdict_that_is_logged_again_changes_nothing(tracking, client):
    for _ in range(2):
        tracking.log_verdict(*judged("twice", status="critical"), [("alcohol", "ks", 0.25)], report="<html>")
    run = the_run(client, "twice")
    assert len(client.get_metric_history(run.info.run_id, "alcohol/ks")) == 1


def test_a_canary_is_kept_apart_and_what_is_no_number_is_left_out(tracking, client):
    tracking.log_verdict(*judged("apart"), [("alcohol", "ks", 0.25)])
    values = [("alcohol", "ks", 0.5), ("a", "ks", math.inf), ("b", "ks", math.nan), ("c", "ks", None)]
    tracking.log_verdict(*judged("apart", 1, "too_few", variant="canary", version=None), values, report="<html>")
    run = the_run(client, "apart")
    assert run.data.metrics["alcohol/ks"] == 0.25
    canary = {name: value for name, value in run.data.metrics.items() if name.startswith("canary/")}
    assert canary == {"canary/alcohol/ks": 0.5, "canary/alarms": 2, "canary/rows": 1000}
    assert run.data.tags["mooring.severity"] == "ok"
    assert run.data.tags["mooring.canary/severity"] == "too_few"
    assert [one.path for one in client.list_artifacts(run.info.run_id, "canary")] == ["canary/report.html"]


def test_features_beyond_what_mlflow_takes_at_once_with_names_that_it_does_not_take(tracking, client):
    names = [f"naïve feature {'x' * 300}/{number} (%)" for number in range(1100)]
    tracking.log_verdict(*judged("wide"), [(name, "ks", number / 4) for number, name in enumerate(names)])
    metrics = the_run(client, "wide").data.metrics
    assert [metrics[metric_name(name, "ks")] for name in names] == [number / 4 for number in range(1100)]


def test_a_run_that_somebody_deletes_is_made_anew_at_the_next_attempt(tracking, client):
    first = tracking.log_verdict(*judged("deleted"), [])
    client.delete_run(first)
    with pytest.raises(TrackingError, match="does not take the verdict on deleted"):
        tracking.log_verdict(*judged("deleted", 1), [])
    second = tracking.log_verdict(*judged("deleted", 1), [])
    assert the_run(client, "deleted").info.run_id == second != first


def test_a_store_of_artifacts_that_is_not_there_is_said_and_the_metrics_are_logged_all_the_same(
    tracking, client, monkeypatch
):
    port = reserved_port()
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    client.create_experiment("mooring/bucket", artifact_location="s3://bucket/artifacts")
    with pytest.raises(TrackingError, match="does not take the verdict on bucket: "):
        tracking.log_verdict(*judged("bucket"), [("alcohol", "ks", 0.25)], report="<html>")
    assert the_run(client, "bucket").data.metrics["alcohol/ks"] == 0.25


def test_an_experiment_that_somebody_deletes_is_named_with_how_to_bring_it_back(uri, client):
    Tracking().log_verdict(*judged("gone"), [])
    number = client.get_experiment_by_name("mooring/gone").experiment_id
    client.delete_experiment(number)
    with pytest.raises(TrackingError, match=f"mlflow experiments restore --experiment-id {number}"):
        Tracking().log_verdict(*judged("gone", 1), [])
    client.restore_experiment(number)
    Tracking().log_verdict(*judged("gone", 1), [])


odd = ["", ".", "..", "a/../b", "a\n", "\ud800", "a b", "a_b", "a(b", "a)b"]
names = st.text(max_size=300) | st.sampled_from(odd)


@given(names, names)
def test_mlflow_takes_every_metric_name_and_distinct_features_stay_distinct(one, other):
    for feature in (one, other):
        _validate_metric_name(f"canary/{metric_name(feature, 'out_of_range_rate')}")
        _validate_tag_name("mooring.canary/severity")
        assert len(metric_name(feature, "out_of_range_rate")) <= 200
    assert (metric_name(one, "ks") == metric_name(other, "ks")) == (one == other)


# Versions and baselines


class Constant(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [0.0] * len(model_input)


@pytest.fixture(scope="module")
def registered(uri):
    """A model whose versions have a baseline with the model, with the run, with both, and none."""
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("training")
    client.create_registered_model("vine's")
    for with_model, with_run in ((b"\x00model", None), (None, b"run"), (b"model", b"run"), (None, None)):
        run_id = client.create_run(experiment).info.run_id
        model = client.create_logged_model(experiment, source_run_id=run_id)
        if with_model is not None:
            baselines.log(with_model, model_id=model.model_id)
        if with_run is not None:
            baselines.log(with_run, run_id=run_id)
        client.finalize_logged_model(model.model_id, "READY")
        source = f"models:/{model.model_id}"
        client.create_model_version("vine's", source=source, run_id=run_id, model_id=model.model_id)
    client.set_registered_model_alias("vine's", "champion", "2")
    client.set_registered_model_alias("vine's", "newest", "4")
    return client


def test_the_baseline_of_a_version_is_found_with_its_model_or_its_run(registered):
    found = [baselines.find("vine's", version) for version in "12345"]
    assert found == [b"\x00model", b"run", b"model", None, None]
    assert baselines.find("nobody's", "1") is None


def test_versions_and_their_aliases_are_told(registered):
    assert aliases.of("vine's") == {"champion": "2", "newest": "4"}
    assert aliases.of("nobody's") == {}
    assert aliases.champion("vine's") == "2"
    assert aliases.champion("vine's", "newest") == "4"
    assert aliases.champion("vine's", "nobody") is None
    assert aliases.champion("nobody's") is None
    found = versions.all_of("vine's")
    assert [one.version for one in found] == ["1", "2", "3", "4"]
    assert all(one.ready and one.run_id and one.source for one in found)
    assert found[0].created <= datetime.now(UTC)
    assert [versions.find("vine's", one.version) for one in found] == found
    assert versions.all_of("nobody's") == []
    assert versions.find("vine's", "5") is None
    for missing in ("5", "champion", ""):
        with pytest.raises(versions.Missing, match=f"there is no version {missing} of the model vine's"):
            versions.get("vine's", missing)


def test_the_baseline_of_a_model_that_mlflow_logged_is_found(client):
    with mlflow.start_run(experiment_id=client.create_experiment("flavour")):
        info = mlflow.pyfunc.log_model(
            name="model", python_model=Constant(), pip_requirements=["mlflow"], registered_model_name="flavour"
        )
    baselines.log(b"of the model", model_id=info.model_id)
    version = str(info.registered_model_version)
    assert mlflow.pyfunc.load_model(f"models:/flavour/{version}").predict([[1.0]]) == [0.0]
    assert baselines.find("flavour", version) == b"of the model"


@pytest.mark.parametrize("given", [{}, {"run_id": "a", "model_id": "b"}])
def test_a_baseline_goes_with_a_run_or_with_a_model(given):
    with pytest.raises(ValueError, match="give run_id or model_id"):
        baselines.log(b"", **given)


# What goes wrong is said


def test_a_server_that_is_not_there_is_said_and_asked_again_another_time(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    port = reserved_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:secret@127.0.0.1:{port}")
    environment = dict(os.environ)
    for ask in (
        lambda: aliases.champion("wine"),
        lambda: versions.all_of("wine"),
        lambda: baselines.find("wine", "1"),
        lambda: Tracking().log_verdict(*judged("wine"), []),
    ):
        with pytest.raises(TrackingError, match=f"MLflow at http://127.0.0.1:{port} does not ") as error:
            ask()
        assert "check that it runs" in str(error.value)
        assert "secret" not in str(error.value)
    assert os.environ == environment, "how long MLflow tries is for the command to say"


def test_a_store_that_is_not_there_is_said_and_not_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_URI is not set"):
        aliases.champion("wine")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/mlflow.db")
    with pytest.raises(TrackingError, match="does not tell which version"):
        aliases.champion("wine")


def test_importing_it_imports_no_mlflow():
    code = (
        "import sys, mooring.promotion, mooring.monitor.tracking, mooring.registry.process, "
        "mooring.registry.signatures; print('mlflow' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_a_baseline_takes_the_precision_from_the_signature_of_the_runs_model(uri):
    class Sum(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return model_input.sum(axis=1)

    signature = ModelSignature(
        Schema([ColSpec("float", "single"), ColSpec("double", "double")]), Schema([ColSpec("float", "sum")])
    )
    data = {"single": [0.1, 0.2, 0.7] * 50, "double": [0.1, 0.2, 0.7] * 50}
    with mlflow.start_run() as run:
        assert single_floats(run_id=run.info.run_id) == []
        made = log_baseline(data, predictions=[0.2, 0.4, 1.4] * 50)
        assert {made.grids[name].edges.dtype.name for name in made.grids} == {"float64"}
        mlflow.pyfunc.log_model(name="model", python_model=Sum(), signature=signature)
        made = log_baseline(data, predictions=[0.2, 0.4, 1.4] * 50)
    kinds = {name: made.grids[name].edges.dtype.name for name in made.grids}
    assert kinds == {"single": "float32", "double": "float64", "prediction": "float32"}
