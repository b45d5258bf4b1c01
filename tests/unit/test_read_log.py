"""The log as it is read: by Mooring and by others, whole and in part, and what is broken in it."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import warnings
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import mooring
from mooring.cli import main
from mooring.exchange import Ledger, encode
from mooring.log.listing import LogError
from mooring.log.reader import LogWarning, find, tables
from mooring.log.schema import INFERENCES, PAYLOADS
from mooring.log.store import StoreError
from mooring.spool import SpoolWriter
from written_logs import DAY, DOCS, NOON, ROWS, exchange, in_order, log_of_days, write


@pytest.fixture
def log(tmp_path) -> Path:
    return log_of_days(tmp_path)


def test_flat_rows_have_the_shape_of_the_csv_files_and_null_where_a_field_came_later(log):
    table = mooring.read_log(log, flat=True)
    assert table.column_names == ["prediction", "pH", "name", "sweet"]
    assert in_order(table, "prediction") == ROWS


def test_rows_have_the_columns_of_the_schema_and_structs(log):
    table = mooring.read_log(str(log), model="wine")
    assert table.column_names == [*INFERENCES.names, "input", "output"]
    first = in_order(table, "time", "row")[0]
    assert first["input"] == {"pH": 0.0, "name": "a,b", "sweet": None}
    assert first["output"] == {"prediction": 0.0}
    assert (first["time"], first["row"], first["request_rows"], first["model_version"]) == (NOON, 0, 2, "0")


def test_payloads_have_the_bodies(log):
    table = mooring.read_log(log, what="payloads")
    assert table.column_names == PAYLOADS.names
    bodies = [json.loads(body)["predictions"] for body in table.sort_by("time")["response"].to_pylist()]
    assert bodies == [[0, 1], [10, 11], [20, 21]]


def test_columns_are_those_named_of_the_log_and_of_the_structs(log):
    table = mooring.read_log(log, columns=["output.prediction", "time", "input.pH"], start=NOON + 2 * DAY)
    assert table.column_names == ["output.prediction", "time", "input.pH"]
    assert in_order(table, "input.pH") == [
        {"output.prediction": 20.0 + row, "time": NOON + 2 * DAY, "input.pH": row + 0.2} for row in range(2)
    ]
    flat = mooring.read_log(log, columns=["pH", "request_id"], flat=True)
    assert flat.column_names == ["pH", "request_id"]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"start": NOON + DAY}, {10, 11, 20, 21}),
        ({"start": "2026-03-02T12:00:00.000001Z"}, {20, 21}),
        ({"end": NOON + DAY}, {0, 1}),
        ({"start": "2026-03-02", "end": "2026-03-03"}, {10, 11}),
        ({"start": (NOON + DAY).date(), "end": "2026-03-02T14:00:00.000001+02:00"}, {10, 11}),
        ({"start": datetime(2026, 3, 3, 12)}, {20, 21}),
        ({"start": "2027-01-01"}, set()),
        ({"version": 1}, {10, 11}),
        ({"version": "2", "start": NOON}, {20, 21}),
        ({"version": "9"}, set()),
    ],
)
def test_a_part_of_the_log(log, chosen, expected):
    table = mooring.read_log(log, **chosen)
    assert {output["prediction"] for output in table["output"].to_pylist()} == expected


def test_days_that_are_not_meant_are_not_looked_at(log):
    (day,) = log.glob("inferences/*/date=2026-03-01")
    (day / "broken.parquet").write_bytes(b"broken")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mooring.read_log(log, start=NOON + DAY).num_rows == 4


VALUES = st.none() | st.floats(allow_nan=False) | st.integers(-(2**40), 2**40)
TABLES = st.lists(
    st.lists(
        st.tuples(st.dictionaries(st.sampled_from(["a", "b.c", "Ü 1", "prediction", "time"]), VALUES), VALUES),
        min_size=1,
        max_size=3,
    ),
    min_size=1,
    max_size=5,
)


@given(TABLES, st.integers(0, 5))
def test_what_was_logged_is_read_in_whatever_segments_and_days(tmp_path_factory, requests, start):
    directory = tmp_path_factory.mktemp("log")
    at = [NOON + place * timedelta(hours=9) for place in range(len(requests))]
    exchanges = [
        exchange([row for row, _ in request], [answer for _, answer in request], at=time)
        for request, time in zip(requests, at, strict=True)
    ]
    write(directory / "log", directory / "spool", *([one] for one in exchanges))
    since = NOON + start * timedelta(hours=9)
    table = mooring.read_log(directory / "log", start=since)
    expected = [
        (one.request_id, place, _values(row), answer)
        for one, request, time in zip(exchanges, requests, at, strict=True)
        for place, (row, answer) in enumerate(request)
        if time >= since
    ]
    found = [
        (
            row["request_id"],
            row["row"],
            _values(row.get("input") or {}),
            (row.get("output") or {}).get("prediction"),
        )
        for row in in_order(table, "time", "row")
    ]
    assert found == expected


def _values(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def test_a_reader_gives_the_same_in_pieces_and_pandas_is_a_step_away(log):
    reader = mooring.scan_log(log, flat=True)
    assert isinstance(reader, pa.RecordBatchReader)
    assert in_order(reader.read_all(), "prediction") == ROWS
    frame = mooring.read_log(log, flat=True).to_pandas()
    assert sorted(frame["prediction"]) == [row["prediction"] for row in ROWS]


def test_pyarrow_duckdb_and_polars_read_the_same_rows_without_mooring(log):
    ours = in_order(mooring.read_log(log), "time", "row")
    pattern = f"{log}/inferences/**/*.parquet"
    wanted = [_values(row["input"]) for row in ours]

    # The others see the fields that they find in the object that they look at first, so all of them are named.
    schema = mooring.read_log(log).schema
    arrow = ds.dataset(log / "inferences", schema=schema, partitioning=None).to_table()
    assert in_order(arrow, "time", "row") == ours

    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        query = "SELECT * FROM read_parquet(?, union_by_name = true, hive_partitioning = true) ORDER BY time, row"
        duck = connection.sql(query, params=[pattern]).to_arrow_table().to_pylist()
    assert {row["model"] for row in duck} == {"wine"}
    assert [_values(row["input"]) for row in duck] == wanted
    assert [(row["request_id"], row["row"], row["output"]) for row in duck] == [
        (row["request_id"], row["row"], row["output"]) for row in ours
    ]

    frames = [pl.read_parquet(path) for path in sorted(log.glob("inferences/**/*.parquet"))]
    polars = pl.concat([frame.unnest("input") for frame in frames], how="diagonal").sort("time", "row")
    assert [_values(row) for row in polars.select("pH", "name", "sweet").to_dicts()] == wanted
    lazy = pl.scan_pyarrow_dataset(find(log).dataset()).filter(pl.col("row") == 1).select("request_id", "input")
    assert sorted(lazy.collect()["request_id"]) == sorted(row["request_id"] for row in ours if row["row"] == 1)


def test_one_model_needs_no_name_and_several_are_listed(log, tmp_path):
    write(log, tmp_path / "spool", [exchange([{"a": 1}], [1], model="größe/2 %")])
    with pytest.raises(LogError, match="say which model is meant; it has: größe/2 %, wine"):
        mooring.read_log(log)
    assert mooring.read_log(log, model="größe/2 %", flat=True).to_pylist() == [{"prediction": 1.0, "a": 1.0}]


def test_a_model_whose_name_is_longer_than_a_folders_may_be(tmp_path):
    name = "größe " * 50
    write(tmp_path / "log", tmp_path / "spool", [exchange([{"a": 1}], [1], model=name)])
    for chosen in ({"model": name}, {}):
        assert mooring.read_log(tmp_path / "log", flat=True, **chosen).to_pylist() == [
            {"prediction": 1.0, "a": 1.0}
        ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "wein"}, "there is no model wein in the log .*; it has: wine"),
        ({"columns": ["input.ph"]}, "there is no column input.ph; there is: .*input.pH"),
        ({"columns": ["ph"], "flat": True}, "there is no column ph; there is: .*pH"),
        ({"start": "yesterday"}, "start is no time: 'yesterday'"),
        ({"what": "labels"}, "what is inferences or payloads, not 'labels'"),
        ({"what": "payloads", "flat": True}, "flat is the shape of inferences"),
    ],
)
def test_what_can_not_be_meant_is_said(log, wrong, message):
    with pytest.raises(LogError, match=message):
        mooring.read_log(log, **wrong)


def test_no_log_and_an_empty_one(tmp_path):
    with pytest.raises(LogError, match="there is no log at"):
        mooring.read_log(tmp_path / "log")
    assert not (tmp_path / "log").exists()
    with pytest.raises(
        LogError, match=r"nothing in the log \S+ yet: .* by itself within --segment-seconds \(60 s by"
    ):
        mooring.read_log(tmp_path)
    writer = SpoolWriter(tmp_path / ".spool")
    writer.append([encode(Ledger(seen=3, stored=3))])
    with pytest.raises(LogError, match=r"; 3 requests are in the spool now$"):
        mooring.read_log(tmp_path)
    writer.close()
    with pytest.raises(StoreError, match="no place for a log"):
        mooring.read_log("ftp://host/log")


def test_a_model_that_only_failed_has_payloads_and_no_rows(tmp_path):
    write(tmp_path / "log", tmp_path / "spool", [exchange([{"a": 1}], [1], status=500)])
    assert mooring.read_log(tmp_path / "log", what="payloads")["reason"].to_pylist()[0].startswith("failed: ")
    assert mooring.read_log(tmp_path / "log").num_rows == 0
    assert mooring.read_log(tmp_path / "log", flat=True).shape == (0, 0)


def test_objects_that_are_broken_or_foreign_are_named_and_left_out(log):
    (good,) = log.glob("inferences/*/date=2026-03-01/*.parquet")
    data = good.read_bytes()
    place = good.parent
    (place / "cut.parquet").write_bytes(data[:-20])
    (place / "empty.parquet").touch()
    (place / "page.parquet").write_bytes(data[:40] + bytes(360) + data[400:])
    pq.write_table(pa.table({"a": [1]}), place / "foreign.parquet")
    table = pq.read_table(good, partitioning=None)
    other = table.set_column(table.schema.get_field_index("row"), "row", table["row"].cast(pa.string()))
    pq.write_table(other, place / "other.parquet")
    (place / "_SUCCESS").touch()
    (place / ".hidden.parquet").write_bytes(b"x")
    with pytest.warns(LogWarning) as said:
        rows = in_order(mooring.read_log(log, columns=["request_id", "output.prediction"]), "output.prediction")
    assert [row["output.prediction"] for row in rows] == [row["prediction"] for row in ROWS]
    named = sorted(re.match(r"inferences/.*/(\w+)\.parquet is left out: \w+", str(one.message))[1] for one in said)
    assert named == ["cut", "empty", "foreign", "other", "page"]


def test_what_was_skipped_is_in_the_result_and_only_read_log_warns_of_it(log):
    """A footer that can't be read is found out at once, a page that can't be read only with the rows."""
    (good,) = log.glob("inferences/*/date=2026-03-01/*.parquet")
    data = good.read_bytes()
    (good.parent / "cut.parquet").write_bytes(data[:-20])
    (good.parent / "page.parquet").write_bytes(data[:40] + bytes(360) + data[400:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find(log)
        assert [Path(path).stem for path in found.skipped] == ["cut"]
        rows = sum(table.num_rows for _, table in tables(found, {"id": ("request_id",)}))
    assert rows == len(ROWS)
    assert [Path(path).stem for path in found.skipped] == ["cut", "page"]
    with pytest.warns(LogWarning) as warned:
        assert mooring.read_log(log, columns=["request_id"]).num_rows == len(ROWS)
    assert len(warned) == 2


def test_the_rows_are_read_without_the_recorded_schema_too(log):
    for path in log.glob("schemas/*/*"):
        path.unlink()
    assert in_order(mooring.read_log(log, flat=True), "prediction") == ROWS


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["log", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output if code else result.stdout


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_stats_count_what_the_log_holds_by_model_and_day(log, tmp_path):
    failed = [exchange([{"a": 1}], [1], model="b", status=status, at=NOON) for status in (400, 500)]
    write(
        log, tmp_path / "spool", [*failed, exchange([{"a": 1}], [1, 2], model="b", at=NOON + timedelta(hours=1))]
    )
    found = lines(run("stats", "--log", log, "--json"))
    assert [(day["model"], day["date"], day["exchanges"], day["rows"], day["errors"]) for day in found] == [
        ("b", "2026-03-01", 3, 1, {"failed": 2, "rows_differ": 1}),
        *(("wine", f"2026-03-0{day}", 1, 2, {}) for day in (1, 2, 3)),
    ]
    assert (found[0]["first"], found[0]["last"]) == ("2026-03-01T12:00:00Z", "2026-03-01T13:00:00Z")
    assert [day["objects"] for day in found] == [2, 2, 2, 2]
    sizes = sum(path.stat().st_size for path in log.glob("*/*/*/*.parquet"))
    assert sum(day["bytes"] for day in found) == sizes
    assert len(lines(run("stats", "--log", log, "--model", "wine", "--start", "2026-03-02", "--json"))) == 2
    assert "rows_differ: 1" in re.sub(r"\s+", " ", run("stats", "--log", log, "--model", "b"))


def test_head_shows_the_newest_rows_or_the_first(log):
    assert [
        row["prediction"] for row in csv.DictReader(io.StringIO(run("head", "--log", log, "-n", "3", "--csv")))
    ] == [
        "20.0",
        "21.0",
        "10.0",
    ]
    found = lines(run("head", "--log", log, "-n", "1", "--first", "--json"))
    assert found[0]["input"] == {"pH": 0.0, "name": "a,b", "sweet": None}
    assert found[0]["time"] == "2026-03-01T12:00:00Z"
    text = run("head", "--log", log, "-n", "1")
    assert re.search(r"time +prediction +pH +name +sweet", text)
    assert re.search(r"2026-03-03 12:00:00 +20 +0.2 +a,b +True", text)
    assert run("head", "--log", log, "--start", "2027-01-01", "--json") == ""


def test_export_writes_one_file_whole(log, tmp_path):
    run("export", "--log", log, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted((float(row["prediction"]), row["name"], row["sweet"]) for row in rows) == [
        (row["prediction"], "a,b", "true" if row["sweet"] else "") for row in ROWS
    ]
    run("export", "--log", log, tmp_path / "rows.parquet", "--columns", "time, prediction", "--end", "2026-03-02")
    assert pq.read_table(tmp_path / "rows.parquet").sort_by("prediction").to_pylist() == [
        {"time": NOON, "prediction": float(row)} for row in range(2)
    ]
    run("export", "--log", log, tmp_path / "all.parquet", "--structs")
    whole = pq.read_table(tmp_path / "all.parquet")
    assert in_order(whole, "time", "row") == in_order(mooring.read_log(log), "time", "row")
    assert not list(tmp_path.glob(".*"))


def test_query_answers_over_all_three_tables(log):
    sql = "SELECT model_version AS v, avg(output.prediction) AS p FROM inferences GROUP BY ALL ORDER BY v"
    assert lines(run("query", "--log", log, sql, "--json")) == [{"v": str(d), "p": 10 * d + 0.5} for d in range(3)]
    sql = 'SELECT f.prediction, f."pH" FROM flat f JOIN inferences i USING (request_id, row) ORDER BY 1'
    assert run("query", "--log", log, "--end", "2026-03-02", sql, "--csv") == "prediction,pH\n0.0,0.0\n1.0,1.0\n"
    assert re.search(r"3", run("query", "--log", log, "SELECT count(*) FROM payloads WHERE status = 200"))


def test_query_tells_names_apart_that_differ_in_case_only(tmp_path):
    write(tmp_path / "log", tmp_path / "spool", [exchange([{"a": 1, "A": 2, 'it\'s "x"': 3}], [4])])
    [row] = lines(run("query", "--log", tmp_path / "log", "SELECT * EXCLUDE (time, row) FROM flat", "--json"))
    assert list(row.values())[:4] == [4, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stats", "--log", "nowhere"], "Error: there is no log at nowhere"),
        (["head", "--model", "wein"], "Error: there is no model wein"),
        (["head", "--start", "soon"], "Error: start is no time: 'soon'"),
        (["head", "-n", "0"], "Invalid value for '-n'"),
        (["export", "rows.txt"], "Error: rows.txt ends in neither .csv nor .parquet"),
        (["export", "rows.csv", "--structs"], "Error: CSV has no structs, such as input"),
        (["export", "rows.csv", "--columns", "a"], "Error: there is no column a"),
        (["export", "no/rows.csv"], "Error: no/rows.csv can't be written: No such file or directory"),
        (["query", "SELEC 1"], "Error: Parser Error"),
        (["query", "SELECT a FROM inferences"], "Error: Binder Error"),
    ],
)
def test_a_users_mistake_is_a_message_and_exit_code_2(log, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOORING_LOG", str(log))
    assert message in run(*arguments, code=2)


def test_what_is_left_out_is_a_line_on_stderr(log):
    (place,) = log.glob("inferences/*/date=2026-03-01")
    (place / "x.parquet").write_bytes(b"x")
    result = CliRunner().invoke(main, ["log", "stats", "--log", str(log), "--json"])
    assert re.fullmatch(r"mooring: inferences/\S+/x\.parquet is left out: .*\n", result.stderr)
    assert len(lines(result.stdout)) == 3


def test_without_duckdb_query_says_what_to_install(log, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert "pip install 'mooring[query]'" in run("query", "--log", log, "SELECT 1", code=2)


@pytest.mark.parametrize(("name", "schema"), [("payloads", PAYLOADS), ("inferences", INFERENCES)])
def test_the_documentation_has_every_column_and_its_type(name, schema):
    section = (DOCS / "log.md").read_text().partition(f"### `{name}")[2].partition("\n#")[0]
    documented = re.findall(r"^\| `(\w+)` \| (\S.*?) \| (yes|no) \| \S.* \|$", section, re.MULTILINE)
    fields = [(field.name, _kind(field.type), "yes" if field.nullable else "no") for field in schema]
    structs = [("input", "struct", "yes"), ("output", "struct", "yes")] if name == "inferences" else []
    assert documented == fields + structs


def _kind(kind: pa.DataType) -> str:
    return {"timestamp[us, tz=UTC]": "timestamp (µs, UTC)"}.get(
        str(kind), re.sub(r"<\w+: (\w+)>", r" of \1", str(kind))
    )
