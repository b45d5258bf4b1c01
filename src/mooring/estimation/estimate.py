"""`mooring.estimate`: performance without labels, of any two samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mooring.drift.columns import Column
from mooring.engine import sources
from mooring.estimation.estimates import Estimates
from mooring.estimation.estimator import Estimator
from mooring.estimation.intervals import Metric
from mooring.estimation.rows import EstimationError
from mooring.label import number_text
from mooring.performance.scored import Integers


def estimate(
    reference: Any,
    current: Any,
    *,
    prediction: str = "y_pred",
    label: str = "y_true",
    probabilities: str | Mapping[Any, str] | None = None,
    features: Sequence[str] | None = None,
    groups: str | None = None,
    metrics: Mapping[str, Metric] | None = None,
    seed: int = 0,
) -> Estimates:
    """Estimate how well a model does on rows that have no labels yet.

    Parameters
    ----------
    reference
        Rows with labels that the model was not trained on, and what it said of them: a table of pandas, polars or
        pyarrow, a mapping of arrays, or a path to a .parquet, .csv or .jsonl file or a directory of Parquet files.
    current
        The rows to estimate for, likewise. Where they have labels, what these show is told beside the estimate.
    prediction, label
        The columns of what the model predicts, and of the ground truth.
    probabilities
        The column of the second class's probability, or a column for each class: `{"red": "p_red", …}`. Without,
        errors are learnt from predictions and features.
    features
        Columns that errors may depend on, such as the model's inputs. By default all that both have; integers that
        number the rows, times, and texts of which nearly each is another are left out.
    groups
        A column that names the request that each row came in, where rows of one are not independent.
    metrics
        Measures of one's own, as `Estimator.estimate` takes them.
    seed
        The same seed gives the same result.

    Raises EstimationError, a ValueError, where there is too little to go by, and ValueError for data that can't be
    read or compared.

    >>> random = np.random.default_rng(0)
    >>> def sample(rows, low):
    ...     x = random.uniform(low, 1, size=rows)
    ...     right = random.random(rows) < np.where(x > 0.5, 0.7, 0.95)
    ...     return {"x": x, "y_pred": x > 0.8, "y_true": np.where(right, x > 0.8, x <= 0.8)}
    >>> found = estimate(sample(5000, low=0.0), sample(1000, low=0.4))
    >>> found["accuracy"].refuted, found.by_features, len(found.to_pandas())
    (False, True, 4)
    """
    old, new = dict(sources.columns(reference)), dict(sources.columns(current))
    used = [prediction, *_columns_of(probabilities), *([groups] if groups else [])]
    _check(old, [*used, label], "the reference")
    _check(new, used, "the current sample")
    _check_values(old, [*used, label], "the reference")
    _check_values(new, used, "the current sample")
    if features is None:
        chosen = [name for name in old if name in new and name not in (*used, label)]
    else:
        chosen = list(features)
        _check(old, chosen, "the reference")
        _check(new, chosen, "the current sample")
        if taken := [name for name in chosen if name in (*used, label)]:
            raise EstimationError(f"{taken[0]} is no feature: it is given as something else, too")
    estimator = Estimator.fit(
        old[label],
        _output(old, prediction, probabilities),
        {name: old[name] for name in chosen},
        groups=_codes(old, groups),
        named=features is not None,
        seed=seed,
    )
    return estimator.estimate(
        _output(new, prediction, probabilities),
        {name: new[name] for name in chosen},
        labels=new.get(label),
        groups=_codes(new, groups),
        metrics=metrics,
    )


def _check(columns: Mapping[str, Column], wanted: Sequence[str], whose: str) -> None:
    if lacking := [name for name in wanted if name not in columns]:
        raise EstimationError(f"{whose} has no column {', '.join(lacking)}; it has: {', '.join(columns)}")


def _check_values(columns: Mapping[str, Column], wanted: Sequence[str], whose: str) -> None:
    for name in wanted:
        column = columns[name]
        if len(column) and column.null_count == len(column):
            raise EstimationError(f"{whose} has no value in {name}: all are null; give rows that have one")


def _columns_of(probabilities: str | Mapping[Any, str] | None) -> list[str]:
    if probabilities is None:
        return []
    return [probabilities] if isinstance(probabilities, str) else list(probabilities.values())


def _output(
    columns: Mapping[str, Column], prediction: str, probabilities: str | Mapping[Any, str] | None
) -> dict[str, Column]:
    output = {"prediction": columns[prediction]}
    if isinstance(probabilities, str):
        return output | {"probability": columns[probabilities]}
    return output | {f"probability_{_name(one)}": columns[name] for one, name in (probabilities or {}).items()}


def _name(one: Any) -> str:
    return one if isinstance(one, str) else number_text(float(one))


def _codes(columns: Mapping[str, Column], groups: str | None) -> Integers | None:
    if groups is None:
        return None
    column = columns[groups]
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    found: Integers = column.dictionary_encode(null_encoding="encode").indices.to_numpy()
    return np.asarray(found, np.int64)
