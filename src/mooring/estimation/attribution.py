"""Because of what the loss changed: inputs that moved, or what they mean; and which features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

from mooring.estimation.boosting import FOLDS, folds_of
from mooring.estimation.intervals import LEVEL
from mooring.estimation.loss_model import Encoded, EncodedRows, LossModel, LossRows, encode, too_thin
from mooring.estimation.resampling import LossPart, drawn_sums, part_of
from mooring.estimation.support import TOO_THIN, support_of
from mooring.performance.scored import Floats, Integers

MOST_PLAYERS = 10
"""So many features are told apart, those that change the expected loss most; the others are one together."""
FALSE_CAUSE = 0.05
"""How probable it is, where nothing moved, that any feature is named."""
OTHERS = "all other features"
_PAIRS = 2000
_SCREEN_PAIRS, _SCREENED_AT_ONCE = 400, 10


class FeaturePart(NamedTuple):
    """What one feature has of a change.

    `p_value` is how probable so much is by chance, with all features paid for (Holm 1979). `named` says whether it
    is at most 5 %: a feature that is not named is not told from noise.
    """

    feature: str
    value: float
    lower: float
    upper: float
    p_value: float

    @property
    def named(self) -> bool:
        """Whether it is told from noise."""
        return self.p_value <= FALSE_CAUSE

    def __str__(self) -> str:
        return f"{self.feature} {self.value:+.4g} ({self.lower:+.4g} to {self.upper:+.4g})"


class Attribution(NamedTuple):
    """A change in mean loss, divided; printed, it says what is told from chance.

    Attributes
    ----------
    total
        The mean loss of the window less that of the held-out rows; None where labels lack and it can't be told.
    inputs
        What of it comes of inputs that moved, as if they meant what they did. None where it can't be told.
    relation
        What of it comes of another loss for the same inputs: what they mean has changed. None without labels.
    by_feature
        The inputs part by feature, those that are told from noise first, then by size. They add up to it.
    relation_by_feature
        Which features say where the relation changed: of what the change varies between rows, the share that goes
        with each.
    rows, held_out_rows
        How many there are of each, with losses where those are known.
    out_of_support, effective_rows
        As `Estimates` has them.
    unknown
        Why inputs and relation can't be told apart; empty where they can.
    left_out
        Columns that are not used, and why.

    """

    total: LossPart | None
    inputs: LossPart | None
    relation: LossPart | None
    by_feature: list[FeaturePart]
    relation_by_feature: list[FeaturePart]
    rows: int
    held_out_rows: int
    measured: bool
    out_of_support: float
    effective_rows: float
    unknown: str
    left_out: dict[str, str]

    @property
    def named(self) -> list[FeaturePart]:
        """The features whose move changed the loss by more than chance explains."""
        return [one for one in self.by_feature if one.named]

    def __str__(self) -> str:
        lines = []
        if self.total is not None:
            how = "measured" if self.measured else "estimated"
            chance = "" if self.total.beyond_chance else "; chance explains it"
            lines.append(f"Loss {self.total}, {how} on {self.rows:,} rows{chance}")
        if self.unknown:
            lines.append(f"Can't tell because of what: {self.unknown}.")
            return "\n".join(lines)
        lines.append(f"  because inputs moved: {self.inputs}")
        if self.by_feature:
            lines += [f"    {one}" for one in self.named] or ["    no feature is told from noise"]
        else:
            lines.append("    features say nothing of the loss of held-out rows, so none is named")
        if self.relation is None:
            lines.append("  because inputs mean something else: not known without labels")
            return "\n".join(lines)
        lines.append(f"  because inputs mean something else: {self.relation}")
        lines += [
            f"    {one.feature} says {one.value:.0%} of where ({one.lower:.0%} to {one.upper:.0%})"
            for one in self.relation_by_feature
            if one.named
        ]
        return "\n".join(lines)


def attribute(held_out: LossRows, window: LossRows, *, named: bool = False, seed: int = 0) -> Attribution:
    """Divide the change in mean loss between held-out rows and a window.

    Parameters
    ----------
    held_out
        Rows with losses that the model was not trained on.
    window
        Later rows. Where some of them have losses, all that is said is of these rows.
    named
        Whether somebody named the features: else integers that number the rows are none.
    seed
        The same seed gives the same result.

    The inputs part is E_window[m(x)] - E_held-out[m(x)], where m(x) is the loss of held-out rows with the inputs
    x; the relation part is E_window[loss - m(x)]. m is learnt by trees and a trend (`LossModel`); what they get
    wrong is taken out by held-out rows, weighted to be like the window (`support_of`, then `balanced`): the
    estimate is right where either m or the weights are. Intervals are by bootstrap over requests of both.

    By feature it is the Shapley value of v(S), the mean of m with the features of S from the window and the rest
    from held-out rows; over pairs of a row of each, and orders drawn at random, each with its reverse: so features
    that depend on each other give 0 where nothing moved. A feature that moved because another did counts for what
    it means to the loss itself: which of two caused the other is not known. What m misses is added in proportion.
    Intervals have what both samples vary by (by request, two-way: Cameron, Gelbach and Miller 2011), and what m
    does (delete-a-group jackknife over folds of requests). The ten features that matter most are told apart.

    Which features say where the relation changed is only asked where the relation part is beyond chance.

    Raises EstimationError where there is too little to go by: fewer than 100 held-out rows or 30 of the window, no
    feature, the same loss everywhere.

    >>> import pyarrow as pa
    >>> random = np.random.default_rng(0)
    >>> def rows(count, low):
    ...     x = {"x": random.uniform(low, 1, count), "other": random.random(count)}
    ...     return LossRows({name: pa.array(one) for name, one in x.items()}, random.exponential(1 + 4 * x["x"]))
    >>> found = attribute(rows(2000, 0.0), rows(1000, 0.6))
    >>> found.named[0].feature, found.inputs.beyond_chance, found.relation.beyond_chance
    ('x', True, False)

    References
    ----------
    Zhang, Singh, Ghassemi and Joshi (2023). "Why did the model fail?": attributing model performance changes to
    distribution shifts. arXiv 2210.10769. Its games are by a causal graph, which is not known here.
    Feng et al. (2024). A hierarchical decomposition for explaining ML performance discrepancies. arXiv 2402.14254.
    Sundararajan and Najmi (2020). The many Shapley values for model explanation. arXiv 1908.08474.
    Chernozhukov et al. (2018). Double/debiased machine learning. The Econometrics Journal 21(1).

    """
    rows = encode(held_out, window, named=named, seed=seed)
    old, new = rows.held_out, rows.window
    categorical = rows.encoder.categorical
    support = support_of(old.matrix, new.matrix, categorical, seed)
    outside, effective = float(support.outside.mean()), support.effective * len(old.losses)
    unknown = too_thin(outside, effective)
    model = LossModel(old, categorical, seed)
    of_folds = model.predict(new.matrix)
    expected = of_folds.mean(axis=0)
    weights = model.weights_like(np.minimum(support.weights, TOO_THIN), old.matrix, new.matrix)
    parts = _parts(rows, model, of_folds, weights, seed)
    found = Attribution(
        total=parts.total if rows.measured else None,
        inputs=None,
        relation=None,
        by_feature=[],
        relation_by_feature=[],
        rows=len(new.losses),
        held_out_rows=len(old.losses),
        measured=rows.measured,
        out_of_support=outside,
        effective_rows=effective,
        unknown=unknown,
        left_out=dict(rows.encoder.left_out),
    )
    if unknown:
        return found
    by_feature = _by_feature(rows, model, parts, seed) if model.by_features else []
    found = found._replace(inputs=parts.inputs, by_feature=by_feature)
    if not rows.measured:
        return found._replace(total=parts.inputs)
    where = []
    if parts.relation.beyond_chance:
        changes = new._replace(losses=new.losses - expected)
        where = _where(changes, old.losses - model.unseen, weights, rows, seed)
    return found._replace(relation=parts.relation, relation_by_feature=where)


class _Parts(NamedTuple):
    """The total and its parts; without labels only that of the inputs means something.

    `variance` is that of what held-out rows say that the model misses.
    """

    total: LossPart
    inputs: LossPart
    relation: LossPart
    variance: float


def _parts(rows: Encoded, model: LossModel, of_folds: Floats, weights: Floats, seed: int) -> _Parts:
    old, new = rows.held_out, rows.window
    ones, expected = np.ones_like, of_folds.mean(axis=0)
    # Weights that balance a sample vary with it: by what terms of features say of what the model misses.
    more = model.missed(weights, old, new.matrix)
    left = old.losses - model.unseen
    random = np.random.default_rng([seed, 2])
    of_old = drawn_sums([ones(left), old.losses, weights, weights * left], old.groups, random)
    of_new = drawn_sums(
        [ones(expected), np.nan_to_num(new.losses), expected, more - more.mean()], new.groups, random
    )
    before, now = of_old[1] / of_old[0], of_new[1] / of_new[0]
    missed = of_old[3] / of_old[2] + of_new[3] / of_new[0]
    alike = of_new[2] / of_new[0] + missed
    # Weights make good what the model learnt wrong where both are nearly right: not where inputs moved far.
    learnt = _jackknifed(of_folds.mean(axis=1) - model.predict(old.matrix).mean(axis=1))
    alike[1:] += np.sqrt(learnt) * random.standard_normal(len(alike) - 1)
    return _Parts(part_of(now - before), part_of(alike - before), part_of(now - alike), float(missed[1:].var()))


def _jackknifed(of_folds: Floats) -> float:
    """Return the variance of an estimate, from the same by each fold's model: the delete-a-group jackknife."""
    return (FOLDS - 1) / FOLDS * float(((of_folds - of_folds.mean()) ** 2).sum())


