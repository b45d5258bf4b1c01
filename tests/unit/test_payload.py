"""Every format in which MLflow's server is asked and answers, and what is no payload at all."""

from __future__ import annotations

import gzip
import io
import json
import math
import pickle
import zlib
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mooring import payload
from mooring.exchange import Exchange
from mooring.payload import Frame, ScoredExchange, Undecodable, decode, decode_inputs, decode_outputs

CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"


def exchange(request: Any, response: Any, **fields: Any) -> Exchange:
    bodies = [body if isinstance(body, bytes) else json.dumps(body).encode() for body in (request, response)]
    return Exchange(request_id="1", time_ns=0, request=bodies[0], response=bodies[1], **fields)


def table(frame: Frame) -> tuple[list[str], list[list[Any]]]:
    return list(frame.columns), [list(row) for row in frame.rows]


def refused(request: Any, response: Any = (), **fields: Any) -> str:
    with pytest.raises(Undecodable) as caught:
        decode(exchange(request, response, **fields))
    assert str(caught.value).endswith(".")
    return caught.value.code


REQUESTS: list[tuple[str, str, list[str], list[list[Any]]]] = [
    (
        "dataframe_split",
        '{"columns": ["a", "b"], "data": [[1, "x"], [2.5, null]]}',
        ["a", "b"],
        [[1, "x"], [2.5, None]],
    ),
    ("dataframe_split", '{"columns": ["a"], "index": [7, 8], "data": [[1], [2]]}', ["a"], [[1], [2]]),
    ("dataframe_split", '{"columns": [0, 1], "data": [[1, 2]]}', ["0", "1"], [[1, 2]]),
    ("dataframe_split", '{"columns": ["größe", "品質"], "data": [[1, 2]]}', ["größe", "品質"], [[1, 2]]),
    ("dataframe_split", '{"columns": ["a"], "data": [[[1, 2]], [{"x": 1}]]}', ["a"], [[[1, 2]], [{"x": 1}]]),
    ("dataframe_split", '{"columns": ["a", "b"], "data": []}', ["a", "b"], []),
    ("dataframe_records", '[{"a": 1, "b": "x"}, {"a": 2, "b": null}]', ["a", "b"], [[1, "x"], [2, None]]),
    ("dataframe_records", '[{"a": 1}, {"b": 2, "a": 3}]', ["a", "b"], [[1, None], [3, 2]]),
    ("dataframe_records", "[]", [], []),
    ("instances", "[1, 2]", ["0"], [[1], [2]]),
    ("instances", "[[1, 2], [3, 4], [5, 6]]", ["0", "1"], [[1, 2], [3, 4], [5, 6]]),
    ("instances", "[[[1, 2], [3, 4]]]", ["0"], [[[[1, 2], [3, 4]]]]),
    ("instances", '[{"a": 1, "b": [2]}, {"b": [3], "a": 4}]', ["a", "b"], [[1, [2]], [4, [3]]]),
    ("instances", '{"a": [1, 2], "b": [[3], [4]]}', ["a", "b"], [[1, [3]], [2, [4]]]),
    ("instances", "[]", [], []),
    ("inputs", '["x", null, true]', ["0"], [["x"], [None], [True]]),
    ("inputs", "[[1, 2], [3, 4]]", ["0", "1"], [[1, 2], [3, 4]]),
    ("inputs", "[[1, 2], [3]]", ["0"], [[[1, 2]], [[3]]]),
    ("inputs", "[[1], [[2]]]", ["0"], [[[1]], [[[2]]]]),
    ("inputs", "[[], []]", ["0"], [[[]], [[]]]),
    ("inputs", '[{"a": 1}, {"b": 2}]', ["a", "b"], [[1, None], [None, 2]]),
    ("inputs", '{"a": [1, 2], "b": [3, 4]}', ["a", "b"], [[1, 3], [2, 4]]),
    ("inputs", '{"a": [1, 2], "b": [3]}', ["a", "b"], [[[1, 2], [3]]]),
    ("inputs", '{"a": [1], "b": 3}', ["a", "b"], [[[1], 3]]),
    ("inputs", '{"a": 1, "b": "x"}', ["a", "b"], [[1, "x"]]),
    ("inputs", '{"a": {"x": 1}}', ["a"], [[{"x": 1}]]),
    ("inputs", '"a question"', ["0"], [["a question"]]),
]


