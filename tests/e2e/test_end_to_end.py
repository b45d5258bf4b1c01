"""The whole as its user runs it: training, `mlflow models serve`, the proxy, clients, and the log that results."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature
from mlflow.pyfunc import PythonModel
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import mooring
import mooring.capture.pyfunc
from disks import remount, small_disk
from mooring.capture.in_process import Captures
from mooring.demo.train import SAMPLE
from ports import reserved_port
from serving import (
    JSON,
    PROXY_SERVER,
    Server,
    ask,
    drains,
    error_file,
    logged,
    numbers,
    proxying,
    python_without_mooring,
    same,
    serving,
    table,
    visible,
    wait_until_drained,
)
from waiting import wait_for
from wines import COLUMNS, RECORDS, ROWS, SPLIT, train

# The body of the example of 2021, as its README has it.
BODY_OF_2021 = """{ "columns": [ "alcohol", "chlorides", "citric acid", "density", "fixed acidity",
                     "free sulfur dioxide", "pH", "residual sugar", "sulphates",
                     "total sulfur dioxide", "volatile acidity" ],
        "data": [
          [ 7,   0.27, 0.36, 20.7, 0.045, 45, 170, 1.001,  3,    0.45,  8.8 ],
          [ 6.3, 0.3,  0.34,  1.6, 0.049, 14, 132, 0.994,  3.3,  0.49,  9.5 ] ] }"""
SPLIT_OF_2021 = f'{{"dataframe_split": {BODY_OF_2021}}}'
HEADER_OF_2021 = (
    "prediction,alcohol,chlorides,citric acid,density,fixed acidity,free sulfur dioxide,pH,residual sugar,"
    "sulphates,total sulfur dioxide,volatile acidity"
)
FRAME = pd.DataFrame(ROWS, columns=COLUMNS, dtype=float)


def split(rows: int, **columns: float) -> dict:
    """Return a request for `rows` wines, all alike; `columns` are set to values of their own."""
    wine = RECORDS[0] | {name.replace("_", " "): value for name, value in columns.items()}
    return {"dataframe_split": {"columns": COLUMNS, "data": [list(wine.values())] * rows}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The directory in which `python custom_model_train.py` was run."""
    return train(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def tracking(trained) -> Iterator[None]:
    """This process's MLflow, on the store of the training."""
    mlflow.set_tracking_uri(f"sqlite:///{trained / 'mlflow.db'}")
    yield
    mlflow.set_tracking_uri(None)


class Servers(NamedTuple):
    plain: Server
    unsigned: Server
    monitored: Server
    doomed: Server


@pytest.fixture(scope="module")
def servers(trained, tmp_path_factory) -> Iterator[Servers]:
    unsigned = trained / "unsigned"
    tree = DecisionTreeRegressor(max_depth=3).fit(
        pd.read_csv(SAMPLE)[COLUMNS].to_numpy(), pd.read_csv(SAMPLE).quality
    )
    mlflow.sklearn.save_model(
        tree, unsigned, serialization_format="cloudpickle", pip_requirements=["scikit-learn"]
    )
    without_mooring = python_without_mooring(tmp_path_factory.mktemp("python"))
    plain_model, monitored_model = (
        "models:/sklearn-monitor/production",
        "models:/sklearn-monitor-custom/production",
    )
    two = ("--workers", "2")
    ports = [reserved_port() for _ in range(4)]
    with ExitStack() as stack:
        yield Servers(
            stack.enter_context(serving(plain_model, trained, ports[0])),
            stack.enter_context(serving(str(unsigned), trained, ports[1])),
            stack.enter_context(
                serving(
                    monitored_model, trained, ports[2], *two, python=without_mooring, MLFLOW_MONITORING_DIR="tmp"
                )
            ),
            stack.enter_context(serving(monitored_model, trained, ports[3], *two, MLFLOW_MONITORING_DIR="doomed")),
        )
    wait_until_drained(trained)


@pytest.fixture(scope="module")
def plain(servers) -> int:
    """The port of a server of sklearn-monitor."""
    return servers.plain.wait_until_up().port


@pytest.fixture(scope="module")
def unsigned(servers) -> int:
    """The port of a server of a model without a signature, which takes lists without names."""
    return servers.unsigned.wait_until_up().port


@pytest.fixture(scope="module")
def monitored(servers) -> Server:
    """A server of sklearn-monitor-custom: two workers, Mooring not installed, MLFLOW_MONITORING_DIR=tmp."""
    return servers.monitored.wait_until_up()


@pytest.mark.parametrize("log_dir", [["--log_dir", "out"], ["--log-dir=out"]])
def test_the_example_of_2021_works_as_its_readme_says(plain, tmp_path, log_dir):
    out = tmp_path / "out"
    port = reserved_port()
    with proxying(plain, tmp_path, *log_dir, command=PROXY_SERVER, port=port):
        answer = ask(port, BODY_OF_2021)
        assert len(answer.predictions) == 2
        assert answer.body == ask(plain, SPLIT_OF_2021).body

        header, lines = table(out / f"{answer.request_id}.csv")
        assert visible(out) == [f"{answer.request_id}.csv"]
        assert header == HEADER_OF_2021.split(",")
        assert [",".join(line) for line in lines] == [
            f"{answer.predictions[0]},7,0.27,0.36,20.7,0.045,45,170,1.001,3,0.45,8.8",
            f"{answer.predictions[1]},6.3,0.3,0.34,1.6,0.049,14,132,0.994,3.3,0.49,9.5",
        ]

        as_mlflow_1 = "application/json; format=pandas-split"
        answers = [answer, ask(port, BODY_OF_2021), ask(port, BODY_OF_2021, as_mlflow_1)]
        assert {answer.body for answer in answers} == {answer.body}
        names = sorted(f"{answer.request_id}.csv" for answer in answers)
        wait_for(lambda: logged(out) == names, f"of {names} there are {logged(out)}")
        assert visible(out) == names


def test_without_the_rewrapping_the_server_refuses_the_old_format(plain, tmp_path):
    flags = ["--log_dir", "out", "--no-legacy-split"]
    with proxying(plain, tmp_path, *flags, command=PROXY_SERVER) as proxy:
        answer = ask(proxy.port, BODY_OF_2021)
        assert same(answer, ask(plain, BODY_OF_2021))
        assert answer.status == 400
        assert error_file(tmp_path / "out", answer.request_id)["request"] == BODY_OF_2021


def test_how_much_is_logged_does_not_change_what_is_answered(plain, tmp_path):
    with proxying(plain, tmp_path, "--log", "out", "--max-payload", "100") as proxy:
        for body in (BODY_OF_2021, SPLIT_OF_2021):
            assert same(ask(proxy.port, body), ask(plain, SPLIT_OF_2021))


def parquet() -> bytes:
    file = io.BytesIO()
    FRAME.to_parquet(file)
    return file.getvalue()


@pytest.fixture(scope="module")
def proxy(plain, tmp_path_factory) -> Iterator[Server]:
    """A proxy in front of sklearn-monitor, for the tests that look only at what their own requests do."""
    with proxying(plain, tmp_path_factory.mktemp("proxy"), "--log", "out") as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        pytest.param(SPLIT, JSON, id="dataframe_split"),
        pytest.param(SPLIT | {"params": {"unknown": 1}}, JSON, id="dataframe_split with params"),
        pytest.param({"dataframe_records": RECORDS}, JSON, id="dataframe_records"),
        pytest.param({"instances": RECORDS}, JSON, id="instances, records"),
        pytest.param({"inputs": RECORDS}, JSON, id="inputs, records"),
        pytest.param({"inputs": FRAME.to_dict(orient="list")}, JSON, id="inputs, columns"),
        pytest.param(json.dumps(SPLIT, indent=4), "application/json; charset=utf-8", id="charset and white space"),
        pytest.param(FRAME.to_csv(index=False), "text/csv", id="CSV"),
        pytest.param(parquet(), "application/vnd.apache.parquet", id="Parquet"),
    ],
)
def test_every_format_passes_unchanged_and_is_logged(plain, proxy, body, content_type):
    answer = ask(proxy.port, body, content_type)
    assert answer.status == 200, answer.body
    assert same(answer, ask(plain, body, content_type))
    header, lines = table(proxy.cwd / "out" / f"{answer.request_id}.csv")
    assert header == ["prediction", *COLUMNS]
    assert numbers(lines) == [[prediction, *row] for prediction, row in zip(answer.predictions, ROWS, strict=True)]


