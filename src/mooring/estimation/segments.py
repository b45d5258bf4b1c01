"""Where it got worse: the segment of a window whose loss rose most, found on half of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mooring.estimation.conditions import MISSING, Among, Condition, Range, RowSegment, between, places_of
from mooring.estimation.estimator import LEAST_HELD_OUT
from mooring.estimation.loss_model import EncodedRows, LossModel, LossRows, encode, too_thin
from mooring.estimation.resampling import LossPart, drawn_sums, part_of
from mooring.estimation.rows import EstimationError
from mooring.estimation.support import support_of
from mooring.performance.scored import Floats, Integers

SMALLEST = 0.05
"""No segment has a smaller share of the rows that it is found by, nor has all but such a segment."""
DEPTH = 3
FALSE_SEGMENT = 0.05
"""How probable it is, where nothing changed, that a segment is confirmed."""
LEAST_REQUESTS = 10
"""A segment with fewer requests, of the window or held out, in the confirming half can't be confirmed."""
_LARGEST = 0.98
_TREES = 20
_PASSES = 3
_PERMUTATIONS = 2000
_CELLS = 4_000_000


class SegmentLosses(NamedTuple):
    """The mean loss in a segment and elsewhere, of the window and of held-out rows."""

    inside: float
    inside_before: float
    outside: float
    outside_before: float


class WorstSegment(NamedTuple):
    """The segment of a window that got worst; printed, it is told as it is read.

    Attributes
    ----------
    segment
        Its conditions; None where none stands out.
    rows, share, share_before
        How many rows of the window are in it, what share of them that is, and what share of the held-out rows.
    losses
        The mean losses, of the rows that it was not found by; None where these are too few.
    effect
        By how much more the loss rose inside than outside, by the same rows. Without labels: by how much
        the mean over all rows rose of what losses in it are above the mean of held-out rows.
    p_value
        How probable such an effect is by chance, by the same rows: that the segment was searched is paid for.
    measured
        Whether losses are measured; else they are what held-out rows lead to expect.
    unknown
        Why nothing is confirmed, where that is not for the p-value.

    """

    segment: RowSegment | None
    rows: int
    share: float
    share_before: float
    losses: SegmentLosses | None
    effect: LossPart | None
    p_value: float
    measured: bool
    unknown: str

    @property
    def confirmed(self) -> bool:
        """Whether the rows that it was not found by confirm it, at 5 %."""
        return self.p_value <= FALSE_SEGMENT

    def __str__(self) -> str:
        if self.segment is None:
            return f"{self.unknown[:1].upper()}{self.unknown[1:]}."
        text = f"{self.segment}: {self.rows:,} rows ({self.share:.0%}, before {self.share_before:.0%})"
        if self.losses is None:
            return f"Not confirmed: {text}; {self.unknown}."
        inside, inside_before, outside, outside_before = self.losses
        text += (
            f", {'' if self.measured else 'estimated '}loss {inside:.4g} (before {inside_before:.4g}), elsewhere "
            f"{outside:.4g} (before {outside_before:.4g}); {self.effect}, p = {self.p_value:.2g}"
        )
        return text if self.confirmed else f"Not confirmed: {text}."


