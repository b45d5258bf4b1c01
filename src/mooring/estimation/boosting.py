"""Small boosted trees, cross-fit: one fit a fold, as many trees as the other rows say are worth having."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mooring.performance.scored import Floats, Integers, LabelledRows

FOLDS = 10
STAGES = (10, 30, 60)
"""Numbers of trees that are tried."""
MOST_ROWS = 20_000
"""The trees of a fold are grown on no more rows, drawn anew for each: together they see more."""
_SETTINGS: dict[str, Any] = {
    "max_iter": STAGES[-1],
    "learning_rate": 0.1,
    "max_leaf_nodes": 8,
    "min_samples_leaf": 50,
    "l2_regularization": 1.0,
    "early_stopping": False,
    "random_state": 0,
}


def folds_of(groups: Integers, seed: int) -> Integers:
    """Return a fold for each row; rows of one request are of one fold.

    >>> [int(count) for count in np.bincount(folds_of(np.arange(100), 0))]
    [10, 10, 10, 10, 10, 10, 10, 10, 10, 10]
    """
    count = int(groups.max()) + 1
    of_groups = np.random.default_rng(seed).permutation(count) % FOLDS
    return np.asarray(of_groups[groups], np.int64)


class Learning(NamedTuple):
    """What expectations are learnt from: labelled rows, their features, folds, and which rows count as evidence.

    Features that were chosen for what they say of some rows are judged by the others.
    """

    scored: LabelledRows
    features: Floats
    categorical: Sequence[bool]
    folds: Integers
    evidence: NDArray[np.bool_]
    seed: int = 0


class BoostedTrees:
    """A sum of small trees for each fold, grown on rows of the other folds, of as many trees as are worth having.

    It is the smallest number of trees whose loss, on rows that they were not grown on, is above the least by no
    more than the standard error of the difference (Breiman et al. 1984, section 3.4.3). So there are none where
    features add nothing that can be told from chance: then the target's mean is predicted.

    Parameters
    ----------
    learning
        The rows, their features and folds.
    target
        What is to be predicted of each row, by each fold's model: an array (folds, rows).
    losses
        Gives the loss of each row for a prediction of each. Those of one request count together.
    loss
        `squared_error`, or `poisson` for what is never negative: trees then multiply, which suits errors whose
        size differs by orders of magnitude.

    `unseen` is what is predicted of each row by the model that has not seen it.

    """

    def __init__(
        self,
        learning: Learning,
        target: Floats,
        losses: Callable[[Floats], Floats],
        loss: Literal["squared_error", "poisson"] = "squared_error",
    ) -> None:
        from sklearn.ensemble import HistGradientBoostingRegressor

        folds, rows = learning.folds, np.arange(learning.scored.rows)
        random = np.random.default_rng(learning.seed)
        self._times = loss == "poisson"
        self._means = [float(target[fold][folds != fold].mean()) for fold in range(FOLDS)]
        self._models = []
        unseen = np.empty((len(STAGES) + 1, len(rows)))
        unseen[0] = np.array(self._means)[folds]
        for fold in range(FOLDS):
            own, others = folds == fold, np.flatnonzero(folds != fold)
            if len(others) > MOST_ROWS:
                others = np.sort(random.choice(others, MOST_ROWS, replace=False))
            model = HistGradientBoostingRegressor(
                loss=loss, categorical_features=learning.categorical, **_SETTINGS
            )
            self._models.append(model.fit(learning.features[others], target[fold][others]))
            unseen[1:, own] = _staged(model, learning.features[own])
        # Trees have the mean of the rows that were drawn: without this all would be off by what that is off.
        truth = target[folds, rows]
        self._levels = [self._level(found, truth) for found in unseen[1:]]
        unseen[1:] = [self._at(found, level) for found, level in zip(unseen[1:], self._levels, strict=True)]
        # Of models that were grown on fewer rows each, the whole is surer than their spread says: as the delete-d
        # jackknife has it (Shao and Wu 1989), and by the number of models.
        some = len(rows) * (1 - 1 / FOLDS) > MOST_ROWS
        share = MOST_ROWS / len(rows) if some else 1 - 1 / FOLDS
        of_whole = share / (1 - share) + some / FOLDS
        self._shrink = min(float(np.sqrt(of_whole / (FOLDS - 1))), 1.0)
        place = _smallest([losses(found) * learning.evidence for found in unseen], learning)
        self.stage = (0, *STAGES)[place]
        self.unseen = np.asarray(unseen[place], np.float64)
        if not place:
            self._models.clear()

    def predict(self, features: Floats) -> Floats:
        """Return what each fold's model predicts of rows: an array (folds, rows)."""
        if not self.stage:
            return np.repeat(np.array(self._means)[:, None], len(features), axis=1)
        last = self.stage - 1
        found = np.stack([next(islice(model.staged_predict(features), last, None)) for model in self._models])
        mean = found.mean(axis=0)
        return self._at(mean + self._shrink * (found - mean), self._levels[STAGES.index(self.stage)])

    def _level(self, found: Floats, truth: Floats) -> float:
        return float(truth.sum() / found.sum() if self._times else (truth - found).mean())

    def _at(self, found: Floats, level: float) -> Floats:
        return found * level if self._times else found + level


def _staged(model: Any, features: Floats) -> list[Floats]:
    """Return what a model predicts with each number of trees."""
    found: dict[int, Floats] = {
        at: values for at, values in enumerate(model.staged_predict(features), 1) if at in STAGES
    }
    return list(found.values())


def _smallest(losses: Sequence[Floats], learning: Learning) -> int:
    """Return the place of the first losses whose mean is above the least by no more than its standard error."""
    groups = learning.scored.groups
    counts = np.bincount(groups, learning.evidence).astype(np.float64)
    sums = [np.bincount(groups, one).astype(np.float64) for one in losses]
    best = min(sums, key=lambda one: float(one.sum()))
    return next(at for at, one in enumerate(sums) if not _exceeds_error(one - best, counts))


def _exceeds_error(excess: Floats, counts: Floats) -> bool:
    """Return whether the mean of sums of so many rows each is above 0 by more than its standard error."""
    rows = counts.sum()
    mean = float(excess.sum() / rows)
    return mean > float(np.sqrt(((excess - mean * counts) ** 2).sum()) / rows)
