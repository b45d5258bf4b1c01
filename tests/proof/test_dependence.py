"""False alarms of streams whose rows depend on each other keep the budget once some windows were seen."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from scipy.signal import lfilter

from mooring.drift.baseline import Baseline, make
from mooring.drift.blocks import PastWindows, p_values, profile_of
from mooring.drift.dependence import Dependence
from mooring.drift.profile import Profile, profile

pytestmark = pytest.mark.proof

WINDOWS = (11, 14, 17, 41, 44, 47)
REPETITIONS = 60
COMPARISONS = 8 * 2 * 2  # cases, features, budgets

Stream = Callable[[np.random.Generator, int], np.ndarray]


def autoregressive(correlation: float, writers: int = 1) -> Stream:
    def values(rng: np.random.Generator, rows: int) -> np.ndarray:
        steps = rng.normal(size=(rows // writers, writers)) * np.sqrt(1 - correlation**2)
        steps[0] = rng.normal(size=writers)
        return lfilter([1.0], [1.0, -correlation], steps, axis=0).ravel()

    return values


def alike(share: float, per_request: int) -> Stream:
    def values(rng: np.random.Generator, rows: int) -> np.ndarray:
        own = np.repeat(rng.normal(size=rows // per_request), per_request)
        return np.sqrt(share) * own + np.sqrt(1 - share) * rng.normal(size=len(own))

    return values


def columns(values: np.ndarray) -> dict[str, np.ndarray]:
    return {"x": values, "c": np.where(values < -0.5, "a", np.where(values < 0.5, "b", "c"))}


def counted(
    rng: np.random.Generator, values: np.ndarray, per_request: int, baseline: Baseline, at: int
) -> Profile:
    rows = np.arange(len(values))
    request = rows // per_request
    times = at * 3_600_000_000 + np.sort(rng.integers(0, 3_600_000_000, request[-1] + 1))
    own = {"time": times[request], "row": rows % per_request, "request_rows": np.bincount(request)[request]}
    table = pa.table({**columns(values), **own})
    return profile([table], baseline.grids, request_rows="request_rows", time="time", row="row")


@pytest.mark.parametrize(
    ("stream", "rows", "per_request"),
    [
        (autoregressive(0.0), 1000, 1),
        (autoregressive(0.5), 200, 1),
        (autoregressive(0.9), 1000, 1),
        (autoregressive(0.95), 8000, 1),
        (autoregressive(0.5, writers=4), 1000, 1),
        (autoregressive(0.95, writers=4), 8000, 1),
        (alike(0.3, 5), 1000, 5),
        (alike(1.0, 33), 6600, 33),
    ],
    ids=["independent", "ar 0.5", "ar 0.9", "ar 0.95", "4 of 0.5", "4 of 0.95", "icc 0.3", "icc 1"],
)
def test_p_values_are_not_too_small(stream, rows, per_request):
    rng = np.random.default_rng(rows)
    found = []
    for _ in range(REPETITIONS):
        baseline = make({name: pa.array(values) for name, values in columns(rng.normal(size=5000)).items()})
        all_values = stream(rng, rows * WINDOWS[-1])
        dependence, past = Dependence(), PastWindows()
        for number in range(1, WINDOWS[-1] + 1):
            window = counted(rng, all_values[(number - 1) * rows : number * rows], per_request, baseline, number)
            dependence = dependence.after(window.order, window.weight)
            if number in WINDOWS:
                before = past.with_window(profile_of(baseline))
                effects = dependence.design_effects(baseline.grids)
                judged = p_values(baseline, before, window, effects=effects, seed=int(rng.integers(2**31)))
                found.append([one.p_value for one in judged.values()])
            past = past.after(msgspec.structs.replace(window, order=None))
    for budget in (0.05, 0.01):
        for feature in np.array(found).T:
            alarms = int(np.sum(feature <= budget))
            assert stats.binomtest(alarms, len(feature), budget, alternative="greater").pvalue > 0.01 / COMPARISONS
