"""Importance of features by permutation: how much worse a model does once the values of one are shuffled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from mooring.performance.measures import losses
from mooring.performance.scored import LabelledRows, UnscorableError, scored_of

MOST_ROWS = 1000
REPEATS = 3


def permutation_importance(
    model: Any, inputs: Any, labels: pa.ChunkedArray, like: LabelledRows, seed: int = 0
) -> dict[str, float]:
    """Return which share of a model's loss on held-out rows each input accounts for, together 1.

    Parameters
    ----------
    model
        An object with `predict`, or a function, which gives predictions of inputs as the model does where it is
        served.
    inputs
        The inputs of held-out rows, as the model takes them: a table of pandas or polars, or an array of two
        dimensions, whose columns are called "0", "1", ….
    labels
        The ground truth of these rows.
    like
        What the model was said to predict of them: its task and its classes.
    seed
        Of the shuffling, and of which rows are taken.

    The values of a column are shuffled among at most 1,000 rows, three times, and the mean loss (squared error,
    log loss, or share of errors) is compared with that of the rows as they are. What makes it no larger has
    importance 0; of two columns that tell the same the one has most that the model goes by. Raises ValueError for
    inputs of another kind or number of rows, and where predictions can't be compared with labels; what the model
    raises comes as it is.

    >>> random = np.random.default_rng(0)
    >>> inputs = random.normal(size=(500, 3))
    >>> labels, model = 3 * inputs[:, 0] + inputs[:, 1], lambda rows: 3 * rows[:, 0] + rows[:, 1]
    >>> like = scored_of(labels, model(inputs))
    >>> found = permutation_importance(model, inputs, pa.chunked_array([labels]), like)
    >>> {name: round(share, 1) for name, share in found.items()}
    {'0': 0.9, '1': 0.1, '2': 0.0}

    References
    ----------
    Breiman, L. (2001). Random Forests. Machine Learning 45. Fisher, A., Rudin, C. and Dominici, F. (2019). All
    Models are Wrong, but Many are Useful. JMLR 20.

    """
    predict: Callable[[Any], Any] = getattr(model, "predict", model)
    if not callable(predict):
        raise ValueError("model is an object with predict, or a function that predicts")
    names = _names(inputs)
    if len(inputs) != len(labels):
        raise ValueError("evaluation has other rows of inputs than of labels")
    random = np.random.default_rng(seed)
    chosen = np.arange(len(labels))
    if len(chosen) > MOST_ROWS:
        chosen = np.sort(random.choice(chosen, MOST_ROWS, replace=False))
    rows, truth = _taken(inputs, chosen), labels.take(pa.array(chosen))
    before = _loss(predict(rows), truth, like)
    grown = {}
    for place, name in enumerate(names):
        after = [
            _loss(predict(_shuffled(rows, place, random.permutation(len(chosen)))), truth, like)
            for _ in range(REPEATS)
        ]
        grown[name] = max(float(np.mean(after)) - before, 0.0)
    total = sum(grown.values())
    return {name: one / total if total else 0.0 for name, one in grown.items()}


def _loss(output: Any, truth: pa.ChunkedArray, like: LabelledRows) -> float:
    scored = scored_of(truth, output, task=like.task, classes=like.classes)
    if not scored.rows:
        raise UnscorableError(
            "model predicts nothing of the rows of evaluation that could be compared with labels"
        )
    return float(losses(scored).mean())


def _names(inputs: Any) -> list[str]:
    if isinstance(inputs, np.ndarray) and inputs.ndim == 2:
        return [str(place) for place in range(inputs.shape[1])]
    if hasattr(inputs, "iloc") or hasattr(inputs, "with_columns"):
        return [str(name) for name in inputs.columns]
    raise ValueError(
        "for model the inputs in evaluation must be a table of pandas or polars, or a two-dimensional array, not "
        f"{type(inputs).__name__}"
    )


def _taken(inputs: Any, rows: np.ndarray[Any, Any]) -> Any:
    return inputs.iloc[rows] if hasattr(inputs, "iloc") else inputs[rows]


def _shuffled(rows: Any, place: int, order: np.ndarray[Any, Any]) -> Any:
    """Return rows with one column in another order, of the types that they have."""
    if isinstance(rows, np.ndarray):
        found = rows.copy()
        found[:, place] = rows[order, place]
        return found
    if hasattr(rows, "iloc"):
        found = rows.copy()
        found[rows.columns[place]] = rows.iloc[order, place].set_axis(rows.index)
        return found
    return rows.with_columns(rows[:, place][order])
