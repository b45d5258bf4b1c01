"""Labels in a log, and the dataset of a retraining that is made of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from monitoring import START, Traffic
from mooring.exchange import Exchange
from mooring.log.labels import labels_table, read_labels, write_labels
from mooring.retrain.dataset import gather
from mooring.retrain.dataset.gather import Manifest

HOUR = timedelta(hours=1)
END = START + 24 * HOUR


def label(log: Path, labels: Sequence[tuple[str, int, Any]], seconds: float = 9_000) -> None:
    ids, rows, values = ([one[place] for one in labels] for place in range(3))
    times = pa.chunked_array([[START + timedelta(seconds=seconds)] * len(ids)])
    columns = (pa.chunked_array([column]) for column in (ids, values, rows))
    write_labels(str(log), "wine", labels_table(*columns, times))


def label_all(log: Path, exchanges: Sequence[Exchange], per_request: int = 10) -> None:
    """Label each row with ten times its alcohol."""
    label(
        log,
        [
            (one.request_id, row, 10 * values[0])
            for one in exchanges
            for row, values in enumerate(json.loads(one.request)["dataframe_split"]["data"])
        ],
    )


def all_labelled(directory: Path) -> Path:
    """Make a log of 400 rows in 40 requests, in two objects, all labelled."""
    traffic = Traffic(directory / "log")
    exchanges = traffic.exchanges(400, version="7")
    traffic.write(exchanges[:25])
    traffic.write(exchanges[25:])
    label_all(traffic.log, exchanges)
    return traffic.log


def make(log: Path, directory: Path, **others: Any) -> Manifest:
    return gather.make(
        str(log),
        "wine",
        directory,
        **{
            "ticket": "t-1",
            "start": START,
            "end": END,
            "holdout": 0.2,
            "min_labels": 20,
            "label": "quality",
            "seed": 1,
            **others,
        },
    )


def training(manifest: Manifest) -> pa.Table:
    return pq.read_table(manifest.training)


def holdout(manifest: Manifest) -> pa.Table:
    return pq.read_table(gather.open_holdout(Path(manifest.holdout).parents[1], manifest.holdout_digest))


def values(log: Path, model: str = "m") -> dict[tuple[str, int], float | str]:
    """Return the labels that count."""
    return {
        (row["request_id"], row["row"]): row["label"] if row["label_text"] is None else row["label_text"]
        for row in read_labels(str(log), model).table.to_pylist()
    }
