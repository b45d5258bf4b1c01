"""Drift of a big file on one core: profile, all measures and alarms, beside a bare read and other libraries.

    python bench/drift.py [--rounds 3] [--millions 1 5 20] [--peers-at 1 5]

The reference has 100,000 rows, and what a library can do with it beforehand is not counted. The current files are
Parquet as Mooring's log writes it, 11 numeric columns and two of text with 20 and 2,000 values; the numbers are
the demonstration's wines, once with noise, so that hardly any repeats, and once as they are. Each run is a process
of its own, on one core. Peers are taken from environments of their own, .venv/peers-NAME, as `make bench` makes
them; those that are not there are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
from report import machine, save

import mooring
from mooring.comparison import baseline

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "src" / "mooring" / "demo" / "wine_synthetic.csv"
SCRIPTS = Path(__file__).parent / "peers_drift"
REFERENCE_ROWS = 100_000
PART_ROWS = 250_000
PEERS = {
    "Evidently DataDriftPreset": ("evidently", "evidently_preset.py"),
    "NannyML univariate": ("nannyml", "nannyml_univariate.py"),
    "whylogs": ("whylogs", "whylogs_scores.py"),
    "alibi-detect TabularDrift": ("alibi", "alibi_tabular.py"),
}
READ, OURS = "bare pyarrow read", "Mooring"
READS_TARGET, EVIDENTLY_TARGET, MEMORY_TARGET = 2.0, 60.0, 300


def rows(count: int, random: np.random.Generator, noise: float) -> pa.Table:
    """Return rows of the sample, drawn with replacement."""
    sample = arrow_csv.read_csv(SAMPLE)
    places = random.integers(0, len(sample), count)
    columns: dict[str, object] = {}
    for name in sample.column_names[:11]:
        values = sample[name].to_numpy().astype(float)
        columns[name] = values[places] + noise * values.std() * random.normal(size=count)
    for name, values, most in (("store", 20, 20), ("customer", 2000, 2000)):
        codes = np.minimum(random.zipf(1.3, count) if most > 20 else random.integers(1, 21, count), values) - 1
        names = pa.array([f"{name}-{code:04d}" for code in range(values)])
        columns[name] = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), names).cast(pa.string())
    return pa.table(columns)


def write(path: Path, count: int, noise: float) -> Path:
    """Write a file of so many rows, bit by bit."""
    random = np.random.default_rng(count)
    with pq.ParquetWriter(path, rows(1, random, noise).schema, compression="zstd") as writer:
        for start in range(0, count, PART_ROWS):
            writer.write_table(rows(min(PART_ROWS, count - start), random, noise))
    return path


def run(python: str | Path, script: str, *arguments: Path) -> dict[str, float]:
    """Run a script as a process of its own, and return its seconds and MiB."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = os.environ | single | {"DO_NOT_TRACK": "1", "NML_DISABLE_USAGE_LOGGING": "1"}
    environment |= {"WHYLOGS_NO_ANALYTICS": "True", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [str(python), str(SCRIPTS / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{script}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def peer_python(name: str) -> Path:
    return ROOT / ".venv" / f"peers-{name}" / "bin" / "python"


def peer_versions() -> list[str]:
    """Return each peer's name and version, or that it is not installed."""
    found = []
    for name, (environment, _) in PEERS.items():
        package = {"alibi": "alibi-detect"}.get(environment, environment)
        code = f"from importlib.metadata import version; print(version({package!r}))"
        python = peer_python(environment)
        if python.exists():
            done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
            found.append(f"{package} {done.stdout.strip()}")
        else:
            found.append(f"{name} is not installed and left out")
    return found


def lines_of(label: str, found: dict[str, list[dict[str, float]]]) -> list[str]:
    """Return a line of the table for each of those that ran, the ratios to the bare read's processor seconds."""
    read = statistics.median(one["cpu"] for one in found[READ])
    ours = statistics.median(one["cpu"] for one in found[OURS])
    lines = []
    for name, runs in found.items():
        cpus = [one["cpu"] for one in runs]
        middle, wall = statistics.median(cpus), statistics.median(one["wall"] for one in runs)
        lines.append(
            f"| {label} | {name} | {middle:.2f} ({min(cpus):.2f}–{max(cpus):.2f}) | {wall:.2f} "
            f"| {middle / read:.1f}× | {middle / ours:.1f}× | {max(one['mib'] for one in runs):,.0f} |"
        )
    return lines


def measure(
    current: Path, reference: Path, made: Path, rounds: int, peers: bool
) -> dict[str, list[dict[str, float]]]:
    """Run all in turn, as many rounds; peers that take minutes once."""
    found: dict[str, list[dict[str, float]]] = {}
    for at in range(rounds):
        found.setdefault(READ, []).append(run(sys.executable, "bare_read.py", reference, current))
        found.setdefault(OURS, []).append(run(sys.executable, "ours.py", reference, current, made))
        for name, (environment, script) in PEERS.items() if peers else ():
            python = peer_python(environment)
            slow = at and found[name][0]["wall"] > 60 if name in found else False
            if python.exists() and not slow:
                try:
                    found.setdefault(name, []).append(run(python, script, reference, current))
                except RuntimeError as error:
                    print(f"{name}: {error}", file=sys.stderr)
                    found.pop(name, None)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--millions", type=float, nargs="+", default=[1, 5, 20])
    parser.add_argument("--peers-at", type=float, nargs="*", default=[1], help="millions at which peers run too")
    options = parser.parse_args(arguments)
    lines = [
        "| rows | what | CPU s (spread) | wall s | to the read | to Mooring | peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for kind, noise in (("", 0.05), (" as recorded", 0.0)):
            reference = directory / "reference.parquet"
            made = directory / "reference.baseline"
            pq.write_table(rows(REFERENCE_ROWS, np.random.default_rng(0), noise), reference)
            made.write_bytes(baseline(reference).to_bytes())
            for millions in options.millions if noise else [5]:
                current = write(directory / "current.parquet", int(millions * 1e6), noise)
                peers = bool(noise) and millions in options.peers_at
                found = measure(current, reference, made, options.rounds, peers)
                new = lines_of(f"{millions:g} M{kind}", found)
                print("\n".join(new), flush=True)
                lines += new
    text = (
        f"Medians of {options.rounds} rounds, with the spread, on one core; a peer that takes over a minute runs "
        "once. Profile, all measures and alarms of 13 columns, from Parquet to the result. Targets: at 5 million "
        f"rows at most {READS_TARGET:g} × the bare read; at a million Evidently at least {EVIDENTLY_TARGET:g} × "
        f"Mooring; at most {MEMORY_TARGET} MiB, however many rows. Values of wines as recorded repeat, and are "
        "read in half the time.\n\n"
    )
    programs = [f"numpy {version('numpy')}", f"mooring {mooring.__version__}", *peer_versions()]
    save("drift", "Drift of a big file", text + "\n".join(lines) + f"\n\n{machine(*programs)}\n")


if __name__ == "__main__":
    main()
