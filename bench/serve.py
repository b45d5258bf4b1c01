"""`mlflow models serve` and `mooring serve` with capture: requests a second, and what happens under overload.

    python bench/serve.py --plain PYTHON --fast PYTHON [--seconds 2] [--rounds 5]

PYTHON is that of an environment with MLflow, scikit-learn and pandas: --plain has what these install and no more,
--fast has uvloop and httptools beside. In each round all servers are started anew, and each load is put on one
after the other, so that the ratios are of runs that lie a few seconds apart; those not asked have nothing to do.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import NamedTuple

import uvloop
from proxy import LUA, parse_wrk, version
from report import machine, save
from wine import SAMPLE

from mooring.demo.processes import free_ports, running, wait_for, wait_until_up

MODEL = "models:/sklearn-monitor@champion"
NAMES = FAST, PLAIN, MOORING = "MLflow on uvloop", "MLflow as installed", "Mooring"
WORKERS = (1, 2)
CONNECTIONS = (1, 16)
ROWS = (1, 100, 1000)
OVERLOADS = (128, 512)
OVERLOAD_SECONDS = 4
SEGMENT_SECONDS = 1
"""So that the drain works while the run lasts whose requests it works on, and little longer."""
NEVER_BELOW = 0.97
TARGETS = {(1, 1): 1.1, (1, 16): 1.1, (2, 1): 5.0, (2, 16): 2.0}
"""What is wanted against MLflow's own install, by workers and connections."""
VERSIONS = """
from importlib.metadata import distributions
print(*(f"{found.name}={found.version}" for found in distributions()))
"""
_IDLE_SECONDS = 0.3
_IDLE_SHARE = 0.1


class Load(NamedTuple):
    """What is put on a server: so many connections, each asking anew once it is answered, of so many rows each."""

    connections: int
    rows: int


class Contender(NamedTuple):
    """A server with so many processes, where it listens, and its first process."""

    name: str
    workers: int
    port: int
    process: subprocess.Popen[bytes]


class Figures(NamedTuple):
    """What one run gave, and the CPU that a request took: of the model servers, the front, and the drain."""

    rate: float
    p50_ms: float
    p99_ms: float
    servers_us: float
    front_us: float
    drain_us: float


class Overload(NamedTuple):
    """What clients saw who ask more than a server can do."""

    rate: float
    p50_ms: float
    p99_ms: float
    refused: float


# The servers


def environment(python: str) -> dict[str, str]:
    """Return the variables of a process that lives in Python's environment: MLflow starts its server by name."""
    return {**os.environ, "PATH": os.pathsep.join([str(Path(python).parent), os.environ["PATH"]])}


def installed(python: str) -> dict[str, str]:
    """Return the versions of what is installed beside a Python."""
    done = subprocess.run([python, "-c", VERSIONS], check=True, capture_output=True, text=True)
    return dict(found.split("=", 1) for found in done.stdout.split())


def check(plain: dict[str, str], fast: dict[str, str], own: dict[str, str]) -> None:
    """End where the environments are not what the comparison needs."""
    for name in ("uvloop", "httptools"):
        if name in plain or name not in fast:
            sys.exit(f"{name} belongs into the environment of --fast and not into that of --plain")
    for name in ("mlflow", "scikit-learn", "pandas", "numpy", "uvicorn"):
        if not plain.get(name) == fast.get(name) == own.get(name):
            found = ", ".join(str(each.get(name)) for each in (plain, fast, own))
            sys.exit(f"{name} has to be the same in all environments: {found}")


@contextmanager
def all_running(
    directory: Path, kinds: Sequence[tuple[str, int]], plain: str, fast: str, flags: Sequence[str]
) -> Iterator[list[Contender]]:
    """Run servers, and yield them once each answers."""
    directory.mkdir()
    found, logs = [], []
    with ExitStack() as stack:
        for (name, workers), port in zip(kinds, free_ports(len(kinds)), strict=True):
            own = directory / f"{name.replace(' ', '-')}-{workers}"
            own.mkdir()
            options = ["--port", str(port), "--workers", str(workers)]
            if name == MOORING:
                command = [sys.executable, "-m", "mooring", "serve", MODEL, *options, "--log", str(own / "log")]
                command += ["--admin-port", "-1", "--segment-seconds", str(SEGMENT_SECONDS), *flags]
            else:
                python = plain if name == PLAIN else fast
                options += ["--env-manager", "local", "--model-uri", MODEL]
                # By its path in the environment's directory: that is where it looks for uvicorn.
                command = ["env", f"PATH={environment(python)['PATH']}", python, "-m", "mlflow", "models", "serve"]
                command += options
            logs.append(own / "output.log")
            process = stack.enter_context(running(command, own, logs[-1]))
            found.append(Contender(name, workers, port, process))
        for contender, log in zip(found, logs, strict=True):
            wait_until_up(contender.port, contender.process, log)
        yield found


