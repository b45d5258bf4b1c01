"""What passes the gate: challengers that are no real gain, and truly better ones.

    python bench/gate.py

Each trial has a champion, a challenger and a holdout of its own, all drawn anew. What the challenger is truly
better by is measured on rows that nobody else sees.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd
from report import machine, save
from scipy import stats
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from wine import REAL, progress

from mooring.performance.measures import evaluate, primary
from mooring.performance.scored import LabelledRows, scored_of
from mooring.retrain.evaluation.proof import better
from mooring.settings import GateSettings

HOLDOUTS = (100, 300, 1000, 3000)
TRAINING = 1000
JUDGES = 20_000
DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(GateSettings)}
BETTER_BY, CONFIDENCE = DEFAULTS["gate_better_by"], DEFAULTS["gate_confidence"]

Rows = tuple[np.ndarray, np.ndarray]


class Trial(NamedTuple):
    """By what share a challenger is truly better, and whether it passed at each holdout, also at no margin."""

    truly: float
    passed: list[bool]
    without: list[bool]


class Case(NamedTuple):
    """A champion's algorithm and a challenger's, on how many rows each is trained, and where rows are from."""

    name: str
    draw: Callable[[int, np.random.Generator], Rows]
    old: Callable[[], Any]
    new: Callable[[], Any]
    rows: int = TRAINING


def numbers(rows: int, random: np.random.Generator, noise: float = 0.7) -> Rows:
    """Draw rows of Friedman's first function, with 3 columns that mean nothing, scaled to a deviation of 1."""
    x = random.random((rows, 8))
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    return x, y / 4.9 + noise * random.standard_normal(rows)


def heavy(rows: int, random: np.random.Generator) -> Rows:
    """Draw the same with noise that has a few very large values."""
    x, y = numbers(rows, random, 0)
    return x, y + 0.5 * random.standard_t(3, rows)


def classes(rows: int, random: np.random.Generator) -> Rows:
    """Draw the same as two classes."""
    x, y = numbers(rows, random)
    return x, (y > 2.95).astype(int)


@functools.cache
def wines() -> Rows:
    """Read the real file."""
    table = pd.read_csv(REAL, sep=";" if ";" in REAL.open().readline() else ",")
    features = [name for name in table.columns if name not in ("quality", "is_red")]
    return table[features].to_numpy(), table["quality"].to_numpy(float)


def tree() -> DecisionTreeRegressor:
    """Return the example's algorithm."""
    return DecisionTreeRegressor(max_depth=6, max_leaf_nodes=32, random_state=0)


def forest() -> RandomForestRegressor:
    """Return a better one."""
    return RandomForestRegressor(20, min_samples_leaf=3, random_state=0)


def class_tree() -> DecisionTreeClassifier:
    """Return a tree of classes."""
    return DecisionTreeClassifier(max_depth=6, max_leaf_nodes=32, random_state=0)


SAME = (
    Case("a decision tree", numbers, tree, tree),
    Case("a decision tree, heavy tails", heavy, tree, tree),
    Case("a random forest", numbers, forest, forest),
    Case("linear regression", numbers, LinearRegression, LinearRegression),
    Case("a tree of classes, by accuracy", classes, class_tree, class_tree),
)
BETTER = (
    Case("a decision tree on 2 times the rows", numbers, tree, tree, 2 * TRAINING),
    Case("a decision tree on 8 times the rows", numbers, tree, tree, 8 * TRAINING),
    Case("a random forest for a decision tree", numbers, tree, forest),
    Case("a tree of classes on 8 times the rows", classes, class_tree, class_tree, 8 * TRAINING),
)


def tried(case: Case, seed: int) -> Trial:
    """Train both anew, and let the gate decide at each size of the holdout."""
    random = np.random.default_rng([7, seed])
    champion = case.old().fit(*case.draw(TRAINING, random))
    challenger = case.new().fit(*case.draw(case.rows, random))
    holdout, judges = case.draw(HOLDOUTS[-1], random), case.draw(JUDGES, random)
    pairs = [(scored(champion, rows), scored(challenger, rows)) for rows in (holdout, judges)]
    return decided(*pairs, seed)


def tried_on_wine(seed: int) -> Trial:
    """Do the same with the wine file: a champion, a challenger and a holdout of different wines."""
    x, y = wines()
    order = np.random.default_rng([8, seed]).permutation(len(y))
    parts = [(x[one], y[one]) for one in np.split(order[: 1800 + HOLDOUTS[-1]], [900, 1800])]
    models = [tree().fit(*rows) for rows in parts[:2]]
    pair = (scored(models[0], parts[2]), scored(models[1], parts[2]))
    return decided(pair, pair, seed)


def scored(model: Any, rows: Rows) -> LabelledRows:
    """Return what a model says of rows."""
    x, y = rows
    return scored_of(y, model.predict(x))


def decided(
    pair: tuple[LabelledRows, LabelledRows], judges: tuple[LabelledRows, LabelledRows], seed: int
) -> Trial:
    """Let the gate decide with more and more of the holdout."""
    metric = primary(pair[0])
    before, after = (evaluate(one)[metric] for one in judges)
    truly = (before - after if metric == "rmse" else after - before) / before
    found = []
    for size in HOLDOUTS:
        rows = np.arange(size)
        found.append(better(pair[0].only(rows), pair[1].only(rows), metric, CONFIDENCE, seed=seed))
    return Trial(truly, [one.by(BETTER_BY) for one in found], [one.by(0.0) for one in found])


def share(hits: list[bool]) -> str:
    """Return a share with its 95 % interval."""
    low, high = stats.binomtest(sum(hits), len(hits)).proportion_ci(0.95, "exact")
    return f"{sum(hits) / len(hits):.1%} ({low:.1%}–{high:.1%})"


