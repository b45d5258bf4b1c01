"""Labels come by file, from Python and over HTTP: each is handled and counted, and none that was taken is lost."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import msgspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import mooring
from faults import logged
from labelled_logs import values
from mooring.capture.recorder import Recorder
from mooring.cli import main
from mooring.exchange import Exchange, encode
from mooring.ids import new_request_id
from mooring.label import Label, Labels
from mooring.log.add_labels import Added
from mooring.log.drain import Drain, run
from mooring.log.labels import LabelError, SegmentLabels, read_labels
from mooring.log.listing import LogError
from mooring.log.parquet import ParquetLog
from mooring.settings import CaptureSettings, LogSettings
from mooring.spool import SpoolWriter, past_ledger, segments
from peers import BODY

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
DAY = timedelta(days=1)
segment = count(1)


def nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 10**9


def infer(log: Path, rows: int = 1, *, at: datetime = NOW, client: str | None = None, model: str = "m") -> str:
    """Put a request of some rows into a log, as the drain does, and return its id."""
    data = [[float(row)] for row in range(rows)]
    exchange = Exchange(
        request_id=new_request_id(nanoseconds(at)),
        time_ns=nanoseconds(at),
        client_request_id=client,
        model=model,
        request=json.dumps({"dataframe_split": {"columns": ["x"], "data": data}}).encode(),
        response=json.dumps({"predictions": [0.5] * rows}).encode(),
    )
    ParquetLog(str(log), lambda *_: None).write(f"w-{next(segment):08d}", [exchange])
    return exchange.request_id


def add(log: Path, file: Path | str, *options: str, stdin: bytes | None = None) -> tuple[int, dict]:
    """Add a file on the command line, and return the exit code and what it says as JSON."""
    result = CliRunner().invoke(
        main, ["labels", "add", str(file), "--log", str(log), "--model", "m", "--json", *options], input=stdin
    )
    assert result.exit_code in (0, 1), result.output
    return result.exit_code, json.loads(result.stdout)


@pytest.mark.parametrize("form", [dict, pa.table, pd.DataFrame, pl.DataFrame])
def test_labels_come_from_whatever_holds_columns(tmp_path, form):
    id_ = infer(tmp_path, 2)
    labels = form({"request_id": [id_, id_], "row": [0, 1], "label": [6, 7], "note": ["x", "y"]})
    assert mooring.add_labels(labels, model="m", log=tmp_path) == Added(added=2)
    assert values(tmp_path) == {(id_, 0): 6.0, (id_, 1): 7.0}


def test_each_label_is_added_repeated_replaced_or_outdated(tmp_path):
    id_, other = infer(tmp_path, 2), infer(tmp_path)
    first = {"request_id": [id_, id_], "row": [0, 1], "label": [6.0, 7.0], "time": [NOW, NOW]}
    assert mooring.add_labels(first, model="m", log=tmp_path) == Added(added=2)
    assert mooring.add_labels(first, model="m", log=tmp_path) == Added(repeated=2)
    second = {
        "request_id": [id_, id_, other],
        "row": [0, 1, 0],
        "label": [5.0, 1.0, 2.0],
        "time": [NOW + DAY, NOW - DAY, NOW],
    }
    assert mooring.add_labels(second, model="m", log=tmp_path) == Added(added=1, replaced=1, outdated=1)
    assert values(tmp_path) == {(id_, 0): 5.0, (id_, 1): 7.0, (other, 0): 2.0}


def test_of_two_labels_of_one_time_the_one_added_last_counts(tmp_path):
    id_ = infer(tmp_path)
    for value, expected in ((9.0, Added(added=1)), (3.0, Added(replaced=1)), (9.0, Added(replaced=1))):
        labels = {"request_id": [id_], "label": [value], "time": ["2026-03-02"]}
        assert mooring.add_labels(labels, model="m", log=tmp_path) == expected
        assert values(tmp_path) == {(id_, 0): value}


def test_of_several_labels_of_a_row_in_one_table_the_last_counts(tmp_path):
    id_ = infer(tmp_path)
    found = mooring.add_labels({"request_id": [id_] * 3, "label": [9, 3, 3]}, model="m", log=tmp_path)
    assert found == Added(added=1, repeated=1, replaced=1)
    assert values(tmp_path) == {(id_, 0): 3.0}


def test_the_client_s_id_is_as_good_as_ours_within_the_lookback(tmp_path):
    now = datetime.now(UTC)
    infer(tmp_path, at=now - 5 * DAY, client="order-1")
    infer(tmp_path, at=now - 100 * DAY, client="order-2")
    labels = {"request_id": ["order-1", "order-2"], "label": [1, 2]}
    assert mooring.add_labels(labels, model="m", log=tmp_path) == Added(added=2, unknown=1)


def test_rows_that_the_log_does_not_have_are_counted_and_kept(tmp_path):
    id_, other = infer(tmp_path, 2), infer(tmp_path, model="other")
    labels = {"request_id": [id_, id_, new_request_id(), other, "typo"], "row": [1, 2, 0, 0, 0], "label": [1] * 5}
    assert mooring.add_labels(labels, model="m", log=tmp_path) == Added(added=5, unknown=4)
    assert len(values(tmp_path)) == 5


def test_an_id_is_found_on_the_day_that_it_tells_however_old(tmp_path):
    id_ = infer(tmp_path, at=NOW - 1000 * DAY)
    late = infer(tmp_path, at=datetime(2025, 1, 1, tzinfo=UTC) - timedelta(seconds=1))
    assert mooring.add_labels({"request_id": [id_, late], "label": [1, 1]}, model="m", log=tmp_path) == Added(
        added=2
    )


def test_a_client_s_id_may_look_like_ours_and_be_older_than_its_request(tmp_path):
    now = datetime.now(UTC)
    order = new_request_id(int((now - 9 * DAY).timestamp() * 1e9))
    infer(tmp_path, at=now - 2 * DAY, client=order)
    labels = {"request_id": [order, new_request_id()], "label": [1, 1]}
    assert mooring.add_labels(labels, model="m", log=tmp_path) == Added(added=2, unknown=1)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"id": ["a"], "label": [1]}, "labels have the columns request_id and label; there is: id, label"),
        ({"request_id": ["a", None], "label": [1, 1]}, "request_id is missing in 1 rows, such as 1"),
        ({"request_id": ["a", "b"], "label": [1, None]}, "label is missing in 1 rows, such as 1"),
        ({"request_id": ["a"], "label": [float("inf")]}, "label is infinite in 1 rows, such as 0"),
        ({"request_id": ["a"], "label": [1], "time": ["soon"]}, "time is no time in 1 rows, such as 0"),
        ({"request_id": ["a"], "label": [1], "time": [5]}, "the column time is int64"),
        ({"request_id": ["a"], "label": [[1]]}, "the column label is list"),
        ([1, 2], "labels come as a DataFrame"),
    ],
)
def test_what_can_not_be_meant_is_said_and_nothing_is_added(tmp_path, data, says):
    infer(tmp_path)
    with pytest.raises(LabelError) as error:
        mooring.add_labels(data, model="m", log=tmp_path)
    assert str(error.value).startswith(says)
    assert not list(tmp_path.glob("labels/**/*.parquet"))


def test_a_log_that_is_not_there_is_no_place_for_labels(tmp_path):
    with pytest.raises(LogError, match="there is no log at"):
        mooring.add_labels({"request_id": ["a"], "label": [1]}, model="m", log=tmp_path / "typo")


def test_bad_lines_of_a_csv_file_are_told_and_the_others_are_added(tmp_path):
    id_ = infer(tmp_path, 4)
    file = tmp_path / "truth.csv"
    file.write_bytes(
        "\ufeffrequest_id,row,label,time\n".encode()
        + f"{id_},0,6,\n".encode()
        + f"{id_},1\n".encode()
        + b",0,6,\n"
        + b"\n"
        + f"{id_},x,6,\n{id_},1,,\n{id_},-1,6,\n{id_},1,6,tomorrow\n".encode()
        + f'"{id_}", 2, "7.5", "2026-03-05T12:00+02:00"\n'.encode()
        + f"{id_},3,\xff,\n".encode("latin-1")
    )
    code, found = add(tmp_path, file)
    assert code == 1
    assert {line["line"]: line["why"].partition(":")[0] for line in found.pop("lines")} == {
        3: "it has 2 cells, the first line 4",
        4: "request_id is missing",
        6: "row is 'x', not a whole number from 0",
        7: "label is missing",
        8: "row is '-1', not a whole number from 0",
        9: "time is 'tomorrow', no time from 1970 to 2199",
        11: "label is not Unicode",
    }
    assert found == {"added": 2, "repeated": 0, "replaced": 0, "outdated": 0, "unknown": 0, "refused": 7}
    assert values(tmp_path) == {(id_, 0): 6.0, (id_, 2): 7.5}
    times = read_labels(str(tmp_path), "m").table["time"].to_pylist()
    assert times[1] == datetime(2026, 3, 5, 10, tzinfo=UTC)


def test_a_quote_that_is_not_closed_does_not_make_lines_a_label(tmp_path):
    file = tmp_path / "truth.csv"
    file.write_text(f'request_id,label\n{infer(tmp_path)},"6\nb,7\nc,8\n')
    code, found = add(tmp_path, file)
    assert (code, found["added"], found["refused"]) == (1, 0, 1)
    assert "is a quote before it not closed?" in found["lines"][0]["why"]


def test_files_of_each_format_may_name_their_columns_and_come_on_stdin(tmp_path):
    id_ = infer(tmp_path, 3)
    options = ("--id-column", "id", "--label-column", "quality", "--row-column", "place", "--time-column", "when")
    rows = [{"id": id_, "place": row, "quality": float(row), "when": "2026-03-02T13:00Z"} for row in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "truth.parquet")
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    cells = b"".join(",".join(map(str, row.values())).encode() + b"\n" for row in rows)
    assert add(tmp_path, tmp_path / "truth.parquet", *options)[1]["added"] == 3
    assert add(tmp_path, "-", "--format", "jsonl", *options, stdin=lines)[1]["repeated"] == 3
    header = b"id,place,quality,when\n"
    assert add(tmp_path, "-", "--format", "csv", *options, stdin=header + cells) == (
        0,
        {"added": 0, "repeated": 3, "replaced": 0, "outdated": 0, "unknown": 0, "refused": 0, "lines": []},
    )


def test_texts_of_parquet_are_kept_with_what_they_read_as(tmp_path):
    id_ = infer(tmp_path, 3)
    labels = {"request_id": [id_] * 3, "row": pa.array([0, 1, 2], pa.int32()), "label": ["01", "red", "true"]}
    pq.write_table(pa.table(labels), tmp_path / "truth.parquet")
    assert add(tmp_path, tmp_path / "truth.parquet")[1]["added"] == 3
    found = read_labels(str(tmp_path), "m").table.sort_by("row")
    assert found["label_text"].to_pylist() == labels["label"]
    assert found["label"].to_pylist() == [1.0, None, 1.0]


def test_bad_lines_of_json_and_rows_of_parquet_are_told(tmp_path):
    id_ = infer(tmp_path)
    file = tmp_path / "truth.jsonl"
    file.write_text(f'{{"request_id": "{id_}", "label": "good"}}\nnonsense\n[1]\n{{"label": 1}}\n')
    code, found = add(tmp_path, file)
    assert (code, found["added"], [line["line"] for line in found["lines"]]) == (1, 1, [2, 3, 4])
    pq.write_table(pa.table({"request_id": [id_, "", id_], "label": [1.0, 1.0, None]}), tmp_path / "truth.parquet")
    code, found = add(tmp_path, tmp_path / "truth.parquet")
    assert (code, found["replaced"]) == (1, 1)
    assert found["lines"] == [
        {"line": 2, "why": "request_id is missing"},
        {"line": 3, "why": "label is missing"},
    ]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("auto", {0: "007", 1: "true", 2: "good", 3: "-5e-2", 4: 7.5, 5: 7.0}),
        ("number", {0: 7.0, 1: 1.0, 3: -0.05, 4: 7.5, 5: 7.0}),
        ("text", {0: "007", 1: "true", 2: "good", 3: "-5e-2", 4: "7.5", 5: "7.0"}),
    ],
)
def test_csv_does_not_say_what_is_a_number(tmp_path, kind, expected):
    id_ = infer(tmp_path, 6)
    written = ["007", "true", "good", "-5e-2", "7.5", "7.0"]
    texts = "".join(f"{id_},{row},{text}\n" for row, text in enumerate(written))
    add(tmp_path, "-", "--format", "csv", "--label-type", kind, stdin=f"request_id,row,label\n{texts}".encode())
    assert values(tmp_path) == {(id_, row): value for row, value in expected.items()}
    if kind != "number":  # what a text reads as is there for whoever wants numbers
        numbers = read_labels(str(tmp_path), "m").table.sort_by("row")["label"].to_pylist()
        assert numbers == [7.0, 1.0, None, -0.05, 7.5, 7.0]


def test_the_lookback_bounds_the_days_in_which_a_client_s_id_is_looked_for(tmp_path):
    infer(tmp_path, at=datetime.now(UTC) - 5 * DAY, client="order-1")
    text = b"request_id,label\norder-1,1\n"
    assert add(tmp_path, "-", "--format", "csv", "--lookback", "3d", stdin=text)[1]["unknown"] == 1
    assert add(tmp_path, "-", "--format", "csv", "--lookback", "10d", stdin=text)[1]["unknown"] == 0


def test_a_long_file_is_added_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("mooring.log.add_labels._ROWS_AT_ONCE", 100)
    monkeypatch.setattr("mooring.log.label_files.ROWS", 30)
    ids = [infer(tmp_path, 50) for _ in range(5)]
    lines = [f"{id_},{row},{row}\n" for row in range(50) for id_ in ids] + [f"{ids[0]},0,8\n"]
    code, found = add(tmp_path, "-", "--format", "csv", stdin=("request_id,row,label\n" + "".join(lines)).encode())
    assert (code, found["added"], found["replaced"], found["unknown"]) == (0, 250, 1, 0)
    assert values(tmp_path) == {(id_, row): float(row) for id_ in ids for row in range(50)} | {(ids[0], 0): 8.0}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("truth.csv", b"id,label\n", "has no column request_id; it has: id, label; --id-column names another"),
        ("truth.csv", b"", "is empty: its first line names the columns"),
        ("truth.csv", "request_id,label\n".encode("utf-16"), "is not UTF-8 text"),
        ("truth.parquet", b"no", "can't be read as Parquet"),
        ("truth.txt", b"x", "give --format csv, jsonl or parquet"),
    ],
)
def test_a_file_that_is_none_is_one_message(tmp_path, name, content, says):
    infer(tmp_path)
    (tmp_path / name).write_bytes(content)
    result = CliRunner().invoke(main, ["labels", "add", str(tmp_path / name), "--log", str(tmp_path)])
    assert (result.exit_code, result.output.count("\n")) == (1, 1), result.output
    assert says in result.output


def test_coverage_and_delay_are_shown_day_by_day(tmp_path):
    today = datetime.now(UTC).replace(microsecond=0)
    old = infer(tmp_path, 4, at=today - 2 * DAY)
    infer(tmp_path, 1, at=today - DAY, client="order-1")
    labels = {
        "request_id": [old, old, "order-1"],
        "row": [0, 1, 0],
        "label": [1, 1, 1],
        "time": [today - 2 * DAY + timedelta(hours=1), today - 2 * DAY + timedelta(hours=3), today],
    }
    mooring.add_labels(labels, model="m", log=tmp_path)
    result = CliRunner().invoke(main, ["labels", "show", "--log", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    days = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(day["rows"], day["labelled"], day["coverage"], day["median_delay"]) for day in days] == [
        (4, 2, 0.5, 7200.0),
        (1, 1, 1.0, 86400.0),
    ]
    text = CliRunner().invoke(main, ["labels", "show", "--log", str(tmp_path)]).stdout
    assert "50.0%" in text
    assert "2:00:00" in text


def test_a_segment_with_labels_makes_the_same_objects_however_often(tmp_path):
    def segment_labels() -> SegmentLabels:
        found = SegmentLabels()
        found.add(Labels(model="m", labels=[Label("b", 0, 1.0, 2), Label("a", 1, "good", 1)]))
        found.add(Labels(labels=[Label("c", 0, 1.0, 86_400_000_000)]))
        found.add(Labels(model="m", labels=[Label("a", 1, 2.0, 3)]))
        return found

    segment_labels().write(str(tmp_path), "w-00000001")
    written = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    assert {str(path.relative_to(tmp_path)) for path in written} == {
        "labels/model=m/date=1970-01-01/w-00000001.parquet",
        "labels/model=default/date=1970-01-02/w-00000001.parquet",
    }
    segment_labels().write(str(tmp_path), "w-00000001")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == written
    assert values(tmp_path) == {("a", 1): 2.0, ("b", 0): 1.0}


def test_labels_that_an_earlier_version_left_in_the_spool_are_read():
    """They had no protected values."""
    frame = msgspec.msgpack.encode(["labels", "m", [["a", 0, 1.0, 1]]])
    assert msgspec.msgpack.decode(frame, type=Labels).labels == [Label("a", 0, 1.0, 1)]


def test_protected_columns_of_a_file_are_named_by_flag_or_variable(tmp_path, monkeypatch):
    id_, other = infer(tmp_path), infer(tmp_path)
    (tmp_path / "truth.csv").write_text(f"request_id,label,sex,note\n{id_},1,f,x\n{other},2,,y\n")
    assert add(tmp_path, tmp_path / "truth.csv", "--protected", "sex", "--protected", "age")[1]["added"] == 2
    told = {one["request_id"]: one["protected"] for one in read_labels(str(tmp_path), "m").table.to_pylist()}
    assert told == {id_: '{"sex":"f"}', other: None}
    monkeypatch.setenv("MOORING_PROTECTED", "note")
    assert add(tmp_path, tmp_path / "truth.csv")[1]["replaced"] == 2
    told = {one["request_id"]: one["protected"] for one in read_labels(str(tmp_path), "m").table.to_pylist()}
    assert told == {id_: '{"note":"x"}', other: '{"note":"y"}'}


def spooled(directory: Path) -> LogSettings:
    """Leave a spool with an exchange and labels, as of a process that has ended."""
    settings = CaptureSettings(log=str(directory / "log"), spool=str(directory / "spool"))
    recorder = Recorder(settings)
    exchange = Exchange(request_id="a", time_ns=nanoseconds(NOW), model="m", request=BODY, response=b"[1]")
    recorder.begin("a")
    recorder.record([exchange])
    recorder.close()
    writer = SpoolWriter(directory / "spool")
    writer.append([encode(Labels(model="m", labels=[Label("a", 0, 1.0, 1)]))])
    writer.append([encode(Labels(model="m", labels=[Label("a", 0, 2.0, 2), Label("b", 0, 1.0, 1)]))])
    writer.close()
    return LogSettings(log=settings.log, spool=settings.spool)


def test_labels_that_the_log_refuses_wait_in_the_spool_and_are_there_once_in_the_end(tmp_path):
    settings = spooled(tmp_path)
    obstacle = tmp_path / "log" / "labels"
    obstacle.parent.mkdir()
    obstacle.write_bytes(b"")
    refused = Drain(settings)
    assert refused.once() == 1
    assert "labels" in str(refused.refusal)
    assert len(segments(tmp_path / "spool")) == 1
    obstacle.unlink()
    assert run(settings)
    assert values(tmp_path / "log") == {("a", 0): 2.0, ("b", 0): 1.0}
    assert logged(tmp_path / "log", "labels") == {"a": 2, "b": 1}
    ledger = past_ledger(tmp_path / "spool")
    assert (ledger.seen, ledger.stored, ledger.balance) == (1, 1, 0)


def test_a_drain_into_csv_files_keeps_the_labels_that_are_in_its_spool(tmp_path):
    assert run(msgspec.structs.replace(spooled(tmp_path), format="csv"))
    assert values(tmp_path / "log") == {("a", 0): 2.0, ("b", 0): 1.0}
    assert [path.stem for path in (tmp_path / "log").glob("*.csv")] == ["a"]
    assert not segments(tmp_path / "spool")
