"""A profile is computed without importing what the data are not."""

from __future__ import annotations

import subprocess
import sys

from engine_tables import as_parquet, table
from mooring.drift.baseline import make, profile_to_bytes
from mooring.engine.local import profile_of
from mooring.engine.sources import columns


def test_profiles_are_computed_without_what_the_data_are_not(tmp_path):
    path, baseline = as_parquet(tmp_path, table()), make(columns(table()))
    (tmp_path / "made.baseline").write_bytes(baseline.to_bytes())
    code = (
        "import sys; from pathlib import Path; from mooring.drift.baseline import Baseline, profile_to_bytes\n"
        "from mooring.engine.local import profile_of\n"
        "found = profile_of(sys.argv[1], Baseline.from_bytes(Path(sys.argv[2]).read_bytes()))\n"
        "Path(sys.argv[3]).write_bytes(profile_to_bytes(found))\n"
        "assert not {'polars', 'mlflow', 'pyspark'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, path, tmp_path / "made.baseline", tmp_path / "p"], check=True)
    assert (tmp_path / "p").read_bytes() == profile_to_bytes(profile_of(path, baseline))
