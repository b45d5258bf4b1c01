"""Whatever MLflow's own parsers take, Mooring decodes to the same rows.

MLflow is asked without a model signature, as Mooring knows none. A payload that MLflow refuses has no prediction,
so that it does not matter here what Mooring makes of it.
"""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

from mooring.exchange import Exchange
from mooring.payload import Frame, Inputs, decode, decode_inputs, decode_outputs

PARQUET = "application/vnd.apache.parquet"

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::RuntimeWarning"
)

# Without NUL, which numpy cuts off the end of a text, and lone surrogates, which pandas refuses.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=5)
names = st.sampled_from(["pH", "alcohol", "größe", "品質", "a b", ""]) | texts
integers = st.sampled_from([2**53 + 1, 2**63, 2**64, -(2**63) - 1]) | st.integers(-5, 5) | st.integers()
floats = st.sampled_from([0.1, -0.0, 1e-300, math.nan, math.inf]) | st.floats()
scalars = st.none() | st.booleans() | integers | floats | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
records = st.lists(st.dictionaries(names, values, max_size=3), max_size=4)
ragged_rows = st.lists(values | st.lists(values, max_size=3), max_size=3)
params = st.dictionaries(names, values, max_size=2)


@st.composite
def tables(draw: st.DrawFn, cells: st.SearchStrategy[Any] = scalars) -> tuple[list[str], list[list[Any]]]:
    """Names and as many values in each row."""
    columns = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    width = len(columns)
    return columns, draw(st.lists(st.lists(cells, min_size=width, max_size=width), max_size=4))


def parsed_by_mlflow(body: bytes) -> Any:
    return scoring_server._parse_json_data(body, metadata=None, input_schema=None)


# Comparison: the rows in what MLflow would hand to the model.


def assert_agrees(body: bytes) -> None:
    data, sent_params, chat = parsed_by_mlflow(body)
    inputs = decode_inputs(body)
    assert not chat
    assert inputs.params is None if sent_params is None else same(inputs.params, sent_params)
    if isinstance(data, pd.DataFrame):
        assert_table(inputs.readings[0], data)
    elif isinstance(data, dict):
        assert_arrays(inputs, {name: np.asarray(array) for name, array in data.items()})
    elif isinstance(data, list):
        assert_records(inputs.readings[0], data)
    else:
        assert_array(inputs.readings[0], data)


def assert_agrees_if_taken(body: bytes) -> None:
    try:
        parsed_by_mlflow(body)
    except MlflowException:
        return
    assert_agrees(body)


def assert_table(frame: Frame, table: pd.DataFrame) -> None:
    labels = [str(place if missing(label) else label) for place, label in enumerate(table.columns)]
    assert len(set(frame.columns)) == len(labels)
    if len(set(labels)) == len(labels):
        assert list(frame.columns) == labels
    assert len(frame.rows) == len(table)
    for place in range(len(labels)):
        assert same([row[place] for row in frame.rows], table.iloc[:, place].tolist())


def assert_arrays(inputs: Inputs, arrays: dict[str, np.ndarray]) -> None:
    lengths = {len(array) if array.ndim else None for array in arrays.values()}
    assert all(frame.columns == tuple(arrays) for frame in inputs.readings)
    if len(lengths) == 1 and lengths != {None}:
        rows = inputs.readings[0].rows
        assert len(rows) == lengths.pop()
        for place, array in enumerate(arrays.values()):
            assert same([row[place] for row in rows], array.tolist())
    if inputs.kind == "inputs":
        (row,) = inputs.readings[-1].rows
        assert same(list(row), [array.tolist() for array in arrays.values()])


def assert_records(frame: Frame, rows: list[dict[str, Any]]) -> None:
    assert list(frame.columns) == list(dict.fromkeys(name for row in rows for name in row))
    assert len(frame.rows) == len(rows)
    for ours, theirs in zip(frame.rows, rows, strict=True):
        assert same(list(ours), [np.asarray(theirs.get(name)).tolist() for name in frame.columns])


