"""Betting is wrong no more often than is allowed, and guards see what is slow on a busy machine, too."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

import pytest

from mooring.serving.protocol import Outcome
from mooring.serving.rollout.guards import Guards, Limits
from mooring.serving.rollout.sequential import Bet


@pytest.mark.parametrize(("limit", "low"), [(0.01, 0.0), (0.15, 0.0), (0.01, -1.0)])
def test_at_the_limit_it_is_wrong_no_more_often_than_is_allowed(limit, low):
    """Looked at after each of 1,000 values, 200 times; the mean is the limit itself."""
    wrong = 0
    for seed in range(200):
        drawn, bet = random.Random(seed), Bet(low=low)
        for _ in range(1000):
            # Of paired ones the champion fails in 5 % on its own.
            other = low and -float(drawn.random() < 0.05)
            bet.update(float(drawn.random() < limit - low * 0.05) + other, limit)
        wrong += bet.exceeds(0.05)
    assert wrong <= 19  # of 200 at 5 %: a chance of 1 in 300 where it is as often as allowed


def busy(rollout: int, slower: float, share: float) -> Iterator[Outcome]:
    """Yield answers of a machine that slows both versions by 3 to 30 times, a third of the time, with heavy tails.

    A share of 1 is a shadow's, of which each answer has its pair.
    """
    drawn, burst = random.Random(rollout), 0.0
    while True:
        if drawn.random() < (0.05 if burst else 0.025):
            burst = 0.0 if burst else drawn.uniform(math.log(3), math.log(30))
        old, new = (
            0.02 * math.exp(burst + drawn.gauss(0, 0.6)) * (drawn.paretovariate(1) if drawn.random() < 0.05 else 1)
            for _ in range(2)
        )
        if share < 1 and drawn.random() < share:
            yield Outcome("2", "canary", True, slower * new)
            continue
        yield Outcome("1", "champion", True, old)
        if share == 1:
            yield Outcome("2", "shadow", True, slower * new, None, True, old)


@pytest.mark.parametrize("share", [1.0, 0.05, 0.5], ids=["shadow", "canary 5%", "canary 50%"])
def test_a_version_five_times_slower_is_seen_within_100_answers_on_a_busy_machine(share):
    seen = 0
    for rollout in range(200):
        guards = Guards(Limits(), None)
        for outcome in busy(rollout, 5.0, share):
            guards.observe(outcome)
            if guards.seen() >= 100 or guards.failed():
                break
        seen += guards.failed() is not None
    assert seen >= 190


@pytest.mark.parametrize("share", [1.0, 0.05, 0.5], ids=["shadow", "canary 5%", "canary 50%"])
def test_a_version_that_is_as_fast_is_rolled_back_in_one_of_100_rollouts_at_most(share):
    failed = 0
    for rollout in range(200):
        guards = Guards(Limits(), None)
        for outcome in itertools.islice(busy(rollout, 1.0, share), 2000):
            guards.observe(outcome)
        failed += guards.failed() is not None
    assert failed <= 2
