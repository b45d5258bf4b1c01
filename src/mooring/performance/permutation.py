"""Whether the mean loss of new requests is larger than that of held-out rows by more than chance explains."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

from mooring.drift.null import gamma_scores, tail_p_value
from mooring.performance.scored import Floats, Integers

_DRAWS = (100, 1000, 4000, 20_000)
_ENOUGH = 4000
_PLAIN = 20
_CELLS = 4_000_000


def p_value_of(
    old: Floats, new: Floats, groups: Integers | None = None, seed: int = 0, *, enough: float = 0.0
) -> float:
    """Return the p-value of the mean loss of new requests: how probable one as large is where nothing changed.

    Parameters
    ----------
    old
        Losses of held-out rows, each independent of the others.
    new
        Losses of new rows.
    groups
        The request of each new row, counted from 0; by default each row came in one of its own.
    seed
        The same seed gives the same result.
    enough
        The p-value that matters: where it is not plain on which side of it the result is, more draws are made.

    The statistic is studentised, z = (m_new - m_old) / sqrt(s² / N + s²_req / k): m_new is the mean of the k
    request means and s²_req their variance, m_old the mean of the N held-out rows and s² the variance of rows. Its
    distribution is that under permutation of rows. Request means and held-out rows are not exchangeable, rows are
    where nothing changed, and k requests tell as much as k s² / s²_req rows that are independent of each other. So
    many are permuted with the held-out ones, for each permutation other rows of the requests.

    That is exact where the rows of each request are all alike, or there is one, and where all are independent: for
    any distribution of the losses. In between s²_req / s² is an estimate from k requests, which z allows for as
    Student's t does, with Satterthwaite's degrees of freedom.

    Losses that are 0 or 1, one in each request, are counted: the hypergeometric distribution.

    >>> random = np.random.default_rng(0)
    >>> old, new, groups = random.exponential(size=500), random.exponential(size=600), np.repeat(np.arange(200), 3)
    >>> p_value_of(old, new, groups) > 0.05, p_value_of(old, 2 * new, groups) < 1e-4
    (True, True)

    References
    ----------
    Chung, E. and Romano, J. (2013). Exact and asymptotically robust permutation tests. Annals of Statistics 41(2).
    Follmann, D., Proschan, M. and Leifer, E. (2003). Multiple outputation: inference for complex clustered data by
    averaging analyses from independent data sets. Biometrics 59(2).
    Satterthwaite, F. (1946). An approximate distribution of estimates of variance components. Biometrics Bulletin
    2(6).

    """
    found = _Samples.of(old, new, np.arange(len(new)) if groups is None else groups)
    if found.share == 1 and np.isin(pool := np.concatenate([found.old, found.means]), (0.0, 1.0)).all():
        from scipy import stats  # a second to import, which each command that reads a state would take

        wrong = round(float(found.means.sum()))
        return float(stats.hypergeom.sf(wrong - 1, len(pool), round(float(pool.sum())), len(found.means)))
    if found.spread == 0:
        return 1.0
    random = np.random.default_rng(seed)
    observed = np.array([found.difference()])
    observed -= 1e-9 * np.abs(observed)  # else rounding would tell apart what is equal
    drawn = np.empty(0)
    p_value = 1.0
    for draws in _DRAWS:
        drawn = np.concatenate([drawn, found.permuted(draws - len(drawn), random)])
        scores = _Scores.fit(drawn)
        # The fitted tail can't tell that there is none, as of sums that are bounded above; the count can.
        counted = (np.count_nonzero(drawn >= observed) + 1) / (draws + 1)
        p_value = min(tail_p_value(scores.of(drawn), float(scores.of(observed)[0])), float(counted))
        if draws >= _ENOUGH and p_value < enough / 10:
            break
        if p_value * draws >= _PLAIN and abs(p_value - enough) > 5 * np.sqrt(p_value / draws):
            break
    return p_value


class _Samples(NamedTuple):
    """Held-out rows and new requests.

    `old` are the losses of the held-out rows, `means` those of the requests, whose rows are at `starts` in `rows`,
    `sizes` of them. `share` is the variance of the request means in variances of a request's row, and `spread` the
    standard error of the difference of the means.
    """

    old: Floats
    means: Floats
    rows: Floats
    starts: Integers
    sizes: Integers
    share: float
    spread: float

    @classmethod
    def of(cls, old: Floats, new: Floats, groups: Integers) -> _Samples:
        rows = new[np.argsort(groups, kind="stable")]
        sizes = np.bincount(groups)
        starts = np.cumsum(sizes) - sizes
        alike = np.minimum.reduceat(rows, starts) == np.maximum.reduceat(rows, starts)
        # Of rows that are all alike the mean may differ in the last digit.
        means = np.where(alike, rows[starts], np.add.reduceat(rows, starts) / sizes)
        within = float(np.mean(np.add.reduceat((rows - np.repeat(means, sizes)) ** 2, starts) / sizes))
        share = 1.0
        if len(means) > 1 and within > 0:
            between = float(means.var(ddof=1))
            # Rows that repel each other, so that it would be less than of independent ones, do not count for more.
            share = max(between / (between + within), float(np.mean(1 / sizes)))
        worth = len(means) / share
        centre = (len(old) * float(old.mean()) + worth * float(means.mean())) / (len(old) + worth)
        around_new = float(np.mean((means - centre) ** 2)) + within
        squares = float(np.sum((old - centre) ** 2)) + worth * around_new
        spread = np.sqrt(squares / (len(old) + worth - 1) * (1 / len(old) + 1 / worth))
        return cls(old, means, rows, starts, sizes, share, 0.0 if spread <= 1e-12 * abs(centre) else float(spread))

    def difference(self) -> float:
        """Return by how much the new mean is larger, less what the doubt about its variance takes of it."""
        found = float(self.means.mean() - self.old.mean())
        requests = len(self.means)
        if found <= 0 or self.share == 1:
            return found
        weight = self.share / requests / (self.share / requests + 1 / len(self.old))
        degrees = (requests - 1) * (1 - requests / len(self.rows)) / (weight * (1 - self.share)) ** 2
        tail = float(special.stdtr(degrees, -found / self.spread))
        return found if tail < 1e-300 else float(-special.ndtri(tail) * self.spread)

    def permuted(self, draws: int, random: np.random.Generator) -> Floats:
        """Return differences of the means, if held-out and new rows are permuted."""
        old, requests = len(self.old), len(self.means)
        worth = round(requests / self.share)
        count, few = old + worth, min(old, worth)
        blocks = count // few  # each block of an order of all is a draw of the smaller side
        step = max(1, _CELLS // count)
        orders = -(-draws // blocks)
        found = []
        for first in range(0, orders, step):
            some = min(step, orders - first)
            values = np.empty((some, count))
            values[:, :old] = self.old
            for at in range(some):
                values[at, old:] = self._chosen(worth, random)
            random.permuted(values, axis=1, out=values)
            total = values.sum(axis=1, keepdims=True)
            sums = values[:, : blocks * few].reshape(some, blocks, few).sum(axis=2)
            difference = sums / few - (total - sums) / (count - few)
            found.append((-difference if few == old else difference).ravel())
        return np.concatenate(found)[:draws]

    def _chosen(self, worth: int, random: np.random.Generator) -> Floats:
        """Return so many rows, as many of one request as of another, beginning with any of its rows."""
        requests = len(self.means)
        if len(self.rows) == requests:
            return self.rows
        places = np.arange(worth) + random.integers(requests)
        sizes = self.sizes[of := places % requests]
        further = (random.random() * sizes).astype(np.int64) + places // requests
        return np.asarray(self.rows[self.starts[of] + further % sizes], np.float64)


class _Scores(NamedTuple):
    """Scores of means by a gamma distribution of their mean, spread and skewness (Pearson's type III)."""

    mean: float
    spread: float
    skew: float

    @classmethod
    def fit(cls, drawn: Floats) -> _Scores:
        mean, spread = float(drawn.mean()), float(drawn.std())
        if spread <= 1e-12 * abs(mean):
            return cls(mean, 0.0, 0.0)
        return cls(mean, spread, float(np.mean(((drawn - mean) / spread) ** 3)))

    def of(self, values: Floats) -> Floats:
        """Return about -ln of the probability of such a mean or a larger one."""
        if self.spread == 0:
            return np.where(values > self.mean + 1e-9 * abs(self.mean), 700.0, 0.0)
        z = (values - self.mean) / self.spread
        if self.skew < 0.02:
            return np.asarray(-special.log_ndtr(-z))
        shape = 4 / self.skew**2
        scaled = np.maximum(shape + z * np.sqrt(shape), 0.0)
        return gamma_scores(shape, scaled)