def assert_array(frame: Frame, array: np.ndarray) -> None:
    rows = array.tolist() if array.ndim else [array.item()]
    if array.ndim == 2 and array.size and not any(isinstance(cell, dict) for row in rows for cell in row):
        assert list(frame.columns) == [str(place) for place in range(array.shape[1])]
        assert same([list(row) for row in frame.rows], rows)
    else:
        assert frame.columns == (("0",) if rows else ())
        assert same([row[0] for row in frame.rows], rows)


def missing(value: Any) -> bool:
    return value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, np.ndarray):
        theirs = theirs.tolist()
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[name], theirs[name]) for name in ours)
    if isinstance(theirs, str) and isinstance(ours, int | float):
        return str(ours) == theirs  # in an array with text, numpy makes text of numbers
    if missing(ours) or missing(theirs):
        return missing(ours) and missing(theirs)
    if isinstance(theirs, pd.Timestamp):
        return bool(ours == theirs.to_pydatetime(warn=False))
    if isinstance(theirs, float) and isinstance(ours, int):
        return float(ours) == theirs  # beside a float or a missing value, numpy makes floats of integers
    return bool(ours == theirs)


# Requests.


@given(tables(), st.none() | params, st.booleans())
@example((["a"], [[2**64], [None], [math.nan]]), {"request_id": "7"}, True)
def test_split(table: tuple[list[str], list[list[Any]]], more: dict[str, Any] | None, with_index: bool) -> None:
    columns, rows = table
    split = {"columns": columns, "data": rows} | ({"index": list(range(len(rows)))} if with_index else {})
    body = {"dataframe_split": split, "comment": "not read"} | ({} if more is None else {"params": more})
    assert_agrees(json.dumps(body).encode())


@given(tables(values), st.sampled_from(["dataframe_records", "inputs"]), st.none() | params)
def test_records(table: tuple[list[str], list[list[Any]]], key: str, more: dict[str, Any] | None) -> None:
    columns, rows = table
    body = {key: [dict(zip(columns, row, strict=True)) for row in rows]}
    assert_agrees_if_taken(json.dumps(body | ({} if more is None else {"params": more})).encode())


@given(tables(), st.sampled_from(["dataframe_records", "instances", "inputs"]))
def test_records_of_scalars(table: tuple[list[str], list[list[Any]]], key: str) -> None:
    columns, rows = table
    assert_agrees(json.dumps({key: [dict(zip(columns, row, strict=True)) for row in rows]}).encode())


@given(records, st.sampled_from(["dataframe_records", "instances", "inputs"]))
@example([{"a": 1}, {"b": 2}], "instances")
@example([{"a": 1, "b": 2}, {"b": 3, "a": 4}], "instances")
@example([{"a": 2**63 + 1}, {"b": 2}, {}], "dataframe_records")
def test_records_with_differing_keys(rows: list[dict[str, Any]], key: str) -> None:
    assert_agrees_if_taken(json.dumps({key: rows}).encode())


@given(tables(), st.sampled_from(["instances", "inputs"]), st.booleans())
def test_columns_and_rows(table: tuple[list[str], list[list[Any]]], key: str, by_column: bool) -> None:
    columns, rows = table
    data = {name: [row[place] for row in rows] for place, name in enumerate(columns)} if by_column else rows
    assert_agrees(json.dumps({key: data}).encode())


@given(st.lists(st.integers(0, 3), max_size=4), st.sampled_from(["instances", "inputs"]), st.booleans(), st.data())
def test_tensors(shape: list[int], key: str, named: bool, data: st.DataObject) -> None:
    numbers = st.lists(integers | floats, min_size=math.prod(shape), max_size=math.prod(shape))
    tensor = np.array(data.draw(numbers), dtype=object).reshape(shape).tolist()
    assert_agrees_if_taken(json.dumps({key: {"x": tensor, "y": tensor} if named else tensor}).encode())


