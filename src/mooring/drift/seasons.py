"""Whether a feature follows the clock or the week: tests over the 168 hours of the week.

Of each hour of the week a few sums are kept: of scores of each feature, which are bounded means such as the mean
rank of its values among the baseline's. A feature is seasonal where the hours of the day, or weekdays and
weekends, differ by more than the same hour does from day to day: what varies by itself so does not count.

References
----------
Scheffé, H. (1959). The Analysis of Variance. Wiley.

"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, tzinfo
from typing import NamedTuple

import msgspec
import numpy as np
from scipy import stats

from mooring.drift.baseline import Baseline, Feature
from mooring.drift.common_cells import lacking, numbers_of, rows_of
from mooring.drift.grid import Floats, Integers
from mooring.drift.profile import CategoricalProfile, FeatureProfile, Profile

HOURS, DAYS = 24, 7
SLOTS = HOURS * DAYS
SATURDAY = 5
FALSE_POSITIVES = 0.01
"""How probable it is that a decision takes any feature of an unseasonal stream for seasonal."""
HOURS_KNOWN, KINDS_KNOWN, WEEK_KNOWN = 2, 8, 16
"""After how many days it can be decided on: the hour of the day, weekday and weekend, the hour of the week."""
_CATEGORIES = 3
_FEW = 3


class Place(NamedTuple):
    """Where in the week a window lies.

    `slot` is the hour of the week of its middle, from Monday 0:00. `neighbour` is the hour that its middle is
    nearest to beside that, and `share` how much of it is to be taken from there, so that a window at the end of an
    hour is half of the next one. `day` counts days since the year 1.
    """

    slot: int
    day: int
    neighbour: int
    share: float

    @property
    def weekend(self) -> bool:
        """Whether it is on a Saturday or a Sunday."""
        return is_weekend(self.slot)


def place_of(start: datetime, end: datetime, zone: tzinfo) -> Place:
    """Return where in the week a window lies, by the clocks of a time zone.

    >>> from datetime import UTC
    >>> place_of(datetime(2026, 3, 3, 5, tzinfo=UTC), datetime(2026, 3, 3, 6, tzinfo=UTC), UTC)[0]
    29
    >>> late = place_of(datetime(2026, 3, 3, 5, 50, tzinfo=UTC), datetime(2026, 3, 3, 6, tzinfo=UTC), UTC)
    >>> late.neighbour, round(late.share, 3)
    (30, 0.417)
    """
    middle = (start + (end - start) / 2).astimezone(zone)
    slot = middle.weekday() * HOURS + middle.hour
    off = (middle.minute * 60 + middle.second) / 3600 - 0.5
    if end - start > timedelta(hours=1) or abs(off) < 0.05:
        return Place(slot, middle.toordinal(), slot, 0.0)
    return Place(slot, middle.toordinal(), (slot + (1 if off > 0 else -1)) % SLOTS, abs(off))


def is_weekend(slot: int) -> bool:
    """Whether an hour of the week is one of a Saturday or a Sunday.

    >>> is_weekend(5 * 24 - 1), is_weekend(5 * 24)
    (False, True)
    """
    return slot // HOURS >= SATURDAY


class WindowScores(NamedTuple):
    """The scores of a window: which feature each is of, the means, and the deviation of a single row."""

    features: list[str]
    means: Floats
    deviations: Floats


def scores_of(baseline: Baseline, window: Profile) -> WindowScores:
    """Return the scores of a window."""
    names: list[str] = []
    means: list[float] = []
    deviations: list[float] = []
    for name, feature in baseline.features.items():
        if feature.role == "label":
            continue
        for mean, deviation in _scores(feature, window.features[name]):
            names.append(name)
            means.append(mean)
            deviations.append(deviation)
    return WindowScores(names, np.array(means), np.array(deviations))


def _scores(feature: Feature, window: FeatureProfile) -> list[tuple[float, float]]:
    rows = rows_of(window)
    usual = lacking(feature, feature.profile) / max(rows_of(feature.profile), 1)
    found = [(lacking(feature, window) / max(rows, 1), _deviation(usual))]
    numbers, reference = numbers_of(window), numbers_of(feature.profile)
    if numbers is not None and reference is not None:
        if not reference.values:
            return found
        counts, total = numbers.counts, max(numbers.values, 1)
        ranks = (np.cumsum(reference.counts) - reference.counts / 2) / reference.values
        off = 2 * ranks - 1
        for score in (off, off**2):
            own = float(score @ reference.counts) / reference.values
            spread = float(((score - own) ** 2) @ reference.counts) / reference.values
            mean = float(score @ counts) / total if numbers.values else own
            found.append((mean, float(np.sqrt(spread))))
    elif isinstance(window.values, CategoricalProfile) and isinstance(feature.profile.values, CategoricalProfile):
        own_counts: Integers = feature.profile.values.counts
        order = np.argsort(-own_counts, kind="stable")
        # The largest categories each, and of all every second one, by their size.
        groups: list[Integers] = [*(order[at : at + 1] for at in range(min(_CATEGORIES, len(order)))), order[::2]]
        values, own_values = max(window.values.values, 1), max(feature.profile.values.values, 1)
        for group in groups:
            share = float(window.values.counts[group].sum()) / values
            found.append((share, _deviation(float(own_counts[group].sum()) / own_values)))
    return found


def _deviation(share: float) -> float:
    return float(np.sqrt(max(share * (1 - share), 0.0)))


class SlotSums(msgspec.Struct):
    """The sums of an hour of the week: how often it came, its rows, and of each score total and squares of means.

    The visit that goes on, that of `day`, is kept apart until the next one begins.
    """

    visits: int = 0
    rows: float = 0.0
    total: Floats = msgspec.field(default_factory=lambda: np.zeros(0))
    squares: Floats = msgspec.field(default_factory=lambda: np.zeros(0))
    day: int = 0
    visit_rows: float = 0.0
    visit_total: Floats = msgspec.field(default_factory=lambda: np.zeros(0))

    def after(self, day: int, rows: float, means: Floats) -> SlotSums:
        """Return the sums after one more window of a day, with so many independent rows and these scores."""
        if self.visit_rows and self.day == day and len(self.visit_total) == len(means):
            return msgspec.structs.replace(
                self, visit_rows=self.visit_rows + rows, visit_total=self.visit_total + rows * means
            )
        settled = self.settled(len(means))
        return msgspec.structs.replace(settled, day=day, visit_rows=rows, visit_total=rows * means)

    def settled(self, scores: int) -> SlotSums:
        """Return the sums with the visit that went on taken for ended."""
        if not self.visit_rows or len(self.visit_total) != scores:
            none = np.zeros(scores)
            return self if len(self.total) == scores else SlotSums(total=none, squares=none)
        total, squares = (one if len(one) == scores else np.zeros(scores) for one in (self.total, self.squares))
        return SlotSums(
            self.visits + 1,
            self.rows + self.visit_rows,
            total + self.visit_total,
            squares + self.visit_total**2 / self.visit_rows,
        )

    def visits_before(self, day: int) -> int:
        """Return on how many days before this one the hour was seen."""
        return self.visits + (1 if self.visit_rows and self.day < day else 0)


class Seasons(NamedTuple):
    """Which features differ by hour of the day, by weekday and weekend, and beyond that by hour of the week."""

    hourly: frozenset[str] = frozenset()
    by_kind: frozenset[str] = frozenset()
    weekly: frozenset[str] = frozenset()


def seasons_of(names: list[str], sums: Mapping[int, SlotSums], days: int) -> Seasons:
    """Return which features are seasonal, by the sums of all hours of the week after so many days.

    `names` say which feature each score is of.
    """
    slots = np.array(sorted(sums), np.int64)
    settled = [sums[int(slot)].settled(len(names)) for slot in slots]
    rows = np.array([one.rows for one in settled])
    there = rows > 0
    if days < HOURS_KNOWN or np.count_nonzero(there) < _FEW or not names:
        return Seasons()
    slots, rows, kept = slots[there], rows[there], [one for one in settled if one.rows > 0]
    table = _HourTable(
        slots,
        rows,
        np.stack([one.total for one in kept]) / rows[:, None],
        np.stack([one.squares for one in kept]),
        np.array([one.visits for one in kept]),
    )
    most = FALSE_POSITIVES / len(names)
    hourly = table.by_hour() < most
    by_kind = table.by_kind() < most if days >= KINDS_KNOWN else np.zeros(len(names), bool)
    weekly = table.by_week() < most if days >= WEEK_KNOWN else np.zeros(len(names), bool)
    return Seasons(*(frozenset(np.array(names)[one].tolist()) for one in (hourly, by_kind, weekly)))


class _HourTable(NamedTuple):
    """Means of scores by hour of the week, with their weights, the sums of squares of visits, and their number."""

    slots: Integers
    rows: Floats
    means: Floats
    squares: Floats
    visits: Integers

    def by_hour(self) -> Floats:
        """Return the p-values of hours of the day that differ, whatever days do."""
        days, hours = _columns(self.slots // HOURS), _columns(self.slots % HOURS)
        return self._p_values(days, np.hstack([days, hours]))

    def by_kind(self) -> Floats:
        """Return the p-values of weekends that differ from weekdays, in their mean or in their hours."""
        weekend = self.slots // HOURS >= SATURDAY
        if weekend.all() or not weekend.any():
            return np.ones(self.means.shape[1])
        days, hours = _columns(self.slots // HOURS), _columns(self.slots % HOURS)
        both = np.hstack([days, hours])
        apart = self._p_values(both, np.hstack([both, hours * weekend[:, None]]))
        return np.asarray(np.minimum(1.0, 2 * np.minimum(apart, self._weekends(hours))), np.float64)

    def _weekends(self, hours: Floats) -> Floats:
        """Return the p-values of means of weekends that differ from those of weekdays by more than these vary."""
        days = self.slots // HOURS
        _, of_hours = _fitted(hours, self.means, self.rows)  # what hours leave over is of the day
        there = np.unique(days)
        weights = np.array([self.rows[days == day].sum() for day in there])
        means = np.stack([self.rows[days == day] @ of_hours[days == day] for day in there]) / weights[:, None]
        kinds = _columns((there >= SATURDAY).astype(np.int64))
        return _f_test(np.ones((len(there), 1)), kinds, means, weights)

    def by_week(self) -> Floats:
        """Return the p-values of hours of the week that differ beyond hour and weekend, by how visits vary."""
        within = self.squares.sum(axis=0) - (self.rows[:, None] * self.means**2).sum(axis=0)
        freedom = int((self.visits - 1).sum())
        kinds = _columns(self.slots % HOURS + HOURS * (self.slots // HOURS >= SATURDAY))
        _, rest = _fitted(kinds, self.means, self.rows)
        more = len(self.slots) - kinds.shape[1]
        if freedom < _FEW or more < 1:
            return np.ones(self.means.shape[1])
        between = (self.rows[:, None] * rest**2).sum(axis=0) / more
        return _upper(np.asarray(between), np.maximum(within, 0.0) / freedom, more, freedom)

    def _p_values(self, plain: Floats, full: Floats) -> Floats:
        return _f_test(plain, full, self.means, self.rows)


def _columns(groups: Integers) -> Floats:
    """Return a column of zeros and ones for each group."""
    return np.asarray(groups[:, None] == np.unique(groups)[None, :], np.float64)


def _fitted(design: Floats, means: Floats, weights: Floats) -> tuple[int, Floats]:
    """Return the rank of a weighted least-squares fit, and what it leaves over."""
    root = np.sqrt(weights)[:, None]
    found, _, rank, _ = np.linalg.lstsq(design * root, means * root, rcond=None)
    return int(rank), np.asarray(means - design @ found, np.float64)


def _f_test(plain: Floats, full: Floats, means: Floats, weights: Floats) -> Floats:
    """Return the p-values of what `full` explains beyond `plain`, by the F-test."""
    rank, rest = _fitted(plain, means, weights)
    full_rank, full_rest = _fitted(full, means, weights)
    more, freedom = full_rank - rank, len(weights) - full_rank
    if more < 1 or freedom < _FEW:
        return np.ones(means.shape[1])
    left, full_left = (np.asarray(weights @ one**2, np.float64) for one in (rest, full_rest))
    return _upper(np.maximum(left - full_left, 0.0) / more, full_left / freedom, more, freedom)


def _upper(between: Floats, within: Floats, more: int, freedom: int) -> Floats:
    """Return the probability of such a quotient or a larger one; 1 of what never varies."""
    varies = between > 1e-15
    quotient = np.divide(between, np.maximum(within, 1e-18), out=np.zeros_like(between), where=varies)
    return np.asarray(np.where(varies, stats.f.sf(quotient, more, freedom), 1.0), np.float64)
