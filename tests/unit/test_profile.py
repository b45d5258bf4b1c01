"""A profile is the same however its rows are split, whatever they hold, and wherever it is stored."""

from __future__ import annotations

import json
import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.drift.baseline import Baseline, make, profile_from_bytes, profile_to_bytes
from mooring.drift.counting import NEW_CATEGORIES, NumberCounter, count_sorted
from mooring.drift.grid import CategoricalGrid, NumericGrid, OtherGrid, TextGrid, TimestampGrid, numeric_grid
from mooring.drift.judge import judge
from mooring.drift.profile import NumericProfile, Profile, numeric_profile, profile
from mooring.drift.stored import FormatError

ROWS = 40
numbers = st.one_of(
    st.floats(width=64),
    st.sampled_from([0.0, -0.0, 5e-324, 1.7e308, -1.7e308, math.nan, math.inf, -math.inf, 1.0, 2.0]),
)
columns = st.lists(st.none() | numbers, min_size=0, max_size=60)
modest = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, 2.5])


def split(table: pa.Table, cuts: list[int]) -> list[pa.Table]:
    bounds = [0, *sorted(min(cut, table.num_rows) for cut in cuts), table.num_rows]
    return [table.slice(low, high - low) for low, high in pairwise(bounds)]


def of(parts: list[pa.Table], baseline: Baseline, **more: str) -> Profile:
    found = profile([], baseline.grids)
    for part in parts:
        found = found + profile([part], baseline.grids, **more)
    return found


@given(columns, columns, st.lists(st.integers(0, 60), max_size=4), st.randoms())
def test_counts_are_exact_however_rows_are_split_and_ordered(trained, seen, cuts, random):
    baseline = make({"x": pa.array(trained, pa.float64())})
    whole = of([pa.table({"x": pa.array(seen, pa.float64())})], baseline).features["x"]
    shuffled = seen[:]
    random.shuffle(shuffled)
    parts = split(pa.table({"x": pa.array(shuffled, pa.float64())}), cuts)
    again = of(parts, baseline).features["x"]
    assert again.nulls == whole.nulls == seen.count(None)
    a, b = whole.values, again.values
    assert isinstance(a, NumericProfile)
    assert isinstance(b, NumericProfile)
    assert a.counts.tolist() == b.counts.tolist()
    assert (a.nans, a.infinities, a.minimum, a.maximum) == (b.nans, b.infinities, b.minimum, b.maximum)
    finite = [value for value in seen if value is not None and math.isfinite(value)]
    assert (a.values, a.minimum, a.maximum) == (
        len(finite),
        min(finite, default=math.inf),
        max(finite, default=-math.inf),
    )


@given(
    st.lists(modest, min_size=1, max_size=60),
    st.lists(modest, min_size=1, max_size=80),
    st.lists(st.integers(0, 80)),
)
def test_moments_are_the_same_to_1e_12_however_rows_are_split(trained, seen, cuts):
    grid = numeric_grid(np.array(trained))
    whole = numeric_profile(np.array(seen), grid)
    added = numeric_profile(np.array([]), grid)
    for part in split(pa.table({"x": seen}), cuts):
        added = added + numeric_profile(part["x"].to_numpy(), grid)
    size = math.sqrt(whole.squares * len(seen))
    assert added.squares == pytest.approx(whole.squares, rel=1e-12, abs=1e-300)
    assert abs(added.total - whole.total) <= 1e-12 * size + 1e-300
    assert whole.mean(grid) == pytest.approx(np.mean(seen), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    "kind",
    ["normal", "few values", "spiky", "lognormal", "cauchy", "outlier", "constant", "tiny", "huge", "shifted"],
)
def test_the_fast_way_counts_as_sorting_does(kind):
    random = np.random.default_rng(1)
    size = 200_000
    values = random.normal(size=size)
    match kind:
        case "few values":
            values = np.round(values, 2)
        case "spiky":
            values = np.where(random.random(size) < 0.4, 0.0, values)
        case "lognormal":
            values = np.exp(2 * values)
        case "cauchy":
            values = random.standard_cauchy(size)
        case "outlier":
            values[7] = 1e15
        case "constant":
            values = np.full(size, 0.1)
        case "tiny":
            values = values * 1e-310
        case "huge":
            values = values * 1e307
    grid = numeric_grid(values[:20_000])
    if kind == "shifted":
        values = values * 3 + 2
    values[::1000] = np.nan
    values[1::1000] = np.inf
    counter = NumberCounter(grid)
    for start in range(0, size, 70_000):
        counter.add(values[start : start + 70_000])
    finite = values[np.isfinite(values)]
    assert counter.counts().tolist() == count_sorted(finite, grid.edges).tolist()
    assert (counter.nans, counter.infinities) == (200, 200)
    below, above = finite[finite < grid.edges[0]], finite[finite >= grid.edges[-1]]
    assert counter.low == pytest.approx((below / grid.unit).sum(), rel=1e-9)
    assert counter.high == pytest.approx((above / grid.unit).sum(), rel=1e-9)


