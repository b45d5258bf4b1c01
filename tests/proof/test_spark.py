"""Spark computes the profiles that this process does, on a cluster of its own and through Spark Connect.

Each runs in a process of its own: one process can hold one kind of Spark session.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mooring.comparison import compare
from mooring.drift.baseline import Baseline, make, profile_from_bytes
from mooring.drift.profile import CategoricalProfile, NumericProfile, Profile, profile
from mooring.engine.spark import _spark_uri
from mooring.exchange import Exchange
from mooring.ids import new_request_id
from mooring.log import reader
from mooring.log.parquet import ParquetLog
from waiting import PATIENCE

MODEL = "wine/white"
DAY = datetime(2026, 3, 1, tzinfo=UTC)

needs_spark = pytest.mark.skipif(
    importlib.util.find_spec("pyspark") is None or shutil.which("java") is None,
    reason="Spark needs pyspark, the extra `spark`, and a Java runtime",
)
needs_connect = pytest.mark.skipif(
    importlib.util.find_spec("grpc") is None, reason="Spark Connect needs grpcio: pip install 'pyspark[connect]'"
)

RUN = """
import json
import sys
from datetime import datetime
from pathlib import Path
from pyspark.sql import SparkSession
from mooring.comparison import compare
from mooring.drift.baseline import Baseline, profile_to_bytes
from mooring.engine import spark as engine

kind, log, directory = sys.argv[1:]
builder = SparkSession.builder.config("spark.ui.enabled", "false").config("spark.driver.host", "127.0.0.1")
builder = builder.config("spark.sql.warehouse.dir", directory)
session = (builder.remote("local[2]") if kind == "connect" else builder.master("local[2]")).getOrCreate()
baseline = Baseline.from_bytes(Path(directory, "baseline").read_bytes())
for number, part in enumerate(json.loads(Path(directory, "parts").read_text())):
    span = {name: datetime.fromisoformat(part.pop(name)) for name in ("start", "end")}
    found = engine.profile_of_objects(session, log, baseline=baseline, **part, **span)
    Path(directory, f"profile-{number}").write_bytes(profile_to_bytes(found))
frame = session.read.parquet(str(Path(directory, "flat.parquet")))
columns = ["pH", "input.prediction", "prediction"]
Path(directory, "compared").write_text(repr(compare(baseline, frame, columns=columns)))
session.stop()
"""


def exchanges(segment: int) -> list[Exchange]:
    random = np.random.default_rng(segment)
    found = []
    for number in range(150):
        rows = int(random.integers(1, 5))
        inputs = [
            {
                "pH": None if random.random() < 0.1 else float(random.normal(3.2, 0.2)),
                "sugar": float(np.exp(random.normal())) if segment == 0 or random.random() > 0.02 else "much",
                "store": f"store {random.integers(0, 6 + segment)}",
                "organic": bool(random.random() < 0.3),
                "prediction": float(number),
            }
            | ({"late": float(number)} if segment == 3 else {})
            for _ in range(rows)
        ]
        request = json.dumps({"dataframe_records": inputs}).encode()
        response = json.dumps({"predictions": random.normal(6, 1, rows).tolist()}).encode()
        received = DAY + timedelta(hours=20 * segment, seconds=number)
        found.append(
            Exchange(
                request_id=new_request_id(),
                time_ns=int(received.timestamp() * 1e9),
                request=request,
                response=response,
                model=MODEL,
                version=str(1 + segment // 2),
                variant="canary" if number % 10 == 0 else "champion",
            )
        )
    return found


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("log")
    log = ParquetLog(str(directory), lambda *_: None)
    for segment in range(4):
        log.write(f"segment-{segment}", exchanges(segment))
    return directory


@pytest.fixture(scope="module")
def baseline(log) -> Baseline:
    first = reader.read_log(log, model=MODEL, flat=True, end=DAY + timedelta(hours=1))
    return make({name: first[name] for name in first.column_names if name != "late"})


def in_this_process(log: Path, baseline: Baseline, variant: str, **part: object) -> Profile:
    found = reader.find(log, model=MODEL, **part)
    own = {name: (name,) for name in ("request_rows", "misfits", "variant")}
    tables = [table for _, table in reader.tables(found, own | reader.choose(found.schema, None, flat=True))]
    table = pa.concat_tables(tables)
    rows = table.filter(pc.equal(table["variant"], variant)).drop_columns("variant")
    return profile([rows], baseline.grids, request_rows="request_rows", misfits="misfits")


def assert_same(found: Profile, expected: Profile) -> None:
    assert (found.rows, found.weight, found.unknown) == (expected.rows, expected.weight, expected.unknown)
    for name, one in expected.features.items():
        other = found.features[name]
        assert (other.nulls, other.misfits, other.absent) == (one.nulls, one.misfits, one.absent)
        a, b = one.values, other.values
        assert a.counts.tolist() == b.counts.tolist()
        if isinstance(a, NumericProfile):
            assert isinstance(b, NumericProfile)
            assert (a.nans, a.infinities, a.minimum, a.maximum) == (b.nans, b.infinities, b.minimum, b.maximum)
            assert b.squares == pytest.approx(a.squares, rel=1e-12)
            assert abs(b.total - a.total) <= 1e-12 * np.sqrt(a.squares * a.values)
        if isinstance(a, CategoricalProfile):
            assert isinstance(b, CategoricalProfile)
            assert (a.new, a.more) == (b.new, b.more)


@needs_spark
@pytest.mark.parametrize("kind", ["classic", pytest.param("connect", marks=needs_connect)])
def test_spark_gives_the_profile_that_this_process_does(kind, log, baseline, tmp_path):
    streams = [(version, variant) for version in ("1", "2") for variant in ("champion", "canary")]
    whole = {"start": DAY, "end": DAY + timedelta(days=9)}
    parts = [{**whole, "version": version, "variant": variant} for version, variant in streams]
    parts.append({**parts[2], "start": DAY + timedelta(hours=41), "end": DAY + timedelta(hours=60, seconds=50)})
    objects = list(reader.find(log, model=MODEL).objects)
    flat = reader.read_log(log, model=MODEL, flat=True)
    (tmp_path / "baseline").write_bytes(baseline.to_bytes())
    (tmp_path / "parts").write_text(json.dumps([{**part, "objects": objects} for part in parts], default=str))
    pq.write_table(flat, tmp_path / "flat.parquet")
    environment = os.environ | {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    command = [sys.executable, "-c", RUN, kind, log, tmp_path]
    done = subprocess.run(
        [str(one) for one in command],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for number, part in enumerate(parts):
        found = profile_from_bytes((tmp_path / f"profile-{number}").read_bytes())
        assert found.rows
        assert_same(found, in_this_process(log, baseline, **part))
    columns = ["pH", "input.prediction", "prediction"]
    assert (tmp_path / "compared").read_text() == repr(compare(baseline, flat, columns=columns))


def test_the_address_of_a_log_becomes_sparks():
    assert _spark_uri("s3://bucket/log/") == "s3a://bucket/log"
    assert _spark_uri("gs://bucket/log") == "gs://bucket/log"
    assert _spark_uri("/data/my log/") == "/data/my log"
