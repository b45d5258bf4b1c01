"""How often the judgement alarms when nothing has changed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from scipy import stats

from mooring.drift.baseline import Baseline, make
from mooring.drift.judge import Rules, judge
from mooring.drift.profile import Profile, profile

Columns = dict[str, object]
BARE = Rules(floors=False)


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


def test_chance_is_uniform_when_nothing_has_changed() -> None:
    random = np.random.default_rng(1)
    found = []
    for seed in range(240):
        baseline = make(arrow({"x": np.round(random.exponential(size=200), 1)}))
        sample = window(baseline, {"x": np.round(random.exponential(size=60), 1)})
        found.append(judge(baseline, [sample], BARE, seed=seed).chance)
    for level in (0.05, 0.2, 0.5):
        hits = sum(chance <= level for chance in found)
        assert stats.binom.ppf(1e-7, len(found), level * 0.7) <= hits <= stats.binom.isf(1e-7, len(found), level)


def test_an_unchanged_window_seldom_alarms_whatever_it_holds() -> None:
    random = np.random.default_rng(2)
    alarms = 0
    for seed in range(40):
        baseline = make(arrow(wine_like(random, 1000)))
        windows = [window(baseline, wine_like(random, 150)) for _ in range(4)]
        alarms += bool(judge(baseline, windows, BARE, seed=seed).alarms)
    assert alarms <= 3  # each has a chance of 1 in 1,000, so four of 40 have 1 in 10 million
