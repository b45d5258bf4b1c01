"""What a step of a rollout can see: how large a fault its guards find, by how many answers they get to see."""

from __future__ import annotations

import math
from bisect import bisect_left

from scipy import special

from mooring.serving.rollout.sequential import BETS, SHARED_AFTER

SURELY = 0.9
"""With which chance a fault of that size is found."""


def sees(samples: int, limit: float, alpha: float, *, low: float = 0.0) -> float | None:
    """Return the least share of faulty answers that a guard finds with a chance of 90 % within so many answers.

    The guard lets `limit` pass, and fails at a chance below `alpha`; see `sequential.Bet` for `low`. What is
    returned is rather too large than too small. None where so few answers show no fault for certain, were all of
    them faulty.

    >>> round(sees(100, 0.01, 0.002), 3), round(sees(1000, 0.01, 0.002), 3), sees(2, 0.01, 0.002, low=-1.0)
    (0.115, 0.035, None)
    """
    counts = range(1, samples + 1)
    hits = 1 + bisect_left(counts, True, key=lambda one: _suffice(one, samples, limit, alpha, low))
    if hits > samples or not 0 < limit < 1:
        return None
    # The share at which so many faulty answers or more have that chance (Clopper and Pearson 1934).
    return float(special.betaincinv(hits, samples - hits + 1, SURELY))


def in_words(requests: int, rows: list[dict[str, object]]) -> str:
    """Return what a step of so many requests sees, by the rows of its guards; empty where that can't be told.

    >>> rows = [{"name": "errors", "limit": 0.01, "fails_below": 0.002}]
    >>> in_words(500, rows), in_words(3, rows), in_words(0, rows)
    ('sees 6 % errors with 90 %', 'is too small to see errors for certain', '')
    """
    found, unseen = [], []
    for row in rows:
        limit, alpha = row["limit"], row["fails_below"]
        if row["name"] not in _LOW or not isinstance(limit, float) or not isinstance(alpha, float) or not requests:
            continue
        name, low = _LOW[str(row["name"])]
        share = sees(min(requests, _MOST), max(limit, 1e-4), alpha, low=low)
        if share is None:
            unseen.append(name)
        else:
            found.append(f"{math.ceil(100 * share - 1e-9)} % {name}")
    told = [f"sees {', '.join(found)} with {100 * SURELY:g} %"] if found else []
    return "; ".join(told + ([f"is too small to see {', '.join(unseen)} for certain"] if unseen else []))


_LOW = {"errors": ("errors", -1.0), "quality": ("answers without usable predictions", 0.0)}
_MOST = 20_000
"""More requests than that are taken for so many."""


def _suffice(hits: int, samples: int, limit: float, alpha: float, low: float) -> bool:
    """Whether so many faulty answers of all are evidence enough, the last time that one looks."""
    wealths = []
    for bet in BETS:
        won, lost = bet * (1 - limit) / (limit - low), bet * limit / (limit - low)
        wealths.append(hits * math.log1p(won) + (samples - hits) * math.log1p(-lost))
    most = max(wealths)
    log_wealth = most + math.log(sum(math.exp(one - most) for one in wealths) / len(wealths))
    return log_wealth - math.log((samples + SHARED_AFTER) / SHARED_AFTER) >= -math.log(alpha)
