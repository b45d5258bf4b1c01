"""How strong differences of correlations are together, and how probable that is by chance.

References
----------
Cai, T., Liu, W. and Xia, Y. (2013). Two-sample covariance matrix testing and support recovery in high-dimensional
and sparse settings. Journal of the American Statistical Association 108(501). The largest standardised difference.
Buckley, M. and Eagleson, G. (1988). An approximation to the distribution of quadratic forms in normal random
variables. Australian Journal of Statistics 30A. The tail of the sum of squares.

"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from mooring.drift.grid import Floats
from mooring.drift.null import gamma_scores, tail_p_value
from mooring.drift.rank_scores import Scores

LEAST_P_VALUE = 1e-16
"""No smaller one is told of a tail that was fitted to a few hundred draws."""
_PRIOR = 20.0
_AT_ONCE = 4096
_TINY = 1e-9


class Strengths(NamedTuple):
    """How strong differences are, of the observed division first, and of those that were drawn.

    `observed` are the observed differences, in standard deviations of the drawn ones; `largest` the largest of
    them, `squares` the mean of their squares, and `products` the mean products of each two that were drawn.
    """

    observed: Scores
    largest: Floats
    squares: Floats
    products: Floats


def strengths_of(found: Scores) -> Strengths:
    """Return the strengths of differences, an array (divisions, pairs), of about unit variance.

    They are told in standard deviations over all divisions, the observed one with them, so that each division is
    treated alike; and with a few more, as of independent features, so that none is in the denominator alone.
    """
    spread = np.sqrt((np.einsum("dp,dp->p", found, found) + _PRIOR) / (len(found) + _PRIOR))
    largest, squares = np.zeros(len(found)), np.zeros(len(found))
    products = np.zeros((len(found) - 1, len(found) - 1))
    for start in range(0, len(spread), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        relative = found[:, part] / spread[part]
        np.maximum(largest, np.abs(relative).max(axis=1), out=largest)
        squares += np.einsum("dp,dp->d", relative, relative) / len(spread)
        products += relative[1:] @ relative[1:].T / len(spread)
    return Strengths(found[0] / spread, largest, squares, products)


def p_value_of(strengths: Strengths) -> float:
    """Return how probable differences are of which the largest, or all together, are as strong."""
    if not strengths.products.any():  # no division is unlike another
        return 1.0
    largest = -special.log_ndtr(-strengths.largest)
    squares = _scores_of_squares(strengths)
    scores = np.maximum(largest - np.median(largest[1:]), squares - np.median(squares[1:]))
    return max(tail_p_value(scores[1:], float(scores[0])), LEAST_P_VALUE)


def _scores_of_squares(strengths: Strengths) -> Floats:
    """Return -ln of the probability of a mean square, by three moments of a sum of weighted chi-square variables.

    The weights are the eigenvalues of the pairs' correlation matrix, of which one may be far larger than the rest
    (a factor that all features share); a gamma distribution by two moments has too light a tail then. Sums of the
    weights' second and third powers are estimated without bias by products of draws.
    """
    products, draws = strengths.products.copy(), len(strengths.products)
    np.fill_diagonal(products, 0)
    second = max(float((products**2).sum()) / (draws * (draws - 1)), _TINY)
    third = float((products @ products * products).sum()) / (draws * (draws - 1) * (draws - 2))
    freedom = second**3 / max(third, second**2) ** 2
    centre = float(strengths.squares[1:].mean())
    scaled = freedom + (strengths.squares - centre) * math.sqrt(freedom / second)
    return gamma_scores(freedom / 2, np.maximum(scaled, 0) / 2)
