"""Labels: whatever order they come in and however often, the latest of each row is what counts."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.log.add_labels import add_labels
from mooring.log.label_files import Columns, FileFormat, read_file
from mooring.log.label_join import LabelIndex
from mooring.log.labels import (
    LABELS,
    LabelError,
    label_tables,
    labels_table,
    latest,
    list_label_objects,
    read_labels,
    together,
    write_labels,
)
from mooring.log.listing import open_log
from mooring.log.reader import found_in

START = datetime(2026, 3, 1, 23, 59, tzinfo=UTC)


def table(*labels: tuple[str, int, float | str, int]) -> pa.Table:
    ids, rows, values, minutes = zip(*labels, strict=True)
    times = pa.chunked_array([[START + timedelta(minutes=minute) for minute in minutes]])
    columns = (pa.chunked_array([list(column)]) for column in (ids, values, rows))
    return labels_table(*columns, times)


def test_labels_are_read_as_written_by_day_and_the_same_again_makes_nothing_new(tmp_path):
    labels = table(("a", 0, 6.0, 0), ("b", 0, 5.0, 2), ("b", 1, 7.0, 2))
    assert write_labels(str(tmp_path), "wine/white", labels) == 2
    assert write_labels(str(tmp_path), "wine/white", labels) == 0
    days = sorted(path.parent.name for path in tmp_path.glob("labels/model=wine%2Fwhite/*/*.parquet"))
    assert days == ["date=2026-03-01", "date=2026-03-02"]
    found = read_labels(str(tmp_path), "wine/white").table
    assert found.schema == LABELS
    assert found.select(["request_id", "row", "label"]).to_pylist() == [
        {"request_id": "a", "row": 0, "label": 6.0},
        {"request_id": "b", "row": 0, "label": 5.0},
        {"request_id": "b", "row": 1, "label": 7.0},
    ]
    since = read_labels(str(tmp_path), "wine/white", start=START + timedelta(minutes=1)).table
    assert since["request_id"].to_pylist() == ["b", "b"]


def test_a_correction_wins_whenever_it_was_written(tmp_path):
    write_labels(str(tmp_path), "m", table(("a", 0, 7.0, 5)))
    write_labels(str(tmp_path), "m", table(("a", 0, 6.0, 0), ("c", 0, 1.0, 0)))
    assert read_labels(str(tmp_path), "m").table["label"].to_pylist() == [7.0, 1.0]


@pytest.mark.parametrize(
    ("values", "label", "text"),
    [
        ([1, 0], [1.0, 0.0], [None, None]),
        ([True, False], [1.0, 0.0], [None, None]),
        (["good", "bad"], [None, None], ["good", "bad"]),
    ],
)
def test_numbers_booleans_and_texts(values, label, text):
    found = labels_table(pa.chunked_array([["a", "b"]]), pa.chunked_array([values]))
    assert (found["label"].to_pylist(), found["label_text"].to_pylist()) == (label, text)


@pytest.mark.parametrize(
    ("ids", "values", "rows", "says"),
    [
        (["a", None], [1, 2], None, "request_id is missing in 1 rows, such as 1"),
        (["a", ""], [1, 2], None, "request_id is missing in 1 rows, such as 1"),
        (["a", "b"], [1.0, None], None, "label is missing in 1 rows, such as 1"),
        (["a", "b"], [float("nan"), 1.0], None, "label is missing in 1 rows, such as 0"),
        (["a", "b"], [1, 2], [0, -1], "row is less than 0 in 1 rows, such as 1"),
        (["a", "b"], [1, 2], [0.5, 1], "the column row is double, not int32"),
        ([[1], [2]], [1, 2], None, "the column request_id is list"),
    ],
)
def test_what_can_not_be_a_label_is_refused_with_its_place(ids, values, rows, says):
    given_rows = pa.chunked_array([rows]) if rows is not None else None
    with pytest.raises(LabelError) as error:
        labels_table(pa.chunked_array([ids]), pa.chunked_array([values]), given_rows)
    assert str(error.value).startswith(says)


label = st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.floats(0, 9), st.integers(0, 5))


@given(st.lists(label, min_size=1, max_size=30), st.randoms())
def test_the_latest_does_not_depend_on_the_order(labels, random):
    shuffled = labels.copy()
    random.shuffle(shuffled)
    found = latest(table(*labels))
    assert found.equals(latest(table(*shuffled)))
    assert found.equals(latest(pa.concat_tables([found, table(*shuffled)])))
    expected = {}
    for one in sorted(labels, key=lambda one: (one[3], one[2])):
        expected[one[:2]] = one[2]
    assert {(row["request_id"], row["row"]): row["label"] for row in found.to_pylist()} == expected


def test_only_labels_of_the_requests_that_are_named_are_read(tmp_path):
    write_labels(str(tmp_path), "m", table(("a", 0, 7.0, 0), ("b", 0, 6.0, 0), ("c", 0, 6.0, 0)))
    write_labels(str(tmp_path), "m", table(("a", 0, 5.0, 2), ("a", 1, 4.0, 0)))
    for ids in (pa.array(["a", "x"]), pa.array(["x", "a"], pa.large_string()), pa.chunked_array([["a"], ["x"]])):
        found = read_labels(str(tmp_path), "m", ids=ids).table
        assert found.select(["request_id", "row", "label"]).to_pylist() == [
            {"request_id": "a", "row": 0, "label": 5.0},
            {"request_id": "a", "row": 1, "label": 4.0},
        ]
    assert len(read_labels(str(tmp_path), "m", ids=pa.array([], pa.string())).table) == 0
    assert len(read_labels(str(tmp_path), "other", ids=pa.array(["a"])).table) == 0


def test_objects_that_came_since_can_be_read_apart(tmp_path):
    uri = str(tmp_path)
    opened = open_log(uri)
    assert list_label_objects(opened, uri, "m") == []
    write_labels(uri, "m", table(("a", 0, 7.0, 0)))
    before = list_label_objects(opened, uri, "m")
    write_labels(uri, "m", table(("b", 0, 7.0, 0), ("c", 0, 1.0, 2)))
    new = [one for one in list_label_objects(opened, uri, "m") if one not in before]
    found = {
        path: part["request_id"].to_pylist()
        for path, part in label_tables(found_in(opened, uri, "m", new, LABELS))
    }
    assert sorted(found.values()) == [["b"], ["c"]]
    assert set(found) == {one.path for one in new}
    [tomorrow] = list_label_objects(opened, uri, "m", START + timedelta(minutes=2))
    assert found[tomorrow.path] == ["c"]


@pytest.mark.parametrize(
    "times",
    [
        pa.array(["9999-12-31"]),
        pa.array(["0001-01-01T00:00+14:00"]),
        pa.array(["9999-12-31T23:59-14:00"]),
        pa.array([date(9999, 12, 31)]),
        pa.array([10**12], pa.timestamp("s")),
        pa.array([10**17], pa.timestamp("ms", "UTC")),
    ],
)
def test_a_time_that_no_day_of_the_log_can_have_is_refused(times):
    """Such a label made the drain fail for good, or every later look at the labels."""
    with pytest.raises(LabelError, match="time is no time in 1 rows"):
        labels_table(pa.chunked_array([["a"]]), pa.chunked_array([[1]]), times=pa.chunked_array([times]))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_times_of_any_unit_and_zone_are_kept(unit, zone):
    times = pa.array([START.replace(tzinfo=None)], pa.timestamp("us")).cast(pa.timestamp(unit))
    times = times.cast(pa.timestamp(unit, "UTC")).cast(pa.timestamp(unit, zone)) if zone else times
    found = labels_table(pa.chunked_array([["a"]]), pa.chunked_array([[1]]), times=pa.chunked_array([times]))
    assert found["time"].to_pylist() == [START]


def test_tables_are_put_together_whatever_their_number():
    small = [pa.table({"a": [1]})] * 30_000
    assert [len(one) for one in together(iter(small), 20_000)] == [20_000, 10_000]


def _beside(sex: list[str | None], times: list[str], label: float = 1.0) -> pa.Table:
    return labels_table(
        pa.chunked_array([["a"] * len(sex)]),
        pa.chunked_array([[label] * len(sex)]),
        times=pa.chunked_array([times]),
        protected={"sex": pa.chunked_array([pa.array(sex, pa.string())])},
    )


def test_protected_values_are_kept_beside_labels_as_texts() -> None:
    columns = {
        "sex": pa.chunked_array([["f", None, ""]]),
        "children": pa.chunked_array([[2.0, 1.0, None]]),
        "veteran": pa.chunked_array([[True, False, None]]),
    }
    table = labels_table(pa.chunked_array([["a", "b", "c"]]), pa.chunked_array([[1, 2, 3]]), protected=columns)
    assert [None if one is None else json.loads(one) for one in table["protected"].to_pylist()] == [
        {"sex": "f", "children": "2", "veteran": "true"},
        {"children": "1", "veteran": "false"},
        None,
    ]


def test_a_protected_value_that_is_no_text_number_or_boolean_is_refused() -> None:
    for value in (["f"], date(2026, 3, 1)):
        column = pa.chunked_array([[value]])
        with pytest.raises(LabelError, match=r"not (a )?numbers?, texts? or boolean"):
            labels_table(pa.chunked_array([["a"]]), pa.chunked_array([[1]]), protected={"sex": column})


def test_a_corrected_label_keeps_the_protected_values_of_its_row() -> None:
    both = pa.concat_tables([_beside(["f"], ["2026-03-01"]), _beside([None], ["2026-03-02"], label=2.0)])
    other = labels_table(
        pa.chunked_array([["b"]]), pa.chunked_array([[1]]), times=pa.chunked_array([["2026-03-03"]])
    )
    found = latest(pa.concat_tables([other, both]))
    assert found.select(["request_id", "label"]).to_pylist() == [
        {"request_id": "a", "label": 2.0},
        {"request_id": "b", "label": 1.0},
    ]
    index = LabelIndex(found)
    assert index.protected(np.arange(2), "sex").tolist() == ["f", None]
    assert index.protected(np.arange(2), "age").tolist() == [None, None]


def test_objects_from_before_protected_values_are_read(tmp_path: Path) -> None:
    path = tmp_path / "labels" / "model=m" / "date=2026-03-01" / "old.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(_beside(["f"], ["2026-03-01T10:00"]).drop_columns("protected"), path)
    assert write_labels(str(tmp_path), "m", _beside(["m"], ["2026-03-01T11:00"])) == 1
    (tmp_path / "inferences").mkdir()
    found = read_labels(str(tmp_path), "m").table
    assert found.schema == LABELS
    assert LabelIndex(found).protected(np.arange(1), "sex").tolist() == ["m"]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_files_bring_protected_columns_that_are_named(tmp_path: Path, form: FileFormat) -> None:
    frame = pd.DataFrame(
        {
            "request_id": ["a", "b"],
            "label": [1.5, 2.5],
            "sex": ["f", None],
            "children": ["2", "0"],
            "secret": ["x", "y"],
        }
    )
    path = tmp_path / f"truth.{form}"
    if form == "csv":
        frame.to_csv(path, index=False)
    elif form == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    with path.open("rb") as file:
        (piece,) = read_file(file, str(path), form, Columns(protected=("sex", "children", "region")))
    assert piece.refused == []
    assert [json.loads(one) for one in piece.table["protected"].to_pylist()] == [
        {"sex": "f", "children": "2"},
        {"children": "0"},
    ]


def test_labels_that_come_again_with_protected_values_are_written_and_without_them_repeated(
    tmp_path: Path,
) -> None:
    (tmp_path / "inferences").mkdir()
    frame = {"request_id": ["a"], "label": [1.0], "time": [datetime.now(UTC)], "sex": ["f"]}
    plain = {name: frame[name] for name in ("request_id", "label", "time")}
    assert add_labels(plain, model="m", log=tmp_path).added == 1
    assert add_labels(frame, model="m", log=tmp_path, protected=["sex"]).replaced == 1
    assert add_labels(frame, model="m", log=tmp_path, protected=["sex"]).repeated == 1
    assert add_labels(plain, model="m", log=tmp_path).repeated == 1
    found = LabelIndex(read_labels(str(tmp_path), "m").table)
    assert found.protected(np.arange(1), "sex").tolist() == ["f"]
    with pytest.raises(LabelError, match="no protected column age"):
        add_labels(frame, model="m", log=tmp_path, protected=["age"])
