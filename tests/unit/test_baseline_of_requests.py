"""A baseline of rows that came in requests of many is worth as many independent rows as windows would be."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from commands import mooring_here
from judging import BARE, window
from monitoring import START, Traffic
from mooring.drift.baseline import Baseline, make
from mooring.drift.blocks import p_values, profile_of
from mooring.drift.judge import judge
from mooring.monitor.building import from_log

SPAN = "2026-03-01..2026-03-02"


@pytest.fixture
def traffic(tmp_path: Path) -> Traffic:
    made = Traffic(tmp_path / "log")
    made.write(made.exchanges(1000, per_request=50))
    made.write(made.exchanges(300, START, version="2", per_request=1))
    return made


def test_a_baseline_from_the_log_knows_how_many_rows_its_requests_had(traffic):
    made = Baseline.from_bytes(from_log(str(traffic.log), "wine", None, SPAN).to_bytes())
    assert (made.rows, made.weight, made.effective_rows) == (1000, 50_000, 20)
    assert profile_of(made).effective_rows == 20
    assert made.in_sample == []
    assert from_log(str(traffic.log), "wine", "2", SPAN).effective_rows == 300


def test_the_command_says_how_many_independent_rows_a_baseline_is_worth(traffic, tmp_path):
    build = "baseline", "build", "--model", "wine", "--from-log", SPAN, "--log", "log"
    assert "1000 rows, worth 20 independent ones" in mooring_here(*build, directory=tmp_path).stderr
    shown = mooring_here("baseline", "show", "--model", "wine", "--json", directory=tmp_path)
    assert json.loads(shown.stdout)["effective_rows"] == 20


def test_rows_of_a_baseline_count_as_requests_of_their_own_unless_it_says_otherwise():
    made = make({"x": pa.array(np.arange(100.0))})
    assert (made.weight, made.effective_rows) == (100, 100)
    assert msgspec.structs.replace(made, weight=1000).effective_rows == 10


def test_a_difference_that_few_requests_would_show_by_chance_does_not_alarm():
    values = np.repeat(np.random.default_rng(3).normal(size=40), 100)
    later = {"x": np.random.default_rng(4).normal(size=500)}
    alike, alone = (make({"x": pa.array(values)}, weight=weight) for weight in (len(values) * 100, 0))
    sample = window(alike, later)
    assert judge(alone, [sample], BARE).alarms
    assert not judge(alike, [sample], BARE).alarms
    assert p_values(alone, profile_of(alone), sample)["x"].p_value < 1e-6
    assert p_values(alike, profile_of(alike), sample)["x"].p_value > 0.01
    moved = window(alike, {"x": later["x"] + 2})
    assert judge(alike, [moved], BARE).alarms
