"""What a shadow answered is in the log beside what clients got, and comes only where it is asked for."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from click.testing import CliRunner

import mooring
from monitoring import Monitoring, Traffic, settings
from mooring.capture.recorder import Recorder
from mooring.cli import main
from mooring.exchange import Exchange
from mooring.ids import new_request_id
from mooring.log.add_labels import Added
from mooring.log.drain import Drain
from mooring.log.label_days import label_days
from mooring.monitor.building import from_log
from mooring.retrain.dataset import gather
from mooring.retrain.dataset.logged import traffic
from mooring.settings import CaptureSettings, LogSettings
from mooring.spool import last_ledger, live_writers
from mooring.state.assessments import Assessments
from mooring.state.windows import Windows

HOUR = timedelta(hours=1)
START = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - 48 * HOUR
LIVE_ROWS, CANARY_ROWS = 40, 20


def shadow_of(exchanges: Iterable[Exchange], *, more: float = 1.0, **changed: Any) -> list[Exchange]:
    """Return what a shadow answers to copies of requests: predictions that are greater."""
    found = []
    for one in exchanges:
        predictions = [value + more for value in json.loads(one.response)["predictions"]]
        found.append(
            msgspec.structs.replace(
                one,
                **{
                    "variant": "shadow",
                    "version": "2",
                    "time_ns": one.time_ns + 5_000_000,
                    "response": json.dumps({"predictions": predictions}).encode(),
                    **changed,
                },
            )
        )
    return found


def write(
    log: Path, live: Sequence[Exchange], shadows: Sequence[Exchange], *, as_format: str = "parquet"
) -> Recorder:
    """Put answers into a log as the proxy does: through a recorder, a spool and the drain."""
    chosen = {"log": str(log), "spool": str(log.with_name("spool")), "format": as_format}
    recorder = Recorder(CaptureSettings(**chosen))
    for one in live:
        assert recorder.begin(one.request_id)
    for first in range(0, max(len(live), len(shadows)), 3):
        recorder.record(live[first : first + 3])
        recorder.record_shadows(shadows[first : first + 3])
    recorder.close()
    live_writers(log.with_name("spool"))
    Drain(LogSettings(**chosen)).once()
    assert not list(log.with_name("spool").glob("*/*.segment"))
    return recorder


@pytest.fixture
def sent(tmp_path: Path) -> list[Exchange]:
    """Requests of 10 rows each: those that the champion answered, and behind them those of a canary."""
    asked = Traffic(tmp_path / "log")
    champion = asked.exchanges(LIVE_ROWS, START, version="1")
    return champion + asked.exchanges(CANARY_ROWS, START + HOUR, version="2", variant="canary")


@pytest.fixture
def log(tmp_path: Path, sent: list[Exchange]) -> Path:
    """A log of what the champion and a canary answered, and a shadow to the champion's requests."""
    write(tmp_path / "log", sent, shadow_of(sent[:4]))
    return tmp_path / "log"


def variants(table: pa.Table) -> dict[str, int]:
    return {one["values"]: one["counts"] for one in pc.value_counts(table["variant"]).to_pylist()}