@pytest.mark.parametrize(("key", "value", "columns", "rows"), REQUESTS)
def test_request(key: str, value: str, columns: list[str], rows: list[list[Any]]) -> None:
    inputs = decode_inputs(f'{{"other": 1, "params": {{"k": 2}}, "{key}": {value}}}'.encode())
    assert inputs.kind == key
    assert table(inputs.readings[0]) == (columns, rows)
    assert inputs.params == {"k": 2}


ODD_REQUESTS: list[tuple[str, str, list[str], list[list[Any]]]] = [
    ("dataframe_split", '{"data": [[1, 2], [3, 4]]}', ["0", "1"], [[1, 2], [3, 4]]),
    ("dataframe_split", '{"data": {"a": [1, 2], "b": [3, 4]}}', ["a", "b"], [[1, 3], [2, 4]]),
    ("dataframe_split", '{"data": [{"a": 1}, {"b": 2}], "columns": ["b"]}', ["b"], [[None], [2]]),
    ("dataframe_split", '{"data": [1, 2], "columns": ["a"]}', ["a"], [[1], [2]]),
    ("dataframe_split", '{"data": 5, "columns": ["a"], "index": [0, 1]}', ["a"], [[5], [5]]),
    ("dataframe_split", '{"data": [[1]], "columns": ["a"], "index": [0, 1]}', ["a"], [[1], [1]]),
    ("dataframe_split", '{"data": [[1, 9007199254740993], [2]]}', ["0", "1"], [[1, 2**53 + 1], [2, None]]),
    ("dataframe_split", '{"data": [[1]], "columns": [["a"], ["b"]]}', ["('a', 'b')"], [[1]]),
    ("dataframe_split", '{"data": [[1, 2]], "columns": [null, "a"]}', ["0", "a"], [[1, 2]]),
    ("dataframe_split", '{"data": [[1, 2]], "columns": ["a", "a"]}', ["a", "a.1"], [[1, 2]]),
    ("dataframe_split", '{"data": [[1, 2, 3]], "columns": ["a", "a", "a.1"]}', ["a", "a.1", "a.1.1"], [[1, 2, 3]]),
    ("dataframe_records", "[[1, 2], [3, 4]]", ["0", "1"], [[1, 2], [3, 4]]),
    ("dataframe_records", '["x", 2]', ["0"], [["x"], [2]]),
    ("instances", '[{"a": 1}, {"b": 2}]', ["a", "b"], [[1, 2]]),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("key", "value", "columns", "rows"), ODD_REQUESTS)
def test_odd_request(key: str, value: str, columns: list[str], rows: list[list[Any]]) -> None:
    inputs = decode_inputs(f'{{"{key}": {value}}}'.encode())
    assert table(inputs.readings[0]) == (columns, rows)


@pytest.mark.parametrize("content_type", ["application/json; format=pandas-split", "Application/JSON", ""])
def test_request_of_mlflow_1(content_type: str) -> None:
    inputs = decode_inputs(b'{"index": [0], "columns": ["a"], "data": [[1]]}', content_type)
    assert inputs == ("split", (Frame(("a",), [[1]]),), None)


def test_chat_comes_before_the_four_formats() -> None:
    body = b'{"messages": [{"role": "user"}], "temperature": 0.5, "params": {}, "inputs": [1]}'
    kind, (frame,), params = decode_inputs(body)
    assert kind == "chat"
    assert table(frame) == (["messages", "temperature", "params", "inputs"], [[[{"role": "user"}], 0.5, {}, [1]]])
    assert params is None


def test_params_that_are_no_object_are_none() -> None:
    assert decode_inputs(b'{"inputs": [1], "params": 3}').params is None


def test_csv() -> None:
    body = 'größe,"a ""b""",c,d\n1,"x\ny",,true\n2,,0.5,false\n'.encode()
    kind, (frame,), _ = decode_inputs(body, "text/csv; charset=utf-8")
    assert kind == "csv"
    assert table(frame) == (["größe", 'a "b"', "c", "d"], [[1, "x\ny", None, True], [2, None, 0.5, False]])
    assert {type(value) for row in frame.rows for value in row} == {int, str, float, bool, type(None)}