@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_lists_without_names_are_logged_under_their_places(unsigned, tmp_path, key):
    with proxying(unsigned, tmp_path, "--log", "out") as proxy:
        answer = ask(proxy.port, {key: ROWS})
        assert same(answer, ask(unsigned, {key: ROWS}))
        header, lines = table(tmp_path / "out" / f"{answer.request_id}.csv")
    assert header == ["prediction", *map(str, range(len(COLUMNS)))]
    assert numbers(lines) == [[prediction, *row] for prediction, row in zip(answer.predictions, ROWS, strict=True)]


def test_errors_pass_unchanged_and_are_logged_apart(plain, tmp_path):
    out = tmp_path / "out"
    requests = {
        "malformed JSON": ('{"instances": [', JSON, 400),
        "wrong columns": ({"dataframe_split": {"columns": ["a"], "data": [[1]]}}, JSON, 400),
        "wrong type": ({"dataframe_records": [RECORDS[0] | {"pH": "sour"}]}, JSON, 400),
        "two formats": (SPLIT | {"inputs": RECORDS}, JSON, 400),
        "MLflow 1 beside MLflow 2": (SPLIT | {"columns": COLUMNS, "data": ROWS}, JSON, 200),
        "unsupported content type": ("wine", "text/plain", 415),
        "empty body": ("", JSON, 400),
        "no body": (None, JSON, 400),
        "no content type": (json.dumps(SPLIT), None, 500),
    }
    with proxying(plain, tmp_path, "--log", "out") as proxy:
        failed = 0
        for name, (body, content_type, status) in requests.items():
            answer = ask(proxy.port, body, content_type)
            assert same(answer, ask(plain, body, content_type)), name
            assert answer.status == status, name
            if status == 200:
                continue
            failed += 1
            entry = error_file(out, answer.request_id)
            assert (entry["status"], entry["response"]) == (answer.status, answer.body.decode()), name
            assert entry["request"] == (json.dumps(body) if isinstance(body, dict) else body or ""), name
        account = proxy.end()
    assert (account.seen, account.stored, account.failed) == (len(requests), len(requests), failed)
    assert account.dropped == "0 dropped"
    assert len(list((out / "errors").iterdir())) == failed
    assert len(logged(out)) == len(requests) - failed


