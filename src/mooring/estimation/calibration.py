"""How probable each class is, given what a model said: calibrated on held-out rows, a map for each fold."""

from __future__ import annotations

import numpy as np

from mooring.performance.scored import Floats, Integers


class ScoreCalibration:
    """The share of held-out rows that are of a class, as a monotone function of its probability.

    By isotonic regression; of several classes one by one, brought to a sum of 1. The two end steps, where every
    row or none was of the class, are (k + 1) / (n + 2) instead of 0 and 1: from n rows alike no certainty follows
    (Laplace's rule of succession).

    >>> scores = np.repeat([0.2, 0.8], 10)
    >>> made = ScoreCalibration(np.stack([1 - scores, scores], axis=1), np.repeat([0, 1], 10))
    >>> made(np.array([[0.8, 0.2]])).round(3).tolist()
    [[0.917, 0.083]]
    """

    def __init__(self, probabilities: Floats, labels: Integers) -> None:
        self._classes = probabilities.shape[1]
        places = [1] if self._classes == 2 else range(self._classes)
        self._steps = [_isotonic(probabilities[:, at], (labels == at).astype(np.float64)) for at in places]

    def __call__(self, probabilities: Floats) -> Floats:
        """Return the calibrated probabilities, an array (rows, classes)."""
        places = [1] if self._classes == 2 else range(self._classes)
        shares = [np.interp(probabilities[:, at], *steps) for at, steps in zip(places, self._steps, strict=True)]
        if self._classes == 2:
            return np.stack([1 - shares[0], shares[0]], axis=1)
        found = np.stack(shares, axis=1)
        return np.asarray(found / found.sum(axis=1, keepdims=True), np.float64)


class PredictionCalibration:
    """The share of held-out rows of each class among those that are predicted to be of one: no probability needed.

    Of a class that few rows are predicted to be, the shares are drawn to those of all rows by one row's weight.

    >>> made = PredictionCalibration(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), 2)
    >>> made(np.array([1, 0])).round(2).tolist()
    [[0.25, 0.75], [0.62, 0.38]]
    """

    def __init__(self, predictions: Integers, labels: Integers, classes: int) -> None:
        counts = np.bincount(predictions * classes + labels, minlength=classes**2).reshape(classes, classes)
        overall = counts.sum(axis=0) + 1 / classes
        shares = counts + overall / overall.sum()
        self._shares = shares / shares.sum(axis=1, keepdims=True)

    def __call__(self, predictions: Integers) -> Floats:
        """Return the probabilities of the classes, an array (rows, classes)."""
        return np.asarray(self._shares[predictions], np.float64)


def _isotonic(scores: Floats, there: Floats) -> tuple[Floats, Floats]:
    """Return an isotonic fit as points to interpolate between."""
    from scipy.optimize import isotonic_regression

    values, place = np.unique(scores, return_inverse=True)
    rows = np.bincount(place).astype(np.float64)
    fit = isotonic_regression(np.bincount(place, there) / rows, weights=rows)
    shares = fit.x.copy()
    for step in (slice(None, fit.blocks[1]), slice(fit.blocks[-2], None)):
        count = rows[step].sum()
        shares[step] = np.clip(shares[step], 1 / (count + 2), (count + 1) / (count + 2))
    # Of a step its two ends are enough.
    ends = np.unique(np.concatenate([fit.blocks[:-1], fit.blocks[1:] - 1]))
    return values[ends], np.maximum.accumulate(shares)[ends]
