"""A state as it is after weeks of many wide models, for whoever measures or looks at the dashboard.

    python bench/ui_state.py sqlite:///state.db [--models 100] [--features 200] [--windows 1000]

Baselines, profiles and judgements are Mooring's own, of synthetic columns; a few dozen windows are judged, and
every model has them over and over, under other times. Everything is written in the state's own
transactions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from mooring import rollout_plan
from mooring.drift.baseline import Baseline, make, profile_to_bytes
from mooring.drift.profile import Profile
from mooring.engine.local import profile_of
from mooring.monitor.alerting.channels import Webhook
from mooring.monitor.alerting.queue import enqueue_drift
from mooring.monitor.drift_check import WindowCheck, check_window
from mooring.retrain import gate
from mooring.retrain.evaluation.difference import difference
from mooring.serving.protocol import Outcome
from mooring.serving.rollout.guards import Guards, Limits
from mooring.settings import JudgeSettings
from mooring.state import tables
from mooring.state.alerts import Alerts
from mooring.state.assessments import Assessment, Assessments, Measured, Segment
from mooring.state.baselines import StoredBaselines
from mooring.state.database import insert
from mooring.state.promotions import Promotion
from mooring.state.repository import Transaction
from mooring.state.retrainings import Cause, Tickets
from mooring.state.rollouts import Rollouts, Served, moved, new
from mooring.state.state import State
from mooring.state.verdicts import Verdict, Verdicts
from mooring.state.windows import Judged, Window, Windows
from mooring.status import Status

HOUR = timedelta(hours=1)
ROWS = 1000
BASELINE_ROWS = 20_000
STEADY, DRIFTING = 16, 8
"""How many different windows are judged of each sort."""
EPISODES = 10
"""How many windows lie between the beginnings of two drifts, times the windows that one lasts."""
VERSIONS = ("1", "2", "3")
TICKETS = 5
ASSESSED = 200
"""How many of a model's newest windows have been assessed."""
AT_ONCE = 250
CHANNEL = Webhook("https://example.org/hook")

Say = Callable[[str], None]
Columns = dict[str, pa.Array]


class Sample(NamedTuple):
    """A judged window, as bytes and as what was concluded of it."""

    profile: bytes
    concluded: WindowCheck
    results: bytes
    cells: bytes


class Shape(NamedTuple):
    """What all models are like: their baseline, windows in which nothing moves and in which more and more does."""

    baseline: bytes
    steady: list[Sample]
    drifting: list[Sample]
    too_few: Sample


def columns(rows: int, features: int, random: np.random.Generator, drift: float = 0.0) -> Columns:
    """Return columns as models have them: numbers of several sorts, counts, amounts, categories, and a prediction.

    With a drift one in 17 of them moves.
    """
    found: Columns = {}
    for at in range(features - 1):
        moved_by = drift if at % 17 == 0 else 0.0
        match at % 10:
            case 6:
                found[f"orders_{at:03d}_last_month"] = pa.array(
                    random.poisson(4 * (1 + moved_by), rows).astype(float)
                )
            case 7:
                found[f"amount_{at:03d}_total"] = pa.array(np.round(random.lognormal(3 + moved_by, 1, rows), 2))
            case 8 | 9 as case:
                most = 20 if case == 8 else 200
                codes = np.minimum(random.zipf(1.5 + moved_by, rows), most)
                found[f"region_{at:03d}_of_customer"] = pa.array([f"region-{code:03d}" for code in codes])
            case _:
                found[f"score_{at:03d}_of_customer"] = pa.array(random.normal(moved_by, 1, rows))
    return {**found, "prediction": pa.array(random.normal(drift / 4, 1, rows))}


def shape_of(features: int, say: Say = print) -> Shape:
    """Return a baseline of so many features, and windows that were judged against it."""
    random = np.random.default_rng(7)
    baseline = make(columns(BASELINE_ROWS, features, random), roles={"prediction": "output"})
    past: list[Profile] = []
    found: list[Sample] = []
    for at in range(STEADY + DRIFTING):
        drift = 0.15 * max(0, at - STEADY + 1)
        past.insert(0, profile_of(pa.table(columns(ROWS, features, random, drift)), baseline))
        found.append(_sample(baseline, past, at, ROWS))
        say(f"window {at + 1} of {STEADY + DRIFTING}: {found[-1].concluded.verdict.status}")
    few = profile_of(pa.table(columns(20, features, random)), baseline)
    return Shape(baseline.to_bytes(), found[:STEADY], found[STEADY:], _sample(baseline, [few], 0, 20))