@given(
    st.lists(st.text(max_size=3), max_size=30),
    st.lists(st.none() | st.text(max_size=3), max_size=60),
    st.integers(0, 60),
)
def test_categories_and_new_ones_are_counted_exactly(trained, seen, cut):
    baseline = make({"x": pa.array(trained, pa.string())}, kinds={"x": "categorical"})
    table = pa.table({"x": pa.array(seen, pa.string())})
    found = of(split(table, [cut]), baseline).features["x"]
    encoded = pa.table({"x": table["x"].combine_chunks().dictionary_encode()})
    also = of(split(encoded, [cut]), baseline).features["x"]
    for one in (found, also):
        counts = (
            dict(zip(baseline.grids["x"].categories, one.values.counts.tolist(), strict=True)) | one.values.new
        )
        assert {name: count for name, count in counts.items() if count} == {
            name: seen.count(name) for name in set(seen) - {None}
        }
        assert one.nulls == seen.count(None)


def test_of_very_many_new_categories_those_kept_are_exact_and_none_is_lost():
    grids = {"x": CategoricalGrid(["a"])}
    names = [f"new {number}" for number in range(3 * NEW_CATEGORIES)] * 2
    whole = profile([pa.table({"x": names})], grids).features["x"].values
    ordered = profile([pa.table({"x": sorted(names)})], grids)
    added = profile([pa.table({"x": names[:3500]})], grids) + profile([pa.table({"x": names[3500:]})], grids)
    for one in (whole, ordered.features["x"].values, added.features["x"].values):
        assert one.new == whole.new
        assert len(one.new) == NEW_CATEGORIES
        assert set(one.new.values()) == {2}
        assert one.values == len(names)


COLUMNS = {
    "half float": pa.array(np.arange(ROWS, dtype="f2")),
    "float": pa.array(np.arange(ROWS, dtype="f4")),
    "unsigned": pa.array(np.arange(ROWS, dtype="u8") + 2**63),
    "decimal": pa.array([Decimal(one) for one in range(ROWS)], pa.decimal128(30, 10)),
    "wide decimal": pa.array([Decimal(one) for one in range(ROWS)], pa.decimal256(60, 5)),
    "string view": pa.array(["a", "b"] * 20, pa.string_view()),
    "large string": pa.array(["a", None] * 20, pa.large_string()),
    "dictionary": pa.array(["a", None] * 20).dictionary_encode(),
    "dictionary of numbers": pa.array([1.5, 2.0] * 20).dictionary_encode(),
    "run-ends": pa.RunEndEncodedArray.from_arrays(pa.array([10, ROWS], pa.int32()), pa.array(["x", "y"])),
    "duration": pa.array([timedelta(1)] * ROWS),
    "time": pa.array([time(1)] * ROWS),
    "date": pa.array([date(2020, 1, 1)] * ROWS),
    "timestamp with zone": pa.array([datetime(2020, 1, 1)] * ROWS, pa.timestamp("s", "Europe/Berlin")),
    "timestamp in ns": pa.array([0] * ROWS, pa.timestamp("ns")),
    "binary": pa.array([b"x"] * ROWS),
    "list": pa.array([[1]] * ROWS),
    "struct": pa.array([{"a": 1}] * ROWS),
    "map": pa.array([[("a", 1)]] * ROWS, pa.map_(pa.string(), pa.int64())),
    "null": pa.nulls(ROWS),
    "boolean": pa.array([True, None] * 20),
    "uuid": pa.array([UUID(int=one).bytes for one in range(ROWS)], pa.uuid()),
    "interval": pa.array([(1, 2, 3)] * ROWS, pa.month_day_nano_interval()),
    "texts": pa.array([f"a text {one}" for one in range(ROWS)]),
}
KINDS = {"texts": "text", "list": "other"}


