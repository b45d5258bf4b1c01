"""Fairness: rates and errors of a model by the values of a protected column, and how far they lie apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.sparse import csr_array

from mooring.performance.bootstrap import drawn
from mooring.performance.scored import Floats, LabelledRows

MISSING = "(missing)"
"""The group of the rows that have no value."""
OTHER = "(other)"
"""The group of all rows whose value is none of the most frequent ones."""
LEAST_ROWS = 30
"""How many independent rows a rate needs to be compared with those of other groups."""
MOST_GROUPS = 20
MOST_CLASSES = 20
_MOST = 1e50
"""What is larger counts as this, so that sums stay finite."""

Kind = Literal["difference", "ratio"]

RATES = {
    "accuracy": "share of rows that are right",
    "selection_rate": "share of rows that are said to be of the class",
    "true_positive_rate": "share of the rows of the class that are said to be of it",
    "false_positive_rate": "share of the rows of other classes that are said to be of the class",
    "mean_prediction": "mean of the predictions",
    "bias": "mean of prediction minus label",
    "mae": "mean absolute error",
}
"""What is told of each group: of a classification the first four, of a regression the others."""

DISPARITIES: dict[str, tuple[tuple[str, ...], Kind]] = {
    "accuracy_difference": (("accuracy",), "difference"),
    "demographic_parity_difference": (("selection_rate",), "difference"),
    "demographic_parity_ratio": (("selection_rate",), "ratio"),
    "equal_opportunity_difference": (("true_positive_rate",), "difference"),
    "equal_opportunity_ratio": (("true_positive_rate",), "ratio"),
    "equalized_odds_difference": (("true_positive_rate", "false_positive_rate"), "difference"),
    "equalized_odds_ratio": (("true_positive_rate", "false_positive_rate"), "ratio"),
    "mean_prediction_difference": (("mean_prediction",), "difference"),
    "bias_difference": (("bias",), "difference"),
    "mae_difference": (("mae",), "difference"),
}
"""Of which rates each disparity is the largest difference between two groups, or the smallest ratio."""

_OF_ALL = ("accuracy", "mean_prediction", "bias", "mae")
_UNBOUNDED = ("mean_prediction", "bias", "mae")


class GroupRate(msgspec.Struct, frozen=True, kw_only=True):
    """A rate or an error of one group, and the interval in which it lies with 95 % probability.

    `of` is the class that it is about, None where it is about all. It was computed of `rows` rows: of a true
    positive rate those of the class. `compared`: these are worth enough independent ones to be compared with
    those of other groups. A rate that is not has no interval.
    """

    group: str
    measure: str
    of: str | None = None
    value: float
    low: float | None = None
    high: float | None = None
    rows: int
    compared: bool


class Disparity(msgspec.Struct, frozen=True, kw_only=True):
    """How far apart groups are: the largest difference, or the smallest ratio, and its 95 % interval.

    `lowest` and `highest` are the groups with the lowest and the highest rate.
    """

    measure: str
    of: str | None = None
    value: float
    low: float
    high: float
    lowest: str
    highest: str


class Fairness(msgspec.Struct, frozen=True, kw_only=True):
    """How alike a model treats groups. `groups` has the rows of each, `message` what can't be told, and why."""

    column: str
    groups: dict[str, int]
    rates: tuple[GroupRate, ...] = ()
    disparities: tuple[Disparity, ...] = ()
    message: str = ""


def measure_name(figure: GroupRate | Disparity) -> str:
    """Return what a figure of groups is called, with the class that it is about."""
    return figure.measure if figure.of is None else f"{figure.measure} ({figure.of})"


