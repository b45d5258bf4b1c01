"""The demonstration, run to its end, and what it left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from mooring.state.rollouts import Rollouts
from mooring.state.state import State
from waiting import PATIENCE

DEMO = "sklearn-monitor"


def demo(directory: Path, *options: str) -> tuple[Path, str]:
    """Run the demonstration to its end, and return its directory and what it printed."""
    command = [sys.executable, "-m", "mooring", "demo", "--dir", str(directory / "d"), *options]
    done = subprocess.run(
        command,
        cwd=directory,
        env=plain_environ(),
        capture_output=True,
        text=True,
        check=False,
        timeout=6 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return directory / "d", done.stdout


def plain_environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}


def history_of(place: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "mooring", "history", "--json"]
    told = subprocess.run(command, cwd=place, env=plain_environ(), capture_output=True, text=True, check=True)
    [entry] = json.loads(told.stdout)
    return entry


def rollouts_of(place: Path) -> list[Any]:
    with State(str(place / "state.db")) as state:
        return Rollouts(state).newest(DEMO)


def whats(place: Path) -> list[str]:
    """Return what happened to the only rollout."""
    [rollout] = rollouts_of(place)
    with State(str(place / "state.db")) as state:
        return [event.what for event in Rollouts(state).events(rollout.id)]


def fared(output: str) -> tuple[int, int, Counter[str]]:
    """Return how many requests the demonstration says there were, how many failed, and who answered how many."""
    [line] = [line for line in output.splitlines() if "requests without a pause" in line]
    line = line.replace(",", "")
    requests, failed = re.match(r"(\d+) requests without a pause (\d+) failed", line).groups()
    return (
        int(requests),
        int(failed),
        Counter({v: int(n) for v, n in re.findall(r"version (\d+) answered (\d+)", line)}),
    )


def live(place: Path) -> Counter[str]:
    """Return how many requests the log has of each version, copies left out."""
    payloads = ds.dataset(place / "log" / "payloads", partitioning=None).to_table(
        columns=["model_version", "variant"]
    )
    rows = payloads.to_pylist()
    return Counter(row["model_version"] for row in rows if row["variant"] != "shadow")
