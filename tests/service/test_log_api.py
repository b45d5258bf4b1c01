"""Capture in the caller's own process: `mooring.log`, and the monitored model that writes Parquet."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from mlflow.models import infer_signature
from mlflow.pyfunc import PythonModel

import mooring
import mooring.capture.pyfunc
from mlflow_store import new_store
from mooring.capture import batch
from mooring.capture.in_process import Captures
from mooring.exchange import Exchange
from mooring.log.listing import LogError
from mooring.payload import decode
from mooring.settings import CaptureSettings
from waiting import PATIENCE, wait_for


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Path]:
    """A log that many tests write to, each for a model of its own, so that it is drained once."""
    yield tmp_path_factory.mktemp("shared") / "log"
    assert mooring.flush(PATIENCE)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# What it takes


FRAME = pd.DataFrame(
    {"a": [1.5, None], "b": ["x", "y"], "c": [True, False], "t": pd.to_datetime(["2026-01-01"] * 2)}
)
TWO = [{"prediction": 1.0, "a": 1.0, "b": "x"}, {"prediction": 2.0, "a": 2.0, "b": None}]


@pytest.mark.parametrize(
    ("inputs", "predictions", "rows"),
    [
        pytest.param({"a": [1, 2], "b": ["x", None]}, [1, 2], TWO, id="columns"),
        pytest.param({"a": np.array([1, 2]), "b": ("x", None)}, np.array([1, 2]), TWO, id="columns of arrays"),
        pytest.param([{"a": 1, "b": "x"}, {"a": 2}], (1, 2), TWO, id="records"),
        pytest.param(pd.DataFrame({"a": [1, 2], "b": ["x", None]}), pd.Series([1, 2]), TWO, id="pandas"),
        pytest.param(pa.table({"a": [1, 2], "b": ["x", None]}), pa.array([1, 2]), TWO, id="Arrow"),
        pytest.param(
            pa.record_batch({"a": [1, 2], "b": ["x", None]}), pa.chunked_array([[1], [2]]), TWO, id="Arrow batch"
        ),
        pytest.param(pl.DataFrame({"a": [1, 2], "b": ["x", None]}), pl.Series([1, 2]), TWO, id="Polars"),
        pytest.param({"a": 1, "b": "x"}, 1, TWO[:1], id="a row"),
        pytest.param(
            pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=[7, 7]), pl.DataFrame({"p": [1, 2]}), TWO, id="i"
        ),
        pytest.param(
            np.array([[1, 2], [3, 4]], dtype=np.int8),
            np.array([[0.25, 0.75], [0.5, 0.5]]),
            [
                {"prediction.0": 0.25, "prediction.1": 0.75, "0": 1.0, "1": 2.0},
                {"prediction.0": 0.5, "prediction.1": 0.5, "0": 3.0, "1": 4.0},
            ],
            id="NumPy",
        ),
        pytest.param(
            scipy.sparse.csr_matrix([[0, 2], [3, 0]]),
            np.float32([1, 2]),
            [{"prediction": 1.0, "0": 0.0, "1": 2.0}, {"prediction": 2.0, "0": 3.0, "1": 0.0}],
            id="SciPy",
        ),
        pytest.param(
            FRAME,
            {"p": [Decimal(1), 2], "label": ["u", b"v"]},
            [
                {"prediction.p": p, "prediction.label": label, "a": a, "b": b, "c": c, "t": "2026-01-01T00:00:00"}
                for p, label, a, b, c in ((1.0, "u", 1.5, "x", True), (2.0, "dg==", None, "y", False))
            ],
            id="kinds",
        ),
        pytest.param(
            pd.DataFrame([[1.5, 60], [None, 2]], columns=pd.MultiIndex.from_tuples([("b", 1), ("a", 2)])),
            pd.DataFrame({("q", 0): ["x", None], ("p", 0): [1, 2]}),
            [
                {"prediction.('q', 0)": "x", "prediction.('p', 0)": 1.0, "('b', 1)": 1.5, "('a', 2)": 60.0},
                {"prediction.('q', 0)": None, "prediction.('p', 0)": 2.0, "('b', 1)": None, "('a', 2)": 2.0},
            ],
            id="MultiIndex",
        ),
        pytest.param(
            [{("a", 1): timedelta(minutes=1), "t": pd.NaT}, {("a", 1): np.timedelta64("NaT"), "t": "x"}],
            [None, math.nan],
            [{"('a', 1)": 60.0, "t": None}, {"('a', 1)": None, "t": "x"}],
            id="durations",
        ),
    ],
)
def test_whatever_holds_rows_is_logged(shared, request, inputs, predictions, rows):
    model = request.node.callspec.id
    ids = mooring.log(inputs, predictions, model=model, log=shared)
    assert len(ids) == 1
    assert mooring.flush(PATIENCE)
    assert mooring.read_log(shared, model=model, flat=True).to_pylist() == rows
    assert set(mooring.read_log(shared, model=model)["request_id"].to_pylist()) == set(ids)


MISSING = {
    ("x", None, "y"): [
        ["x", None, "y"],
        ["x", math.nan, "y"],
        ["x", np.float32("nan"), "y"],
        ["x", pd.NA, "y"],
        ["x", pd.NaT, "y"],
        np.array(["x", math.nan, "y"], dtype=object),
        pd.Series(["x", None, "y"]),
        pd.Series(["x", None, "y"], dtype="category"),
        pd.Series(["x", None, "y"], dtype="string"),
        pd.Series(["x", math.nan, "y"], dtype=object),
        pa.array(["x", None, "y"]),
        pl.Series(["x", None, "y"]),
    ],
    (None, True): [
        [math.nan, True],
        [None, np.True_],
        pd.Series([None, True], dtype="boolean"),
        pd.Series([pd.NA, True]),
    ],
    (None, "2026-03-01T00:00:00"): [
        [math.nan, datetime(2026, 3, 1)],
        pd.Series(pd.to_datetime(["NaT", "2026-03-01"])),
        np.array(["NaT", "2026-03-01T00:00:00"], dtype="datetime64[s]"),
    ],
}


def test_what_is_missing_is_null_and_never_changes_a_kind(shared):
    logged = {}
    for cells, forms in MISSING.items():
        for form in forms:
            model = f"missing {len(logged)}"
            mooring.log([math.nan] * 2, [None, math.nan], model=model, log=shared)
            mooring.log({"a": form}, form, model=model, log=shared)
            logged[model] = cells
    assert mooring.flush(PATIENCE)
    for model, cells in logged.items():
        table = mooring.read_log(shared, model=model).slice(2)
        assert table["misfits"].null_count == len(table)
        assert [row["prediction"] for row in table["output"].to_pylist()] == list(cells)
        assert [row["a"] for row in table["input"].to_pylist()] == list(cells)


def test_the_callers_data_is_left_as_it_was(shared):
    copy = FRAME.copy(deep=True)
    mooring.log(FRAME, [1, 2], model="untouched", log=shared)
    pd.testing.assert_frame_equal(FRAME, copy)


@pytest.mark.parametrize(
    ("inputs", "predictions", "further", "message"),
    [
        ([1, 2], [1], {}, "inputs has 2 rows, and predictions 1"),
        ({"a": [1, 2], "b": [1]}, [1], {}, "the columns of inputs differ in their rows: a: 2, b: 1"),
        (iter([1]), [1], {}, "inputs is a list_iterator: give a DataFrame"),
        (pl.LazyFrame({"a": [1]}), [1], {}, "inputs is a LazyFrame: give a DataFrame"),
        ([object()], [1], {}, "inputs: column 0: object has no JSON form"),
        ({"a": [1], "b": [1j]}, [1], {}, "inputs: column b: complex has no JSON form"),
        (
            [1],
            pd.DataFrame({"p": pd.interval_range(0, 1)}),
            {},
            "predictions: column p: Interval has no JSON form",
        ),
        ([1], [1], {"request_ids": ["a", "b"]}, "request_ids has 2 values, and inputs 1 rows"),
        ([1], [1], {"time": "soon"}, "time has a value that is no time: 'soon'"),
        ([1], [1], {"time": [None]}, "time has a value that is no time: None"),
        ([1], [1], {"log": "ftp://host/x"}, "ftp://host/x is no place for a log"),
    ],
)
def test_what_can_not_be_meant_is_said(tmp_path, inputs, predictions, further, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        mooring.log(inputs, predictions, **{"model": "m", "log": tmp_path / "log", **further})
    assert not (tmp_path / "log" / "inferences").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MOORING_SAMPLE", "2", "MOORING_SAMPLE: "),
        ("MOORING_REDACT", "a=hash", "needs a secret key"),
    ],
)
def test_a_wrong_setting_is_said(tmp_path, monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        mooring.log([1], [1], model="m", log=tmp_path / "log")


def test_csv_files_go_into_a_directory_only(monkeypatch):
    monkeypatch.setenv("MOORING_FORMAT", "csv")
    with pytest.raises(ValueError, match="CSV files go into a directory only"):
        mooring.log([1], [1], model="m", log="s3://bucket/log")


# How it is cut


def test_a_large_batch_is_several_requests_of_1000_rows(shared):
    ids = mooring.log({"n": range(2500)}, np.arange(2500), model="large", log=shared, version=3, variant="canary")
    assert len(ids) == 3
    assert mooring.flush(PATIENCE)
    table = mooring.read_log(shared, model="large")
    rows = sorted(table.to_pylist(), key=lambda row: row["output"]["prediction"])
    assert [row["request_id"] for row in rows] == [ids[place // 1000] for place in range(2500)]
    assert [row["row"] for row in rows] == [place % 1000 for place in range(2500)]
    assert [row["input"]["n"] for row in rows] == list(range(2500))
    assert {row["request_rows"] for row in rows} == {1000, 500}
    assert {(row["model_version"], row["variant"], row["sampling"]) for row in rows} == {("3", "canary", 1.0)}


def test_rows_have_ids_and_times_of_the_callers_own(shared):
    times = [datetime(2026, 1, 1), np.datetime64("2026-01-02"), "2026-01-03T01:00+01:00", "2026-01-03T00:00Z"]
    ids = mooring.log(
        [1, 2, 3, 4], [1, 2, 3, 4], model="own", log=shared, request_ids=["a", "b", 7, 7], time=times
    )
    assert len(ids) == 3
    assert ids == sorted(ids)
    assert mooring.flush(PATIENCE)
    table = mooring.read_log(
        shared, model="own", columns=["output.prediction", "client_request_id", "row", "time"]
    )
    assert [
        (row["client_request_id"], row["row"], row["time"])
        for row in table.sort_by("output.prediction").to_pylist()
    ] == [
        ("a", 0, datetime(2026, 1, 1, tzinfo=UTC)),
        ("b", 0, datetime(2026, 1, 2, tzinfo=UTC)),
        ("7", 0, datetime(2026, 1, 3, tzinfo=UTC)),
        ("7", 1, datetime(2026, 1, 3, tzinfo=UTC)),
    ]


def test_requests_stay_below_max_payload(shared, monkeypatch):
    monkeypatch.setenv("MOORING_MAX_PAYLOAD", "500")
    rows = np.round(np.random.default_rng(1).random((100, 5)), 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ids = mooring.log(rows, rows[:, 0], model="small", log=shared)
    assert len(ids) > 5
    with pytest.warns(UserWarning, match="cut to --max-payload") as said:
        assert len(mooring.log(rows, rows[:, 0], model="small", log=shared, request_ids="together")) == 1
    assert said[0].filename == __file__
    assert mooring.flush(PATIENCE)
    table = mooring.read_log(shared, model="small", flat=True)
    assert sorted(table["prediction"].to_pylist()) == sorted(rows[:, 0])
    payloads = mooring.read_log(shared, model="small", what="payloads")
    assert max(map(len, payloads["request"].to_pylist())) <= 500
    assert (
        sum(reason is not None and reason.startswith("truncated") for reason in payloads["reason"].to_pylist())
        == 1
    )


@given(
    st.lists(st.tuples(st.sampled_from([None, "a", "b"]), st.integers(0, 1)), max_size=30),
    st.sampled_from([1, 3, 1000]),
    st.sampled_from([60, 100, 10**6]),
)
def test_every_row_is_in_one_request_in_order_whatever_the_cuts(keys, rows, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "ROWS", rows)
        values = list(range(len(keys)))
        spans = batch._spans([name for name, _ in keys], [at for _, at in keys])
        found: list[tuple[str | None, int, int]] = []
        for block in batch._blocks(spans):
            first, last = block[0].start, block[-1].stop
            request, response = batch._request(values, first, last), batch._response(values, first, last)
            for one in block:
                for span, body, answer, cut in batch._bodies(request, response, one, first, most):
                    if cut:
                        assert len(max(body, answer, key=len)) == most
                        assert span.id is not None or span.stop - span.start == 1
                        found += [(span.id, span.time, row) for row in range(span.start, span.stop)]
                        continue
                    scored = decode(Exchange(request_id="", time_ns=0, request=body, response=answer))
                    assert scored.inputs.rows == scored.outputs.rows
                    assert span.id is not None or len(scored.inputs.rows) <= rows
                    found += [(span.id, span.time, row) for (row,) in scored.inputs.rows]
    assert found == [(name, at, row) for row, (name, at) in enumerate(keys)]


# When it gets there


def test_it_is_in_the_log_after_segment_seconds_though_nothing_more_comes(tmp_path, monkeypatch):
    monkeypatch.setenv("MOORING_SEGMENT_SECONDS", "0.5")
    mooring.log([1], [2], model="m", log=tmp_path / "log")
    wait_for(lambda: rows_in(tmp_path / "log") == 1, "nothing is in the log")
    assert mooring.flush(PATIENCE)


def rows_in(log: Path) -> int:
    try:
        return mooring.read_log(log).num_rows
    except LogError:
        return 0


def test_it_is_in_the_log_after_the_end_of_the_process_and_settings_are_those_of_mooring_yaml(tmp_path):
    (tmp_path / "mooring.yaml").write_text("log: here\nmodels: {m: {log: there}}\n")
    code = "import mooring; mooring.log([1], [2], model='m'); mooring.log([1, 2], [2, 3], model='n')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    wait_for(lambda: (rows_in(tmp_path / "there"), rows_in(tmp_path / "here")) == (1, 2), "nothing is in the log")
    wait_for(lambda: not list(tmp_path.glob("*/.spool/*/lock")), "the drain does not end")


def test_a_child_after_a_fork_logs_for_itself_and_leaves_its_parents_spool_alone(tmp_path):
    code = f"""if True:
        import os, sys, mooring
        mooring.log([1], [1], model="m", log="log")
        if os.fork() == 0:
            mooring.log([2], [2], model="m", log="log")
            sys.exit()
        os.wait()
        mooring.log([3], [3], model="m", log="log")
        assert mooring.flush({PATIENCE})
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, check=True, timeout=PATIENCE)
    wait_for(lambda: rows_in(tmp_path / "log") == 3, "not all is in the log")
    assert sorted(mooring.read_log(tmp_path / "log", flat=True)["prediction"].to_pylist()) == [1, 2, 3]