def _by_feature(rows: Encoded, model: LossModel, parts: _Parts, seed: int) -> list[FeaturePart]:
    old, new, names = rows.held_out, rows.window, rows.encoder.names
    random = np.random.default_rng([seed, 3])
    players = _players(old.matrix, new.matrix, model, random)
    each = max(1, round(_PAIRS / len(new.losses)))
    at_new = np.tile(np.arange(len(new.losses)), each)
    at_old = np.resize(random.permutation(len(old.losses)), len(at_new))
    random.shuffle(at_old)
    found = _shapley(old.matrix[at_old], new.matrix[at_new], players, model, random)
    values = found.mean(axis=(0, 1))
    # What the model misses goes to features in proportion to what it says of them.
    missed = parts.inputs.value - float(values.sum())
    shares = np.abs(values) / max(float(np.abs(values).sum()), 1e-300)
    tested = []
    for at, columns in enumerate(players):
        of_pairs, of_folds = found[:, :, at].mean(axis=0), found[:, :, at].mean(axis=1)
        around = of_pairs - values[at]
        of_new, of_old = (_squares(around, codes) for codes in (new.groups[at_new], old.groups[at_old]))
        sampled = max(of_new + of_old - float(around @ around), of_new, of_old) / len(around) ** 2
        learnt = _jackknifed(of_folds)
        # Where a feature has all that is missed, this makes good what the trees learnt wrong.
        share = float(shares[at])
        name = names[columns[0]] if len(columns) == 1 else OTHERS
        value = float(values[at]) + share * missed
        tested.append(_tested(name, value, sampled + share**2 * parts.variance, (1 - share) ** 2 * learnt))
    return _ranked(tested, len(names))