def test_other_paths_pass_and_are_not_logged(plain, tmp_path):
    with proxying(plain, tmp_path, "--log", "out") as proxy:
        for path, status in (("/ping", 200), ("/health", 200), ("/version", 200), ("/unknown?a=1", 404)):
            answer = ask(proxy.port, None, None, method="GET", path=path)
            assert answer.status == status
            assert same(answer, ask(plain, None, None, method="GET", path=path))
        posted = ask(proxy.port, SPLIT, path="/unknown")
        assert posted.status == 404
        assert same(posted, ask(plain, SPLIT, path="/unknown"))
        account = proxy.end()
    assert (account.seen, account.stored, account.failed, account.passed) == (0, 0, 0, 5)
    assert visible(tmp_path / "out") == []


def test_a_model_server_that_is_down_is_named_in_a_502(tmp_path):
    closed = reserved_port()
    with proxying(closed, tmp_path, "--log", "out") as proxy:
        answer = ask(proxy.port, SPLIT)
        assert (answer.status, answer.content_type) == (502, JSON)
        assert f"http://localhost:{closed}/invocations" in answer.json["message"]
        assert answer.json["error_code"] == "UPSTREAM_UNREACHABLE"
        entry = error_file(tmp_path / "out", answer.request_id)
        assert (entry["status"], entry["errors"]) == (502, ["upstream_unreachable"])
        assert json.loads(entry["request"]) == SPLIT
        assert ask(proxy.port, None, None, method="GET", path="/ping").status == 502
        account = proxy.end()
    assert (account.seen, account.stored, account.failed, account.passed) == (1, 1, 1, 1)
    assert logged(tmp_path / "out") == []


