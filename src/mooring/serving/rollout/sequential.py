"""A test that may be looked at after every value, as often as one likes: testing by betting.

Somebody who doubts that a mean is at most some limit bets on each value before it is seen, at odds that would be
fair if the mean were the limit. If it is no higher, the wealth is a supermartingale, so that the chance that it
ever reaches 1/alpha times what it began with is at most alpha (Ville's inequality), whenever one looks and stops.
If it is higher, the wealth grows exponentially.

Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", J. R. Statist. Soc. B 86 (2024).
The wealth is spread over a fixed grid of bets, as there, and a little of it is moved between them all the time
(Herbster & Warmuth, "Tracking the best expert", 1998), so that what begins late is found too: else a long time
without fault would have lost the wealth that is needed to see it.
"""

from __future__ import annotations

import math

import msgspec

BETS = (0.0, *(0.95 / 2**halved for halved in range(8)))
"""The bets, as shares of the largest one that can't lose all; 0 is what is held back."""
SHARED_AFTER = 100
"""After n values the share 1/(n + this) of the wealth is dealt out anew."""


def _evenly() -> list[float]:
    return [1 / len(BETS)] * len(BETS)


class Bet(msgspec.Struct):
    """Evidence that the mean of values between `low` and 1, each given those before it, is above a limit.

    Values may depend on each other, and the limit may be new for each, as long as it is known before its value.
    The evidence is a power of e, as `log_wealth`; `highest` is the most that it ever was. It goes to JSON and back
    with msgspec, and then goes on as before.

    >>> bet = Bet()
    >>> for value in (0, 1, 1, 1):
    ...     bet.update(value, limit=0.01)
    >>> bet.exceeds(0.01), bet.samples
    (True, 4)
    """

    low: float = 0.0
    log_wealth: float = 0.0
    highest: float = 0.0
    samples: int = 0
    weights: list[float] = msgspec.field(default_factory=_evenly)

    def __post_init__(self) -> None:
        if len(self.weights) != len(BETS):  # kept by a version of Mooring with other bets
            self.weights = _evenly()

    def update(self, value: float, limit: float) -> None:
        """Take the next value. Raises ValueError where it is not from `low` to 1, or the limit not between."""
        if not self.low <= value <= 1:
            raise ValueError(f"the value is {value}; it must be from {self.low:g} to 1")
        if not self.low < limit < 1:
            raise ValueError(f"the limit is {limit}; it must be between {self.low:g} and 1")
        won = (value - limit) / (limit - self.low)
        grown = [weight * (1 + size * won) for weight, size in zip(self.weights, BETS, strict=True)]
        wealth = math.fsum(grown)
        self.samples += 1
        self.log_wealth += math.log(wealth)
        self.highest = max(self.highest, self.log_wealth)
        shared = 1 / (self.samples + SHARED_AFTER)
        kept, dealt = (1 - shared) / wealth, shared / len(grown)
        self.weights = [kept * one + dealt for one in grown]

    def exceeds(self, alpha: float) -> bool:
        """Return whether the evidence ever sufficed, where it may do so wrongly with the chance `alpha`."""
        return self.highest >= -math.log(alpha)

    @property
    def chance(self) -> float:
        """The chance at most that evidence as strong as the strongest so far comes up where there is nothing."""
        return math.exp(-self.highest)