def _sample(baseline: Baseline, past: list[Profile], at: int, rows: int) -> Sample:
    start = datetime(2026, 1, 1, tzinfo=UTC) + at * HOUR
    window = Window(
        model="shape", start=start, end=start + HOUR, rows=rows, requests=rows, weight=rows, status="closed"
    )
    concluded = check_window(window, past[:16], baseline, JudgeSettings())
    return Sample(profile_to_bytes(past[0]), concluded, concluded.results, concluded.cells)


def build(
    url: str,
    models: int = 100,
    features: int = 200,
    windows: int = 1000,
    *,
    profiles: int = 100,
    end: datetime | None = None,
    say: Say = lambda line: None,
) -> list[str]:
    """Build a state, and return its models' names.

    Parameters
    ----------
    url
        Where it is to lie; nothing is there yet.
    models, features, windows
        How many of each, a window being an hour.
    profiles
        How many of each model's newest windows still have their profile.
    end
        When the newest window ends, by default at the next full hour.
    say
        Takes a line for whoever waits.
    """
    end = end or datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + HOUR
    shape = shape_of(features, say)
    names = [f"model-{at:03d}" for at in range(models)]
    with State(url) as state:
        for at, name in enumerate(names):
            _write_windows(state, name, at, shape, windows, profiles, end)
            _write_performance(state, name)
            _write_retrainings(state, name, at)
            if at % 10 == 9 or name == names[-1]:
                say(f"{at + 1} of {models} models")
    return names