def fairness(
    scored: LabelledRows,
    values: NDArray[np.object_] | Sequence[str | None],
    column: str,
    *,
    least: float = LEAST_ROWS,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Fairness:
    """Return rates and errors by the values of a protected column, and how far apart they are.

    Parameters
    ----------
    scored
        The labelled rows, whose groups are their requests.
    values
        The protected value of each row, None where it is not known: those rows are a group of their own.
    column
        What the values are called.
    least
        How many independent rows, n²/Σ(rows of a request)², a rate needs to be compared.
    draws, level, seed
        Of the bootstrap, which draws requests.

    Of two classes the rates are about the second, of more about each that has so many rows. Figures are those of
    fairlearn (`between_groups`), with two exceptions: a rate of fewer rows than `least` is shown and not compared,
    and a ratio of rates that are all 0 is left out. `true_positive_rate_difference` is
    `equal_opportunity_difference`.

    The interval of a rate is between percentiles of the bootstrap; where all draws give the same, as of a rate of
    0, it is Wilson's. The largest of several differences is above 0 by chance alone. Hence its interval is made of
    simultaneous ones of all pairs of groups: of each the difference ± c standard errors, where c is such that all
    hold at once with probability `level`. It begins at 0 unless some pair differs by more than chance explains.

    Raises ValueError where there are not as many values as rows.

    >>> random = np.random.default_rng(0)
    >>> sex, labels = random.choice(["f", "m"], 2000), random.integers(2, size=2000)
    >>> said = np.where(random.random(2000) < np.where(sex == "f", 0.3, 0.1), 1 - labels, labels)
    >>> scored = LabelledRows(labels, said, np.arange(2000), classes=("no", "yes"))
    >>> found = fairness(scored, sex, "sex")
    >>> one = next(one for one in found.disparities if one.measure == "equal_opportunity_difference")
    >>> one.of, one.lowest, one.highest, one.low < 0.2 < one.high
    ('yes', 'f', 'm', True)

    References
    ----------
    Hardt, M., Price, E. and Srebro, N. (2016). Equality of Opportunity in Supervised Learning. NeurIPS.
    Hesterberg, T. (2015). What Teachers Should Know About the Bootstrap. The American Statistician 69(4).
    Weerts, H. et al. (2023). Fairlearn: Assessing and Improving Fairness of AI Systems. JMLR 24.
    Wilson, E. (1927). Probable inference, the law of succession, and statistical inference. JASA 22.

    """
    names = _groups(values, scored.rows)
    counts = _counts(names)
    if not scored.rows:
        return Fairness(column=column, groups={}, message="no row has a label and a prediction")
    rates = _Rates.of(scored, names, list(counts), _chosen(scored))
    sums = np.concatenate([rates.base(weights) for weights in drawn(rates.requests, draws, seed)])
    found = rates.figures(sums, least, level)
    return Fairness(
        column=column,
        groups=counts,
        rates=tuple(one.rate for one in found),
        disparities=tuple(_disparities(found, level)),
        message=_message(column, counts, found, least),
    )


class Growth(NamedTuple):
    """How much further apart groups are, or how much worse one fares, by one model than by another.

    `group` is None where it is about how far groups are apart. `draws` are what the bootstrap gives of `growth`.
    Of a regression both are shares of the first model's mean absolute error.
    """

    measure: str
    of: str | None
    group: str | None
    before: float
    after: float
    growth: float
    draws: Floats


def growths(
    before: LabelledRows,
    after: LabelledRows,
    values: NDArray[np.object_] | Sequence[str | None],
    *,
    least: float = LEAST_ROWS,
    draws: int = 2000,
    seed: int = 0,
) -> list[Growth]:
    """Return what one model does to groups that another did not: of differences between them, and of their errors.

    `before` and `after` are two models' predictions of the same rows, whose requests are drawn alike for both.
    Raises ValueError where the rows are not the same.

    >>> random = np.random.default_rng(0)
    >>> sex, labels = random.choice(["f", "m"], 1000), random.integers(2, size=1000)
    >>> said = np.where((random.random(1000) < 0.2) & (sex == "f"), 1 - labels, labels)
    >>> old, new = (LabelledRows(labels, one, np.arange(1000), classes=("no", "yes")) for one in (labels, said))
    >>> worst = max(growths(old, new, sex), key=lambda one: one.growth)
    >>> round(worst.growth, 1), bool(np.quantile(worst.draws, 0.01) > 0.1)
    (0.2, True)
    """
    if before.rows != after.rows or not (before.groups == after.groups).all():
        raise ValueError("the two are not of the same rows, so they can't be compared in pairs")
    names = _groups(values, before.rows)
    counts, chosen = list(_counts(names)), _chosen(before)
    both = [_Rates.of(one, names, counts, chosen) for one in (before, after)]
    sums: list[list[Floats]] = [[], []]
    for weights in drawn(both[0].requests, draws, seed):
        for parts, rates in zip(sums, both, strict=True):
            parts.append(rates.base(weights))
    old, new = (rates.figures(np.concatenate(parts), least, 0.95) for parts, rates in zip(sums, both, strict=True))
    scale = 1.0
    if before.classes is None:
        scale = float(np.abs(before.predictions - before.labels).mean()) or 1.0
    found = [
        Growth(measure, of, None, was, now, (now - was) / scale, (now_draws - was_draws) / scale)
        for measure, of, (was, was_draws), (now, now_draws) in _paired(old, new)
    ]
    later = {(one.rate.group, one.rate.measure): one for one in new if one.rate.of is None}
    for one in old:
        measure, group, was = one.rate.measure, one.rate.group, one.rate.value
        if measure in ("accuracy", "mae") and one.rate.compared:
            its = later[group, measure]
            sign = -1 / scale if measure == "accuracy" else 1 / scale
            grown = sign * (its.rate.value - was)
            found.append(Growth(measure, None, group, was, its.rate.value, grown, sign * (its.draws - one.draws)))
    return found


class _Figure(NamedTuple):
    """A rate, what it is in each draw, of how many effective rows, and the least errors of it and its logarithm.

    `logs` are the logarithms of the rate and of its draws, with half a row more so that they are finite; of what
    is no share there are none.
    """

    rate: GroupRate
    draws: Floats
    effective: float
    least_error: float = 0.0
    log: float = np.nan
    log_draws: Floats | None = None
    least_log_error: float = 0.0


class _Rates(NamedTuple):
    """Sums that rates are ratios of, by request: of each group its rows, and what is counted of them.

    `sums` is an array (requests, columns): rows of each group; then of a classification those that are right, and
    of each group and class those said, true and both; of a regression predictions, errors and their sizes.
    """

    sums: csr_array
    names: list[str]
    classes: tuple[str, ...] | None

    @classmethod
    def of(cls, scored: LabelledRows, names: NDArray[np.object_], groups: list[str], chosen: list[int]) -> _Rates:
        place = {name: at for at, name in enumerate(groups)}
        at = np.array([place[name] for name in names], np.int64)
        count = len(groups)
        rows = np.ones(scored.rows)
        if scored.classes is None:
            error = np.clip(scored.predictions - scored.labels, -_MOST, _MOST)
            said = np.clip(scored.predictions, -_MOST, _MOST)
            parts = [(at, rows), (at, said), (at, error), (at, np.abs(error))]
            return cls(_sparse(scored, parts, [count] * 4), groups, None)
        code = np.full(len(scored.classes), -1)
        code[chosen] = np.arange(len(chosen))
        labels, said = code[scored.labels.astype(np.int64)], code[scored.predictions.astype(np.int64)]
        right = (scored.labels == scored.predictions).astype(np.float64)
        parts = [(at, rows), (at, right)]
        for places, there in ((said, said >= 0), (labels, labels >= 0), (labels, (labels >= 0) & (right > 0))):
            parts.append((np.where(there, at * len(chosen) + places, 0), there.astype(np.float64)))
        widths = [count, count, *[count * len(chosen)] * 3]
        return cls(_sparse(scored, parts, widths), groups, tuple(scored.classes[one] for one in chosen))

    @property
    def requests(self) -> int:
        return int(self.sums.shape[0])

    def base(self, weights: Floats) -> Floats:
        """Return the sums for each weighting of the requests."""
        return np.asarray((self.sums.T @ weights.T).T, np.float64)

    def figures(self, drawn_sums: Floats, least: float, level: float) -> list[_Figure]:
        """Return each group's rates: those of no rows are left out."""
        own = self.base(np.ones((1, self.requests)))[0]
        found = []
        for known, drawn_ratio, square in zip(
            self._ratios(own), self._ratios(drawn_sums), self._squares(), strict=True
        ):
            group, measure, of, *ratio = known
            above, below = (float(one) for one in ratio)
            if below > 0:
                bare = GroupRate(
                    group=group, measure=measure, of=of, value=above / below, rows=round(below), compared=False
                )
                found.append(_figure(bare, above, below, drawn_ratio[3:], below**2 / square, least, level))
        return found

    def _ratios(self, sums: Floats) -> Iterator[tuple[str, str, str | None, Floats, Floats]]:
        """Yield of each rate the group, its name, the class, and what it is the ratio of."""
        count = len(self.names)
        for at, group in enumerate(self.names):
            rows = sums[..., at]
            if self.classes is None:
                for place, measure in enumerate(_UNBOUNDED, 1):
                    yield group, measure, None, sums[..., place * count + at], rows
                continue
            yield group, "accuracy", None, sums[..., count + at], rows
            width = len(self.classes)
            for which, of in enumerate(self.classes):
                first = 2 * count + at * width + which
                said, true, both = (sums[..., first + step * count * width] for step in range(3))
                yield group, "selection_rate", of, said, rows
                yield group, "true_positive_rate", of, both, true
                yield group, "false_positive_rate", of, said - both, rows - true

    def _squares(self) -> Iterator[float]:
        """Yield of each rate the sum over requests of the squared number of its rows, in the same order."""
        count = len(self.names)
        rows = self.sums[:, :count]
        of_rows = np.asarray(rows.multiply(rows).sum(axis=0)).ravel()
        if self.classes is None:
            for at in range(count):
                yield from [float(of_rows[at])] * 3
            return
        width = len(self.classes)
        first = 2 * count + count * width
        true = self.sums[:, first : first + count * width]
        of_true = np.asarray(true.multiply(true).sum(axis=0)).ravel()
        across = np.asarray(rows[:, np.repeat(np.arange(count), width)].multiply(true).sum(axis=0)).ravel()
        for at in range(count):
            yield float(of_rows[at])
            for which in range(width):
                place = at * width + which
                yield float(of_rows[at])
                yield float(of_true[place])
                yield float(of_rows[at] - 2 * across[place] + of_true[place])


def _sparse(
    scored: LabelledRows, parts: Sequence[tuple[NDArray[Any], NDArray[Any]]], widths: Sequence[int]
) -> csr_array:
    """Return values of rows, each in a column of its part, summed by request."""
    firsts = np.concatenate([[0], np.cumsum(widths)])
    columns = np.concatenate([first + places for first, (places, _) in zip(firsts, parts, strict=False)])
    values = np.concatenate([one for _, one in parts])
    requests = np.tile(scored.groups, len(parts))
    shape = (int(scored.groups.max()) + 1, int(firsts[-1]))
    return csr_array((values, (requests, columns)), shape=shape)


def _chosen(scored: LabelledRows) -> list[int]:
    """Return the classes that rates are about: of two the second, of more the most frequent ones."""
    count = len(scored.classes or ())
    if not count:
        return []
    if count == 2:
        return [1]
    seen = np.bincount(scored.labels.astype(np.int64), minlength=count)
    seen += np.bincount(scored.predictions.astype(np.int64), minlength=count)
    return sorted(np.argsort(-seen, kind="stable")[:MOST_CLASSES].tolist())


def _groups(values: NDArray[np.object_] | Sequence[str | None], rows: int) -> NDArray[np.object_]:
    """Return the group of each row. Raises ValueError where there are not as many values as rows."""
    if len(values) != rows:
        raise ValueError(f"there are {len(values)} values of {rows} rows")
    names = np.array([MISSING if one is None else str(one) for one in values], object)
    distinct, counts = np.unique(names.astype(str), return_counts=True)
    if len(distinct) > MOST_GROUPS:
        order = np.argsort(-counts, kind="stable")
        names[~np.isin(names.astype(str), distinct[order[: MOST_GROUPS - 1]])] = OTHER
    return names


def _counts(names: NDArray[np.object_]) -> dict[str, int]:
    """Return the rows of each group, the largest first."""
    distinct, counts = np.unique(names.astype(str), return_counts=True)
    found = sorted(zip(distinct.tolist(), counts.tolist(), strict=True), key=lambda one: (-one[1], one[0]))
    return dict(found)


def _figure(
    rate: GroupRate,
    above: float,
    below: float,
    drawn_ratio: tuple[Floats, Floats],
    effective: float,
    least: float,
    level: float,
) -> _Figure:
    """Return a rate with its interval, if it is of as many effective rows as that takes."""
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where(drawn_ratio[1] > 0, drawn_ratio[0] / drawn_ratio[1], np.nan)
    if effective < least or rate.group == OTHER:
        return _Figure(rate, values, effective)
    rate = msgspec.structs.replace(rate, compared=True)
    there = values[np.isfinite(values)]
    low, high = (float(one) for one in np.quantile(there, [(1 - level) / 2, (1 + level) / 2]))
    if rate.measure in _UNBOUNDED:
        return _Figure(msgspec.structs.replace(rate, low=low, high=high), values, effective)
    if low == high:
        low, high = _wilson(rate.value, effective, level)
    # What all rows of a group share has no spread in any draw, and is not known for sure either.
    more = (rate.value * effective + 1) / (effective + 2)
    half = (rate.value * effective + 0.5) / (effective + 0.5)
    return _Figure(
        msgspec.structs.replace(rate, low=low, high=high),
        values,
        effective,
        math.sqrt(more * (1 - more) / (effective + 2)),
        math.log((above + 0.5) / (below + 0.5)),
        np.log((drawn_ratio[0] + 0.5) / (drawn_ratio[1] + 0.5)),
        math.sqrt((1 - half) / (half * (effective + 0.5))),
    )


def _wilson(share: float, rows: float, level: float) -> tuple[float, float]:
    """Return Wilson's interval of a share of so many rows.

    >>> low, high = _wilson(0.0, 30, 0.95)
    >>> low, round(high, 3)
    (0.0, 0.114)
    """
    z = float(special.ndtri((1 + level) / 2))
    middle, more = share + z**2 / (2 * rows), z**2 / rows
    around = z * math.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    low, high = (middle - around) / (1 + more), (middle + around) / (1 + more)
    return min(max(low, 0.0), share), max(min(high, 1.0), share)


def _families(
    found: Sequence[_Figure],
) -> Iterator[tuple[str, str | None, Kind, list[list[_Figure]]]]:
    """Yield each disparity that there is: its name, the class, its kind, and by rate what it compares."""
    for of in dict.fromkeys(one.rate.of for one in found):
        for measure, (names, kind) in DISPARITIES.items():
            families = [
                [one for one in found if one.rate.compared and (one.rate.measure, one.rate.of) == (name, of)]
                for name in names
            ]
            if all(len(family) > 1 for family in families):
                yield measure, of, kind, families


def _disparities(found: Sequence[_Figure], level: float) -> Iterator[Disparity]:
    for measure, of, kind, families in _families(found):
        ends = [_ends(family) for family in families]
        if kind == "difference":
            low, high = max(ends, key=lambda pair: pair[1].rate.value - pair[0].rate.value)
            value, interval = high.rate.value - low.rate.value, _apart(families, level)
        elif all(above.rate.value > 0 for _, above in ends):
            low, high = min(ends, key=lambda pair: pair[0].rate.value / pair[1].rate.value)
            value = low.rate.value / high.rate.value
            most, least = (math.exp(-one) for one in _apart(families, level, logs=True))
            interval = (0.0 if value == 0 else min(least, value), max(most, value))
        else:
            continue
        yield Disparity(
            measure=measure,
            of=of,
            value=value,
            low=interval[0],
            high=min(interval[1], 1.0) if families[0][0].rate.measure not in _UNBOUNDED else interval[1],
            lowest=low.rate.group,
            highest=high.rate.group,
        )


def _ends(family: Sequence[_Figure]) -> tuple[_Figure, _Figure]:
    ordered = sorted(family, key=lambda one: one.rate.value)
    return ordered[0], ordered[-1]


def _apart(families: Sequence[Sequence[_Figure]], level: float, *, logs: bool = False) -> tuple[float, float]:
    """Return between what the largest difference lies: by simultaneous intervals of all pairs."""
    distances, errors, deviations, least_rows = [], [], [], []
    for one, other in (pair for family in families for pair in combinations(family, 2)):
        if logs:
            assert one.log_draws is not None
            assert other.log_draws is not None
            distance, draws = one.log - other.log, one.log_draws - other.log_draws
            least = math.hypot(one.least_log_error, other.least_log_error)
        else:
            distance, draws = one.rate.value - other.rate.value, one.draws - other.draws
            least = math.hypot(one.least_error, other.least_error)
        error = max(float(np.nanstd(draws)), least)
        distances.append(abs(distance))
        least_rows.append(min(one.effective, other.effective))
        errors.append(error)
        deviations.append(np.abs(draws - distance) / error if error > 0 else np.zeros(len(draws)))
    largest = np.nanmax(np.stack(deviations), axis=0)
    # Of shares that hardly vary the draws say too little: never less than a normal distribution would.
    times = max(float(np.nanquantile(largest, level)), float(special.ndtri((1 + level) / 2)))
    # The spread of few rows is itself not known well: as much wider as Student's t is (Hesterberg 2015).
    chance = float(special.ndtr(-times))
    around = [
        -error * float(special.stdtrit(rows - 1, chance)) for error, rows in zip(errors, least_rows, strict=True)
    ]
    low = max(0.0, *(distance - more for distance, more in zip(distances, around, strict=True)))
    return low, max(distance + more for distance, more in zip(distances, around, strict=True))


def _paired(
    old: Sequence[_Figure], new: Sequence[_Figure]
) -> Iterator[tuple[str, str | None, tuple[float, Floats], tuple[float, Floats]]]:
    """Yield each difference between groups: its name, the class, and by each model what it is, and its draws."""
    later = {(one.rate.group, one.rate.measure, one.rate.of): one for one in new}
    for measure, of, kind, families in _families(old):
        if kind == "ratio":
            continue
        after = [
            [found for one in family if (found := later.get((one.rate.group, one.rate.measure, of)))]
            for family in families
        ]
        if all(len(family) > 1 for family in after):
            yield measure, of, _largest(families), _largest(after)


def _largest(families: Sequence[Sequence[_Figure]]) -> tuple[float, Floats]:
    """Return the largest difference, and what it is in each draw."""
    values = [[one.rate.value for one in family] for family in families]
    draws = [np.stack([one.draws for one in family]) for family in families]
    return (
        max(max(one) - min(one) for one in values),
        np.asarray(np.max([one.max(axis=0) - one.min(axis=0) for one in draws], axis=0), np.float64),
    )


def _message(column: str, counts: dict[str, int], found: Sequence[_Figure], least: float) -> str:
    """Return what can't be told, and why."""
    if list(counts) == [MISSING]:
        return f"no row has a value of {column}"
    told = []
    if MISSING in counts:
        rows = sum(counts.values())
        told.append(
            f"{counts[MISSING]:,} of {rows:,} rows have no value of {column}: they are a group of their own"
        )
    if OTHER in counts:
        told.append(f"{counts[OTHER]:,} rows have rarer values of {column}, of many groups: not compared")
    whole = {one.rate.group: one.rate.compared for one in found if one.rate.measure in ("accuracy", "mae")}
    small = [name for name, compared in whole.items() if not compared and name != OTHER]
    if small:
        names = ", ".join([*(one[:40] for one in small[:3]), *(["…"] if len(small) > 3 else [])])
        told.append(f"{names}: fewer than {least:g} independent rows, so shown and not compared")
    partly = sorted({one.rate.group for one in found if whole[one.rate.group] and not one.rate.compared})
    if partly:
        names = ", ".join([*(one[:40] for one in partly[:3]), *(["…"] if len(partly) > 3 else [])])
        told.append(f"{names}: fewer than {least:g} independent rows for some rates")
    if sum(whole.values()) < 2:
        told.append("fewer than two groups have enough rows, so there is nothing to compare")
    return "; ".join(told)
