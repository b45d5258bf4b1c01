"""Measures of a model's performance on labelled rows, for many weightings of the rows' requests at once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mooring.performance.scored import Floats, Integers, LabelledRows, Task, scored_of, task_of

__all__ = [
    "MEASURES",
    "Floats",
    "LabelledRows",
    "Task",
    "evaluate",
    "losses",
    "primary",
    "scored_of",
    "task_of",
    "weighted",
]
_LEAST = float(np.finfo(np.float64).eps)
_CELLS = 4_000_000
_MOST_ERROR = 1e50


def evaluate(scored: LabelledRows) -> dict[str, float]:
    """Return the measures; what is not defined on these rows is left out.

    >>> scored = LabelledRows(np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 4.0]), np.arange(3))
    >>> {name: round(value, 3) for name, value in evaluate(scored).items()}
    {'rmse': 0.577, 'mae': 0.333, 'r2': 0.786, 'bias': 0.333}
    """
    if not scored.rows:
        return {}
    groups = int(scored.groups.max()) + 1
    found = {name: float(values[0]) for name, values in weighted(scored, np.ones((1, groups))).items()}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def primary(scored: LabelledRows) -> str:
    """Return the measure that says most: `rmse`, `log_loss` where there are probabilities, else `accuracy`."""
    return next(name for name, one in MEASURES.items() if one.suits(scored))


def losses(scored: LabelledRows) -> Floats:
    """Return each row's loss: the squared error, -ln of the true class's probability, or 1 where it is wrong."""
    if scored.classes is None:
        return _errors(scored) ** 2
    if scored.probabilities is None:
        return errors_of(scored)
    chosen = scored.probabilities[np.arange(scored.rows), scored.labels.astype(np.int64)]
    return np.asarray(-np.log(np.clip(chosen, _LEAST, 1.0)), np.float64)


def errors_of(scored: LabelledRows) -> Floats:
    """Return of each row of a classification 1 where it is wrong, else 0."""
    return np.asarray(scored.predictions != scored.labels, np.float64)


def areas_of(scored: LabelledRows) -> int:
    """Return of how many classes an area under the ROC curve is computed for each weighting."""
    if scored.probabilities is None or scored.classes is None:
        return 0
    return 1 if _count(scored) == 2 else len(np.unique(scored.labels[~scored.unknown]))


def _count(scored: LabelledRows) -> int:
    """Return how many classes have probabilities that mean something: those that the baseline has."""
    return scored.known if scored.known is not None else len(scored.classes or ())


def weighted(scored: LabelledRows, weights: NDArray[Any], *, areas: bool = True) -> dict[str, Floats]:
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
    rows = WeightedRows(scored, weights.astype(np.float64, copy=False))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return {
            name: one.value(rows)
            for name, one in MEASURES.items()
            if one.suits(scored) and (areas or one.value is not _roc_auc)
        }


class ErrorSums(NamedTuple):
    """Sums over rows, for each weighting: of 1, of errors, their sizes and squares, and of the labels' spread."""

    rows: Floats
    error: Floats
    absolute: Floats
    squared: Floats
    around: Floats


class ClassCounts(NamedTuple):
    """How many rows were of each class, said to be, and both: arrays (weightings, classes)."""

    true: Floats
    said: Floats
    both: Floats


class WeightedRows:
    """Labelled rows, and how often each of their groups counts: what measures are taken of."""

    def __init__(self, scored: LabelledRows, weights: Floats) -> None:
        self.scored = scored
        self.weights = weights

    def total(self, values: NDArray[Any] | None = None) -> Floats:
        """Return the sum of a value of each row, or of 1, for each weighting."""
        of_groups = np.bincount(self.scored.groups, values, minlength=self.weights.shape[1])
        return np.asarray(self.weights @ of_groups, np.float64)

    @cached_property
    def of_known_classes(self) -> LabelledRows:
        """The rows of classes that the baseline has, of the same groups: others are given no probability."""
        unknown = self.scored.unknown
        if not unknown.any():
            return self.scored
        groups = self.scored.groups[~unknown]
        return self.scored.only(~unknown)._replace(groups=groups)

    @cached_property
    def errors(self) -> ErrorSums:
        """What measures of a regression are made of."""
        error = _errors(self.scored)
        labels = self.scored.labels - float(
            self.scored.labels.mean()
        )  # else the difference of squares loses digits
        columns = [np.ones(self.scored.rows), error, np.abs(error), error**2, labels, labels**2]
        groups = self.scored.groups
        sums = np.stack([np.bincount(groups, one, minlength=self.weights.shape[1]) for one in columns], axis=1)
        count, bias, absolute, squared, level, spread = (self.weights @ sums).T
        around = spread - level**2 / count
        return ErrorSums(count, bias, absolute, squared, np.where(around > 1e-12 * spread, around, np.nan))

    @cached_property
    def counts(self) -> ClassCounts:
        """What measures of a classification are made of."""
        assert self.scored.classes is not None
        count = len(self.scored.classes)
        labels, said = self.scored.labels.astype(np.int64), self.scored.predictions.astype(np.int64)
        groups, shape = self.scored.groups, (self.weights.shape[1], count)
        return ClassCounts(
            *(
                self.weights
                @ np.bincount(groups[of] * count + values[of], minlength=shape[0] * count).reshape(shape)
                for values, of in ((labels, slice(None)), (said, slice(None)), (labels, labels == said))
            )
        )

    def over_classes(self, values: Floats) -> Floats:
        """Return a value of each class as one: of two classes that of the second, of more the plain mean."""
        if _count(self.scored) == 2:
            return np.asarray(values[:, 1], np.float64)
        there = self.counts.said + self.counts.true > 0
        return np.asarray(np.where(there, values, 0.0).sum(axis=1) / there.sum(axis=1), np.float64)


