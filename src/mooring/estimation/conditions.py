"""Conditions on features that a person reads: `age > 41.5 and country in {DE, FR}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mooring.drift.columns import MOST_CATEGORIES, Column
from mooring.estimation.features import FeatureEncoder
from mooring.performance.scored import Floats

MISSING = -1
_MOST_TOLD = 8


class Range(NamedTuple):
    """A number above `low` and at most `high`; what is missing is below all."""

    column: int
    low: float = -np.inf
    high: float = np.inf
    missing: bool = False

    def holds(self, matrix: Floats) -> NDArray[np.bool_]:
        """Return in which rows it holds."""
        values = matrix[:, self.column]
        values = np.where(np.isfinite(values), values, -np.inf)
        below = np.asarray(values <= self.high)
        return below if self.low == -np.inf else below & (values > self.low)

    def told(self, name: str, texts: list[str]) -> str:
        """Return it as it is read.

        >>> Range(0, low=41.5).told("age", []), Range(0, high=3, missing=True).told("x", [])
        ('age > 41.5', 'x <= 3 or missing')
        >>> Range(0, low=-np.inf, high=-np.inf).told("x", [])
        'x is missing'
        """
        if self.high == -np.inf:
            return f"{name} is missing"
        ends = [f"{name} > {_number(self.low)}"] if self.low > -np.inf else []
        ends += [f"{name} <= {_number(self.high)}"] if self.high < np.inf else []
        return " and ".join(ends) + (" or missing" if self.missing and self.low == -np.inf else "")


class Among(NamedTuple):
    """A text among some, given by their places among the encoder's texts, or among none of them; -1 is missing."""

    column: int
    places: frozenset[int]
    negated: bool = False

    def holds(self, matrix: Floats) -> NDArray[np.bool_]:
        """Return in which rows it holds."""
        there = np.isin(places_of(matrix[:, self.column]), list(self.places))
        return ~there if self.negated else there

    def told(self, name: str, texts: list[str]) -> str:
        """Return it as it is read.

        >>> Among(0, frozenset([0, 2])).told("country", ["DE", "PL", "FR"])
        'country in {DE, FR}'
        """
        given = [texts[at] for at in sorted(self.places) if 0 <= at < len(texts)]
        given = sorted(given)
        given += ["missing or new"] if MISSING in self.places else []
        given += [f"the rarest {len(texts) - MOST_CATEGORIES:,}"] if MOST_CATEGORIES in self.places else []
        more = f", and {len(given) - _MOST_TOLD} more" if len(given) > _MOST_TOLD else ""
        return f"{name} {'not ' if self.negated else ''}in {{{', '.join(given[:_MOST_TOLD])}{more}}}"


Condition = Range | Among


class RowSegment:
    """The rows in which some conditions hold; printed, it is what they are.

    >>> import pyarrow as pa
    >>> features = {"age": pa.array([20, 50, None]), "country": pa.array(["DE", "FR", "DE"])}
    >>> segment = RowSegment([Range(0, low=41.5), Among(1, frozenset([1]))], FeatureEncoder(features, named=True))
    >>> segment, segment.contains(features).tolist()
    (age > 41.5 and country in {FR}, [False, True, False])
    """

    def __init__(self, conditions: list[Condition], encoder: FeatureEncoder) -> None:
        self._conditions = sorted(conditions, key=lambda one: one.column)
        self._names, self._encoder = list(encoder.names), encoder

    @property
    def conditions(self) -> list[str]:
        """Each condition as it is read."""
        return [
            one.told(self._names[one.column], self._encoder.categories.get(self._names[one.column], []))
            for one in self._conditions
        ]

    def contains(self, features: Mapping[str, Column]) -> NDArray[np.bool_]:
        """Return which rows are in the segment. Raises KeyError for a feature that lacks."""
        found: NDArray[np.bool_] | None = None
        for one in self._conditions:
            name = self._names[one.column]
            values = self._encoder.column(name, features[name])[:, None]
            holds = one._replace(column=0).holds(values)
            found = holds if found is None else found & holds
        assert found is not None
        return found

    def __str__(self) -> str:
        return " and ".join(self.conditions)

    __repr__ = __str__


def places_of(values: Floats) -> NDArray[np.int64]:
    """Return the places of texts, -1 for what is missing or new."""
    return np.where(np.isfinite(values), values, MISSING).astype(np.int64)


def between(low: float, high: float) -> float:
    """Return the number of fewest digits that is at least `low` and below `high`.

    >>> between(41.4287, 41.6), between(-0.012, 0.3), between(1e6, 1e6 + 0.5)
    (41.5, 0.0, 1000000.0)
    """
    middle = (low + high) / 2
    for digits in range(-int(np.floor(np.log10(max(abs(low), abs(high), 1e-300)))) - 1, 18):
        found = round(middle, digits)
        if low <= found < high:
            return found + 0.0
    return low


def _number(value: float) -> str:
    return f"{value:.15g}"
