"""What trees leave of smooth trends: each feature's slope below and above its middle, by penalised regression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mooring.estimation.boosting import FOLDS
from mooring.performance.scored import Floats, Integers

PENALTIES = (1000.0, 100.0, 10.0)
MOST_TERMS = 60
_LEAST = 1e-6
_STEPS = 8
_FAR = 0.01
_RIDGE = 0.01
_BALANCING_STEPS = 30
_REGRESSION_PENALTY = 30.0


class Terms:
    """Terms of features: of a number its distance below and above the median, of a category its frequent values.

    Numbers are in standard deviations, and beyond the outermost hundredths of the rows that are learnt from they
    are as at these: a slope is not carried on to where no row was.
    """

    def __init__(self, matrix: Floats, categorical: Sequence[bool]) -> None:
        self._columns: list[tuple[int, float, float, float, float]] = []
        for at, category in enumerate(categorical):
            values = matrix[np.isfinite(matrix[:, at]), at]
            if not len(values):
                continue
            if category:
                counts = np.bincount(values.astype(np.int64))
                frequent = np.argsort(-counts, kind="stable")[:10]
                self._columns += [(at, float(one), 0.0, 0.0, 0.0) for one in frequent if counts[one] >= 30]
                continue
            low, middle, high = (float(one) for one in np.quantile(values, [_FAR, 0.5, 1 - _FAR]))
            if spread := float(np.clip(values, low, high).std()):
                self._columns += [(at, middle, spread, low, middle), (at, middle, spread, middle, high)]

    def __len__(self) -> int:
        return len(self._columns)

    def keep(self, strength: Floats) -> None:
        """Keep the terms of most strength."""
        kept = np.sort(np.argsort(-strength, kind="stable")[:MOST_TERMS])
        self._columns = [self._columns[at] for at in kept]

    def of(self, matrix: Floats) -> Floats:
        """Return the terms of rows: an array (rows, terms)."""
        found = np.empty((len(matrix), len(self._columns)))
        for to, (at, middle, spread, low, high) in enumerate(self._columns):
            values = matrix[:, at]
            if not spread:
                found[:, to] = values == middle
                continue
            found[:, to] = (np.clip(np.where(np.isfinite(values), values, middle), low, high) - middle) / spread
        return found


class Trend:
    """What terms of the features add to what is expected, cross-fit: times exp(terms · slopes), or plus it.

    Slopes are penalised by their squares, by the penalty that does best on rows of other folds; where none does
    better than no slopes, there are none.

    Parameters
    ----------
    matrix, categorical, folds
        Features, which are categories, and each row's fold.
    expected, target
        What trees expect of each row, not having seen it, and what it was; both in units of the mean target.
    evidence
        Which rows the penalty is chosen by.
    times
        Whether slopes multiply, as suits what is never negative: then by quasi-likelihood of Poisson's form.

    """

    def __init__(
        self,
        matrix: Floats,
        categorical: Sequence[bool],
        folds: Integers,
        expected: Floats,
        target: Floats,
        *,
        evidence: NDArray[np.bool_],
        times: bool,
    ) -> None:
        self._times, self._evidence = times, evidence
        self._terms = Terms(matrix, categorical)
        terms = self._terms.of(matrix)
        if len(self._terms) > MOST_TERMS:
            around = terms - terms.mean(axis=0)
            size = np.sqrt((around**2).sum(axis=0))
            self._terms.keep(np.abs(around.T @ (target - expected)) / np.maximum(size, _LEAST))
            terms = self._terms.of(matrix)
        terms = np.column_stack([np.ones(len(terms)), terms])
        self.slopes = np.zeros((FOLDS, terms.shape[1]))
        least = self._losses(expected, target)
        slopes = self.slopes
        for penalty in PENALTIES:
            slopes = np.stack(
                [
                    self._fitted(
                        terms[folds != at], expected[folds != at], target[folds != at], penalty, slopes[at]
                    )
                    for at in range(FOLDS)
                ]
            )
            found = self._losses(self._added(expected, (terms * slopes[folds]).sum(axis=1)), target)
            if found < least:
                least, self.slopes = found, slopes
        self.unseen = self._added(expected, (terms * self.slopes[folds]).sum(axis=1))

    @property
    def found(self) -> bool:
        """Whether there are any slopes."""
        return bool(self.slopes.any())

    def terms(self, matrix: Floats) -> Floats:
        """Return the terms of rows: an array (rows, terms)."""
        return self._terms.of(matrix)

    def add(self, matrix: Floats, expected: Floats) -> Floats:
        """Return what each fold expects of rows with the trend: arrays (folds, rows)."""
        if not self.found:
            return expected
        terms = np.column_stack([np.ones(len(matrix)), self._terms.of(matrix)])
        return self._added(expected, self.slopes @ terms.T)

    def _added(self, expected: Floats, trend: Floats) -> Floats:
        return np.asarray(
            expected * np.exp(np.clip(trend, -3, 3)) if self._times else expected + trend, np.float64
        )

    def _losses(self, expected: Floats, target: Floats) -> float:
        expected, target = expected[self._evidence], target[self._evidence]
        if self._times:
            return float((expected - target * np.log(np.maximum(expected, _LEAST))).mean())
        return float(((target - expected) ** 2).mean())

    def _fitted(self, terms: Floats, expected: Floats, target: Floats, penalty: float, start: Floats) -> Floats:
        """Return slopes by Newton's method; one step is enough where they add."""
        ridge = np.full(terms.shape[1], penalty)
        ridge[0] = _LEAST
        slopes = start.copy()
        for _ in range(_STEPS if self._times else 1):
            now = self._added(expected, terms @ slopes)
            weights = now if self._times else np.ones(len(now))
            gradient = terms.T @ (target - now) - ridge * slopes
            step = np.linalg.solve((terms * weights[:, None]).T @ terms + np.diag(ridge), gradient)
            slopes = slopes + np.clip(step, -1, 1)
            if np.abs(step).max() < 1e-4:
                break
        return np.asarray(slopes, np.float64)