def worst_segment(held_out: LossRows, window: LossRows, *, named: bool = False, seed: int = 0) -> WorstSegment:
    """Search the segment of a window that got worst, and test it.

    Parameters
    ----------
    held_out
        Rows with losses that the model was not trained on.
    window
        Later rows; where some have losses, all that is said is of these. Without any, it is the loss that held-out
        rows lead to expect (`LossModel`): the segment is then that by which moved inputs raised it most, be it
        that it has more rows than before, or worse ones.
    named
        Whether somebody named the features: else integers that number the rows are none.
    seed
        The same seed gives the same result.

    Requests are split in halves. By one, small trees are grown on what each row's loss is above what was expected
    of it, texts in the order of that; of all their nodes that one is taken whose rows differ most from the others,
    with a price for each condition, and its limits are searched again one by one. By the other half it is tested:
    a permutation test over requests, of the studentised difference in differences of mean losses (Chung and
    Romano 2013, Annals of Statistics 41(2)): a window that got worse everywhere alike has no worst segment.
    Without labels it is of the segment's part in what losses are above the mean of held-out rows.

    Raises EstimationError where there is too little to go by: fewer than 200 held-out rows or rows of the window,
    no feature, the same loss everywhere.

    >>> import pyarrow as pa
    >>> random = np.random.default_rng(0)
    >>> def rows(count, more):
    ...     x = {"age": random.uniform(20, 60, count), "country": random.choice(["DE", "FR", "PL"], count)}
    ...     bad = (x["age"] > 41.5) & (x["country"] == "FR")
    ...     losses = random.exponential(1 + more * bad)
    ...     return LossRows({name: pa.array(one) for name, one in x.items()}, losses)
    >>> found = worst_segment(rows(1000, 0), rows(1000, 3))
    >>> found.segment.conditions[1], found.confirmed
    ('country in {FR}', True)

    References
    ----------
    Breiman, L., Friedman, J., Olshen, R. and Stone, C. (1984). Classification and Regression Trees.
    Athey, S. and Imbens, G. (2016). Recursive partitioning for heterogeneous causal effects. PNAS 113(27): one
    half of the rows to find, the other to estimate.

    """
    rows = encode(held_out, window, named=named, seed=seed)
    old, other_old = _halves(rows.held_out, seed, "held-out rows")
    new, other_new = _halves(rows.window, seed + 1, "rows of the window")
    categorical = rows.encoder.categorical
    model = LossModel(old, categorical, seed)
    expected = model.predict(new.matrix).mean(axis=0)
    level = 0.0
    if rows.measured:
        matrix, target = new.matrix, new.losses - expected
    else:
        if not model.by_features:
            return _nothing("can't tell: features say nothing of the loss of held-out rows", measured=False)
        support = support_of(rows.held_out.matrix, rows.window.matrix, categorical, seed)
        thin = too_thin(float(support.outside.mean()), support.effective * len(rows.held_out.losses))
        if thin:
            return _nothing(f"can't tell: {thin}", measured=False)
        said = model.predict(old.matrix).mean(axis=0)
        level = float(said.mean())
        matrix = np.concatenate([new.matrix, old.matrix])
        # A segment of few losses that lost rows raises the mean, too, but it is none that got worse.
        above, before = np.maximum(expected - level, 0), np.maximum(said - level, 0)
        target = np.concatenate([above / len(above), -before / len(before)]) * len(matrix)
        other_old = other_old._replace(losses=model.predict(other_old.matrix).mean(axis=0))
        other_new = other_new._replace(losses=model.predict(other_new.matrix).mean(axis=0))
    conditions = _Search(matrix, categorical, target, seed).best()
    if not conditions:
        return _nothing("no segment got worse than the rest by more than chance gives", measured=rows.measured)
    now, before = (_holds(conditions, one.matrix) for one in (rows.window, rows.held_out))
    found = _nothing("", measured=rows.measured)._replace(
        segment=RowSegment(conditions, rows.encoder),
        rows=int(now.sum()),
        share=float(now.mean()),
        share_before=float(before.mean()),
    )
    return _tested(found, conditions, (other_new, other_old), level, seed)


def _nothing(why: str, *, measured: bool) -> WorstSegment:
    return WorstSegment(None, 0, 0.0, 0.0, None, None, 1.0, measured, why)


def _halves(rows: EncodedRows, seed: int, whose: str) -> tuple[EncodedRows, EncodedRows]:
    """Return the rows of half of the requests, and the others."""
    requests = int(rows.groups.max()) + 1
    if requests < 2 * LEAST_HELD_OUT:
        raise EstimationError(
            f"{len(rows.losses):,} {whose} with losses, of {requests:,} requests, are too few to search by one "
            f"half and to confirm by the other: it takes {2 * LEAST_HELD_OUT} of each"
        )
    first = (np.random.default_rng([seed, 8]).permutation(requests) % 2 == 0)[rows.groups]
    return rows.only(first), rows.only(~first)


def _holds(conditions: Sequence[Condition], matrix: Floats) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.logical_and.reduce([one.holds(matrix) for one in conditions])
    return found


