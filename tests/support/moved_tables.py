"""Tables whose inputs move while labels given the inputs stay as they were; their model errs in one region."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mooring.estimation import Estimator

Floats = NDArray[np.float64]


class Sample(NamedTuple):
    """Rows: their features, true labels, and what a model says of them."""

    features: dict[str, pa.Array]
    labels: NDArray[Any]
    output: dict[str, NDArray[Any]]

    @property
    def scores(self) -> Floats:
        return np.asarray(self.output["probability"], np.float64)

    def estimator(self, **given: Any) -> Estimator:
        return Estimator.fit(self.labels, self.output, self.features, **given)


def _logistic(z: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-z)), np.float64)


def _flat_above(x: Floats) -> Floats:
    """The first input means nothing where the second is high."""
    return 1.5 * x[:, 0] * (x[:, 1] <= 1) + 0.5 * x[:, 2]


def _weaker_above(x: Floats) -> Floats:
    return 2 * x[:, 0] * (1 - 0.6 * (x[:, 1] > 0.5)) + x[:, 2] - (x[:, 1] > 0.5)


def _lower_above(x: Floats) -> Floats:
    return 1.5 * x[:, 0] + x[:, 2] - 1.5 * np.maximum(x[:, 1], 0)


TABLES = {"flat above": _flat_above, "weaker above": _weaker_above, "lower above": _lower_above}
"""The log odds of each; the model does not know the second input, which the shift moves."""
_MODELS = {
    "flat above": lambda x: 1.2 * x[:, 0] + 0.5 * x[:, 2],
    "weaker above": lambda x: 1.4 * x[:, 0] + x[:, 2] - 0.3,
    "lower above": lambda x: 1.4 * x[:, 0] + x[:, 2] - 0.5,
}


def classes(table: str, rows: int, random: np.random.Generator, shift: float = 0.0) -> Sample:
    """Rows of a table whose second input is tilted by exp(shift · x), within two standard deviations."""
    x = random.normal(size=(rows * (20 if shift else 1), 5))
    if shift:
        weights = np.exp(shift * np.clip(x[:, 1], -2, 2))
        x = x[random.choice(len(x), rows, replace=False, p=weights / weights.sum())]
    labels = (random.random(rows) < _logistic(TABLES[table](x))).astype(int)
    scores = _logistic(_MODELS[table](x))
    output = {"prediction": (scores > 0.5).astype(int), "probability": scores}
    return Sample({f"x{at}": pa.array(x[:, at]) for at in range(5)}, labels, output)


def numbers(rows: int, random: np.random.Generator, shift: float = 0.0) -> Sample:
    """Rows of a regression whose errors grow with an input, and have heavy tails."""
    x = random.normal(size=(rows, 4))
    x[:, 1] += shift
    noise = random.standard_t(5, size=rows) * np.exp(0.4 * x[:, 1])
    said = 3 * x[:, 0] + x[:, 2]
    return Sample({f"x{at}": pa.array(x[:, at]) for at in range(4)}, said + noise, {"prediction": said})
