"""The cells of the log are what MLflow's server hands to a model, and what it writes of the model's answer.

The server's own function parses each request and enforces the signature; a model records what it gets. What MLflow
refuses has no prediction, and is not compared.
"""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import math
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel, scoring_server
from mlflow.types import Schema
from obstore.store import MemoryStore

from mooring.exchange import Exchange
from mooring.ids import new_request_id
from mooring.log.parquet import Partition
from mooring.log.schema import Recorded
from mooring.log.signature import Signature
from mooring.performance.scored import scored_of

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"

pytestmark = pytest.mark.filterwarnings("ignore")

Columns = list[dict[str, Any]]


class Recorder:
    """A model that keeps what it is given, and answers with what it is told, or a 0 for each row."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer

    def predict(self, data: Any) -> Any:
        self.given = data
        return [0] * rows_of(data) if self.answer is None else self.answer


def rows_of(data: Any) -> int:
    if isinstance(data, dict):
        return max(map(rows_of, data.values()), default=0)
    return len(data) if np.ndim(data) else 1


def columns_of(*types: str | dict[str, Any], named: bool = True) -> Columns:
    """Return a signature's columns a, b, … of these types."""
    columns: Columns = [dict(one) if isinstance(one, dict) else {"type": one} for one in types]
    for name, column in zip("abcdefgh", columns, strict=False):
        column.setdefault("required", True)
        if named:
            column["name"] = name
    return columns


def served(columns: Columns, body: bytes, content_type: str, answer: Any = None) -> tuple[Any, bytes]:
    """Return what the model was given, and the server's answer. Raises MlflowException if it refuses."""
    schema = Schema.from_json(json.dumps(columns))
    recorder = Recorder(answer)
    model = PyFuncModel(Model(signature=ModelSignature(inputs=schema)), recorder)
    answered = scoring_server.invocations(body, content_type, model, schema)
    return recorder.given, answered.response.encode()


def logged(
    columns: Columns | None, body: bytes, content_type: str, response: bytes, outputs: Columns | None = None
) -> pa.Table:
    """Return the rows of the log of one exchange."""
    exchange = Exchange(
        request_id=new_request_id(),
        time_ns=0,
        request=body,
        request_type=content_type,
        response=response,
        model="m",
    )
    return written(exchange, Signature(columns, outputs))


def written(exchange: Exchange, signature: Signature) -> pa.Table:
    schema = Recorded(MemoryStore(), "memory://", "m")
    schema.extend(signature.fields)
    partition = Partition(schema, lambda _: signature.casts)
    partition.add(exchange)
    return pq.ParquetFile(pa.BufferReader(dict(partition.finish())["inferences"])).read()


def is_list_without_place(value: Any, cell: Any, table: pa.Table) -> bool:
    """Whether lists have no place in their column, and so are misfits.

    MLflow made them of single values, as of `{"inputs": [[true]]}`, or those within them are of several lengths.
    """
    return isinstance(value, list) and cell is None and table["misfits"].null_count < table.num_rows


def missing(value: Any) -> bool:
    return value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def same(cell: Any, value: Any) -> bool:
    """Whether a cell of the log is a value that the model had."""
    if isinstance(value, np.ndarray | np.generic) and not isinstance(value, np.datetime64):
        value = value.tolist()
    if missing(value):
        return missing(cell)
    if isinstance(value, date | np.datetime64):
        return bool(cell == pd.Timestamp(value).floor("us").tz_localize("UTC"))
    if isinstance(value, bytes):
        return base64.b64decode(cell) == value
    if isinstance(cell, dict):  # a tensor
        return nested_same(np.reshape(cell["values"], cell["shape"]).tolist(), value)
    if isinstance(value, list | dict) or (isinstance(cell, str) and not isinstance(value, str)):
        return cell is not None and nested_same(json.loads(cell), value)
    if isinstance(value, bool) or isinstance(cell, bool):
        return cell is value or (isinstance(cell, float) and cell == value)
    return cell in (value, json.dumps(value)) if isinstance(value, str) else bool(cell == float(value))