def test_parquet() -> None:
    moment = datetime(2024, 5, 6, 7, 8, 9, 10)
    columns = {
        "int": pa.array([2**53 + 1, None]),
        "float": [0.5, math.nan],
        "text": ["größe", None],
        "bool": [True, None],
        "moment": pa.array([moment, None], pa.timestamp("ns")),
        "zoned": [moment.replace(tzinfo=UTC), None],
        "date": [date(2024, 5, 6), None],
        "decimal": [Decimal("1.50"), Decimal("2.00")],
        "bytes": [b"\xff", None],
        "list": [[1, 2], [3, 4]],
        "struct": [{"a": [{"b": moment}]}, None],
    }
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    kind, (frame,), _ = decode_inputs(file.getvalue(), PARQUET)
    assert kind == "parquet"
    assert table(frame) == (
        list(columns),
        [
            [
                *(2**53 + 1, 0.5, "größe", True, moment, moment.replace(tzinfo=UTC)),
                *("2024-05-06", 1.5, "/w==", [1, 2], {"a": [{"b": moment}]}),
            ],
            [None, None, None, None, None, None, None, 2, None, [3, 4], None],
        ],
    )
    assert type(frame.rows[0][4]) is datetime


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18446744073709551616", 2**64),
        ("-9223372036854775809", -(2**63) - 1),
        ("9007199254740993", 2**53 + 1),
        ("123456789012345678901234567890", 123456789012345678901234567890),
        ("1e400", math.inf),
        ("-Infinity", -math.inf),
        ("-0.0", -0.0),
        ("0.30000000000000004", 0.1 + 0.2),
        ("null", None),
        (r'"\ud800"', "\ud800"),
        (r'"\ud83d\ude00"', "\U0001f600"),
        ('{"a": 1, "a": 2}', {"a": 2}),
    ],
)
def test_values_are_those_of_json(text: str, value: Any) -> None:
    for split in (
        f'{{"columns": ["a"], "data": [[{text}]]}}',
        f'{{"data": {{"a": [{text}]}}}}',  # odd: through pandas
    ):
        found = decode_inputs(f'{{"dataframe_split": {split}}}'.encode()).readings[0].rows[0][0]
        assert (found, type(found)) == (value, type(value))


def test_null_and_nan_are_kept_apart() -> None:
    (frame,) = decode_inputs(b'{"inputs": [null, NaN]}').readings
    assert frame.rows[0] == (None,)
    assert math.isnan(frame.rows[1][0])


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_unicode_encodings_that_json_loads_takes(codec: str) -> None:
    assert decode_inputs('{"inputs": ["größe"]}'.encode(codec)).readings[0].rows == [("größe",)]


ANSWERS: list[tuple[str, list[str], list[list[Any]]]] = [
    ("[5, null]", ["prediction"], [[5], [None]]),
    ('["x", true]', ["prediction"], [["x"], [True]]),
    (
        '[{"label": "a", "score": 1}, {"score": 2}]',
        ["prediction.label", "prediction.score"],
        [["a", 1], [None, 2]],
    ),
    ('[{"0": 5}, {"0": 6}]', ["prediction"], [[5], [6]]),
    ("[{}, {}]", ["prediction"], [[{}], [{}]]),
    ("[[1, 2], [3, 4]]", ["prediction.0", "prediction.1"], [[1, 2], [3, 4]]),
    ("[[1], [2]]", ["prediction"], [[1], [2]]),
    ("[[[1]], [[2]]]", ["prediction"], [[[[1]]], [[[2]]]]),
    ("[[1, 2], [3]]", ["prediction"], [[[1, 2]], [[3]]]),
    ('{"p": [1, 2], "q": [3, 4]}', ["prediction.p", "prediction.q"], [[1, 3], [2, 4]]),
    ('{"p": [1, 2]}', ["prediction"], [[1], [2]]),
]


@pytest.mark.parametrize(("value", "columns", "rows"), ANSWERS)
def test_answer(value: str, columns: list[str], rows: list[list[Any]]) -> None:
    bodies = [f'{{"predictions": {value}, "model": "x"}}']
    if value.startswith("["):
        bodies.append(value)  # as MLflow 1 answered
    for body in bodies:
        assert table(decode(exchange({"inputs": [1, 2]}, body.encode())).outputs) == (columns, rows)


