"""What each feature of a window is compared with, given the hour and the day: all before it, or its like.

A feature is compared with all windows before, its like (the same hours of earlier days), or both. Both it is as
long as nobody can know whether it is seasonal: then only what is unlike both counts. Where there is no like yet,
on the first day and the first weekend, it is held back, unless it leaves what was seen by more than that swings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import reduce
from operator import add
from typing import NamedTuple

import msgspec
import numpy as np

from mooring.drift.baseline import Baseline
from mooring.drift.grid import Floats
from mooring.drift.judgement import Result
from mooring.drift.likes import BlockLikes, Like, mixed
from mooring.drift.measure_table import MEASURES
from mooring.drift.profile import Profile
from mooring.drift.seasons import (
    DAYS,
    HOURS,
    HOURS_KNOWN,
    KINDS_KNOWN,
    Place,
    SlotSums,
    WindowScores,
    is_weekend,
    scores_of,
    seasons_of,
)
from mooring.monitor.slots import ChangedSlot, Slot, SlotPast, StreamSlots
from mooring.state.slots import SlotKey

_JUMP = 1.85
"""How many times as large as a critical effect a jump has to be; one of 1 standard deviation is."""
_SWINGS = 1.5
_NOISE = 2.0
_TOO_FEW = 4
_PER_HOUR = 0.4
"""How many standard deviations a strong rhythm may move in an hour, while too few windows show how it swings."""
_LOOKS = (1, 7, 14)
_OWN_VISITS = 2
_BLOCK = 16


class Season(msgspec.Struct):
    """What is known of the seasons of a part of a stream.

    `days` are how many days with windows there were, `day` the last of them, `weekdays` and `weekends` how many of
    them were such. `hourly`, `by_kind` and `weekly` are the features that differ by hour of the day, by weekday
    and weekend, and by hour of the week, as `decided` after so many days. `low` and `high` are the least and
    greatest scores of its `windows`. `of_4` and `of_16` are the references of the running blocks. `streak` are the
    calm windows of an open incident, and `streak_likes` their references. `looks` counts comparisons of whole days
    since `begun`; the `last` window ended then.
    """

    begun: datetime | None = None
    last: datetime | None = None
    looks: int = 0
    days: int = 0
    day: int = 0
    weekdays: int = 0
    weekends: int = 0
    decided: int = 0
    hourly: list[str] = []
    by_kind: list[str] = []
    weekly: list[str] = []
    windows: int = 0
    low: Floats = msgspec.field(default_factory=lambda: np.zeros(0))
    high: Floats = msgspec.field(default_factory=lambda: np.zeros(0))
    of_4: BlockLikes = msgspec.field(default_factory=BlockLikes)
    of_16: BlockLikes = msgspec.field(default_factory=BlockLikes)
    streak: Profile | None = None
    streak_likes: BlockLikes = msgspec.field(default_factory=BlockLikes)

    @property
    def seasonal(self) -> set[str]:
        """The features that are known to be seasonal."""
        return {*self.hourly, *self.by_kind, *self.weekly}

    def on(self, place: Place) -> Season:
        """Return what it is on the day of a window."""
        if place.day <= self.day:
            return self
        weekend = place.weekend
        return msgspec.structs.replace(
            self,
            days=self.days + 1,
            day=place.day,
            weekdays=self.weekdays + (not weekend),
            weekends=self.weekends + weekend,
        )

    def look_is_due(self, end: datetime) -> bool:
        """Whether all windows so far are of whole days, after which they are compared with the baseline alone."""
        if self.begun is None:
            return False
        days = _LOOKS[self.looks] if self.looks < len(_LOOKS) else _LOOKS[-1] * 2 ** (self.looks - len(_LOOKS) + 1)
        return end >= self.begun + timedelta(days=days)

    def first_day(self, end: datetime) -> bool:
        """Whether a window that ends then is of the first day."""
        return self.begun is None or end < self.begun + timedelta(days=1)


class Plan(NamedTuple):
    """What the features of a window are compared with.

    `pooled` with all windows before, `alike` with `likes`; what is in both has to differ from both. `held` has no
    like; of it only what is in `passed` is compared, with all windows before.
    """

    season: Season
    place: Place
    scores: WindowScores
    pooled: frozenset[str]
    alike: frozenset[str]
    held: frozenset[str]
    passed: frozenset[str]
    likes: dict[str, Like]
    of_4: BlockLikes
    of_16: BlockLikes

    def likes_of(self, length: int) -> dict[str, Like]:
        """Return the references of the block of so many windows that ends with this one."""
        if length == 1:
            return self.likes
        return (self.of_4 if length < _BLOCK else self.of_16).likes

    @property
    def known(self) -> frozenset[str]:
        """The features that are seasonal for sure, and have a like."""
        return self.alike - self.pooled


def decided(season: Season, place: Place, names: list[str], slots: StreamSlots, key: SlotKey) -> Season:
    """Return what is known of the seasons as a window comes; it is decided anew after 2, 4, 8 … days.

    `names` say which feature each score is of.
    """
    days = season.days
    if place.day <= season.day or days < HOURS_KNOWN or days & (days - 1) or days == season.decided:
        return season
    found = seasons_of(names, slots.sums(key), days)
    return msgspec.structs.replace(
        season,
        decided=days,
        hourly=sorted(found.hourly),
        by_kind=sorted(found.by_kind),
        weekly=sorted(found.weekly),
    )


def plan(
    season: Season,
    place: Place,
    baseline: Baseline,
    window: Profile,
    slots: StreamSlots,
    key: SlotKey,
    *,
    windows: int,
    end: datetime,
    results: Iterable[Result],
) -> Plan:
    """Return what the features of a window are compared with.

    `windows` are how many the stream had before, `end` is that of this one, and `results` are its own against the
    baseline.
    """
    scores = scores_of(baseline, window)
    season = decided(season, place, scores.features, slots, key).on(place)
    references = _References(slots, key, place)
    block = windows // _BLOCK
    pooled: set[str] = set()
    alike: set[str] = set()
    held: set[str] = set()
    likes: dict[str, Like] = {}
    frozen: dict[str, Like] = {}
    one_kind = not season.weekends or not season.weekdays
    hours_known, kinds_known = season.decided >= HOURS_KNOWN, season.decided >= KINDS_KNOWN
    for name, feature in baseline.features.items():
        if feature.role == "label":
            continue
        seasonal = name in season.seasonal
        settled = hours_known and not seasonal and (kinds_known or one_kind)
        if name in baseline.past or settled:
            pooled.add(name)
            continue
        group = _group(name, season, kinds_known)
        like = mixed(references.shares(group), name, window.rows)
        if like is None:
            held.add(name)
            continue
        alike.add(name)
        if not seasonal:
            pooled.add(name)
        likes[name] = like
        if not references.runs(group, block):
            frozen[name] = like
        elif (before := mixed(references.shares(group, block), name, window.rows)) is not None:
            frozen[name] = before
    passed = _passed(season, scores, window, held, end, results)
    of_4 = season.of_4.after(frozen, place.slot, window.rows)
    of_16 = season.of_16.after(frozen, place.slot, window.rows)
    return Plan(
        season,
        place,
        scores,
        frozenset(pooled),
        frozenset(alike),
        frozenset(held),
        frozenset(passed),
        likes,
        of_4,
        of_16,
    )


def _group(name: str, season: Season, kinds_known: bool) -> str:
    if name in season.weekly:
        return "week"
    return "kind" if name in season.by_kind or not kinds_known else "day"


class _References:
    """The profiles of the hours of the week that are like a window's, each read once."""

    def __init__(self, slots: StreamSlots, key: SlotKey, place: Place) -> None:
        self._slots = slots
        self._key = key
        self._place = place
        self._found: dict[tuple[str, int | None], list[tuple[float, Profile]]] = {}

    def shares(self, group: str, block: int | None = None) -> list[tuple[float, Profile]]:
        """Return the profile of the hours that are like, and of those next to it, with their shares.

        With `block` without the windows of that block.
        """
        if (group, block) not in self._found:
            place = self._place
            found: list[tuple[float, Profile]] = []
            for number, share in ((place.slot, 1 - place.share), (place.neighbour, place.share)):
                profile = self._profile(number, group, block) if share else None
                if profile is not None:
                    found.append((share, profile))
                elif number == place.slot:
                    break
            self._found[group, block] = found
        return self._found[group, block]

    def runs(self, group: str, block: int) -> bool:
        """Whether any window of the block is among what is like."""
        numbers = {self._place.slot, self._place.neighbour}
        there = (slot for number in numbers for slot in self._like(number, group))
        return any(slot.past.block == block and slot.past.running is not None for slot in there)

    def _profile(self, number: int, group: str, block: int | None) -> Profile | None:
        slots = self._like(number, group)
        if not any(slot.sums.visits_before(self._place.day) for slot in slots):
            return None
        profiles = [one for slot in slots if (one := slot.past.before(block)) is not None and one.rows]
        return reduce(add, profiles) if profiles else None

    def _like(self, number: int, group: str) -> list[Slot]:
        """Return the hours that are like one of the week: it alone, of the same kind of day, or of all days."""
        own = self._slots.at(self._key, number)
        if group == "week" and own is not None and own.sums.visits_before(self._place.day) >= _OWN_VISITS:
            return [own]
        same = [number % HOURS + HOURS * day for day in range(DAYS)]
        kind = [one for one in same if group == "day" or is_weekend(one) == is_weekend(number)]
        return [slot for one in kind if (slot := self._slots.at(self._key, one)) is not None]


