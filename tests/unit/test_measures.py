"""Measures are what they are said to be: against scipy's exact values, and against other libraries' definitions.

The oracle lies beside the repository: two samples of 10,000 rows and what scipy and six libraries say of them.
Where a library says something else than Mooring, a test computes its definition, so that the reason is known: it
bins by the window, keeps an arbitrary floor for empty bins, takes the reference for the truth, or scales by the
extremes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import distance

from mooring.drift import measures
from mooring.drift.baseline import make
from mooring.drift.grid import Floats
from mooring.drift.judge import values_of
from mooring.drift.profile import profile

ORACLE = Path(__file__).parents[3] / "shared" / "oracle"
NUMERIC = (
    "alcohol",
    "residual_sugar",
    "density",
    "chlorides",
    "quality",
    "alcohol_nulls",
    "alcohol_1dp",
    "out_of_range",
)
CATEGORICAL = ("cat20", "cat2000", "cat20_new", "bool")

oracle = pytest.mark.skipif(not ORACLE.is_dir(), reason="no oracle beside the repository, in ../shared/oracle")


def measured(reference: pa.Array, current: pa.Array, kind: str) -> dict[str, float]:
    baseline = make({"x": reference}, kinds={"x": kind})
    window = profile([pa.table({"x": current})], baseline.grids)
    found = values_of("x", baseline.features["x"], window.features["x"])
    return {one.measure: one.value for one in found}


@pytest.fixture(scope="module")
def samples() -> tuple[pa.Table, pa.Table]:
    return pq.read_table(ORACLE / "ref.parquet"), pq.read_table(ORACLE / "cur.parquet")


@pytest.fixture(scope="module")
def said() -> dict:
    return {name: lib["values"] for name, lib in json.loads((ORACLE / "oracle.json").read_text())["libs"].items()}


@pytest.fixture(scope="module")
def ours(samples) -> dict[str, dict[str, float]]:
    before, after = samples
    return {
        name: measured(before[name], after[name], "numeric" if name in NUMERIC else "categorical")
        for name in NUMERIC + CATEGORICAL
    }


def numbers(samples, name: str) -> tuple[Floats, Floats]:
    a, b = (table[name].drop_null().to_numpy().astype(float) for table in samples)
    return a, b


def counts(samples, name: str) -> tuple[Floats, Floats]:
    tables = [
        dict(zip(*(part.to_pylist() for part in table[name].value_counts().flatten()), strict=True))
        for table in samples
    ]
    names = sorted(tables[0].keys() | tables[1].keys())
    a, b = (np.array([table.get(name, 0) for name in names], float) for table in tables)
    return a, b


def binned(samples, name: str, edges: Floats) -> tuple[Floats, Floats]:
    a, b = (np.histogram(values, edges)[0] / len(values) for values in numbers(samples, name))
    return a, b


def psi(p: Floats, q: Floats) -> float:
    return float(np.sum((p - q) * np.log(p / q)))


def hellinger(p: Floats, q: Floats) -> float:
    return float(np.sqrt(np.sum((np.sqrt(p) - np.sqrt(q)) ** 2) / 2))


@oracle
@pytest.mark.parametrize("name", NUMERIC)
def test_numeric_measures_are_scipys(name, ours, said):
    exact, found = said["scipy"][name], ours[name]
    assert found["ks"] == pytest.approx(exact["ks_2samp[stat,p] auto"][0], abs=1e-3)
    assert found["wasserstein"] == pytest.approx(exact["wasserstein/std(ref,ddof=0)"], abs=1e-3)
    assert found["psi"] == pytest.approx(exact["PSI ref-deciles(10, open ends, floor 1e-6)"], abs=1e-9)
    assert found["js"] == pytest.approx(exact["JS dist base2 ref-deciles"], abs=1e-9)
    assert found["hellinger"] == pytest.approx(exact["Hellinger ref-deciles"], abs=1e-9)


@oracle
@pytest.mark.parametrize("name", CATEGORICAL)
def test_categorical_measures_are_scipys(name, ours, said):
    exact, found = said["scipy"][name], ours[name]
    assert found["chi_square"] == pytest.approx(exact["chi2_contingency no correction[stat,p,dof]"][0], rel=1e-9)
    assert found["total_variation"] == pytest.approx(exact["TVD = 0.5*sum|p-q|"], abs=1e-9)
    assert found["l_infinity"] == pytest.approx(exact["L-infinity = max|p-q|"], abs=1e-9)
    assert found["js"] == pytest.approx(exact["JS dist base2"], abs=1e-9)
    assert found["hellinger"] == pytest.approx(exact["Hellinger"], abs=1e-9)
    assert found["psi"] == pytest.approx(exact["PSI floor 1e-6"], abs=1e-9)


def evidently_floor(shares: Floats) -> Floats:
    least = shares[shares > 0].min()
    return np.where(shares == 0, least / 1e6 if least <= 1e-4 else 1e-4, shares)


@oracle
@pytest.mark.parametrize("name", NUMERIC)
def test_evidently_bins_numbers_by_both_samples_and_takes_the_natural_logarithm(name, samples, ours, said):
    """Its bins are of equal width over reference and window together, so they move with every window."""
    both = np.concatenate(numbers(samples, name))
    if len(np.unique(both)) > 20:
        p, q = binned(samples, name, np.histogram_bin_edges(both, "sturges"))
    else:
        each = np.unique(both)
        p, q = binned(samples, name, np.append(each, each[-1] + 1))
    theirs = said["evidently"][name]
    assert distance.jensenshannon(p, q) == pytest.approx(theirs["jensenshannon"], abs=1e-9)
    assert psi(evidently_floor(p), evidently_floor(q)) == pytest.approx(theirs["psi"], abs=1e-9)
    assert ours[name]["wasserstein"] == pytest.approx(theirs["wasserstein_norm"], abs=1e-3)


@oracle
@pytest.mark.parametrize("name", NUMERIC)
def test_evidentlys_mann_whitney_is_one_sided(name, samples, said):
    """It sees only values that grew: of ones that fell, however far, p is near 1."""
    a, b = numbers(samples, name)
    p = stats.mannwhitneyu(a, b, alternative="less").pvalue
    assert p == pytest.approx(said["evidently"][name]["mannwhitney"], rel=1e-9)


@oracle
@pytest.mark.parametrize("name", CATEGORICAL)
def test_evidently_and_whylogs_take_the_reference_for_the_truth(name, samples, ours, said):
    """Their chi-square has one sample: what the reference lacks has no probability, so one such row gives p = 0.

    Distances of categories are ours but for the logarithm's base.
    """
    a, b = counts(samples, name)
    with np.errstate(divide="ignore"):
        statistic = np.sum((b - a * b.sum() / a.sum()) ** 2 / (a * b.sum() / a.sum()))
    theirs, sketched = said["evidently"][name], said["whylogs"][name]["chi-square[stat,p] x5 runs"][0]
    assert stats.chi2.sf(statistic, len(a) - 1) == pytest.approx(theirs["chisquare"], rel=1e-6, abs=1e-300)
    assert sketched[0] == pytest.approx(statistic, rel=2e-3)  # from a sketch of frequent items
    assert ours[name]["js"] * np.sqrt(np.log(2)) == pytest.approx(theirs["jensenshannon"], abs=1e-9)
    assert ours[name]["hellinger"] == pytest.approx(theirs["hellinger"], abs=1e-9)


@oracle
@pytest.mark.parametrize("name", NUMERIC)
def test_nannyml_bins_numbers_evenly_by_the_reference(name, samples, ours, said):
    """Its bins are of equal width, as many as Doane's rule gives, with one for all that is out of range."""
    a, b = numbers(samples, name)
    p, q = binned(samples, name, np.histogram_bin_edges(a, "doane"))
    p, q = np.append(p, 0.0), np.append(q, 1 - q.sum())
    theirs = said["nannyml"][name]
    assert distance.jensenshannon(p, q, base=2) == pytest.approx(theirs["jensen_shannon"], abs=1e-9)
    assert hellinger(p, q) == pytest.approx(theirs["hellinger"], abs=1e-9)
    [exact] = [value for key, value in theirs.items() if key.startswith("wasserstein first")]
    assert stats.wasserstein_distance(a[:9999], b[:9999]) == pytest.approx(exact, rel=0.01)  # not in deviations