@pytest.mark.parametrize("trained", COLUMNS)
def test_no_type_breaks_a_profile_on_any_grid(trained):
    baseline = make({"x": COLUMNS[trained]}, kinds={"x": KINDS[trained]} if trained in KINDS else None)
    for column in COLUMNS.values():
        found = profile([pa.table({"x": column})], baseline.grids)
        feature = found.features["x"]
        assert feature.nulls + feature.misfits + feature.values.values == ROWS
        judge(baseline, [found])
    same = profile(
        [pa.table({"x": pa.chunked_array([COLUMNS[trained].slice(0, 7), COLUMNS[trained].slice(7)])})],
        baseline.grids,
    )
    assert same.features["x"].misfits == 0
    assert same.features["x"].values.values == baseline.features["x"].profile.values.values


def test_numbers_that_are_categories_are_those_whatever_their_type():
    baseline = make({"x": pa.array([3, 4, 5] * 20)})
    found = profile([pa.table({"x": pa.array([3.0, 5.0, 6.5, None, math.nan])})], baseline.grids).features["x"]
    assert found.values.counts.tolist() == [1, 0, 1]
    assert found.values.new == {"6.5": 1}
    assert found.unusable == 2


def test_rows_of_one_request_weigh_as_many():
    baseline = make({"x": pa.array([1.0, 2.0])})
    table = pa.table({"x": [1.0, 1.0, 2.0], "request_rows": [2, 2, 1]})
    found = profile([table], baseline.grids, request_rows="request_rows")
    assert (found.rows, found.weight, found.effective_rows) == (3, 5, 9 / 5)
    assert found.unknown == {}


def test_values_that_were_cast_are_values_and_counted():
    baseline = make({"x": pa.array([1.0, 2.0])})
    told = [{"x": "10.5"}, {"x": None}, {}, {"x": "a"}]
    table = pa.table({"x": [10.5, 0.0, 1.0, None], "misfits": [json.dumps({"input": one}) for one in told]})
    found = profile([table], baseline.grids, misfits="misfits")
    feature = found.features["x"]
    assert (feature.cast, feature.misfits, feature.nulls, feature.unusable) == (2, 1, 0, 1)
    assert (found + found).features["x"].cast == 4


def test_values_of_another_type_are_no_nulls():
    baseline = make({"x": pa.array([1.0, 2.0]), "c": pa.array(["a", "b"])})
    told = [{"x": "high", "c": 5, "other": 1}, {"x": True}, {"x": 2**60 + 1}]
    table = pa.table(
        {
            "x": [None, None, float(2**60), None, 1.0],
            "c": [None, "a", "a", "b", "b"],
            "misfits": [*(json.dumps({"input": one}) for one in told), None, None],
        }
    )
    found = profile([table], baseline.grids, misfits="misfits")
    assert (found.features["x"].nulls, found.features["x"].misfits) == (1, 2)
    assert (found.features["c"].nulls, found.features["c"].misfits) == (0, 1)
    assert found.unknown == {"other": 1}