def _passed(
    season: Season,
    scores: WindowScores,
    window: Profile,
    held: set[str],
    end: datetime,
    results: Iterable[Result],
) -> set[str]:
    """Return which features jumped, or leave what was seen so far by more than that swings."""
    if not held:
        return set()
    jumped = held & {one.feature for one in results if is_jump(one)}
    if season.last is None or len(season.low) != len(scores.means):
        return jumped
    noise = _NOISE * scores.deviations / max(window.effective_rows, 1.0) ** 0.5
    least = np.maximum(_SWINGS * (season.high - season.low), _SWINGS * noise)
    if season.windows < _TOO_FEW:
        hours = max((end - season.last).total_seconds() / 3600, 0.0)
        least = np.maximum(least, _PER_HOUR * hours * scores.deviations)
    beyond = np.maximum(scores.means - season.high, season.low - scores.means)
    left = {name for name, far in zip(scores.features, beyond > least, strict=True) if far}
    return jumped | (held & left)


def is_jump(result: Result) -> bool:
    """Whether a result is of a jump that nothing holds back."""
    test = MEASURES[result.measure].test
    return test is not None and (result.excess or 0.0) * test.min_effect >= _JUMP * test.large


def taken_up(
    plan: Plan, window: Profile, slots: StreamSlots, key: SlotKey, *, windows: int, start: datetime, end: datetime
) -> tuple[Season, ChangedSlot]:
    """Return what is known of the seasons after a window, and its hour of the week; `windows` were before it."""
    season, place, scores = plan.season, plan.place, plan.scores
    fresh = not season.windows or len(season.low) != len(scores.means)
    count = windows + 1
    after = msgspec.structs.replace(
        season,
        begun=season.begun or start,
        last=end if season.last is None else max(season.last, end),
        windows=1 if fresh else season.windows + 1,
        low=scores.means if fresh else np.minimum(season.low, scores.means),
        high=scores.means if fresh else np.maximum(season.high, scores.means),
        of_4=BlockLikes() if count % 4 == 0 else plan.of_4,
        of_16=BlockLikes() if count % _BLOCK == 0 else plan.of_16,
    )
    own = slots.at(key, place.slot)
    sums = own.sums if own is not None else SlotSums()
    past = own.past if own is not None else SlotPast()
    changed = Slot(
        sums.after(place.day, window.effective_rows, scores.means), past.after(window, windows // _BLOCK)
    )
    return after, ChangedSlot(key, place.slot, changed)


def overlaid(
    results: Iterable[Result], names: Iterable[str], instead: Mapping[str, Iterable[Result]]
) -> list[Result]:
    """Return results with those of some features left out, and others in their place or beside them."""
    out = set(names)
    kept = [one for one in results if one.feature not in out]
    return [*kept, *(one for name in sorted(instead) for one in instead[name])]
