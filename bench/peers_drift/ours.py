"""Mooring: profile, all measures and alarms; the baseline is read beforehand."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
from common import Run, measure

from mooring.drift.baseline import Baseline
from mooring.drift.judge import judge
from mooring.engine.local import profile_of


def prepare(reference: str) -> Run:
    pa.set_cpu_count(1)
    baseline = Baseline.from_bytes(Path(sys.argv[3]).read_bytes())

    def run(current: str) -> object:
        return judge(baseline, [profile_of(current, baseline)]).features

    return run


measure(prepare)
