"""A new measure is one entry of a table and one function: everything that knows measures knows it then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import documented
from mooring.cli import main
from mooring.drift.grid import NumericGrid
from mooring.drift.judge import AlarmRules, judge
from mooring.drift.judgement import Judgement
from mooring.drift.measure_table import MEASURES, Measure, Pair, Test
from mooring.performance.bootstrap import intervals
from mooring.performance.measures import MEASURES as OF_PERFORMANCE
from mooring.performance.measures import PerformanceMeasure, WeightedRows, evaluate, scored_of
from mooring.report import page
from mooring.report.words import measure as title_of
from reports import baseline_of, profile_of, report, shifted, window, wines

Test.__test__ = False  # type: ignore[attr-defined]  # no class of tests


def spread_ratio(pair: Pair) -> float:
    grid, reference, current = pair.numbers
    return current.deviation(grid) / max(reference.deviation(grid), 1e-12)


SPREAD = Measure("spread", "standard deviation, in those of the baseline", (NumericGrid,), spread_ratio)


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(MEASURES, "spread_ratio", SPREAD)
    return "spread_ratio"


def judged(rules: AlarmRules | None = None) -> tuple[Judgement, str]:
    """Judge wines that have changed; return that with the report on it."""
    baseline = baseline_of(wines(0, 2000))
    found = profile_of(shifted(wines(2)), baseline)
    judgement = judge(baseline, [found], rules, seed=7)
    return judgement, page.html(report(baseline, window(0, judgement=judgement, found=found)))


def test_a_verdict_has_it_and_it_alarms_at_a_threshold(spread: str) -> None:
    judgement, _ = judged(AlarmRules(thresholds={spread: 0.5}))
    values = {one.feature: one.value for one in judgement.results if one.measure == spread}
    assert {"alcohol", "pH", "prediction"} <= values.keys()
    assert "style" not in values
    assert values["alcohol"] == pytest.approx(1, abs=0.2)
    assert {one.feature for one in judgement.alarms if one.measure == spread} >= {"alcohol", "pH"}


def test_a_report_tells_it_with_its_definition(spread: str) -> None:
    _, text = judged()
    assert f"<dt>{SPREAD.title}</dt><dd>{SPREAD.definition}</dd>" in text
    assert title_of(spread) == "spread"


def test_the_command_line_takes_a_threshold_for_it(tmp_path: Path, spread: str) -> None:
    random = np.random.default_rng(0)
    for name, scale in (("reference", 1.0), ("current", 1.0)):
        pd.DataFrame({"x": random.normal(0, scale, 300)}).to_parquet(tmp_path / f"{name}.parquet")
    files = [str(tmp_path / f"{name}.parquet") for name in ("reference", "current")]
    taken = CliRunner().invoke(main, ["compare", *files, "--threshold", f"{spread}=0.5"])
    assert taken.exit_code == 2, taken.output  # it alarms: about 1, from 0.5 on
    assert spread in taken.output
    refused = CliRunner().invoke(main, ["compare", *files, "--threshold", "spraed=0.5"])
    assert f"there is: {', '.join(MEASURES)}" in refused.output


def test_the_documentation_has_to_list_it(spread: str) -> None:
    assert f"| `{spread}` | {SPREAD.definition} | numbers |" in documented.measures()


def test_with_a_test_it_alarms_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    of_rows = Measure(
        "rows with values",
        "share of rows with a usable value",
        (),
        lambda pair: 1 - pair.window.unusable / 600,
        rate=True,
        test=Test(0.01, 0.1, lambda layout: lambda a, b: np.abs(b[..., 0] / b.sum(-1) - a[..., 0] / a.sum(-1))),
    )
    monkeypatch.setitem(MEASURES, "value_rate", of_rows)
    judgement, text = judged()
    [found] = [one for one in judgement.results if (one.feature, one.measure) == ("pH", "value_rate")]
    assert found.alarm
    assert found.p_value is not None
    assert found.p_value < 0.001
    assert found.severity == "warning"
    assert of_rows.title in text


def test_a_measure_of_performance_is_evaluated_with_its_interval_and_has_to_be_documented(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def msd(rows: WeightedRows) -> np.ndarray:
        return rows.total(rows.scored.predictions - rows.scored.labels) / rows.total()

    entry = PerformanceMeasure("mean signed deviation", "regression", "nearer 0", msd)
    monkeypatch.setitem(OF_PERFORMANCE, "msd", entry)
    random = np.random.default_rng(0)
    scored = scored_of(random.normal(size=200), random.normal(size=200), np.arange(200))
    assert evaluate(scored)["msd"] == pytest.approx(evaluate(scored)["bias"])
    assert intervals(scored)["msd"] == pytest.approx(intervals(scored)["bias"])
    assert "| `msd` | mean signed deviation | regression | nearer 0 |" in documented.performance_measures()
