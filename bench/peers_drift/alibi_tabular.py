"""alibi-detect's TabularDrift, a test for each feature, with the reference given beforehand."""

from __future__ import annotations

import numpy as np
import pandas as pd
from alibi_detect.cd import TabularDrift
from common import Run, measure


def prepare(reference: str) -> Run:
    frame = pd.read_parquet(reference)
    texts = [name for name in frame if frame[name].dtype == object]
    known = {name: {text: code for code, text in enumerate(sorted(frame[name].unique()))} for name in texts}

    def numbers(table: pd.DataFrame) -> np.ndarray:
        for name in texts:
            table[name] = table[name].map(known[name]).fillna(-1)
        return table.to_numpy(float)

    categories = {frame.columns.get_loc(name): None for name in texts}
    detector = TabularDrift(numbers(frame), p_val=0.05, categories_per_feature=categories)

    def run(current: str) -> object:
        return detector.predict(numbers(pd.read_parquet(current)))["data"]["is_drift"]

    return run


measure(prepare)
