"""`mooring monitor` and what goes with it, as they are typed."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar
from urllib.request import urlopen

import pytest

from commands import mooring_here
from mlflow_store import new_store
from monitoring import START, Monitoring, Traffic, settings, without_mlflow
from mooring.demo.processes import running
from mooring.monitor.alerting.channels import sign
from mooring.state.baselines import StoredBaselines
from mooring.state.state import State
from mooring.state.windows import Windows
from waiting import PATIENCE, wait_for


@pytest.fixture
def traffic(tmp_path, monkeypatch) -> Traffic:
    without_mlflow(tmp_path, monkeypatch)
    made = Traffic(tmp_path / "mooring-log")
    made.write(made.exchanges(2000))
    made.write(made.exchanges(1000, START + timedelta(minutes=10), shift=1))
    (tmp_path / ".mooring").mkdir()
    return made


@pytest.fixture
def judged(traffic, tmp_path) -> Path:
    monitoring = Monitoring(settings(traffic.log, f"sqlite:///{tmp_path}/.mooring/state.db"))
    monitoring.keep(traffic.baseline())
    monitoring.watch.look()
    monitoring.state.close()
    return tmp_path


def test_once_judges_what_is_there_and_says_what_is_missing(traffic, tmp_path):
    first = mooring_here("monitor", "--once", directory=tmp_path)
    assert first.returncode == 1, first.stderr  # there is no MLflow to tell
    assert "mooring baseline build --model wine" in first.stderr or "MLFLOW_TRACKING_URI" in first.stderr
    assert "Traceback" not in first.stderr
    data = tmp_path / "train.csv"
    columns = traffic.columns(3000)
    lines = ["alcohol,sugar,colour", *(f"{a},{b},{c}" for a, b, c in zip(*columns.values(), strict=True))]
    data.write_text("\n".join(lines))
    built = mooring_here("baseline", "build", "--model", "wine", "--data", str(data), directory=tmp_path)
    assert built.returncode == 0, built.stderr
    again = mooring_here("monitor", "--once", directory=tmp_path)
    assert "wine 2026-03-01 12:00:00" in again.stderr
    found = mooring_here("drift", "--json", directory=tmp_path)
    assert found.returncode == 2
    assert [one["status"] for one in json.loads(found.stdout)] == ["ok", "ok", "critical"]


def test_a_wrong_setting_or_log_is_a_sentence(tmp_path):
    for arguments, says in (
        (["monitor", "--once", "--threshold", "psi"], "--threshold psi: give MEASURE=VALUE"),
        (["monitor", "--once", "--threshold", "psl=1"], "there is no such measure"),
        (["monitor", "--once", "--threshold", "alcohol.psl=1"], "there is no such measure"),
        (["monitor", "--once", "--window", "soon"], "--window"),
        (["monitor", "--once", "--window", "0.001s"], "a window takes a second at least"),
        (["monitor", "--once", "--grace", "99999999d"], "--grace"),
        (["monitor", "--once", "--false-alarms", "0 per 90d"], "such as '1 per 90d'"),
        (["monitor", "--once", "--alert-webhook", "chat"], "begins with http"),
        (["monitor", "--once", "--state", "mysql://x/y"], "sqlite:///PATH or postgresql://"),
        (["drift", "--model", "wine"], "has no verdicts yet"),
        (["report"], "has no verdicts yet"),
        (["baseline", "build", "--model", "wine"], "give either --data FILE or --from-log"),
        (["baseline", "build", "--model", "wine", "--from-log", "yesterday"], "from START to END"),
        (["compare", "a.csv", "b.csv"], "a.csv"),
    ):
        done = mooring_here(*arguments, directory=tmp_path)
        assert done.returncode in (1, 2), (arguments, done.stderr)
        assert says in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr


def test_a_log_before_its_first_traffic_is_said_and_no_failure(tmp_path):
    (tmp_path / "empty").mkdir()
    for log, says in (("nowhere", "no log at nowhere yet"), ("empty", "nothing in the log empty yet")):
        done = mooring_here("monitor", "--once", "--log", log, directory=tmp_path)
        assert (done.returncode, done.stderr) == (0, f"mooring monitor: {says}\n")


def test_the_monitor_waits_for_the_first_traffic_and_says_so_once(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = Traffic(tmp_path / "mooring-log")
    said = tmp_path / "said.log"
    command = [sys.executable, "-m", "mooring", "monitor", "--every", "0.1s", "--metrics-port", "0"]
    with (
        State(f"sqlite:///{tmp_path}/state.db") as state,
        running([*command, "--state", f"sqlite:///{tmp_path}/state.db"], tmp_path, said) as monitor,
    ):
        with state.begin() as tx:
            StoredBaselines(tx).put("wine", None, made.baseline().to_bytes(), "test")
        wait_for(lambda: "waiting for the first traffic" in said.read_text(), "it does not say that it waits")
        address = said.read_text().split("metrics on ")[1].split()[0]
        made.write(made.exchanges(1000))
        wait_for(lambda: Windows(state).watched() and len(Windows(state).history("wine")) == 1, "no verdict")
        counted = urlopen(address).read().decode()
        monitor.send_signal(signal.SIGTERM)
        assert monitor.wait(PATIENCE) == 0
    assert 'part="log"' not in counted
    assert said.read_text().count("no log at ./mooring-log yet: waiting for the first traffic") == 1


@pytest.mark.parametrize("arguments", [["--once"], ["--once", "--model", "wine"]])
def test_a_log_of_csv_files_is_said_with_how_to_have_parquet(tmp_path, arguments):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "01a204f9.csv").write_text("prediction,alcohol\n5.0,7\n")
    done = mooring_here("monitor", *arguments, "--log", "out", directory=tmp_path)
    assert done.returncode == 1
    assert "MLFLOW_MONITORING_FORMAT=parquet" in done.stderr
    assert "--format parquet" in done.stderr


def test_a_window_of_few_seconds_is_said_where_minutes_may_be_meant(tmp_path, monkeypatch):
    monkeypatch.delenv("MOORING_WINDOW", raising=False)
    note = "Note: --window is 5 seconds; write 5m for minutes"
    for given, noted in (("5", True), ("5s", False), ("5m", False), ("90", False)):
        done = mooring_here("monitor", "--once", "--window", given, directory=tmp_path)
        assert done.returncode == 0
        assert (note in done.stderr) is noted, given
    assert note in mooring_here("monitor", "--once", directory=tmp_path, env={"MOORING_WINDOW": "5"}).stderr


def test_a_threshold_of_no_feature_is_said_once_the_baseline_is_known(traffic, tmp_path):
    with State(f"sqlite:///{tmp_path}/.mooring/state.db") as state, state.begin() as tx:
        StoredBaselines(tx).put("wine", None, traffic.baseline().to_bytes(), "test")
    given = ("nosuch.ks=0.3", "colour.ks=0.3", "alcohol.ks=0.3", "psi=0.2")
    flags = [part for one in given for part in ("--threshold", one)]
    said = mooring_here("monitor", "--once", *flags, directory=tmp_path).stderr
    assert said.count("--threshold nosuch.ks: the baseline has no feature nosuch; it has: alcohol, ") == 1
    assert said.count("--threshold colour.ks: no such measure suits that feature; colour is categorical") == 1
    assert said.count("--threshold") == 2


@pytest.mark.proof
def test_rows_without_a_version_of_a_model_without_a_champion_are_told_how_to_name_one(registry, tmp_path):
    log = Traffic(tmp_path / "mooring-log", model="no # yes")
    log.write(log.exchanges(1000))
    env = {"MLFLOW_TRACKING_URI": registry}
    done = mooring_here("monitor", "--once", directory=tmp_path, env=env)
    assert "no version of no # yes has the alias champion" in done.stderr
    assert 'set_registered_model_alias("no # yes", "champion", "1")' in done.stderr
    assert "has no registered model" not in done.stderr
    other = mooring_here("baseline", "show", "--model", "nobody", directory=tmp_path, env=env)
    assert "has no registered model of that name" in other.stderr


def test_drift_as_a_table_as_json_and_as_a_frame(judged, monkeypatch):
    table = mooring_here("drift", directory=judged, env={"COLUMNS": "200"})
    assert table.returncode == 2
    assert "critical" in table.stdout
    as_json = json.loads(mooring_here("drift", "--json", "--values", "-n", "1", directory=judged).stdout)
    [last] = as_json
    assert (last["model"], last["rows"], last["status"]) == ("wine", 1000, "critical")
    assert {one["measure"] for one in last["results"] if one["feature"] == "alcohol"} >= {
        "ks",
        "psi",
        "wasserstein",
    }
    earlier = mooring_here("drift", "--end", "2026-03-01T12:00:30Z", directory=judged)
    assert earlier.returncode == 0
    import mooring as package

    monkeypatch.chdir(judged)
    frame = package.drift("wine")
    assert list(frame["status"].drop_duplicates()) == ["ok", "critical"]
    assert frame[(frame.feature == "alcohol") & frame.alarm & (frame.measure == "ks")]["value"].iloc[-1] > 0.3


def test_a_report_on_a_newest_window_that_is_open_or_a_canarys(traffic, tmp_path):
    traffic.write(traffic.exchanges(1000, START + timedelta(hours=1), version="2", variant="canary"))
    traffic.write(traffic.exchanges(10, datetime.now(UTC)))
    monitoring = Monitoring(settings(traffic.log, f"sqlite:///{tmp_path}/.mooring/state.db"))
    monitoring.keep(traffic.baseline())
    monitoring.watch.look(provisional=True)
    monitoring.state.close()

    def told(*arguments: str) -> str:
        done = mooring_here("report", "-o", "r.html", *arguments, directory=tmp_path)
        assert done.returncode == 0, done.stderr
        return re.sub("<[^>]+>", "", (tmp_path / "r.html").read_text().split("<body>")[1].split("<section")[0])

    few = told("-n", "1")
    assert "There is too little traffic to judge wine: its newest window has 10 rows." in few
    assert "fewer than the 30 wanted" in few
    before = told("-n", "3")
    assert "wine is drifting" in before
    assert "A newer window, from" in before
    assert "has too few rows to be judged: 10." in before
    # The canary's window is newer than the champion's, and has no baseline.
    settled = told("--end", (START + timedelta(hours=2)).isoformat())
    assert "wine is drifting: " in settled
    assert "5,000 rows" in settled


def test_a_window_with_too_few_rows_has_values_and_no_alarms(traffic, tmp_path, monkeypatch):
    traffic.write(traffic.exchanges(20, datetime.now(UTC), shift=5))
    with State(f"sqlite:///{tmp_path}/.mooring/state.db") as state, state.begin() as tx:
        StoredBaselines(tx).put("wine", None, traffic.baseline().to_bytes(), "test")
    mooring_here("monitor", "--once", directory=tmp_path)
    [few] = json.loads(mooring_here("drift", "--json", "-n", "1", directory=tmp_path).stdout)
    assert (few["status"], few["features"], few["results"]) == ("too_few", [], [])
    [few] = json.loads(mooring_here("drift", "--json", "--values", "-n", "1", directory=tmp_path).stdout)
    assert max(one["value"] for one in few["results"] if one["measure"] == "ks") > 0.5
    assert not any(one["alarm"] for one in few["results"])
    monkeypatch.chdir(tmp_path)
    import mooring as package

    assert not package.drift("wine", newest=1)["alarm"].any()


def test_the_report_is_one_file(judged):
    done = mooring_here("report", "-o", "r.html", directory=judged)
    assert done.returncode == 0, done.stderr
    text = (judged / "r.html").read_text()
    assert "alcohol" in text
    assert len(text) < 6e6


def test_a_baseline_from_the_log_and_what_is_usual_from_past_windows(traffic, tmp_path):
    for hour in range(1, 35):
        traffic.write(traffic.exchanges(300, START + timedelta(hours=hour), shift=0.3 * (hour % 2)))
    span = "2026-03-01T12:00..2026-03-04"
    built = mooring_here("baseline", "build", "--model", "wine", "--from-log", span, directory=tmp_path)
    assert built.returncode == 0, built.stderr
    shown = json.loads(mooring_here("baseline", "show", "--model", "wine", "--json", directory=tmp_path).stdout)
    kinds = {one["feature"]: (one["role"], one["kind"]) for one in shown["features"]}
    assert kinds == {
        "prediction": ("output", "numeric"),
        "alcohol": ("input", "numeric"),
        "sugar": ("input", "numeric"),
        "colour": ("input", "categorical"),
    }
    short = mooring_here(
        "calibrate", "--model", "wine", "--from-log", "2026-03-01T12:00..2026-03-01T14:00", directory=tmp_path
    )
    assert short.returncode == 2
    assert "it takes 30 to know what is usual" in short.stderr
    span = "2026-03-01T13:00..2026-03-04"
    tiny = mooring_here(
        "calibrate", "--model", "wine", "--window-rows", "20", "--from-log", span, directory=tmp_path
    )
    assert tiny.returncode == 2
    assert "0 windows that could be judged" in tiny.stderr
    assert "more have fewer than the 30 independent rows of --min-rows" in tiny.stderr
    usual = mooring_here(
        "calibrate", "--model", "wine", "--from-log", "2026-03-01T13:00..2026-03-04", directory=tmp_path
    )
    assert usual.returncode == 0, usual.stderr
    assert "what is usual is taken from 34 windows: the least chance that they can show is 0.029" in usual.stderr
    assert "Note" not in usual.stderr, "the monitor has judged none yet, and alarms go by the calendar"
    by_window = mooring_here(
        "calibrate", "--model", "wine", "--from-log", "2026-03-01T13:00..2026-03-04",
        directory=tmp_path, env={"MOORING_BUDGET": "0.001 per window"},
    )  # fmt: skip
    assert "with a budget of 0.001 nothing alarms by its chance. That takes 999 windows" in by_window.stderr
    once = mooring_here("monitor", "--once", directory=tmp_path)
    assert "Traceback" not in once.stderr, once.stderr
    with State(f"sqlite:///{tmp_path}/.mooring/state.db") as state:
        statuses = [
            verdict.status
            for window, verdict in Windows(state).history("wine")
            if window.start > START + timedelta(hours=1)
        ]
    # The traffic before these hours did drift: that passes within some windows, and what is usual opens nothing.
    assert set(statuses[10:]) == {"ok"}, statuses
    smaller = mooring_here(
        *("calibrate", "--model", "wine", "--window-rows", "100", "--from-log", span),
        directory=tmp_path,
        env={"MOORING_MIN_ROWS": "5"},
    )
    assert smaller.returncode == 0, smaller.stderr
    assert "these windows have 100 rows in the middle, those that the monitor judged 300" in smaller.stderr


def test_it_runs_until_it_is_told_to_stop_serves_metrics_and_takes_over_from_another(traffic, tmp_path):
    with State(f"sqlite:///{tmp_path}/.mooring/state.db") as state:
        with state.begin() as tx:
            StoredBaselines(tx).put("wine", None, traffic.baseline().to_bytes(), "test")
        command = [sys.executable, "-m", "mooring", "monitor", "--every", "0.2s", "--metrics-port", "0"]
        with (
            running(command, tmp_path, tmp_path / "a.log") as one,
            running(command, tmp_path, tmp_path / "b.log") as two,
        ):
            logs = [tmp_path / "a.log", tmp_path / "b.log"]
            wait_for(lambda: len(Windows(state).history("wine")) == 3, "no verdicts")
            wait_for(lambda: any("stands by" in log.read_text() for log in logs), "both work")
            working, standing = (one, two) if "stands by" in logs[1].read_text() else (two, one)
            said = logs[0 if working is one else 1].read_text()
            address = said.split("metrics on ")[1].split()[0]
            wait_for(lambda: b'mooring_verdict{model="wine"' in urlopen(address).read(), "no metrics")
            working.send_signal(signal.SIGTERM)
            assert working.wait(PATIENCE) == 0
            traffic.write(traffic.exchanges(1000, START + timedelta(minutes=20)))
            wait_for(lambda: len(Windows(state).history("wine")) == 4, "the other did not take over")
            standing.send_signal(signal.SIGTERM)
            assert standing.wait(PATIENCE) == 0


def test_compare_two_files(traffic, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, shift in (("a", 0.0), ("b", 0.0), ("c", 1.0)):
        pq.write_table(pa.table(traffic.columns(2000, shift)), tmp_path / f"{name}.parquet")
    assert mooring_here("compare", "a.parquet", "b.parquet", directory=tmp_path).returncode == 0
    drifted = mooring_here("compare", "a.parquet", "c.parquet", "--json", "--html", "c.html", directory=tmp_path)
    assert drifted.returncode == 2
    assert json.loads(drifted.stdout)["features"] == ["alcohol"]
    assert "alcohol" in (tmp_path / "c.html").read_text()


class Hooks(BaseHTTPRequestHandler):
    got: ClassVar[list[tuple[dict, bool]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        signed = sign("secret", self.headers["X-Mooring-Timestamp"], body) == self.headers["X-Mooring-Signature"]
        self.got.append((json.loads(body), signed))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_drift_that_begins_and_ends_is_told_once_each(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    now = datetime.now(UTC) - timedelta(hours=2)
    traffic = Traffic(tmp_path / "mooring-log")
    for number, shift in enumerate((0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0)):
        traffic.write(traffic.exchanges(1000, now + timedelta(minutes=10 * number), shift=shift))
    monitoring = Monitoring(settings(traffic.log, f"sqlite:///{tmp_path}/.mooring/state.db"))
    monitoring.keep(traffic.baseline())
    monitoring.state.close()
    said = tmp_path / "said.json"
    command = f"{sys.executable} -c \"import sys; open('{said}', 'a').write(sys.stdin.read() + chr(10))\""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hooks) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/hook"
        for _ in range(2):
            mooring_here(
                *("monitor", "--once", "--window", "30d", "--alert-webhook", url),
                *("--alert-secret", "secret", "--alert-command", command, "--report", "r.html"),
                directory=tmp_path,
            )
        server.shutdown()
    assert [(alert["kind"], signed) for alert, signed in Hooks.got] == [("new", True), ("ended", True)]
    assert Hooks.got[0][0]["features"][0]["feature"] in ("alcohol", "prediction")
    assert Hooks.got[0][0]["report"] == "r.html"
    assert "alcohol" in (tmp_path / "r.html").read_text()
    assert [json.loads(line)["kind"] for line in said.read_text().splitlines()] == ["new", "ended"]


def test_incidents_are_shown_with_the_evidence_of_the_next(traffic, tmp_path):
    monitoring = Monitoring(settings(traffic.log, f"sqlite:///{tmp_path}/.mooring/state.db"))
    monitoring.keep(traffic.baseline())
    nothing = mooring_here("incidents", directory=tmp_path)
    assert nothing.returncode == 0, nothing.stderr
    monitoring.watch.look()
    monitoring.state.close()
    shown = mooring_here("incidents", directory=tmp_path)
    assert shown.returncode == 2, "one is open"
    assert "wine, champion: an incident is open" in shown.stdout
    found = json.loads(mooring_here("incidents", "--json", directory=tmp_path).stdout)
    assert [(one["severity"], one["closed"]) for one in found["incidents"]] == [("critical", None)]
    assert "alcohol" in found["incidents"][0]["features"]
    assert [one["kind"] for one in found["streams"]] == ["drift"]
    assert "data" not in found["streams"][0]


def test_the_newest_verdict_is_shown_though_a_window_is_open_and_a_canary_is_well(traffic, tmp_path):
    traffic.write(traffic.exchanges(1000, START + timedelta(minutes=61), variant="canary"))
    traffic.write(traffic.exchanges(10, datetime.now(UTC)))
    monitoring = Monitoring(settings(traffic.log, f"sqlite:///{tmp_path}/.mooring/state.db"))
    monitoring.keep(traffic.baseline())
    monitoring.watch.look()
    monitoring.state.close()
    one = mooring_here("drift", "-n", "1", "--json", directory=tmp_path)
    assert [(window["variant"], window["status"]) for window in json.loads(one.stdout)] == [("canary", "ok")]
    all_ = mooring_here("drift", "--json", directory=tmp_path)
    assert len(json.loads(all_.stdout)) == 4
    assert all_.returncode == 2, "the champion's newest drifted"
    assert mooring_here("drift", "--start", "0001-01-01T00:00+14:00", directory=tmp_path).returncode == 1
    assert mooring_here("drift", "--model", "models:/wine@champion", "-n", "1", directory=tmp_path).returncode == 0


def test_what_is_no_number_is_null_in_json(traffic, tmp_path):
    exchanges = traffic.exchanges(1000)
    for exchange in exchanges:
        columns = {"columns": ["alcohol", "sugar", "colour"], "data": [[1e308, 1.0, None]] * 10}
        exchange.request = json.dumps({"dataframe_split": columns}).encode()
    traffic.write(exchanges, "huge")
    monitoring = Monitoring(settings(traffic.log, f"sqlite:///{tmp_path}/.mooring/state.db"))
    monitoring.keep(traffic.baseline())
    monitoring.watch.look()
    monitoring.state.close()
    found = mooring_here("drift", "--json", "--values", directory=tmp_path)

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    assert json.loads(found.stdout, parse_constant=no_constant)


def test_results_of_another_version_are_left_out_of_what_is_shown(judged):
    import sqlite3

    with sqlite3.connect(judged / ".mooring/state.db") as database:
        database.execute("UPDATE mooring_verdicts SET results = CAST('mooring-judgement 9' || char(10) AS BLOB)")
        database.execute("UPDATE mooring_windows SET profile = CAST('mooring-profile 9' || char(10) AS BLOB)")
    shown = mooring_here("drift", "--json", directory=judged)
    assert [one["status"] for one in json.loads(shown.stdout)] == ["ok", "ok", "critical"]
    assert mooring_here("report", directory=judged).returncode == 0
    assert "Traceback" not in mooring_here("monitor", "--once", directory=judged).stderr


def test_once_twice_at_the_same_time_works_once(traffic, tmp_path):
    with State(f"sqlite:///{tmp_path}/.mooring/state.db") as state, state.lease("monitor/wine"):
        other = mooring_here("monitor", "--once", directory=tmp_path)
        assert other.returncode == 0
        where = rf"process {os.getpid()} on \S+ since \d{{4}}-\S+ \S+ UTC"
        assert re.search(f"a monitor of wine is running already, {where}: it goes on by itself", other.stderr)
        assert Windows(state).history("wine") == []


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> str:
    """A registry with a model of two versions, the first of which is champion, and one of none and one of one."""
    import mlflow

    directory = tmp_path_factory.mktemp("registry")
    uri = new_store(directory)
    with pytest.MonkeyPatch.context() as patch:
        # The store, which MLflow keeps for the process, has its artifacts beside where it was first opened.
        patch.chdir(directory)
        client = mlflow.MlflowClient(uri, uri)
    for name, versions in (("wine", 2), ("empty", 0), ("no # yes", 1)):
        client.create_registered_model(name)
        for _ in range(versions):
            client.create_model_version(name, f"{directory}/model")
    client.set_registered_model_alias("wine", "champion", "1")
    return uri


def test_init_writes_settings_that_are_read_and_says_what_to_serve(registry, tmp_path):
    from mooring.config import load
    from mooring.settings import MonitorSettings

    for model, name, uri in (
        ("models:/wine", "wine", "models:/wine@champion"),
        ("wine", "wine", "models:/wine@champion"),
        ("models:/wine@champion", "wine", "models:/wine@champion"),
        ("models:/wine/2", "wine", "models:/wine/2"),
        ("models:/no # yes", "no # yes", "'models:/no # yes/1'"),
    ):
        done = mooring_here("init", "--force", model, directory=tmp_path, env={"MLFLOW_TRACKING_URI": registry})
        assert done.returncode == 0, done.stderr
        assert f"--model {uri}\n" in done.stdout
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            assert load(MonitorSettings, {}).model == name
            assert load(MonitorSettings, {}).false_alarm_seconds == 90 * 86_400
    again = mooring_here("init", "wine", directory=tmp_path, env={"MLFLOW_TRACKING_URI": registry})
    assert again.returncode == 2
    assert "--force writes over it" in again.stderr


def test_init_of_what_is_not_there_says_what_is(registry, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for model, says in (
        ("models:/beer", "no versions of a registered model 'beer'"),
        ("models:/empty", "mlflow.register_model"),
        ("models:/wine@challenger", "wine has versions 1, 2 and the aliases champion"),
        ("models:/wine/7", "there is no models:/wine/7"),
        ("models:/", "no versions of a registered model ''"),
    ):
        done = mooring_here("init", model, directory=tmp_path, env={"MLFLOW_TRACKING_URI": registry})
        assert done.returncode == 1
        assert says in done.stderr, (model, done.stderr)
        assert "Traceback" not in done.stderr
    nowhere = mooring_here("init", "models:/wine", directory=tmp_path)
    assert "MLFLOW_TRACKING_URI is not set" in nowhere.stderr
    assert not (tmp_path / "mooring.yaml").exists()


def test_a_baseline_from_a_file_names_predictions_as_the_log_does(traffic, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = traffic.columns(5000)
    data = {**columns, "predicted": columns["alcohol"] / 2, "quality": columns["alcohol"].round()}
    pq.write_table(pa.table(data), tmp_path / "train.parquet")
    columns_of_it = ("--prediction", "predicted", "--label", "quality", "--kind", "predicted=numeric")
    built = mooring_here(
        *("baseline", "build", "--model", "wine", "--data", "train.parquet", *columns_of_it), directory=tmp_path
    )
    assert built.returncode == 0, built.stderr
    mooring_here("monitor", "--once", directory=tmp_path)
    found = json.loads(mooring_here("drift", "--json", directory=tmp_path).stdout)
    assert [(one["status"], one["missing"], one["unknown"]) for one in found[:2]] == [("ok", [], [])] * 2
