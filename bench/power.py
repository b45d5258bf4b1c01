"""Which changes are found in one window, beside the tests of others at an equal rate of false alarms.

    python bench/power.py [--quick] [--replicates 40]

Takes about half an hour on two cores and writes its part of docs/benchmarks.md. With --quick it takes a few
minutes and prints the tables alone, which are good to about eleven points.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
from report import machine, save
from scipy import stats
from wine import made, profiled, progress, wine

from mooring.drift.judge import AlarmRules, Family
from mooring.drift.statistics import FeatureNull

CHANGES = (
    "mean + 0.05 sd",
    "mean + 0.1 sd",
    "mean + 0.2 sd",
    "mean + 0.5 sd",
    "variance × 1.2",
    "0.5 % of values 5 sd off",
    "0.5 % of values 10 sd off",
    "0.5 % of values 10,000 sd off",
    "1 % of values 5 sd off",
    "1 % of values 10 sd off",
    "1 % of values 10,000 sd off",
    "missing 5 % → 8 %",
    "missing 30 % → 36 %",
    "1 % of a new category",
    "5 points from one category to another",
)
CELLS = [(reference, rows) for reference in (1000, 3000, 20_000) for rows in (200, 1000)]
WATCHED = ((12, 0.05), (12, 0.01), (64, 0.05))
"""How many features are watched, and how often any of them may alarm by chance."""
MISSING = {"fixed acidity": 0.05, "volatile acidity": 0.3}
BEHIND = 0.1 + 1e-9
BANK = 400

Columns = dict[str, np.ndarray]
Shares = dict[tuple[int, float], dict[str, list[str]]]
"""What is shown of each change, column by column, by how many features are watched and at what rate."""


class Found(NamedTuple):
    """What is found of a feature: our chance of each question about it, and by what tests of others how much."""

    ours: list[float]
    others: dict[str, float]


@functools.cache
def deviations() -> dict[str, float]:
    """Return the standard deviation of each number: nine of the wine file, a normal and a lognormal one."""
    known = dict(list(wine().deviations.items())[:9])
    return known | {"normal": 1.0, "lognormal": math.sqrt((math.e - 1) * math.e)}


def usual(rows: int, random: np.random.Generator) -> Columns:
    """Return rows of twelve features in which nothing has changed, the numbers and a category of 20 values."""
    places = random.integers(0, len(next(iter(wine().columns.values()))), rows)
    columns = {name: wine().columns[name][places] for name in deviations() if name in wine().columns}
    columns |= {"normal": random.normal(size=rows), "lognormal": random.lognormal(size=rows)}
    for name, share in MISSING.items():
        columns[name] = np.where(random.random(rows) < share, np.nan, columns[name])
    return columns | {"twenty": np.char.add("a", random.integers(0, 20, rows).astype(str))}


def changed(what: str, columns: Columns, random: np.random.Generator, seed: int) -> Columns:
    """Return the feature that changes, changed; of numbers another one each time."""
    complete = [name for name in deviations() if name not in MISSING]
    name = complete[seed % len(complete)]
    values, deviation = columns[name], deviations()[name]
    some = random.random(len(values))
    match what.replace(",", "").split():
        case ["mean", "+", by, _]:
            return {name: values + float(by) * deviation}
        case ["variance", _, by]:
            middle = float(np.mean(values))
            return {name: middle + math.sqrt(float(by)) * (values - middle)}
        case [share, _, "of", "values", by, *_]:
            return {name: np.where(some < float(share) / 100, values + float(by) * deviation, values)}
        case ["missing", before, _, _, after, _]:
            share, more = float(before) / 100, float(after) / 100
            [lacking] = [one for one, usual_share in MISSING.items() if usual_share == share]
            return {lacking: np.where(some < (more - share) / (1 - share), np.nan, columns[lacking])}
        case ["1", "%", "of", "a", *_]:
            return {"twenty": np.where(some < 0.01, "new", columns["twenty"])}
        case _:  # a category of 1/20 becomes another
            return {"twenty": np.where(columns["twenty"] == "a0", "a1", columns["twenty"])}


def ours(name: str, reference: np.ndarray, current: np.ndarray, seed: int) -> list[float]:
    """Return the chance of each question about a feature: its values, and what is missing, if any ever is."""
    baseline = made({name: reference})
    window = profiled({name: current}, baseline)
    random = np.random.default_rng(seed)
    null = FeatureNull(baseline.features[name], [window.features[name]], [1], [float(window.rows)], random)
    family = Family(name, null, AlarmRules(floors=False))
    family.find(min(rate / features for features, rate in WATCHED))
    return family.p_values


def others(reference: np.ndarray, current: np.ndarray) -> dict[str, float]:
    """Return what other tests give of a feature, by what they are called: the larger the surer."""
    if reference.dtype.kind != "f":
        names, places = np.unique(np.concatenate([reference, current]), return_inverse=True)
        counts = [np.bincount(one, minlength=len(names)) for one in np.split(places, [len(reference)])]
        return {"χ²": surprise(counts), "JS": jensen_shannon(*counts)}
    lacking = [np.isnan(one) for one in (reference, current)]
    a, b = reference[~lacking[0]], current[~lacking[1]]
    edges = np.histogram_bin_edges(a, bins="doane")
    edges[0], edges[-1] = -np.inf, np.inf
    found = {
        "KS": -math.log(max(float(stats.ks_2samp(a, b, method="asymp").pvalue), 1e-300)),
        "Wasserstein": float(stats.wasserstein_distance(a, b) / np.std(a)),
        "JS": jensen_shannon(*(np.histogram(one, edges)[0] for one in (a, b))),
    }
    if lacking[0].any():
        found["χ² of missing"] = surprise([np.bincount(one.astype(int), minlength=2) for one in lacking])
    return found


def surprise(counts: Sequence[np.ndarray]) -> float:
    """Return -ln of the chance of two samples' counts by the chi-square test."""
    return -math.log(max(float(stats.chi2_contingency(counts, correction=False).pvalue), 1e-300))


