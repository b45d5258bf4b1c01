"""NannyML's univariate drift calculator, with its defaults, over the samples of a directory, in their order.

Runs in an environment of its own. The first sample is the reference; chunks are as large as the others. Prints,
for each of those, whether any column alerts, and whether half of them do.
"""

import json
import sys
import warnings
from pathlib import Path

import pandas as pd

warnings.filterwarnings("ignore")

import nannyml  # noqa: E402

reference, *windows = [pd.read_parquet(path) for path in sorted(Path(sys.argv[1]).glob("*.parquet"))]
columns = list(reference.columns)
calculator = nannyml.UnivariateDriftCalculator(column_names=columns, chunk_size=len(windows[0]))
calculator.fit(reference)
frame = calculator.calculate(pd.concat(windows, ignore_index=True)).filter(period="analysis").to_df()
alerts = frame.xs("alert", axis=1, level=-1)
print(json.dumps([{"any": bool(row.any()), "half": bool(row.mean() >= 0.5)} for _, row in alerts.iterrows()]))