def regressed(terms: Floats, others: Floats, residuals: Floats, weights: Floats) -> Floats:
    """Return what a penalised regression of weighted rows' residuals on terms says of other rows.

    To weight rows so that terms balance is to do such a regression (Deville and Särndal 1992, JASA 87).

    >>> x = np.linspace(-1, 1, 1000)[:, None]
    >>> regressed(x, np.array([[0.5]]), 2 * x[:, 0], np.ones(1000)).round(1).tolist()
    [0.9]
    """
    terms, others = (np.column_stack([np.ones(len(one)), one]) for one in (terms, others))
    ridge = np.full(terms.shape[1], _REGRESSION_PENALTY)
    ridge[0] = _LEAST
    weighed = terms * weights[:, None]
    slopes = np.linalg.solve(weighed.T @ terms + np.diag(ridge), weighed.T @ residuals)
    return np.asarray(others @ slopes, np.float64)


def balanced(weights: Floats, terms: Floats, means: Floats) -> Floats:
    """Return weights of rows that are changed no more than needed for terms to have these means, about.

    By entropy balancing, with a ridge: where rows can't be so weighted, they come as near as a moderate change
    allows.

    >>> random = np.random.default_rng(0)
    >>> x = random.normal(size=(1000, 1))
    >>> weights = balanced(np.ones(1000), x, np.array([0.5]))
    >>> bool(abs((weights @ x)[0] / weights.sum() - 0.5) < 0.01), bool(weights.min() > 0)
    (True, True)

    References
    ----------
    Hainmueller, J. (2012). Entropy balancing for causal effects. Political Analysis 20(1).
    Zhao, Q. and Percival, D. (2017). Entropy balancing is doubly robust. Journal of Causal Inference 5(1).

    """
    apart = terms - means
    tilt = np.zeros(terms.shape[1])
    base = np.log(np.maximum(weights, _LEAST))

    def shares_of(tilt: Floats) -> tuple[Floats, float]:
        logs = base + apart @ tilt
        top = float(logs.max())
        shares = np.exp(logs - top)
        return shares / shares.sum(), top + float(np.log(shares.sum())) + _RIDGE / 2 * float(tilt @ tilt)

    shares, value = shares_of(tilt)
    for _ in range(_BALANCING_STEPS):
        gradient = shares @ apart + _RIDGE * tilt
        around = apart - shares @ apart
        step = np.linalg.solve((around * shares[:, None]).T @ around + _RIDGE * np.eye(len(tilt)), gradient)
        size = 1.0
        while size > 1e-3:
            after, lower = shares_of(tilt - size * step)
            if lower <= value:
                break
            size /= 2
        else:
            break
        tilt, shares = tilt - size * step, after
        if value - lower < 1e-8:
            break
        value = lower
    return np.asarray(shares * len(shares), np.float64)