@oracle
@pytest.mark.parametrize("name", CATEGORICAL)
def test_nannyml_says_of_categories_what_we_say(name, ours, said):
    """Of 2 × 2 tables its chi-square has Yates's correction, which ours has not."""
    theirs = said["nannyml"][name]
    assert ours[name]["js"] == pytest.approx(theirs["jensen_shannon"], abs=1e-9)
    assert ours[name]["hellinger"] == pytest.approx(theirs["hellinger"], abs=1e-9)
    assert ours[name]["l_infinity"] == pytest.approx(theirs["l_infinity"], abs=1e-9)
    assert ours[name]["chi_square"] == pytest.approx(theirs["chi2"][0], rel=5e-3 if name == "bool" else 1e-9)


@oracle
@pytest.mark.parametrize("name", NUMERIC)
def test_whylogs_says_something_else_each_time(name, samples, ours, said):
    """Its sketches are random: five runs on the same rows differ, by more than our grid misses."""
    runs = [statistic for statistic, _ in said["whylogs"][name]["ks[stat,p] x5 runs"]]
    exact = stats.ks_2samp(*numbers(samples, name)).statistic
    assert len(set(runs)) > 1
    assert abs(ours[name]["ks"] - exact) <= max(abs(run - exact) for run in runs)
    assert runs == pytest.approx([exact] * 5, abs=3e-3)


