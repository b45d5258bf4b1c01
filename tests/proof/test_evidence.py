"""Evidence keeps the budget: where nothing changes, one false alarm in the time in which one may be, or fewer."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mooring.drift.evidence import BLOCKS, Evidence, limit, signed


def time_between_alarms(windows: int, features: int, streams: int, length: int, seed: int) -> tuple[float, int]:
    """Return how much time there was, in units of that in which one false alarm may be, and how many there were.

    P-values are uniform, as they are where nothing changes; the sums are those of `Evidence`, for many streams.
    """
    random = np.random.default_rng(seed)
    sums = np.zeros((streams, features, 2, len(BLOCKS)))
    waited = np.zeros(len(BLOCKS))
    alarms = 0
    for number in range(1, length + 1):
        waited += 1 / windows
        for at, block in enumerate(BLOCKS):
            if number % block == 0:
                half = random.random((streams, features)) / 2
                rose = random.random((streams, features)) < 0.5
                both = np.stack([np.where(rose, half, 1 - half), np.where(rose, 1 - half, half)], axis=2)
                sums[..., at] = np.minimum((sums[..., at] + waited[at]) * e_values(both), 1e9)
                waited[at] = 0.0
        hit = sums.mean(axis=(1, 2, 3)) >= limit(1 / windows)
        alarms += int(hit.sum())
        sums[hit] = 0.0
    return streams * length / windows, alarms


def e_values(p_values: np.ndarray) -> np.ndarray:
    p = np.clip(p_values, 1e-16, 1 - 1e-9)
    log = np.log(p)
    return np.where(log > -1e-4, 0.5 - log / 6, (1 - p + p * log) / (p * log * log))


def test_the_simulation_adds_up_as_evidence_does():
    random = np.random.default_rng(0)
    evidence, sums, waited = Evidence(), np.zeros((2, len(BLOCKS))), np.zeros(len(BLOCKS))
    for number in range(1, 33):
        evidence.pass_time(0.01)
        waited += 0.01
        for at, block in enumerate(BLOCKS):
            if number % block == 0:
                both = signed(float(random.random()), rose=bool(random.random() < 0.5))
                evidence.add(block, {"x": [both]})
                sums[:, at] = (sums[:, at] + waited[at]) * e_values(np.array(both))
                waited[at] = 0.0
    assert evidence.level(["x"]) == pytest.approx(sums.mean(), rel=1e-6)


@pytest.mark.parametrize("features", [1, 12, 64])
@pytest.mark.parametrize("windows", [50, 100, 200, 600, 2160, 10_000])
def test_where_nothing_changes_there_is_one_false_alarm_in_the_time_of_one_at_most(windows, features):
    streams = max(4, 400 // features)
    time, alarms = time_between_alarms(windows, features, streams, 6 * windows, seed=windows + features)
    least = stats.chi2.ppf(0.025, 2 * alarms) / 2 if alarms else 0.0  # the mean, by so many alarms, at least
    print(
        f"{windows} windows, {features} features: {alarms} alarms in {time:.0f}, {time / max(alarms, 1):.2f} times"
    )
    assert least <= time, f"{alarms} alarms where {time:.0f} may be"
