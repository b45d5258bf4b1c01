"""The statistics that alarm, of one feature: what the windows show, and what draws give of them.

A feature's counts are brought to common cells: the first holds the rows without a usable value, the others its
values. A draw takes windows of the same sizes out of baseline and windows together; so all measures of a feature,
and the window alone and merged with those before it, are drawn jointly.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from mooring.drift.baseline import Feature
from mooring.drift.common_cells import (
    by_identity,
    cell_means,
    is_empty,
    lacking,
    numbers_of,
    numeric_cells,
    rows_of,
)
from mooring.drift.grid import CategoricalGrid, Floats, Integers, NumericGrid, TextGrid, following
from mooring.drift.measure_table import MEASURES, CountMeasure, Drawn, Layout, Test, tests_of
from mooring.drift.null import POPULATION, Scores, nested, thin
from mooring.drift.profile import CategoricalProfile, FeatureProfile

_DRAWN_AT_ONCE = 131_072  # counts, so that they stay in the processor's cache

MERGED = 0.1
"""The weight of windows merged beside the window alone."""


class Statistic(NamedTuple):
    """One of a feature's statistics: a measure of the newest `scale` windows together."""

    measure: str
    scale: int


class DrawnCells(NamedTuple):
    """A feature's counts, baseline and window increments, on common cells, and how these are laid out."""

    baseline: Integers
    windows: list[Integers]
    layout: Layout


class PooledCounts(NamedTuple):
    """What is drawn from: baseline and windows together, the increments in it, and the sizes of the windows."""

    counts: Integers
    parts: list[Integers]
    sizes: list[int]


