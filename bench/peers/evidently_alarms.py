"""Evidently's DataDriftPreset, with its defaults, over the samples of a directory, in their order.

Runs in an environment of its own. The first sample is the reference. Prints, for each of the others, whether any
column drifted, and whether half of them did.
"""

import json
import sys
import warnings
from pathlib import Path

import pandas as pd

warnings.filterwarnings("ignore")

from evidently import Report  # noqa: E402
from evidently.presets import DataDriftPreset  # noqa: E402

reference, *windows = [pd.read_parquet(path) for path in sorted(Path(sys.argv[1]).glob("*.parquet"))]
found = []
for window in windows:
    metrics = Report([DataDriftPreset()]).run(window, reference).dict()["metrics"]
    [drifted] = [one["value"] for one in metrics if "DriftedColumnsCount" in one["metric_name"]]
    found.append({"any": drifted["count"] > 0, "half": drifted["share"] >= 0.5})
print(json.dumps(found))