@oracle
@pytest.mark.parametrize("name", NUMERIC + CATEGORICAL)
def test_alibi_detect_says_what_scipy_says_in_single_precision(name, samples, said):
    theirs = said["alibi"][name]
    if name in NUMERIC:
        exact = stats.ks_2samp(*numbers(samples, name)).statistic
        assert theirs["KSDrift[stat,p]"][0] == pytest.approx(exact, rel=1e-6)
    else:
        exact = stats.chi2_contingency(counts(samples, name)).statistic  # with Yates's correction
        assert theirs["ChiSquareDrift[stat,p]"][0] == pytest.approx(exact, rel=1e-6)


@oracle
@pytest.mark.parametrize("name", NUMERIC)
def test_deepchecks_scales_by_the_range_without_the_extremes(name, samples, said):
    """Of each sample a fortieth at either end is left out, so outliers do not count."""
    inner = []
    for values in numbers(samples, name):
        low, high = np.quantile(values, [0.025, 0.975])
        inner.append(values[(values >= low) & (values <= high)])
    both = np.concatenate(inner)
    found = stats.wasserstein_distance(*inner) / (both.max() - both.min())
    assert found == pytest.approx(said["deepchecks"][name]["Earth Mover's Distance"], rel=1e-9)


@oracle
@pytest.mark.parametrize("name", CATEGORICAL)
def test_deepchecks_counts_a_rare_category_as_a_hundredth(name, samples, said):
    """With 2,000 categories nearly all are rarer than its floor, and its PSI sees nearly nothing."""
    p, q = (np.maximum(part / part.sum(), 0.01) for part in counts(samples, name))
    assert psi(p, q) == pytest.approx(said["deepchecks"][name]["PSI"], abs=1e-9)


@oracle
@pytest.mark.parametrize("name", NUMERIC)
def test_frouros_bins_evenly_by_both_samples(name, samples, said):
    """Ten bins of equal width over both: one outlier, and nearly everything falls in one bin."""
    a, b = numbers(samples, name)
    both = np.concatenate([a, b])
    p, q = binned(samples, name, np.linspace(both.min(), both.max(), 11))
    assert hellinger(p, q) == pytest.approx(said["frouros"][name]["hellinger"], abs=1e-9)
    assert stats.wasserstein_distance(a, b) == pytest.approx(said["frouros"][name]["emd"], rel=1e-9)


SHAPES: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "heavy tails": lambda random, size: random.standard_t(2, size),
    "lognormal": lambda random, size: np.exp(1.5 * random.normal(size=size)),
    "outliers": lambda random, size: np.where(random.random(size) < 0.001, 1e4, random.normal(size=size)),
    "few values": lambda random, size: random.integers(0, 7, size).astype(float),
    "rounded": lambda random, size: np.round(random.gamma(2, 3, size), 1),
    "spiky": lambda random, size: np.where(random.random(size) < 0.4, 0.0, random.exponential(size=size)),
    "two peaks": lambda random, size: random.normal(size=size) + 8 * (random.random(size) < 0.3),
    "uniform": lambda random, size: random.random(size),
}


@pytest.mark.parametrize("change", ["same", "shifted", "wider"])
@pytest.mark.parametrize("size", [700, 5_000, 60_000])
@pytest.mark.parametrize("shape", SHAPES)
def test_ks_and_wasserstein_are_within_a_thousandth_of_exact(shape, size, change):
    random = np.random.default_rng(size)
    reference, current = (SHAPES[shape](random, rows) for rows in (size, 20_000))
    if change == "shifted":
        current = current + 0.3 * np.median(np.abs(reference - np.median(reference)))
    if change == "wider":
        current = current * 1.5
    found = measured(pa.array(reference), pa.array(current), "numeric")
    assert found["ks"] == pytest.approx(stats.ks_2samp(reference, current).statistic, abs=1e-3)
    exact = stats.wasserstein_distance(reference, current) / reference.std()
    assert found["wasserstein"] == pytest.approx(exact, abs=1e-3)
    assert found["mean_shift"] == pytest.approx((current.mean() - reference.mean()) / reference.std(), abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=12))
def test_distances_are_those_of_their_definitions(pairs):
    a, b = np.array(pairs, float).T
    for measure in (measures.psi, measures.js, measures.hellinger, measures.ks, measures.total_variation):
        if not a.sum() or not b.sum():
            assert np.isnan(measure(a, b))
            continue
        assert measure(a, a) == pytest.approx(0, abs=1e-7)
        assert measure(a, b) == pytest.approx(measure(b, a), abs=1e-12)
        assert measure(a, b) >= 0
    if a.sum() and b.sum():
        assert measures.js(a, b) == pytest.approx(distance.jensenshannon(a, b, base=2), abs=1e-7)
        either = (a + b) > 0
        if either.sum() > 1:
            exact = stats.chi2_contingency([a[either], b[either]], correction=False).statistic
            assert measures.chi_square(a, b) == pytest.approx(exact, rel=1e-9, abs=1e-9)


def test_many_windows_are_measured_at_once():
    a, b = np.array([[10, 20, 30]]), np.array([[10, 20, 30], [30, 20, 10]])
    assert measures.js(a, b).shape == (2,)
    assert measures.ks(a, b).tolist() == [0, pytest.approx(1 / 3)]
