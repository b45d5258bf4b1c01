"""How sure a measure is: the bootstrap, which draws the requests of labelled rows again and again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mooring.performance.measures import MEASURES, Floats, LabelledRows, areas_of, weighted

_CELLS = 4_000_000
_MOST_AREAS = 100_000_000


def intervals(
    scored: LabelledRows, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return for each measure the interval in which it lies with probability `level`.

    Whole requests are drawn with replacement, and the interval is between percentiles of what they give. A measure
    that is defined in fewer than half of the draws has none, nor has `roc_auc` of so many classes and rows that it
    would take more than some ten seconds.

    >>> random = np.random.default_rng(0)
    >>> scored = LabelledRows(random.normal(size=400), np.zeros(400), np.arange(400))
    >>> low, high = intervals(scored)["rmse"]
    >>> 0.9 < low < 1 < high < 1.1
    True

    References
    ----------
    Efron, B. and Tibshirani, R. (1993). An Introduction to the Bootstrap, chapter 13.

    """
    if not scored.rows:
        return {}
    areas = areas_of(scored) * scored.rows * draws <= _MOST_AREAS
    parts = [weighted(scored, weights, areas=areas) for weights in drawn(_groups(scored), draws, seed)]
    found = {}
    for name in parts[0]:
        values = np.concatenate([part[name] for part in parts])
        values = values[np.isfinite(values)]
        if len(values) * 2 >= draws:
            low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
            found[name] = float(low), float(high)
    return found


def paired(a: LabelledRows, b: LabelledRows, measure: str, draws: int = 2000, seed: int = 0) -> Floats:
    """Return by what share of a's value b is better, in each draw of the same requests; less than 0 is worse.

    Of what is better when it is less, that is by how much it is less. `a` and `b` are two models' predictions of
    the same rows in the same order. nan where the measure is not defined in a draw, infinite where a's value is 0.
    Raises ValueError where the rows are not the same, and KeyError for a measure that they do not have.

    >>> random = np.random.default_rng(0)
    >>> labels, rows = random.normal(size=400), np.arange(400)
    >>> worse, better = (LabelledRows(labels, labels + random.normal(0, noise, 400), rows) for noise in (1.0, 0.8))
    >>> bool(0.1 < np.median(paired(worse, better, "rmse")) < 0.3)
    True
    """
    if a.rows != b.rows or not (a.groups == b.groups).all():
        raise ValueError("the two are not of the same rows, so they can't be compared in pairs")
    found = []
    for weights in drawn(_groups(a), draws, seed):
        before, after = weighted(a, weights)[measure], weighted(b, weights)[measure]
        found.append(improvement(before, after, measure))
    return np.concatenate(found)


def improvement(before: Floats, after: Floats, measure: str) -> Floats:
    """Return by what share of `before` `after` is better.

    >>> improvement(np.array([2.0]), np.array([1.5]), "rmse"), improvement(np.array([0.5]), np.array([0.6]), "f1")
    (array([0.25]), array([0.2]))
    """
    better = MEASURES[measure].better
    if better == "nearer 0":
        before, after = np.abs(before), np.abs(after)
    gain = after - before if better == "higher" else before - after
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(gain == 0, 0.0, gain / np.abs(before)), np.float64)


def _groups(scored: LabelledRows) -> int:
    return int(scored.groups.max()) + 1


def drawn(groups: int, draws: int, seed: int) -> Iterator[Floats]:
    """Yield how often each group is drawn, some of the draws at a time."""
    random = np.random.default_rng(seed)
    step = max(1, _CELLS // groups)
    for first in range(0, draws, step):
        count = min(step, draws - first)
        chosen = random.integers(groups, size=(count, groups)) + np.arange(count)[:, None] * groups
        yield np.bincount(chosen.ravel(), minlength=count * groups).reshape(count, groups).astype(np.float64)
