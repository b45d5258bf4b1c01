"""A whylogs profile and its drift scores; the reference is profiled beforehand."""

from __future__ import annotations

import pandas as pd
import whylogs
from common import Run, measure
from whylogs.viz.drift.column_drift_algorithms import calculate_drift_scores


def prepare(reference: str) -> Run:
    before = whylogs.log(pd.read_parquet(reference)).view()

    def run(current: str) -> object:
        after = whylogs.log(pd.read_parquet(current)).view()
        return len(calculate_drift_scores(target_view=after, reference_view=before, with_thresholds=True))

    return run


measure(prepare)