def test_a_log_that_can_not_be_written_raises_nothing_and_flush_says_so(tmp_path, caplog):
    (tmp_path / "file").touch()
    assert mooring.log([1], [1], model="m", log=tmp_path / "file" / "log")
    assert "nothing can be stored now" in caplog.text
    mooring.flush(1)


def test_only_the_sample_is_logged(tmp_path, monkeypatch):
    monkeypatch.setenv("MOORING_SAMPLE", "0.5")
    ids = mooring.log(
        range_of := list(range(200)), range_of, model="m", log=tmp_path / "log", request_ids=range_of
    )
    assert mooring.flush(PATIENCE)
    table = mooring.read_log(tmp_path / "log")
    assert 60 < table.num_rows < 140
    assert set(table["request_id"].to_pylist()) < set(ids)
    assert set(table["sampling"].to_pylist()) == {0.5}


def test_mooring_log_is_the_package_too():
    import mooring.log.store  # the way that its own modules go
    from mooring import log

    assert mooring.log is log
    assert mooring.log.store.is_local("x")
    assert callable(log)


# The monitored model


SIGNATURE = infer_signature(pd.DataFrame({"a": [1.0], "b": [2.0]}), np.array([3.0]))


class Sum(PythonModel):
    def predict(self, context, model_input: pd.DataFrame, params=None):
        return model_input.sum(axis=1).to_numpy()


