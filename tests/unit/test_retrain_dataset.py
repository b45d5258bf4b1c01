"""The data of a retraining: each labelled row once, the newest held out, the same however often it is made."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelled_logs import all_labelled, holdout, label, label_all, make, training
from monitoring import START, Traffic
from mooring.engine.sources import SourceError
from mooring.exchange import Exchange
from mooring.ids import new_request_id
from mooring.retrain.dataset import gather
from mooring.retrain.dataset.gather import NotEnough


def exchange(
    names: Sequence[str], rows: list[list[Any]], *, seconds: float = 0, answer: Any = None, **others: Any
) -> Exchange:
    time_ns = round((START + timedelta(seconds=seconds)).timestamp()) * 10**9
    request = {"dataframe_split": {"columns": names, "data": rows}}
    return Exchange(
        **{"request_id": new_request_id(time_ns), "model": "wine", **others},
        time_ns=time_ns,
        request=json.dumps(request).encode(),
        response=json.dumps({"predictions": answer or [row[0] / 2 for row in rows]}).encode(),
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return all_labelled(tmp_path)


def test_the_newest_requests_are_held_out_and_the_others_trained_on(log, tmp_path):
    manifest = make(log, tmp_path / "data")
    names = ["alcohol", "sugar", "colour"]
    assert (manifest.rows, manifest.holdout_rows, manifest.original_rows) == (320, 80, 0)
    assert (manifest.labelled, manifest.unlabelled, manifest.versions) == (400, 0, ["7"])
    assert (manifest.features, manifest.label) == (names, "quality")
    trained, held = training(manifest), holdout(manifest)
    assert trained.column_names == [*names, "quality"]
    assert held.column_names == [*names, "quality", "request_id", "row", "time", "logged.prediction"]
    assert (trained.num_rows, held.num_rows) == (320, 80)
    for table in (trained, held):
        rows = table.to_pylist()
        assert all(row["quality"] == 10 * row["alcohol"] for row in rows)
        assert {type(row["alcohol"]) for row in rows} == {float}
        assert {row["colour"] for row in rows} == {"red", "white", "rosé"}
    rows = held.to_pylist()
    assert all(row["logged.prediction"] == row["alcohol"] / 2 for row in rows)
    assert min(row["time"] for row in rows) == START + timedelta(seconds=32)
    assert [row["row"] for row in rows] == list(range(10)) * 8  # whole requests
    assert not set(trained["alcohol"].to_pylist()) & {(row["alcohol"], row["sugar"]) for row in rows}
    told = json.loads(Path(manifest.training).with_name("manifest.json").read_text())
    assert "holdout" not in told
    assert (told["ticket"], told["digest"]) == ("t-1", manifest.digest)


def test_made_again_it_is_the_same(log, tmp_path):
    manifest = make(log, tmp_path / "data")
    os.utime(manifest.training, (0, 0))
    assert make(log, tmp_path / "data", seed=2) == manifest
    assert Path(manifest.training).stat().st_mtime == 0
    other = make(log, tmp_path / "other")
    assert other.digest == manifest.digest
    assert sorted(path.name for path in (tmp_path / "other").iterdir() if path.name[0] != ".") == [
        "holdout.sealed",
        "manifest.json",
        "training",
    ]
    with pytest.raises(ValueError, match="holds the data of another ticket, t-1 of wine"):
        make(log, tmp_path / "data", ticket="t-2")


def test_too_few_labels_say_what_is_missing(tmp_path):
    traffic = Traffic(tmp_path / "log")
    exchanges = traffic.exchanges(2000)
    traffic.write(exchanges)
    with pytest.raises(NotEnough, match=r"^0 of 200 labelled rows; labels for 2,000 rows are missing$"):
        make(traffic.log, tmp_path / "data", min_labels=200)
    label_all(traffic.log, exchanges[:12])
    with pytest.raises(NotEnough, match=r"^120 of 200 labelled rows; labels for 1,880 rows are missing$"):
        make(traffic.log, tmp_path / "data", min_labels=200)
    assert gather.read(tmp_path / "data") is None
    label_all(traffic.log, exchanges[12:20])
    manifest = make(traffic.log, tmp_path / "data", min_labels=200)
    assert (manifest.rows, manifest.holdout_rows, manifest.unlabelled) == (160, 40, 1800)


def test_one_request_can_not_be_divided(tmp_path):
    traffic = Traffic(tmp_path / "log")
    exchanges = traffic.exchanges(300, per_request=300)
    traffic.write(exchanges)
    label_all(traffic.log, exchanges)
    with pytest.raises(NotEnough, match=r"^0 of 80 labelled rows to train on: 0\.2 of all .*, by whole requests;"):
        make(traffic.log, tmp_path / "data", min_labels=200)


def test_a_range_and_drifted_windows(log, tmp_path):
    second = timedelta(seconds=1)
    manifest = make(log, tmp_path / "range", start=START + 10 * second, end=START + 30 * second)
    assert (manifest.rows, manifest.holdout_rows) == (160, 40)
    assert (manifest.start, manifest.end) == (START + 10 * second, START + 30 * second)
    windows = [(START + 5 * second, START + 8 * second), (START + 30 * second, START + 36 * second)]
    manifest = make(log, tmp_path / "windows", windows=windows)
    # The holdout is the newest of all, seconds 32 to 39: it takes four from the second window.
    assert (manifest.rows, manifest.holdout_rows, manifest.labelled) == (50, 80, 90)
    with pytest.raises(NotEnough, match=r"^0 of 8 labelled rows in the drifted windows to train on: 0\.2 of all"):
        make(log, tmp_path / "none", windows=[(START + 33 * second, START + 36 * second)])
    with pytest.raises(NotEnough, match=r"^30 of 40 labelled rows in the drifted windows; labels for 0 rows"):
        make(log, tmp_path / "few", windows=windows[:1], min_labels=40)


def test_without_a_range_it_is_all_until_now(log, tmp_path):
    manifest = make(log, tmp_path / "data", start=None, end=None)
    assert manifest.start == START
    assert manifest.end <= manifest.created
    assert manifest.labelled == 400


def test_a_request_that_several_variants_answered_counts_once_with_the_champions_answer(tmp_path):
    names = ["alcohol"]
    exchanges = []
    for second in range(40):
        id = new_request_id()
        rows = [[float(second)]]
        kept = {"request_id": id, "seconds": second}
        if second % 2:
            exchanges.append(exchange(names, rows, variant="canary", version="2", answer=[-1.0], **kept))
        if second != 39:
            exchanges.append(exchange(names, rows, variant="champion", version="1", **kept))
        exchanges.append(exchange(names, rows, variant="shadow", version="3", answer=[-2.0], **kept))
    traffic = Traffic(tmp_path / "log")
    traffic.write(exchanges)
    label_all(traffic.log, exchanges)
    manifest = make(traffic.log, tmp_path / "data")
    assert (manifest.rows, manifest.holdout_rows, manifest.versions) == (32, 8, ["1", "2"])
    assert training(manifest)["alcohol"].to_pylist() == list(range(32))
    # What only the canary answered is known, but the champion said nothing of it.
    assert holdout(manifest)["logged.prediction"].to_pylist() == [second / 2 for second in range(32, 39)] + [None]


def test_labels_by_the_clients_id_the_later_of_two_and_a_request_that_came_twice(tmp_path):
    names = ["alcohol"]
    exchanges = [
        exchange(names, [[float(number)]], seconds=number, client_request_id=f"order-{number}")
        for number in range(30)
    ]
    again = exchange(names, [[3.0]], seconds=50, client_request_id="order-3")
    traffic = Traffic(tmp_path / "log")
    traffic.write([*exchanges, again])
    label(traffic.log, [(f"order-{number}", 0, 1.0) for number in range(30)])
    label(traffic.log, [(exchanges[5].request_id, 0, 2.0)], seconds=8_000)
    label(traffic.log, [(exchanges[6].request_id, 0, 3.0)], seconds=9_500)
    label(traffic.log, [("order-7", 0, 4.0), ("order-8", 1, 5.0), ("unknown", 0, 6.0)], seconds=9_600)
    manifest = make(traffic.log, tmp_path / "data")
    assert (manifest.labelled, manifest.unlabelled, manifest.holdout_rows) == (31, 0, 6)
    rows = training(manifest).to_pylist()
    # The request that came again has the same label, and is not held out: it is known in training.
    assert [row["alcohol"] for row in rows] == [*range(24), 3]
    expected = [1.0] * 25
    expected[6], expected[7] = 3.0, 4.0
    assert [row["quality"] for row in rows] == expected


def test_labels_that_are_texts_and_features_of_each_kind(tmp_path):
    names = ["alcohol", "organic", "bottled", "request_id", "time"]
    exchanges = [
        exchange(names, [[float(n), n % 2 == 0, f"2026-01-{n % 28 + 1:02d}", n, None if n % 3 else n]], seconds=n)
        for n in range(40)
    ]
    traffic = Traffic(tmp_path / "log")
    traffic.write(exchanges)
    label(traffic.log, [(one.request_id, 0, "good") for one in exchanges[:-1]])
    label(traffic.log, [(exchanges[-1].request_id, 0, 6.0)])
    manifest = make(traffic.log, tmp_path / "data")
    trained, held = training(manifest), holdout(manifest)
    assert trained.schema.types == [pa.float64(), pa.bool_(), pa.string(), *[pa.float64()] * 2, pa.string()]
    assert set(trained["quality"].to_pylist()) == {"good"}
    assert held["quality"].to_pylist() == ["good"] * 7 + ["6"]
    # Features keep their names, and what is Mooring's own gets another.
    assert manifest.keys == ("mooring.request_id", "row", "mooring.time")
    assert held["request_id"].to_pylist() == list(range(32, 40))
    assert held["mooring.request_id"].to_pylist() == [one.request_id for one in exchanges[32:]]


def test_the_label_can_not_be_called_as_a_feature_is(log, tmp_path):
    with pytest.raises(ValueError, match=r"can't be called sugar: a feature is\. Give it another name"):
        make(log, tmp_path / "data", label="sugar")


@pytest.fixture
def original(tmp_path: Path) -> Path:
    lines = ['"quality";"alcohol";"note";"colour";"sugar"', *(f"5;{n};x;red;{n / 2}" for n in range(1000))]
    lines[10] = ";9;x;red;4.5"  # no label
    path = tmp_path / "original.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_original_data_are_mixed_in_to_their_share(log, tmp_path, original):
    kept = {"original": str(original), "original_share": 0.6}
    manifest = make(log, tmp_path / "data", **kept)
    assert (manifest.rows, manifest.original_rows, manifest.holdout_rows) == (800, 480, 80)
    assert (manifest.original, manifest.notes) == (str(original), [])
    table = training(manifest)
    assert table.column_names == ["alcohol", "sugar", "colour", "quality"]
    drawn = table.slice(0, 480)["alcohol"].to_pylist()
    assert len(set(drawn)) == 480
    assert set(drawn) < set(range(1000)) - {9}
    assert set(table.slice(0, 480)["quality"].to_pylist()) == {5.0}
    assert make(log, tmp_path / "again", **kept).digest == manifest.digest
    assert make(log, tmp_path / "other", **kept, seed=2).digest != manifest.digest
    assert make(log, tmp_path / "none", original=str(original)).original_rows == 0


def test_fewer_original_rows_than_wanted_are_all_taken_and_that_is_said(log, tmp_path, original):
    manifest = make(log, tmp_path / "data", original=str(original), original_share=0.8)
    assert (manifest.rows, manifest.original_rows) == (320 + 999, 999)
    assert manifest.notes == [
        f"{original} has 999 rows with a label; 0.8 of the training data would be 1,280",
    ]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"alcohol": [1.0], "sugar": [1]}, "has no column colour, quality; it has: alcohol, sugar"),
        (
            {"alcohol": ["12"], "sugar": [1], "colour": ["red"], "quality": [5]},
            "alcohol is string in .*, but double in the log; convert it there",
        ),
        (
            {"alcohol": [1.0], "sugar": [1], "colour": [1], "quality": [5]},
            "colour is int64 in .*, but string in the log; convert it there",
        ),
    ],
)
def test_original_data_that_do_not_fit(log, tmp_path, columns, says):
    path = tmp_path / "original.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(SourceError, match=f"^the original training data: .*{says}"):
        make(log, tmp_path / "data", original=str(path), original_share=0.5)
    assert gather.read(tmp_path / "data") is None


def test_an_object_that_can_not_be_read_is_left_out(log, tmp_path, caplog):
    (log / "inferences/model=wine/date=2026-03-01/writer-00000001.parquet").write_bytes(b"PAR1")
    manifest = make(log, tmp_path / "data")
    assert "writer-00000001.parquet is left out" in caplog.text
    assert (manifest.rows, manifest.holdout_rows) == (120, 30)


def test_many_objects_need_few_of_them_in_memory(tmp_path, monkeypatch):
    """Looked up and written in many parts, it is as in one."""
    traffic = Traffic(tmp_path / "log")
    exchanges = traffic.exchanges(3000, seconds=10)
    for first in range(0, len(exchanges), 30):
        traffic.write(exchanges[first : first + 30])
    label_all(traffic.log, exchanges[::2])
    whole = make(traffic.log, tmp_path / "whole")
    monkeypatch.setattr("mooring.retrain.dataset.labelled._ROWS_A_LOOK", 500)
    monkeypatch.setattr(gather, "_VALUES_A_WRITE", 1000)
    parts = make(traffic.log, tmp_path / "parts")
    unlike = dict.fromkeys(("digest", "holdout_digest", "training", "holdout"), "")
    assert msgspec.structs.replace(parts, created=whole.created, **unlike) == (
        msgspec.structs.replace(whole, **unlike)
    )
    assert training(parts).equals(training(whole))
    assert holdout(parts).equals(holdout(whole))
    assert pq.ParquetFile(parts.training).num_row_groups > 1
