"""Measures of a model's performance on labelled rows, for many weightings of the rows' requests at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mooring.performance.scored import Floats, Integers, Scored, Task, scored_of, task_of

__all__ = [
    "LOWER_IS_BETTER",
    "Floats",
    "Scored",
    "Task",
    "evaluate",
    "losses",
    "primary",
    "scored_of",
    "task_of",
    "weighted",
]
LOWER_IS_BETTER = frozenset({"rmse", "mae", "log_loss"})
"""The measures of which less is better; of `bias` it is less in either direction, of the others more."""
_LEAST = float(np.finfo(np.float64).eps)
_CELLS = 4_000_000
_MOST_ERROR = 1e50


def evaluate(scored: Scored) -> dict[str, float]:
    """Return the measures; what is not defined on these rows is left out.

    Of a regression `rmse`, `mae`, `r2` and `bias` (mean of prediction minus label). Of a classification
    `accuracy`, `precision`, `recall` and `f1` (of two classes those of the second, of more the plain mean over
    classes), and where there are probabilities `log_loss` and `roc_auc` (of more than two classes the mean of each
    against the rest). They are defined as scikit-learn's of these names.

    >>> scored = Scored(np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 4.0]), np.arange(3))
    >>> {name: round(value, 3) for name, value in evaluate(scored).items()}
    {'rmse': 0.577, 'mae': 0.333, 'r2': 0.786, 'bias': 0.333}
    """
    if not scored.rows:
        return {}
    groups = int(scored.groups.max()) + 1
    found = {name: float(values[0]) for name, values in weighted(scored, np.ones((1, groups))).items()}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def primary(scored: Scored) -> str:
    """Return the measure that says most: `rmse`, `log_loss` where there are probabilities, else `accuracy`."""
    if scored.classes is None:
        return "rmse"
    return "accuracy" if scored.probabilities is None else "log_loss"


def losses(scored: Scored) -> Floats:
    """Return each row's loss: the squared error, -ln of the true class's probability, or 1 where it is wrong."""
    if scored.classes is None:
        return _errors(scored) ** 2
    if scored.probabilities is None:
        return np.asarray(scored.predictions != scored.labels, np.float64)
    chosen = scored.probabilities[np.arange(scored.rows), scored.labels.astype(np.int64)]
    return np.asarray(-np.log(np.clip(chosen, _LEAST, 1.0)), np.float64)


def areas_of(scored: Scored) -> int:
    """Return of how many classes an area under the ROC curve is computed for each weighting."""
    if scored.probabilities is None or scored.classes is None:
        return 0
    return 1 if len(scored.classes) == 2 else len(np.unique(scored.labels))


def weighted(scored: Scored, weights: NDArray[Any], *, areas: bool = True) -> dict[str, Floats]:
    """Return each measure for each weighting of the groups; nan where it is not defined.

    Parameters
    ----------
    scored
        The rows.
    weights
        How often each group counts: an array (weightings, groups).
    areas
        Whether `roc_auc` is among them, which takes longest.
    """
    weights = weights.astype(np.float64, copy=False)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if scored.classes is None:
            return _regression(scored, weights)
        found = _classification(scored, weights)
        if scored.probabilities is not None:
            total = weights @ np.bincount(scored.groups, minlength=weights.shape[1])
            loss = weights @ np.bincount(scored.groups, losses(scored), minlength=weights.shape[1])
            found["log_loss"] = loss / total
            if areas:
                found["roc_auc"] = _roc_auc(scored, weights)
        return found


def _errors(scored: Scored) -> Floats:
    """Return predictions minus labels, as far as their squares and what is computed of those stay finite."""
    with np.errstate(over="ignore"):
        error = scored.predictions - scored.labels
    return np.clip(error, -_MOST_ERROR, _MOST_ERROR).astype(np.float64)


def _regression(scored: Scored, weights: Floats) -> dict[str, Floats]:
    error = _errors(scored)
    centre = float(scored.labels.mean())
    labels = scored.labels - centre  # else the difference of squares loses digits
    columns = [np.ones(scored.rows), error, np.abs(error), error**2, labels, labels**2]
    sums = np.stack([np.bincount(scored.groups, one, minlength=weights.shape[1]) for one in columns], axis=1)
    count, bias, absolute, squared, level, spread = (weights @ sums).T
    around = spread - level**2 / count
    around = np.where(around > 1e-12 * spread, around, np.nan)
    return {
        "rmse": np.sqrt(squared / count),
        "mae": absolute / count,
        "r2": 1 - squared / around,
        "bias": bias / count,
    }


def _classification(scored: Scored, weights: Floats) -> dict[str, Floats]:
    assert scored.classes is not None
    count = len(scored.classes)
    labels, predictions = scored.labels.astype(np.int64), scored.predictions.astype(np.int64)
    right = labels == predictions
    shape = weights.shape[1], count
    # For each group how often each class was true, predicted, and both.
    true, said, both = (
        weights @ np.bincount(scored.groups[of] * count + values[of], minlength=shape[0] * count).reshape(shape)
        for values, of in ((labels, slice(None)), (predictions, slice(None)), (labels, right))
    )
    precision = np.where(said > 0, both / said, 0.0)
    recall = np.where(true > 0, both / true, 0.0)
    f1 = np.where(said + true > 0, 2 * both / (said + true), 0.0)
    found = {"accuracy": both.sum(axis=1) / true.sum(axis=1)}
    for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        if count == 2:
            found[name] = values[:, 1]
        else:
            there = said + true > 0
            found[name] = np.where(there, values, 0.0).sum(axis=1) / there.sum(axis=1)
    return found


def _roc_auc(scored: Scored, weights: Floats) -> Floats:
    assert scored.probabilities is not None
    assert scored.classes is not None
    # Of a class that no row is of, there is no area.
    places = [1] if len(scored.classes) == 2 else np.unique(scored.labels).tolist()
    areas = np.stack(
        [_area(scored.probabilities[:, at], scored.labels == at, scored.groups, weights) for at in places]
    )
    there = np.isfinite(areas)
    return np.asarray(np.where(there, areas, 0.0).sum(axis=0) / there.sum(axis=0), np.float64)


def _area(scores: Floats, positive: NDArray[np.bool_], groups: Integers, weights: Floats) -> Floats:
    """Return the area under the ROC curve for each weighting; ties count half."""
    order = np.argsort(scores, kind="stable")
    scores, positive, groups = scores[order], positive[order], groups[order]
    starts = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1]]))
    found = np.empty(len(weights))
    step = max(1, _CELLS // max(len(scores), 1))
    for first in range(0, len(weights), step):
        of_rows = weights[first : first + step][:, groups]
        ups = np.add.reduceat(of_rows * positive, starts, axis=1)
        downs = np.add.reduceat(of_rows * ~positive, starts, axis=1)
        below = np.cumsum(downs, axis=1) - downs / 2
        found[first : first + step] = (ups * below).sum(axis=1) / (ups.sum(axis=1) * downs.sum(axis=1))
    return found