# What they cost


class Processes(NamedTuple):
    """A server's processes, by what they do; MLflow has model servers alone."""

    servers: list[int]
    front: list[int]
    drain: list[int]

    @classmethod
    def of(cls, contender: Contender) -> Processes:
        """Find them."""
        first = contender.process.pid
        started = descendants(first)
        if contender.name != MOORING:
            return cls([first, *started], [], [])
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in started}
        servers = [pid for pid, command in commands.items() if b"model_server.py" in command]
        drain = [pid for pid, command in commands.items() if b"\0drain\0" in command]
        return cls(servers, [first], drain)


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, from whichever of its threads, and those that they have."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    started = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    return started + [further for child in started for further in descendants(child)]


def cpu_us(pids: Iterable[int]) -> float:
    """Return the microseconds of CPU that processes have taken so far."""
    threads = (thread for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir())
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1000


def settle(drain: Sequence[int]) -> None:
    """Return once the drain has put all of the last run into the log, so that it costs the next server nothing."""
    last = cpu_us(drain), time.monotonic()

    def idle() -> bool:
        nonlocal last
        before, at = last
        now = time.monotonic()
        if now - at < _IDLE_SECONDS:
            return False
        last = cpu_us(drain), now
        return last[0] - before < (now - at) * 1e6 * _IDLE_SHARE

    wait_for(idle, 120, "the drain does not come to an end")


def measure(contender: Contender, script: Path, connections: int, seconds: float) -> Figures:
    """Put a load on a server, and return its figures."""
    processes = Processes.of(contender)
    before = [cpu_us(pids) for pids in processes]
    url = f"http://127.0.0.1:{contender.port}/invocations"
    load = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), url]
    output = subprocess.run(load, capture_output=True, text=True, check=True).stdout
    if bad := re.search(r"Non-2xx.*|Socket errors.*", output):
        sys.exit(f"{contender.name} with {contender.workers} workers fails: {bad[0]}")
    requests, rate, p50, p99 = parse_wrk(output)
    servers, front, _ = ((cpu_us(pids) - b) / requests for pids, b in zip(processes, before, strict=True))
    if processes.drain:
        time.sleep(SEGMENT_SECONDS)
        settle(processes.drain)
    drain = (cpu_us(processes.drain) - before[2]) / requests
    return Figures(rate, p50, p99, servers, front, drain)


# Overload