@pytest.mark.parametrize(
    ("value", "columns", "row"),
    [
        ("0.5", ["prediction"], [0.5]),
        ("null", ["prediction"], [None]),
        ('"yes"', ["prediction"], ["yes"]),
        ('{"p": 1, "q": "x"}', ["prediction.p", "prediction.q"], [1, "x"]),
        ('{"p": [1, 2], "q": [3]}', ["prediction.p", "prediction.q"], [[1, 2], [3]]),
        ('{"p": [1, 2], "q": [3, 4]}', ["prediction.p", "prediction.q"], [[1, 2], [3, 4]]),
        ('{"p": [1], "q": [3]}', ["prediction.p", "prediction.q"], [1, 3]),
        ("{}", ["prediction"], [{}]),
    ],
)
def test_answer_to_one_row(value: str, columns: list[str], row: list[Any]) -> None:
    scored = decode(exchange({"inputs": [1]}, f'{{"predictions": {value}}}'.encode()))
    assert table(scored.outputs) == (columns, [row])


def test_bare_nan_among_predictions() -> None:
    (frame,) = decode_outputs(b'{"predictions": [NaN, 1.0]}')
    assert math.isnan(frame.rows[0][0])
    assert frame.rows[1] == (1.0,)


def test_answer_to_chat_is_one_prediction() -> None:
    scored = decode(exchange({"input": ["a", "b"]}, {"data": [1, 2], "model": "m"}))
    assert scored == ScoredExchange(
        kind="chat",
        inputs=Frame(("input",), [(["a", "b"],)]),
        outputs=Frame(("prediction",), [({"data": [1, 2], "model": "m"},)]),
        params=None,
    )


def test_columns_of_lists_are_rows_if_there_are_as_many_predictions() -> None:
    request = {"inputs": {"x": [1, 2], "y": [3, 4]}}
    assert decode(exchange(request, {"predictions": [5, 6]})).inputs.rows == [(1, 3), (2, 4)]
    assert decode(exchange(request, {"predictions": [5]})).inputs.rows == [([1, 2], [3, 4])]
    assert refused(request, {"predictions": [5, 6, 7]}) == "rows_differ"


def test_no_rows_and_no_predictions() -> None:
    scored = decode(exchange({"dataframe_split": {"columns": ["a"], "data": []}}, {"predictions": []}))
    assert scored == ScoredExchange("dataframe_split", Frame(("a",), []), Frame(("prediction",), []), None)


def test_rows_that_differ_are_named() -> None:
    with pytest.raises(Undecodable, match=r"3.*2"):
        decode(exchange({"inputs": [1, 2, 3]}, {"predictions": [1, 2]}))


@pytest.mark.parametrize("predictions", [0.5, {"a": 1}, {"a": [1]}, [1], [[1, 2]], []])
def test_rows_differ(predictions: Any) -> None:
    assert refused({"inputs": [1, 2]}, {"predictions": predictions}) == "rows_differ"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1, 2]",
        b"3",
        b"{}",
        b"\xff\xfe\xfd",
        b'{"predictions": [1]}',
        b'{"inputs": [1], "instances": [1]}',
        b'{"dataframe_split": [1]}',
        b'{"dataframe_split": {"columns": ["a"]}}',
        b'{"dataframe_split": {"columns": ["a"], "data": [[1]], "dtypes": []}}',
        b'{"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}',
        b'{"dataframe_split": {"columns": ["a"], "data": [[1], [2]], "index": [1, 2, 3]}}',
        b'{"columns": ["a"], "data": [[1]], "inputs": [], "instances": []}',
        b'{"dataframe_records": {"a": [1]}}',
        b'{"dataframe_records": [{"a": 1}, 2]}',
        b'{"instances": [{"a": 1}, 2]}',
        b'{"instances": [{"a": 1}, {"a": 2, "b": 3}]}',
        b'{"inputs": ' + b"[" * 100_000,
        b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"inputs": ' + b"1" * 5_000 + b"}",
    ],
)
def test_malformed_request(body: bytes) -> None:
    assert refused(body) == "malformed"


