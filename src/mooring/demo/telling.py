"""What the demonstration tells at its end: verdicts, what came of them, and how the requests fared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import dropwhile, groupby, takewhile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mooring.demo.traffic import DemoTraffic
from mooring.demo.train import MODEL
from mooring.registry import aliases, versions
from mooring.retrain.history import Entry, history
from mooring.state.assessments import Assessment, Assessments
from mooring.state.rollouts import Event, Rollout, Rollouts
from mooring.state.state import State
from mooring.state.windows import Windows
from mooring.status import STATUSES, Status

_WINDOWS = 100
_ALIKE = 4


def show(console: Console, state: State) -> None:
    """Show the verdicts, and each retraining from the drift to what came of it."""
    console.rule("What the monitor found")
    assessed = {one.window.id: one for one in Assessments(state).history(MODEL, newest=_WINDOWS)}
    table = Table("until", "version", "drift", "rmse", "performance")
    rows = []
    for window, verdict in sorted(Windows(state).history(MODEL, newest=_WINDOWS), key=lambda one: one.window.end):
        if verdict is None:
            continue
        one = assessed.get(window.id)
        version = f"{window.version}" + ("" if window.variant == "champion" else f" ({window.variant})")
        performance = _coloured(one.status) if one is not None else ""
        rows.append((f"{window.end:%H:%M:%S}", version, _coloured(verdict.status), _error(one), performance))
    for row in _folded(rows):
        table.add_row(*row)
    console.print(table)
    console.rule("What came of it")
    for entry in history(state, MODEL):
        console.print(f"[bold]Retraining {entry.number}[/]: {entry.reason}", highlight=False, soft_wrap=True)
        for at, what, says in sorted(_steps(entry) + _events(state, entry), key=lambda one: one[0]):
            console.print(f"  {at:%H:%M:%S}  {what:<11} {says}".rstrip(), highlight=False, soft_wrap=True)
    console.print(_errors_in_words(list(assessed.values())), highlight=False, soft_wrap=True)


def show_traffic(console: Console, state: State, traffic: DemoTraffic, drifted: datetime) -> None:
    """Show how the requests fared, and how long it took from the first drifted one to a new champion."""
    console.rule("How the clients fared")
    versions = [f"version {version} answered {count:,}" for version, count in sorted(traffic.answered.items())]
    says = (
        f"{traffic.requests:,} requests without a pause, {traffic.failed.total():,} failed; {', '.join(versions)}."
    )
    if traffic.failed:
        where = ", ".join(f"{count:,} at version {version}" for version, count in sorted(traffic.failed.items()))
        says += f" Failed: {where}; the last one with: {traffic.last_failure}"
    console.print(says, highlight=False, soft_wrap=True)
    for rollout, events in _rolled(state):
        full = next((event.at for event in events if event.what == "full"), None)
        if full is not None and rollout.status == "promoted":
            console.print(
                f"From the first drifted request until version {rollout.version} answered all of them: "
                f"{(full - drifted).total_seconds():.0f} seconds.",
                highlight=False,
                soft_wrap=True,
            )


def show_rollback(console: Console, state: State, traffic: DemoTraffic, alerts: Path) -> None:
    """Show why a version was rolled back, and where that is written."""
    for rollout, _ in _rolled(state):
        if rollout.status != "rolled_back":
            continue
        told = rollback_alert(alerts)
        tags = versions.tags_of(MODEL, rollout.version)
        says = [
            f"Version {rollout.version} was rolled back, version {rollout.previous} answers everything again.",
            f"  guard   {rollout.reason}",
            *(
                f"  tag     {name} = {tags[name]}"
                for name in (aliases.ROLLOUT, aliases.ROLLOUT_REASON)
                if name in tags
            ),
            f"  alert   {told['text'] if told else 'none was sent'}",
        ]
        if traffic.failed[rollout.version]:
            says.append(
                "The requests that failed were the canary's: clients did see that. A canary's share is small so "
                "that they are few."
            )
        console.print("\n".join(says), highlight=False, soft_wrap=True, markup=False)


def rollback_alert(alerts: Path) -> dict[str, Any] | None:
    """Return the alert of a rollback among those that the alert command has written, None before it is there."""
    if not alerts.exists():
        return None
    lines = alerts.read_text(encoding="utf-8").splitlines(keepends=True)
    told = [json.loads(line) for line in lines if line.endswith("\n")]
    return next((one for one in told if one["kind"] == "rolled_back"), None)


def event_in_words(event: Event) -> str:
    """Return what happened to a rollout, in a line."""
    says = _event_says(event)
    return f"{event.what}: {says}" if says else event.what


def _folded(rows: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Yield the rows, of many alike only the first ones and the last.

    >>> rows = [(f"{number}", "1", "ok", f"0.{number}", "ok") for number in range(6)]
    >>> [row[0] for row in _folded(rows)]
    ['0', '1', '… 3 more', '5']
    """
    for _, alike in groupby(rows, key=lambda row: (row[1], row[2], row[4])):
        some = list(alike)
        if len(some) > _ALIKE:
            some[2:-1] = [(f"… {len(some) - 3} more", *some[0][1:3], "", some[0][4])]
        yield from some