@given(
    ragged_rows | records | values,
    st.fixed_dictionaries({}, optional={"columns": ragged_rows | values, "index": ragged_rows | values}),
)
@example([[1, 2**53 + 1], [1]], {"columns": ["a", "b"]})
@example([[1, 2]], {"columns": ["a", "a"]})
@example([[1, 2]], {"columns": [["a", "b"], ["c", "d"]]})
@example([[1, 2]], {"columns": [None, "a"]})
@example([[1, 2]], {"columns": [1, 0]})
@example([{"a": 1}, {"b": 2}], {"columns": ["b", "c"]})
@example({"a": {"x": 1, "y": 2}, "b": {"y": 3}}, {"index": ["y", "x"]})
@example(5, {"columns": ["a", "b"], "index": [0, 1]})
@example([[], []], {"columns": [], "index": [[], []]})
@example([[None]], {"columns": ["a"], "index": [[]]})
@example([[1], [2]], {"columns": ["a"], "index": [[1], [2]]})
@example([[1], [2]], {"columns": ["a"], "index": [{}, {}]})
def test_odd_splits(data: Any, more: dict[str, Any]) -> None:
    assert_agrees_if_taken(json.dumps({"dataframe_split": {"data": data, **more}}).encode())


@given(
    st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs"]),
    values | ragged_rows | st.dictionaries(names, ragged_rows, max_size=3),
)
@example("dataframe_records", [1, None, "a"])
@example("dataframe_records", [[1, 2], [3]])
@example("instances", {"a": [[1, 2], [3, 4]], "b": [5, 6]})
@example("inputs", {"a": 1, "b": [1, 2]})
@example("inputs", "a")
@example("inputs", {})
def test_any_json(key: str, value: Any) -> None:
    assert_agrees_if_taken(json.dumps({key: value}).encode())


@given(st.dictionaries(names, values, max_size=3), st.sampled_from(["messages", "prompt", "input"]), values)
def test_chat(more: dict[str, Any], key: str, value: Any) -> None:
    body = json.dumps({"inputs": [1]} | more | {key: value}).encode()
    data, sent_params, chat = parsed_by_mlflow(body)
    kind, (frame,), our_params = decode_inputs(body)
    assert chat
    assert (kind, our_params, sent_params) == ("chat", None, {})
    assert same(dict(zip(frame.columns, frame.rows[0], strict=True)), data)


csv_cells = st.sampled_from(
    ["", "NA", "1", "0.5", "-3", "True", "1e400", str(2**53 + 1), str(2**64), 'a "b"', "x\ny"]
)


@given(tables(csv_cells | texts))
def test_csv(table: tuple[list[str], list[list[str]]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([table[0], *table[1]])
    assert_csv_agrees(text.getvalue())


@given(st.text("ab1.5,\n\r\" '\t-é", max_size=30))
@example("a,b\n1,2,3\n4,5,6\n")
@example("a,b\n1\n2,3\n")
@example("\ufeffa\n1\n")
@example(",a,a\n1,,x\n")
def test_csv_that_nobody_made_with_care(text: str) -> None:
    assert_csv_agrees(text)


def assert_csv_agrees(text: str) -> None:
    try:
        table = scoring_server.parse_csv_input(io.StringIO(text))
    except MlflowException:
        return
    kind, (frame,), _ = decode_inputs(text.encode(), "text/csv; charset=utf-8")
    assert kind == "csv"
    assert_table(frame, table)


moments = st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1))
parquet_columns = [
    (texts, "str"),
    (st.integers(-(2**63), 2**63 - 1), "Int64"),
    (st.integers(0, 2**64 - 1), "UInt64"),
    (floats, "float64"),
    (st.floats(width=32), "float32"),
    (st.booleans(), "boolean"),
    (moments, "datetime64[us]"),
    (moments.map(lambda moment: moment.replace(tzinfo=UTC)), "datetime64[ns, UTC]"),
    (st.lists(st.integers(-5, 5), max_size=3), "object"),
]