class _Search:
    """The conditions whose rows have most of a target, of those that small trees find."""

    def __init__(self, matrix: Floats, categorical: Sequence[bool], target: Floats, seed: int) -> None:
        self._matrix = matrix
        self._categorical = categorical
        # The few largest losses would draw a segment around themselves.
        target = np.clip(target, *np.quantile(target, [1 - _LARGEST, _LARGEST]))
        self._target = target - target.mean()
        self._spread = float(self._target.std())
        self._least = max(LEAST_REQUESTS, int(np.ceil(SMALLEST * len(target))))
        # What the best of so many splits gives by chance in one of ten cases, about.
        self._price = 2 * float(np.log(200 * matrix.shape[1]))
        self._seed = seed

    def best(self) -> list[Condition]:
        """Return the best conditions, none where they are not worth their price."""
        from sklearn.tree import DecisionTreeRegressor

        if not self._spread:
            return []
        everywhere = np.ones(len(self._target), np.bool_)
        codes = np.column_stack([self._codes(at, everywhere) for at in range(self._matrix.shape[1])])
        random = np.random.default_rng([self._seed, 9])
        found: dict[float, list[Condition]] = {}
        for at in range(_TREES):
            tree = DecisionTreeRegressor(
                max_depth=DEPTH,
                min_samples_leaf=self._least,
                max_features=None if at == 0 else 0.5,
                random_state=int(random.integers(2**31)),
            ).fit(codes, self._target)
            for conditions in self._nodes(tree.tree_, codes):
                found[self._score(conditions)] = conditions
        best: list[Condition] = []
        least = 0.0
        for score in sorted(found, reverse=True)[:5]:
            conditions = self._refined(found[score])
            if (refined := self._score(conditions)) > least:
                best, least = conditions, refined
        return best

    def _score(self, conditions: Sequence[Condition]) -> float:
        """Return the squared studentised difference of the rows in and out, less the price of the conditions."""
        if not conditions:
            return 0.0
        inside = _holds(conditions, self._matrix)
        limits = sum(1 if isinstance(one, Among) else np.isfinite(one[1:3]).sum() for one in conditions)
        return float(self._gain(np.array([inside.sum()]), np.array([self._target[inside].sum()]))[0]) - (
            self._price * float(max(limits, 1))
        )

    def _gain(self, counts: Integers, sums: Floats) -> Floats:
        """Return the squared studentised difference, -inf where it is not a rise, or too few rows."""
        rows = len(self._target)
        fits = (counts >= self._least) & (counts <= rows - self._least) & (sums > 0)
        there = np.where(fits, counts, 1)
        return np.where(fits, sums**2 / there * rows / np.maximum(rows - there, 1) / self._spread**2, -np.inf)

    def _codes(self, at: int, within: NDArray[np.bool_]) -> Floats:
        """Return a column in the order of the target: of texts how far each is from the rest, beyond one error.

        What is missing of numbers is below them all.
        """
        values = self._matrix[:, at]
        if not self._categorical[at]:
            there = np.isfinite(values)
            if there.all() or not there.any():
                return np.where(there, values, 0.0)
            low, high = float(values[there].min()), float(values[there].max())
            return np.where(there, values, low - max(high - low, 1.0))
        places = places_of(values) - MISSING
        counts = np.bincount(places[within], minlength=int(places.max()) + 1)
        sums = np.bincount(places[within], self._target[within], minlength=len(counts))
        centre = float(sums.sum() / max(counts.sum(), 1))
        apart = (sums - centre * counts) / np.sqrt(np.maximum(counts, 1)) / self._spread
        found = np.sign(apart) * np.maximum(np.abs(apart) - 1, 0.0)
        return np.asarray(found[places], np.float64)

    def _nodes(self, tree: object, codes: Floats) -> list[list[Condition]]:
        """Return the conditions of each node but the root."""
        left, right, column, limit = (
            getattr(tree, name) for name in ("children_left", "children_right", "feature", "threshold")
        )
        found: list[list[Condition]] = []
        waiting: list[tuple[int, list[Condition]]] = [(0, [])]
        while waiting:
            node, conditions = waiting.pop()
            if conditions:
                found.append(conditions)
            if left[node] == right[node]:
                continue
            at, value = int(column[node]), float(limit[node])
            below = np.asarray(codes[:, at] <= value)
            waiting.append(
                (int(left[node]), self._joined(conditions, self._side(at, codes[:, at], below, value, True)))
            )
            waiting.append(
                (int(right[node]), self._joined(conditions, self._side(at, codes[:, at], ~below, value, False)))
            )
        return found

    def _side(self, at: int, codes: Floats, chosen: NDArray[np.bool_], value: float, below: bool) -> Condition:
        """Return one side of a split as a condition."""
        values = self._matrix[:, at]
        if self._categorical[at]:
            return self._among(at, np.unique(places_of(values[chosen])))
        there = np.isfinite(values)
        missing = not there.all()
        lower, upper = codes[codes <= value].max(), codes[codes > value].min()
        if missing and lower < values[there].min():  # missing, and all others
            return Range(at, high=-np.inf, missing=True) if below else Range(at, low=_below(upper))
        cut = between(float(lower), float(upper))
        return Range(at, high=cut, missing=missing) if below else Range(at, low=cut)

    def _among(self, at: int, places: Integers) -> Among:
        """Return a condition on texts, told by those that are out where these are fewer."""
        every = np.unique(places_of(self._matrix[:, at]))
        others = np.setdiff1d(every, places)
        if 0 < len(others) < len(places) and MISSING not in others:
            return Among(at, frozenset(int(one) for one in others), negated=True)
        return Among(at, frozenset(int(one) for one in places))

    def _joined(self, conditions: list[Condition], more: Condition) -> list[Condition]:
        """Return conditions and one more; of one feature they become one."""
        found = []
        for one in conditions:
            if one.column != more.column:
                found.append(one)
            elif isinstance(one, Range) and isinstance(more, Range):
                missing = one.missing and more.missing
                more = Range(one.column, max(one.low, more.low), min(one.high, more.high), missing)
            else:
                places = places_of(self._matrix[one.holds(self._matrix) & more.holds(self._matrix), one.column])
                more = self._among(one.column, np.unique(places))
        return [*found, more]

    def _refined(self, conditions: list[Condition]) -> list[Condition]:
        """Return the conditions, each searched again while the others hold, or left out."""
        for _ in range(_PASSES):
            before = conditions
            for one in conditions:
                others = [each for each in conditions if each is not one]
                within = _holds(others, self._matrix) if others else np.ones(len(self._target), np.bool_)
                choices = [conditions, [*others, *self._limit(one, others, within)], others]
                conditions = max(choices, key=self._score)
            if conditions == before:
                break
        return conditions

    def _limit(self, one: Condition, others: list[Condition], within: NDArray[np.bool_]) -> list[Condition]:
        """Return the best condition of one feature in the place of another, among some rows."""
        at = one.column
        codes = self._codes(at, within)
        if isinstance(one, Range) and np.isfinite(one.low) and np.isfinite(one.high):
            # Of two limits each is searched while the other holds.
            for kept in (one._replace(low=-np.inf), one._replace(high=np.inf)):
                inside = within & kept.holds(self._matrix)
                if found := self._cut(at, codes, inside, below=kept.low > -np.inf):
                    one = self._joined([kept], found[0])[0]
            return [one]
        ups, downs = (self._cut(at, codes, within, below=below) for below in (False, True))
        return max(ups, downs, key=lambda each: self._score([*others, *each]) if each else -np.inf)

    def _cut(self, at: int, codes: Floats, within: NDArray[np.bool_], *, below: bool) -> list[Condition]:
        """Return the best condition that cuts a column in two, among some rows."""
        rows = np.flatnonzero(within)
        order = rows[np.argsort(codes[rows], kind="stable")]
        if not below:
            order = order[::-1]
        sorted_codes = codes[order]
        ends = np.flatnonzero(sorted_codes[1:] != sorted_codes[:-1])
        if not len(ends):
            return []
        gains = self._gain(ends + 1, np.cumsum(self._target[order])[ends])
        best = int(ends[np.argmax(gains)])
        if not np.isfinite(gains.max()):
            return []
        chosen = order[: best + 1]
        if self._categorical[at]:
            return [self._among(at, np.unique(places_of(self._matrix[chosen, at])))]
        value = float(min(sorted_codes[best], sorted_codes[best + 1]))
        mask = np.asarray(codes <= value) if below else np.asarray(codes > value)
        return [self._side(at, codes, mask, value, below)]


