"""Whether a model does worse than it did on data held out in training, by more than chance explains."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

from mooring.drift.baseline import HeldOut
from mooring.performance.measures import LabelledRows, errors_of, evaluate, losses, primary
from mooring.performance.permutation import p_value_of
from mooring.status import Severity

MIN_EFFECT = 0.05
"""By what share the primary measure has to be worse for an alarm; of accuracy it is the share of errors."""
LARGE = 0.25
"""From which share on an alarm is critical."""
KEPT = 5000
LEAST_ROWS = 30


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

    By a one-sided permutation test of the mean loss, as `p_value_of` says; a request counts once, with the mean of
    its rows. Where the new rows have no probabilities, or the old ones had none, errors are counted instead. Rows
    of a class that the baseline never had are left out of the log loss: the model could give it no probability.
    `judge_unknown_classes` is about those. Raises ValueError where no others are left.

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
    tested = scored.only(~scored.unknown) if measure == "log_loss" else scored
    if not tested.rows:
        raise ValueError("no row is of a class that the baseline has")
    new = errors_of(tested) if measure == "accuracy" else losses(tested)
    found = p_value_of(old, new, tested.groups, seed, enough=budget)
    value, was = evaluate(scored)[measure], reference.measures[measure]
    worse = _worse(measure, was, value)
    return LossTest(severity_of_loss(found, budget, worse, floors=floors), found, measure, value, was)


def effective_rows(scored: LabelledRows) -> float:
    """Return how many effective rows labelled rows have at least: n²/Σ(rows of a request)².

    >>> effective_rows(LabelledRows(np.zeros(4), np.zeros(4), np.array([0, 0, 1, 1])))
    2.0
    """
    counts = np.bincount(scored.groups)
    return float(scored.rows**2 / np.sum(counts.astype(np.float64) ** 2)) if scored.rows else 0.0


class UnknownClassTest(NamedTuple):
    """What was found of labels whose class the baseline never had: the classes, and the share of rows of them.

    `p_value` is how probable it is that held-out rows had none of them, and so many new ones do, by chance.
    """

    status: Severity
    p_value: float
    rate: float
    classes: tuple[str, ...]


def judge_unknown_classes(
    reference: HeldOut, scored: LabelledRows, budget: float, *, floors: bool = True
) -> UnknownClassTest | None:
    """Return how labels stand whose class the baseline never had, None where there are none.

    If nothing changed, held-out and new rows are in any order: the probability that all u rows of a class are
    among the k new ones, and none among the N held-out ones, is C(k, u) / C(N + k, u). The smallest of all
    classes counts, times the number of all classes (Bonferroni). Each request counts as one row, which is of a
    class by the share of its rows. How bad it is goes by the errors that the rows add, as for the share of errors.

    >>> labels, said, groups = np.arange(90) % 2, np.arange(90) % 3 % 2, np.arange(90)
    >>> before = held_out(LabelledRows(labels, said, groups, None, ("a", "b")), "")
    >>> rows = LabelledRows(np.arange(90) % 3, labels, groups, None, ("a", "b", "c"), known=2)
    >>> found = judge_unknown_classes(before, rows, 0.001)
    >>> found.status, round(found.rate, 2), found.classes
    ('critical', 0.33, ('c',))
    """
    unknown = scored.unknown
    if not unknown.any() or scored.classes is None:
        return None
    sizes = np.bincount(scored.groups)
    shares = 1 / sizes[scored.groups[unknown]]
    labels, places = np.unique(scored.labels[unknown], return_inverse=True)
    most = float(np.floor(np.bincount(places, shares).max() + 1e-9))
    log_p_value = _log_choose(len(sizes), most) - _log_choose(reference.rows + len(sizes), most)
    p_value = min(1.0, len(scored.classes) * float(np.exp(log_p_value)))
    added = float(errors_of(scored)[unknown].sum()) / scored.rows
    was = reference.measures["accuracy"]
    status = severity_of_loss(p_value, budget, _worse("accuracy", was, was - added), floors=floors)
    names = tuple(scored.classes[at] for at in labels.tolist())
    return UnknownClassTest(status, p_value, float(unknown.mean()), names)


def _log_choose(count: float, chosen: float) -> float:
    return float(special.gammaln(count + 1) - special.gammaln(chosen + 1) - special.gammaln(count - chosen + 1))


def severity_of_loss(p_value: float, budget: float, worse: float, *, floors: bool = True) -> Severity:
    """Return how bad it is that performance is worse by a share, where so much by chance is so probable."""
    if p_value > budget or worse <= 0 or (floors and worse < MIN_EFFECT):
        return "ok"
    return "critical" if worse >= LARGE else "warning"


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
