"""Wines to ask of, as the training example's model takes them."""

from __future__ import annotations

from serving import (
    ROOT,
)

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
