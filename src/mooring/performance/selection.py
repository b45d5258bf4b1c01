"""Whether the rows of a window that have labels so far are like the rest of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mooring.drift.columns import as_texts, is_number
from mooring.performance.scored import Floats, Integers

_MOST_VALUES = 20


class SelectionTest(NamedTuple):
    """How probable it is that labels fall so on these rows by chance, and in which column that shows most."""

    p_value: float
    column: str


def selection(columns: Mapping[str, pa.Array], labelled: NDArray[np.bool_], groups: Integers) -> SelectionTest:
    """Return whether the labelled rows of a window differ from its others in any of these columns.

    Parameters
    ----------
    columns
        Predictions and inputs of all rows of the window, by name. Numbers are compared by their ranks, in the
        middle and in spread; of all else how often each of the 20 most frequent values is there, or none.
    labelled
        Which rows have a label.
    groups
        The request of each row, counted from 0.

    The statistic of a score is its sum over the labelled rows, less what it would be if labels had been dealt out
    anew: the shares of rows that are labelled among requests, and within each request among its rows. That has the
    variance of a permutation statistic, and Bernstein's inequality bounds its tail at any number of rows and for
    rare values, so the p-value is cautious. The smallest counts, times the number of scores (Bonferroni).

    Labels that are chosen by what the model can't see are not found: their rows look like all others.

    >>> random = np.random.default_rng(0)
    >>> columns = {"prediction": pa.array(random.normal(size=1000))}
    >>> selection(columns, random.random(1000) < 0.2, np.arange(1000)).p_value > 0.05
    True
    >>> first = columns["prediction"].to_numpy() + random.normal(size=1000) > 1
    >>> selection(columns, first, np.arange(1000)).p_value < 1e-6
    True

    References
    ----------
    Strasser, H. and Weber, C. (1999). On the asymptotic theory of permutation statistics. Mathematical Methods of
    Statistics 8.
    Bardenet, R. and Maillard, O.-A. (2015). Concentration inequalities for sampling without replacement. Bernoulli
    21(3).

    """
    found = SelectionTest(1.0, "")
    if labelled.all() or not labelled.any():
        return found
    count = 0
    labels = _Labels.of(labelled, groups)
    for name, column in columns.items():
        for score in _scores(column):
            count += 1
            if (p_value := labels.p_value(score)) < found.p_value:
                found = SelectionTest(p_value, name)
    return found._replace(p_value=min(1.0, found.p_value * max(count, 1)))


class _Labels(NamedTuple):
    """Which rows have a label, of which request each is, and of each request the rows and the share labelled."""

    labelled: Floats
    groups: Integers
    sizes: Integers
    shares: Floats

    @classmethod
    def of(cls, labelled: NDArray[np.bool_], groups: Integers) -> _Labels:
        sizes = np.bincount(groups)
        return cls(labelled.astype(np.float64), groups, sizes, np.bincount(groups, labelled) / sizes)

    def p_value(self, score: Floats) -> float:
        """Return a bound of the probability that the sum over labelled rows is so far from what it should be."""
        score = score - score.mean()
        sums = np.bincount(self.groups, score)
        around = score - (sums / self.sizes)[self.groups]
        uneven = self.shares - self.shares.mean()
        between = float(np.sum(uneven**2) * np.sum(sums**2)) / max(len(sums) - 1, 1)
        fpc = self.shares * (1 - self.shares) * self.sizes / np.maximum(self.sizes - 1, 1)
        within = float(np.sum(fpc * np.bincount(self.groups, around**2)))
        partly = around[fpc[self.groups] > 0]
        largest = max(float(np.abs(uneven).max() * np.abs(sums).max()), float(np.abs(partly).max(initial=0.0)))
        found = abs(float(score @ self.labelled))
        if found <= 1e-9 * len(score):
            return 1.0
        return min(1.0, 2 * float(np.exp(-(found**2) / 2 / (between + within + largest * found / 3))))


def _scores(column: pa.Array) -> Iterator[Floats]:
    """Yield what is compared of a column, a number for each row."""
    if is_number(column.type):
        numbers = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        missing = np.isnan(numbers)
        ranks = np.full(len(numbers), 0.5)
        _, places, counts = np.unique(numbers[~missing], return_inverse=True, return_counts=True)
        ranks[~missing] = ((np.cumsum(counts) - counts / 2) / max(len(places), 1))[places]
        yield ranks
        if len(counts) > 2:
            yield (ranks - 0.5) ** 2
    elif (texts := as_texts(column)) is not None:
        if pa.types.is_dictionary(texts.type):
            texts = texts.dictionary_decode()
        missing = texts.is_null().to_numpy(zero_copy_only=False)
        found = pc.value_counts(texts.drop_null())
        order = np.argsort(-found.field("counts").to_numpy(), kind="stable")[:_MOST_VALUES]
        for value in found.field("values").take(pa.array(order)):
            yield pc.fill_null(pc.equal(texts, value), False).to_numpy(zero_copy_only=False).astype(np.float64)
    else:
        return
    if missing.any():
        yield missing.astype(np.float64)