async def ask_on(port: int, request: bytes, end: float, answers: list[tuple[int, float]]) -> None:
    """Ask again and again, as soon as there is an answer, or when a refusal says; keep statuses and times."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < end:
        started = time.monotonic()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
        status = int(head[9:12])
        answers.append((status, time.monotonic() - started))
        if status == 503:
            await asyncio.sleep(int(re.search(rb"retry-after: (\d+)", head)[1]))
    writer.close()


async def overload(port: int, body: bytes, connections: int, seconds: float) -> Overload:
    """Have so many clients ask; return once all are answered."""
    head = "POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    answers: list[tuple[int, float]] = []
    started = time.monotonic()
    clients = (ask_on(port, request, started + seconds, answers) for _ in range(connections))
    await asyncio.gather(*clients)
    took = time.monotonic() - started
    counts = Counter(status for status, _ in answers)
    if counts.keys() - {200, 503}:
        sys.exit(f"answers under overload have these statuses: {counts}")
    times = sorted(time for status, time in answers if status == 200)
    p50, p99 = (times[int(len(times) * share)] * 1000 for share in (0.5, 0.99))
    return Overload(len(times) / took, p50, p99, counts[503] / len(answers))


# What is written


Results = dict[tuple[Load, str, int], list[Figures]]
Overloaded = dict[tuple[int, str], list[Overload]]


def ratios(results: Results, load: Load, workers: int, other: str) -> list[float]:
    """Return Mooring's rate over another's, round by round."""
    pairs = zip(results[load, MOORING, workers], results[load, other, workers], strict=True)
    return [own.rate / others.rate for own, others in pairs]


def median(values: Iterable[tuple[float, ...]]) -> list[float]:
    """Return the median of each figure."""
    return [statistics.median(each) for each in zip(*values, strict=True)]


def measured(results: Results) -> list[tuple[Load, int]]:
    """Return the rows of the tables: loads, and numbers of worker processes."""
    return sorted({(load, workers) for load, _, workers in results}, key=lambda one: (one[1], one[0]))


def ratio_cell(found: Sequence[float], target: float) -> str:
    """Return ratios as their median and spread, and the target where the median misses it."""
    middle = statistics.median(found)
    text = f"{middle:.2f}× ({min(found):.2f}–{max(found):.2f})"
    return text if middle >= target else f"**{text}**, not {target:g}"


def rates(results: Results) -> str:
    """Return the table of throughput."""
    lines = [
        "| workers | connections | rows a request | MLflow on uvloop | as installed | Mooring | to uvloop "
        "| to installed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for load, workers in measured(results):
        middle = [median(results[load, name, workers])[0] for name in NAMES]
        target = TARGETS[workers, load.connections] if load.rows == 1 else NEVER_BELOW
        cells = [f"{rate:,.0f}/s" for rate in middle]
        cells.append(ratio_cell(ratios(results, load, workers, FAST), NEVER_BELOW))
        cells.append(ratio_cell(ratios(results, load, workers, PLAIN), target))
        lines.append(f"| {workers} | {load.connections} | {load.rows:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def details(results: Results) -> str:
    """Return the table of latencies, and of the CPU that a request takes."""
    lines = [
        "| workers | connections | rows a request | p99 ms: MLflow on uvloop | as installed | Mooring "
        "| CPU µs: MLflow on uvloop | as installed | Mooring's model servers | front | drain |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for load, workers in measured(results):
        found = [median(results[load, name, workers]) for name in NAMES]
        cells = [f"{p99:,.1f}" for _, _, p99, *_ in found]
        cells += [f"{cpu:,.0f}" for cpu in (found[0][3], found[1][3], *found[2][3:])]
        lines.append(f"| {workers} | {load.connections} | {load.rows:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def overloads(results: Overloaded) -> str:
    """Return the table of overload."""
    lines = ["| clients | server | answered | p50 ms | p99 ms (spread) | refused |", "|---|---|---|---|---|---|"]
    for (connections, name), runs in results.items():
        rate, p50, p99, refused = median(runs)
        spread = f"{min(run.p99_ms for run in runs):,.0f}–{max(run.p99_ms for run in runs):,.0f}"
        lines.append(
            f"| {connections} | {name} | {rate:,.0f}/s | {p50:,.0f} | {p99:,.0f} ({spread}) | {refused:.0%} |"
        )
    return "\n".join(lines) + "\n"


def written(results: Results, overloaded: Overloaded, rounds: int, seconds: int) -> str:
    """Return the section's text."""
    targets = "; ".join(
        f"{workers} {'worker' if workers == 1 else 'workers'}, {connections} "
        f"{'connection' if connections == 1 else 'connections'}: {target:g}×"
        for (workers, connections), target in TARGETS.items()
    )
    text = (
        "`mooring serve` with capture, beside `mlflow models serve` with uvloop and httptools, which is the "
        "most that MLflow gives here, and beside MLflow as its own install gives it, on asyncio. There two "
        "workers share a listening socket that uvicorn makes with protocol 0, on which asyncio does not set "
        "TCP_NODELAY: each request on a connection that is kept waits about 40 ms for a delayed ACK; on "
        "uvloop none does. So with two workers and one connection, compare with the column of uvloop. "
        f"Medians of {rounds} rounds of {seconds} s, in turn; ratios are of runs of "
        f"one round, with their spread. Wanted of requests of one row against MLflow's own install: {targets}; "
        f"everywhere and against either, {NEVER_BELOW}×. What misses that is set bold. The drain closes a segment "
        f"each second, so that its work falls into the run that made it.\n\n{rates(results)}\n"
        f"Latency, and the CPU time that a request takes:\n\n{details(results)}\n"
    )
    if not overloaded:
        return text
    return (
        f"{text}Overload: clients that ask anew as soon as they are answered, requests of one row, {max(WORKERS)} "
        "workers; a client that is refused waits as Retry-After says. p50 and p99 are of the answers that hold "
        f"predictions.\n\n{overloads(overloaded)}"
    )


