"""Any table gives the same profile, whatever it is made of and however it is stored."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from engine_tables import ROWS, as_parquet, table
from mooring.drift.baseline import make
from mooring.engine import sources
from mooring.engine.local import profile_of
from mooring.engine.sources import SourceError, batches, columns


def as_directory(directory: Path, data: pa.Table) -> Path:
    for number in range(5):
        path = directory / "parts" / f"day={number}" / f"{number}.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(data.slice(number * 1000, 1000), path)
    (directory / "parts" / "_SUCCESS").touch()
    return directory / "parts"


def as_csv(directory: Path, data: pa.Table) -> Path:
    data.to_pandas().to_csv(directory / "data.csv", index=False)
    return directory / "data.csv"


def as_lines(directory: Path, data: pa.Table) -> str:
    path = directory / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in data.to_pylist()))
    return str(path)


SOURCES = {
    "pyarrow table": lambda directory, data: data,
    "pyarrow reader": lambda directory, data: pa.RecordBatchReader.from_batches(data.schema, data.to_batches(777)),
    "pyarrow dataset": lambda directory, data: ds.dataset(as_parquet(directory, data)),
    "pandas": lambda directory, data: data.to_pandas(),
    "pandas with categories": lambda directory, data: data.to_pandas().astype({"store": "category"}),
    "pandas of Arrow": lambda directory, data: data.to_pandas(types_mapper=pd.ArrowDtype),
    "polars": lambda directory, data: pl.from_arrow(data),
    "lazy polars": lambda directory, data: pl.from_arrow(data).lazy(),
    "mapping of lists": lambda directory, data: data.to_pydict(),
    "mapping of arrays": lambda directory, data: {name: data[name].to_numpy() for name in data.column_names},
    "rows": lambda directory, data: data.to_pylist(),
    "parquet": as_parquet,
    "directory of parquet": as_directory,
    "csv": as_csv,
    "lines of json": as_lines,
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_profile_and_the_same_baseline(source, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "BATCH_ROWS", 999)
    data = table()
    expected = make({name: data[name] for name in data.column_names})
    given = SOURCES[source]
    made = make(columns(given(new(tmp_path, "a"), data)))
    assert made.digest == expected.digest
    found = profile_of(given(new(tmp_path, "b"), data), expected)
    wanted = profile_of(data, expected)
    assert found.rows == ROWS
    for name, feature in found.features.items():
        assert feature.unusable == wanted.features[name].unusable
        assert feature.values.counts.tolist() == wanted.features[name].values.counts.tolist()
    assert not found.unknown


def new(directory: Path, name: str) -> Path:
    (directory / name).mkdir()
    return directory / name


def test_a_file_is_read_in_batches_and_only_the_columns_that_are_wanted(tmp_path):
    path = as_parquet(tmp_path, pa.concat_tables([table()] * 60))
    read = list(batches(path, ["store", "amount", "elsewhere"]))
    assert [batch.schema.names for batch in read] == [["amount", "store"]] * 5
    assert max(batch.num_rows for batch in read) == sources.BATCH_ROWS
    assert [name for name, _ in columns(path, ["store", "count"])] == ["store", "count"]


def test_categories_come_as_dictionaries_from_parquet_where_they_are_text(tmp_path):
    path = as_parquet(tmp_path, table())
    batch = next(batches(path, categories=["store", "count", "elsewhere"]))
    assert pa.types.is_dictionary(batch.schema.field("store").type)
    assert batch.schema.field("count").type == pa.int64()


def test_files_of_a_directory_may_lack_columns_and_differ_in_type(tmp_path):
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": [1.5], "y": ["new"]}), tmp_path / "b.parquet")
    found = dict(columns(tmp_path))
    assert found["x"].to_pylist() == [1.0, 2.0, 1.5]
    assert found["y"].to_pylist() == [None, None, "new"]


def test_what_pandas_has_and_arrow_has_not_becomes_text():
    frame = pd.DataFrame({"mixed": [1, "high", None], "huge": [2**70, 1, 2], "complex": [1j, 2, 3], 5: [1, 2, 3]})
    found = {name: column.to_pylist() for name, column in columns(frame)}
    assert found["mixed"] == ["1", "high", None]
    assert found["huge"] == [str(2**70), "1", "2"]
    assert found["5"] == [1, 2, 3]


def test_an_array_has_the_names_that_a_server_gives_it():
    assert [name for name, _ in columns(np.zeros((3, 2)))] == ["0", "1"]
    assert [name for name, _ in columns(np.zeros(3))] == ["value"]
    assert [name for name, _ in columns(pd.Series([1.0], name="price"))] == ["price"]


def test_timestamps_of_pandas_keep_their_zone():
    frame = pd.DataFrame({"t": pd.to_datetime(["2024-01-01T00:30"]).tz_localize("Europe/Berlin")})
    baseline = make(columns(frame))
    assert profile_of(frame, baseline).features["t"].values.hours[23] == 1
    assert profile_of({"t": [datetime(2023, 12, 31, 23, 5)]}, baseline).features["t"].values.hours[23] == 1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (5, "int is no table"),
        ("nowhere.parquet", "there is no file nowhere.parquet"),
        ({"a": [1], "b": [1, 2]}, "not of one length: a: 1, b: 2"),
        (np.array(5), "a single value is no table"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "the same name: a"),
    ],
)
def test_what_is_no_table_is_said_so(data, says):
    with pytest.raises(SourceError, match=says):
        list(columns(data))
    with pytest.raises(SourceError, match=says):
        list(batches(data))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("cut.parquet", b"PAR1 no more", "cut.parquet can't be read.*write it anew"),
        ("empty.csv", b"", "can't be read as CSV"),
        ("ragged.csv", b"a,b\n1,2\n1,2,3\n", "can't be read as CSV.*got 3"),
        ("lines.jsonl", b'{"a": 1}\n{"a": "x"}\n', "can't be read as lines of JSON"),
        ("data.xlsx", b"PK", "told by its name"),
    ],
)
def test_a_file_that_cant_be_read_is_named_with_what_to_do(name, content, says, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=says):
        list(batches(tmp_path / name))
    with pytest.raises(SourceError, match=says):
        list(columns(tmp_path / name))


def test_a_directory_without_parquet_and_a_column_that_is_not_there_are_said(tmp_path):
    with pytest.raises(SourceError, match=r"no \.parquet files"):
        list(columns(tmp_path))
    with pytest.raises(SourceError, match="no column pH; it has: amount"):
        list(columns(as_parquet(tmp_path, table()), ["pH"]))
    with pytest.raises(SourceError, match="no column pH; there is: amount"):
        list(columns(table(), ["pH"]))