class FeatureNull:
    """Draws of a feature's statistics, as many as are asked for.

    Parameters
    ----------
    feature
        The baseline's part.
    windows
        Increments, newest first: the window, then those that it is merged with at the second scale, and so on.
    scales
        How many windows each increment reaches back to, such as 1, 4, 16.
    effective
        The effective rows, as if these were independent, of the windows up to each scale.
    reference_rows
        The same of the baseline; None are its rows.

    `questions` are what is asked of the feature, each by the places of its statistics. `log_weights` are added to
    the scores of these before they compete for the question's largest: what weighs most loses little by having
    others beside it. `signs` tell a rise from a fall where a statistic is directed, as draws of it do.
    """

    def __init__(
        self,
        feature: Feature,
        windows: Sequence[FeatureProfile],
        scales: Sequence[int],
        effective: Sequence[float],
        random: np.random.Generator,
        reference_rows: float | None = None,
    ) -> None:
        self._reference_rows = reference_rows
        self._cells = cells_of(feature, windows, random)
        self._random = random
        self._effective = effective
        self._tests: dict[str, Test] = tests_of(feature)
        self._measures: list[CountMeasure] = [test.draw(self._cells.layout) for test in self._tests.values()]
        self._scores: dict[int, Scores] = {}
        merged = np.cumsum(self._cells.windows, axis=0)
        self.statistics = [Statistic(name, scale) for scale in scales for name in self._tests]
        weights = [
            self._tests[one.measure].weight * (1.0 if one.scale == 1 else MERGED) for one in self.statistics
        ]
        self.log_weights: Floats = np.log(np.array(weights))
        self.questions = self._questions()
        seen = [measure(self._cells.baseline[None], one[None]) for one in merged for measure in self._measures]
        self.signs: Floats = np.sign(np.concatenate(seen))
        self.observed: Floats = np.abs(np.concatenate(seen))

    def _questions(self) -> list[Integers]:
        """Return which statistics are about the values, and which about how many are missing, if any ever are.

        How many are missing tells nothing of the values that are there: drawn jointly, the one would only cost the
        other. As rows are drawn from baseline and windows together, it is not chance whether any of these are.
        """
        of_rows = np.array([MEASURES[one.measure].of_rows for one in self.statistics])
        missing = any(counts[0] > 0 for counts in (self._cells.baseline, *self._cells.windows))
        return [np.flatnonzero(one) for one in (~of_rows, of_rows & missing) if one.any()]

    def direction(self, question: int) -> int | None:
        """Return which statistic says whether what a question is about rose or fell; None where none does."""
        directed = (at for at in self.questions[question] if self._tests[self.statistics[at].measure].directed)
        return next(directed, None)

    @cached_property
    def _pool(self) -> PooledCounts:
        """The pool, in which each window counts with its effective rows.

        It is made when something is drawn: nothing is where all effects are too small, which is the usual case.
        """
        parts, sizes, size = [], [], 0
        share = min(1.0, POPULATION / 2 / max(*self._effective, 1.0))
        for window, rows in zip(self._cells.windows, self._effective, strict=True):
            part = thin(window, max(round(rows * share) - size, 0), self._random)
            parts.append(part)
            size += int(part.sum())
            sizes.append(size)
        most = POPULATION - size
        if self._reference_rows is not None:
            most = min(most, round(self._reference_rows))
        baseline = thin(self._cells.baseline, most, self._random)
        return PooledCounts(baseline + np.sum(parts, axis=0), parts, sizes)

    def draw(self, count: int) -> Floats:
        """Return the statistics of `count` draws, an array (count, statistics)."""
        at_once = max(1, _DRAWN_AT_ONCE // len(self._pool.counts))
        parts = [self._draw(min(at_once, count - start)) for start in range(0, count, at_once)]
        return np.concatenate(parts)

    def _draw(self, count: int) -> Floats:
        windows = nested(self._pool.counts, self._pool.sizes, count, self._random)
        baseline = self._pool.counts - windows[-1]
        return np.stack([measure(baseline, window) for window in windows for measure in self._measures], axis=1)

    def scores(self, drawn: Floats) -> list[Scores]:
        """Return what brings each statistic to one scale, given draws of all."""
        sizes = dict(
            zip((one.scale for one in self.statistics[:: len(self._tests)]), self._pool.sizes, strict=True)
        )
        pool, baseline = self._pool.counts, self._cells.baseline
        missing = float(pool[0]) / max(int(pool.sum()), 1)
        rows, values = int(baseline.sum()), int(baseline[1:].sum())
        if self._reference_rows is not None and self._reference_rows < rows:
            rows, values = round(self._reference_rows), round(values * self._reference_rows / rows)
        for at, one in enumerate(self.statistics):
            test = self._tests[one.measure]
            if test.fitted or at not in self._scores:
                size = max(sizes[one.scale], 1)
                self._scores[at] = test.score(
                    Drawn(drawn[:, at], size, rows, values, missing, pool, self._cells.layout)
                )
        return [self._scores[at] for at in range(len(self.statistics))]

    def least_p_value(self) -> float:
        """Return the probability of drawing just these windows: no statistic of theirs can be less likely.

        Where few rows differ from the others, such as one odd value among a million, that is not small, and what
        a few draws show of it says nothing.
        """
        increments = self._pool.parts
        parts = np.stack([*increments, self._pool.counts - np.sum(increments, axis=0)]).astype(np.float64)
        return float(np.exp(min(_ways(parts.sum(axis=0)).sum() + _ways(parts.sum(axis=1)).sum()
                                - _ways(parts).sum() - _ways(parts.sum()), 0.0)))  # fmt: skip


def _ways(counts: ArrayLike) -> Floats:
    return np.asarray(special.gammaln(np.asarray(counts, np.float64) + 1), np.float64)


def cells_of(feature: Feature, windows: Sequence[FeatureProfile], random: np.random.Generator) -> DrawnCells:
    """Return the counts of a feature, as they are drawn."""
    profiles, layout = [feature.profile, *windows], Layout(random)
    match feature.grid:
        case _ if is_empty(feature.profile):  # there is nothing to compare with, but values where there were none
            counts = [np.array([rows_of(one) - lacking(feature, one)]) for one in profiles]
        case NumericGrid() | TextGrid():
            grid = feature.grid if isinstance(feature.grid, NumericGrid) else feature.grid.lengths
            # The cells of single values too: where all move by less than their spacing, nothing else shows it.
            steps = grid.steps[::2]
            alone = np.intersect1d(following(steps), grid.edges)
            edges = np.unique(np.concatenate([steps, alone, grid.bins, grid.ends]))
            numbers = [one for one in map(numbers_of, profiles) if one is not None]
            counts = numeric_cells(numbers, grid, edges)
            starts = np.concatenate(([0, 1], np.searchsorted(edges, grid.bins) + 2, [len(edges) + 2]))
            infinite = any(one.infinities for one in numbers)
            if not infinite:  # draws go on as they always did: verdicts can be computed again
                counts, starts = [one[1:-1] for one in counts], starts[1:-1] - 1
            layout = Layout(random, starts, edges, grid.ends, infinite, cell_means(numbers, grid, edges))
        case CategoricalGrid():
            counts = by_identity([one.values for one in profiles if isinstance(one.values, CategoricalProfile)])
        case _:
            counts = [np.array([one.values.values]) for one in profiles]
    filled = [
        np.concatenate(([lacking(feature, one)], count)) for one, count in zip(profiles, counts, strict=True)
    ]
    return DrawnCells(filled[0], filled[1:], layout)
