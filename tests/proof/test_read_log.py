"""Spark reads the rows that Mooring does."""

from __future__ import annotations

from pathlib import Path

import pytest

import mooring
from written_logs import in_order, log_of_days


@pytest.fixture
def log(tmp_path) -> Path:
    return log_of_days(tmp_path)


def test_spark_reads_the_same_rows(log):
    sql = pytest.importorskip("pyspark.sql", reason="Spark is not here: pip install 'mooring[spark]'")
    session = (
        sql.SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.session.timeZone", "UTC")
        .getOrCreate()
    )
    try:
        frame = session.read.option("mergeSchema", "true").parquet(str(log / "inferences"))
        rows = [row.asDict(recursive=True) for row in frame.orderBy("time", "row").collect()]
    finally:
        session.stop()
    ours = in_order(mooring.read_log(log), "time", "row")
    assert [(row["request_id"], row["row"], row["input"], row["output"]) for row in rows] == [
        (row["request_id"], row["row"], row["input"], row["output"]) for row in ours
    ]
    assert {row["model"] for row in rows} == {"wine"}