def _players(old: Floats, new: Floats, model: LossModel, random: np.random.Generator) -> list[list[int]]:
    """Return which columns move together: each of the most important ones alone, and the others that matter."""
    start, end = (one[random.integers(len(one), size=_SCREEN_PAIRS)] for one in (old, new))
    low, high = (model.predict(one).mean(axis=0) for one in (start, end))
    moved: dict[int, float] = {}
    for some in np.array_split(np.arange(old.shape[1]), -(-old.shape[1] // _SCREENED_AT_ONCE)):
        rows = []
        for at in some:
            first, last = start.copy(), end.copy()
            first[:, at], last[:, at] = end[:, at], start[:, at]
            rows += [first, last]
        found = model.predict(np.concatenate(rows)).mean(axis=0).reshape(len(some), 2, -1)
        changes = np.stack([found[:, 0] - low, high - found[:, 1]], axis=1)
        moved |= {
            int(at): abs(float(of_it.mean())) for at, of_it in zip(some, changes, strict=True) if of_it.any()
        }
    order = sorted(moved, key=lambda at: moved[at], reverse=True)
    alone, others = order[:MOST_PLAYERS], order[MOST_PLAYERS:]
    return [[at] for at in alone] + ([others] if others else [])


def _shapley(
    start: Floats, end: Floats, players: list[list[int]], model: LossModel, random: np.random.Generator
) -> Floats:
    """Return by how much each player changes what is expected between paired rows: (folds, pairs, players).

    Each pair in an order of its own, and in the reverse of it.
    """
    count, size = len(start), len(players)
    orders = random.permuted(np.tile(np.arange(size), (count, 1)), axis=1)
    found = np.zeros((FOLDS, count, size))
    pairs = np.arange(count)
    for order in (orders, orders[:, ::-1]):
        steps = [start.copy()]
        for at in range(size):
            step = steps[-1].copy()
            for player, columns in enumerate(players):
                chosen = np.ix_(order[:, at] == player, columns)
                step[chosen] = end[chosen]
            steps.append(step)
        said = model.predict(np.concatenate(steps)).reshape(FOLDS, size + 1, count)
        for at in range(size):
            found[:, pairs, order[:, at]] += (said[:, at + 1] - said[:, at]) / 2
    return found


def _squares(around: Floats, groups: Integers) -> float:
    sums = np.bincount(groups, around)
    count = len(np.unique(groups))
    return float((sums**2).sum()) * count / max(count - 1, 1)


class _Tested(NamedTuple):
    part: FeaturePart
    p_value: float


def _tested(name: str, value: float, sampled: float, learnt: float) -> _Tested:
    """Return a feature's part with an interval: Student's t, with Satterthwaite's degrees of freedom."""
    variance = sampled + learnt
    if variance <= 0:
        return _Tested(FeaturePart(name, value, value, value, 1.0), 1.0)
    degrees = min((FOLDS - 1) * (variance / learnt) ** 2, 1e6) if learnt > 0 else 1e6
    spread = float(np.sqrt(variance))
    half = float(special.stdtrit(degrees, (1 + LEVEL) / 2)) * spread
    p_value = 2 * float(special.stdtr(degrees, -abs(value) / spread))
    return _Tested(FeaturePart(name, value, value - half, value + half, p_value), p_value)


def _ranked(parts: list[_Tested], tests: int) -> list[FeaturePart]:
    """Return parts with p-values adjusted for so many tests (Holm): what is named first, then by size."""
    adjusted, most = [], 0.0
    for at, one in enumerate(sorted(parts, key=lambda one: one.p_value)):
        most = max(most, min(1.0, one.p_value * (tests - at)))
        adjusted.append(one.part._replace(p_value=most))
    return sorted(adjusted, key=lambda one: (not one.named, -abs(one.value)))


def _where(changes: EncodedRows, before: Floats, weights: Floats, rows: Encoded, seed: int) -> list[FeaturePart]:
    """Return which features say where the relation changed.

    `changes` has the losses of the window less what was expected, `before` is the same of held-out rows, which are
    weighted to be like the window: where these are off, too, it is the model of the loss that is wrong. The share
    of a feature is how much better changes go with what trees say of them than if the feature is permuted, less
    that of the held-out rows, of the sum over features. It takes 100 requests, and rows that trees have not seen
    have to show that features say anything.
    """
    if int(changes.groups.max()) + 1 < 10 * FOLDS or not np.ptp(changes.losses):
        return []
    # By half of the requests it is chosen what the change goes with, by the others it is tested.
    tested = folds_of(changes.groups, seed) >= FOLDS // 2
    model = LossModel(changes, rows.encoder.categorical, seed, evidence=~tested)
    if not model.by_features:
        return []
    random = np.random.default_rng([seed, 4])
    old, groups = rows.held_out, changes.only(tested).groups
    said, said_before = model.unseen, model.predict(old.matrix).mean(axis=0)
    gains, losses = {}, {}
    for at in range(old.matrix.shape[1]):
        here, there = changes.matrix.copy(), old.matrix.copy()
        here[:, at], there[:, at] = random.permutation(here[:, at]), random.permutation(there[:, at])
        drop = (said - model.unseen_loss(here))[tested]
        if drop.any():
            gains[at] = changes.losses[tested] * drop
            losses[at] = weights * before * (said_before - model.predict(there).mean(axis=0))
    if not gains:
        return []
    of_new = drawn_sums([*gains.values(), np.ones(len(groups))], groups, random)
    of_old = drawn_sums([*losses.values(), weights], old.groups, random)
    draws = of_new[:-1] / of_new[-1] - of_old[:-1] / of_old[-1]
    whole = np.maximum(draws, 0).sum(axis=0)
    parts = []
    for at, of_draws in zip(gains, draws, strict=True):
        share = part_of(np.maximum(of_draws, 0) / np.where(whole > 0, whole, np.inf))
        error = float(of_draws[1:].std())
        p_value = float(special.ndtr(-of_draws[0] / error)) if error > 0 else 1.0
        parts.append(_Tested(FeaturePart(rows.encoder.names[at], *share, p_value), p_value))
    return _ranked(parts, old.matrix.shape[1])