def nested_same(cell: Any, value: Any) -> bool:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return len(cell) == len(value) and all(map(nested_same, cell, value))
    if isinstance(value, dict):
        return cell.keys() == value.keys() and all(nested_same(cell[key], value[key]) for key in value)
    if missing(value):
        return missing(cell)
    return base64.b64decode(cell) == value if isinstance(value, bytes) else bool(cell == value)


def assert_given(columns: Columns, body: bytes, content_type: str = JSON) -> pa.Table | None:
    """Compare every cell with what the model was given; return the rows, None if MLflow refuses."""
    try:
        data, answer = served(columns, body, content_type)
    except MlflowException:
        return None
    if not rows_of(data):
        return None
    table = logged(columns, body, content_type, answer)
    inputs = table["input"].to_pylist() if "input" in table.column_names else [{}] * table.num_rows
    if isinstance(data, np.ndarray):
        assert len(inputs) == len(data)
        for row, values in zip(inputs, data, strict=True):
            # A column that is missing in all rows has no field yet.
            cells = [row.get(str(at), row.get("xyz"[at])) for at in range(3)]
            if np.ndim(values) == 1 and data.ndim == 2:
                assert all(map(same, cells, values)), (inputs, data)
            else:
                assert same(cells[0], values)
        return table
    if isinstance(data, dict):
        assert len(inputs) == rows_of(data)
        for name, values in data.items():
            assert all(same(row.get(name), value) for row, value in zip(inputs, values, strict=True)), (
                inputs,
                data,
            )
        return table
    assert len(inputs) == len(data)
    for place, name in enumerate(data.columns):
        for row, value in zip(inputs, data.iloc[:, place].tolist(), strict=True):
            assert same(row.get(str(name)), value) or is_list_without_place(value, row.get(str(name)), table)
    return table


# Random requests. Most columns are such as MLflow takes, for what it refuses shows nothing.

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=4)
integers = st.integers(-3, 3) | st.sampled_from([2**24 + 1, 2**31, 2**53 + 1, 2**63, -(2**63), 2**64, 2**70])
floats = st.floats() | st.sampled_from([0.1, 5.7, -0.0, 1e39, 1e300])
numerals = st.sampled_from(["10.5", " 7 ", "1e3", "-0", "nan", "inf", "00501", "", "0x1", "1_000"])
booleans = st.sampled_from(["true", "False", "0", "1", ""]) | st.booleans() | st.integers(0, 2)
times = st.sampled_from(
    ["2026-03-01", "2026-03-01T10:20:30", "2026-03-01 10:20", "2026-03-01T10:20:30.123456", "2026-3-1", "NaT",
     "03/01/2026", "1 March 2026", "20260301", "2026-03-01T10:20:30.123456789", "1600-01-01", "2026-03-01T00:00Z"]
)  # fmt: skip
encoded = st.binary(max_size=4).map(lambda value: base64.b64encode(value).decode()) | texts
odd = (
    st.none() | st.booleans() | integers | floats | texts | numerals | times | st.lists(st.integers(), max_size=2)
)

usual: dict[str, st.SearchStrategy[Any]] = {
    "double": floats,
    "float": floats,
    "long": st.integers(-3, 3),
    "integer": st.integers(-3, 3),
    "boolean": st.booleans(),
    "string": texts,
    "datetime": times,
    "binary": encoded,
}
near: dict[str, list[st.SearchStrategy[Any]]] = {
    "double": [floats | st.none(), integers, integers | floats, numerals, st.booleans(), floats | st.booleans()],
    "float": [
        floats | st.none(),
        integers,
        integers | floats,
        numerals,
        st.booleans(),
        st.sampled_from([0.1, 0.2]),
    ],
    "long": [integers, floats, integers | floats, numerals, st.booleans(), st.sampled_from([1.0, 5.7])],
    "integer": [integers, floats, integers | floats, numerals, st.booleans(), st.sampled_from([1.0, 5.7])],
    "boolean": [booleans, st.none() | st.booleans(), floats, texts],
    "string": [texts | st.none(), integers, st.none() | integers, floats, st.booleans(), texts | integers, odd],
    "datetime": [st.none() | times, st.integers(0, 2**40), times.map(lambda _: "2026-03-01") | st.none(), texts],
    "binary": [encoded, texts],
}


