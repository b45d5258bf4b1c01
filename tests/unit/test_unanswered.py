"""Answers with another number of rows: the inputs are watched, and nothing takes the rows for predictions."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import msgspec
import pyarrow as pa
import pytest

from monitoring import START, Monitoring, Traffic, settings
from mooring import read_log
from mooring.exchange import Exchange
from mooring.log.parquet import ParquetLog
from mooring.log.queries import stats
from mooring.monitor.building import from_log
from mooring.state.windows import Windows

ANSWERS: dict[str, list[float]] = {"three for each": [1.5] * 30, "one for all": [2.5], "none": []}
"""To requests of ten rows."""


@pytest.fixture
def traffic(tmp_path) -> Traffic:
    return Traffic(tmp_path / "log")


def differing(exchanges: list[Exchange], how: str = "one for all") -> list[Exchange]:
    return [
        msgspec.structs.replace(one, response=json.dumps({"predictions": ANSWERS[how]}).encode())
        for one in exchanges
    ]


@pytest.mark.parametrize("how", list(ANSWERS))
def test_inputs_are_rows_without_an_output_and_answers_are_in_payloads(traffic, how):
    traffic.write(traffic.exchanges(20) + differing(traffic.exchanges(30), how))
    table = read_log(traffic.log)
    assert table.num_rows == 50
    assert table["output"].null_count == 30
    assert table["unanswered"].drop_null().to_pylist() == ["rows_differ"] * 30
    assert table["misfits"].null_count == 50
    assert table["input"].null_count == 0
    assert read_log(traffic.log, columns=["input.alcohol"])["input.alcohol"].null_count == 0
    assert read_log(traffic.log, flat=True)["prediction"].null_count == 30
    reasons = read_log(traffic.log, what="payloads", columns=["reason"])["reason"].drop_null().to_pylist()
    count = len(ANSWERS[how])
    assert reasons == [f"rows_differ: Rows in the request: 10. Predictions in its answer: {count}."] * 3
    [day] = stats(str(traffic.log), {"model": "wine", "start": None, "end": None, "variant": ()})
    assert (day.exchanges, day.rows, day.errors) == (5, 50, {"rows_differ": 3})


def test_a_field_that_comes_later_leaves_an_output_that_is_null_so(tmp_path, traffic):
    late = msgspec.structs.replace(
        traffic.exchanges(1, per_request=1)[0],
        request=b'{"dataframe_split": {"columns": ["new", "alcohol"], "data": [[1, 2]]}}',
        response=b'[{"a": 1, "b": 2}]',
    )
    # Each chunk is a row group; a wider one makes the file anew.
    big = json.dumps({"dataframe_split": {"columns": ["text"], "data": [["x" * 9_000_000]]}}).encode()
    first = differing(traffic.exchanges(10))
    flush = msgspec.structs.replace(late, request=big, response=b"[1]")
    ParquetLog(str(tmp_path / "log"), lambda *_: None).write("segment", [*first, flush, late])
    table = read_log(tmp_path / "log")
    assert table["output"].null_count == 10
    assert table.filter(pa.compute.is_null(table["output"]))["unanswered"].to_pylist() == ["rows_differ"] * 10


@pytest.mark.parametrize("how", list(ANSWERS))
@pytest.mark.parametrize("share", ["some", "all"])
def test_the_drift_of_their_inputs_is_judged_and_they_lack_no_prediction(traffic, tmp_path, how, share):
    monitoring = Monitoring(settings(traffic.log, f"sqlite:///{tmp_path}/state.db"))
    monitoring.keep(traffic.baseline())
    for place, shift in enumerate((0.0, 0.0, 1.0)):
        start = START + timedelta(minutes=10 * place)
        answered = traffic.exchanges(500, start, shift=shift) if share == "some" else []
        rows = 1000 - (500 if answered else 0)
        traffic.write(
            answered + differing(traffic.exchanges(rows, start + timedelta(milliseconds=3), shift=shift), how)
        )
    monitoring.watch.look()
    assert monitoring.verdicts() == [(1000, "ok"), (1000, "ok"), (1000, "critical")]
    first, _, last = Windows(monitoring.state).history("wine")
    without = 500 if share == "some" else 1000
    assert f"{without} of 1000 rows have no prediction of their own" in first.verdict.message
    assert "rows_differ" in first.verdict.message
    drifted = {one.feature: one.measure for one in last.verdict.summary}
    assert "alcohol" in drifted
    assert drifted.get("prediction") in (None, "ks", "js", "mean_shift")
    assert ("prediction" in drifted) == (share == "some")
    assert not any("yet" in text for text in monitoring.said)


def test_a_baseline_from_the_log_lacks_no_prediction_either(traffic):
    traffic.write(traffic.exchanges(300) + differing(traffic.exchanges(700)))
    made = from_log(str(traffic.log), "wine", None, "2026-03-01..2026-03-02")
    assert made.rows == 1000
    assert made.features["prediction"].profile.nulls == 0
    assert made.features["prediction"].role == "output"


def test_a_log_without_the_column_is_read_and_watched(traffic, tmp_path):
    """As older versions wrote it."""
    import pyarrow.parquet as pq

    traffic.write(traffic.exchanges(2000))
    [path] = traffic.log.glob("inferences/*/*/*.parquet")
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.drop_columns(["unanswered"]), path)
    monitoring = Monitoring(settings(traffic.log, f"sqlite:///{tmp_path}/state.db"))
    monitoring.keep(traffic.baseline())
    monitoring.watch.look()
    assert monitoring.verdicts() == [(1000, "ok")] * 2
    assert not any(
        re.search("rows_differ", one.verdict.message) for one in Windows(monitoring.state).history("wine")
    )
