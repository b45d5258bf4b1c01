"""Evidently's DataDriftPreset with its defaults."""

from __future__ import annotations

import pandas as pd
from common import Run, measure
from evidently import Report
from evidently.presets import DataDriftPreset


def prepare(reference: str) -> Run:
    before = pd.read_parquet(reference)

    def run(current: str) -> object:
        result = Report([DataDriftPreset()]).run(pd.read_parquet(current), before)
        return len(result.dict()["metrics"])

    return run


measure(prepare)