def line(name: str, trials: list[Trial], what: Callable[[Trial, int], bool]) -> str:
    """Return a row of a table."""
    gains = np.quantile([trial.truly for trial in trials], [0.5, 0.1, 0.9])
    cells = [share([what(trial, at) for trial in trials]) for at in range(len(HOLDOUTS))]
    told = f"{gains[0]:+.1%} ({gains[1]:+.1%} to {gains[2]:+.1%})"
    return f"| {name} | {told} | {' | '.join(cells)} |"


def wrongly(trial: Trial, at: int) -> bool:
    """Return whether a challenger passed that is not better by what is asked for."""
    return trial.passed[at] and trial.truly < BETTER_BY


def through_mlflow(trials: int) -> str:
    """Let the real gate decide on registered models, and say how often it agrees with the rule alone."""
    import os

    import mlflow

    from mooring.retrain import gate
    from mooring.retrain.evaluation import records

    agreed = passed = 0
    broken: set[str] = set()
    with tempfile.TemporaryDirectory() as directory:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{directory}/mlflow.db"
        os.chdir(directory)
        settings = GateSettings(log=f"{directory}/none")
        for seed in range(trials):
            case = (SAME[0], BETTER[2])[seed % 2]
            random = np.random.default_rng([7, seed])
            names = [f"x{at}" for at in range(8)]
            versions = []
            for make, rows in ((case.old, TRAINING), (case.new, case.rows)):
                x, y = case.draw(rows, random)
                model = make().fit(pd.DataFrame(x, columns=names), y)
                info = mlflow.sklearn.log_model(
                    model,
                    name="model",
                    signature=mlflow.models.infer_signature(pd.DataFrame(x, columns=names), y),
                    serialization_format="cloudpickle",
                    pip_requirements=["scikit-learn"],
                    registered_model_name="bench",
                )
                versions.append((str(info.registered_model_version), model))
            x, y = case.draw(1000, random)
            frame = pd.DataFrame(x, columns=names)
            frame.assign(label=y).to_parquet("holdout.parquet")
            output = Path(directory, "evaluation.json")
            records.run(
                records.command(settings, model="bench", champion=versions[0][0], candidate=versions[1][0],
                                   holdout=Path("holdout.parquet"), label="label", output=output)
            )  # fmt: skip
            verdict = gate.decide(records.read(output), settings)
            check = next(one for one in verdict.checks if one.name == "better")
            alone = better(*(scored_of(y, model.predict(frame)) for _, model in versions), "rmse", CONFIDENCE)
            agreed += check.passed == alone.by(BETTER_BY)
            passed += check.passed
            broken |= {one.name for one in verdict.checks if not one.passed} - {"better", "threshold"}
    others = f" Other rules that any broke: {', '.join(sorted(broken))}." if broken else ""
    return (
        f"{agreed} of {trials} whole runs through MLflow, half of them with a forest for a tree, decided by this "
        f"rule as it does alone; {passed} passed it.{others}\n"
    )


def main() -> None:
    """Run all, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--mlflow", type=int, default=4, help="whole runs through MLflow")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    head = "| true gain: median (10–90 %) | " + " | ".join(f"{size:,} rows" for size in HOLDOUTS) + " |\n"
    head += "|---" * (len(HOLDOUTS) + 2) + "|\n"
    same, without, wrong, gained = [], [], [], []
    with ProcessPoolExecutor(arguments.processes) as pool:
        for case in (*SAME, *BETTER):
            runs = pool.map(functools.partial(tried, case), range(arguments.trials), chunksize=5)
            trials = list(progress(runs, arguments.trials, case.name))
            if case in SAME:
                same.append(line(case.name, trials, lambda trial, at: trial.passed[at]))
                without.append(line(case.name, trials, lambda trial, at: trial.without[at]))
                wrong.append(line(case.name, trials, wrongly))
                print(same[-1], without[-1], wrong[-1], sep="\n", flush=True)
            else:
                gained.append(line(case.name, trials, lambda trial, at: trial.passed[at]))
                print(gained[-1], flush=True)
        if REAL.exists():
            trials = list(progress(pool.map(tried_on_wine, range(arguments.trials)), arguments.trials, "wine"))
            same.append(line("a decision tree on the real wines", trials, lambda trial, at: trial.passed[at]))
            print(same[-1], flush=True)
    text = (
        f"Of {arguments.trials} challengers the share that passes, with its 95 % interval, at several sizes of "
        f"the holdout and the defaults: better by {BETTER_BY:.0%} with {CONFIDENCE:.0%} confidence. Each has a "
        f"champion and a holdout of its own; champions are trained on {TRAINING:,} rows. The true gain is "
        f"measured on {JUDGES:,} other rows, that of the wines on their holdout.\n\n"
        "No real gain: the same algorithm on as many fresh rows of the same distribution. At most "
        f"{1 - CONFIDENCE:.0%} are to pass:\n\n| algorithm {head}" + "\n".join(same) + "\n\n"
        "Two such models differ by the luck of their rows, so half of these challengers are truly a little "
        "better; a large holdout sees that. Passed although not truly better by what is asked for:\n\n"
        f"| algorithm {head}" + "\n".join(wrong) + "\n\n"
        "With `gate_better_by: 0` those that are better by luck pass, the more so the larger the holdout. That is "
        f"what the margin is for:\n\n| algorithm {head}" + "\n".join(without) + "\n\n"
        f"Truly better ones:\n\n| challenger {head}" + "\n".join(gained) + "\n\n"
        f"{through_mlflow(arguments.mlflow) if arguments.mlflow else ''}\n{machine()}\n"
    )
    save("gate", "What passes the gate", text)


if __name__ == "__main__":
    main()
