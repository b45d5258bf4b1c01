"""Evidence: e-values keep their mean, blocks do not overlap, and sums grow as time does if nothing changes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from mooring.drift.baseline import Baseline, make
from mooring.drift.blocks import PastWindows, p_values, profile_of
from mooring.drift.evidence import BLOCKS, Evidence, Signed, e_value, signed
from mooring.drift.profile import Profile, profile
from mooring.drift.stored import dump, load


def normal(rows: int, seed: int, shift: float = 0.0) -> dict[str, pa.Array]:
    random = np.random.default_rng(seed)
    return {"x": pa.array(random.normal(shift, size=rows)), "c": pa.array(random.choice(list("abc"), rows))}


def window(baseline: Baseline, rows: int, seed: int, shift: float = 0.0) -> Profile:
    return profile([pa.table(normal(rows, seed, shift))], baseline.grids)


def test_the_mean_of_an_e_value_is_one_at_most():
    mean, _ = quad(e_value, 1e-16, 1.0, limit=500, points=[1e-12, 1e-9, 1e-6, 1e-3, 0.1])
    assert 0.9 < mean <= 1.0


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_smaller_p_value_is_never_less_evidence(one, other):
    low, high = sorted((one, other))
    assert e_value(low) >= e_value(high) > 0


@given(st.floats(1e-9, 1))
def test_of_a_rise_and_a_fall_only_one_is_surprising(p_value):
    up, down = signed(p_value, rose=True)
    assert up + down == pytest.approx(1.0)
    assert signed(p_value, rose=False) == Signed(down, up)


def test_sums_grow_as_fast_as_time_where_nothing_changes():
    random = np.random.default_rng(0)
    ended = []
    for _ in range(300):
        evidence = Evidence()
        for count in range(1, 65):
            evidence.pass_time(0.001)
            for length in BLOCKS:
                if count % length == 0:
                    evidence.add(length, {"x": [signed(random.random(), rose=bool(random.random() < 0.5))]})
        ended.append(evidence.level(["x"]))
    # A martingale's mean is the time that has passed; few paths hold most of it, so the median lies far below.
    assert np.median(ended) < 0.064
    assert np.mean(np.minimum(ended, 1.0)) < 0.064 * 2


def test_a_level_is_a_mean_over_features_and_one_that_drifts_stands_out():
    evidence = Evidence()
    for _ in range(4):
        evidence.pass_time(0.001)
        evidence.add(1, {"x": [Signed(1e-4, 1.0)], "y": [Signed(0.4, 0.6)]})
    assert evidence.level(["x", "y"]) == pytest.approx((evidence.of("x") + evidence.of("y")) / 2)
    assert evidence.features() == ["x"]
    assert load(dump(evidence, "evidence", 1), Evidence, "evidence", 1) == evidence


@pytest.mark.parametrize("count", [1, 3, 4, 15, 16, 17, 40])
def test_blocks_do_not_overlap_and_each_is_against_all_that_was_before_it(count):
    baseline = make(normal(500, 0))
    past, seen, covered = PastWindows(), 0, dict.fromkeys(BLOCKS, 0)
    for number in range(count):
        rows = 10 + number
        for length, before, block in past.blocks(profile_of(baseline), window(baseline, rows, number)):
            covered[length] += block.rows
            assert before.rows + block.rows == 500 + seen + rows
        past = past.after(window(baseline, rows, number))
        past = load(dump(past, "past", 1), PastWindows, "past", 1)
        seen += rows
    for length in BLOCKS:
        whole = count // length * length
        assert covered[length] == sum(10 + number for number in range(whole))
    assert past.with_window(profile_of(baseline)).rows == 500 + seen


def test_p_values_of_what_is_unchanged_are_spread_and_of_what_moved_small():
    baseline = make(normal(2000, 1))
    before = profile_of(baseline)
    usual = [p_values(baseline, before, window(baseline, 500, 10 + seed), seed=seed)["x"] for seed in range(40)]
    assert 0.3 < np.mean([one.p_value for one in usual]) < 0.75
    moved = p_values(baseline, before, window(baseline, 500, 99, shift=0.5))
    assert moved["x"].p_value < 1e-6
    [both] = moved["x"].signed
    assert both.up < 1e-6
    assert both.down > 0.99
    assert moved["c"].p_value > 0.001
    [neither] = moved["c"].signed
    assert neither.up == neither.down


def test_a_label_is_not_watched():
    baseline = make(normal(300, 1), roles={"c": "label"})
    assert set(p_values(baseline, profile_of(baseline), window(baseline, 100, 2))) == {"x"}


def test_more_values_missing_are_evidence_of_a_rise_of_their_own():
    random = np.random.default_rng(4)

    def lacking(rows: int, share: float) -> dict[str, pa.Array]:
        return {"x": pa.array(np.where(random.random(rows) < share, np.nan, random.normal(size=rows)))}

    baseline = make(lacking(3000, 0.05))
    sample = profile([pa.table(lacking(1000, 0.15))], baseline.grids)
    values, missing = p_values(baseline, profile_of(baseline), sample)["x"].signed
    assert min(values) > 0.001
    assert missing.up < 1e-6
    evidence = Evidence()
    evidence.pass_time(0.001)
    evidence.add(1, {"x": [values]})
    without = evidence.of("x")
    evidence.pass_time(0.001)
    evidence.add(1, {"x": [values, missing]})
    assert evidence.of("x") > 100 * without
