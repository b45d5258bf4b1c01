"""Every measure: what it is called, what it is of, when it alarms, and the function that takes it.

A measure is an entry of `MEASURES` and a function of a `Pair`. With that it has a value in every verdict, a
threshold can be set for it, reports and pages tell it, and the documentation has to list it. One with a `Test`
alarms by default.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np

from mooring.drift import measures
from mooring.drift.baseline import Feature
from mooring.drift.common_cells import (
    by_identity,
    is_empty,
    lacking,
    numbers_of,
    numeric_cells,
    outside_of,
    rows_of,
)
from mooring.drift.grid import (
    CategoricalGrid,
    Floats,
    Integers,
    Numbers,
    NumericGrid,
    TextGrid,
    TimestampGrid,
    single,
)
from mooring.drift.null import GammaScores, KolmogorovScores, RangeScores, RateScores, Scores, before_first
from mooring.drift.profile import (
    CategoricalProfile,
    FeatureProfile,
    NumericProfile,
    TimestampProfile,
    with_infinities,
)
from mooring.drift.shift import ShiftScores

_KOLMOGOROV = 1.6
"""The largest ratio of the fourth moment to the squared second for Kolmogorov's law, of which it is 1.4."""

CountMeasure = Callable[[Integers, Integers], Floats]
"""A measure of many pairs of counts at once: reference and current, whose last axis are the cells."""


class Pair:
    """A feature in the baseline and in a window, as measures take it."""

    def __init__(self, feature: Feature, window: FeatureProfile) -> None:
        self.feature = feature
        self.window = window

    @property
    def numbers(self) -> tuple[NumericGrid, NumericProfile, NumericProfile]:
        """The grid of its numbers or of its texts' lengths, and the profiles of the baseline and the window."""
        grid = self.feature.grid.lengths if isinstance(self.feature.grid, TextGrid) else self.feature.grid
        reference, current = numbers_of(self.feature.profile), numbers_of(self.window)
        assert isinstance(grid, NumericGrid)
        assert reference is not None
        assert current is not None
        return grid, reference, current

    @cached_property
    def counts(self) -> list[Integers]:
        """The baseline's counts and the window's, in the baseline's deciles or in each category."""
        if isinstance(self.feature.grid, CategoricalGrid):
            both = self.feature.profile.values, self.window.values
            return by_identity([one for one in both if isinstance(one, CategoricalProfile)])
        grid, *both_numbers = self.numbers
        return numeric_cells(both_numbers, grid, grid.bins)

    @property
    def times(self) -> tuple[TimestampProfile, TimestampProfile]:
        """The profiles of the baseline and the window."""
        reference, current = self.feature.profile.values, self.window.values
        assert isinstance(reference, TimestampProfile)
        assert isinstance(current, TimestampProfile)
        return reference, current


class Layout(NamedTuple):
    """How the counts are laid out that are drawn of a feature: in `starts` begin the cells of `Pair.counts`.

    `edges` are those of numbers' cells, of which `ends` bound what is out of range; with `infinite` there is a
    cell of infinities at either end. `means` are the mean values in the finite cells, of baseline and windows
    together, in standard deviations of the baseline.
    """

    random: np.random.Generator
    starts: Integers | None = None
    edges: Numbers | None = None
    ends: Numbers | None = None
    infinite: bool = False
    means: Floats | None = None

    @property
    def finite(self) -> slice:
        """Where the counts of finite numbers are."""
        return slice(2, -1) if self.infinite else slice(1, None)


class Drawn(NamedTuple):
    """A statistic's values in draws of a window of `size` rows, and what these were drawn from."""

    values: Floats
    size: int
    rows: int
    values_in_baseline: int
    missing: float
    pool: Integers
    layout: Layout


class Test(NamedTuple):
    """What makes a measure alarm by default: more than chance gives, and an effect of `min_effect` at least.

    From an effect of `large` on an alarm is critical. `draw` takes the measure of counts, and `score` brings its
    values to one scale with those of other measures; with `fitted` it goes by the values drawn, else only by what
    these are drawn from. What is `directed` has a sign, and large is what is far from 0. `weight` is how much of
    the feature's chance it gets beside the other measures of its values: the more, the more it finds, and the less
    the others do.
    """

    min_effect: float
    large: float
    draw: Callable[[Layout], CountMeasure]
    score: Callable[[Drawn], Scores] = lambda drawn: GammaScores.fit(drawn.values)
    weight: float = 1.0
    fitted: bool = True
    directed: bool = False


