"""Streams of rows in which nothing changes, of many kinds: real tables, ties, zeros, many features, categories."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pyarrow.parquet
from wine import ROOT, wine

Columns = dict[str, np.ndarray]
Sample = Callable[[int, np.random.Generator], Columns]

TABLES = ROOT.parent / "shared" / "data" / "estimate"
FEATURES = 12


def normal(rows: int, random: np.random.Generator) -> Columns:
    """Draw twelve independent features."""
    return {f"x{number:02}": random.normal(size=rows) for number in range(FEATURES)}


def wide(rows: int, random: np.random.Generator) -> Columns:
    """Draw 64 features of four shapes, which have a common part."""
    common = random.normal(size=rows)
    shapes = (lambda x: x, np.exp, np.abs, lambda x: x**3)
    return {f"x{at:02}": shapes[at % 4](0.5 * common + random.normal(size=rows)) for at in range(64)}


def ties(rows: int, random: np.random.Generator) -> Columns:
    """Draw numbers that repeat: rounded ones, counts, and zeros with a long tail beside them."""
    zeros = np.where(random.random(rows) < 0.9, 0.0, random.lognormal(2, 2, rows))
    return {
        "rounded": random.normal(size=rows).round(1),
        "counts": random.poisson(3.5, rows).astype(np.float64),
        "zeros": zeros,
        "missing": np.where(random.random(rows) < 0.2, np.nan, random.normal(size=rows)),
        "steps": random.choice([0.0, 10.0, 25.0, 50.0, 99.9], rows, p=[0.5, 0.2, 0.15, 0.1, 0.05]),
    }


def categories(rows: int, random: np.random.Generator) -> Columns:
    """Draw categories of two to 2,000 values, evenly and with many that are rare."""
    found = {}
    for values in (2, 5, 20, 200, 2000):
        shares = 1 / np.arange(1, values + 1)
        found[f"even{values}"] = np.char.add("a", random.integers(0, values, rows).astype(str))
        found[f"rare{values}"] = np.char.add("b", random.choice(values, rows, p=shares / shares.sum()).astype(str))
    return found


@functools.cache
def _table(name: str) -> Columns:
    table = pyarrow.parquet.read_table(TABLES / f"{name}_reference.parquet").drop_columns(["id", "timestamp"])
    return {column: table[column].to_numpy() for column in table.column_names}


def _of_table(name: str, rows: int, random: np.random.Generator) -> Columns:
    columns = _table(name)
    places = random.integers(0, len(next(iter(columns.values()))), rows)
    return {column: values[places] for column, values in columns.items()}


def streams() -> dict[str, Sample]:
    """Return the streams by name; real tables only where they lie beside the repository."""
    found: dict[str, Sample] = {
        "twelve normal": normal,
        "wine": wine().sample,
        "ties and zeros": ties,
        "64 features": wide,
        "categories": categories,
    }
    for name in ("used_cars", "work_home"):
        if (TABLES / f"{name}_reference.parquet").exists():
            found[name.replace("_", " ")] = functools.partial(_of_table, name)
    return found
