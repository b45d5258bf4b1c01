"""What the benchmarks of alarms share: windows of the wine file, intervals, and how far they are."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.csv
from scipy import stats

from mooring.drift import baseline as baselines
from mooring.drift.profile import Profile, profile

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "data" / "wine-quality-white.csv"
SAMPLE = ROOT / "src" / "mooring" / "demo" / "wine_synthetic.csv"
REFERENCE = 3000
CONSECUTIVE = 16
BUDGETS = (0.05, 0.01, 0.001)

Item = TypeVar("Item")


class Wine(NamedTuple):
    """The file's numeric columns, and the standard deviation of each."""

    columns: dict[str, np.ndarray]
    deviations: dict[str, float]

    def sample(self, rows: int, random: np.random.Generator, categories: bool = True) -> dict[str, np.ndarray]:
        """Draw rows with replacement, and categoricals of 20 and 2,000 values beside them."""
        places = random.integers(0, len(next(iter(self.columns.values()))), rows)
        drawn = {name: values[places] for name, values in self.columns.items()}
        if categories:
            drawn["twenty"] = np.char.add("a", random.integers(0, 20, rows).astype(str))
            drawn["many"] = np.char.add("b", random.integers(0, 2000, rows).astype(str))
        return drawn


@functools.cache
def wine() -> Wine:
    """Read the file, real or the project's own."""
    path = REAL if REAL.exists() else SAMPLE
    separator = ";" if ";" in path.open().readline() else ","
    table = pyarrow.csv.read_csv(path, parse_options=pyarrow.csv.ParseOptions(delimiter=separator))
    columns = {
        name: table[name].to_numpy().astype(np.float64)
        for name in table.column_names
        if name not in ("quality", "is_red")
    }
    return Wine(columns, {name: float(np.std(values)) for name, values in columns.items()})


def made(columns: dict[str, np.ndarray]) -> baselines.Baseline:
    """Return the baseline of columns."""
    return baselines.make({name: pa.array(values) for name, values in columns.items()})


def profiled(columns: dict[str, np.ndarray], baseline: baselines.Baseline) -> Profile:
    """Return the profile of columns."""
    return profile([pa.table({name: pa.array(values) for name, values in columns.items()})], baseline.grids)


def interval(hits: Sequence[Sequence[bool]], design: float | None = None) -> tuple[float, float, float, float]:
    """Return the share of hits, its 95 % interval, and the design effect, of runs that are not independent within.

    Windows of a run share a baseline, so they count for fewer: the interval is that of Clopper and Pearson for
    as many as they are worth (Korn and Graubard 1998). `design` is the effect to take where there are too few hits
    to tell.
    """
    windows, total = sum(map(len, hits)), sum(map(sum, hits))
    share, runs = total / windows, len(hits)
    if design is None or total >= 10:
        excess = sum((sum(run) - share * len(run)) ** 2 for run in hits) / windows**2 * runs / max(runs - 1, 1)
        # Of none at all nothing is known: a run may be worth no more than one window.
        design = max(1.0, excess / (share * (1 - share) / windows)) if 0 < share < 1 else windows / runs
    worth = windows / design
    low = float(stats.beta.ppf(0.025, share * worth, worth - share * worth + 1)) if total else 0.0
    high = float(stats.beta.ppf(0.975, share * worth + 1, worth - share * worth)) if total < windows else 1.0
    return share, low, high, design


def percent(share: float, low: float, high: float) -> str:
    """Return a share with its interval."""
    return f"{share:.2%} ({low:.2%}–{high:.2%})" if share < 0.1 else f"{share:.0%} ({low:.0%}–{high:.0%})"


def progress(items: Iterable[Item], count: int, what: str) -> Iterator[Item]:
    """Yield items, and say on stderr how far it is."""
    started = last = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last > 15 or number == count:
            last = now
            print(f"{what}: {number} of {count} after {now - started:.0f} s", file=sys.stderr, flush=True)