class Measure(NamedTuple):
    """A measure. `grids` are of what it is; of none, it is of rows, whatever their values are.

    `value` is None where there is nothing to tell. A `rate` is told in percent. `reference` is the baseline's own
    value, and with `from_reference` the effect is the difference from that.
    """

    title: str
    definition: str
    grids: tuple[type, ...]
    value: Callable[[Pair], float | None]
    rate: bool = False
    reference: Callable[[Pair], float] | None = None
    from_reference: bool = False
    test: Test | None = None

    def suits(self, feature: Feature) -> bool:
        """Whether it can be taken of a feature."""
        return not self.grids or isinstance(feature.grid, self.grids)

    @property
    def of_rows(self) -> bool:
        """Whether it is of rows, whatever their values are."""
        return not self.grids

    @property
    def of_shares(self) -> bool:
        """Whether it compares the whole of two distributions of numbers or categories."""
        return NumericGrid in self.grids and not self.rate


# What measures are of a feature in two samples


def _ks(pair: Pair) -> float:
    _, reference, current = pair.numbers
    return float(measures.ks(*with_infinities([reference, current])))


def _wasserstein(pair: Pair) -> float:
    grid, reference, current = pair.numbers
    ends = (grid.positions(grid.edges[[0, -1]]) / grid.unit).tolist()
    edges, a, b = _spread(grid, reference.counts, current.counts)
    return measures.wasserstein(
        a,
        b,
        edges / grid.unit,
        below=ends[0] * float(current.counts[0]) - current.low,
        above=current.high - ends[1] * float(current.counts[-1]),
        scale=(grid.scale if grid.scale > 0 else 1.0) / grid.unit,
    )


def _spread(grid: NumericGrid, reference: Integers, current: Integers) -> tuple[Numbers, Integers, Integers]:
    """Return where the cells' values lie, as edges, and counts between these.

    Between the last integer of a cell and the first of the next there are none.
    """
    edges = grid.positions(grid.edges)
    if grid.edges.dtype.kind == "f":
        return edges, reference, current
    a, b = (np.insert(one, np.arange(2, len(edges) + 1), 0) for one in (reference, current))
    return np.insert(edges, np.arange(1, len(edges)), edges[1:] - 1), a, b


def _mean_shift(pair: Pair) -> float:
    grid, reference, current = pair.numbers
    return measures.mean_shift(reference.offset(), current.offset(), grid.scale / grid.unit)


def _out_of_range_rate(pair: Pair) -> float:
    _, reference, current = pair.numbers
    return measures.out_of_range_rate(outside_of(current, reference), current.values + current.infinities)


def _hour_js(pair: Pair) -> float:
    reference, current = pair.times
    return float(measures.js(reference.hours, current.hours))


def _weekday_js(pair: Pair) -> float:
    reference, current = pair.times
    return float(measures.js(reference.weekdays, current.weekdays))


def _longest_gap(pair: Pair) -> float:
    _, current = pair.times
    return float(current.longest_gap()) if current.values else float("nan")


def _null_rate(pair: Pair) -> float:
    return measures.null_rate(lacking(pair.feature, pair.window), rows_of(pair.window))


def _usual_null_rate(pair: Pair) -> float:
    return measures.null_rate(lacking(pair.feature, pair.feature.profile), rows_of(pair.feature.profile))


def _type_change_rate(pair: Pair) -> float | None:
    changed = pair.window.misfits + pair.window.cast
    return changed / rows_of(pair.window) if changed else None


def _of_counts(measure: Callable[[Integers, Integers], Floats]) -> Callable[[Pair], float]:
    """Return a measure of the counts in deciles or categories as one of a pair."""
    return lambda pair: float(measure(*pair.counts))


# What they are of counts that are drawn: the first cell holds the rows without a usable value


def _of_values(measure: CountMeasure, starts: Integers | None = None) -> CountMeasure:
    """Return a measure of the cells that hold values, brought together from `starts` on."""

    def take(reference: Integers, current: Integers) -> Floats:
        a, b = reference[..., 1:], current[..., 1:]
        if starts is not None:
            a, b = np.add.reduceat(a, starts, axis=-1), np.add.reduceat(b, starts, axis=-1)
        return np.nan_to_num(measure(a, b))  # among draws, no value at all is no distance

    return take


def _fast_js(reference: Integers, current: Integers) -> Floats:
    """Return the Jensen-Shannon distance as `measures.js` does, to 1e-7 only but five times as fast."""
    p, q = measures.shares(reference), measures.shares(current)
    divergence = 1 + (_negentropy(p) + _negentropy(q) - _negentropy(p + q)) / (2 * np.log(2))
    counted = (reference.sum(axis=-1) > 0) & (current.sum(axis=-1) > 0)
    return np.asarray(np.sqrt(np.maximum(divergence, 0.0)) * counted, np.float64)


