"""A table of many kinds of columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 5000


def table() -> pa.Table:
    random = np.random.default_rng(0)
    return pa.table(
        {
            "amount": pa.array(random.normal(size=ROWS), mask=random.random(ROWS) < 0.1),
            "count": random.integers(0, 9, ROWS),
            "store": pa.array([f"store {number}" for number in random.integers(0, 12, ROWS)]),
            "member": random.random(ROWS) < 0.3,
        }
    )


def as_parquet(directory: Path, data: pa.Table) -> Path:
    pq.write_table(data, directory / "data.parquet", row_group_size=700)
    return directory / "data.parquet"