@pytest.fixture(scope="module")
def model_uri(tmp_path_factory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(directory)  # where MLflow puts artifacts
        mlflow.set_tracking_uri(new_store(directory))
        mlflow.pyfunc.save_model("model", python_model=Sum(), signature=SIGNATURE, pip_requirements=["mlflow"])
        mooring.log_model(str(directory / "model"), registered_model_name="sum", model_config={"mine": 1})
    yield "models:/sum/1"
    mlflow.set_tracking_uri(None)


@pytest.fixture
def monitored(tmp_path, monkeypatch) -> Iterator[Path]:
    captures = Captures()
    monkeypatch.setenv("MLFLOW_MONITORING_DIR", str(tmp_path / "out"))
    monkeypatch.setenv("MLFLOW_MONITORING_FORMAT", "parquet")
    monkeypatch.setenv("MOORING_SEGMENT_SECONDS", "0.5")
    monkeypatch.setattr(mooring.capture.pyfunc, "_captures", captures)
    yield tmp_path / "out"
    for capture in captures.close():
        capture.finish(10)


def test_the_monitored_model_writes_parquet_under_its_registered_name(monitored, model_uri, monkeypatch):
    monkeypatch.setenv("MOORING_MODEL_VERSION", "1")
    monkeypatch.setenv("MOORING_SAMPLE", "0.999999")
    model = mlflow.pyfunc.load_model(model_uri)
    started = time.monotonic()
    assert model.predict(
        pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}), params={"request_id": "mine"}
    ).tolist() == [4, 6]
    wait_for(lambda: rows_in(monitored) == 2, "nothing is in the log")
    assert time.monotonic() - started > 0.4
    rows = mooring.read_log(monitored, model="sum").sort_by("row").to_pylist()
    assert [(row["input"], row["output"]) for row in rows] == [
        ({"a": 1.0, "b": 3.0}, {"prediction": 4.0}),
        ({"a": 2.0, "b": 4.0}, {"prediction": 6.0}),
    ]
    assert {(row["client_request_id"], row["model_version"], row["sampling"]) for row in rows} == {
        ("mine", "1", 0.999999)
    }


def test_flush_waits_for_what_a_wrapped_model_was_asked_too(monitored, model_uri, monkeypatch):
    monkeypatch.setenv("MOORING_SEGMENT_SECONDS", "3600")
    model = mlflow.pyfunc.load_model(model_uri)
    for _ in range(2):
        model.predict(pd.DataFrame({"a": [1.0], "b": [3.0]}))
        assert mooring.flush(PATIENCE)
    assert rows_in(monitored) == 2


def test_a_wrong_setting_is_said_when_the_monitored_model_is_loaded(monitored, model_uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_MONITORING_DIR", "s3://bucket/log")
    monkeypatch.setenv("MLFLOW_MONITORING_FORMAT", "csv")
    with pytest.raises(ValueError, match="CSV files go into a directory only"):
        mlflow.pyfunc.load_model(model_uri)
    monkeypatch.delenv("MLFLOW_MONITORING_FORMAT")
    mlflow.pyfunc.load_model(model_uri)
    assert mooring.capture.pyfunc._settings().format == "parquet"
    monkeypatch.delenv("MLFLOW_MONITORING_DIR")
    assert mooring.capture.pyfunc._settings() == CaptureSettings(log="out", format="csv", segment_seconds=0.5)
    assert not os.path.exists("out")
