"""Measures of performance that are expected of rows, and between what labels of these rows would show them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mooring.estimation.boosting import FOLDS
from mooring.estimation.expected import Moments
from mooring.performance.measures import MEASURES, evaluate, weighted
from mooring.performance.scored import Floats, LabelledRows

LEVEL = 0.9
_DRAWS = 400
Metric = Callable[[NDArray[Any], NDArray[Any]], float]
"""A measure of one's own: a function of labels and predictions, as scikit-learn's are."""


class EstimatedInterval(NamedTuple):
    """An estimate, and between what the value lies with a probability of 90 %."""

    estimated: float
    lower: float
    upper: float


def of_classes(
    scored: LabelledRows, probabilities: Floats, metrics: Mapping[str, Metric], design: float, seed: int
) -> dict[str, EstimatedInterval]:
    """Return the measures of a classification, from probabilities of each class: an array (folds, rows, classes).

    The estimate is the measure of the expected confusion matrix, as if each row were of each class with the weight
    of its probability. `design` is by how much rows of one request that are alike raise the variance.
    """
    assert scored.classes is not None
    rows, classes = scored.rows, len(scored.classes)
    expected = probabilities.mean(axis=0)
    each = LabelledRows(
        np.tile(np.arange(classes), rows),
        np.repeat(scored.predictions.astype(np.int64), classes),
        np.arange(rows * classes),
        None if scored.probabilities is None else np.repeat(scored.probabilities, classes, axis=0),
        scored.classes,
    )
    found = weighted(each, np.concatenate([expected[None], probabilities]).reshape(FOLDS + 1, -1))
    names = class_values(scored.classes)
    draws: list[dict[str, float]] = []
    for labels in _drawn_classes(expected, seed):
        of_draw = evaluate(scored._replace(labels=labels))
        of_draw |= {name: float(one(names[labels], names[scored.predictions])) for name, one in metrics.items()}
        draws.append(of_draw)
    return _intervals(found, draws, design, seed)


def of_errors(
    scored: LabelledRows, moments: Moments, pool: Floats, metrics: Mapping[str, Metric], design: float, seed: int
) -> dict[str, EstimatedInterval]:
    """Return the measures of a regression, from the moments of each row's error and a pool of how errors vary."""
    predictions = scored.predictions.astype(np.float64)
    mean = Moments(*(one.mean(axis=0) for one in moments))
    each = (np.concatenate([average[None], of_folds]) for average, of_folds in zip(mean, moments, strict=True))
    found = _of_moments(predictions, *each)
    random = np.random.default_rng(seed)
    draws = []
    for _ in range(_DRAWS):
        spread, size, square = pool[:, random.integers(pool.shape[1], size=scored.rows)]
        error = mean.error + np.sqrt(mean.squared) * spread
        of_draw = _of_moments(predictions, error, mean.absolute * size, mean.squared * square)
        one_draw = {name: float(value) for name, value in of_draw.items()}
        labels = predictions - error
        draws.append(one_draw | {name: float(one(labels, predictions)) for name, one in metrics.items()})
    return _intervals(found, draws, design, seed)


def class_values(classes: tuple[str, ...]) -> NDArray[Any]:
    """Return classes as a metric gets them: numbers where they are some, else texts.

    >>> class_values(("0", "1")), class_values(("no", "yes"))
    (array([0., 1.]), array(['no', 'yes'], dtype='<U3'))
    """
    try:
        return np.array([float(name) for name in classes])
    except ValueError:
        return np.array(classes)


def _drawn_classes(expected: Floats, seed: int) -> Iterator[NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    below = np.cumsum(expected, axis=1)[:, :-1]
    for _ in range(_DRAWS):
        yield (random.random(len(expected))[:, None] > below).sum(axis=1)


def _of_moments(predictions: Floats, error: Floats, absolute: Floats, squared: Floats) -> dict[str, Floats]:
    """Return the measures of the rows along the last axis, from what is expected of the error of each."""
    with np.errstate(divide="ignore", invalid="ignore"):
        labels = predictions - error
        centre = labels.mean(axis=-1, keepdims=True)
        around = squared - error**2 + (labels - centre) ** 2  # variance of each label, and its distance
        spread = around.mean(axis=-1)
        return {
            "rmse": np.sqrt(squared.mean(axis=-1)),
            "mae": absolute.mean(axis=-1),
            "r2": np.where(spread > 0, 1 - squared.mean(axis=-1) / spread, np.nan),
            "bias": error.mean(axis=-1),
        }


def _intervals(
    found: Mapping[str, Floats], draws: list[dict[str, float]], design: float, seed: int
) -> dict[str, EstimatedInterval]:
    """Return intervals, from each measure's estimate, the same by each fold's model, and draws of labels."""
    random = np.random.default_rng([seed, 1])
    # Not Student's t: the jackknife's variance is too large rather than too small (Efron and Stein 1981).
    unsure = random.standard_normal(size=len(draws))
    intervals = {}
    for name in dict.fromkeys([*MEASURES, *draws[0]]):
        drawn = np.array([one.get(name, np.nan) for one in draws])
        if name not in found and not np.isfinite(drawn).any():
            continue
        of_folds = found.get(name, np.full(FOLDS + 1, np.nanmean(drawn)))
        estimated = float(of_folds[0])
        apart = np.sqrt((FOLDS - 1) / FOLDS * ((of_folds[1:] - of_folds[1:].mean()) ** 2).sum())
        values = estimated + np.sqrt(design) * (drawn - estimated) + apart * unsure
        values = values[np.isfinite(values)]
        if not np.isfinite(estimated) or 2 * len(values) < len(draws):
            continue
        lower, upper = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        intervals[name] = EstimatedInterval(estimated, *(_clipped(name, float(one)) for one in (lower, upper)))
    return intervals


def _clipped(measure: str, value: float) -> float:
    """Return a value within what a measure can be.

    >>> _clipped("accuracy", 1.02), _clipped("rmse", -0.1), _clipped("bias", -0.1)
    (1.0, 0.0, -0.1)
    """
    if measure not in MEASURES or measure == "bias":
        return value
    if measure in ("rmse", "mae", "log_loss", "brier"):
        return max(value, 0.0)
    return min(value, 1.0) if measure == "r2" else min(max(value, 0.0), 1.0)
