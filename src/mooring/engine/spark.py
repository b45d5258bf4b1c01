"""Profiles computed on Spark, on whatever cluster its configuration names, Spark Connect included.

Each partition's rows become a profile where they are, by the same function as in this process; only these travel,
and the driver adds them. The executors need Mooring installed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa

from mooring.drift.baseline import Baseline, profile_from_bytes, profile_to_bytes
from mooring.drift.profile import Profile, empty, profile
from mooring.engine.local import of_inputs_alone

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

OWN = ("request_rows", "misfits")
"""Columns of the log that a profile heeds and that are no features."""
UNANSWERED = "unanswered"


def profile_of(
    frame: DataFrame, baseline: Baseline, *, request_rows: str | None = None, misfits: str | None = None
) -> Profile:
    """Return the profile of a Spark DataFrame on the grids of a baseline, as `mooring.engine.local` does.

    Raises what Spark raises.
    """
    grids = baseline.grids
    found = empty(grids)
    names = frame.columns
    plain = frame.toDF(*(f"c{number}" for number in range(len(names))))  # Spark parses names: dots mean fields
    run = _per_partition(baseline.to_bytes(), names, request_rows, misfits)
    rows = plain.mapInArrow(run, "profile binary")
    for row in rows.toLocalIterator():
        found += profile_from_bytes(bytes(row.profile))
    return found


def profile_of_objects(
    spark: SparkSession,
    uri: str,
    objects: Sequence[str],
    baseline: Baseline,
    *,
    start: datetime,
    end: datetime,
    version: str | None,
    variant: str,
) -> Profile:
    """Return the profile of the rows of these objects of a log from `start` on and before `end`, of one stream.

    A stream is a version, None for rows that name none, and a variant.
    """
    paths = [f"{_spark_uri(uri)}/{name}" for name in objects]
    frame = spark.read.option("mergeSchema", "true").parquet(*paths)
    of_version = frame["model_version"].isNull() if version is None else frame["model_version"] == version
    frame = frame.where((frame["time"] >= start) & (frame["time"] < end) & of_version)
    frame = frame.where(frame["variant"] == variant)
    if UNANSWERED not in frame.columns:  # as older versions wrote them
        return _profile_of_rows(frame, baseline)
    answered = _profile_of_rows(frame.where(frame[UNANSWERED].isNull()), baseline)
    others = _profile_of_rows(frame.where(frame[UNANSWERED].isNotNull()), baseline)
    return answered + of_inputs_alone(others, baseline)


def _profile_of_rows(frame: DataFrame, baseline: Baseline) -> Profile:
    return profile_of(_flat(frame), baseline, request_rows=_own(OWN[0]), misfits=_own(OWN[1]))


def _flat(frame: DataFrame) -> DataFrame:
    """Return inferences with the flat names of `read_log(flat=True)`."""
    fields = {part: _fields(frame, part) for part in ("output", "input")}
    chosen = [frame[name].alias(_own(name)) for name in OWN]
    names = set(fields["output"])
    chosen += [frame["output"].getField(name).alias(name) for name in fields["output"]]
    for name in fields["input"]:
        flat = f"input.{name}" if name in names else name
        chosen.append(frame["input"].getField(name).alias(flat))
    return frame.select(*chosen)


def select(frame: DataFrame, columns: Collection[str]) -> DataFrame:
    """Return those columns of a DataFrame that it has, by their names as they are, dots in them too."""
    quoted = {name: "`" + name.replace("`", "``") + "`" for name in frame.columns}
    return frame.select(*[quoted[name] for name in frame.columns if name in columns])


def _fields(frame: DataFrame, part: str) -> list[str]:
    if part not in frame.columns:
        return []
    fields: list[str] = frame.schema[part].dataType.fieldNames()
    return fields


def _own(name: str) -> str:
    return f".{name}"


def _spark_uri(uri: str) -> str:
    """Return a log's URI as Hadoop's file systems have it.

    >>> _spark_uri("s3://bucket/log/"), _spark_uri("az://container/log")
    ('s3a://bucket/log', 'abfss://container/log')
    """
    scheme, colon, rest = uri.rstrip("/").partition("://")
    if not colon:
        return unquote(uri.rstrip("/"))
    return f"{ {'s3': 's3a', 'az': 'abfss'}.get(scheme, scheme) }://{rest}"


def _per_partition(
    baseline: bytes, names: list[str], request_rows: str | None, misfits: str | None
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        grids = Baseline.from_bytes(baseline).grids
        named = (batch.rename_columns(names) for batch in batches)
        found = profile(named, grids, request_rows=request_rows, misfits=misfits)
        if found.rows:
            yield pa.RecordBatch.from_pydict({"profile": pa.array([profile_to_bytes(found)], pa.binary())})

    return run
