"""Measures of how far a sample has moved from a reference sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

PSI_FLOOR = 1e-6


def psi(reference: ArrayLike, current: ArrayLike, bins: int = 10) -> float:
    """Return the population stability index of `current` against `reference`.

    The sum over bins of (p - q) ln(p / q), where q and p are the shares of reference and current values in each
    bin. The bins are the reference's quantiles, the outer ones open; a share of zero counts as 1e-6.

    Parameters
    ----------
    reference, current
        One-dimensional samples of numbers, NaN where missing, which is left out; any length above zero.
    bins
        How many quantile bins; fewer where quantiles coincide.

    Raises ValueError if a sample has no number.

    >>> round(psi(range(1000), range(1000)), 6)
    0.0
    >>> round(psi(range(1000), range(100, 1100)), 3)
    1.221

    References
    ----------
    Siddiqi, N. (2006). Credit Risk Scorecards. Wiley. Chapter 9.

    """
    reference, current = _numbers(reference), _numbers(current)
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)))[1:-1]
    edges = np.concatenate(([-np.inf], edges, [np.inf]))
    q = np.maximum(np.histogram(reference, edges)[0] / len(reference), PSI_FLOOR)
    p = np.maximum(np.histogram(current, edges)[0] / len(current), PSI_FLOOR)
    return float(np.sum((p - q) * np.log(p / q)))


def ks(reference: ArrayLike, current: ArrayLike) -> float:
    """Return the Kolmogorov-Smirnov distance, the largest gap between the two empirical distribution functions.

    Takes one-dimensional samples of numbers, NaN where missing, which is left out. Raises ValueError if a sample
    has no number.

    >>> ks([1, 2, 3, 4], [3, 4, 5, 6])
    0.5

    References
    ----------
    Smirnov, N. (1939). On the estimation of the discrepancy between empirical curves of distribution for two
    independent samples. Bulletin Mathématique de l'Université de Moscou 2(2).

    """
    # The method is that of the p-value, which is not asked for: the exact one takes long.
    return float(stats.ks_2samp(_numbers(reference), _numbers(current), method="asymp").statistic)


def _numbers(values: ArrayLike) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    array = np.asarray(values, dtype=np.float64).ravel()
    array = array[~np.isnan(array)]
    if not len(array):
        raise ValueError("a sample without a number can't be compared")
    return array
