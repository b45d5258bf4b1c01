"""Testing by betting: evidence that may be looked at after every value."""

from __future__ import annotations

import itertools
import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.serving.rollout.power import in_words, sees
from mooring.serving.rollout.sequential import Bet


def wealth_after(values, limit: float, low: float) -> float:
    bet = Bet(low=low)
    for value in values:
        bet.update(value, limit)
    return math.exp(bet.log_wealth)


@given(
    low=st.sampled_from([0.0, -1.0]),
    limit=st.floats(0.001, 0.9),
    below=st.floats(0, 1),
    points=st.lists(st.floats(0, 1), min_size=6, max_size=6),
)
def test_on_average_nothing_is_won_where_the_mean_is_at_most_the_limit(low, limit, below, points):
    """The exact mean of the wealth, over all ways in which six values may fall.

    Each value is one of two, which depend on whether the last one was high, with a mean of the limit or less.
    """
    mean = low + below * (limit - low)
    pairs = [(low + one * (mean - low), mean + one * (1 - mean)) for one in points]
    total = 0.0
    for fallen in itertools.product((0, 1), repeat=len(pairs)):
        chance, values = 1.0, []
        for at, high in enumerate(fallen):
            few, many = pairs[at if not at or fallen[at - 1] else -at]
            share = (mean - few) / (many - few) if many > few else 0.5
            chance *= share if high else 1 - share
            values.append(min(max((few, many)[high], low), 1.0))
        total += chance * wealth_after(values, limit, low)
    assert total <= 1 + 1e-9
    if below == 1:
        assert total == pytest.approx(1)


@given(st.lists(st.floats(-1, 1), max_size=60), st.floats(0.001, 0.999))
def test_the_wealth_is_never_lost_altogether(values, limit):
    bet = Bet(low=-1.0)
    for value in values:
        bet.update(value, limit)
    assert math.isfinite(bet.log_wealth)
    assert bet.highest >= max(bet.log_wealth, 0)
    assert sum(bet.weights) == pytest.approx(1)
    assert bet.samples == len(values)


def needed(share: float, limit: float, *, after: int = 0) -> int:
    drawn, bet, count = random.Random(1), Bet(), 0
    for _ in range(after):
        bet.update(0.0, limit)
    while not bet.exceeds(0.0025):
        bet.update(float(drawn.random() < share), limit)
        count += 1
        assert count < 5000
    return count


def test_what_is_plain_is_seen_at_once_and_what_is_small_soon():
    assert needed(1.0, 0.01) <= 4
    assert needed(0.05, 0.01) <= 600


def test_a_long_time_without_fault_hides_none_that_begins_late():
    assert needed(1.0, 0.01, after=10_000) <= 8
    assert needed(0.2, 0.01, after=10_000) <= 200


def test_it_goes_on_after_a_restart_as_if_there_had_been_none():
    whole, first = Bet(), Bet()
    for at in range(40):
        for bet in (whole, first):
            bet.update(float(at % 7 == 0), 0.1)
    second = msgspec.json.decode(msgspec.json.encode(first), type=Bet)
    for at in range(40):
        for bet in (whole, second):
            bet.update(float(at % 3 == 0), 0.1)
    assert second == whole


def test_evidence_that_was_kept_with_other_bets_is_still_read():
    bet = msgspec.convert({"log_wealth": 2.0, "highest": 3.0, "samples": 5, "weights": [0.5, 0.5]}, Bet)
    bet.update(1.0, 0.01)
    assert bet.log_wealth > 2
    assert sum(bet.weights) == pytest.approx(1)


def test_what_sufficed_once_suffices_for_good():
    bet = Bet()
    for _ in range(5):
        bet.update(1.0, 0.01)
    assert bet.exceeds(0.01)
    for _ in range(1000):
        bet.update(0.0, 0.01)
    assert bet.exceeds(0.01)
    assert bet.chance < 0.01


@pytest.mark.parametrize(("value", "limit"), [(1.5, 0.1), (-0.1, 0.1), (math.nan, 0.1), (0.5, 0.0), (0.5, 1.0)])
def test_values_and_limits_that_can_not_be_are_refused(value, limit):
    with pytest.raises(ValueError, match="must be"):
        Bet().update(value, limit)


def found_of(trials: int, samples: int, share: float, low: float) -> int:
    found = 0
    for seed in range(trials):
        drawn, bet = random.Random(seed), Bet(low=low)
        for _ in range(samples):
            bet.update(float(drawn.random() < share), 0.01)
        found += bet.exceeds(0.002)
    return found


@pytest.mark.parametrize("samples", [50, 150, 500])
@pytest.mark.parametrize("low", [0.0, -1.0])
def test_a_step_sees_what_it_is_said_to_see_and_not_half_of_that(samples, low):
    share = sees(samples, 0.01, 0.002, low=low)
    assert share is not None
    assert found_of(100, samples, share, low) >= 90
    assert found_of(100, samples, share / 2, low) < 90


def test_more_requests_see_less_and_too_few_see_nothing_for_certain():
    seen = [sees(samples, 0.01, 0.002, low=-1.0) for samples in (50, 100, 500, 2000, 20_000)]
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 0.03
    assert sees(5, 0.01, 0.002, low=-1.0) is None
    assert sees(0, 0.01, 0.002) is None
    assert in_words(150, [{"name": "errors", "limit": 0.01, "fails_below": 0.002}]) == "sees 15 % errors with 90 %"
