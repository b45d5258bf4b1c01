"""Tables in which one feature moves and changes the loss, while others move that do not matter to it."""

from __future__ import annotations

from itertools import permutations, product
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mooring.estimation.loss_model import LossRows

Floats = NDArray[np.float64]
LEVELS = np.array(["DE", "FR", "IT", "PL", "ES"])


class Table:
    """A table drawn at random: which features there are, which of them matter, and which move.

    The first feature is the cause, numbers or texts. The next two matter and stay, the fourth moves and does not
    matter. Numbers share a factor, which the shift leaves alone.
    """

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng([seed, 5])
        self.task = ("classification", "regression")[seed % 2]
        self.category = seed // 2 % 2 == 1
        self.direction = (-1.0, 1.0)[seed // 4 % 2]
        self.features = int(random.integers(5, 31))
        self.shared = float(random.choice([0.0, 0.3, 0.6]))
        self.size = float(random.uniform(0.5, 1.2))
        self.effects = np.zeros(self.features)
        self.effects[:3] = random.uniform(0.7, 1.1), *random.uniform(0.2, 0.7, size=2)
        self.seed = seed

    def values(self, rows: int, size: float, random: np.random.Generator) -> Floats:
        """Return scores, of texts as of numbers: an array (rows, features)."""
        factor = random.normal(size=(rows, 1))
        x = np.sqrt(self.shared) * factor + np.sqrt(1 - self.shared) * random.normal(size=(rows, self.features))
        x[:, 0] += self.direction * size
        x[:, 3] += size
        return x

    def seen(self, x: Floats) -> Floats:
        """Return what of the scores can be seen: of a category's no more than that."""
        found = x.copy()
        if self.category:
            found[:, 0] = np.searchsorted([-0.8, -0.2, 0.3, 0.9], x[:, 0]) - 2.0
        return found

    def expected(self, x: Floats) -> Floats:
        """Return the loss that is expected of rows."""
        z = self.seen(x) @ self.effects
        if self.task == "classification":
            return np.asarray(1 / (1 + np.exp(1.5 - z)), np.float64)
        return np.asarray(np.exp(0.6 * np.clip(z, -4, 4)), np.float64)

    def rows(self, rows: int, size: float, random: np.random.Generator) -> LossRows:
        x = self.values(rows, size, random)
        mean = self.expected(x)
        if self.task == "classification":
            losses = (random.random(rows) < mean).astype(float)
        else:
            losses = mean * random.normal(size=rows) ** 2
        features = {f"x{at}": pa.array(x[:, at]) for at in range(self.features)}
        if self.category:
            features["x0"] = pa.array(LEVELS[(self.seen(x)[:, 0] + 2).astype(int)])
        return LossRows(features, losses)

    def parts(self) -> tuple[float, list[float]]:
        """Return the change in expected loss that the move makes, and what of it each feature that matters has."""
        random = np.random.default_rng([self.seed, 6])
        old, new = (self.values(100_000, size, random) for size in (0.0, self.size))
        means = {}
        for chosen in product((False, True), repeat=3):
            x = old.copy()
            for at in range(3):
                x[:, at] = new[:, at] if chosen[at] else old[:, at]
            means[chosen] = float(self.expected(x).mean())
        shares = np.zeros(3)
        for order in permutations(range(3)):
            chosen = [False] * 3
            for at in order:
                before = means[tuple(chosen)]
                chosen[at] = True
                shares[at] += (means[tuple(chosen)] - before) / 6
        return means[True, True, True] - means[False, False, False], shares.tolist()


class Planted(NamedTuple):
    table: Table
    held_out: LossRows
    window: LossRows


def planted(seed: int, held_out: int = 2000, rows: int = 2000, moved: bool = True) -> Planted:
    table = Table(seed)
    random = np.random.default_rng([seed, 7])
    return Planted(table, table.rows(held_out, 0.0, random), table.rows(rows, table.size * moved, random))