def _below(value: float) -> float:
    return float(np.nextafter(value, -np.inf))


def _tested(
    found: WorstSegment, conditions: Sequence[Condition], sides: Sequence[EncodedRows], level: float, seed: int
) -> WorstSegment:
    """Return what rows that it was not found by, of the window and held-out ones, say of a segment."""
    inside = [_holds(conditions, rows.matrix) for rows in sides]
    parts = [
        (rows, which)
        for way in (True, False)
        for rows, holds in zip(sides, inside, strict=True)
        for which in [holds == way]
    ]
    requests = min(len(np.unique(rows.groups[which])) for rows, which in parts)
    if requests < LEAST_REQUESTS:
        return found._replace(
            unknown=f"of the rows that it was not found by, those of {requests} requests are in it or out of it, "
            f"now or before, and it takes {LEAST_REQUESTS}"
        )
    random = np.random.default_rng([seed, 10])
    signs = [1.0, -1.0] if found.measured else [1.0]
    columns: list[list[Floats]] = []
    draws: list[Floats] = []
    for rows, holds in zip(sides, inside, strict=True):
        if found.measured:
            there, elsewhere = holds.astype(np.float64), (~holds).astype(np.float64)
            columns.append([there * rows.losses, there, elsewhere * rows.losses, elsewhere])
        else:
            above = np.where(holds, np.maximum(rows.losses - level, 0), 0.0)
            columns.append([above, np.ones(len(holds))])
        draws.append(_difference(drawn_sums(columns[-1], rows.groups, random), signs))
    return found._replace(
        losses=SegmentLosses(*(float(rows.losses[which].mean()) for rows, which in parts)),
        effect=part_of(draws[0] - draws[1]),
        p_value=_p_value(columns, [rows.groups for rows in sides], signs, random),
    )


