"""How long the dashboard takes for each page, with a state as of weeks of many wide models.

    python bench/ui.py [--models 100] [--features 200] [--windows 1000] [--state sqlite:///state.db]

Builds the state, or takes the one that --state names, where it is there. Then a `mooring ui` of its own is asked
for every page, one after the other, of another model in each round. Cold is a page's first answer of a new
process; each process begins with another page.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import numpy as np
from report import machine, save
from ui_state import build, models_of

from mooring.demo.processes import running, wait_for
from mooring.state.retrainings import Tickets
from mooring.state.rollouts import Rollouts
from mooring.state.state import State
from mooring.state.verdicts import Verdicts
from mooring.state.windows import Windows

TARGET = 200.0
START_SECONDS = 60.0


class Took(NamedTuple):
    """Milliseconds: what the server says that it took, and what the client waited. And the answer's size in KB."""

    server: float
    client: float
    size: float


def paths(state: State, model: str) -> dict[str, str]:
    """Return what is asked for of a model, by the page's name."""
    [*_, judged] = [one for one in Windows(state).history(model, newest=10, status="closed") if one.verdict]
    assert judged.verdict is not None
    cells = Verdicts(state).cells([judged.verdict.id]).get(judged.verdict.id) or {}
    feature = quote(next(iter(cells), "prediction"), safe="")
    of_it = f"/models/{quote(model, safe='')}"
    pages = {
        "/": "/",
        "/models/{model}": of_it,
        "/models/{model}?window=…&feature=…": f"{of_it}?window={judged.window.id}&feature={feature}",
        "/models/{model}/features/{feature}": f"{of_it}/features/{feature}",
        "/models/{model}/rollouts/{number}": f"{of_it}/rollouts/{Rollouts(state).newest(model, 1)[0].number}",
        "/models/{model}/retrainings/{number}": f"{of_it}/retrainings/{Tickets(state).newest(model, 1)[0].number}",
        "/history": "/history",
        "/capture": "/capture",
    }
    apis = {f"/api{name if name != '/' else '/models'}": f"/api{at if at != '/' else '/models'}"
            for name, at in pages.items()}  # fmt: skip
    return pages | apis


def ask(connection: HTTPConnection, path: str) -> Took:
    """Ask for a page; ends the benchmark where there is none."""
    began = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    client = (time.perf_counter() - began) * 1000
    if answer.status != 200:
        sys.exit(f"{path} answers {answer.status}: {body[:300]!r}")
    timing = answer.getheader("Server-Timing", "")
    return Took(float(timing.partition("dur=")[2]), client, len(body) / 1000)


@contextmanager
def dashboard(url: str, log: str) -> Iterator[str]:
    """Run `mooring ui` in an empty directory, and yield its address."""
    with tempfile.TemporaryDirectory() as name:
        output = Path(name, "output")
        command = [sys.executable, "-m", "mooring", "ui", "--port", "0", "--state", url]
        command += ["--log", log] if log else []
        with running(command, Path(name), output) as process:

            def told() -> bool:
                return process.poll() is not None or "\n" in output.read_text()

            wait_for(told, START_SECONDS, "the dashboard does not start")
            lines = [line for line in output.read_text().splitlines() if line.startswith("http://")]
            if not lines:
                sys.exit(f"the dashboard does not start: {output.read_text()}")
            yield lines[0]


def measure(
    url: str, asked: list[dict[str, str]], rounds: int, processes: int, log: str
) -> dict[str, list[list[Took]]]:
    """Return, for each page, what each process took: the first answer, then those of the rounds."""
    found: dict[str, list[list[Took]]] = {name: [] for name in asked[0]}
    names = list(found)
    turn = 0
    for number in range(processes):
        first = number * len(names) // processes
        order = [*names[first:], *names[:first]]
        with dashboard(url, log) as address:
            connection = HTTPConnection(urlsplit(address).netloc)
            for _ in range(1 + rounds):
                for page in order:
                    took = ask(connection, asked[turn % len(asked)][page])
                    if len(found[page]) == number:
                        found[page].append([])
                    found[page][number].append(took)
                turn += 1
            connection.close()
    return found


def lines_of(found: dict[str, list[list[Took]]]) -> list[str]:
    """Return the table: warm answers, the first ones beside them."""
    lines = [
        "| page | server ms: median | p95 | worst | cold: median | cold: worst | client ms | KB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, of_processes in found.items():
        warm = [took for runs in of_processes for took in runs[1:]]
        server = [took.server for took in warm]
        cold = [runs[0].server for runs in of_processes]
        lines.append(
            f"| `{name}` | {statistics.median(server):.0f} | {np.quantile(server, 0.95):.0f} | {max(server):.0f} "
            f"| {statistics.median(cold):.0f} | {max(cold):.0f} "
            f"| {statistics.median(took.client for took in warm):.0f} "
            f"| {statistics.median(took.size for took in warm):.0f} |"
        )
    return lines


def main() -> None:
    """Run all, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--windows", type=int, default=1000)
    parser.add_argument(
        "--profiles", type=int, default=100, help="newest windows of a model that have theirs still"
    )
    parser.add_argument("--state", help="a state that was built before, or where it is to lie")
    parser.add_argument("--log", default="", help="an inference log for the page of the capture")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--dry", action="store_true", help="write nothing to the page of the benchmarks")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        url = given.state or f"sqlite:///{name}/state.db"
        path = Path(url.removeprefix("sqlite:///")).absolute()
        if url.startswith("sqlite:") and path.exists():
            models = list(models_of(url))
        else:
            sizes = (given.models, given.features, given.windows)
            models = build(url, *sizes, profiles=given.profiles, say=lambda line: print(line, flush=True))
        with State(url) as state:
            asked = [paths(state, model) for model in models]
            features = len(
                next(
                    iter(
                        Verdicts(state)
                        .cells([Windows(state).history(models[0], newest=50)[0].verdict.id])
                        .values()
                    )
                )
            )
        found = measure(url, asked, given.rounds, given.processes, given.log)
        size = os.path.getsize(path) / 1e9 if path.exists() else 0.0
    lines = lines_of(found)
    print("\n".join(lines))
    worst = max(np.quantile([took.server for runs in each for took in runs[1:]], 0.95) for each in found.values())
    text = (
        f"{len(models)} models of {features} features, {given.windows:,} windows of each, the newest "
        f"{given.profiles} with their profiles: {size:.1f} GB in SQLite. {given.processes} processes, "
        f"{given.rounds} rounds each over all pages, of another model each time. Server time is what the answer's "
        "`Server-Timing` says; cold is the first answer of that page in a new process. Target: below "
        f"{TARGET:.0f} ms; the slowest page's p95 is {worst:.0f} ms.\n\n"
    )
    if not given.dry:
        save("ui", "The dashboard", text + "\n".join(lines) + f"\n\n{machine()}\n")


if __name__ == "__main__":
    main()
