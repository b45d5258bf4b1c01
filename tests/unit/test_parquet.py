"""What is written to Parquet is what was sent, whatever was sent."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mooring.exchange import Exchange
from mooring.ids import new_request_id
from mooring.log.listing import folder_name
from mooring.log.parquet import ParquetLog, fit
from mooring.log.schema import infer


def exchange(request: object, predictions: object, **more) -> Exchange:
    answer = json.dumps({"predictions": predictions}).encode()
    return Exchange(
        request_id=new_request_id(), time_ns=0, request=json.dumps(request).encode(), response=answer, **more
    )


def write(directory, *exchanges: Exchange) -> pa.Table:
    ParquetLog(str(directory), lambda *_: None).write("segment", exchanges)
    [path] = directory.glob("inferences/*/*/segment.parquet")
    return pq.ParquetFile(path).read()


def records(*rows: dict) -> dict:
    return {"dataframe_records": list(rows)}


def test_a_name_that_is_no_unicode_does_not_stop_the_log(tmp_path):
    table = write(tmp_path, exchange(records({"\ud800": 1}), [{"\ud800": 1, "b": 2}]))
    assert table["input"].to_pylist() == [{"\\ud800": 1.0}]
    assert table["output"].to_pylist() == [{"prediction.\\ud800": 1.0, "prediction.b": 2.0}]


def test_records_of_every_shape_share_a_row_group(tmp_path):
    rows = [{"a": 1}, {"b": 2, "a": 3}, {"c": "x"}, {}]
    table = write(tmp_path, *(exchange(records(row), [1]) for row in rows if row))
    assert table["input"].to_pylist() == [
        {"a": 1.0, "b": None, "c": None},
        {"a": 3.0, "b": 2.0, "c": None},
        {"a": None, "b": None, "c": "x"},
    ]
    [path] = tmp_path.glob("inferences/*/*/segment.parquet")
    assert pq.ParquetFile(path).num_row_groups == 1


@pytest.mark.parametrize(
    ("values", "kind", "fitted", "odd"),
    [
        ([1.5, True], "double", [1.5, None], [1]),
        ([1, None, 2.5], "double", [1.0, None, 2.5], []),
        ([2**53 + 1, 1], "double", [float(2**53 + 1), 1.0], [0]),
        ([10**400, 1], "double", [None, 1.0], [0]),
        (["a", 1], "string", ["a", None], [1]),
        (["\ud800"], "string", [None], [0]),
        ([True, 0], "boolean", [True, None], [1]),
        ([1700000000], "timestamp", [None], [0]),
        (["9999-12-31T23:59:59-23:59"], "timestamp", [None], [0]),
        ([[1], {"a": None}], "json", ["[1]", '{"a": null}'], []),
    ],
)
def test_a_value_of_another_kind_is_told_apart(values, kind, fitted, odd):
    array, places = fit(values, kind)
    assert array.to_pylist() == fitted
    assert places == odd


def test_nan_and_missing_are_kept_apart():
    array, odd = fit([float("nan"), None, float("inf")], "double")
    assert (array.null_count, odd) == (1, [])
    assert str(array[0]) == "nan"


def test_a_kind_is_inferred_from_all_values():
    assert infer([None, 1, 2.5]) == "double"
    assert infer([1, "a"]) == "json"


def test_an_unnamed_model_and_one_named_default_are_one(tmp_path):
    body = records({"a": 1})
    table = write(
        tmp_path, exchange(body, [1]), exchange(body, [1], model="default"), exchange(body, [1], model="")
    )
    assert table.num_rows == 3


def test_a_model_of_any_name_has_a_folder(tmp_path):
    name = "模型" * 60
    assert len(folder_name(name)) < 200
    assert write(tmp_path, exchange(records({"a": 1}), [1], model=name)).num_rows == 1


def test_writing_again_changes_nothing_and_the_schema_only_grows(tmp_path):
    log = ParquetLog(str(tmp_path), lambda *_: None)
    log.write("first", [exchange(records({"a": 1}), [1])])
    log.write("first", [exchange(records({"a": 2}), [1])])
    ParquetLog(str(tmp_path), lambda *_: None).write("second", [exchange(records({"a": "x", "b": True}), [1])])
    tables = {path.stem: pq.ParquetFile(path).read() for path in tmp_path.glob("inferences/*/*/*.parquet")}
    assert tables["first"]["input"].to_pylist() == [{"a": 1.0}]
    assert tables["second"]["input"].to_pylist() == [{"a": None, "b": True}]
    assert json.loads(tables["second"]["misfits"][0].as_py()) == {"input": {"a": "x"}}
    assert len(list(tmp_path.glob("schemas/model=default/*.json"))) == 2