def _negentropy(shares: Floats) -> Floats:
    return np.asarray(np.einsum("...i,...i->...", shares, np.log(np.maximum(shares, 1e-300))), np.float64)


def _new_rate(reference: Integers, current: Integers) -> Floats:
    new = np.sum(current * (reference == 0), axis=-1)
    return np.asarray(new / np.maximum(current.sum(axis=-1), 1), np.float64)


def _outside(layout: Layout) -> CountMeasure:
    """Return the measure of the share of values beyond both ends of the reference.

    From either end cell after cell is gone through until the reference has something in it. In a cell of one value
    that is a tie, and ends it; in another those before the first of the reference are still outside. So are
    infinities where the reference has none of their sign.
    """
    random, edges, ends, infinite = layout.random, layout.edges, layout.ends, layout.infinite
    assert edges is not None
    assert ends is not None
    alone = np.append(single(edges), False)
    places = np.searchsorted(edges, ends)
    half = len(places) // 2
    upper = len(edges)
    up = [(0, False), *((at + 1, bool(alone[at])) for at in range(places[half - 1] + 1 if half else 0))]
    down = [(at + 1, bool(alone[at])) for at in range(upper - 1, places[half] - 1 if half else upper - 1, -1)]

    def walk(reference: Integers, current: Integers, order: list[tuple[int, bool]]) -> Integers:
        found = np.zeros(len(reference), np.int64)
        alive = np.arange(len(reference))
        for cell, tie in order:
            others, own = reference[alive, cell], current[alive, cell]
            free = others == 0
            found[alive[free]] += own[free]
            if not tie:
                found[alive[~free]] += before_first(others[~free], own[~free], random)
            alive = alive[free]
            if not len(alive):
                break
        return found

    def take(reference: Integers, current: Integers) -> Floats:
        a, b = reference[:, layout.finite], current[:, layout.finite]
        outside = np.minimum(walk(a, b, up) + walk(a, b, down), b.sum(axis=1))
        for end in (1, -1) if infinite else ():
            outside = outside + current[:, end] * (reference[:, end] == 0)
        return np.asarray(outside / np.maximum(current[:, 1:].sum(axis=1), 1), np.float64)

    return take


def _null_difference(reference: Integers, current: Integers) -> Floats:
    a, b = (counts[..., 0] / np.maximum(counts.sum(axis=-1), 1) for counts in (reference, current))
    return np.asarray(b - a, np.float64)


def _mean_difference(layout: Layout) -> CountMeasure:
    """Return the measure of the difference of the means, each value taken for the mean of its cell.

    The means of cells are of baseline and windows together, so they are the same whichever rows are drawn as the
    window: what is seen and what is drawn are the same function of counts.
    """
    means = layout.means
    assert means is not None

    def take(reference: Integers, current: Integers) -> Floats:
        a, b = (np.asarray(one[..., layout.finite], np.float64) for one in (reference, current))
        of_a, of_b = a.sum(axis=-1), b.sum(axis=-1)
        difference = b @ means / np.maximum(of_b, 1) - a @ means / np.maximum(of_a, 1)
        # Equal counts are to have equal differences, in whatever order they were added up.
        found = np.asarray(difference, np.float32).astype(np.float64)
        return np.where((of_a > 0) & (of_b > 0), found, 0.0)

    return take


def _score_ks(drawn: Drawn) -> Scores:
    """Return the scores of Kolmogorov's law, or, where values are so few that it is another, of a gamma's."""
    squares = drawn.values**2
    law = np.mean(squares**2) <= _KOLMOGOROV * np.mean(squares) ** 2
    return KolmogorovScores.fit(drawn.values) if law else GammaScores.fit(drawn.values)


def _score_shift(drawn: Drawn) -> Scores:
    means = drawn.layout.means
    assert means is not None
    # The means of window and baseline are compared, whatever other windows are in the pool.
    rows = drawn.size + drawn.rows
    counts = drawn.pool[drawn.layout.finite] * np.float64(rows / max(int(drawn.pool.sum()), 1))
    return ShiftScores.of_pool(counts, means, drawn.size / rows)


def _score_range(drawn: Drawn) -> Scores:
    if not drawn.values_in_baseline:
        return GammaScores.fit(drawn.values)
    return RangeScores(drawn.size / (drawn.values_in_baseline + drawn.size), drawn.size)


_NUMBERS = (NumericGrid, TextGrid)
_COUNTS = (NumericGrid, TextGrid, CategoricalGrid)

