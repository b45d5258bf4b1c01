"""Whatever lies in the log, and however it came there, each row is counted once, and nothing ends the monitor."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monitoring import START, Monitoring, Traffic, settings, without_mlflow
from mooring.drift.baseline import make
from mooring.log.reader import read_log
from mooring.monitor.building import between, from_log
from mooring.state.baselines import StoredBaselines
from mooring.state.judgements import judgement_of
from mooring.state.verdicts import Verdicts
from mooring.state.windows import Windows


@pytest.fixture
def traffic(tmp_path, monkeypatch) -> Traffic:
    without_mlflow(tmp_path, monkeypatch)
    return Traffic(tmp_path / "log")


@pytest.fixture
def monitoring(traffic, tmp_path) -> Monitoring:
    made = Monitoring(settings(traffic.log, f"sqlite:///{tmp_path}/state.db"))
    made.keep(traffic.baseline())
    return made


def written(traffic: Traffic, name: str) -> Path:
    [path] = traffic.log.glob(f"inferences/**/{name}.parquet")
    return path


def test_rows_of_a_host_whose_clock_is_ahead_neither_hide_nor_delay_the_others(traffic, monitoring):
    now = datetime.now(UTC)
    traffic.write(traffic.exchanges(1000, now + timedelta(days=400)))
    monitoring.watch.look()
    traffic.write(traffic.exchanges(1000, now - timedelta(minutes=5)))
    monitoring.watch.look()
    monitoring.watch.look()
    traffic.write(traffic.exchanges(50, now - timedelta(minutes=4)))
    monitoring.watch.look()
    windows = [window for window, _ in Windows(monitoring.state).history("wine")]
    assert sum(window.rows for window in windows) == 2050
    assert all(window.revision <= 1 for window in windows)
    assert sum("set the clock" in line for line in monitoring.said) == 1
    assert all(Windows(monitoring.state).profiles([window.id for window in windows]).values())


def test_a_spool_that_is_drained_days_later_is_read(traffic, monitoring):
    traffic.write(traffic.exchanges(1000, START + timedelta(days=4)))
    monitoring.watch.look()
    traffic.write(traffic.exchanges(1000, START))
    monitoring.watch.look()
    assert monitoring.verdicts() == [(1000, "ok")] * 2


def test_a_log_named_otherwise_is_not_read_again(traffic, monitoring, tmp_path):
    traffic.write(traffic.exchanges(1000))
    monitoring.watch.look()
    for name in ("log", "./log/", f"file://{tmp_path}/log"):
        again = Monitoring(settings(name, monitoring.settings.state))
        assert again.watch.look() == 0
    assert monitoring.verdicts() == [(1000, "ok")]


def test_objects_without_rows_and_rows_without_a_time_are_no_obstacle(traffic, monitoring):
    path = written(traffic, traffic.write(traffic.exchanges(1000)))
    whole = pq.read_table(path)
    pq.write_table(whole.slice(0, 0), path.with_name("empty.parquet"))
    for number, name in enumerate(("time", "variant", "request_rows")):
        place = whole.column_names.index(name)
        nothing = pa.nulls(10, whole.schema.field(name).type)
        odd = whole.slice(0, 10).set_column(place, pa.field(name, nothing.type), nothing)
        pq.write_table(odd, path.with_name(f"odd{number}.parquet"))
    monitoring.watch.look()
    assert monitoring.verdicts() == [(1000, "ok")]
    assert sum("10 rows of" in line and "are left out" in line for line in monitoring.said) == 3
    assert monitoring.watch.look() == 0


def test_an_object_that_can_not_be_read_yet_is_read_once_it_can(traffic, monitoring):
    traffic.write(traffic.exchanges(1000))
    late = written(traffic, traffic.write(traffic.exchanges(1000, START + timedelta(minutes=10))))
    whole = late.read_bytes()
    late.write_bytes(whole[:1000])  # as `cp` and rsync --inplace have it meanwhile
    monitoring.watch.look()
    monitoring.watch.look()
    assert monitoring.verdicts() == [(1000, "ok")]
    assert sum(late.name in line for line in monitoring.said) == 1
    late.write_bytes(whole)
    monitoring.watch.look()
    assert monitoring.verdicts() == [(1000, "ok")] * 2


def test_an_empty_version_is_none(traffic, monitoring):
    exchanges = traffic.exchanges(2000)
    for exchange in exchanges[::2]:
        exchange.version = ""
    traffic.write(exchanges)
    monitoring.watch.look()
    assert monitoring.verdicts() == [(1000, "ok")] * 2


ODD_NAMES = (
    "time", "variant", "model_version", "request_rows", "misfits", "prediction", "input.prediction", "\0time",
    "two\nlines", "a/b", "it's", 'say "hello"', "{}", "x" * 3000, "émoji 🍷", " ",
)  # fmt: skip


def test_features_may_be_named_like_anything(traffic, monitoring):
    def exchanges(rows: int, shift: float, start: datetime = START) -> list:
        made = traffic.exchanges(rows, start)
        for exchange in made:
            data = [[float(traffic.rng.normal(shift))] * len(ODD_NAMES) for _ in range(10)]
            columns = {"columns": list(ODD_NAMES), "data": data}
            exchange.request = json.dumps({"dataframe_split": columns}).encode()
        return made

    traffic.write(exchanges(1000, 0))
    flat = read_log(traffic.log, flat=True)
    monitoring.keep(make({name: flat[name] for name in flat.column_names}, roles={"prediction": "output"}))
    traffic.write(exchanges(1000, 2, START + timedelta(minutes=10)))
    monitoring.watch.look()
    [*_, (_, verdict)] = Windows(monitoring.state).history("wine")
    assert verdict.status == "critical"
    judgement = judgement_of(Verdicts(monitoring.state).results(verdict.id))
    assert set(judgement.features) >= {"time", "variant", "input.prediction", "two\nlines", "x" * 3000, " "}
    assert all("\n" not in line and "\0" not in line and len(line) < 400 for line in monitoring.said)


def test_columns_that_come_later_or_not_at_all_are_told(traffic, monitoring):
    exchanges = traffic.exchanges(1000)
    for exchange in exchanges[50:]:
        body = json.loads(exchange.request)
        body["dataframe_split"]["columns"] += ["vintage"]
        body["dataframe_split"]["data"] = [[*row, 2020] for row in body["dataframe_split"]["data"]]
        exchange.request = json.dumps(body).encode()
    traffic.write(exchanges[:50])
    monitoring.watch.look()
    traffic.write(exchanges[50:])
    monitoring.watch.look()
    [(window, verdict)] = Windows(monitoring.state).history("wine")
    assert (window.rows, verdict.status) == (1000, "ok")
    assert judgement_of(Verdicts(monitoring.state).results(verdict.id)).unknown == ["vintage"]


def test_rows_without_any_input_are_drift(traffic, monitoring):
    name = traffic.write(traffic.exchanges(1000))
    path = written(traffic, name)
    pq.write_table(pq.read_table(path).drop_columns(["input"]), path)
    monitoring.watch.look()
    [(_, verdict)] = Windows(monitoring.state).history("wine")
    assert verdict.status == "critical"
    assert "alcohol: null_rate 1" in verdict.message


def test_a_log_of_payloads_only_is_said(traffic, monitoring):
    exchanges = traffic.exchanges(10)
    for exchange in exchanges:
        exchange.response = b"not JSON"
    traffic.write(exchanges)
    assert monitoring.watch.look(provisional=True) == 0
    assert ["no scored rows" in line for line in monitoring.said] == [True]


def test_an_object_too_large_for_memory_gives_the_same_verdicts(traffic, monitoring, tmp_path, monkeypatch):
    exchanges = [
        *traffic.exchanges(5000, version="1"),
        *traffic.exchanges(3000, START + timedelta(seconds=0.5), shift=0.7),
    ]
    traffic.write([exchanges[at] for at in traffic.rng.permutation(len(exchanges))])
    for version in ("1", None):
        monitoring.keep(traffic.baseline(), version)
    in_parts = Monitoring(settings(traffic.log, f"sqlite:///{tmp_path}/parts.db"))
    for version in ("1", None):
        kept = StoredBaselines(monitoring.state).newest("wine", version)
        with in_parts.state.begin() as tx:
            StoredBaselines(tx).put("wine", version, kept.data, "test")
    monitoring.watch.look(provisional=True)
    monkeypatch.setattr("mooring.monitor.ingest.CHUNK_VALUES", 10_000)
    in_parts.watch.look(provisional=True)
    assert monitoring.verdicts() == in_parts.verdicts()
    assert len(monitoring.verdicts()) == 8
    for one, two in zip(
        Windows(monitoring.state).history("wine"), Windows(in_parts.state).history("wine"), strict=True
    ):
        assert one.verdict.summary == two.verdict.summary


def test_a_baseline_from_the_log_is_of_its_version_alone(traffic):
    traffic.write(traffic.exchanges(1000, version="1") + traffic.exchanges(500))
    span = "2026-03-01..2026-03-02"
    assert between(span)[0] < START
    assert from_log(str(traffic.log), "wine", None, span).rows == 500
    assert from_log(str(traffic.log), "wine", "1", span).rows == 1000
    with pytest.raises(ValueError, match=r"no rows of wine of version 2 in .*version 1 as champion, version none"):
        from_log(str(traffic.log), "wine", "2", span)