def _rolled(state: State) -> list[tuple[Rollout, list[Event]]]:
    found = Rollouts(state)
    return [(one, found.events(one.id)) for one in reversed(found.newest(MODEL))]


def _steps(entry: Entry) -> list[tuple[datetime, str, str]]:
    rows = (entry.dataset or {}).get("training_rows")
    words = {
        "opened": "the drift calls for it",
        "dataset": f"{rows} labelled rows to train on, the newest kept back",
        "trained": f"run {(entry.run or '')[:8]}, version {entry.version}, to better version {entry.previous}",
        "gate": _gate_in_words(entry),
        "promoted": f"version {entry.version} is the champion",
        "rolled back": f"version {entry.previous} stays the champion",
    }
    return [(step.at, step.what, words.get(step.what, "")) for step in entry.steps]


def _events(state: State, entry: Entry) -> list[tuple[datetime, str, str]]:
    return [
        (event.at, "rollout", event_in_words(event))
        for rollout, events in _rolled(state)
        if rollout.ticket_id is not None and rollout.ticket_id == entry.ticket
        for event in events
        if event.what not in ("promoted", "rolled back")  # the retraining says so, too
    ]


def _event_says(event: Event) -> str:
    words = {
        "begun": ", ".join([*event.detail.get("plan", []), "full"]),
        "loaded": "its model server answers, and is put requests as a check",
        "full": "it answers all requests",
    }
    told = ", ".join(f"{value}" for value in event.detail.values())
    return words.get(event.what, told)


def _gate_in_words(entry: Entry) -> str:
    """Return what the gate found, the better or worse error first."""
    checks = (entry.gate or {}).get("checks", [])
    told = [check["message"] for check in checks if check["name"] == "better" or not check["passed"]]
    return f"{'passed' if (entry.gate or {}).get('passed') else 'refused'}: {'; '.join(told)}"


def _errors_in_words(assessed: Sequence[Assessment]) -> str:
    """Say what the model's error was before the drift, while it lasted, and with the new version."""
    live = [one for one in assessed if one.window.variant == "champion"]

    def is_ok(one: Assessment) -> bool:
        return one.status == "ok"

    first = [one for one in live if one.window.version == live[0].window.version]
    parts = {
        "before the drift": list(takewhile(is_ok, first)),
        "while it lasted": list(dropwhile(is_ok, first)),
        "with the new champion": [one for one in live if one.window.version != live[0].window.version],
    }
    means = {
        name: sum(one.measures["rmse"].value for one in some) / len(some)
        for name, some in parts.items()
        if some and all("rmse" in one.measures for one in some)
    }
    return "The model's error (rmse): " + ", ".join(f"{value:.2f} {name}" for name, value in means.items())


def _error(assessed: Assessment | None) -> str:
    rmse = assessed.measures.get("rmse") if assessed is not None else None
    return f"{rmse.value:.2f} ({rmse.low:.2f} to {rmse.high:.2f})" if rmse is not None else "no labels yet"


def _coloured(status: Status) -> str:
    return f"[{STATUSES[status].style}]{status}[/]"