MEASURES: dict[str, Measure] = {
    "ks": Measure(
        "KS",
        "Kolmogorov–Smirnov distance: the largest gap between both distribution functions, 0 to 1",
        _NUMBERS,
        _ks,
        test=Test(
            0.05,
            0.2,
            lambda layout: _of_values(measures.ks),
            _score_ks,
        ),
    ),
    "js": Measure(
        "JS",
        "Jensen–Shannon distance to base 2 of the shares in each category, or in the baseline's deciles, where a "
        "value with three of them has a cell of its own, 0 to 1",
        _COUNTS,
        _of_counts(measures.js),
        test=Test(0.05, 0.2, lambda layout: _of_values(_fast_js, layout.starts), weight=0.3),
    ),
    "psi": Measure(
        "PSI", "population stability index of the same shares, 0 and up", _COUNTS, _of_counts(measures.psi)
    ),
    "hellinger": Measure(
        "Hellinger", "Hellinger distance of the same shares, 0 to 1", _COUNTS, _of_counts(measures.hellinger)
    ),
    "total_variation": Measure(
        "total variation",
        "total variation distance, half the sum of the differences of the same shares, 0 to 1",
        _COUNTS,
        _of_counts(measures.total_variation),
    ),
    "l_infinity": Measure(
        "L-infinity",
        "largest difference of one of the same shares, 0 to 1",
        _COUNTS,
        _of_counts(measures.l_infinity),
    ),
    "chi_square": Measure(
        "chi-square",
        "Pearson's chi-square statistic of two samples, on the same cells, 0 and up",
        _COUNTS,
        _of_counts(measures.chi_square),
    ),
    "wasserstein": Measure(
        "Wasserstein", "Wasserstein-1 distance, in standard deviations of the baseline", _NUMBERS, _wasserstein
    ),
    "mean_shift": Measure(
        "mean shift",
        "difference of the means, in standard deviations of the baseline",
        _NUMBERS,
        _mean_shift,
        test=Test(0.1, 0.5, _mean_difference, _score_shift, weight=0.5, fitted=False, directed=True),
    ),
    "out_of_range_rate": Measure(
        "out of range",
        "share of values below or above all of the baseline's finite ones, and of infinities of a sign that it "
        "lacks",
        _NUMBERS,
        _out_of_range_rate,
        rate=True,
        test=Test(0.01, 0.1, _outside, _score_range, weight=0.1),
    ),
    "new_category_rate": Measure(
        "new categories",
        "share of values in categories that the baseline does not have",
        (CategoricalGrid,),
        _of_counts(measures.new_category_rate),
        rate=True,
        test=Test(
            0.01,
            0.1,
            lambda layout: _of_values(_new_rate),
            lambda drawn: RateScores.fit(drawn.values, drawn.size),
            weight=0.3,
        ),
    ),
    "hour_js": Measure(
        "JS of hours", "Jensen–Shannon distance of the hours of the day (UTC)", (TimestampGrid,), _hour_js
    ),
    "weekday_js": Measure(
        "JS of weekdays", "Jensen–Shannon distance of the days of the week (UTC)", (TimestampGrid,), _weekday_js
    ),
    "longest_gap": Measure(
        "longest gap",
        "most days between two values between which there is none",
        (TimestampGrid,),
        _longest_gap,
        reference=lambda pair: float(pair.times[0].longest_gap()),
    ),
    "null_rate": Measure(
        "missing",
        "share of rows without a usable value: null, NaN, of another type",
        (),
        _null_rate,
        rate=True,
        reference=_usual_null_rate,
        from_reference=True,
        test=Test(
            0.01,
            0.1,
            lambda layout: _null_difference,
            lambda drawn: RateScores(drawn.missing, drawn.size, drawn.rows),
            directed=True,
        ),
    ),
    "type_change_rate": Measure(
        "of another type",
        "share of rows whose value came as another type, cast or not",
        (),
        _type_change_rate,
        rate=True,
    ),
}
"""Every measure by its name, in the order of a verdict's results."""


def tests_of(feature: Feature) -> dict[str, Test]:
    """Return what alarms by default of a feature; of one that was empty only what is of rows."""
    empty = is_empty(feature.profile)
    return {
        name: one.test
        for name, one in MEASURES.items()
        if one.test is not None and one.suits(feature) and not (empty and one.grids)
    }


def min_effect(measure: str) -> float:
    """Return the least effect of a measure that alarms by default; 0 of what does not, or is not known here."""
    test = MEASURES[measure].test if measure in MEASURES else None
    return test.min_effect if test is not None else 0.0
