"""The shares that figures are drawn of: all of a feature's values, and none twice."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mooring.drift.baseline import make
from mooring.drift.distributions import Bars, Histogram, distribution
from mooring.drift.profile import profile


def shown(before: object, after: object, kind: str) -> object:
    baseline = make({"x": pa.array(before)}, kinds={"x": kind})
    window = profile([pa.table({"x": pa.array(after)})], baseline.grids)
    return distribution(baseline.features["x"].grid, baseline.features["x"].profile, window.features["x"])


@pytest.mark.parametrize("seed", range(5))
def test_shares_of_numbers_add_up_to_one_and_none_is_below_nothing(seed: int) -> None:
    random = np.random.default_rng(seed)
    found = shown(random.normal(size=997), random.normal(1, 2, size=301), "numeric")
    assert isinstance(found, Histogram)
    for place, inner in enumerate((found.reference, found.current)):
        parts = [found.below[place], *inner, found.above[place]]
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(1)


def test_shares_of_categories_add_up_to_one_and_none_is_below_nothing() -> None:
    random = np.random.default_rng(0)
    many = [f"c{number}" for number in random.integers(0, 60, 997)]
    found = shown(many, many[:301] + ["new one"] * 40, "categorical")
    assert isinstance(found, Bars)
    for inner, rest in zip((found.reference, found.current), found.rest_shares, strict=True):
        assert min(*inner, rest) >= 0
        assert inner.sum() + rest == pytest.approx(1)
    emptied = shown(many, pa.nulls(50, pa.string()), "categorical")
    assert isinstance(emptied, Bars)
    assert emptied.rest_shares[1] == 0