def command(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# Reading


def test_copies_are_stored_and_not_among_those_that_were_seen(tmp_path, sent):
    ledger = write(tmp_path / "log", sent, shadow_of(sent[:4])).ledger
    assert (ledger.seen, ledger.stored, ledger.balance, ledger.shadow) == (6, 6, 0, {"stored": 4})
    assert len(mooring.read_log(tmp_path / "log", what="payloads")) == 6
    assert len(mooring.read_log(tmp_path / "log", what="payloads", variant="shadow")) == 4


@pytest.mark.parametrize("torn", [0, 3])
def test_copies_are_not_among_those_that_a_killed_writer_had_seen(tmp_path, sent, torn):
    spool = tmp_path / "log" / ".spool"
    recorder = Recorder(CaptureSettings(log=str(tmp_path / "log")))
    for exchange in sent:
        recorder.begin(exchange.request_id)
    recorder.record(sent)
    recorder.record_shadows(shadow_of(sent[:4]))
    [segment] = spool.glob("*/*.open")
    if torn:
        with segment.open("r+b") as file:
            file.truncate(segment.stat().st_size - torn)
    ledger = last_ledger(segment.parent)
    assert (ledger.seen, ledger.stored, ledger.balance) == (6, 6, 0)
    assert ledger.shadow == ({} if torn else {"stored": 4})
    recorder.close()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {"champion": 40, "canary": 20}),
        ({"variant": []}, {"champion": 40, "canary": 20}),
        ({"variant": "shadow"}, {"shadow": 40}),
        ({"variant": "champion"}, {"champion": 40}),
        ({"variant": ["champion", "shadow"]}, {"champion": 40, "shadow": 40}),
        ({"variant": "all"}, {"champion": 40, "canary": 20, "shadow": 40}),
        ({"variant": "shadow", "version": 1}, {}),
        ({"version": 2}, {"canary": 20}),
        ({"version": 2, "variant": "all"}, {"canary": 20, "shadow": 40}),
        ({"start": START + HOUR}, {"canary": 20}),
        ({"end": START + HOUR, "variant": "all"}, {"champion": 40, "shadow": 40}),
        ({"variant": "nobody"}, {}),
    ],
)
def test_a_shadows_rows_are_left_out_unless_they_are_asked_for(log, asked, expected):
    assert variants(mooring.read_log(log, **asked)) == expected
    assert variants(mooring.scan_log(log, **asked).read_all()) == expected
    payloads = mooring.read_log(log, what="payloads", **asked)
    assert variants(payloads) == {name: rows // 10 for name, rows in expected.items()}


def test_what_a_shadow_said_stands_beside_what_clients_got(log):
    columns = ["request_id", "row", "output.prediction", "input.alcohol"]
    live = mooring.read_log(log, columns=columns, variant="champion")
    shadow = mooring.read_log(log, columns=columns, variant="shadow")
    both = live.join(shadow, ["request_id", "row"], join_type="inner", right_suffix=" of the shadow")
    assert len(both) == LIVE_ROWS
    assert both["input.alcohol"] == both["input.alcohol of the shadow"]
    apart = pc.subtract(both["output.prediction of the shadow"], both["output.prediction"])
    assert pc.all(pc.less(pc.abs(pc.subtract(apart, 1.0)), 1e-9)).as_py()


def test_other_engines_see_both_and_tell_them_apart_by_the_variant(log):
    files = f"read_parquet('{log}/inferences/*/*/*.parquet', union_by_name = true)"
    counted = f"SELECT count(*), count(DISTINCT (request_id, row)) FROM {files}"
    assert duckdb.sql(counted).fetchall() == [(100, 60)]
    assert duckdb.sql(f"{counted} WHERE variant <> 'shadow'").fetchall() == [(60, 60)]
    rows = ds.dataset(log / "inferences", format="parquet").to_table(filter=pc.field("variant") != "shadow")
    assert len(rows) == len(mooring.read_log(log))


# The commands


def test_the_commands_leave_them_out_unless_they_are_asked_for(log, tmp_path):
    [day] = lines(command("log", "stats", "--log", log, "--json")[0])
    assert (day["exchanges"], day["rows"], day["errors"]) == (6, 60, {})
    [day] = lines(command("log", "stats", "--log", log, "--variant", "shadow", "--json")[0])
    assert (day["exchanges"], day["rows"]) == (4, 40)
    [day] = lines(command("log", "stats", "--log", log, "--variant", "all", "--json")[0])
    assert (day["exchanges"], day["rows"]) == (10, 100)

    def head(*flags: str) -> list[dict[str, str]]:
        text, _ = command("log", "head", "--log", log, "-n", "1000", "--csv", *flags)
        return list(csv.DictReader(io.StringIO(text)))

    assert len(head()) == 60
    assert "variant" not in head()[0]
    assert {row["variant"] for row in head("--variant", "shadow")} == {"shadow"}
    both = head("--variant", "champion", "--variant", "shadow")
    assert len({(row["request_id"], row["row"], row["variant"]) for row in both}) == len(both) == 80

    command("log", "export", "--log", log, tmp_path / "rows.csv")
    command("log", "export", "--log", log, tmp_path / "all.csv", "--variant", "all")
    assert [len((tmp_path / name).read_text().splitlines()) for name in ("rows.csv", "all.csv")] == [61, 101]


def test_sql_leaves_them_out_too_and_says_so_where_they_are_asked_for(log):
    def ask(sql: str, *flags: str) -> tuple[list[dict[str, Any]], str]:
        text, said = command("log", "query", "--log", log, sql, "--json", *flags)
        return lines(text), said

    for table, rows in (("inferences", 60), ("flat", 60), ("payloads", 6)):
        assert ask(f"SELECT count(*) AS n FROM {table}") == ([{"n": rows}], "")
    shadows = "SELECT count(*) AS n FROM inferences WHERE variant = 'shadow'"
    assert ask(shadows) == (
        [{"n": 0}],
        "mooring: the rows of a shadow are left out: --variant all has them\n",
    )
    assert ask(shadows, "--variant", "all") == ([{"n": 40}], "")
    compared = """
        SELECT count(*) AS n, round(avg(shadow.output.prediction - live.output.prediction), 6) AS difference
        FROM inferences live JOIN inferences shadow USING (request_id, row)
        WHERE live.variant <> 'shadow' AND shadow.variant = 'shadow'"""
    assert ask(compared, "--variant", "all") == ([{"n": 40, "difference": 1.0}], "")


# CSV files


def test_csv_files_of_a_shadow_lie_apart_and_overwrite_none(tmp_path, sent):
    failed = [msgspec.structs.replace(sent[0], request_id=new_request_id()) for _ in range(3)]
    odd = msgspec.structs.replace(failed[1], response=b'{"predictions": [1]}')
    live = [*sent, failed[0], failed[1], msgspec.structs.replace(failed[2], status=500)]
    shadows = [
        *shadow_of(sent[:4]),
        *shadow_of(failed[:1], status=500),
        *shadow_of([odd], more=0.5),
        *shadow_of(failed[2:], status=500),
    ]
    log = tmp_path / "log"
    write(log, live, shadows, as_format="csv")
    found = {str(path.relative_to(log)) for path in log.rglob("*.*") if path.is_file()}
    assert found == {
        *(f"{one.request_id}.csv" for one in live[:-1]),
        f"errors/{failed[2].request_id}.json",
        *(f"shadow/{one.request_id}.csv" for one in sent[:4]),
        f"shadow/errors/{failed[0].request_id}.json",
        f"shadow/payloads/{odd.request_id}.json",
        f"shadow/errors/{failed[2].request_id}.json",
    }

    def predictions(path: Path) -> list[float]:
        with path.open(newline="") as file:
            return [float(row["prediction"]) for row in csv.DictReader(file)]

    for one in sent[:4]:
        got = predictions(log / f"{one.request_id}.csv")
        assert got == json.loads(one.response)["predictions"]
        assert predictions(log / "shadow" / f"{one.request_id}.csv") == [value + 1.0 for value in got]


# Labels


def labels(sent: Iterable[Exchange], label: float = 5.0) -> dict[str, list[Any]]:
    keys = [(one.request_id, row) for one in sent for row in range(10)]
    return {"request_id": [id for id, _ in keys], "row": [row for _, row in keys], "label": [label] * len(keys)}


def test_a_row_has_its_label_once_and_what_only_a_shadow_answered_is_unknown(log, sent):
    assert mooring.add_labels(labels(sent), model="wine", log=log) == Added(added=60)
    days = label_days(str(log), "wine", START - timedelta(days=1))
    assert [(day.rows, day.labelled) for day in days if day.rows] == [(60, 60)]
    failed = msgspec.structs.replace(sent[0], request_id=new_request_id(sent[0].time_ns), status=500)
    answered = shadow_of([failed], status=200, client_request_id="theirs")
    write(log, [failed], answered)
    assert mooring.add_labels(labels([failed]), model="wine", log=log) == Added(added=10, unknown=10)
    theirs = {"request_id": ["theirs"], "label": [5.0]}
    assert mooring.add_labels(theirs, model="wine", log=log) == Added(added=1, unknown=1)
    days = label_days(str(log), "wine", START - timedelta(days=1))
    assert [(day.rows, day.labelled) for day in days if day.rows] == [(60, 60)]


# The monitor, and retraining


def test_the_monitor_makes_windows_of_what_clients_got_alone(tmp_path):
    asked = Traffic(tmp_path / "log")
    champion = asked.exchanges(1000, START, version="1")
    canary = asked.exchanges(1000, START, version="2", variant="canary")
    write(asked.log, champion + canary, shadow_of(champion, version="3"))
    monitoring = Monitoring(
        settings(asked.log, f"sqlite:///{tmp_path}/state.db", model="wine", min_rows=10, settle=0.0)
    )
    for version in "123":
        monitoring.keep(asked.baseline(), version)
    mooring.add_labels(labels([*champion, *canary]), model="wine", log=asked.log)
    monitoring.watch.look()
    found = Windows(monitoring.state).history("wine")
    assert sorted((one.window.version, one.window.variant, one.window.rows) for one in found) == [
        ("1", "champion", 1000),
        ("2", "canary", 1000),
    ]
    assert {one.verdict.status for one in found if one.verdict is not None} == {"ok"}
    assessed = Assessments(monitoring.state).history("wine")
    assert sorted((one.window.variant, one.rows, one.labelled) for one in assessed) == [
        ("canary", 1000, 1000),
        ("champion", 1000, 1000),
    ]
    # A segment with nothing but a shadow's answers is read once, and is no reason for another window.
    asked.write(shadow_of(asked.exchanges(1000, START + 2 * HOUR), version="3"))
    assert monitoring.watch.look() == 0
    assert not Windows(monitoring.state).history("wine", version="3")
    assert not [line for line in monitoring.said if "left out" in line]
    span = f"{START:%Y-%m-%d}..{START + timedelta(days=2):%Y-%m-%d}"
    assert from_log(str(asked.log), "wine", "1", span).rows == 1000
    with pytest.raises(ValueError, match=r"it has: version 1 as champion, version 2 as canary$"):
        from_log(str(asked.log), "wine", "3", span)


def test_data_for_retraining_have_each_request_once(tmp_path, log, sent):
    mooring.add_labels(labels(sent), model="wine", log=log)
    manifest = gather.make(
        str(log),
        "wine",
        tmp_path / "data",
        ticket="t-1",
        start=START,
        holdout=0.5,
        min_labels=20,
        label="quality",
    )
    assert (manifest.rows, manifest.holdout_rows, manifest.versions) == (30, 30, ["1", "2"])
    assert (manifest.labelled, manifest.unlabelled) == (60, 0)
    sample = traffic(str(log), "wine", 1000)
    assert sample is not None
    assert len(sample) == 60


def test_a_log_with_nothing_but_a_shadow_has_no_rows_to_read(tmp_path, sent):
    write(tmp_path / "log", [], shadow_of(sent))
    assert len(mooring.read_log(tmp_path / "log")) == 0
    assert len(mooring.read_log(tmp_path / "log", variant="shadow")) == 60
    assert command("log", "head", "--log", tmp_path / "log", "--json")[0] == ""
    assert traffic(str(tmp_path / "log"), "wine", 1000) is None