@st.composite
def parquet_tables(draw: st.DrawFn) -> pd.DataFrame:
    table = {}
    for name in draw(st.lists(names, min_size=1, max_size=4, unique=True)):
        cells, dtype = draw(st.sampled_from(parquet_columns))
        table[name] = pd.Series(draw(st.lists(st.none() | cells, min_size=3, max_size=3)), dtype=dtype)
    return pd.DataFrame(table, index=draw(st.sampled_from([None, pd.Index([0, 1, 2], name="id")])))


@given(parquet_tables(), st.booleans())
def test_parquet(table: pd.DataFrame, by_pandas: bool) -> None:
    arrow = pa.Table.from_pandas(table)
    file = io.BytesIO()
    pq.write_table(arrow if by_pandas else arrow.replace_schema_metadata(None), file)
    kind, (frame,), _ = decode_inputs(file.getvalue(), PARQUET)
    assert kind == "parquet"
    assert_table(frame, scoring_server.parse_parquet_input(file))


# Answers.


def answered_by_mlflow(predictions: Any) -> bytes:
    file = io.StringIO()
    scoring_server.predictions_to_json(predictions, file)
    return file.getvalue().encode()


@given(tables(), st.booleans())
def test_predictions_of_a_table(table: tuple[list[str], list[list[Any]]], as_columns: bool) -> None:
    columns, rows = table
    predictions = pd.DataFrame(rows, columns=columns, dtype=object)
    data = {name: predictions[name].to_numpy() for name in columns} if as_columns else predictions
    frame = decode_outputs(answered_by_mlflow(data))[0]
    if rows or as_columns:
        assert frame.columns == (
            tuple(f"prediction.{name}" for name in columns) if len(columns) > 1 else ("prediction",)
        )
    assert same([list(row) for row in frame.rows], rows)


@given(st.lists(floats | st.integers(-(2**63), 2**63 - 1) | st.none() | texts, max_size=5), st.booleans())
def test_predictions_of_one_column(predictions: list[Any], as_series: bool) -> None:
    data = pd.Series(predictions, dtype=object)
    (frame,) = decode_outputs(answered_by_mlflow(data if as_series else data.to_numpy()))
    assert frame.columns == ("prediction",)
    assert same([list(row) for row in frame.rows], [[value] for value in predictions])


class Model:
    """Answers with the number of rows that it got, once for each."""

    metadata = None

    def predict(self, data: Any) -> Any:
        if isinstance(data, dict) and "messages" in data:
            return {"choices": [data["messages"]]}
        return np.full(len(data), len(data))


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"dataframe_split": {"columns": ["a"], "data": [[1], [NaN]]}, "params": {"x": 1}}'),
        ("application/json; charset=UTF-8", b'{"dataframe_records": [{"a": 1}, {"b": 2}]}'),
        ("application/json", b'{"instances": [[1, 2], [3, 4]]}'),
        ("application/json", '{"inputs": [1, 2]}'.encode("utf-16")),
        ("text/csv", b"a,b\n1,x\n2,\n"),
    ],
)
def test_exchange_with_the_server(content_type: str, body: bytes) -> None:
    answer = scoring_server.invocations(body, content_type, Model(), None)
    exchange = Exchange(
        request_id="1",
        time_ns=0,
        request=body,
        request_type=content_type,
        response=answer.response.encode(),
        response_type=answer.mimetype,
        status=answer.status,
    )
    scored = decode(exchange)
    assert len(scored.inputs.rows) == 2
    assert scored.outputs == Frame(("prediction",), [(2,), (2,)])


def test_chat_with_the_server() -> None:
    body = b'{"messages": [{"role": "user", "content": "hi"}]}'
    answer = scoring_server.invocations(body, "application/json", Model(), None).response.encode()
    scored = decode(Exchange(request_id="1", time_ns=0, request=body, response=answer))
    assert scored.kind == "chat"
    assert scored.outputs.rows == [({"choices": [[{"role": "user", "content": "hi"}]]},)]
