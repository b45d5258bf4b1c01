"""The signature of each version is asked for once, kept in the log, and decides how its requests are read."""

from __future__ import annotations

import json

import mlflow.pyfunc.scoring_server  # noqa: F401  # as it is imported, it looks whether there is IPv6
import pyarrow.parquet as pq
import pytest

from mooring.exchange import Exchange
from mooring.ids import new_request_id
from mooring.log import signature as signatures
from mooring.log.parquet import ParquetLog
from mooring.log.signature import Signature
from mooring.registry.client import TrackingError

OF = {
    "1": Signature([{"name": "zip", "type": "long", "required": True}], None),
    "2": Signature([{"name": "zip", "type": "string", "required": True}], None),
    "3": Signature(None, None),
}


class Registry:
    """Knows three versions of `wine`, and counts what it is asked. It may be silent."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.silent = False

    def __call__(self, model: str, version: str | None) -> Signature | None:
        self.asked.append((model, version))
        if self.silent:
            raise TrackingError("MLflow does not answer")
        return OF.get(version or "2") if model == "wine" else None


def exchange(cell: object, version: str | None, model: str = "wine") -> Exchange:
    request = json.dumps({"dataframe_records": [{"zip": cell}]}).encode()
    return Exchange(
        request_id=new_request_id(),
        time_ns=0,
        request=request,
        response=b'{"predictions": [1]}',
        model=model,
        version=version,
    )


def zips(directory, name: str) -> list[tuple[object, object]]:
    [path] = directory.glob(f"inferences/*/*/{name}.parquet")
    return [
        (row["input"]["zip"], json.loads(row["misfits"] or "{}"))
        for row in pq.ParquetFile(path).read().to_pylist()
    ]


def test_a_version_is_asked_for_once_and_its_signature_is_in_the_log(tmp_path):
    registry = Registry()
    log = ParquetLog(str(tmp_path), registry)
    log.write("a", [exchange("00501", "2"), exchange("10115", "2")])
    log.write("b", [exchange("7", "2")])
    ParquetLog(str(tmp_path), registry).write("c", [exchange(8, "2")])
    assert registry.asked == [("wine", "2")]
    assert zips(tmp_path, "a") == [("00501", {}), ("10115", {})]
    assert zips(tmp_path, "c") == [("8", {"input": {"zip": 8}})]
    assert [path.name for path in tmp_path.glob("schemas/model=wine/v*")] == ["version-2.json"]


def test_each_version_has_casts_of_its_own(tmp_path):
    registry = Registry()
    log = ParquetLog(str(tmp_path), registry)
    log.write("a", [exchange("7", "1"), exchange(5.7, "1"), exchange(9, "3")])
    assert zips(tmp_path, "a") == [(7.0, {"input": {"zip": "7"}}), (5.0, {"input": {"zip": 5.7}}), (9.0, {})]
    # The field stays a number, and what version 2 was given has no place in it.
    log.write("b", [exchange("00501", "2")])
    assert zips(tmp_path, "b") == [(None, {"input": {"zip": "00501"}})]
    assert sorted(registry.asked) == [("wine", "1"), ("wine", "2"), ("wine", "3")]


@pytest.mark.parametrize("version", [None, "", "v2-rc", "²"])
def test_what_names_no_version_of_mlflow_is_read_by_the_newest(tmp_path, version):
    registry = Registry()
    ParquetLog(str(tmp_path), registry).write("a", [exchange("00501", version)])
    assert zips(tmp_path, "a") == [("00501", {})]
    assert registry.asked == [("wine", None)]
    assert len(list(tmp_path.glob("schemas/model=wine/newest-*.json"))) == 1


def test_where_mlflow_is_silent_rows_are_kept_as_they_came_and_it_is_asked_again(tmp_path, monkeypatch):
    registry = Registry()
    registry.silent = True
    log = ParquetLog(str(tmp_path), registry)
    log.write("a", [exchange(7, "1"), exchange(7, "2", model="beer")])
    log.write("b", [exchange(5.7, "1")])
    assert registry.asked == [("wine", "1")]  # each would take as long
    assert zips(tmp_path, "b") == [(5.7, {})]

    monkeypatch.setattr(signatures, "_ASK_AGAIN_SECONDS", (0.0, 0.0))
    log = ParquetLog(str(tmp_path), registry)
    log.write("c", [exchange(5.7, "1")])
    registry.silent = False
    log.write("d", [exchange(5.7, "1")])
    assert zips(tmp_path, "c") == [(5.7, {})]
    assert zips(tmp_path, "d") == [(5.0, {"input": {"zip": 5.7}})]


def test_what_mlflow_does_not_know_is_not_asked_for_again_at_once(tmp_path):
    registry = Registry()
    log = ParquetLog(str(tmp_path), registry)
    for name in "abc":
        log.write(name, [exchange(7, "2", model="beer")])
    assert registry.asked == [("beer", "2")]
    assert not list(tmp_path.glob("schemas/model=beer/version*"))


def test_what_names_no_model_is_never_asked_for(tmp_path):
    registry = Registry()
    ParquetLog(str(tmp_path), registry).write("a", [exchange(7, "2", model="")])
    assert registry.asked == []


def test_the_schema_of_an_older_log_is_still_read(tmp_path):
    place = tmp_path / "schemas" / "model=wine"
    place.mkdir(parents=True)
    (place / "000001.json").write_text('{"input": [["zip", "string"]], "output": [["prediction", "double"]]}')
    ParquetLog(str(tmp_path), Registry()).write("a", [exchange("00501", "2")])
    assert zips(tmp_path, "a") == [("00501", {})]