@st.composite
def columns_and_rows(draw: st.DrawFn, named: bool | None = None) -> tuple[Columns, list[list[Any]]]:
    """Return a signature and rows for its columns, in its order."""
    named = draw(st.booleans()) if named is None else named
    types = draw(st.lists(st.sampled_from(sorted(usual)), min_size=1, max_size=4))
    columns = columns_of(*types, named=named)
    if named:
        for column in columns:
            column["required"] = draw(st.booleans())
    cells = [usual[one] if draw(st.booleans()) else draw(st.sampled_from([*near[one], odd])) for one in types]
    count = draw(st.integers(1, 3))
    return columns, [[draw(one) for one in cells] for _ in range(count)]


def names_of(columns: Columns) -> list[str]:
    return [column.get("name", str(place)) for place, column in enumerate(columns)]


@given(columns_and_rows(), st.permutations(range(4)), st.booleans(), st.booleans())
@example((columns_of("double", "long", "boolean"), [["10.5", 5.7, 1]]), range(4), False, False)
@example((columns_of("string", "datetime"), [[501, "03/01/2026"]]), range(4), True, False)
@example((columns_of("boolean", "double"), [[None, True]]), range(4), False, True)
@example((columns_of("float"), [[0.1], [0.2], [0.7]]), range(4), False, False)
@example((columns_of("string", named=False), [[1], [None]]), range(4), True, False)
@example((columns_of("datetime", named=False), [["2026-03-01"], [None]]), range(4), False, False)
def test_split(request_: tuple[Columns, list[list[Any]]], order: list[int], with_index: bool, more: bool) -> None:
    columns, rows = request_
    places = [place for place in order if place < len(columns)] if "name" in columns[0] else range(len(columns))
    names = [names_of(columns)[place] for place in places] + (["more"] if more else [])
    data = [[row[place] for place in places] + ([[1, "x"]] if more else []) for row in rows]
    index = {"index": [f"r{at}" for at in range(len(rows))]} if with_index else {}
    assert_given(columns, json.dumps({"dataframe_split": {"columns": names, "data": data, **index}}).encode())


@given(columns_and_rows(), st.sampled_from(["dataframe_records", "inputs", "instances"]), st.booleans())
@example((columns_of("string", "double"), [[None, 1.5], ["a", None]]), "inputs", False)
@example((columns_of("string", "long"), [[501, 5.7]]), "instances", False)
@example((columns_of("string", "double"), [["a", 1], [5, "2.5"]]), "dataframe_records", True)
def test_records(request_: tuple[Columns, list[list[Any]]], key: str, without: bool) -> None:
    columns, rows = request_
    records = [dict(zip(names_of(columns), row, strict=True)) for row in rows]
    if without:
        records[-1].popitem()
    assert_given(columns, json.dumps({key: records}).encode())


@given(columns_and_rows(), st.sampled_from(["inputs", "instances"]))
@example((columns_of("double", "string"), [["10.5", 1], ["2", None]]), "inputs")
@example((columns_of("double", "long"), [[1, 2.5]]), "inputs")
@example((columns_of("long", "double", named=False), [[1, 1.5]]), "inputs")
@example((columns_of("string"), [[1], [2]]), "inputs")
@example(([{"name": "a", "type": "binary", "required": False}], [[""]]), "inputs")
@example(([{"name": "a", "type": "boolean", "required": False}], [[False], [True]]), "instances")
def test_columns_and_lists(request_: tuple[Columns, list[list[Any]]], key: str) -> None:
    columns, rows = request_
    by_column = {name: [row[at] for row in rows] for at, name in enumerate(names_of(columns))}
    assert_given(columns, json.dumps({key: by_column}).encode())
    assert_given(columns, json.dumps({key: rows}).encode())
    assert_given(columns, json.dumps({key: [row[0] for row in rows]}).encode())
    assert_given(columns, json.dumps({key: {name: cells[0] for name, cells in by_column.items()}}).encode())