@pytest.mark.parametrize(
    "body", [b"", b'{"error_code": "BAD_REQUEST"}', b"7", b"null", b"<html>", b'{"predictions": ']
)
def test_malformed_answer(body: bytes) -> None:
    assert refused({"inputs": [1]}, body) == "malformed"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [(CSV, b""), (CSV, b"\n"), (CSV, b"a\n\xff"), (CSV, b"a\n1\n2,3,4\n"), (PARQUET, b""), (PARQUET, b"PAR1PAR1")],
)
def test_malformed_table(content_type: str, body: bytes) -> None:
    assert refused(body, request_type=content_type) == "malformed"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; a=b"]
)
def test_content_type(content_type: str) -> None:
    assert refused({"inputs": [1]}, [1], request_type=content_type) == "content_type"
    assert refused({"inputs": [1]}, [1], response_type=content_type) == "content_type"


def test_an_error_is_no_prediction() -> None:
    assert refused({"messages": []}, {"error_code": "BAD_REQUEST"}, status=400) == "failed"
    assert refused({"inputs": [1]}, b"", status=0) == "failed"


def test_a_body_cut_short_is_not_half_decoded() -> None:
    assert refused(b"a\n1.5", [3], request_type=CSV, errors=["truncated"]) == "truncated"


def test_undecodable_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(Undecodable("malformed", "It is not JSON.")))
    assert (error.code, str(error)) == ("malformed", "It is not JSON.")


BODY = b'{"inputs": [1, 2]}'


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(body) + compressor.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("", BODY),
        ("identity", BODY),
        ("gzip", gzip.compress(BODY, mtime=0)),
        ("X-GZip", gzip.compress(BODY, mtime=0)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", raw_deflate(BODY)),
        ("deflate, gzip", gzip.compress(zlib.compress(BODY), mtime=0)),
    ],
)
def test_encoding(encoding: str, body: bytes) -> None:
    assert decode_inputs(body, encoding=encoding).readings[0].rows == [(1,), (2,)]
    packed = exchange(body, gzip.compress(b"[3, 4]", mtime=0), request_encoding=encoding, response_encoding="gzip")
    assert decode(packed).outputs.rows == [(3,), (4,)]


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("br", BODY),
        ("gzip", BODY),
        ("gzip", b""),
        ("gzip", gzip.compress(BODY, mtime=0)[:-1]),
        ("gzip", gzip.compress(BODY, mtime=0) + b"more"),
        ("deflate", b""),
        ("deflate", zlib.compress(BODY)[:-4]),
        ("gzip, gzip", gzip.compress(BODY, mtime=0)),
    ],
)
def test_undecodable_encoding(encoding: str, body: bytes) -> None:
    assert refused(body, request_encoding=encoding) == "encoding"


def test_decompressed_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "MAX_DECOMPRESSED", len(BODY))
    assert decode_inputs(gzip.compress(BODY, mtime=0), encoding="gzip").kind == "inputs"
    assert refused(gzip.compress(BODY + b" ", mtime=0), request_encoding="gzip") == "too_large"


def test_a_parquet_body_that_unpacks_to_much_is_not_unpacked() -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"a": pa.nulls(10_000_000, pa.int8())}), file)
    assert len(file.getvalue()) < 100_000
    assert refused(file.getvalue(), request_type=PARQUET) == "too_large"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
formats = st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs"])
requests = (
    json_values
    | st.dictionaries(formats, json_values, min_size=1, max_size=1)
    | st.fixed_dictionaries({"data": json_values}, optional={"columns": json_values, "index": json_values}).map(
        lambda split: {"dataframe_split": split}
    )
)


def scored_or_undecodable(exchange: Exchange) -> None:
    try:
        scored = decode(exchange)
    except Undecodable:
        return
    assert len(scored.inputs.rows) == len(scored.outputs.rows)
    assert scored.outputs.columns
    for frame in (scored.inputs, scored.outputs):
        assert len(set(frame.columns)) == len(frame.columns)
        assert all(len(row) == len(frame.columns) for row in frame.rows)


