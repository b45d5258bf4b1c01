"""Alarms by the calendar: the time between false ones, and how soon drift is found, by three rules.

The rules are Mooring's own (evidence that is summed up), a smaller budget for each window, by its share of the
time of one false alarm, and a budget of 0.001 for each window. All see the same windows and p-values.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy import stats
from streams import Sample, normal, streams
from wine import interval, made, percent, profiled, progress

from mooring.drift.blocks import BlockPValue, PastWindows, p_values, profile_of
from mooring.drift.evidence import Evidence, e_value, limit
from mooring.drift.judge import SCALES, AlarmRules, cutoff, judge
from mooring.monitor.incidents import COMMISSIONING

DAYS = 90
A_DAY = (24, 1000, 10_000)
SIZES = ((1000, 200), (1000, 1000), (3000, 200), (3000, 1000), (20_000, 200), (20_000, 1000))
SHORT = (50, 200)
"""How many windows the time of one false alarm has where these are counted: in 90 days there are too few."""
PER_WINDOW = 0.001
PATIENCE = 60
USUAL = 8


class Seen(NamedTuple):
    """What a window gave: the p-values of each block that ends with it, and of features since the first window.

    `chance` is the p-value of the window as `judge` has it, `effects` by how many times what matters each feature
    moved.
    """

    blocks: dict[int, dict[str, BlockPValue]]
    since_first: dict[str, float]
    chance: float
    effects: dict[str, float]


def watch(
    sample: Sample, reference: int, size: int, windows: int, seed: int, shift: float = 0.0, at: int = 0
) -> list[Seen]:
    """Return what windows of a stream give; from window `at` on a number is shifted, in deviations.

    Which one, and whether it rises or falls, changes with the seed.
    """
    random = np.random.default_rng([6, reference, size, seed])
    columns = sample(reference, random)
    baseline = made(columns)
    moved = list(columns)[seed // 2 % len(columns)]
    far = (-1) ** seed * shift * float(np.std(columns[moved])) if shift else 0.0
    own, history, newest, found = profile_of(baseline), PastWindows(), [], []
    for number in range(windows):
        drawn = sample(size, random)
        if shift and number >= at:
            drawn[moved] = drawn[moved] + far
        window = profiled(drawn, baseline)
        blocks = {
            length: p_values(baseline, before, block, length=length, seed=number)
            for length, before, block in history.blocks(own, window)
        }
        count = number + 1
        since_first = {}
        if count & (count - 1) == 0:
            whole = history.with_window(window)
            against = p_values(baseline, own, whole, length=count, seed=number)
            since_first = {name: one.p_value for name, one in against.items()}
        newest = [window, *newest][: SCALES[-1]]
        judgement = judge(baseline, newest, AlarmRules(), seed=number)
        effects: dict[str, float] = {}
        for one in judgement.results:
            if one.excess is not None:
                effects[one.feature] = max(effects.get(one.feature, 0.0), one.excess)
        found.append(Seen(blocks, since_first, judgement.p_value, effects))
        history = history.after(window)
    return found


def alarms_by_evidence(seen: Sequence[Seen], time: float, *, floors: bool) -> list[int]:
    """Return the windows that alarm, where one false alarm may be in so many windows."""
    evidence, found = Evidence(), []
    for number, one in enumerate(seen):
        evidence.pass_time(1 / time)
        for length, found_in in one.blocks.items():
            evidence.add(length, {name: each.signed for name, each in found_in.items()})
        suspects = set()
        if evidence.level(one.blocks[1]) >= limit(1 / time):
            suspects = set(evidence.features())
        look = (number + 1).bit_length()
        most = cutoff(list(one.since_first.values()), COMMISSIONING * 6 / (np.pi * look) ** 2)
        suspects |= {name for name, chance in one.since_first.items() if chance <= most}
        if any(one.effects.get(name, 0.0) >= (1.0 if floors else 0.0) for name in suspects):
            found.append(number)
            evidence = Evidence()
    return found


def alarms_by_window(seen: Sequence[Seen], budget: float, *, floors: bool) -> list[int]:
    """Return the windows that alarm, where each has the same budget."""
    return [
        number
        for number, one in enumerate(seen)
        if one.chance <= budget and (not floors or max(one.effects.values()) >= 1.0)
    ]


class Unchanged(NamedTuple):
    """What a stream in which nothing changes gave."""

    p_values: list[float]
    e_values: list[float]
    alarms: dict[tuple[int, bool], int]
    commissioned: bool


def unchanged(name: str, reference: int, size: int, windows: int, seed: int) -> Unchanged:
    """Watch a stream in which nothing changes."""
    seen = watch(streams()[name], reference, size, windows, seed)
    plain = [one._replace(since_first={}) for one in seen]
    singles = [each for one in seen for each in one.blocks[1].values()]
    return Unchanged(
        [one.p_value for one in singles],
        [e_value(p_value) for one in singles for question in one.signed for p_value in question],
        {
            (time, floors): len(alarms_by_evidence(plain, time, floors=floors))
            for time in SHORT
            for floors in (False, True)
        },
        any(alarms_by_evidence([one._replace(blocks={1: {}}) for one in seen], 1e9, floors=False)),
    )


def between(alarms: int, time: float) -> str:
    """Return the mean time between alarms in units of the time of one, with its 95 % interval (Garwood 1936)."""
    most = stats.chi2.ppf(0.975, 2 * alarms + 2) / 2
    least = stats.chi2.ppf(0.025, 2 * alarms) / 2 if alarms else 0.0
    longest = f"{time / least:.2f}" if least else "∞"
    return f"{time / alarms:.2f} ({time / most:.2f}–{longest})" if alarms else f"> {time / most:.2f}"


def false_table(pool: ProcessPoolExecutor, windows: int, runs: int) -> str:
    """Return the table of streams in which nothing changes."""
    lines = [
        "| stream | baseline | window | windows | p ≤ 0.05 | p ≤ 0.01 | p ≤ 0.001 | mean e-value | "
        + " | ".join(f"T = {time} windows, floors off" for time in SHORT)
        + " | floors on, both | streams that alarm against the baseline alone |",
        "|---" * (8 + len(SHORT) + 2) + "|",
    ]
    total: Counter[tuple[int, bool]] = Counter()
    cells = [(name, *sizes) for name in streams() for sizes in SIZES]
    jobs = [(*cell, windows, seed) for cell in cells for seed in range(runs)]
    results = progress(pool.map(_unchanged, jobs), len(jobs), "unchanged streams")
    for name, reference, size in cells:
        found = list(itertools.islice(results, runs))
        shares = [
            percent(*interval([[p <= most for p in one.p_values] for one in found])[:3])
            for most in (0.05, 0.01, 0.001)
        ]
        alarms = {key: sum(one.alarms[key] for one in found) for key in found[0].alarms}
        total.update(alarms)
        watched = windows * runs
        off = [between(alarms[time, False], watched / time) for time in SHORT]
        on = between(sum(alarms[time, True] for time in SHORT), sum(watched / time for time in SHORT))
        early = sum(one.commissioned for one in found)
        mean = float(np.mean([e for one in found for e in one.e_values]))
        row = [name, f"{reference:,}", f"{size:,}", f"{watched:,}", *shares, f"{mean:.2f}", *off, on]
        lines.append("| " + " | ".join(row) + f" | {early} of {runs} |")
        print(lines[-1], flush=True)
    watched = windows * runs * len(cells)
    lines += [""] + [
        f"All streams together, T = {time} windows, floors {'on' if floors else 'off'}: "
        f"{between(alarms, watched / time)} T between alarms."
        for (time, floors), alarms in sorted(total.items())
    ]
    return "\n".join(lines) + "\n"


def _unchanged(job: tuple[str, int, int, int, int]) -> Unchanged:
    return unchanged(*job)


SHIFTED = (
    (0.05, 20_000, 1000, "20"),
    (0.1, 3000, 1000, "6"),
    (0.2, 3000, 1000, "1.2 × the budget of 0.001"),
    (0.2, 3000, 200, "1.2 × the budget of 0.001"),
    (0.2, 1000, 200, "1.2 × the budget of 0.001"),
    (1.0, 3000, 200, "1"),
    (1.0, 20_000, 1000, "1"),
)
RULES = ("evidence", "smaller budget", "0.001 a window")


def delays(reference: int, size: int, shift: float, seed: int) -> dict[tuple[str, int, bool], int]:
    """Return how many windows of a shift it takes until each rule alarms, at each number of windows a day."""
    usual = USUAL + seed % 16  # so that blocks end at other places
    seen = watch(normal, reference, size, usual + PATIENCE, seed, shift, usual)
    found = {}
    for a_day in A_DAY:
        time = float(DAYS * a_day)
        for floors in (False, True):
            rules: dict[str, Callable[[], list[int]]] = {
                "evidence": functools.partial(alarms_by_evidence, seen, time, floors=floors),
                "smaller budget": functools.partial(alarms_by_window, seen, 1 / time, floors=floors),
                "0.001 a window": functools.partial(alarms_by_window, seen, PER_WINDOW, floors=floors),
            }
            for name, rule in rules.items():
                late = [number - usual + 1 for number in rule() if number >= usual]
                found[name, a_day, floors] = late[0] if late else PATIENCE + 1
    return found


def delay_table(pool: ProcessPoolExecutor, runs: int) -> str:
    """Return the table of how soon drift is found."""
    lines = [
        "| shift, sd | baseline | window | windows a day | floors | "
        + " | ".join(RULES) + " | target for evidence |",
        "|---" * (5 + len(RULES) + 1) + "|",
    ]  # fmt: skip
    jobs = [(reference, size, shift, seed) for shift, reference, size, _ in SHIFTED for seed in range(runs)]
    results = progress(pool.map(_delays, jobs), len(jobs), "shifted streams")
    for shift, reference, size, target in SHIFTED:
        found = list(itertools.islice(results, runs))
        for a_day in A_DAY:
            for floors in (False, True):
                cells = []
                for rule in RULES:
                    low, middle, high = np.quantile([one[rule, a_day, floors] for one in found], [0.1, 0.5, 0.9])
                    cells.append(f"{_windows(middle)} ({_windows(low)}–{_windows(high)})")
                aimed = target if a_day == A_DAY[0] and not floors else ""
                lines.append(
                    f"| {shift:g} | {reference:,} | {size:,} | {a_day:,} | {'on' if floors else 'off'} | "
                    + " | ".join(cells)
                    + f" | {aimed} |"
                )
                print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def _delays(job: tuple[int, int, float, int]) -> dict[tuple[str, int, bool], int]:
    return delays(*job)


def _windows(count: float) -> str:
    return f"> {PATIENCE}" if count > PATIENCE else f"{count:g}"


def offset_line(pool: ProcessPoolExecutor, runs: int) -> str:
    """Return how often an offset from the first window on is found with that window, and with the first four."""
    jobs = [(normal, 1000, 1000, 4, seed, 0.2, 0) for seed in range(runs)]
    seen = list(progress(pool.map(_watch, jobs), len(jobs), "offset from the first window"))
    firsts = [alarms_by_evidence(one, float(DAYS * A_DAY[0]), floors=False) for one in seen]
    first, four = (sum(bool(one) and one[0] < most for one in firsts) for most in (1, 4))
    return (
        "An offset of 0.2 deviations from the first window on, at 1,000 rows in baseline and window, is found "
        f"with that window in {first} of {runs} streams, within four in {four} (target: 90 %).\n"
    )


def _watch(job: tuple[Sample, int, int, int, int, float, int]) -> list[Seen]:
    return watch(*job)


def calendar_time(pool: ProcessPoolExecutor, windows: int, streams_each: int, shifted: int) -> str:
    """Return all of it."""
    told = (
        f"The product's own p-values, of {streams_each} streams of {windows} windows in each cell, drawn with "
        "replacement; each stream has a baseline of its own. T is the time in which one false alarm may be; the "
        "mean time between false alarms is in units of it, with its 95 % interval, and is to be 1 or more (the "
        "lower end at least 0.9). In 90 days there are too few to count, so T is short here; for up to 10,000 "
        "windows "
        "`tests/proof/test_evidence.py` has the same with p-values that are uniform."
    )
    late = (
        f"One of 12 normal features is shifted after {USUAL} to {USUAL + 15} windows without a shift: how many "
        f"windows it takes until it is found, median and 10 to 90 % of {shifted} runs, where one false alarm may "
        f"be in {DAYS} days. Beside it a budget for each window, by its share of that time, and 0.001 for each "
        "window, which at 24 windows a day is two false alarms in 90 days, and at 10,000 is 900."
    )
    parts = [late, delay_table(pool, shifted), offset_line(pool, shifted)] if shifted else []
    if streams_each:
        parts += [told, false_table(pool, windows, streams_each)]
    return "\n".join(f"{part}\n" if not part.endswith("\n") else part for part in parts)