def test_a_log_that_cannot_be_written_costs_no_answer_and_heals(plain, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("a regular file where a directory should be")
    flags = ["--log-dir", "blocked/out"]
    with proxying(plain, tmp_path, *flags, command=PROXY_SERVER) as proxy:
        for _ in range(3):
            assert same(ask(proxy.port, SPLIT), ask(plain, SPLIT))
        assert "blocked/out" in proxy.said.partition("listening on")[0]  # said at the start, before any loss
        blocked.unlink()
        answer = ask(proxy.port, SPLIT)
        table(blocked / "out" / f"{answer.request_id}.csv")
        account = proxy.end()
    assert (account.seen, account.stored, account.dropped) == (4, 1, "3 dropped (spool_unwritable)")
    assert "Traceback" not in proxy.said


@contextmanager
def disk(directory: Path, size: str) -> Iterator[Path]:
    """Mount a small disk, from which everything is drained at the end."""
    with small_disk(directory, size) as mounted:
        try:
            yield mounted
        finally:
            wait_until_drained(mounted)


def test_a_full_disk_costs_no_answer_and_logging_resumes_once_there_is_room(plain, tmp_path):
    with disk(tmp_path / "disk", "256k") as full, proxying(plain, tmp_path, "--log", "disk/out") as proxy:
        rows = split(20)
        expected = ask(plain, rows)
        answers = []
        while "not stored" not in proxy.said:
            answers.append(ask(proxy.port, rows))
            assert len(answers) < 500, "the disk should be full by now"
        answers += [ask(proxy.port, rows) for _ in range(5)]
        assert all(same(answer, expected) for answer in answers)

        remount(full, "size=16m")
        last = ask(proxy.port, rows)
        table(full / "out" / f"{last.request_id}.csv")
        account = proxy.end()
        found = logged(full / "out")
        tables = [table(full / "out" / name) for name in found]

    assert account.seen == len(answers) + 1
    assert "dropped (disk_full)" in account.dropped
    assert account.stored + int(account.dropped.split()[0]) == account.seen
    assert len(found) == account.stored
    assert {(len(header), len(lines)) for header, lines in tables} == {(12, 20)}


def test_a_disk_that_is_read_only_costs_no_answer_and_logging_begins_once_it_is_not(plain, tmp_path):
    with disk(tmp_path / "disk", "16m") as read_only:
        (read_only / "out" / ".spool").mkdir(parents=True)
        remount(read_only, "ro")
        with proxying(plain, tmp_path, "--log", "disk/out") as proxy:
            assert same(ask(proxy.port, SPLIT), ask(plain, SPLIT))
            remount(read_only, "rw")
            answer = ask(proxy.port, SPLIT)
            table(read_only / "out" / f"{answer.request_id}.csv")
            account = proxy.end()
    assert (account.seen, account.stored, account.dropped) == (2, 1, "1 dropped (spool_unwritable)")
    assert "Traceback" not in proxy.said


def test_the_account_is_true_though_the_log_directory_is_removed(plain, tmp_path):
    out = tmp_path / "out"
    with proxying(plain, tmp_path, "--log", "out") as proxy:
        before = ask(proxy.port, SPLIT)
        table(out / f"{before.request_id}.csv")
        shutil.rmtree(out)
        for _ in range(3):
            assert same(ask(proxy.port, SPLIT), ask(plain, SPLIT))
        account = proxy.end()
    assert account.seen == 4
    assert account.stored == 1 + len(logged(out))
    assert "Traceback" not in proxy.said


def test_a_csv_file_appears_whole_or_not_at_all(plain, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    first_seen: dict[str, str] = {}
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for path in out.glob("*.csv"):
                if path.name not in first_seen:
                    first_seen[path.name] = path.read_text()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with proxying(plain, tmp_path, "--log", "out") as proxy:
            sent = {f"{ask(proxy.port, split(rows)).request_id}.csv": rows for rows in range(1, 1201, 30)}
            wait_for(lambda: len(first_seen) == len(sent), f"{len(first_seen)} of {len(sent)} files appeared")
    finally:
        stop.set()
        watcher.join()
    assert first_seen == {path.name: path.read_text() for path in out.glob("*.csv")}
    tables = {name: list(csv.reader(io.StringIO(text))) for name, text in first_seen.items()}
    assert {name: len(lines) - 1 for name, lines in tables.items()} == sent
    assert {len(line) for lines in tables.values() for line in lines} == {1 + len(COLUMNS)}


def test_the_drain_takes_no_module_from_the_working_directory(plain, tmp_path):
    (tmp_path / "click.py").write_text("raise ImportError('this is not click')")
    with proxying(plain, tmp_path, "--log", "out") as proxy:
        answer = ask(proxy.port, SPLIT)
        table(tmp_path / "out" / f"{answer.request_id}.csv")


def test_a_drain_that_dies_is_replaced(plain, tmp_path):
    out = tmp_path / "out"
    with proxying(plain, tmp_path, "--log", "out") as proxy:
        before = ask(proxy.port, SPLIT)
        table(out / f"{before.request_id}.csv")
        (drain,) = drains(out)
        os.kill(drain, signal.SIGKILL)
        after = ask(proxy.port, SPLIT)
        table(out / f"{after.request_id}.csv")
        assert proxy.end().stored == 2
        assert len(logged(out)) == 2


def test_what_was_acknowledged_outlives_kill_9_of_proxy_and_drain(plain, tmp_path):
    out = tmp_path / "out"
    with proxying(plain, tmp_path, "--log", "out") as proxy:
        wait_for(lambda: len(drains(out)) == 1, "there is no drain")
        (drain,) = drains(out)
        os.kill(drain, signal.SIGSTOP)  # so that all is still in the spool
        acknowledged = sorted(f"{ask(proxy.port, SPLIT).request_id}.csv" for _ in range(5))
        assert logged(out) == []
        for process in (drain, proxy.process.pid):
            os.kill(process, signal.SIGKILL)
        proxy.process.wait()
    with proxying(plain, tmp_path, "--log", "out"):
        wait_for(lambda: logged(out) == acknowledged, f"of {acknowledged} there are {logged(out)}")


def test_of_two_proxies_on_one_log_the_first_ends_without_waiting_for_the_second(plain, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    with proxying(plain, tmp_path / "first", "--log", str(out)) as first:
        table(out / f"{ask(first.port, SPLIT).request_id}.csv")
        with proxying(plain, tmp_path / "second", "--log", str(out)) as second:
            first.end()
            assert "did not take everything" not in first.said
            table(out / f"{ask(second.port, SPLIT).request_id}.csv")


def test_training_logs_no_request(trained):
    assert not (trained / "logged-while-training").exists()


def test_the_monitored_model_logs_each_request_once(plain, monitored):
    out = monitored.cwd / "tmp"
    before = set(logged(out)) if out.exists() else set()
    sugars = [float(sugar) for sugar in range(60)]
    # Columns in an order of their own: the log has them in the signature's.
    bodies = [
        {"dataframe_records": [dict(reversed((RECORDS[0] | {"residual sugar": s}).items()))]} for s in sugars
    ]
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda body: ask(monitored.port, body), bodies))
    assert all(same(answer, ask(plain, body)) for answer, body in zip(answers, bodies, strict=True))

    wait_for(lambda: len(logged(out)) - len(before) >= len(bodies), "not every request is in the log")
    tables = [table(out / name) for name in set(logged(out)) - before]
    assert {tuple(header) for header, _ in tables} == {("prediction", *COLUMNS)}
    found = sorted((numbers(lines) for _, lines in tables), key=lambda lines: lines[0][4])
    expected = [
        [[answer.predictions[0], *(RECORDS[0] | {"residual sugar": sugar}).values()]]
        for answer, sugar in zip(answers, sugars, strict=True)
    ]
    assert found == expected
    assert visible(out) == logged(out)


@pytest.mark.parametrize("request_id", ["order 66", "größe", "../../etc", "\ud800", ""])
def test_the_monitored_model_takes_a_request_id(plain, monitored, request_id):
    answer = ask(monitored.port, SPLIT | {"params": {"request_id": request_id}})
    assert same(answer, ask(plain, SPLIT))


def test_the_monitored_model_answers_what_is_wrong_as_the_model_itself(plain, monitored):
    # What the server tells about the schema names the parameter request_id, which only this model has.
    for body in ('{"instances": [', {"dataframe_split": {"columns": ["a"], "data": [[1]]}}):
        assert ask(monitored.port, body).status == ask(plain, body).status == 400


def test_the_monitored_model_is_served_without_mooring_installed(monitored):
    ask(monitored.port, SPLIT)
    wait_for(lambda: len(drains(monitored.cwd / "tmp")) == 1, "not one drain")
    (drain,) = drains(monitored.cwd / "tmp")
    python = Path("/proc", str(drain), "cmdline").read_bytes().decode().split("\0")[0]
    imported = subprocess.run([python, "-c", "import mooring"], capture_output=True, text=True, check=False)
    assert "No module named 'mooring'" in imported.stderr


def test_what_was_acknowledged_outlives_kill_9_of_the_model_server(servers):
    doomed = servers.doomed.wait_until_up()
    out = doomed.cwd / "doomed"
    acknowledged: list[float] = []

    def send(thread: int) -> None:
        for request in range(10_000):
            sugar = float(100_000 * thread + request)
            try:
                ask(doomed.port, split(1, residual_sugar=sugar)).predictions  # noqa: B018 - they are a check
            except (OSError, HTTPException):
                return
            acknowledged.append(sugar)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(acknowledged) >= 40, "the server does not answer")
    os.killpg(doomed.process.pid, signal.SIGKILL)
    for thread in threads:
        thread.join()

    wait_until_drained(out)
    found = Counter(numbers(table(out / name)[1])[0][4] for name in logged(out))
    assert set(found) >= set(acknowledged)
    assert set(found.values()) == {1}
    assert list((out / ".spool").glob("*/*")) == []


