"""How often an unchanged window alarms: Mooring, the usual tests, and others' defaults."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from scipy import stats
from wine import BUDGETS, CONSECUTIVE, REFERENCE, ROOT, interval, made, percent, profiled, progress, wine

from mooring.drift.baseline import Baseline
from mooring.drift.judge import AlarmRules, judge
from mooring.drift.profile import Profile

SIZES = (100, 300, 1000, 10_000, 100_000)
PEERS = {"Evidently": "evidently", "NannyML": "nannyml"}


class Seen(NamedTuple):
    """What an unchanged window gave: our least budget that alarms, without and with floors, and the tests."""

    off: float
    on: float
    ks: bool
    tests: bool


def unchanged(size: int, seed: int) -> list[Seen]:
    """Judge consecutive windows in which nothing has changed."""
    random = np.random.default_rng([1, size, seed])
    reference = wine().sample(REFERENCE, random)
    baseline = made(reference)
    windows: list[Profile] = []
    found = []
    for number in range(CONSECUTIVE):
        columns = wine().sample(size, random)
        windows.insert(0, profiled(columns, baseline))
        off = judged(baseline, windows, False, number)
        # Floors only leave statistics out, so what is plain without them is so with them.
        on = judged(baseline, windows, True, number) if off < 0.2 else off
        ks, chi = tests(reference, columns)
        found.append(Seen(off, on, min(ks) < 0.05, min(ks + chi) < 0.05))
    return found


def judged(baseline: Baseline, windows: list[Profile], floors: bool, seed: int) -> float:
    """Return the least budget at which the newest window alarms."""
    judgement = judge(baseline, windows, AlarmRules(floors=floors), seed=seed)
    if bool(judgement.alarms) != (judgement.p_value <= judgement.budget):
        raise SystemExit("a judgement alarms without its chance being below the budget, or the other way")
    return judgement.p_value


def tests(reference: dict[str, np.ndarray], current: dict[str, np.ndarray]) -> tuple[list[float], list[float]]:
    """Return the p-values of Kolmogorov-Smirnov for numbers, and of chi-square for categories, as is usual."""
    ks, chi = [], []
    for name, values in reference.items():
        if values.dtype.kind == "f":
            ks.append(float(stats.ks_2samp(values, current[name]).pvalue))
            continue
        names, counts = np.unique(values, return_counts=True)
        others, found = np.unique(current[name], return_counts=True)
        known = np.isin(others, names)
        seen = np.zeros(len(names))
        seen[np.searchsorted(names, others[known])] = found[known]
        chi.append(float(stats.chisquare(seen, counts / counts.sum() * max(seen.sum(), 1)).pvalue))
    return ks, chi


def false_alarms(pool: ProcessPoolExecutor, size: int, windows: int) -> list[list[Seen]]:
    """Return what unchanged windows gave, run by run."""
    runs = math.ceil(windows / CONSECUTIVE)
    return list(progress(pool.map(functools.partial(unchanged, size), range(runs)), runs, f"{size} rows"))


def false_row(size: int, runs: list[list[Seen]]) -> str:
    """Return a row of the table: the share of windows with any alarm, each with its interval."""
    cells = []
    designs: dict[str, float | None] = {"off": None, "on": None}
    for kind in ("off", "on"):
        for budget in BUDGETS:
            hits = [[getattr(one, kind) <= budget for one in run] for run in runs]
            share, low, high, designs[kind] = interval(hits, designs[kind] or designs["off"])
            right = low <= budget <= high if kind == "off" else low <= budget
            cells.append(f"{percent(share, low, high)}{'' if right else ' **off**'}")
    cells += [
        percent(*interval([[getattr(one, kind) for one in run] for run in runs])[:3]) for kind in ("ks", "tests")
    ]
    return f"| {size:,} | {sum(map(len, runs)):,} | " + " | ".join(cells) + " |"


def peer(name: str, size: int, windows: int) -> list[list[dict[str, Any]]] | None:
    """Return what a peer said of unchanged windows, run by run; None where it is not installed."""
    python = ROOT / ".venv" / f"peers-{PEERS[name]}" / "bin" / "python"
    if not python.exists():
        return None
    script = ROOT / "bench" / "peers" / f"{PEERS[name]}_alarms.py"
    runs = []
    for seed in range(math.ceil(windows / CONSECUTIVE)):
        random = np.random.default_rng([1, size, seed])
        with tempfile.TemporaryDirectory() as directory:
            for number in range(CONSECUTIVE + 1):
                columns = wine().sample(size if number else REFERENCE, random)
                pyarrow.parquet.write_table(pa.table(columns), f"{directory}/{number:02}.parquet")
            done = subprocess.run([python, script, directory], check=True, stdout=subprocess.PIPE, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return runs


def peers_table(pool: ProcessPoolExecutor, windows: int) -> str:
    """Return the table of what the peers' defaults give."""
    lines = ["| rows | windows | " + " | ".join(f"{name}, {what}" for name, what in (
        ("Evidently", "any column"), ("Evidently", "half of the columns"), ("NannyML", "any column"))) + " |",
        "|---|---|---|---|---|"]  # fmt: skip
    sizes = SIZES
    found = {(name, size): pool.submit(peer, name, size, windows) for name in PEERS for size in sizes}
    for size in sizes:
        cells = []
        for name, kind in (("Evidently", "any"), ("Evidently", "half"), ("NannyML", "any")):
            runs = found[name, size].result()
            if runs is None:
                cells.append("not installed")
                continue
            cells.append(percent(*interval([[bool(one[kind]) for one in run] for run in runs])[:3]))
        count = math.ceil(windows / CONSECUTIVE) * CONSECUTIVE
        lines.append(f"| {size:,} | {count} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def version_of(name: str) -> str:
    """Return the version of a peer that is installed."""
    python = ROOT / ".venv" / f"peers-{PEERS[name]}" / "bin" / "python"
    if not python.exists():
        return "(not installed)"
    code = f"from importlib.metadata import version; print(version({PEERS[name]!r}))"
    return subprocess.run([python, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
