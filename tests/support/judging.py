"""Columns to judge, some of them like those of wines, and windows of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from mooring.drift.baseline import Baseline
from mooring.drift.judge import AlarmRules
from mooring.drift.profile import Profile, profile

Columns = dict[str, object]
BARE = AlarmRules(floors=False)


def arrow(columns: Columns) -> dict[str, pa.Array]:
    return {name: pa.array(values) for name, values in columns.items()}


def window(baseline: Baseline, columns: Columns, request_rows: int = 1) -> Profile:
    table = pa.table(arrow(columns))
    table = table.append_column("request_rows", pa.array(np.full(len(table), request_rows)))
    return profile([table], baseline.grids, request_rows="request_rows")


def wine_like(random: np.random.Generator, rows: int, shift: float = 0.0) -> Columns:
    base = random.normal(size=rows)
    return {
        "alcohol": base + 0.3 * random.normal(size=rows) + shift,
        "acid": np.round(random.lognormal(size=rows), 1),
        "kind": random.choice(["white", "red", "rosé"], rows, p=[0.7, 0.2, 0.1]),
        "grape": np.char.add("g", random.zipf(1.6, rows).astype(str)),
    }
