"""Evidence of drift, which grows from window to window, and the budget of false alarms that it is held against.

The user says in what time one false alarm may be, over everything that is watched; each stream has its share of
that. What a stream shows is not judged window by window, which at many windows a day would alarm as often; it is
summed up. Each block of windows has a p-value, against the baseline and all windows before the block, and each
p-value becomes an e-value, whose mean is at most 1 as long as nothing changes. Shiryaev-Roberts sums of these grow
by the time that passes, and no faster, as long as nothing changes; once something does, they grow exponentially.

The time until such a sum reaches 1 is in the mean at least the time that it is counted in. As it is a mean of many
sums, one for each feature, direction and length of a block, it waits longer than that: so `limit` is below 1, by
simulation (tests/proof/test_evidence.py).

References
----------
Shiryaev, A. (1963). On optimum methods in quickest detection problems. Theory of Probability 8(1).
Vovk, V. and Wang, R. (2021). E-values: calibration, combination and applications. Annals of Statistics 49(3).
Shin, J., Ramdas, A. and Rinaldo, A. (2024). E-detectors: a nonparametric framework for sequential change
detection. New England Journal of Statistics in Data Science 2(2).

"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

BLOCKS = (1, 4, 16)
"""How many windows a block has; blocks of one length do not overlap."""
_LIMIT, _FEW, _GROWS = 0.22, 600.0, 0.35
LEAST_P_VALUE = 1e-16
_MOST = 1e9
_DIRECTIONS = 2
_SUMS = len(BLOCKS) * _DIRECTIONS


class Signed(NamedTuple):
    """The p-values of a rise and of a fall."""

    up: float
    down: float


NOTHING = Signed(1.0, 1.0)
"""The p-values of what shows nothing at all."""


def e_value(p_value: float) -> float:
    """Return the e-value of a p-value: a mixture of the calibrators k p^(k - 1) over all k between 0 and 1.

    >>> [round(e_value(p), 2) for p in (1.0, 0.5, 0.01, 0.0001)]
    [0.5, 0.64, 4.45, 117.76]

    References
    ----------
    Vovk, V. and Wang, R. (2021). E-values: calibration, combination and applications. Annals of Statistics 49(3).

    """
    p = min(max(p_value, LEAST_P_VALUE), 1.0)
    log = math.log(p)
    if log > -1e-4:
        return 0.5 - log / 6  # the quotient's limit, where both its sides vanish
    return (1 - p + p * log) / (p * log * log)


def signed(p_value: float, rose: bool | None) -> Signed:
    """Return the p-values of a rise and of a fall, given that of either; with None there is no direction.

    >>> signed(0.01, True), signed(0.01, None)
    (Signed(up=0.005, down=0.995), Signed(up=0.01, down=0.01))
    """
    if rose is None:
        return Signed(p_value, p_value)
    towards, away = p_value / 2, 1 - p_value / 2
    return Signed(towards, away) if rose else Signed(away, towards)


def limit(share: float) -> float:
    """Return the level from which on evidence alarms, given what share a window is of the time of one false alarm.

    Where that time is of few windows, sums go up in larger steps, and are held against more.

    >>> [round(limit(1 / windows), 2) for windows in (50, 200, 600, 100_000)]
    [0.52, 0.32, 0.22, 0.22]
    """
    return float(_LIMIT * max(1.0, _FEW * share) ** _GROWS)


class Evidence(msgspec.Struct):
    """What a stream has shown so far.

    `sums` are the Shiryaev-Roberts sums by feature, of a rise and of a fall for each of `BLOCKS`: of the values,
    and then of how many are missing, where any ever were. `waited` is how long each length of block has had none,
    in units of the time in which the stream may have one false alarm.
    """

    sums: dict[str, list[float]] = {}
    waited: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(BLOCKS))

    def pass_time(self, share: float) -> None:
        """Let time pass, in units of that in which the stream may have one false alarm."""
        self.waited = [one + share for one in self.waited]

    def add(self, block: int, p_values: Mapping[str, Sequence[Signed]]) -> None:
        """Take up the p-values of a block of windows that has ended, of each feature: of each question about it.

        >>> evidence = Evidence()
        >>> evidence.pass_time(0.001)
        >>> evidence.add(1, {"pH": [Signed(1e-9, 1.0)], "alcohol": [Signed(0.5, 0.5), Signed(0.9, 0.1)]})
        >>> evidence.features(), round(evidence.level(["pH", "alcohol"]), 1)
        (['pH'], 194.0)
        """
        at = BLOCKS.index(block)
        time, self.waited[at] = self.waited[at], 0.0
        for feature, questions in p_values.items():
            sums = self.sums.setdefault(feature, [])
            sums += [0.0] * (len(questions) * _SUMS - len(sums))
            for question in range(len(sums) // _SUMS):
                both = questions[question] if question < len(questions) else NOTHING
                for direction, p_value in enumerate(both):
                    place = question * _SUMS + at * _DIRECTIONS + direction
                    sums[place] = min((sums[place] + time) * e_value(p_value), _MOST)

    def level(self, features: Iterable[str]) -> float:
        """Return how strong the evidence is that any of these features drifts; it alarms from `limit` on."""
        levels = [self.of(feature) for feature in features]
        return sum(levels) / len(levels) if levels else 0.0

    def of(self, feature: str) -> float:
        """Return the evidence of one feature, as if there were no other."""
        sums = self.sums.get(feature)
        return sum(sums) / len(sums) if sums else 0.0

    def features(self) -> list[str]:
        """Return the features that most of the evidence is of, the strongest first."""
        levels = sorted(((self.of(one), one) for one in self.sums), reverse=True)
        least = levels[0][0] / 10 if levels else 0.0
        return [name for level, name in levels if level > 0 and level >= least]
