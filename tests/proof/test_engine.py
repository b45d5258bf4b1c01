"""Large files: read to their end, in bounded memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mooring.drift.baseline import make
from mooring.engine.local import profile_of
from mooring.engine.sources import batches, columns


def test_memory_does_not_grow_with_the_file(tmp_path):
    part = pa.table({f"x{number}": np.random.default_rng(number).normal(size=200_000) for number in range(8)})
    (tmp_path / "made.baseline").write_bytes(make(columns(part.slice(0, 20_000))).to_bytes())
    code = (
        "import sys; from pathlib import Path; from mooring.drift.baseline import Baseline\n"
        "from mooring.engine.local import profile_of\n"
        "profile_of(sys.argv[1], Baseline.from_bytes(Path(sys.argv[2]).read_bytes()))\n"
        "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    peaks = []
    for parts in (2, 16):
        path = tmp_path / "data.parquet"
        with pq.ParquetWriter(path, part.schema) as writer:
            for _ in range(parts):
                writer.write_table(part)
        done = subprocess.run(
            [sys.executable, "-c", code, path, tmp_path / "made.baseline"],
            check=True,
            capture_output=True,
            text=True,
        )
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 40, peaks  # MiB; the columns of the larger file alone have 170


def test_a_csv_whose_columns_change_further_on_is_read_to_its_end(tmp_path):
    path = tmp_path / "late.csv"
    lines = [f"{number};{number};x{number}" for number in range(1_200_000)]
    lines[-2] = "1.5;many;y"
    path.write_text("\n".join(["whole;number;text", *lines]) + "\n")
    whole = dict(columns(path))
    assert {name: str(column.type) for name, column in whole.items()} == {
        "whole": "double",
        "number": "string",
        "text": "string",
    }
    assert sum(batch.num_rows for batch in batches(path)) == len(whole["whole"]) == len(lines)
    baseline = make({"number": pa.array(np.arange(1000.0))})
    found = profile_of(path, baseline).features["number"]
    assert found.misfits >= 1
    assert found.values.values + found.misfits == len(lines)
