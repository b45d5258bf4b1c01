"""From the spool to Parquet: rows per second, CPU per row, and memory as the number of rows grows.

    python bench/drain.py [--rounds 3] [--big 10000000]

Each run is `mooring drain` as a process of its own, over a spool that this script wrote.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import machine, save

from mooring.exchange import Exchange, encode
from mooring.ids import new_request_id
from mooring.spool import SpoolWriter

COLUMNS = [
    "fixed acidity", "volatile acidity", "citric acid", "residual sugar", "chlorides", "free sulfur dioxide",
    "total sulfur dioxide", "density", "pH", "sulphates", "alcohol",
]  # fmt: skip
TARGET_US = 5.0


def fill(spool: Path, rows: int, rows_per_request: int) -> int:
    """Write exchanges of `rows` rows in all, and return how many segments they are."""
    rng = random.Random(1)
    bodies = []
    for _ in range(64):
        data = [[round(rng.uniform(0, 200), 3) for _ in COLUMNS] for _ in range(rows_per_request)]
        request = json.dumps({"dataframe_split": {"columns": COLUMNS, "data": data}}).encode()
        response = json.dumps({"predictions": [rng.uniform(3, 9) for _ in data]}).encode()
        bodies.append((request, response))
    writer = SpoolWriter(spool, segment_seconds=1e9)
    batch = []
    for number in range(rows // rows_per_request):
        request, response = bodies[number % len(bodies)]
        batch.append(
            encode(
                Exchange(
                    request_id=new_request_id(),
                    time_ns=time.time_ns(),
                    request=request,
                    response=response,
                    model="m",
                )
            )
        )
        if len(batch) == 256:
            writer.append(batch)
            batch = []
    writer.append(batch)
    writer.close()
    return len(list(spool.glob("*/*.segment")))


def drain(directory: Path) -> tuple[float, float, float]:
    """Drain, and return wall seconds, CPU seconds and peak memory in MiB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    command = [sys.executable, "-m", "mooring", "drain", "--log", str(directory / "log")]
    code = (
        "import resource, runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_module('mooring', run_name='__main__')\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command[2:]], check=True, stdout=subprocess.PIPE)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, int(done.stdout.split()[-1]) / 1024


def main() -> None:
    """Run all, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--big", type=int, default=0, help="rows of one more run, for the memory it takes")
    arguments = parser.parse_args()
    lines = [
        "| rows | rows a request | CPU µs a row | rows/s | peak MiB |",
        "|---|---|---|---|---|",
    ]
    runs = [(arguments.rows, 1), (arguments.rows * 4, 100)]
    if arguments.big:
        runs.append((arguments.big, 100))
    for rows, rows_per_request in runs:
        results = []
        for _ in range(1 if rows == arguments.big else arguments.rounds):
            with tempfile.TemporaryDirectory() as name:
                directory = Path(name)
                fill(directory / "log" / ".spool", rows, rows_per_request)
                results.append(drain(directory))
        cpus = [cpu / rows * 1e6 for _, cpu, _ in results]
        speeds = [rows / wall for wall, _, _ in results]
        lines.append(
            f"| {rows:,} | {rows_per_request} | {statistics.median(cpus):.2f} ({min(cpus):.2f}–{max(cpus):.2f}) "
            f"| {statistics.median(speeds):,.0f} | {max(memory for _, _, memory in results):.0f} |"
        )
        print(lines[-1], flush=True)
    text = f"Medians of {arguments.rounds} rounds, with the spread; target: {TARGET_US:g} µs a row.\n\n"
    save("drain", "From the spool to Parquet", text + "\n".join(lines) + f"\n\n{machine()}\n")


if __name__ == "__main__":
    main()
