"""The training example, and wines to ask its model of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from serving import ROOT, with_environment

WINES = ROOT.parent / "shared" / "data" / "wine-quality-white.csv"
# In the order of the model's signature.
COLUMNS = [
    *("fixed acidity", "volatile acidity", "citric acid", "residual sugar", "chlorides", "free sulfur dioxide"),
    *("total sulfur dioxide", "density", "pH", "sulphates", "alcohol"),
]
ROWS = [
    [7, 0.27, 0.36, 20.7, 0.045, 45, 170, 1.001, 3, 0.45, 8.8],
    [6.3, 0.3, 0.34, 1.6, 0.049, 14, 132, 0.994, 3.3, 0.49, 9.5],
    [8.1, 0.28, 0.4, 6.9, 0.05, 30, 97, 0.9951, 3.26, 0.44, 10.1],
]
RECORDS = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
SPLIT = {"dataframe_split": {"columns": COLUMNS, "data": ROWS}}


def train(directory: Path) -> Path:
    """Run `python custom_model_train.py` in a directory, and return the directory."""
    options = ["--data-path", str(WINES)] if WINES.exists() else []
    command = [sys.executable, str(ROOT / "custom_model_train.py"), *options]
    environment = {"MLFLOW_MONITORING_DIR": "logged-while-training"}
    subprocess.run(with_environment(command, environment), cwd=directory, check=True, capture_output=True)
    return directory