def _write_windows(
    state: State, model: str, place: int, shape: Shape, windows: int, profiles: int, end: datetime
) -> None:
    random = np.random.default_rng(place)
    # Every fifth model drifts now, the others did at some time.
    drift_at = [(at + 37 * place) % (EPISODES * DRIFTING) for at in range(windows)]
    if place % 5 == 0:
        drift_at[-4:] = range(min(windows, 4))
    elif windows > DRIFTING:
        drift_at[-DRIFTING:] = [DRIFTING] * DRIFTING
    with state.begin() as tx:
        digests = {
            version: StoredBaselines(tx).put(model, version, shape.baseline, f"models:/{model}/{version}").digest
            for version in VERSIONS
        }
    statuses: list[Status] = []
    for first in range(0, windows, AT_ONCE):
        rows: list[Judged] = []
        samples: list[Sample] = []
        for at in range(first, min(first + AT_ONCE, windows)):
            sample = shape.steady[(at + place) % STEADY]
            if drift_at[at] < DRIFTING:
                sample = shape.drifting[drift_at[at]]
            elif at % 50 == 20:
                sample = shape.too_few
            version = VERSIONS[at * len(VERSIONS) // windows]
            newest = at == windows - 1
            count = sample.concluded.verdict.rows + int(random.integers(0, 200))
            start, status = end - (windows - at) * HOUR, "open" if newest else "closed"
            window = _window(model, version, start, count, status=status, number=at + 1)
            rows.append(Judged(window, _verdict(sample, window, digests[version], provisional=newest)))
            samples.append(sample)
        with state.begin() as tx:
            _insert(tx, rows, samples, with_profile=lambda window: window.number > windows - profiles)
            for window, verdict in rows:
                assert verdict is not None
                if not verdict.provisional:
                    statuses.append(verdict.status)
                    enqueue_drift(tx, window, verdict, statuses[-20:], [CHANNEL])
        _send(state, model)
    with state.begin() as tx:
        for variant, sample in (("canary", shape.steady[0]), ("shadow", shape.drifting[-1])):
            window = Windows(tx).put(_window(model, "4", end - 2 * HOUR, ROWS, variant=variant), sample.profile)
            Verdicts(tx).put(_verdict(sample, window, digests["3"]), sample.results, sample.cells)


def _window(model: str, version: str, start: datetime, rows: int, **others: Any) -> Window:
    of_it = {"model": model, "version": version, "start": start, "end": start + HOUR, "status": "closed"}
    return Window(**{**of_it, "rows": rows, "requests": rows, "weight": rows, **others})


def _verdict(sample: Sample, window: Window, digest: str, **others: Any) -> Verdict:
    return msgspec.structs.replace(
        sample.concluded.verdict,
        window_id=window.id,
        rows=window.rows,
        baseline=digest,
        created=window.end,
        tracked=window.end,
        **others,
    )


def _insert(
    tx: Transaction, rows: list[Judged], samples: list[Sample], with_profile: Callable[[Window], bool]
) -> None:
    """Write what the repositories' `put` would, many at once: they take a millisecond each."""
    watched = {(window.model, window.version, window.variant) for window, _ in rows}
    for model, version, variant in sorted(watched):
        named = {"model": model, "version": version, "variant": variant}
        tx.connection.execute(
            insert(tx.connection, tables.models)
            .values(**named, standing="ok", created=datetime.now(UTC))
            .on_conflict_do_nothing()
        )
    tx.connection.execute(
        tables.windows.insert(),
        [
            {
                "id": window.id,
                **msgspec.structs.asdict(window),
                "profile": sample.profile if with_profile(window) else None,
            }
            for (window, _), sample in zip(rows, samples, strict=True)
        ],
    )
    told = [(verdict, sample) for (_, verdict), sample in zip(rows, samples, strict=True) if verdict]
    tx.connection.execute(
        tables.verdicts.insert(),
        [
            {
                "id": verdict.id,
                **msgspec.structs.asdict(verdict),
                "summary": msgspec.json.encode(verdict.summary).decode(),
                "results": sample.results,
            }
            for verdict, sample in told
        ],
    )
    tx.connection.execute(
        tables.verdict_cells.insert(),
        [{"verdict_id": verdict.id, "data": sample.cells} for verdict, sample in told if sample.cells],
    )


def _send(state: State, model: str) -> None:
    """Mark alerts as sent, but for the newest."""
    with state.begin() as tx:
        for alert in Alerts(state).newest(model)[1:]:
            if alert.status == "pending":
                Alerts(tx).update(msgspec.structs.replace(alert, status="sent", attempts=1, sent=alert.created))


def _write_performance(state: State, model: str) -> None:
    random = np.random.default_rng(1)
    judged = Windows(state).history(model, variant="champion", newest=ASSESSED)
    with state.begin() as tx:
        for one, _ in judged:
            accuracy = float(0.8 + 0.02 * random.standard_normal())
            measured = {
                name: Measured(value, value - 0.03, value + 0.03)
                for name, value in (("accuracy", accuracy), ("f1", accuracy - 0.02), ("log_loss", 0.45))
            }
            labelled = int(one.rows * random.uniform(0.2, 0.9))
            Assessments(tx).put(
                Assessment(
                    window=one,
                    look=1,
                    status="ok" if accuracy > 0.77 else "warning",
                    task="classification",
                    rows=one.rows,
                    labelled=labelled,
                    delay=3600.0,
                    chance=0.2,
                    budget=0.001,
                    message=f"accuracy {accuracy:.3f}",
                    created=one.end + HOUR,
                    tracked=one.end + HOUR,
                    judged=labelled,
                    measures=measured,
                    before={name: one.value for name, one in measured.items()},
                    segments=tuple(
                        Segment(
                            column="region_008_of_customer",
                            value=f"region-{code:03d}",
                            rows=one.rows // 8,
                            labelled=labelled // 8,
                            measures=measured,
                            status="ok",
                            chance=0.4,
                        )
                        for code in range(8)
                    ),
                )
            )


def _write_retrainings(state: State, model: str, place: int) -> None:
    """Write retrainings, each refused or promoted, the last of some models waiting for somebody, and rollouts."""
    drifted = [
        one
        for one in Windows(state).history(model, newest=300)
        if one.verdict and one.verdict.status == "critical"
    ]
    tickets = Tickets(state)
    for number in range(TICKETS):
        cause = Cause(kind="manual")
        if drifted:
            window, verdict = drifted[-1 - number % len(drifted)]
            assert verdict is not None
            cause = Cause(kind="drift", verdict=f"{verdict.id}-{number}", windows=((window.start, window.end),))
        waits = number == TICKETS - 1 and place % 10 == 3
        ticket = tickets.open(
            model,
            cause,
            "1 of the last 1 windows drifted",
            champion=str(max(1, number - 1)),
            directory="mooring-retrain",
            status="approval" if waits else "dataset",
        )
        if waits:
            continue
        told = {"training_rows": 8000, "original_rows": 4000, "holdout_rows": 1000, "digest": "0" * 64}
        ticket = tickets.move(ticket, "training", "dataset", told, attempt=1, message="8000 rows to train on")
        detail = {"version": str(number + 1), "run": f"{number:032x}", "attempt": 1, "seconds": 41.5}
        ticket = tickets.move(
            ticket, "gating", "trained", detail, candidate=str(number + 1), run_id=f"{number:032x}", message=""
        )
        passed = number % 2 == 0
        decided = msgspec.to_builtins(_gate_verdict(model, passed, number))
        if not passed:
            tickets.move(ticket, "refused", "gate", decided, message=f"version {number + 1} is no better")
            continue
        ticket = tickets.move(ticket, "challenger", "gate", decided, message="a supervisor rolls it out")
        _write_rollout(state, model, str(number + 1), ticket.champion or "1", ticket.id, place, number)
        now = datetime.now(UTC)
        promotion = Promotion(
            id=f"{ticket.id}-promotion",
            model=model,
            ticket_id=ticket.id,
            kind="promotion",
            version=str(number + 1),
            previous=ticket.champion,
            status="done",
            reason="it passed its rollout",
            who="mooring",
            created=now,
            ended=now,
        )
        tickets.move(ticket, "promoted", "promoted", {"version": str(number + 1)}, promotion=promotion)
    if place % 10 == 7:  # one is under way
        _write_rollout(state, model, "4", "3", None, place, None)


def _gate_verdict(model: str, passed: bool, number: int) -> gate.GateVerdict:
    checks = tuple(
        gate.Check(name, passed or name != "better", f"{name}: {value:g} of {limit:g}", value, limit)
        for name, value, limit in (
            ("better", 0.043 if passed else 0.003, 0.01),
            ("threshold", 0.81, 0.75),
            ("latency", 1.1, 2.0),
            ("size", 1.3, 4.0),
            ("schema", 1.0, 1.0),
        )
    )
    return gate.GateVerdict(
        model=model,
        champion=str(max(1, number - 1)),
        candidate=str(number + 1),
        passed=passed,
        checks=checks,
        metric="accuracy",
        champion_value=0.78,
        candidate_value=0.82 if passed else 0.785,
        improvement=0.043 if passed else 0.003,
        low=0.02 if passed else -0.01,
        confidence=0.95,
        rows=1000,
    )


def _write_rollout(
    state: State, model: str, version: str, previous: str, ticket_id: str | None, place: int, number: int | None
) -> None:
    rollouts = Rollouts(state)
    steps = rollout_plan.parse(["shadow 20% 10m 500", "canary 5%", "canary 50%"])
    cause = "challenger" if ticket_id else "moved"
    rollout = rollouts.open(new(model, version, previous, cause, steps, ticket_id=ticket_id))
    guards = _guards(place)
    evidence = {"guards": guards.state(), "rows": msgspec.to_builtins(guards.rows())}

    def on(status: str, what: str, **changes: object) -> None:
        nonlocal rollout
        after = moved(rollout, status, **changes)  # type: ignore[arg-type]
        rollout = rollouts.move(rollout, after, what, {"version": version})

    on("checking", "loaded")
    on("stepping", "step")
    counts = {"champion": 900, "canary": 50, "shadow": 200}
    for step in range(1, len(steps)):
        on("stepping", "step", step=step, seconds=12.0, requests=50 * step, counts=counts, evidence=evidence)
    if number is None:
        return
    on("promoting", "full")
    on("promoted", "promoted")
    served = Served(model=model, host="host-1", follows="@champion", version=version, since=datetime.now(UTC))
    rollouts.put_serving(served)


def _guards(place: int) -> Guards:
    random = np.random.default_rng(place)
    old = random.normal(size=300)
    tables = [pa.table({"prediction": values}) for values in (old, old + random.normal(0, 0.1, 300))]
    guards = Guards(Limits(), difference(*tables, np.arange(300), classes=False))
    for value in old:
        before, after = (f'{{"predictions": [{one}]}}'.encode() for one in (value, value + random.normal(0, 0.1)))
        guards.observe(Outcome("3", "champion", True, 0.01, before))
        guards.observe(Outcome("4", "shadow", True, 0.012, after, True, 0.01, before))
    return guards


def models_of(url: str) -> Iterator[str]:
    """Yield the models of a state that was built before."""
    with State(url) as state:
        yield from sorted({one.model for one in Windows(state).watched()})


def main() -> None:
    """Build one, to look at."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--windows", type=int, default=1000)
    parser.add_argument("--profiles", type=int, default=100)
    given = parser.parse_args()
    path = given.url.removeprefix("sqlite:///")
    if Path(path).exists():
        sys.exit(f"{path} is there already")
    build(given.url, given.models, given.features, given.windows, profiles=given.profiles, say=print)


if __name__ == "__main__":
    main()
