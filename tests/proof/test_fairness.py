"""Whether the intervals of differences between groups hold as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from mooring.performance.fairness import fairness
from mooring.performance.scored import LabelledRows

pytestmark = pytest.mark.proof
RUNS = 400
MEASURES = ("demographic_parity_difference", "equal_opportunity_difference", "equalized_odds_difference")


def _rows(
    random: np.random.Generator, groups: int, size: int, alike: int, gap: float
) -> tuple[LabelledRows, list[str]]:
    """Return rows that are selected at 0.3, of the first group at `gap` more; requests of up to `alike` rows."""
    rows = groups * size
    requests = np.repeat(np.arange(rows), random.integers(1, alike + 1, rows))[:rows]
    places = random.integers(groups, size=rows)
    labels = (random.random(rows) < 0.4).astype(np.int64)
    # A request's rows share most of what decides about them.
    shared = random.normal(size=rows)[requests]
    draw = 0.7 * shared + np.sqrt(1 - 0.49) * random.normal(size=rows)
    said = (draw < np.where(places == 0, _QUANTILE[round(0.3 + gap, 2)], _QUANTILE[0.3])).astype(np.int64)
    return LabelledRows(labels, said, requests, None, ("no", "yes")), [f"g{at}" for at in places.tolist()]


_QUANTILE = {0.3: -0.5244005127, 0.4: -0.2533471031}


@pytest.mark.parametrize(("groups", "size", "alike"), [(2, 200, 1), (5, 300, 4), (12, 150, 1), (12, 150, 4)])
@pytest.mark.parametrize("gap", [0.0, 0.1])
def test_intervals_of_differences_hold(groups: int, size: int, alike: int, gap: float) -> None:
    random = np.random.default_rng([groups, size, alike, round(10 * gap)])
    held = dict.fromkeys((*MEASURES, "demographic_parity_ratio"), 0)
    for seed in range(RUNS):
        scored, values = _rows(random, groups, size, alike, gap)
        found = fairness(scored, values, "group", draws=300, seed=seed)
        for one in found.disparities:
            if one.measure in held:
                truth = 0.3 / (0.3 + gap) if one.measure.endswith("ratio") else gap
                held[one.measure] += one.low <= truth + 1e-9 and truth - 1e-9 <= one.high
    shares = {name: count / RUNS for name, count in held.items()}
    print(groups, size, alike, gap, shares)
    # 3 standard errors below 95 %
    assert min(shares.values()) >= 0.917