class PerformanceMeasure(NamedTuple):
    """A measure of performance, and what of it is `better`.

    Some need `probabilities`, or a `baseline` that says which classes there are; tables have the `brief`.
    """

    definition: str
    task: Task
    better: Literal["lower", "higher", "nearer 0"]
    value: Callable[[WeightedRows], Floats]
    probabilities: bool = False
    brief: bool = True
    baseline: bool = False

    def suits(self, scored: LabelledRows) -> bool:
        """Whether rows have what it needs."""
        if self.task != scored.task or (self.baseline and scored.known is None):
            return False
        return scored.probabilities is not None or not self.probabilities


def _errors(scored: LabelledRows) -> Floats:
    """Return predictions minus labels, as far as their squares and what is computed of those stay finite."""
    with np.errstate(over="ignore"):
        error = scored.predictions - scored.labels
    return np.clip(error, -_MOST_ERROR, _MOST_ERROR).astype(np.float64)


def _precision(rows: WeightedRows) -> Floats:
    _, said, both = rows.counts
    return rows.over_classes(np.where(said > 0, both / said, 0.0))


def _recall(rows: WeightedRows) -> Floats:
    true, _, both = rows.counts
    return rows.over_classes(np.where(true > 0, both / true, 0.0))


def _f1(rows: WeightedRows) -> Floats:
    true, said, both = rows.counts
    return rows.over_classes(np.where(said + true > 0, 2 * both / (said + true), 0.0))


def _log_loss(rows: WeightedRows) -> Floats:
    return _mean_of_known(rows, losses(rows.of_known_classes))


def _brier(rows: WeightedRows) -> Floats:
    scored = rows.of_known_classes
    assert scored.probabilities is not None
    squares = (scored.probabilities**2).sum(axis=1) + 1
    squares -= 2 * scored.probabilities[np.arange(scored.rows), scored.labels.astype(np.int64)]
    return _mean_of_known(rows, squares / 2 if _count(scored) == 2 else squares)


def _mean_of_known(rows: WeightedRows, values: Floats) -> Floats:
    """Return the mean of a value of each row that is of a known class."""
    scored, groups = rows.of_known_classes, rows.weights.shape[1]
    of_groups = np.bincount(scored.groups, values, minlength=groups)
    counts = np.bincount(scored.groups, minlength=groups)
    return np.asarray((rows.weights @ of_groups) / (rows.weights @ counts), np.float64)


def _unknown_class_rate(rows: WeightedRows) -> Floats:
    return rows.total(rows.scored.unknown) / rows.total()


def _roc_auc(rows: WeightedRows) -> Floats:
    scored, weights = rows.of_known_classes, rows.weights
    assert scored.probabilities is not None
    assert scored.classes is not None
    if not scored.rows:
        return np.full(len(weights), np.nan)
    # Of a class that no row is of, there is no area.
    places = [1] if _count(scored) == 2 else np.unique(scored.labels).tolist()
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


MEASURES: dict[str, PerformanceMeasure] = {
    "rmse": PerformanceMeasure(
        "root of the mean squared error",
        "regression",
        "lower",
        lambda rows: np.sqrt(rows.errors.squared / rows.errors.rows),
    ),
    "mae": PerformanceMeasure(
        "mean absolute error", "regression", "lower", lambda rows: rows.errors.absolute / rows.errors.rows
    ),
    "r2": PerformanceMeasure(
        "share of the labels' variance that is explained",
        "regression",
        "higher",
        lambda rows: 1 - rows.errors.squared / rows.errors.around,
        brief=False,
    ),
    "bias": PerformanceMeasure(
        "mean of prediction minus label",
        "regression",
        "nearer 0",
        lambda rows: rows.errors.error / rows.errors.rows,
    ),
    "log_loss": PerformanceMeasure(
        "mean of -ln of the true class's probability",
        "classification",
        "lower",
        _log_loss,
        probabilities=True,
    ),
    "brier": PerformanceMeasure(
        "mean squared distance of the probabilities from 1 of the true class and 0 of others, of two classes half",
        "classification",
        "lower",
        _brier,
        probabilities=True,
        brief=False,
    ),
    "accuracy": PerformanceMeasure(
        "share of rows that are right",
        "classification",
        "higher",
        lambda rows: rows.counts.both.sum(axis=1) / rows.counts.true.sum(axis=1),
    ),
    "precision": PerformanceMeasure(
        "share of right ones among those said to be of a class: of two the second, of more the mean",
        "classification",
        "higher",
        _precision,
        brief=False,
    ),
    "recall": PerformanceMeasure(
        "share of right ones among those of a class: of two the second, of more the mean",
        "classification",
        "higher",
        _recall,
        brief=False,
    ),
    "f1": PerformanceMeasure("harmonic mean of precision and recall", "classification", "higher", _f1),
    "roc_auc": PerformanceMeasure(
        "area under the ROC curve, of more than two classes the mean of each against the rest",
        "classification",
        "higher",
        _roc_auc,
        probabilities=True,
    ),
    "unknown_class_rate": PerformanceMeasure(
        "share of rows of a class that the baseline never had",
        "classification",
        "lower",
        _unknown_class_rate,
        brief=False,
        baseline=True,
    ),
}
"""Every measure by its name, that which says most first. They are defined as scikit-learn's of these names."""


def lower_is_better(measure: str) -> bool:
    """Return whether less of a measure is better."""
    return measure in MEASURES and MEASURES[measure].better == "lower"


def first_of(names: Collection[str]) -> str:
    """Return of measures that which says most.

    >>> first_of(["f1", "accuracy", "log_loss"])
    'log_loss'
    """
    return next((name for name in MEASURES if name in names), next(iter(names)))