def test_columns_that_are_missing_or_new_are_said():
    baseline = make({"x": pa.array([1.0, 2.0]), "gone": pa.array([1.0, 2.0])})
    found = profile([pa.table({"new": [1, None], "x": [1.0, 2.0]})], baseline.grids)
    assert (found.features["gone"].absent, found.features["gone"].nulls) == (2, 2)
    assert found.unknown == {"new": 1}


def test_moments_of_the_day_and_the_week_are_utc():
    monday = datetime(2024, 1, 1, 0, 30)
    column = pa.array([monday, monday + timedelta(days=3)], pa.timestamp("us", "UTC"))
    baseline = make({"t": column.cast(pa.timestamp("us", "Asia/Tokyo"))})
    found = profile([pa.table({"t": column})], baseline.grids).features["t"].values
    assert found.hours.tolist() == [2] + [0] * 23
    assert found.weekdays.tolist() == [1, 0, 0, 1, 0, 0, 0]
    assert found.longest_gap() == 2


def test_profiles_and_baselines_come_back_from_bytes_as_they_were():
    baseline = make(COLUMNS, kinds=KINDS, importance={"float": 0.5}, about={"model": "wine"})
    kinds = {type(grid) for grid in baseline.grids.values()}
    assert kinds == {NumericGrid, CategoricalGrid, TimestampGrid, TextGrid, OtherGrid}
    again = Baseline.from_bytes(baseline.to_bytes())
    assert (again.digest, again.about, again.rows) == (baseline.digest, baseline.about, ROWS)
    assert again.features["float"].importance == 0.5
    found = profile([pa.table(COLUMNS)], baseline.grids)
    copy = profile_from_bytes(profile_to_bytes(found))
    assert profile_to_bytes(copy) == profile_to_bytes(found)
    assert (copy + found).rows == 2 * ROWS


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data[: len(data) // 2], "damaged"),
        (lambda data: data.replace(b"mooring-baseline 2", b"mooring-baseline 9", 1), "of format 9"),
        (lambda data: b"PAR1" + data, "no baseline"),
        (lambda data: b"", "no baseline"),
    ],
)
def test_bytes_that_are_no_baseline_are_told_from_one(damage, says):
    data = make({"x": pa.array([1.0])}).to_bytes()
    with pytest.raises(FormatError, match=says):
        Baseline.from_bytes(damage(data))


def test_profiles_on_other_grids_do_not_add_up():
    one, other = (make({"x": pa.array(values)}) for values in ([1.0, 2.0], [1.0, 3.0]))
    with pytest.raises(ValueError, match="different baselines"):
        profile([], one.grids) + profile([], other.grids)


@given(st.lists(st.floats(width=64), max_size=300))
def test_a_grid_has_ascending_edges_and_its_parts_among_them(values):
    grid = numeric_grid(np.array(values))
    assert (np.diff(grid.edges) > 0).all()
    assert np.isfinite(grid.edges).all()
    for part in (grid.bins, grid.steps, grid.ends):
        assert np.isin(part, grid.edges).all()
    finite = [value for value in values if math.isfinite(value)]
    counts = numeric_profile(np.array(values), grid).counts
    if finite and max(finite) < 1.7976931348623157e308:
        assert counts[0] == counts[-1] == 0


@pytest.mark.parametrize("size", [50, 900, 1600, 1990, 3000, 9000, 50_000])
@pytest.mark.parametrize("kind", ["normal", "rounded", "cauchy", "spiky"])
def test_no_cell_but_those_of_one_value_holds_more_than_a_thousandth(kind, size):
    random = np.random.default_rng(size)
    values = random.standard_cauchy(size) if kind == "cauchy" else random.normal(size=size)
    if kind == "rounded":
        values = np.round(values, 3)
    if kind == "spiky":
        values = np.where(random.random(size) < 0.3, 1.5, values)
    grid = numeric_grid(values)
    cells = np.searchsorted(grid.edges, values, "right")
    for cell in np.flatnonzero(np.bincount(cells, minlength=grid.cells) > size / 1000):
        assert len(np.unique(values[cells == cell])) == 1
