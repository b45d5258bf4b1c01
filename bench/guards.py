"""How often guards roll back a version that has no fault, and how many requests they need to see one that has.

    python bench/guards.py [--rollouts 2000] [--repeats 200]

Traffic is simulated: latencies that follow each other, with times in which everything is slow, and failures that
are the client's own. What the two versions predict differs on each request as on the holdout; each rollout has a
holdout of its own.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from report import machine, save
from scipy import stats
from wine import progress

from mooring.retrain.evaluation.difference import Difference, difference
from mooring.serving.protocol import Outcome
from mooring.serving.rollout.guards import Guards, Limits

HOLDOUT = 300
MOST = 4000
CHUNK = 5000
LIMITS = Limits()


class Step(NamedTuple):
    """A step of a rollout: the challenger's share of so many requests."""

    variant: str
    share: float
    requests: int


class Traffic(NamedTuple):
    """Which share of requests are the client's own mistake, and in how many of all times everything fails.

    On a `busy` machine a third of the time is slow for both versions, by 3 to 30 times, and one answer in 20 of
    either takes longer on its own account, as long as a Pareto distribution without a variance has it.
    """

    name: str
    mistakes: float = 0.0
    outages: float = 0.0
    busy: bool = False


class Fault(NamedTuple):
    """What the challenger does worse: failures, how many times as long it takes, NaN, by how much it is off."""

    name: str
    errors: float = 0.0
    slower: float = 1.0
    nan: float = 0.0
    shift: float = 0.0


PLAN = (
    Step("shadow", 0.2, 1000),
    Step("canary", 0.05, 1500),
    Step("canary", 0.5, 1500),
    Step("canary", 0.9, 1000),
)
NONE = Fault("none")
USUAL = Traffic("", 0.005)
BUSY = Traffic("a busy machine", 0.005, busy=True)
AT_LIMIT = Fault("as bad as is let pass", LIMITS.errors, 1.5, LIMITS.quality)
QUIET = (
    (Traffic("no request fails"), NONE),
    (Traffic("0.5 % fail", 0.005), NONE),
    (Traffic("5 % fail", 0.05), NONE),
    (Traffic("0.5 % fail, and all in 2 % of the time", 0.005, 0.02), NONE),
    (BUSY, NONE),
    (Traffic("0.5 % fail; 1 % more errors and 1 % NaN, 1.5 times as slow", 0.005), AT_LIMIT),
)
FAULTS = (
    Fault("all answers are 500", errors=1.0),
    Fault("5 % errors", errors=0.05),
    Fault("10 times as slow", slower=10.0),
    Fault("5 times as slow", slower=5.0),
    Fault("3 times as slow", slower=3.0),
    Fault("NaN in 5 %", nan=0.05),
    Fault("predictions shifted by 1 sd", shift=1.0),
)
WAYS = (
    ("shadow", 1.0, 0),
    ("canary", 0.05, 0),
    ("canary", 0.5, 0),
    ("canary", 0.5, 1000),
)


def states(requests: int, share: float, length: int, random: np.random.Generator) -> np.ndarray:
    """Return when something is on that is on for `share` of the time, for `length` requests on average."""
    on, found, at = False, np.zeros(requests, bool), 0
    while at < requests and share:
        many = int(random.geometric(1 / length if on else share / (1 - share) / length))
        found[at : at + many] = on
        on, at = not on, at + many
    return found


