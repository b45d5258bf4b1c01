"""Whether the chance that is fitted from few draws is right far out, beside the share of ten million draws."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from wine import REFERENCE, made, profiled, progress, wine

from mooring.drift.null import tail_p_value
from mooring.drift.statistics import FeatureNull

ROWS = 100
LEVELS = (1e-3, 1e-4, 1e-5, 1e-6)
FITTED = 4000
REPETITIONS = 200
_CHUNK = 50_000
_KEPT = 0.005

Random = np.random.Generator


def with_nulls(rows: int, random: Random) -> np.ndarray:
    """Draw a wine feature, which has ties, with 3 % nulls."""
    values = wine().sample(rows, random, False)["residual sugar"]
    return np.where(random.random(rows) < 0.03, np.nan, values)


def spiky(rows: int, random: Random) -> np.ndarray:
    """Draw values of which two in five are zero, the others rounded."""
    return np.where(random.random(rows) < 0.4, 0.0, np.round(random.lognormal(size=rows), 1))


def categories(count: int, rows: int, random: Random) -> np.ndarray:
    """Draw that many categories evenly."""
    return np.char.add("c", random.integers(0, count, rows).astype(str))


CASES: dict[str, Callable[[int, Random], np.ndarray]] = {
    "residual sugar, with nulls": with_nulls,
    "spiky": spiky,
    "20 categories": functools.partial(categories, 20),
    "2,000 categories": functools.partial(categories, 2000),
}


def null_of(case: str, seed: int) -> FeatureNull:
    """Return what draws a case's statistics, of one window."""
    random = np.random.default_rng(6)
    baseline = made({"x": CASES[case](REFERENCE, random)})
    window = profiled({"x": CASES[case](ROWS, random)}, baseline).features["x"]
    return FeatureNull(baseline.features["x"], [window], [1], [float(ROWS)], np.random.default_rng([7, seed]))


def largest_of(case: str, likely: np.ndarray, seed: int) -> tuple[int, np.ndarray]:
    """Draw, and return how many, and those that go beyond `likely` in some statistic."""
    drawn = null_of(case, seed).draw(_CHUNK)
    return len(drawn), drawn[(drawn > likely).any(axis=1)]


def ratios(case: str, far: np.ndarray, total: int, seed: int) -> np.ndarray:
    """Fit to few draws, and return fitted over true chance, an array (statistics and the largest, levels)."""
    null = null_of(case, 1_000_000 + seed)
    few = null.draw(FITTED)
    scores = null.scores(few)
    here = np.stack([score.of(few[:, at]) for at, score in enumerate(scores)], axis=1)
    there = np.stack([score.of(far[:, at]) for at, score in enumerate(scores)], axis=1)
    here, there = (np.column_stack([one, one.max(axis=1)]) for one in (here, there))
    found = np.full((here.shape[1], len(LEVELS)), np.nan)
    for at in range(here.shape[1]):
        ordered = np.sort(there[:, at])
        for place, level in enumerate(LEVELS):
            value = ordered[-max(round(level * total), 1)]
            true = np.count_nonzero(ordered >= value) / total
            if value > here[:, at].min() and true < 2 * level:
                found[at, place] = tail_p_value(here[:, at], float(value)) / true
    return found


def tail(pool: ProcessPoolExecutor, draws: int) -> str:
    """Return the table of ratios."""
    lines = [
        "| sample | measure | " + " | ".join(f"{level:g}" for level in LEVELS) + " |",
        "|---|---|" + "---|" * len(LEVELS),
    ]
    for case in CASES:
        null = null_of(case, 0)
        likely = np.quantile(null.draw(20_000), 1 - _KEPT, axis=0)
        chunks = max(draws // _CHUNK, 2)
        parts = list(progress(pool.map(functools.partial(largest_of, case, likely), range(1, chunks + 1)),
                              chunks, f"draws, {case}"))  # fmt: skip
        total, far = sum(count for count, _ in parts), np.concatenate([kept for _, kept in parts])
        found = np.array(list(pool.map(functools.partial(ratios, case, far, total), range(REPETITIONS))))
        names = [one.measure for one in null.statistics] + ["the largest score of these"]
        for at, name in enumerate(names):
            cells = [_cell(found[:, at, place]) for place in range(len(LEVELS))]
            if any(cell != "–" for cell in cells):
                lines.append(f"| {case} | {name} | " + " | ".join(cells) + " |")
                print(lines[-1], flush=True)
    return (
        f"The chance fitted to {FITTED:,} draws, divided by the share of {total:,}, of windows of {ROWS} rows: "
        f"the median of {REPETITIONS} fits, with the 10 % and 90 % points. Where a measure has no value of about "
        "such a chance there is a dash. Alarms rest on the last row of each sample.\n\n" + "\n".join(lines) + "\n"
    )


def _cell(found: np.ndarray) -> str:
    found = found[~np.isnan(found)]
    if not len(found):
        return "–"
    low, middle, high = np.quantile(found, [0.1, 0.5, 0.9])
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"