@contextmanager
def capturing(directory: Path) -> Iterator[Path]:
    """Log the monitored models of this process into `directory`, which each process looks up once."""
    captures = Captures()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_MONITORING_DIR", str(directory))
        patch.setattr(mooring.capture.pyfunc, "_captures", captures)
        yield directory
    captures.close()
    wait_until_drained(directory)


@pytest.fixture(scope="module")
def log(tracking, tmp_path_factory) -> Iterator[Path]:
    with capturing(tmp_path_factory.mktemp("in-process") / "out") as directory:
        yield directory


class Returning(PythonModel):
    """A model that answers what a function makes of its input and parameters."""

    def __init__(self, function) -> None:
        self.function = function

    def predict(self, context, model_input, params=None):
        return self.function(model_input, params or {})


def wrap(directory: Path, model, signature=None, **further):
    """Return the model as MLflow loads it, and the monitored one made of it."""
    path = str(directory / "model")
    if isinstance(model, PythonModel):
        mlflow.pyfunc.save_model(path, python_model=model, signature=signature, pip_requirements=["mlflow"])
    else:
        mlflow.sklearn.save_model(
            model, path, signature=signature, serialization_format="cloudpickle", pip_requirements=["scikit-learn"]
        )
    info = mooring.log_model(path, **further)
    return mlflow.pyfunc.load_model(path), mlflow.pyfunc.load_model(info.model_uri)