def predicted(requests: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return what a champion predicts, with a deviation of 1, and one that was trained anew."""
    champion = random.standard_normal(requests)
    return champion, champion + 0.3 * random.standard_t(5, requests)


def held_out(random: np.random.Generator) -> Difference:
    """Return what the gate records of these two."""
    tables = [pa.table({"prediction": values}) for values in predicted(HOLDOUT, random)]
    found = difference(*tables, np.arange(HOLDOUT), classes=False)
    assert found is not None
    return found


def answer(value: float) -> bytes:
    """Return a model server's answer."""
    return json.dumps({"predictions": [value]}).encode()


def loads(many: int, traffic: Traffic, random: np.random.Generator) -> np.ndarray:
    """Return by what power of e the machine is slower for each request, whichever version answers it."""
    load = np.zeros(many)
    noise = 0.3 * np.sqrt(1 - 0.99**2) * random.standard_normal(many)
    for at in range(1, many):
        load[at] = 0.99 * load[at - 1] + noise[at]
    load += np.log(5) * states(many, 0.03, 30, random)
    if traffic.busy:
        bursts = states(many, 1 / 3, 20, random)
        starts = np.cumsum(np.diff(bursts, prepend=False) & bursts)
        load += bursts * random.uniform(np.log(3), np.log(30), many + 1)[starts]
    return load


def alone(many: int, traffic: Traffic, random: np.random.Generator) -> np.ndarray:
    """Return by what power of e each answer of a version is slower on its own account."""
    if not traffic.busy:
        return 0.3 * random.standard_normal(many)
    return (
        0.6 * random.standard_normal(many) + (random.random(many) < 0.05) * np.log1p(random.pareto(1.5, many)) * 2
    )


def outcomes(step: Step, traffic: Traffic, fault: Fault, random: np.random.Generator) -> Iterator[Outcome]:
    """Yield what the front tells of the requests of a step."""
    many = step.requests
    mistaken = random.random(many) < traffic.mistakes
    down = states(many, traffic.outages, 50, random)
    load = loads(many, traffic, random)
    times = [0.02 * np.exp(load + alone(many, traffic, random)) for _ in range(2)]
    times[1] *= fault.slower
    values = predicted(many, random)
    own = random.random(many) < fault.errors
    lacks = random.random(many) < fault.nan
    chosen = random.random(many) < step.share
    for at in range(many):
        # What is down fails most requests of either version, each on its own.
        failed, failed_too = (bool(mistaken[at] or (down[at] and random.random() < 0.9)) for _ in range(2))
        old, new = float(times[0][at]), float(times[1][at])
        failed_too |= bool(own[at])
        if step.variant == "canary" and chosen[at]:
            body = None if failed_too else answer(np.nan if lacks[at] else values[1][at] + fault.shift)
            yield Outcome("2", "canary", not failed_too, new, body)
            continue
        yield Outcome("1", "champion", not failed, old)
        if step.variant == "shadow" and chosen[at]:
            body = None if failed_too else answer(np.nan if lacks[at] else values[1][at] + fault.shift)
            before = None if failed else answer(values[0][at])
            yield Outcome("2", "shadow", not failed_too, new, body, not failed, old, before)


def rolled_back(traffic: Traffic, fault: Fault, seed: int) -> str | None:
    """Roll out a version by the plan; return what rolled it back."""
    random = np.random.default_rng([11, seed])
    guards = Guards(LIMITS, held_out(random))
    for step in PLAN:
        for outcome in outcomes(step, traffic, fault, random):
            guards.observe(outcome)
            if (told := guards.failed()) is not None:
                return told.partition(":")[0]
    return None


def seen_after(way: tuple[str, float, int], fault: Fault, traffic: Traffic, seed: int) -> int | None:
    """Return of how many of its requests a fault is seen that begins after some without; None where it is not."""
    variant, share, good = way
    random = np.random.default_rng([12, seed])
    guards = Guards(LIMITS, held_out(random))
    if good:
        for outcome in outcomes(Step(variant, share, round(good / share)), traffic, NONE, random):
            guards.observe(outcome)
    before = guards.seen()
    while guards.seen() - before < MOST:
        for outcome in outcomes(Step(variant, share, CHUNK), traffic, fault, random):
            guards.observe(outcome)
            if guards.failed() is not None:
                return guards.seen() - before
    return None


def quiet_row(traffic: Traffic, fault: Fault, found: list[str | None]) -> str:
    """Return a row of the table of versions without a fault."""
    bad = [one for one in found if one is not None]
    low, high = stats.binomtest(len(bad), len(found)).proportion_ci(0.95, "exact")
    by = ", ".join(f"{name} {len(list(some))}" for name, some in itertools.groupby(sorted(bad)))
    return f"| {traffic.name} | {len(bad)} of {len(found):,} | {low:.2%}–{high:.2%} | {by} |"


def seen_cell(found: list[int | None]) -> str:
    """Return of how many requests a fault was seen: the median, and 90 % of the trials."""
    counts = np.array([MOST + 1 if one is None else one for one in found])
    told = (f"{int(one):,}" if one <= MOST else f"over {MOST:,}" for one in np.quantile(counts, [0.5, 0.9]))
    return "{} ({})".format(*told)


def main() -> None:
    """Run all, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rollouts", type=int, default=2000, help="rollouts of each version without a fault")
    parser.add_argument("--repeats", type=int, default=200, help="repetitions of each fault")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    quiet, seen = [], []
    with ProcessPoolExecutor(arguments.processes) as pool:
        slow = [fault for fault in FAULTS if fault.slower > 1]
        for fault, traffic in [*((one, USUAL) for one in FAULTS), *((one, BUSY) for one in slow)]:
            cells = []
            for way in WAYS:
                if fault.shift and way[0] != "shadow":
                    cells.append("not looked at")
                    continue
                runs = pool.map(
                    functools.partial(seen_after, way, fault, traffic), range(arguments.repeats), chunksize=5
                )
                cells.append(seen_cell(list(runs)))
            name = fault.name + (f", {traffic.name}" if traffic.busy else "")
            seen.append(f"| {name} | {' | '.join(cells)} |")
            print(seen[-1], flush=True)
        for traffic, fault in QUIET:
            runs = pool.map(functools.partial(rolled_back, traffic, fault), range(arguments.rollouts), chunksize=5)
            quiet.append(quiet_row(traffic, fault, list(progress(runs, arguments.rollouts, traffic.name))))
            print(quiet[-1], flush=True)
    ways = " | ".join(
        f"{variant} {share:.0%}" + (f", after {good:,} good ones" if good else "") for variant, share, good in WAYS
    )
    plan = ", then ".join(f"{step.variant} {step.share:.0%} of {step.requests:,}" for step in PLAN)
    text = (
        "Rollouts of a version without a fault, looked at after each request, and how many are rolled back; at "
        f"most {LIMITS.false_alarms:.0%} are to be. Each has {sum(step.requests for step in PLAN):,} requests: "
        f"{plan}. Latencies are simulated, they follow each other, and 3 % of the time everything takes 5 times "
        "as long; on a busy machine a third of the time is 3 to 30 times as slow for both, and one answer in 20 "
        "of either takes longer by itself, with a tail that has no variance. Requests that fail are the client's "
        "own mistakes, or fail as something behind both versions is "
        f"down. Predictions differ as on a holdout of {HOLDOUT:,} rows.\n\n"
        "| traffic | rolled back | 95 % interval | by |\n|---|---|---|---|\n" + "\n".join(quiet) + "\n\n"
        f"How many requests the challenger gets before a fault is seen: the median of {arguments.repeats} trials, "
        "and the number that 90 % of them keep to. The champion fails 0.5 %.\n\n"
        f"| fault | {ways} |\n" + "|---" * (len(WAYS) + 1) + "|\n" + "\n".join(seen) + f"\n\n{machine()}\n"
    )
    save("guards", "Guards of a rollout", text)


if __name__ == "__main__":
    main()
