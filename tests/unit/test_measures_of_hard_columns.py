"""Measures of columns that are hard to compare: infinities, zeros, integers that floats can't tell apart.

The right values are those of scipy, or of their definitions on exact values.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import distance

from mooring.comparison import compare
from mooring.drift.baseline import Baseline, make
from mooring.drift.grid import CategoricalGrid, NumericGrid
from mooring.drift.judge import values_of
from mooring.drift.profile import NumericProfile, Profile, profile

INFINITY = math.inf


def measured(reference: object, current: object, kind: str = "numeric") -> dict[str, float]:
    a, b = (one if isinstance(one, pa.Array) else pa.array(one) for one in (reference, current))
    baseline = make({"x": a}, kinds={"x": kind})
    window = profile([pa.table({"x": b})], baseline.grids)
    found = values_of("x", baseline.features["x"], window.features["x"])
    return {one.measure: one.value for one in found}


def exact_ks(reference: list[int], current: list[int]) -> float:
    """Return the distance of integers, without a float between."""
    values = sorted({*reference, *current})
    a, b = Counter(reference), Counter(current)
    gap, widest = 0.0, 0.0
    for value in values:
        gap += a[value] / len(reference) - b[value] / len(current)
        widest = max(widest, abs(gap))
    return widest


def with_infinities(random, rows: int, plus: float, minus: float):
    chosen = random.random(rows)
    values = random.normal(size=rows)
    return np.where(chosen < plus, INFINITY, np.where(chosen > 1 - minus, -INFINITY, values))


@pytest.mark.parametrize(
    "shares",
    [((0.2, 0), (0, 0.2)), ((0.01, 0), (0.6, 0)), ((0, 0.3), (0, 0)), ((0.1, 0.1), (0.1, 0.1)), ((0, 0), (1, 0)),
     ((1, 0), (0, 1)), ((0.5, 0.5), (0.6, 0.4))],
)  # fmt: skip
def test_infinities_are_cells_at_the_ends_in_every_measure(shares) -> None:
    random = np.random.default_rng(1)
    a, b = (with_infinities(random, rows, *share) for rows, share in zip((4000, 3000), shares, strict=True))
    found = measured(a, b)
    assert found["ks"] == pytest.approx(stats.ks_2samp(a, b).statistic, abs=1e-3)
    finite = a[np.isfinite(a)]
    deciles = np.quantile(finite, np.linspace(0, 1, 11))[1:-1] if len(finite) else []
    edges = [-INFINITY, np.nextafter(-INFINITY, 0), *deciles, np.nextafter(INFINITY, 0)]
    p, q = (
        np.array([*(np.sum((low <= one) & (one < high)) for low, high in pairwise(edges)),
                  np.sum(one >= edges[-1])]) / len(one)
        for one in (a, b)
    )  # fmt: skip
    assert found["js"] == pytest.approx(distance.jensenshannon(p, q, base=2), abs=1e-9)
    assert found["total_variation"] == pytest.approx(np.abs(p - q).sum() / 2, abs=1e-9)
    assert found["l_infinity"] == pytest.approx(np.abs(p - q).max(), abs=1e-9)
    floored = np.maximum(p, 1e-6), np.maximum(q, 1e-6)
    assert found["psi"] == pytest.approx(((floored[0] - floored[1]) * np.log(floored[0] / floored[1])).sum())


def test_a_change_of_infinities_alarms_and_none_does_not() -> None:
    random = np.random.default_rng(2)
    few, many = with_infinities(random, 3000, 0.01, 0), with_infinities(random, 1000, 0.6, 0)
    assert compare({"x": few}, {"x": many}).drifted
    for shares in ((0.2, 0.0), (0.1, 0.1)):
        a, b = with_infinities(random, 3000, *shares), with_infinities(random, 1000, *shares)
        assert not compare({"x": a}, {"x": b}, floors=False).drifted
        assert compare({"x": a}, {"x": -b if shares[1] == 0 else np.abs(b)}).drifted


infinite = st.sampled_from([INFINITY, -INFINITY, math.nan, 0.0, 1.0, -5.0, 1e308]) | st.none()


@given(st.lists(infinite, max_size=20), st.lists(infinite, max_size=40), st.integers(0, 40), st.randoms())
def test_infinities_are_counted_by_sign_however_rows_are_split(trained, seen, cut, random) -> None:
    baseline = make({"x": pa.array(trained, pa.float64())})
    shuffled = random.sample(seen, len(seen))
    parts = [pa.table({"x": pa.array(part, pa.float64())}) for part in (shuffled[:cut], shuffled[cut:])]
    added = profile(parts[:1], baseline.grids) + profile(parts[1:], baseline.grids)
    values = added.features["x"].values
    assert isinstance(values, NumericProfile)
    assert (values.infinities, values.minus) == (
        seen.count(INFINITY) + seen.count(-INFINITY),
        seen.count(-INFINITY),
    )


def test_where_an_earlier_version_kept_no_signs_infinities_are_compared_without() -> None:
    a, b = np.array([INFINITY] * 20 + [1.0] * 80), np.array([-INFINITY] * 20 + [1.0] * 80)
    baseline = make({"x": pa.array(a)}, kinds={"x": "numeric"})
    values = baseline.features["x"].profile.values
    assert isinstance(values, NumericProfile)
    values.minus = None
    window = profile([pa.table({"x": b})], baseline.grids)
    found = {one.measure: one.value for one in values_of("x", baseline.features["x"], window.features["x"])}
    assert (found["ks"], found["js"]) == (0, 0)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.85, 0.95, 0.999])
def test_a_value_that_repeats_has_a_bin_of_its_own(share) -> None:
    random = np.random.default_rng(3)
    a = np.where(random.random(5000) < share, 0.0, random.exponential(size=5000))
    b = random.exponential(size=2000)
    found = measured(a, b)
    zeros = float(np.mean(a == 0))
    assert found["l_infinity"] >= zeros - 1e-9
    assert found["total_variation"] >= zeros - 1e-9
    if share == 0.95:  # all deciles but the last are zero: two cells
        p, q = np.array([zeros, 1 - zeros]), np.array([1e-6, 1.0])
        assert found["psi"] == pytest.approx(float(((p - q) * np.log(p / q)).sum()), abs=1e-4)
        assert found["js"] == pytest.approx(distance.jensenshannon([zeros, 1 - zeros], [0, 1], base=2), abs=1e-9)
        assert found["total_variation"] == pytest.approx(zeros)
    assert compare({"x": a}, {"x": b}).drifted


@pytest.mark.parametrize(("before", "after"), [(5.0, 5.5), (5.0, 4.5), (0.0, 1e-300), (-1e308, 1e308)])
def test_a_constant_that_changes_is_all_another(before, after) -> None:
    found = measured([before] * 300, [after] * 100)
    assert (found["ks"], found["js"], found["total_variation"], found["l_infinity"]) == (1, 1, 1, 1)
    assert found["psi"] == pytest.approx(2 * (1 - 1e-6) * math.log(1e6))
    same = measured([before] * 300, [before] * 100)
    assert (same["ks"], same["js"], same["psi"]) == (0, 0, 0)


BIG = 2**60


@pytest.mark.parametrize("kind", ["int64", "uint64", "negative", "beyond int64", "far apart"])
@pytest.mark.parametrize("values", [3, 400, 100_000])
def test_large_integers_are_compared_as_integers(kind, values) -> None:
    random = np.random.default_rng(4)
    base = {"negative": -BIG - 10**6, "beyond int64": 2**63 + 5}.get(kind, BIG)
    numbers = np.uint64 if kind in ("uint64", "beyond int64") else np.int64
    a, b = (numbers(base) + random.integers(0, values, rows).astype(numbers) for rows in (5000, 2000))
    b = b + np.asarray(values // 3 + 1, b.dtype)
    if kind == "far apart":
        a[::3], b[::2] = -(2**62), 0
    found = measured(pa.array(a), pa.array(b))
    assert found["ks"] == pytest.approx(exact_ks(a.tolist(), b.tolist()), abs=1e-3)
    exact_a, exact_b = ([int(one) - base for one in side] for side in (a, b))
    mean_a, scale = sum(exact_a) / len(a), float(np.std(np.array(exact_a, float)))
    assert found["mean_shift"] == pytest.approx((sum(exact_b) / len(b) - mean_a) / scale, rel=1e-6)
    exact = stats.wasserstein_distance(np.array(exact_a, float), np.array(exact_b, float)) / scale
    assert found["wasserstein"] == pytest.approx(exact, abs=2e-3)


def test_large_integers_that_are_categories_are_told_apart() -> None:
    names = [BIG, BIG + 1, BIG + 2]
    baseline = make({"x": pa.array(names * 100)})
    grid = baseline.grids["x"]
    assert isinstance(grid, CategoricalGrid)
    assert grid.categories == [str(name) for name in names]
    again = Baseline.from_bytes(baseline.to_bytes())
    for kind in (pa.int64(), pa.uint64()):
        seen = pa.array([BIG + 1, BIG + 1, BIG + 3, None], kind)
        found = profile([pa.table({"x": seen})], again.grids).features["x"]
        assert found.values.counts.tolist() == [0, 2, 0]
        assert found.values.new == {str(BIG + 3): 1}
    assert measured(names * 100, [BIG + 10, BIG + 11] * 30, "categorical")["new_category_rate"] == 1
    doubles = profile([pa.table({"x": [float(BIG), 0.5, INFINITY, 1e300]})], again.grids).features["x"]
    assert doubles.values.counts.tolist() == [1, 0, 0]
    assert sum(doubles.values.new.values()) == 3


wide = st.integers(-(2**63), 2**64 - 1) | st.integers(BIG - 3, BIG + 3) | st.integers(-3, 3)


@given(
    st.lists(wide, min_size=1, max_size=30),
    st.lists(wide | st.none(), max_size=40),
    st.integers(0, 40),
    st.randoms(),
)
def test_large_integers_are_counted_exactly_however_rows_are_split(trained, seen, cut, random) -> None:
    def column(values: list[int | None]) -> pa.Array:
        low = min((value for value in values if value is not None), default=0)
        if low < 0:
            return pa.array([value if value is None or value < 2**63 else None for value in values], pa.int64())
        return pa.array(values, pa.uint64())

    baseline = make({"x": column(trained)}, kinds={"x": "numeric"})
    grid = baseline.grids["x"]
    assert isinstance(grid, NumericGrid)
    assert (np.diff(grid.edges.astype(object)) > 0).all()
    shuffled = random.sample(seen, len(seen))
    tables = [pa.table({"x": column(part)}) for part in (shuffled[:cut], shuffled[cut:])]
    parts = [profile([table], baseline.grids) for table in tables]
    added: Profile = parts[1] + parts[0]
    values = added.features["x"].values
    assert isinstance(values, NumericProfile)
    kept = [one for table in tables for one in table["x"].to_pylist() if one is not None]
    edges = grid.edges.tolist()
    if grid.edges.dtype.kind == "f":
        kept = [float(one) for one in kept]
    counts = [0] * grid.cells
    for one in kept:
        counts[sum(edge <= one for edge in edges)] += 1
    if max(edges) < 2**63 - 1:
        assert values.counts.tolist() == counts
    assert values.values == len(kept)


def test_doubles_and_misfits_of_the_log_are_compared_with_large_integers() -> None:
    """The log has the nearest double of an integer above 2^53, and the integer itself among the misfits."""
    random = np.random.default_rng(5)
    a, b = (BIG + random.integers(0, 300, rows) for rows in (3000, 1000))
    for kind in ("numeric", "categorical"):
        baseline = make({"x": pa.array(a)}, kinds={"x": kind})
        rounded = [f'{{"input": {{"x": {one}}}}}' if int(float(one)) != one else None for one in b.tolist()]
        table = pa.table({"x": b.astype(float), "misfits": pa.array(rounded, pa.string())})
        logged = profile([table], baseline.grids, misfits="misfits").features["x"]
        direct = profile([pa.table({"x": b})], baseline.grids).features["x"]
        assert logged.values.counts.tolist() == direct.values.counts.tolist()
        assert (logged.misfits, logged.nulls) == (0, 0)


@pytest.mark.parametrize("size", [1e308, 1.7e308, 1e-300, 1e200])
def test_the_largest_and_least_numbers_are_measured_without_a_warning(size) -> None:
    random = np.random.default_rng(6)
    a, b = random.uniform(-1, 1, 3000), random.uniform(-0.5, 1, 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, plain = measured(a * size, b * size), measured(a, b)
        compare({"x": a * size}, {"x": b * size}).to_html()
    for name in ("ks", "wasserstein", "mean_shift", "psi", "js"):
        assert found[name] == pytest.approx(plain[name], abs=1e-6)


def test_a_window_of_the_largest_numbers_has_a_mean() -> None:
    a = np.random.default_rng(7).normal(size=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measured(a, [1.5e308] * 100)
        both = measured(a, [1.5e308, -1.5e308] * 50)
    assert found["mean_shift"] == pytest.approx(1.5e308 / a.std(), rel=1e-9)
    assert found["wasserstein"] == pytest.approx(1.5e308 / a.std(), rel=1e-9)
    assert both["mean_shift"] == pytest.approx(-a.mean() / a.std(), abs=1e290)