def predict(log: Path, model, data, params=None) -> tuple:
    """Return what the monitored model predicts, and header and lines of the one file that is there then."""
    before = set(logged(log))
    predictions = model.predict(data, params=params)
    wait_for(lambda: set(logged(log)) != before, "nothing was logged")
    (name,) = set(logged(log)) - before
    return predictions, *table(log / name)


def test_the_callers_dataframe_is_left_as_it_was(log):
    model = mlflow.pyfunc.load_model("models:/sklearn-monitor-custom@champion")
    plain = mlflow.pyfunc.load_model("models:/sklearn-monitor@champion")
    frame = FRAME[COLUMNS[::-1]]
    copy = frame.copy(deep=True)
    predictions, header, lines = predict(log, model, frame)
    pd.testing.assert_frame_equal(frame, copy)
    assert predictions.tolist() == plain.predict(frame).tolist()
    assert header == ["prediction", *COLUMNS]
    assert numbers(lines) == [[p, *row] for p, row in zip(predictions, ROWS, strict=True)]


def test_the_log_has_what_was_asked_though_the_model_changes_it(log, tmp_path):
    def changing(frame, params):
        frame["a"] = -1.0
        frame["new"] = 0
        return frame["a"].to_numpy()

    _, model = wrap(tmp_path, Returning(changing))
    _, header, lines = predict(log, model, pd.DataFrame({"a": [1.5, 2.5], "b": ["x", "y"]}))
    assert header == ["prediction", "a", "b"]
    assert lines == [["-1.0", "1.5", "x"], ["-1.0", "2.5", "y"]]


def test_nothing_is_logged_by_log_model_itself(tracking, tmp_path):
    frame = pd.DataFrame({"a": [1.0]})
    with capturing(tmp_path / "out") as out:
        wrap(
            tmp_path,
            Returning(lambda frame, params: frame["a"]),
            infer_signature(frame, np.array([1.0])),
            input_example=frame,
        )
    assert not out.exists()


FIVE = pd.DataFrame({"n": range(5)})
NOON = datetime(2024, 2, 29, 12, 30, 15, 250_000)


