"""What a step of a rollout can see: how large a fault its guards find, by how many answers they get to see."""

from __future__ import annotations

import math

from mooring.rollout.sequential import BETS, SHARED_AFTER

_BISECTIONS = 40
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
    hits = next((one for one in range(1, samples + 1) if _suffice(one, samples, limit, alpha, low)), None)
    if hits is None or not 0 < limit < 1:
        return None
    least, most = hits / samples * 0.5, 1.0
    for _ in range(_BISECTIONS):
        share = (least + most) / 2
        if _at_least(hits, samples, share) >= SURELY:
            most = share
        else:
            least = share
    return most


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
    told = [f"sees {', '.join(found)} with {SURELY:.0%}".replace("%", " %").replace("  ", " ")] if found else []
    return "; ".join(told + ([f"is too small to see {', '.join(unseen)} for certain"] if unseen else []))


_LOW = {"errors": ("errors", -1.0), "quality": ("answers without usable predictions", 0.0)}
_MOST = 20_000
"""More requests than that are taken for so many."""


def _suffice(hits: int, samples: int, limit: float, alpha: float, low: float) -> bool:
    """Whether so many faulty answers of all are evidence enough, the last time that one looks."""
    worth = []
    for bet in BETS:
        won, lost = bet * (1 - limit) / (limit - low), bet * limit / (limit - low)
        worth.append(hits * math.log1p(won) + (samples - hits) * math.log1p(-lost))
    most = max(worth)
    log_wealth = most + math.log(sum(math.exp(one - most) for one in worth) / len(worth))
    return log_wealth - math.log((samples + SHARED_AFTER) / SHARED_AFTER) >= -math.log(alpha)


def _at_least(hits: int, samples: int, share: float) -> float:
    """Return the chance of so many faulty answers or more."""
    if share >= 1:
        return 1.0
    fewer = (
        math.lgamma(samples + 1) - math.lgamma(one + 1) - math.lgamma(samples - one + 1)
        + one * math.log(share) + (samples - one) * math.log1p(-share)
        for one in range(hits)
    )  # fmt: skip
    return 1 - math.fsum(map(math.exp, fewer))
