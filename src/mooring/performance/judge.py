"""Whether a model does worse than it did on data held out in training, by more than chance explains."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

from mooring.drift.baseline import HeldOut
from mooring.drift.null import tail_p_value
from mooring.performance.measures import Floats, LabelledRows, evaluate, losses, primary
from mooring.performance.scored import Integers
from mooring.status import Severity

MIN_EFFECT = 0.05
"""By what share the primary measure has to be worse for an alarm; of accuracy it is the share of errors."""
LARGE = 0.25
"""From which share on an alarm is critical."""
KEPT = 5000
LEAST_ROWS = 30
_DRAWS = (1000, 4000)
_PLAIN = 20
_CELLS = 4_000_000


class LossTest(NamedTuple):
    """What was found of a window: how it stands, and how probable one as bad is without any change.

    `measure` is what was judged, `value` what it is and `reference` what it was on held-out data.
    """

    status: Severity
    p_value: float
    measure: str
    value: float
    reference: float

    @property
    def change(self) -> float:
        """By what share it is worse than before; of accuracy by what share there are more errors."""
        return _worse(self.measure, self.reference, self.value)


def held_out(scored: LabelledRows, about: str, seed: int = 0) -> HeldOut:
    """Return what a baseline keeps of held-out rows: the measures, and the losses of at most 5,000 rows."""
    found = losses(scored)
    if len(found) > KEPT:
        found = found[np.sort(np.random.default_rng(seed).choice(len(found), KEPT, replace=False))]
    return HeldOut(
        task=scored.task,
        classes=scored.classes,
        measure=primary(scored),
        measures=evaluate(scored),
        losses=found,
        rows=scored.rows,
        about=about,
    )


def judge(
    reference: HeldOut, scored: LabelledRows, budget: float, seed: int = 0, *, floors: bool = True
) -> LossTest:
    """Return how labelled rows stand against held-out ones.

    Parameters
    ----------
    reference
        The held-out rows.
    scored
        The labelled rows. Those of one request are not independent.
    budget
        The probability with which rows of a model that does as well as before may alarm.
    seed
        The same seed gives the same result.
    floors
        Whether what is worse by less than 5 % is passed over.

    By a one-sided permutation test of the mean loss: losses of held-out rows and of new requests are pooled, and
    as many as there are new ones drawn from them without replacement, again and again. A request counts once, with
    the mean loss of its rows: that is exact where they are alike, and cautious where they are not. Where the new
    rows have no probabilities, or the old ones had none, errors are counted instead.

    >>> random = np.random.default_rng(0)
    >>> labels, rows = random.normal(size=600), np.arange(600)
    >>> reference = held_out(LabelledRows(labels, labels + random.normal(0, 1.0, 600), rows), "")
    >>> judge(reference, LabelledRows(labels, labels + random.normal(0, 1.5, 600), rows), 0.001).status
    'critical'
    """
    measure = reference.measure if reference.measure == primary(scored) or scored.classes is None else "accuracy"
    old = reference.losses
    if measure != reference.measure:
        wrong = round((1 - reference.measures["accuracy"]) * len(old))
        old = np.repeat([1.0, 0.0], [wrong, len(old) - wrong])
    new = losses(scored._replace(probabilities=scored.probabilities if measure == "log_loss" else None))
    found = p_value_of(old, of_requests(new, scored.groups), seed, enough=budget)
    value, was = evaluate(scored)[measure], reference.measures[measure]
    worse = _worse(measure, was, value)
    status: Severity = "ok"
    if found <= budget and worse > 0 and (worse >= MIN_EFFECT or not floors):
        status = "critical" if worse >= LARGE else "warning"
    return LossTest(status, found, measure, value, was)


def effective_rows(scored: LabelledRows) -> float:
    """Return how many effective rows labelled rows have at least: n²/Σ(rows of a request)².

    >>> effective_rows(LabelledRows(np.zeros(4), np.zeros(4), np.array([0, 0, 1, 1])))
    2.0
    """
    counts = np.bincount(scored.groups)
    return float(scored.rows**2 / np.sum(counts.astype(np.float64) ** 2)) if scored.rows else 0.0


def p_value_of(old: Floats, new: Floats, seed: int = 0, *, enough: float = 0.0) -> float:
    """Return the p-value of the mean loss of `new`: how probable one as large is, if both are of one distribution.

    Losses that are 0 or 1 are counted, which is exact: the hypergeometric distribution. Else more draws are made
    where it is not plain yet on which side of `enough` it is.
    """
    random = np.random.default_rng(seed)
    size, pool = len(new), np.concatenate([old, new])
    if np.isin(pool, (0.0, 1.0)).all():
        from scipy import stats  # a second to import, which each command that reads a state would take

        wrong = round(float(new.sum()))
        return float(stats.hypergeom.sf(wrong - 1, len(pool), round(float(old.sum())) + wrong, size))
    drawn = np.empty(0)
    observed = new.mean(keepdims=True)
    found = 1.0
    for draws in _DRAWS:
        drawn = np.concatenate([drawn, _means(pool, size, draws - len(drawn), random)])
        scores = _Scores.fit(drawn)
        found = tail_p_value(scores.of(drawn), float(scores.of(observed)[0]))
        if found * draws >= _PLAIN and abs(found - enough) > 5 * np.sqrt(found / draws):
            break
    return found


def of_requests(found: Floats, groups: Integers) -> Floats:
    """Return the mean loss of each request.

    >>> of_requests(np.array([1.0, 3.0, 5.0]), np.array([0, 0, 1]))
    array([2., 5.])
    """
    return np.asarray(np.bincount(groups, found) / np.bincount(groups), np.float64)


def _means(pool: Floats, size: int, draws: int, random: np.random.Generator) -> Floats:
    """Return means of `size` of the pool, drawn without replacement; what is drawn is the smaller part."""
    rest = len(pool) - size
    few = min(size, rest)
    sums = np.empty(draws)
    step = max(1, _CELLS // len(pool))
    for first in range(0, draws, step):
        count = min(step, draws - first)
        keys = random.random((count, len(pool)), np.float32)
        chosen = (
            np.argpartition(keys, few, axis=1)[:, :few] if few < len(pool) else np.tile(np.arange(few), (count, 1))
        )
        sums[first : first + count] = pool[chosen].sum(axis=1)
    return (sums if few == size else float(pool.sum()) - sums) / size


class _Scores(NamedTuple):
    """Scores of means by a gamma distribution of their mean, spread and skewness (Pearson's type III)."""

    mean: float
    spread: float
    skew: float

    @classmethod
    def fit(cls, drawn: Floats) -> _Scores:
        mean, spread = float(drawn.mean()), float(drawn.std())
        if spread <= 1e-12 * abs(mean):
            return cls(mean, 0.0, 0.0)
        return cls(mean, spread, float(np.mean(((drawn - mean) / spread) ** 3)))

    def of(self, values: Floats) -> Floats:
        """Return about -ln of the probability of such a mean or a larger one."""
        if self.spread == 0:
            return np.where(values > self.mean * (1 + 1e-9), 700.0, 0.0)
        z = (values - self.mean) / self.spread
        if self.skew < 0.02:
            return np.asarray(-special.log_ndtr(-z))
        shape = 4 / self.skew**2
        scaled = np.maximum(shape + z * np.sqrt(shape), 0.0)
        p_value = special.gammaincc(shape, scaled)
        far = scaled - (shape - 1) * np.log(np.maximum(scaled, 1e-300)) + special.gammaln(shape)
        near = -np.log(np.maximum(p_value, 1e-300))
        return np.asarray(np.where(p_value > 1e-290, near, np.maximum(far, 660.0)), np.float64)


def _worse(measure: str, reference: float, now: float) -> float:
    """Return by what share a measure is worse; of accuracy the share of errors counts.

    >>> _worse("rmse", 2.0, 2.5), round(_worse("accuracy", 0.9, 0.85), 6)
    (0.25, 0.5)
    """
    if measure == "accuracy":
        reference, now = 1 - reference, 1 - now
    if now == reference:
        return 0.0
    return (now - reference) / reference if reference > 0 else float("inf")