@pytest.mark.parametrize(
    ("outputs", "columns", "cells"),
    [
        pytest.param(
            pd.DataFrame({"score": [0.5, 1.5, 2.5, 3.5, 4.5], "label": list("abcde")}),
            ["prediction.score", "prediction.label"],
            [["0.5", "a"], ["1.5", "b"], ["2.5", "c"], ["3.5", "d"], ["4.5", "e"]],
            id="two columns",
        ),
        pytest.param(
            ["a,b", 'a "b"', "a\nb", "größe 🍷", ""],
            ["prediction"],
            [["a,b"], ['a "b"'], ["a\nb"], ["größe 🍷"], [""]],
            id="text",
        ),
        pytest.param(
            np.array([np.nan, np.inf, -np.inf, -0.0, 1e-300]),
            ["prediction"],
            [["NaN"], ["Infinity"], ["-Infinity"], ["-0.0"], ["1e-300"]],
            id="floats",
        ),
        pytest.param(
            pd.DataFrame(
                {"ü,1": [True, False, None, 2**63, [1, "ä"]], 'ü"2': pd.array([1, 2, 3, 4, None], "Int64")}
            ),
            ["prediction.ü,1", 'prediction.ü"2'],
            [["true", "1"], ["false", "2"], ["", "3"], [str(2**63), "4"], ['[1, "ä"]', ""]],
            id="awkward names and mixed cells",
        ),
        pytest.param(
            pd.Series([NOON, pd.NaT, NOON, NOON, NOON]),
            ["prediction"],
            [[NOON.isoformat()], [""], *[[NOON.isoformat()]] * 3],
            id="timestamps",
        ),
        pytest.param(
            np.array([NOON] * 5, dtype="datetime64[ns]"),
            ["prediction"],
            [["2024-02-29T12:30:15.250000000"]] * 5,  # as MLflow answers it
            id="timestamps of numpy",
        ),
        pytest.param(
            np.arange(10).reshape(5, 2),
            ["prediction.0", "prediction.1"],
            [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"], ["8", "9"]],
            id="matrix",
        ),
        pytest.param(
            {"a": np.arange(5), "b": list("vwxyz")},
            ["prediction.a", "prediction.b"],
            [["0", "v"], ["1", "w"], ["2", "x"], ["3", "y"], ["4", "z"]],
            id="dict of columns",
        ),
    ],
)
def test_outputs_of_every_shape(log, tmp_path, outputs, columns, cells):
    plain, model = wrap(tmp_path, Returning(lambda frame, params: outputs))
    predictions, header, lines = predict(log, model, FIVE)
    assert repr(predictions) == repr(plain.predict(FIVE))
    assert header == [*columns, "n"]
    assert lines == [[*row, str(n)] for n, row in enumerate(cells)]


def test_inputs_of_every_type(log, tmp_path):
    frame = pd.DataFrame(
        {
            "größe, in cm": [1.5, None],
            'a "name"': ["line\nbreak", 'comma, and "quotes"'],
            "when": pd.to_datetime([NOON, None]),
            "kind": pd.Categorical(["u", "v"]),
            "bytes": [b"\0\xff", b""],
            "integer": pd.array([2**53 + 1, None], dtype="Int64"),
        }
    )
    copy = frame.copy(deep=True)
    _, model = wrap(tmp_path, Returning(lambda frame, params: [1, 2]))
    _, header, lines = predict(log, model, frame)
    assert header == ["prediction", *frame]
    assert lines == [
        ["1", "1.5", "line\nbreak", NOON.isoformat(), "u", "AP8=", str(2**53 + 1)],
        ["2", "", 'comma, and "quotes"', "", "v", "", ""],
    ]
    pd.testing.assert_frame_equal(frame, copy)


def test_a_classifier_with_text_for_labels(log, tmp_path):
    classifier = DecisionTreeClassifier().fit(FRAME, ["sweet", "dry", "dry"])
    plain, model = wrap(tmp_path, classifier, infer_signature(FRAME, np.array(["dry"])))
    predictions, header, lines = predict(log, model, FRAME)
    assert list(predictions) == list(plain.predict(FRAME)) == ["sweet", "dry", "dry"]
    assert header == ["prediction", *COLUMNS]
    assert [line[0] for line in lines] == ["sweet", "dry", "dry"]


@pytest.mark.parametrize("signed", [True, False])
def test_a_model_of_tensors(log, tmp_path, signed):
    matrix = np.array([[1.0, 2.0], [3.0, 4.0]])
    copy = matrix.copy()
    signature = infer_signature(matrix, matrix.sum(axis=1)) if signed else None
    plain, model = wrap(tmp_path, Returning(lambda matrix, params: matrix.sum(axis=1)), signature)
    predictions, header, lines = predict(log, model, matrix)
    assert predictions.tolist() == plain.predict(matrix).tolist()
    assert (header, numbers(lines)) == (["prediction", "0", "1"], [[3, 1, 2], [7, 3, 4]])
    assert np.array_equal(matrix, copy)


class HintedText(PythonModel):
    def predict(self, model_input: list[str], params=None) -> list[str]:
        return [text.upper() for text in model_input]


class HintedRecords(PythonModel):
    def predict(self, model_input: list[dict[str, int]], params=None) -> list[int]:
        return [record["a"] + record["b"] for record in model_input]


@pytest.mark.parametrize(
    ("model", "inputs", "header", "lines"),
    [
        (HintedText(), ["a", "b"], ["prediction", "0"], [["A", "a"], ["B", "b"]]),
        (HintedRecords(), [{"a": 1, "b": 2}], ["prediction", "a", "b"], [["3", "1", "2"]]),
    ],
    ids=["text", "records"],
)
def test_a_model_whose_signature_is_its_type_hints(log, tmp_path, model, inputs, header, lines):
    plain, monitored = wrap(tmp_path, model)
    assert predict(log, monitored, inputs) == (plain.predict(inputs), header, lines)


def test_a_model_keeps_its_own_parameters(log, tmp_path):
    frame = pd.DataFrame({"a": [1.0, 2.0]})
    signature = infer_signature(frame, np.array([1.0]), {"factor": 2.0})
    _, model = wrap(tmp_path, Returning(lambda frame, params: frame["a"].to_numpy() * params["factor"]), signature)
    for params, expected in (({}, [2, 4]), ({"factor": 3.0, "request_id": "order 66"}, [3, 6])):
        predictions, _, lines = predict(log, model, frame, params)
        assert predictions.tolist() == [float(line[0]) for line in lines] == expected


def test_a_model_that_has_a_numeric_parameter_request_id_of_its_own(tracking, tmp_path):
    frame = pd.DataFrame({"a": [1.0, 2.0]})
    signature = infer_signature(frame, np.array([1.0]), {"request_id": 1})
    _, model = wrap(
        tmp_path, Returning(lambda frame, params: frame["a"].to_numpy() + params["request_id"]), signature
    )
    with capturing(tmp_path / "out") as out:
        for _ in range(3):
            assert model.predict(frame, params={"request_id": 7}).tolist() == [8, 9]
        wait_for(lambda: out.exists() and len(logged(out)) == 3, "not every request is in the log")


def test_an_exception_of_the_model_reaches_the_caller_and_is_logged_apart(log, tmp_path):
    def failing(frame, params):
        raise KeyError("größe")

    _, model = wrap(tmp_path, Returning(failing))
    with pytest.raises(KeyError, match="größe"):
        model.predict(FIVE)
    wait_for(lambda: (log / "errors").exists() and len(visible(log / "errors")) == 1, "the error is not logged")
    entry = json.loads(next((log / "errors").iterdir()).read_text())
    assert "größe" in json.loads(entry["response"])["message"]


def test_the_monitored_model_predicts_where_the_log_cannot_be_written(tracking, tmp_path):
    _, model = wrap(tmp_path, Returning(lambda frame, params: frame["n"].to_numpy()))
    (tmp_path / "file").touch()
    with capturing(tmp_path / "file" / "out"):
        assert model.predict(FIVE).tolist() == [0, 1, 2, 3, 4]


def test_the_monitored_model_predicts_where_the_log_is_read_only(tracking, tmp_path):
    _, model = wrap(tmp_path, Returning(lambda frame, params: frame["n"].to_numpy()))
    with disk(tmp_path / "disk", "1m") as read_only:
        (read_only / "out" / ".spool").mkdir(parents=True)
        remount(read_only, "ro")
        with capturing(read_only / "out"):
            assert model.predict(FIVE).tolist() == [0, 1, 2, 3, 4]


def test_code_of_the_callers_own_travels_beside_moorings(tracking, tmp_path):
    helper = tmp_path / "helper_of_mine"
    helper.mkdir()
    (helper / "__init__.py").write_text("")
    mlflow.pyfunc.save_model(
        str(tmp_path / "model"), python_model=Returning(lambda frame, params: 1), pip_requirements=["mlflow"]
    )
    info = mooring.log_model(str(tmp_path / "model"), code_paths=[str(helper)])
    code = Path(mlflow.artifacts.download_artifacts(info.model_uri), "code")
    assert {path.name for path in code.iterdir()} == {"mooring", "helper_of_mine"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_the_proxy_ends_in_order_under_load(plain, tmp_path, number):
    out = tmp_path / "out"
    acknowledged: list[str] = []

    def send(port: int) -> None:
        with suppress(OSError, HTTPException):
            while True:
                answer = ask(port, SPLIT)
                assert answer.status == 200
                acknowledged.append(f"{answer.request_id}.csv")

    with proxying(plain, tmp_path, "--log", "out") as proxy:
        threads = [threading.Thread(target=send, args=(proxy.port,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(acknowledged) >= 30, "the proxy does not answer")
        account = proxy.end(number)
        found = logged(out)
        assert drains(out) == []
        for thread in threads:
            thread.join()
    assert set(found) >= set(acknowledged)
    assert (account.stored, account.dropped) == (account.seen, "0 dropped")
    assert len(found) + account.failed == account.stored
    assert list((out / ".spool").glob("*/*")) == []
    assert "Traceback" not in proxy.said


def test_the_first_request_is_logged_though_the_proxy_is_ended_at_once(plain, tmp_path):
    with proxying(plain, tmp_path, "--log", "out") as proxy:
        answer = ask(proxy.port, SPLIT)
        account = proxy.end()
        assert logged(tmp_path / "out") == [f"{answer.request_id}.csv"]
    assert (account.seen, account.stored) == (1, 1)