cells_of_csv = st.sampled_from(
    ["00501", "1", "0.5", "True", "false", "", "NA", "x", "2026-03-01", str(2**53 + 1), str(2**64), "1e3", " 7"]
)


@given(st.lists(st.sampled_from(sorted(usual)), min_size=1, max_size=3), st.booleans(), st.data())
def test_csv(types: list[str], more: bool, data: st.DataObject) -> None:
    rows = data.draw(
        st.lists(st.lists(cells_of_csv, min_size=len(types), max_size=len(types)), min_size=1, max_size=3)
    )
    for columns in (
        columns_of(*types),
        columns_of(*["string"] * len(types)),
        columns_of(*["double"] * len(types)),
    ):
        text = io.StringIO(newline="")
        csv.writer(text).writerows([names_of(columns) + ["more"] * more, *(row + ["007"] * more for row in rows)])
        assert_given(columns, text.getvalue().encode(), CSV)


def test_csv_keeps_the_zeros_of_a_text() -> None:
    columns = columns_of("string", "double", "string")
    table = assert_given(columns, b"a,b,c,more\n00501,1.5,x,7\n10115,2,,8\n", CSV)
    assert table is not None
    assert table["input"].to_pylist() == [
        {"a": "00501", "b": 1.5, "c": "x", "more": 7.0},
        {"a": "10115", "b": 2.0, "c": None, "more": 8.0},
    ]
    assert table["misfits"].to_pylist() == [None, None]


@given(columns_and_rows(named=True))
def test_parquet(request_: tuple[Columns, list[list[Any]]]) -> None:
    columns, rows = request_
    file = io.BytesIO()
    try:
        pd.DataFrame(rows, columns=names_of(columns)).to_parquet(file)
    except (pa.ArrowException, OverflowError, ValueError):
        return
    assert_given(columns, file.getvalue(), PARQUET)


nested = [
    {"type": "array", "items": {"type": "double"}},
    {"type": "array", "items": {"type": "array", "items": {"type": "long"}}},
    {"type": "array", "items": {"type": "string"}},
    {"type": "object", "properties": {"u": {"type": "double"}, "v": {"type": "string", "required": False}}},
    {"type": "map", "values": {"type": "double"}},
    {"type": "any"},
]  # fmt: skip
of_nested = [
    st.lists(floats | st.integers(0, 1), max_size=3),
    st.lists(st.lists(st.integers(-3, 3), max_size=2), max_size=2),
    st.lists(texts | st.none(), max_size=2),
    st.fixed_dictionaries(
        {"u": floats | st.integers(0, 1)}, optional={"v": texts | st.none() | st.integers(0, 2)}
    ),
    st.dictionaries(texts, floats, max_size=2),
    odd,
]


@given(
    st.integers(0, 5), st.sampled_from(["dataframe_split", "dataframe_records", "inputs", "instances"]), st.data()
)
def test_nested(place: int, key: str, data: st.DataObject) -> None:
    columns = columns_of(nested[place], "double")
    rows = data.draw(st.lists(st.tuples(of_nested[place], floats), min_size=1, max_size=3))
    records = [{"a": one, "b": number} for one, number in rows]
    split = {"columns": ["a", "b"], "data": [list(row) for row in rows]}
    assert_given(columns, json.dumps({key: split if key == "dataframe_split" else records}).encode())