@given(
    st.binary(),
    st.sampled_from(["application/json", CSV, PARQUET]),
    st.sampled_from(["", "gzip", "deflate"]),
    st.binary(),
)
@example(b"PAR1\x00\x00\x00\x00PAR1", PARQUET, "", b"[]")
def test_random_bytes(request: bytes, content_type: str, encoding: str, response: bytes) -> None:
    scored_or_undecodable(exchange(request, response, request_type=content_type, request_encoding=encoding))
    scored_or_undecodable(exchange(BODY, response))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@given(requests, json_values)
@example({"inputs": {}}, {})
@example({"dataframe_split": {"data": [[], []], "columns": []}}, [1, 2])
def test_random_json(request: Any, predictions: Any) -> None:
    scored_or_undecodable(exchange(request, {"predictions": predictions}))


@given(json_values, st.text(), st.text())
def test_random_headers(value: Any, content_type: str, encoding: str) -> None:
    scored_or_undecodable(exchange({"inputs": value}, [1], request_type=content_type, response_encoding=encoding))


def parquet_of(column: pa.Array) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"a": column}), file, compression="zstd", store_schema=False)
    return file.getvalue()


TEXTS = pa.DictionaryArray.from_arrays(pa.array([0] * 1900, pa.int32()), pa.array(["x" * 100_000]))
TOO_MUCH: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "a million names": ("too_wide", {"inputs": dict.fromkeys(map(str, range(100_000)), 1)}, {}),
    "ragged": ("too_large", {"dataframe_split": {"data": [[1] * 5000, *[[1]] * 5000]}}, {}),
    "a long index": (
        "too_large",
        {"dataframe_split": {"data": [], "index": list(range(5000)), "columns": list(range(5000))}},
        {},
    ),
    "names of each its own": ("too_large", {"dataframe_records": [{str(at): 1} for at in range(3000)]}, {}),
    "instances of each its own": ("too_large", {"instances": [{str(at): 1} for at in range(3000)]}, {}),
    "a wide head of CSV": (
        "too_large",
        ",".join(map(str, range(5000))).encode() + b"\n1" * 5000,
        {"request_type": CSV},
    ),
    "a quoted head of CSV": (
        "too_large",
        b'"a\nb",' + ",".join(map(str, range(5000))).encode() + b"\n1" * 5000,
        {"request_type": CSV},
    ),
    "very many lines": ("too_large", b"a" + b"\n1" * 1_100_000, {"request_type": CSV}),
    "equal texts": ("too_large", parquet_of(TEXTS), {"request_type": PARQUET}),
    "lists of equal texts": (
        "too_large",
        parquet_of(pa.ListArray.from_arrays(pa.array([0, 1900], pa.int32()), TEXTS.cast(pa.string()))),
        {"request_type": PARQUET},
    ),
    "long lists": (
        "too_large",
        parquet_of(pa.array([[0] * 3_000_000], pa.list_(pa.int8()))),
        {"request_type": PARQUET},
    ),
    "empty lists": ("too_large", b'{"inputs": [' + b"[]," * 1_500_000 + b"[]]}", {}),
    "empty dicts": ("too_large", b'{"inputs": [' + b"{}," * 1_200_000 + b"{}]}", {}),
}


@pytest.mark.parametrize("kind", list(TOO_MUCH))
def test_what_would_take_the_memory_is_not_read(kind: str) -> None:
    code, request, fields = TOO_MUCH[kind]
    assert refused(request, {"predictions": [1]}, **fields) == code


def test_what_is_large_and_no_more_than_that_is_read() -> None:
    rows = [[at, at / 7, "text, and more", None, True] for at in range(100_000)]
    request = {"dataframe_split": {"columns": list("abcde"), "data": rows}}
    assert decode(exchange(request, {"predictions": [1.5] * 100_000})).inputs.rows[99_999] == rows[99_999]
    wide = {"inputs": {f"c{at}": [1, 2] for at in range(5000)}}
    assert len(decode(exchange(wide, {"predictions": [1, 2]})).inputs.columns) == 5000


def test_which_column_has_no_form_in_json_is_the_reason():
    said = Exchange(
        request_id="1",
        time_ns=0,
        request_type="text/plain",
        request=b"column z: complex has no JSON form",
        response=b'{"predictions": [1]}',
        errors=["unencodable"],
    )
    with pytest.raises(Undecodable, match=r"has no form in JSON. column z: complex has no JSON form.$") as raised:
        decode(said)
    assert raised.value.code == "unencodable"
