"""Two months of traffic with a rhythm keep the budget of false alarms, and what comes on top is found in time."""

from __future__ import annotations

from datetime import timedelta
from statistics import median

import pytest

from mooring.drift.stored import load
from mooring.monitor.parts import PartEvidence
from seasonal import MONDAY, SeasonalStream, Watch, by_hour, by_weekend, never

PATTERNS = {
    "hours": by_hour(0.25),
    "strong hours": by_hour(1.0),
    "weekends": by_weekend(0.25),
    "strong weekends": by_weekend(1.0),
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("rows", [200, 1000])
def test_two_months_with_a_rhythm_keep_the_budget(name, rows):
    opened = []
    for seed in range(2):
        start = MONDAY + timedelta(hours=(50 + 77 * seed) % 168)
        watch = Watch(SeasonalStream(PATTERNS[name], rows=rows, baseline_rows=20_000, start=start, seed=seed))
        watch.see(60 * 24)
        opened += [one.opened - start for one in watch.opened]
    # On the first day a strong rhythm may look like a jump; later there is 0.67 in two months at most.
    later = [one for one in opened if one > timedelta(days=1)]
    assert len(opened) - len(later) <= (2 if "strong" in name else 0)
    assert len(later) <= 2


def delays(pattern, rows: int, shift: float, *, seasonal: bool = True, repeats: int = 5) -> list[int]:
    """Return how many windows it takes to find a shift that begins after twenty days."""
    found = []
    for seed in range(repeats):
        stream = SeasonalStream(pattern, rows=rows, baseline_rows=20_000, seed=seed)
        watch = Watch(stream, seasonal=seasonal)
        watch.see(20 * 24)
        before = len(watch.opened)
        for _ in range(96):
            watch.see(1, shift=shift)
            if len(watch.opened) > before:
                break
        found.append(watch.count - 20 * 24)
    return found


def test_a_shift_on_top_of_a_rhythm_is_found_within_twice_the_time_without_one():
    plain = delays(never, 200, 0.3, seasonal=False)
    assert median(delays(never, 200, 0.3)) <= 1.1 * median(plain) + 1
    assert median(delays(by_hour(0.25), 200, 0.3)) <= 2 * median(plain) + 1


def test_the_first_weekend_is_no_drift_and_is_known_after_eight_days():
    watch = Watch(SeasonalStream(by_weekend(0.4), rows=300, start=MONDAY + timedelta(days=2)))
    watch.see(8 * 24 + 1)
    assert watch.opened == []
    assert load(watch.state.data, dict[str, PartEvidence], "stream", 1)[""].season.by_kind == ["x0"]