def tensor(dtype: str, *shape: int, name: str | None = None) -> dict[str, Any]:
    spec = {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": [-1, *shape]}}
    return spec if name is None else {"name": name, **spec}


@given(
    st.sampled_from(["float64", "float32", "int64", "bool", "str", "object"]),
    st.sampled_from([(), (1,), (3,), (2, 2)]),
    st.sampled_from(["inputs", "instances", "dataframe_split", "named", "records"]),
    st.data(),
)
def test_tensors(dtype: str, shape: tuple[int, ...], way: str, data: st.DataObject) -> None:
    cells = {"bool": booleans, "str": texts | integers, "object": texts}.get(
        dtype, floats | st.integers(-3, 3) | numerals
    )
    count = data.draw(st.integers(1, 3))
    size = count * math.prod(shape)
    flat = np.empty(size, dtype=object)
    flat[:] = data.draw(st.lists(cells, min_size=size, max_size=size))
    rows = flat.reshape(count, *shape).tolist()
    one = tensor(dtype, *shape)
    if way in ("inputs", "instances"):
        assert_given([one], json.dumps({way: rows}).encode())
    elif way == "dataframe_split":
        wide = rows if len(shape) == 1 else [[row] for row in rows]
        names = list("xyz")[: len(wide[0])]
        assert_given([one], json.dumps({way: {"columns": names, "data": wide}}).encode())
    elif way == "named":
        columns = [{"name": "u", **one}, tensor("float64", name="v")]
        assert_given(columns, json.dumps({"inputs": {"u": rows, "v": [1.5] * count}}).encode())
    else:
        columns = [{"name": "u", **one}, tensor("float64", name="v")]
        assert_given(columns, json.dumps({"dataframe_records": [{"u": row, "v": 2} for row in rows]}).encode())


# What is beside the cells.


def test_what_was_cast_is_a_misfit_beside_its_value() -> None:
    columns = columns_of("double", "long", "boolean", "string", "datetime", "float")
    data = [
        ["10.5", 5.7, 1, 501, "03/01/2026", 0.1],
        [2, 5.0, False, "x", "04/01/2026", 1e39],
        [True, 7, 0, None, None, None],
    ]
    table = assert_given(
        columns, json.dumps({"dataframe_split": {"columns": list("abcdef"), "data": data}}).encode()
    )
    assert table is not None
    march, april = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
    assert table["input"].to_pylist() == [
        {"a": 10.5, "b": 5.0, "c": True, "d": "501", "e": march, "f": float(np.float32(0.1))},
        {"a": 2.0, "b": 5.0, "c": False, "d": "x", "e": april, "f": math.inf},
        {"a": 1.0, "b": 7.0, "c": False, "d": None, "e": None, "f": None},
    ]
    assert [text and json.loads(text) for text in table["misfits"].to_pylist()] == [
        {"input": {"a": "10.5", "b": 5.7, "c": 1, "d": 501}},
        {"input": {"f": 1e39}},
        {"input": {"a": True, "c": 0}},
    ]


def test_a_missing_boolean_that_becomes_false_is_a_misfit() -> None:
    table = assert_given(columns_of("boolean"), b'{"dataframe_records": [{"a": null}, {"a": true}]}')
    assert table is not None
    assert table["input"].to_pylist() == [{"a": False}, {"a": True}]
    assert table["misfits"].to_pylist() == ['{"input": {"a": null}}', None]


def test_what_no_cast_takes_is_null_with_a_misfit() -> None:
    body = b'{"dataframe_records": [{"a": "high"}, {"a": 1.5}]}'  # of another server than MLflow's
    table = logged(columns_of("double"), body, JSON, b'{"predictions": [1, 2]}')
    assert table["input"].to_pylist() == [{"a": None}, {"a": 1.5}]
    assert table["misfits"].to_pylist() == ['{"input": {"a": "high"}}', None]


def test_a_signature_of_type_hints_casts_nothing() -> None:
    exchange = Exchange(
        request_id="1",
        time_ns=0,
        model="m",
        request=b'{"inputs": ["a", "b"]}',
        response=b'{"predictions": [1, 2]}',
    )
    signature = Signature([{"type": "string", "required": True}], None, from_type_hints=True)
    assert signature.casts is None
    assert written(exchange, signature)["input"].to_pylist() == [{"0": "a"}, {"0": "b"}]


# Answers.

moments = st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1))
answers: dict[str, st.SearchStrategy[Any]] = {
    "double": floats | st.integers(-3, 3),
    "string": texts,
    "boolean": st.booleans(),
    "datetime": moments,
}