def _difference(sums: Floats, signs: Sequence[float]) -> Floats:
    """Return the signed sum of ratios of sums, pair by pair: (draws,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = sums[::2] / sums[1::2]
    return np.asarray(np.array(signs) @ ratios, np.float64)


def _p_value(
    columns: Sequence[Sequence[Floats]],
    groups: Sequence[Integers],
    signs: Sequence[float],
    random: np.random.Generator,
) -> float:
    """Return the p-value of a rise: requests of the window and held-out ones are permuted."""
    sides = [
        np.stack([np.bincount(of_it, column) for column in side], axis=1)
        for side, of_it in zip(columns, groups, strict=True)
    ]
    sums = np.concatenate(sides)
    scale = np.maximum(np.abs(sums).max(axis=0), 1e-300)
    sums = sums / scale
    size = sums.shape[1]
    signs = [sign * scale[2 * at] / scale[2 * at + 1] for at, sign in enumerate(signs)]
    products = (sums[:, :, None] * sums[:, None, :]).reshape(len(sums), -1)
    both = np.concatenate([sums, products], axis=1)
    whole = both.sum(axis=0)
    of_new = len(sides[0])
    found = []
    step = max(1, _CELLS // len(sums))
    for first in range(-1, _PERMUTATIONS, step):
        some = min(step, _PERMUTATIONS - first)
        chosen = np.zeros((some, len(sums)))
        chosen[:, :of_new] = 1.0
        start = 1 if first < 0 else 0
        chosen[start:] = random.permuted(chosen[start:], axis=1)
        of_it = chosen @ both
        found.append(_studentised(of_it, whole - of_it, signs, size))
    scores = np.concatenate(found)
    observed = scores[0] - 1e-9 * abs(scores[0])
    if not np.isfinite(observed):
        return 1.0
    return float((np.count_nonzero(~(scores[1:] < observed)) + 1) / len(scores))


def _studentised(new: Floats, old: Floats, signs: Sequence[float], size: int) -> Floats:
    """Return the difference of the two sides by its standard error, from sums and sums of products by request."""
    difference, variance = np.zeros(len(new)), np.zeros(len(new))
    with np.errstate(divide="ignore", invalid="ignore"):
        for side, of_it in ((1.0, new), (-1.0, old)):
            sums, products = of_it[:, :size], of_it[:, size:].reshape(-1, size, size)
            weights = np.empty_like(sums)
            for at, sign in enumerate(signs):
                mean = sums[:, 2 * at] / sums[:, 2 * at + 1]
                difference = difference + side * sign * mean
                weights[:, 2 * at] = sign / sums[:, 2 * at + 1]
                weights[:, 2 * at + 1] = -sign * mean / sums[:, 2 * at + 1]
            variance = variance + np.einsum("di,dij,dj->d", weights, products, weights)
        return np.asarray(difference / np.sqrt(np.maximum(variance, 0)), np.float64)
