"""Tables in which the loss rises in one segment: of one condition or two, on numbers and texts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mooring.estimation.loss_model import LossRows

LEVELS = np.array(["DE", "FR", "IT", "PL", "ES", "NL", "SE", "AT"])


class PlantedSegment(NamedTuple):
    """Held-out rows and a window, and which rows of it are in the segment."""

    held_out: LossRows
    window: LossRows
    inside: NDArray[np.bool_]
    kind: str


def planted_segment(seed: int, held_out: int = 2000, rows: int = 2000, worse: bool = True) -> PlantedSegment:
    """Draw a table; its loss, wrong or not or a squared error, depends on features that no segment is made of."""
    random = np.random.default_rng([seed, 11])
    numbers, categories = int(random.integers(4, 16)), int(random.integers(2, 5))
    kinds = [("number",), ("category",), ("number", "number"), ("number", "category")][seed % 4]
    share = float(random.uniform(0.05, 0.3))
    task = ("classification", "regression")[seed // 4 % 2]
    more = float(random.uniform(0.25, 0.5) if task == "classification" else random.uniform(1.5, 4))
    each = share ** (1 / len(kinds))
    names = random.permutation(categories)
    signs = random.choice([-1.0, 1.0], size=2)
    levels = random.permutation(len(LEVELS))
    odds = random.dirichlet(np.full(len(LEVELS), 4.0))
    counted = np.cumsum(odds[levels])
    chosen = levels[: max(1, int(np.argmin(np.abs(counted - each))) + 1)]

    def table(count: int, worse: bool) -> tuple[LossRows, NDArray[np.bool_]]:
        x = random.normal(size=(count, numbers))
        texts = random.choice(len(LEVELS), size=(count, categories), p=odds)
        inside = np.ones(count, np.bool_)
        for at, kind in enumerate(kinds):
            if kind == "number":
                inside &= signs[at] * x[:, at] > np.quantile(
                    np.random.default_rng(0).normal(size=100_000), 1 - each
                )
            else:
                inside &= np.isin(texts[:, names[0]], chosen)
        z = 0.5 * x[:, 2] + 0.3 * (texts[:, names[1]] == 1)
        if task == "classification":
            losses = (random.random(count) < np.clip(1 / (1 + np.exp(2 - z)) + more * worse * inside, 0, 1)) * 1.0
        else:
            losses = np.exp(z / 2) * (1 + more * worse * inside) * random.normal(size=count) ** 2
        features = {f"x{at}": pa.array(x[:, at]) for at in range(numbers)}
        features |= {f"c{at}": pa.array(LEVELS[texts[:, at]]) for at in range(categories)}
        return LossRows(features, losses), inside

    old, _ = table(held_out, False)
    new, inside = table(rows, worse)
    return PlantedSegment(old, new, inside, f"{task}, {' and '.join(kinds)}, {share:.0%}, {more:.2g} more")


def f1_of(found: NDArray[np.bool_], inside: NDArray[np.bool_]) -> float:
    both = int((found & inside).sum())
    return 2 * both / max(int(found.sum() + inside.sum()), 1)