def bodies(directory: Path) -> dict[int, Path]:
    """Write a request of each size, of rows of the sample, and what has wrk send it; return where that is."""
    with SAMPLE.open() as file:
        header, *lines = csv.reader(file)
    inputs = [at for at, name in enumerate(header) if name != "quality"]
    scripts = {}
    for rows in ROWS:
        data = [[float(line[at]) for at in inputs] for line in lines[:rows]]
        body = directory / f"{rows}.json"
        body.write_text(json.dumps({"dataframe_split": {"columns": [header[at] for at in inputs], "data": data}}))
        scripts[rows] = body.with_suffix(".lua")
        scripts[rows].write_text(LUA.format(body=body))
    return scripts


def run_round(
    contenders: Sequence[Contender],
    scripts: dict[int, Path],
    loads: Sequence[Load],
    seconds: int,
    results: Results,
) -> None:
    """Put each load on each server."""
    for load in loads:
        for contender in contenders:
            figures = measure(contender, scripts[load.rows], load.connections, seconds)
            results[load, contender.name, contender.workers].append(figures)
            print(f"{contender.workers} x {contender.name}, {load}: {figures}", flush=True)


def main() -> None:
    """Run all, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plain", required=True, help="Python of MLflow's own install")
    parser.add_argument("--fast", required=True, help="Python of the same with uvloop and httptools")
    parser.add_argument("--seconds", type=int, default=2, help="length of a run")
    parser.add_argument("--rounds", type=int, default=5)
    trying = parser.add_argument_group("to try something; nothing is saved then")
    trying.add_argument("--rows", type=int, nargs="+", choices=ROWS, help="rows a request, of those there are")
    trying.add_argument("--workers", type=int, choices=WORKERS, help="with so many processes only")
    trying.add_argument("--flags", help="further flags of mooring serve")
    trying.add_argument("--no-overload", action="store_true")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # with what it has started
    # Not resolved: an environment's Python is a link, and is the environment's by where the link is.
    plain, fast = (os.path.abspath(python) for python in (arguments.plain, arguments.fast))
    check(installed(plain), installed(fast), installed(sys.executable))
    os.environ["PATH"] = environment(sys.executable)["PATH"]
    loads = [Load(*load) for load in product(CONNECTIONS, arguments.rows or ROWS)]
    kinds = [(name, workers) for workers in WORKERS for name in NAMES if arguments.workers in (None, workers)]
    results: Results = defaultdict(list)
    overloaded: Overloaded = defaultdict(list)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        directory = Path(name)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{directory}/mlflow.db"
        train = [sys.executable, "-m", "mooring.demo.train"]
        subprocess.run(train, cwd=directory, check=True, capture_output=True)
        scripts = bodies(directory)
        small = scripts[1].with_suffix(".json").read_bytes()
        for number in range(arguments.rounds):
            print(f"round {number + 1}", flush=True)
            within = directory / f"round{number}"
            with all_running(within, kinds, plain, fast, shlex.split(arguments.flags or "")) as contenders:
                for contender, script in product(contenders, scripts.values()):
                    # What is done once is done.
                    uvloop.run(overload(contender.port, script.with_suffix(".json").read_bytes(), 4, 0.3))
                run_round(contenders, scripts, loads, arguments.seconds, results)
                for connections, contender in product(OVERLOADS, contenders):
                    if contender.workers != max(WORKERS) or arguments.no_overload:
                        continue
                    seen = uvloop.run(overload(contender.port, small, connections, OVERLOAD_SECONDS))
                    overloaded[connections, contender.name].append(seen)
                    print(f"{contender.workers} x {contender.name}, {connections} clients: {seen}", flush=True)
            shutil.rmtree(within, ignore_errors=True)
    text = written(results, overloaded, arguments.rounds, arguments.seconds)
    print(text)
    if not (arguments.rows or arguments.workers or arguments.flags or arguments.no_overload):
        others = installed(plain)
        names = ("scikit-learn", "pandas", "uvicorn", "fastapi")
        packages = ", ".join(f"{name} {others[name]}" for name in names)
        save("serve", "Serving", f"{text}\n{machine(packages, version(['wrk', '-v']))}\n")


if __name__ == "__main__":
    main()