@st.composite
def answered(draw: st.DrawFn) -> tuple[str, list[Any]]:
    kind = draw(st.sampled_from(sorted(answers)))
    values = draw(st.lists(answers[kind] | st.none(), min_size=1, max_size=4))
    return kind, values if kind != "string" else [value if value != "NaT" else "nat" for value in values]


def forms_of(kind: str, values: list[Any]) -> dict[str, Any]:
    """Return what models return such values as."""
    nan = [math.nan if value is None else value for value in values]
    forms: dict[str, Any] = {"object": np.array([*values, None], dtype=object)[:-1]}
    if kind != "datetime" or None not in values:
        forms["list"] = values
    forms["series"] = pd.Series(values, dtype=object)
    forms["series with nan"] = pd.Series(nan, dtype=object)
    forms["frame"] = pd.DataFrame({"p": pd.Series(values, dtype=object), "q": pd.Series(nan, dtype=object)})
    if kind == "string":
        forms["text"] = pd.Series(values, dtype="str")
    if kind == "datetime":
        forms["times"] = pd.Series(pd.to_datetime(values).as_unit("us"))
        forms["frame of times"] = pd.DataFrame({"p": forms["times"], "q": forms["times"]})
        if None not in values:
            forms["array of ns"] = np.array(values, dtype="datetime64[ns]")
            forms["array of us"] = np.array(values, dtype="datetime64[us]")
    if kind in ("double", "boolean") and None not in values:
        forms["array"] = np.array(values)
    return forms


@given(answered(), st.booleans())
@example(("string", ["a", None, "b"]), False)
@example(("datetime", [None]), True)
@example(("datetime", [datetime(2026, 3, 1), None]), True)
@example(("boolean", [True, None]), False)
@example(("boolean", [None, None]), True)
def test_what_the_model_returns(answer: tuple[str, list[Any]], with_signature: bool) -> None:
    kind, values = answer
    body = json.dumps({"dataframe_split": {"columns": ["a"], "data": [[1.5]] * len(values)}}).encode()
    for form, returned in forms_of(kind, values).items():
        names = ["p", "q"] if form.startswith("frame") else ["prediction"]
        outputs = [{"name": name, "type": kind, "required": True} for name in names] if with_signature else None
        try:
            _, response = served(columns_of("double"), body, JSON, returned)
        except TypeError:
            continue  # MLflow has no JSON for it
        table = logged(columns_of("double"), body, JSON, response, outputs)
        cells = table["output"].to_pylist() if "output" in table.column_names else [{}] * len(values)
        for name, (cell, value) in itertools.product(names, enumerate(values)):
            field = f"prediction.{name}" if len(names) > 1 else name
            found = cells[cell].get(field)
            if kind == "datetime" and not with_signature and value is not None:
                assert form == "array of ns" or datetime.fromisoformat(found) == value
            else:
                assert same(found, value), (form, response, cells)
        assert form == "array of ns" or table["misfits"].to_pylist() == [None] * len(values), (form, response)


def test_a_text_that_is_missing_among_predictions_costs_no_accuracy() -> None:
    labels = ["red", "white"] * 100
    returned = pd.Series(labels)
    returned[7] = None
    body = json.dumps({"dataframe_split": {"columns": ["a"], "data": [[1.5]] * len(labels)}}).encode()
    _, response = served(columns_of("double"), body, JSON, returned)
    scored = scored_of(labels, logged(columns_of("double"), body, JSON, response)["output"].combine_chunks())
    assert scored.rows == 199
    assert scored.predictions.tolist() == scored.labels.tolist()
