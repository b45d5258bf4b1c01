"""Baselines and windows to report on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa

from mooring.demo.train import SAMPLE
from mooring.drift.baseline import Baseline, make
from mooring.drift.judge import judge
from mooring.drift.judgement import Judgement
from mooring.drift.profile import Profile, profile
from mooring.report.model import Report, ReportWindow
from mooring.status import Status

START = datetime(2026, 5, 4, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)
EVIL = "<script>window.hacked=1</script>"


def wines(seed: int, rows: int = 600) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    found = pd.read_csv(SAMPLE).sample(rows, random_state=seed).drop(columns="density")
    found["style"] = random.choice(["dry", "off-dry", "sweet"], rows, p=[0.6, 0.3, 0.1])
    found[EVIL] = random.choice(["<b>bold</b>", "plain"], rows)
    found["bottled"] = pd.Timestamp("2026-03-01") + pd.to_timedelta(random.integers(0, 10**6, rows), unit="s")
    found["note"] = ["x" * length for length in random.poisson(40, rows) + 5]
    found["prediction"] = found.pop("quality") + random.normal(0, 0.4, rows)
    return found


def shifted(found: pd.DataFrame) -> pd.DataFrame:
    found = found.assign(alcohol=found["alcohol"] + 3)
    found.loc[found.index[:60], "style"] = "rosé"
    found.loc[found.index[:40], "pH"] = None
    return found.assign(extra=1)


def baseline_of(found: pd.DataFrame) -> Baseline:
    return make({name: pa.Array.from_pandas(found[name]) for name in found}, roles={"prediction": "output"})


def profile_of(found: pd.DataFrame, baseline: Baseline) -> Profile:
    return profile([pa.Table.from_pandas(found, preserve_index=False)], baseline.grids)


def window(
    hour: int,
    status: Status = "too_few",
    judgement: Judgement | None = None,
    found: Profile | None = None,
    *,
    variant: str = "champion",
    version: str = "3",
    message: str = "",
    provisional: bool = False,
) -> ReportWindow:
    return ReportWindow(
        START + hour * HOUR,
        START + (hour + 1) * HOUR,
        found.rows if found else 12,
        9,
        version,
        variant,
        judgement.severity if judgement else status,
        provisional,
        judgement,
        found,
        message=message,
    )


def report(baseline: Baseline | None, *windows: ReportWindow, model: str = "wine") -> Report:
    return Report(model, "./mooring-log", START + 30 * HOUR, baseline, list(windows))


class Sample(msgspec.Struct):
    baseline: Baseline
    profiles: list[Profile]
    judgements: list[Judgement]

    def window(self, hour: int, which: int, **more: object) -> ReportWindow:
        return window(hour, judgement=self.judgements[which], found=self.profiles[which], **more)  # type: ignore[arg-type]


def judged_sample() -> Sample:
    """Judge a window like a baseline of the demonstration's wines, and one that drifted."""
    baseline = baseline_of(wines(0, 2000))
    profiles = [profile_of(wines(1), baseline), profile_of(shifted(wines(2)), baseline)]
    judgements = [judge(baseline, [one], seed=7) for one in profiles]
    assert [one.severity for one in judgements] == ["ok", "critical"]
    return Sample(baseline, profiles, judgements)


def drifted_report(sample: Sample) -> Report:
    """Report on a champion that has drifted, in a window that is still open too, and on a canary that is well."""
    few = window(3)
    windows = [sample.window(0, 0, version="2"), sample.window(1, 0), sample.window(2, 0), few]
    canary = sample.window(4, 0, variant="canary", version="4")
    return report(sample.baseline, *windows, sample.window(4, 1), sample.window(5, 1, provisional=True), canary)
