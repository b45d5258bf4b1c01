"""How many independent rows a stream's rows are worth is measured from their order, and used."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter

from mooring.drift.baseline import Baseline, make
from mooring.drift.dependence import Dependence
from mooring.drift.judge import judge
from mooring.drift.order import BATCHES
from mooring.drift.profile import Profile, empty, profile

HOUR = 3_600_000_000


def autoregressive(rng: np.random.Generator, correlation: float, rows: int) -> np.ndarray:
    steps = rng.normal(size=rows) * np.sqrt(1 - correlation**2)
    steps[0] = rng.normal()
    return lfilter([1.0], [1.0, -correlation], steps)


def requests_of(values: np.ndarray, per_request: int, seconds: float = 1.0) -> pa.Table:
    """Return values as rows of requests that follow each other."""
    rows = np.arange(len(values))
    request = rows // per_request
    return pa.table(
        {
            "x": values,
            "c": np.where(values < -0.5, "a", np.where(values < 0.5, "b", "c")),
            "time": (request * seconds * 1e6).astype(np.int64),
            "row": rows % per_request,
            "request_rows": np.bincount(request)[request],
        }
    )


def baseline_of(rng: np.random.Generator, rows: int = 3000) -> Baseline:
    table = requests_of(rng.normal(size=rows), 1)
    return make({"x": table["x"], "c": table["c"]})


def counted(table: pa.Table, baseline: Baseline) -> Profile:
    return profile([table], baseline.grids, request_rows="request_rows", time="time", row="row")


def pooled(baseline: Baseline, windows: Iterable[pa.Table]) -> Dependence:
    found = Dependence()
    for window in windows:
        one = counted(window, baseline)
        found = found.after(one.order, one.weight)
    return found


def cut(table: pa.Table, windows: int) -> list[pa.Table]:
    rows = table.num_rows // windows
    return [table.slice(at * rows, rows) for at in range(windows)]


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_design_effect_of_an_autoregressive_process_is_found(correlation):
    rng = np.random.default_rng(0)
    baseline = baseline_of(rng)
    table = requests_of(autoregressive(rng, correlation, 20_000), 1)
    effects = pooled(baseline, cut(table, 20)).design_effects(baseline.grids)
    true = (1 + correlation) / (1 - correlation)
    assert 0.75 * true < effects["x"].at(1000) < 1.35 * true
    assert 1 <= effects["c"].at(1000) < 1.35 * true


@pytest.mark.parametrize(("alike", "expected"), [(0.0, 1.0), (0.3, 10.6), (1.0, 33.0)])
def test_how_far_rows_of_a_request_are_alike_is_measured(alike, expected):
    rng = np.random.default_rng(1)
    baseline = baseline_of(rng)
    own = np.repeat(rng.normal(size=600), 33)
    values = np.sqrt(alike) * own + np.sqrt(1 - alike) * rng.normal(size=len(own))
    effects = pooled(baseline, cut(requests_of(values, 33), 20)).design_effects(baseline.grids)
    assert 0.7 * expected < effects["x"].at(1000) < 1.4 * expected


def test_rows_of_one_large_request_count_by_their_order():
    rng = np.random.default_rng(2)
    baseline = baseline_of(rng)
    for values, least, most in ((rng.normal(size=1000), 1, 1.6), (autoregressive(rng, 0.9, 1000), 8, 60)):
        effects = pooled(baseline, [requests_of(values, 1000)]).design_effects(baseline.grids)
        assert least <= effects["x"].at(1000) <= most


def test_missing_values_that_come_in_bursts_count_as_such():
    rng = np.random.default_rng(3)
    baseline = baseline_of(rng)
    table = requests_of(rng.normal(size=10_000), 1)
    gone = np.repeat(rng.random(200) < 0.2, 50)
    table = table.set_column(0, "x", pa.array(table["x"].to_numpy(), mask=gone))
    effects = pooled(baseline, cut(table, 10)).design_effects(baseline.grids)
    assert effects["x"].at(1000) > 25


def test_too_few_requests_say_nothing():
    rng = np.random.default_rng(4)
    baseline = baseline_of(rng)
    few = pooled(baseline, [requests_of(rng.normal(size=200), 50)])
    assert few.design_effects(baseline.grids) == {}


@pytest.mark.parametrize("values", [np.zeros(1000), np.full(1000, np.nan), np.full(1000, np.inf)])
def test_a_feature_that_never_varies_has_none(values):
    baseline = baseline_of(np.random.default_rng(5))
    effects = pooled(baseline, [requests_of(values, 1)]).design_effects(baseline.grids)
    assert all(np.isfinite(one.at(1000)) and one.at(1000) >= 1 for one in effects.values())


values = st.lists(
    st.tuples(
        st.one_of(st.none(), st.floats(-10, 10), st.just(float("nan"))),
        st.sampled_from(["a", "b", "c", "new", None]),
        st.integers(0, 10**12),
        st.sampled_from([1, 2, 5, 300]),
    ),
    min_size=1,
    max_size=300,
)


@given(values, st.integers(1, 6), st.randoms(use_true_random=False))
def test_any_split_and_order_of_rows_gives_the_same_sketch(rows, parts, shuffled):
    baseline = baseline_of(np.random.default_rng(6), 300)
    flat = [(x, c, time, row, size) for x, c, time, size in rows for row in range(min(size, 5))]

    def table(some: list[tuple[object, ...]]) -> pa.Table:
        x, c, time, row, size = zip(*some, strict=True)
        return pa.table(
            {
                "x": pa.array(x, pa.float64(), from_pandas=False),
                "c": pa.array(c, pa.string()),
                "time": pa.array(time, pa.int64()),
                "row": pa.array(row, pa.int32()),
                "request_rows": pa.array(size, pa.int32()),
            }
        )

    whole = counted(table(flat), baseline).order
    shuffled.shuffle(flat)
    found = empty(baseline.grids)
    pieces = [flat[at::parts] for at in range(parts)]
    for piece in pieces:
        if piece:
            found = counted(table(piece), baseline) + found
    assert whole is not None
    assert found.order is not None
    assert len(whole.keys) <= BATCHES
    assert int(whole.rows.sum()) == len(flat)
    for name in msgspec.structs.fields(whole):
        assert np.array_equal(getattr(whole, name.name), getattr(found.order, name.name))


def test_rows_without_a_time_have_no_order_and_neither_has_their_sum_with_others():
    rng = np.random.default_rng(7)
    baseline = baseline_of(rng)
    table = requests_of(rng.normal(size=100), 1)
    alone = profile([table.select(["x", "c"])], baseline.grids)
    assert alone.order is None
    assert (alone + counted(table, baseline)).order is None
    assert (empty(baseline.grids) + counted(table, baseline)).order is not None


def test_a_window_of_dependent_rows_does_not_alarm_where_one_of_independent_ones_does():
    rng = np.random.default_rng(8)
    baseline = baseline_of(rng)
    alarms = dict.fromkeys((0.0, 0.95), 0)
    for _ in range(20):
        values = autoregressive(rng, 0.95, 4000)
        values += 0.3 - values[-1000:].mean()  # by chance as far away as a real shift
        windows = [counted(one, baseline) for one in cut(requests_of(values, 1), 4)][::-1]
        alarms[0.95] += judge(baseline, windows, scales=[1]).severity != "ok"
        other = counted(requests_of(rng.normal(size=1000) + 0.3, 1), baseline)
        alarms[0.0] += judge(baseline, [other], scales=[1]).severity != "ok"
    assert alarms[0.0] >= 18
    assert alarms[0.95] <= 3


def test_a_judgement_says_how_many_independent_rows_there_were():
    rng = np.random.default_rng(9)
    baseline = baseline_of(rng)
    nightly = counted(requests_of(rng.normal(size=1000), 1000), baseline)
    assert nightly.effective_rows == 1
    assert judge(baseline, [nightly]).effective_rows > 600
    equal = counted(requests_of(np.repeat(rng.normal(size=300), 33), 33), baseline)
    assert 200 < judge(baseline, [equal]).effective_rows < 400


def test_tables_that_are_sorted_each_night_are_worth_their_rows_once_some_were_seen():
    rng = np.random.default_rng(10)
    baseline = baseline_of(rng)
    nights = [requests_of(np.sort(rng.normal(size=1000)), 1000) for _ in range(15)]
    assert pooled(baseline, nights[:1]).design_effects(baseline.grids)["x"].at(1000) > 100
    assert pooled(baseline, nights).design_effects(baseline.grids)["x"].at(1000) < 5


def test_batches_that_differ_from_day_to_day_are_worth_less_once_some_were_seen():
    rng = np.random.default_rng(11)
    baseline = baseline_of(rng)
    nights = [requests_of(rng.normal(size=1000) + rng.normal() / 5, 1000) for _ in range(100)]
    few, many = (pooled(baseline, nights[:number]).design_effects(baseline.grids)["x"] for number in (15, 100))
    assert few.at(1000) > 8
    assert 25 < many.at(1000) < 70
