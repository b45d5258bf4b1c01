"""How much of a window lies where there are held-out rows, by the ratio of the two densities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mooring.performance.scored import Floats

TOO_THIN = 20.0
"""Where a window's rows are so many times as dense as held-out ones, these are too few to tell anything by."""
MOST_ROWS = 5000
_FOLDS = 2
_SETTINGS: dict[str, Any] = {
    "max_iter": 40,
    "learning_rate": 0.1,
    "max_leaf_nodes": 8,
    "min_samples_leaf": 20,
    "l2_regularization": 1.0,
    "early_stopping": False,
    "random_state": 0,
}


class Support(NamedTuple):
    """Which rows of a window are outside of the held-out rows, and what share of these is like the window.

    `effective` is Kish's effective sample size of the held-out rows, weighted to be like the window, as a share of
    them: near 1 where nothing moved. `weights` are those of the held-out rows: how many times as dense the window
    is there.
    """

    outside: Floats
    effective: float
    weights: Floats


def support_of(held_out: Floats, window: Floats, categorical: Sequence[bool], seed: int = 0) -> Support:
    """Return how a window lies to held-out rows, both arrays (rows, features).

    A classifier that tells the two apart gives the ratio of their densities (Bickel et al. 2009, JMLR 10); it is
    cross-fit, so that what it knows by heart does not count. Of more than 5,000 rows of either some are drawn to
    train it.

    >>> random = np.random.default_rng(0)
    >>> held_out, same = random.normal(size=(1000, 2)), random.normal(size=(500, 2))
    >>> float(support_of(held_out, same, [False, False]).outside.mean())
    0.0
    >>> bool(support_of(held_out, same + 8, [False, False]).outside.mean() > 0.95)
    True
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    if not held_out.shape[1]:
        return Support(np.zeros(len(window)), 1.0, np.ones(len(held_out)))
    random = np.random.default_rng(seed)
    both = np.concatenate([held_out, window])
    of_window = np.arange(len(both)) >= len(held_out)
    folds = random.permutation(len(both)) % _FOLDS
    odds = np.empty(len(both))
    for fold in range(_FOLDS):
        old, new = (_some(np.flatnonzero((folds != fold) & (of_window == side)), random) for side in (False, True))
        rows = np.concatenate([old, new])
        model = HistGradientBoostingClassifier(categorical_features=categorical, **_SETTINGS)
        model.fit(both[rows], of_window[rows])
        shares = model.predict_proba(both[folds == fold])[:, 1]
        odds[folds == fold] = shares / np.maximum(1 - shares, 1e-12) * len(old) / len(new)
    weights = odds[: len(held_out)]
    effective = float(weights.sum() ** 2 / (weights**2).sum() / len(weights))
    return Support(np.asarray(odds[len(held_out) :] > TOO_THIN, np.float64), effective, weights)


def _some(rows: Any, random: np.random.Generator) -> Any:
    return rows if len(rows) <= MOST_ROWS else random.choice(rows, MOST_ROWS, replace=False)
