"""Logs of some days, written through a spool and a drain."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from mooring.exchange import Exchange, encode
from mooring.ids import new_request_id
from mooring.log.drain import Drain
from mooring.settings import LogSettings
from mooring.spool import SpoolWriter, live_writers

DOCS = Path(__file__).parents[2] / "docs"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def exchange(rows: Sequence[dict[str, Any]], predictions: Sequence[Any], *, at: datetime = NOON, **further: Any):
    """Return an exchange in which `rows` were asked and `predictions` answered."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    data = [[row.get(name) for name in columns] for row in rows]
    time_ns = int(at.timestamp()) * 10**9 + at.microsecond * 1000
    return Exchange(
        request_id=new_request_id(time_ns),
        time_ns=time_ns,
        request=json.dumps({"dataframe_split": {"columns": columns, "data": data}}).encode(),
        response=json.dumps({"predictions": list(predictions)}).encode(),
        **{"model": "wine", **further},
    )


def write(log: str | Path, spool: Path, *segments: Iterable[Exchange]) -> None:
    """Put exchanges into a log, through a spool and the drain; each of `segments` makes its own objects."""
    writer = SpoolWriter(spool, segment_seconds=0)
    for segment in segments:
        writer.append([encode(one) for one in segment])
    writer.close()
    live_writers(spool)
    Drain(LogSettings(log=str(log), spool=str(spool))).once()
    assert not list(spool.glob("*/*.segment"))


def days(count: int = 3, **further: Any) -> list[list[Exchange]]:
    """Return a segment for each day from NOON on; that of each day but the first has a field more."""
    return [
        [
            exchange(
                [
                    {"pH": number + day / 10, "name": "a,b", **({"sweet": True} if day else {})}
                    for number in range(2)
                ],
                [number + 10 * day for number in range(2)],
                at=NOON + day * DAY,
                version=str(day),
                **further,
            )
        ]
        for day in range(count)
    ]


def log_of_days(directory: Path) -> Path:
    """Write a log of three days into a directory; ROWS are its rows, flat."""
    write(directory / "log", directory / "spool", *days())
    return directory / "log"


ROWS = [
    {"prediction": number + 10.0 * day, "pH": number + day / 10, "name": "a,b", "sweet": True if day else None}
    for day in range(3)
    for number in range(2)
]


def in_order(table: pa.Table, *keys: str) -> list[dict[str, Any]]:
    return table.sort_by([(key, "ascending") for key in keys]).to_pylist()
