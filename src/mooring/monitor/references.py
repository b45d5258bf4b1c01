"""What a window of a part is compared with: all windows before it, or its like by the calendar."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, tzinfo
from typing import NamedTuple

import msgspec

from mooring.drift.blocks import BlockPValue
from mooring.drift.evidence import NOTHING
from mooring.drift.judgement import Result
from mooring.drift.likes import BlockLikes, Like
from mooring.drift.profile import Profile
from mooring.drift.seasons import KINDS_KNOWN, place_of
from mooring.monitor.parts import CALM_WINDOWS, Part, PartEvidence
from mooring.monitor.seasonal import Plan, Season, overlaid, plan, taken_up
from mooring.monitor.slots import ChangedSlot, StreamSlots
from mooring.state.slots import SlotKey
from mooring.state.windows import Window


class Calendar(NamedTuple):
    """What is known of the hours of the week, by the clocks of a zone.

    `special` is the name of a time that is not usual, a holiday say: what differs then is no drift, unless it
    jumps. None is a usual time.
    """

    slots: StreamSlots | None = None
    zone: tzinfo = UTC
    special: str | None = None


class WindowComparison:
    """What a window of a part is compared with, what came of it, and its hour of the week after it.

    Without a plan all features are compared with all windows before.
    """

    def __init__(self, plan: Plan | None, key: SlotKey, slots: StreamSlots | None) -> None:
        self.plan = plan
        self.key = key
        self.slots = slots
        self.alike: dict[str, BlockPValue] = {}
        self.results: dict[str, list[Result]] = {}
        self.slot: ChangedSlot | None = None

    @classmethod
    def of(
        cls,
        held: Mapping[str, PartEvidence],
        name: str,
        part: Part,
        window: Window,
        calendar: Calendar,
        seed: int,
    ) -> WindowComparison:
        """Return it for a part of a window, compared with its like where there is one."""
        key = SlotKey(window.model, window.version, window.variant, name, part.baseline.digest)
        if calendar.slots is None:
            return cls(None, key, None)
        one = held.get(name) or PartEvidence()
        if one.history.windows and one.history.digest != part.baseline.digest:
            one = PartEvidence()
        planned = plan(
            one.season,
            place_of(window.start, window.end, calendar.zone),
            part.baseline,
            part.profile,
            calendar.slots,
            key,
            windows=one.history.windows,
            end=window.end,
            results=part.judgement.results,
        )
        usual = cls(planned, key, calendar.slots)
        usual.alike = usual._compared(part, planned.likes, part.profile, 1, seed)
        return usual

    def block(self, part: Part, length: int, before: Profile, block: Profile, seed: int) -> dict[str, BlockPValue]:
        """Return the p-values of a block that ends with the window."""
        planned = self.plan
        if planned is None:
            return part.p_values(before, block, length, seed)
        wanted = planned.pooled | planned.passed if length == 1 else planned.pooled
        found = part.p_values(before, block, length, seed, only=wanted)
        alike = self.alike
        if length > 1:
            alike = self._compared(part, planned.likes_of(length), block, length, seed)
        for name, one in alike.items():
            if name not in found or found[name].p_value < one.p_value:
                found[name] = one
        unknown = (planned.pooled & planned.alike) - alike.keys() | planned.held
        if length == 1:
            unknown -= planned.passed
        return found | dict.fromkeys(unknown, BlockPValue(1.0, [NOTHING]))

    def streak(self, season: Season, part: Part, *, calm: bool) -> Season:
        """Return what is known of the seasons with one more window of an incident, which is calm or not."""
        if self.plan is None or not self.plan.known:
            return season
        if not calm:
            return msgspec.structs.replace(season, streak=None, streak_likes=BlockLikes())
        likes = season.streak_likes.after(self.plan.likes, self.plan.place.slot, part.profile.rows)
        streak = part.profile if season.streak is None else season.streak + part.profile
        return msgspec.structs.replace(season, streak=streak, streak_likes=likes)

    def learnt(self, one: PartEvidence, part: Part, window: Window) -> Season:
        """Return what is known of the seasons after a window of an incident, which is no block of evidence.

        As long as it is not known what is seasonal, that is found out whether there is an incident or not.
        """
        planned = self.plan
        if planned is None or self.slots is None or one.season.decided >= KINDS_KNOWN:
            return one.season
        windows = one.history.windows
        season, self.slot = taken_up(
            planned, part.profile, self.slots, self.key, windows=windows, start=window.start, end=window.end
        )
        return msgspec.structs.replace(season, of_4=one.season.of_4, of_16=one.season.of_16)

    def seen(self, part: Part) -> Part:
        """Return the part with what it is by its like, in the place of what it is by the baseline."""
        if self.plan is None:
            return part
        return self._with(part, self.plan.alike | (self.plan.held - self.plan.passed), self.results)

    def lasting(self, part: Part, season: Season, seed: int) -> Part:
        """Return the same as long as an incident lasts, of what is seasonal for sure, with its calm windows."""
        if self.plan is None:
            return part
        if season.streak is not None:
            self._compared(part, season.streak_likes.likes, season.streak, CALM_WINDOWS, seed)
        instead = {name: self.results[name] for name in self.plan.known & self.results.keys()}
        return self._with(part, self.plan.known, instead)

    def _with(self, part: Part, names: Collection[str], instead: Mapping[str, list[Result]]) -> Part:
        results = overlaid(part.judgement.results, names, instead)
        return part._replace(judgement=msgspec.structs.replace(part.judgement, results=results))

    def _compared(
        self, part: Part, likes: Mapping[str, Like], block: Profile, length: int, seed: int
    ) -> dict[str, BlockPValue]:
        assert self.plan is not None
        only = self.plan.alike & likes.keys()
        found = part.p_values(block, block, length, seed, only=only, likes=likes) if only else {}
        for name, one in found.items():
            self.results.setdefault(name, []).extend(one.results)
        return found


def slots_of(usual: Mapping[str, WindowComparison]) -> tuple[ChangedSlot, ...]:
    """Return the hours of the week that a window has changed, of each part."""
    return tuple(one.slot for one in usual.values() if one.slot is not None)
