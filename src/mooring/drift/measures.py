"""Measures of how far one distribution lies from another, as functions of the counts in common cells.

All take two arrays of counts, `reference` and `current`, whose last axis are the cells; leading axes broadcast, so
many windows are measured at once. They return one float64 for each pair. Where either has no count at all there is
nothing to compare, and they return NaN. Infinities are cells of their own at the ends, but `wasserstein` and
`mean_shift` are of the finite values. `measure_table` has what else there is to know of each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from mooring.drift.grid import Floats

PSI_FLOOR = 1e-6


def psi(reference: ArrayLike, current: ArrayLike) -> Floats:
    """Return the population stability index: the sum of (p - q) ln(p / q) over cells, of shares p and q.

    A share of zero counts as 1e-6. Above 0.1 it is often called some shift and above 0.25 a large one.

    >>> psi([50, 50], [40, 60]).round(4)
    np.float64(0.0405)

    References
    ----------
    Siddiqi, N. (2006). Credit Risk Scorecards. Wiley. Chapter 9.

    """
    q, p = np.maximum(shares(reference), PSI_FLOOR), np.maximum(shares(current), PSI_FLOOR)
    return _where_counted(np.sum((p - q) * np.log(p / q), axis=-1), reference, current)


def js(reference: ArrayLike, current: ArrayLike) -> Floats:
    """Return the Jensen-Shannon distance: the square root of the divergence to the mean of both, to base 2.

    >>> js([1, 0], [0, 1]), js([1, 1], [2, 2])
    (np.float64(1.0), np.float64(0.0))

    References
    ----------
    Lin, J. (1991). Divergence measures based on the Shannon entropy. IEEE Transactions on Information Theory
    37(1). Endres, D. and Schindelin, J. (2003). A new metric for probability distributions. ibid. 49(7).

    """
    q, p = shares(reference), shares(current)
    mean = (p + q) / 2
    divergence = np.sum(special.rel_entr(p, mean) + special.rel_entr(q, mean), axis=-1) / (2 * np.log(2))
    return _where_counted(np.sqrt(np.maximum(divergence, 0.0)), reference, current)


def hellinger(reference: ArrayLike, current: ArrayLike) -> Floats:
    """Return the Hellinger distance: the root of half the sum of squared differences of the roots of shares.

    >>> hellinger([1, 0], [0, 1])
    np.float64(1.0)

    References
    ----------
    Hellinger, E. (1909). Neue Begründung der Theorie quadratischer Formen von unendlichvielen Veränderlichen.
    Journal für die reine und angewandte Mathematik 136.

    """
    difference = np.sqrt(shares(reference)) - np.sqrt(shares(current))
    return _where_counted(np.sqrt(np.sum(difference**2, axis=-1) / 2), reference, current)


def ks(reference: ArrayLike, current: ArrayLike) -> Floats:
    """Return the Kolmogorov-Smirnov distance: the largest gap between both distribution functions.

    The cells are in the order of their values.

    >>> ks([1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1])
    np.float64(0.5)

    References
    ----------
    Smirnov, N. (1939). On the estimation of the discrepancy between empirical curves of distribution for two
    independent samples. Bulletin Mathématique de l'Université de Moscou 2(2).

    """
    gap = np.abs(np.cumsum(shares(current) - shares(reference), axis=-1))
    return _where_counted(np.max(gap, axis=-1, initial=0.0), reference, current)


def wasserstein(
    reference: ArrayLike,
    current: ArrayLike,
    edges: ArrayLike,
    *,
    below: float = 0.0,
    above: float = 0.0,
    scale: float = 1.0,
) -> float:
    """Return the Wasserstein-1 distance, the area between both distribution functions, divided by `scale`.

    Within a cell the values are taken to be spread evenly. The outer cells are open: `below` is by how much the
    current values below the first edge miss it, summed, and `above` that of those above the last edge. The
    reference has none there. What is beyond the largest float is infinite.

    >>> round(wasserstein([0, 10, 0, 0], [0, 0, 10, 0], [0.0, 1.0, 2.0]), 9)
    1.0

    References
    ----------
    Vallender, S. (1974). Calculation of the Wasserstein distance between probability distributions on the line.
    Theory of Probability and its Applications 18(4).

    """
    if not np.sum(reference) or not (total := float(np.sum(current))):
        return float("nan")
    gaps = np.cumsum(shares(current) - shares(reference))[:-1]
    left, right, width = gaps[:-1], gaps[1:], np.diff(np.asarray(edges, dtype=np.float64))
    ends = np.abs(left) + np.abs(right)
    # Where the sign changes, the area is that of two triangles.
    crossing = np.divide(left**2 + right**2, ends, out=np.zeros_like(ends), where=(left * right < 0))
    inner = np.sum(width * np.where(left * right < 0, crossing, ends) / 2)
    area = float(inner) + (abs(float(below)) + abs(float(above))) / total
    if not np.isfinite(area):
        return float("inf")
    return area / scale if scale > 0 else area


def total_variation(reference: ArrayLike, current: ArrayLike) -> Floats:
    """Return the total variation distance: half the sum of the differences of shares.

    >>> total_variation([50, 50], [40, 60]).round(6)
    np.float64(0.1)

    References
    ----------
    Levin, D. and Peres, Y. (2017). Markov Chains and Mixing Times, 2nd edition. AMS. Section 4.1.

    """
    difference = np.abs(shares(current) - shares(reference))
    return _where_counted(np.sum(difference, axis=-1) / 2, reference, current)


def l_infinity(reference: ArrayLike, current: ArrayLike) -> Floats:
    """Return the largest difference between the shares of a cell.

    >>> l_infinity([50, 30, 20], [40, 30, 30]).round(6)
    np.float64(0.1)

    References
    ----------
    Breck, E. et al. (2019). Data validation for machine learning. Proceedings of SysML.

    """
    difference = np.abs(shares(current) - shares(reference))
    return _where_counted(np.max(difference, axis=-1, initial=0.0), reference, current)


def chi_square(reference: ArrayLike, current: ArrayLike) -> Floats:
    """Return Pearson's chi-square statistic of two samples: is the table of both more than chance?

    Unlike the test of one sample it takes the reference for a sample too, so a category that the reference lacks
    has no probability of zero. Cells that are empty in both count for nothing.

    >>> chi_square([50, 50], [40, 60]).round(4)
    np.float64(2.0202)

    References
    ----------
    Pearson, K. (1911). On the probability that two independent distributions of frequency are really samples
    from the same population. Biometrika 8.

    """
    a, b = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    m, n = a.sum(axis=-1, keepdims=True), b.sum(axis=-1, keepdims=True)
    expected = (a + b) / np.maximum(m + n, 1)
    terms = [
        np.divide((x - size * expected) ** 2, size * expected, out=np.zeros(np.broadcast(x, expected).shape),
                  where=size * expected > 0)
        for x, size in ((a, m), (b, n))
    ]  # fmt: skip
    return _where_counted(np.sum(terms[0] + terms[1], axis=-1), reference, current)


def mean_shift(reference_mean: float, current_mean: float, scale: float) -> float:
    """Return by how many of the reference's standard deviations (`scale`) the mean has moved, with its sign.

    >>> mean_shift(10.0, 12.0, 4.0)
    0.5

    References
    ----------
    Cohen, J. (1988). Statistical Power Analysis for the Behavioral Sciences, 2nd edition. Chapter 2.

    """
    difference = current_mean - reference_mean
    return difference / scale if scale > 0 else float(np.sign(difference))


def null_rate(unusable: int, rows: int) -> float:
    """Return the share of rows without a usable value: null, NaN, or of another type.

    >>> null_rate(5, 100)
    0.05

    References
    ----------
    Rubin, D. (1976). Inference and missing data. Biometrika 63(3).

    """
    return unusable / rows if rows else float("nan")


def new_category_rate(reference: ArrayLike, current: ArrayLike) -> Floats:
    """Return the share of the current values that lies in categories without any count in the reference.

    >>> new_category_rate([5, 5, 0], [4, 4, 2])
    np.float64(0.2)

    References
    ----------
    Breck, E. et al. (2019). Data validation for machine learning. Proceedings of SysML.

    """
    new = np.where(np.asarray(reference) == 0, shares(current), 0.0)
    return _where_counted(np.sum(new, axis=-1), reference, current)


def out_of_range_rate(outside: int, values: int) -> float:
    """Return the share of values, infinities among them, that lie below or above all of the reference.

    >>> out_of_range_rate(2, 100)
    0.02

    References
    ----------
    Breck, E. et al. (2019). Data validation for machine learning. Proceedings of SysML.

    """
    return outside / values if values else float("nan")


def shares(counts: ArrayLike) -> Floats:
    """Return counts divided by their sum over the last axis; zeros where that is zero.

    >>> shares([1, 3])
    array([0.25, 0.75])
    """
    values = np.asarray(counts, dtype=np.float64)
    total = values.sum(axis=-1, keepdims=True)
    found: Floats = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
    return found


def _where_counted(values: Floats, reference: ArrayLike, current: ArrayLike) -> Floats:
    counted = (np.sum(reference, axis=-1) > 0) & (np.sum(current, axis=-1) > 0)
    found: Floats = np.where(counted, values, np.nan)[()]
    return found
