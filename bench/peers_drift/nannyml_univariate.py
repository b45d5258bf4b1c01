"""NannyML's univariate drift calculator with its defaults, fitted beforehand."""

from __future__ import annotations

import nannyml
import pandas as pd
from common import Run, measure


def prepare(reference: str) -> Run:
    before = pd.read_parquet(reference)
    calculator = nannyml.UnivariateDriftCalculator(column_names=list(before)).fit(before)

    def run(current: str) -> object:
        return len(calculator.calculate(pd.read_parquet(current)).to_df())

    return run


measure(prepare)
