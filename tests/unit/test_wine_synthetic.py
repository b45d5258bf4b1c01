"""The synthetic sample: made again exactly, near the real data in its figures, and holding none of its rows."""

from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import ks_2samp

from mooring.demo import make_wine_synthetic

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "wine-quality-white.csv"


@pytest.fixture(scope="module")
def synthetic():
    return pd.read_csv(make_wine_synthetic.CSV)


@pytest.fixture(scope="module")
def real():
    if not REAL.exists():
        pytest.skip("the real white wine data is not here to compare with")
    return pd.read_csv(REAL)


def test_the_script_makes_the_committed_file():
    made = make_wine_synthetic.to_csv(make_wine_synthetic.make())
    assert made == make_wine_synthetic.CSV.read_text(encoding="utf-8")


def test_shape(synthetic):
    assert list(synthetic) == [*make_wine_synthetic.DECIMALS, "quality"]
    assert len(synthetic) == 3500
    assert sorted(synthetic["quality"].unique()) == [3, 4, 5, 6, 7, 8, 9]
    assert make_wine_synthetic.CSV.stat().st_size < 200_000
    for column, decimals in make_wine_synthetic.DECIMALS.items():
        assert (synthetic[column].round(decimals) == synthetic[column]).all()


def test_columns_are_those_of_the_real_data(synthetic, real):
    assert list(synthetic) == list(real)


def test_marginals_are_near_the_real_ones(synthetic, real):
    # Two samples of these sizes from one distribution differ by more than 0.030 once in twenty times.
    for column in real:
        assert ks_2samp(synthetic[column], real[column]).statistic < 0.03, column
        for level in (0.05, 0.25, 0.5, 0.75, 0.95):
            difference = synthetic[column].quantile(level) - real[column].quantile(level)
            assert abs(difference) < 0.25 * real[column].std(), (column, level)


def test_correlations_are_near_the_real_ones(synthetic, real):
    difference = synthetic.corr("spearman") - real.corr("spearman")
    assert difference.abs().to_numpy().max() < 0.06


def test_no_row_is_a_real_row(synthetic, real):
    # Nor are the eleven measurements of one, whatever its quality: with these decimals chance makes none equal.
    measurements = list(make_wine_synthetic.DECIMALS)
    assert synthetic.astype("float64").merge(real, on=measurements).empty