def jensen_shannon(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Jensen-Shannon distance of counts."""
    p, q = a / a.sum(), b / b.sum()
    middle = (p + q) / 2
    return math.sqrt(max(stats.entropy(p, middle) + stats.entropy(q, middle), 0.0) / 2)


def by_chance(cell: tuple[int, int], seed: int) -> dict[tuple[str, str], float]:
    """Return what tests of others give of each feature, by (feature, test), when nothing has changed."""
    random = np.random.default_rng([6, *cell, seed])
    reference, current = usual(cell[0], random), usual(cell[1], random)
    return {
        (name, test): value
        for name, values in current.items()
        for test, value in others(reference[name], values).items()
    }


def after(cell: tuple[int, int], seed: int) -> list[tuple[str, Found]]:
    """Return the feature that changed, and what is found of it, for each change."""
    random = np.random.default_rng([7, *cell, seed])
    reference, current = usual(cell[0], random), usual(cell[1], random)
    found = []
    for what in CHANGES:
        [(name, values)] = changed(what, current, random, seed).items()
        found.append((name, Found(ours(name, reference[name], values, seed), others(reference[name], values))))
    return found


class Method(NamedTuple):
    """What others do: which of their tests, and whether these have a limit by feature or one for all."""

    name: str
    tests: tuple[str, ...]
    by_feature: bool

    def limits(self, bank: Sequence[dict[tuple[str, str], float]], rate: float) -> dict[tuple[str, str], float]:
        """Return the limits of tests, so that any of the twelve features goes beyond its own at this rate."""
        values = {key: np.array([one[key] for one in bank]) for key in bank[0] if self._takes(*key)}
        scales = {
            key: float(np.quantile(of_it, 0.95)) if self.by_feature else 1.0 for key, of_it in values.items()
        }
        pooled = np.sort(np.concatenate([of_it / scales[key] for key, of_it in values.items()]))
        limit = float(pooled[-max(round(rate * len(bank)), 1)])
        return {key: limit * scale for key, scale in scales.items()}

    def finds(self, name: str, found: Found, limits: dict[tuple[str, str], float]) -> bool:
        """Whether it alarms for a feature."""
        return any(value >= limits[name, test] for test, value in found.others.items() if (name, test) in limits)

    def _takes(self, name: str, test: str) -> bool:
        return test in self.tests and not (test == "JS" and name != "twenty" and "Wasserstein" in self.tests)


METHODS = (
    Method("KS and χ²", ("KS", "χ²", "χ² of missing"), by_feature=False),
    Method("Wasserstein, as Evidently", ("Wasserstein", "JS"), by_feature=True),
    Method("Jensen–Shannon, as NannyML", ("JS",), by_feature=True),
)


def most_possible(what: str, cell: tuple[int, int], rate: float) -> float:
    """Return how often a change can be found by what holds for whatever distribution the values have.

    Where k odd values are all in the window, that is as probable as that all of them fall into it by chance.
    """
    share = {"0.5 % of v": 0.005, "1 % of val": 0.01, "1 % of a n": 0.01}.get(what[:10])
    if share is None:
        return 1.0
    reference, rows = cell
    enough = math.ceil(math.log(rate) / math.log(rows / (reference + rows)))
    return float(stats.binom.sf(enough - 1, rows, share))


def tables(pool: ProcessPoolExecutor, replicates: int, chances: int) -> Iterator[str]:
    """Yield the tables, one for each number of features and rate, after each of their columns."""
    shares: dict[tuple[int, float], dict[str, list[str]]] = {
        one: {what: [] for what in CHANGES} for one in WATCHED
    }
    features_here, questions = len(deviations()) + 1, len(deviations()) + 1 + len(MISSING)
    for done, cell in enumerate(CELLS, 1):
        told = f"{cell[0]:,} rows and {cell[1]:,}"
        bank = list(progress(pool.map(functools.partial(by_chance, cell), range(chances), chunksize=10),
                             chances, f"nothing changed, {told}"))  # fmt: skip
        found = list(progress(pool.map(functools.partial(after, cell), range(replicates)),
                              replicates, f"changed, {told}"))  # fmt: skip
        for (features, rate), cells in shares.items():
            share = rate * features_here / features
            limits = [method.limits(bank, share) for method in METHODS]
            for at, what in enumerate(CHANGES):
                here = [run[at] for run in found]
                own = float(np.mean([min(one.ours) <= share / questions for _, one in here]))
                best = max(
                    float(np.mean([method.finds(name, one, limit) for name, one in here]))
                    for method, limit in zip(METHODS, limits, strict=True)
                )
                most = most_possible(what, cell, share / questions)
                behind = "" if own >= best - BEHIND else " †" if own >= most - BEHIND else " **behind**"
                cells[what].append(f"{own:.0%} / {best:.0%}{behind}")
        yield text(shares, CELLS[:done], replicates)


def text(shares: Shares, cells: Sequence[tuple[int, int]], replicates: int) -> str:
    """Return the tables as Markdown."""
    columns = ["change", *(f"{reference:,} / {rows:,}" for reference, rows in cells)]
    parts = [TOLD.format(replicates=replicates, error=50 / math.sqrt(replicates))]
    for (features, rate), found in shares.items():
        lines = [columns, ["---"] * len(columns), *([what, *shown] for what, shown in found.items())]
        parts += [f"{features} features, rate {rate:g}:", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    return "\n\n".join(parts) + "\n"


TOLD = (
    "One feature changes from one window to the next, here a number of the wine file, a normal or a lognormal "
    "one, there a category of 20 values; two features lack 5 % and 30 % of their values. Cells are the share of "
    "{replicates} windows in which that feature alarms: by Mooring, floors off, and by the best of three others. "
    "These are Kolmogorov–Smirnov and χ² tests of values and of missing ones, the Wasserstein distance "
    "(categories: Jensen–Shannon), as Evidently takes it by default, and the Jensen–Shannon distance, as NannyML "
    "does, each of raw values, with limits set by simulation so that it alarms at this rate over all features. "
    "That takes data of which it is known that nothing has changed, and Mooring has none. Columns are rows of the "
    "baseline and of the window. **Behind** is more than 10 points less. A † says that it is, and why: odd values "
    "beyond all others, or of a new category, can by no test that holds for whatever distribution be surer than "
    "it is probable that all of them fall into the window by chance, about (n / (N + n))^k for k of them in n "
    "rows beside N, and Mooring finds as many as that allows. In windows that follow it adds up. "
    "The standard error of a cell is up to {error:.0f} points."
)


def main() -> None:
    """Run all, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repetitions, and nothing is written")
    parser.add_argument("--replicates", type=int, default=40, help="windows of each change")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    replicates, chances = (20, 200) if arguments.quick else (arguments.replicates, BANK)
    with ProcessPoolExecutor(arguments.processes) as pool:
        for found in tables(pool, replicates, chances):
            if not arguments.quick:
                save("power", "Drift that is found in a window", found + f"\n{machine()}\n")
    print(found)


if __name__ == "__main__":
    main()
