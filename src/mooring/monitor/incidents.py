"""What a window adds to the evidence of its stream, and which incident it opens, prolongs or closes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from datetime import UTC, tzinfo
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from mooring.drift.baseline import Baseline
from mooring.drift.blocks import BlockPValue, PastWindows, p_values, profile_of
from mooring.drift.common_cells import effective_rows_of
from mooring.drift.dependence import Dependence, DesignEffect
from mooring.drift.evidence import NOTHING, Evidence, limit
from mooring.drift.judge import cutoff
from mooring.drift.judgement import Judgement, Result
from mooring.drift.likes import BlockLikes, Like
from mooring.drift.profile import Profile
from mooring.drift.seasons import KINDS_KNOWN, place_of
from mooring.drift.stored import FormatError, dump, load
from mooring.monitor.seasonal import Plan, Season, is_jump, overlaid, plan, taken_up
from mooring.monitor.slots import ChangedSlot, StreamSlots, write_slots
from mooring.monitor.special_days import SpecialDays
from mooring.state.incidents import Incident, Incidents, StreamKey, StreamState, StreamStates
from mooring.state.repository import Transaction
from mooring.state.slots import SlotKey
from mooring.state.state import State
from mooring.state.windows import Window
from mooring.status import Severity, worst

WHOLE = ""
"""The name of the whole among a stream's segments."""
COMMISSIONING = 0.02
"""How probable it is that an unchanged stream alarms as its first windows are compared with the baseline alone."""
_FORMAT = 1
_CALM_WINDOWS = 4
"""After how many windows in which nothing is away by as much as matters an incident has passed."""
_BY_CHANCE = 0.05
_WHOLE = 0.9
_BEGINS = 0.1
_PARTS = 3
_LONGEST_NAME = 60


class Part(NamedTuple):
    """What is watched of a stream: all of a window, or the rows of a segment, with the baseline that is for it.

    `effects` are the design effects of its features, as the stream has shown them by now.
    """

    baseline: Baseline
    profile: Profile
    judgement: Judgement
    thresholds: Mapping[str, float] = MappingProxyType({})
    effects: Mapping[str, DesignEffect] = MappingProxyType({})

    def p_values(
        self,
        before: Profile,
        block: Profile,
        length: int,
        seed: int,
        *,
        only: Collection[str] | None = None,
        likes: Mapping[str, Like] | None = None,
    ) -> dict[str, BlockPValue]:
        """Return the p-values of a block of its windows; what has a threshold of its own is none of chance."""
        return p_values(
            self.baseline,
            before,
            block,
            length=length,
            thresholds=self.thresholds,
            only=only,
            likes=likes,
            effects=self.effects,
            seed=seed,
        )


class PartEvidence(msgspec.Struct):
    """What a part of a stream has shown so far, and how many windows of an open incident have been calm by now."""

    history: PastWindows = msgspec.field(default_factory=PastWindows)
    evidence: Evidence = msgspec.field(default_factory=Evidence)
    calm: int = 0
    season: Season = msgspec.field(default_factory=Season)
    dependence: Dependence = msgspec.field(default_factory=Dependence)


class Advanced(NamedTuple):
    """How a stream stands after a window, the incidents that changed with it, and how bad the window is.

    `incident` is the newest of them, open or closed; `ended` is one that another baseline ended. `slots` are the
    hours of the week that the window is of, and `special` the name of its time where that is not usual.
    """

    state: StreamState
    incident: Incident | None
    severity: Severity
    ended: Incident | None = None
    slots: tuple[ChangedSlot, ...] = ()
    special: str | None = None


class Calendar(NamedTuple):
    """What is known of the hours of the week, by the clocks of a zone.

    `special` is the name of a time that is not usual, a holiday say: what differs then is no drift, unless it
    jumps. None is a usual time.
    """

    slots: StreamSlots | None = None
    zone: tzinfo = UTC
    special: str | None = None


def advance(
    before: StreamState | None,
    incident: Incident | None,
    window: Window,
    parts: Mapping[str, Part],
    *,
    budget_seconds: float,
    seed: int = 0,
    dependences: Mapping[str, Dependence] = MappingProxyType({}),
    floors: bool = True,
    calendar: Calendar | None = None,
) -> Advanced:
    """Return how a stream stands after one more of its windows.

    Parameters
    ----------
    before
        How it stood before; None at its first window.
    incident
        The one that is open, if any is.
    window
        The window, which is closed.
    parts
        By name what is watched of it; `WHOLE` is all of it.
    budget_seconds
        In what time this stream may have one false alarm.
    seed
        The same seed gives the same result.
    dependences
        By name of a part, what its rows have shown of how they depend on each other, this window's too.
    floors
        Whether an effect too small to matter opens no incident.
    calendar
        What is usual of which hour of the week, and whether the window is of a day that is not usual. Without
        slots all windows are compared with all before them.

    """
    calendar = calendar or Calendar()
    whole = parts[WHOLE]
    known = before if before is not None and before.baseline == whole.baseline.digest else None
    state = StreamState(
        model=window.model,
        version=window.version,
        variant=window.variant,
        kind="drift",
        baseline=whole.baseline.digest,
        windows=0 if known is None else known.windows,
        since=None if known is None else known.since,
        updated=window.end if before is None else max(window.end, before.updated),
    )
    held = _held(known)
    usual = {name: _Comparison.of(held, name, part, window, calendar, seed) for name, part in parts.items()}
    if incident is not None and known is not None:
        if calendar.special is not None:
            return _pause(state, known, incident, window)
        return _go_on(state, known, incident, window, held, parts, usual, seed, floors=floors)
    ended = None
    if incident is not None:
        ended = msgspec.structs.replace(incident, closed=max(window.start, incident.updated))
    share = _time_since(known, window) / budget_seconds
    again = window.revision > 0 and known is not None and window.end <= known.updated
    commissioned: set[str] = set()
    earlier = {name: (one.history, one.season) for name, one in held.items()}
    least = 1.0 if floors else 0.0
    for name, part in parts.items():
        one = held.setdefault(name, PartEvidence())
        if calendar.special is None:
            alone = COMMISSIONING / len(parts)
            commissioned |= _add(one, name, part, share, seed, alone, window, usual[name], least, again=again)
    seen = {name: usual[name].seen(part) for name, part in parts.items()}
    level = _level(held, parts) / limit(share)
    since = (state.since or window.start) if level >= _BEGINS else None
    suspects = commissioned | (_suspects(held) if level >= 1 else set())
    if calendar.special is not None:
        suspects = _jumps(seen)
    found = {name: excess for name, excess in _effects(seen, floors).items() if name in suspects}
    opened = None
    severity: Severity = "ok"
    if not found:
        _note_dependences(held, dependences)
    else:
        severity = worst(["warning", *_severities(seen, found)])
        opened = Incident(
            model=window.model,
            version=window.version,
            variant=window.variant,
            kind="drift",
            severity=severity,
            features=tuple(sorted(found, key=lambda name: (-found[name], name))),
            level=level,
            message=in_words(seen, found),
            start=since or window.start,
            opened=window.end,
            updated=window.end,
        )
        for name, one in held.items():  # nor does its first window become what is usual
            history, season = earlier.get(name, (PastWindows(), Season()))
            one.history, one.season = history, msgspec.structs.replace(season, looks=one.season.looks)
    after = msgspec.structs.replace(
        state,
        windows=state.windows + 1,
        level=level,
        since=since,
        incident_id=None if opened is None else opened.id,
        data=dump(held, "stream", _FORMAT),
    )
    return Advanced(after, opened, severity, ended, () if opened is not None else _slots(usual))


class _Comparison:
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
    ) -> _Comparison:
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
            self._compared(part, season.streak_likes.likes, season.streak, _CALM_WINDOWS, seed)
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


def _slots(usual: Mapping[str, _Comparison]) -> tuple[ChangedSlot, ...]:
    return tuple(one.slot for one in usual.values() if one.slot is not None)


def _jumps(parts: Mapping[str, Part]) -> set[str]:
    """Return what jumps by so much that it is drift on whatever day."""
    return {
        name for name, results in _results(parts).items() if any(one.alarm and is_jump(one) for one in results)
    }


def _pause(state: StreamState, known: StreamState, incident: Incident, window: Window) -> Advanced:
    """Return what becomes of an open incident on a day that is not usual: nothing, until that is over."""
    after = msgspec.structs.replace(
        state, windows=known.windows + 1, level=known.level, incident_id=incident.id, data=known.data
    )
    lasting = msgspec.structs.replace(incident, windows=incident.windows + 1, updated=window.end)
    return Advanced(after, lasting, "warning")


def _go_on(
    state: StreamState,
    known: StreamState,
    incident: Incident,
    window: Window,
    held: dict[str, PartEvidence],
    parts: Mapping[str, Part],
    usual: Mapping[str, _Comparison],
    seed: int,
    *,
    floors: bool,
) -> Advanced:
    """Return what becomes of an open incident; what its windows hold does not become what is usual."""
    whole = held.setdefault(WHOLE, PartEvidence())
    alone = {name: usual[name].lasting(part, Season(), seed) for name, part in parts.items()}
    whole.calm = whole.calm + 1 if _is_calm(alone, incident.features, 1) else 0
    for name, part in parts.items():
        one = held.setdefault(name, PartEvidence())
        one.season = usual[name].learnt(one, part, window)
        one.season = usual[name].streak(one.season, part, calm=whole.calm > 0)
    parts = {name: usual[name].lasting(part, held[name].season, seed) for name, part in parts.items()}
    if whole.calm >= _CALM_WINDOWS and _is_calm(parts, incident.features, _CALM_WINDOWS):
        held = {
            name: PartEvidence(
                one.history,
                season=usual[name].streak(one.season, parts[name], calm=False),
                dependence=one.dependence,
            )
            if name in usual
            else one
            for name, one in held.items()
        }
        after = msgspec.structs.replace(
            state, windows=known.windows + 1, since=None, data=dump(held, "stream", _FORMAT)
        )
        closed = msgspec.structs.replace(
            incident, windows=incident.windows + 1, updated=window.end, closed=window.end
        )
        return Advanced(after, closed, "ok", slots=_slots(usual))
    effects = _effects(parts, floors)
    moved = {name: effects.get(name, 0.0) for name in incident.features}
    moved |= {name: excess for name, excess in effects.items() if _stands_out(parts, name)}
    severity = worst([*_severities(parts, moved), "warning"])
    lasting = msgspec.structs.replace(
        incident,
        severity=worst([incident.severity, severity]),
        features=tuple(dict.fromkeys([*incident.features, *moved])),
        windows=incident.windows + 1,
        message=in_words(parts, moved) or incident.message,
        updated=window.end,
    )
    after = msgspec.structs.replace(
        state,
        windows=known.windows + 1,
        level=known.level,
        incident_id=incident.id,
        data=dump(held, "stream", _FORMAT),
    )
    return Advanced(after, lasting, severity, slots=_slots(usual))


def feed(
    before: StreamState | None,
    window: Window,
    baseline: Baseline,
    dependences: Mapping[str, Dependence],
) -> StreamState:
    """Return how a stream stands after a window of too few rows, which tell how they depend on each other, too."""
    known = before if before is not None and before.baseline == baseline.digest else None
    held = _held(known)
    _note_dependences(held, dependences)
    if known is None:
        known = StreamState(
            model=window.model,
            version=window.version,
            variant=window.variant,
            kind="drift",
            baseline=baseline.digest,
            updated=window.start if before is None else max(window.start, before.updated),
        )
    return msgspec.structs.replace(known, data=dump(held, "stream", _FORMAT))


def _note_dependences(held: dict[str, PartEvidence], dependences: Mapping[str, Dependence]) -> None:
    for name, dependence in dependences.items():
        held.setdefault(name, PartEvidence()).dependence = dependence


def _held(known: StreamState | None) -> dict[str, PartEvidence]:
    if known is None or not known.data:
        return {}
    try:
        return load(known.data, dict[str, PartEvidence], "stream", _FORMAT)
    except FormatError:
        return {}  # another version wrote it: what is usual is gathered anew


def _time_since(known: StreamState | None, window: Window) -> float:
    """Return the seconds that a stream's next block has had since the one before it ended."""
    begin = window.start if known is None else min(known.updated, window.end)
    return max((window.end - begin).total_seconds(), 0.0)


def _add(
    one: PartEvidence,
    name: str,
    part: Part,
    share: float,
    seed: int,
    alone: float,
    window: Window,
    usual: _Comparison,
    least: float,
    *,
    again: bool,
) -> set[str]:
    """Take up a window of a part; return the features that differ from the baseline alone since the beginning.

    One that is judged `again`, as rows of it came late, is among what came before already: it is no new block.
    """
    reference = profile_of(part.baseline)
    if one.history.windows and one.history.digest != part.baseline.digest:
        one.history, one.evidence, one.season = PastWindows(), Evidence(), Season()
    if again:
        found_again = usual.block(part, 1, one.history.with_window(reference), part.profile, seed)
        one.evidence.add(1, {feature: each.signed for feature, each in found_again.items()})
        return set()
    planned = usual.plan
    if planned is not None:
        for feature in planned.season.seasonal - one.season.seasonal:
            one.evidence.sums.pop(feature, None)  # what it swings by is no evidence any more
    one.evidence.pass_time(share)
    found: dict[int, dict[str, BlockPValue]] = {}
    for length, before, block in one.history.blocks(reference, part.profile):
        found[length] = usual.block(part, length, before, block, seed)
        one.evidence.add(length, {feature: each.signed for feature, each in found[length].items()})
    count = one.history.windows + 1
    whole = one.history.with_window(part.profile)
    commissioned: set[str] = set()
    first = planned is None or planned.season.first_day(window.end)
    if count & (count - 1) == 0 and first:
        look = count.bit_length()
        against = found[1] if count == 1 else part.p_values(reference, whole, count, seed)
        part_of_it = alone if planned is None else alone / 2
        commissioned = _differing(against, part_of_it, look)
        if planned is not None:
            jumps = {result.feature for result in part.judgement.results if is_jump(result)}
            commissioned &= jumps & planned.passed
    if planned is not None and usual.slots is not None:
        if planned.season.look_is_due(window.end):
            look = planned.season.looks + 1
            differs: dict[str, BlockPValue] = {}
            if count >= _WHOLE * (planned.season.windows + 1):  # windows of incidents are not among them
                differs = part.p_values(reference, whole, count, seed, likes=_baseline_alone(part.baseline))
            for feature in _differing(differs, alone / 2, look):
                results = [result for result in differs[feature].results if (result.excess or 0.0) >= least]
                if results:
                    usual.results.setdefault(feature, []).extend(results)
                    commissioned.add(feature)
            planned = planned._replace(season=msgspec.structs.replace(planned.season, looks=look))
        one.season, usual.slot = taken_up(
            planned, part.profile, usual.slots, usual.key, windows=count - 1, start=window.start, end=window.end
        )
    one.history = one.history.after(part.profile)
    return {_full(name, feature) for feature in commissioned}


def _differing(found: Mapping[str, BlockPValue], alone: float, look: int) -> set[str]:
    """Return the features that differ, at the look with this number."""
    most = cutoff([each.p_value for each in found.values()], alone * 6 / (math.pi * look) ** 2)
    return {feature for feature, each in found.items() if each.p_value <= most}


def _baseline_alone(baseline: Baseline) -> dict[str, Like]:
    """Return the baseline as a reference of each feature that it is an honest one of."""
    return {
        name: Like(feature.profile, effective_rows_of(baseline, name), baseline.of_log)
        for name, feature in baseline.features.items()
        if not feature.in_sample and feature.role != "label" and name not in baseline.past
    }


def _level(held: Mapping[str, PartEvidence], parts: Mapping[str, Part]) -> float:
    """Return the evidence of a stream: half of it is of the whole where there are segments, the rest of these."""
    levels = {name: one.evidence.level(_watched(parts[name])) for name, one in held.items() if name in parts}
    others = [level for name, level in levels.items() if name != WHOLE]
    return (levels[WHOLE] + sum(others) / len(others)) / 2 if others else levels[WHOLE]


def _watched(part: Part) -> list[str]:
    return [name for name, feature in part.baseline.features.items() if feature.role != "label"]


def _suspects(held: Mapping[str, PartEvidence]) -> set[str]:
    return {_full(name, feature) for name, one in held.items() for feature in one.evidence.features()}


def _full(part: str, feature: str) -> str:
    return feature if part == WHOLE else f"{part}: {feature}"


def _results(parts: Mapping[str, Part]) -> dict[str, list[Result]]:
    """Return the results of what may alarm, by feature, each of the whole or of a segment."""
    found: dict[str, list[Result]] = {}
    for name, part in parts.items():
        for result in part.judgement.results:
            if result.excess is not None:
                found.setdefault(_full(name, result.feature), []).append(result)
    return found


def _effects(parts: Mapping[str, Part], floors: bool) -> dict[str, float]:
    """Return the features that moved by as much as matters, and by how many times that much."""
    found = {name: max(one.excess or 0.0 for one in results) for name, results in _results(parts).items()}
    return {name: excess for name, excess in found.items() if excess >= (1.0 if floors else 0.0)}


def _severities(parts: Mapping[str, Part], names: Mapping[str, float]) -> list[Severity]:
    return [worst(one.effect_severity for one in results)
            for name, results in _results(parts).items() if name in names]  # fmt: skip


def _stands_out(parts: Mapping[str, Part], name: str) -> bool:
    return any(one.alarm for one in _results(parts).get(name, ()))


def _is_calm(parts: Mapping[str, Part], names: tuple[str, ...], scale: int) -> bool:
    """Whether none of what moved is away by as much as matters in the newest `scale` windows together.

    In small windows chance alone often gives as much: that is no reason to go on.
    """
    results = _results(parts)
    return not any(
        one.scale == scale and (one.excess or 0.0) >= 1.0 and (one.p_value or 0.0) < _BY_CHANCE
        for name in names
        for one in results.get(name, ())
    )


def in_words(parts: Mapping[str, Part], names: Mapping[str, float]) -> str:
    """Say in a line what moved."""
    results = _results(parts)
    strongest = sorted(names, key=lambda name: (-names[name], name))
    words = [_in_words(name, results[name]) for name in strongest[:_PARTS] if name in results]
    more = len(strongest) - len(words)
    return "; ".join([*words, *([f"and {more} more"] if more > 0 else [])])


def _in_words(name: str, results: list[Result]) -> str:
    top = max(results, key=lambda one: one.excess or 0.0)
    over = f" over {top.scale} windows" if top.scale > 1 else ""
    return f"{plain(name)}: {top.measure} {top.value:.3g}{over}"


def plain(name: str) -> str:
    """Return a feature's name as it fits into a line: whoever asks the model chooses it.

    >>> plain("residual sugar"), plain("a" * 100)[-3:], plain("two" + chr(10) + "lines")
    ('residual sugar', 'aa…', 'two lines')
    """
    text = "".join(char if char.isprintable() else " " for char in name)
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


class Standings:
    """How the streams of a model stand, as far as windows have been checked: more than is written yet.

    Parameters
    ----------
    source
        The state that they were written to.
    budget_seconds
        In what time there may be one false alarm, over all streams.
    floors
        Whether an effect too small to matter opens no incident.
    weight
        Of the model, by which its streams share the false alarms with others.
    special_days
        The days that are not usual, and the clocks of which zone hours are by; without them there are no seasons.

    """

    def __init__(
        self,
        source: State,
        budget_seconds: float,
        *,
        floors: bool,
        weight: float = 1.0,
        special_days: SpecialDays | None = None,
    ) -> None:
        self._states = StreamStates(source)
        self._incidents = Incidents(source)
        self._budget = budget_seconds
        self._floors = floors
        self._weight = weight
        self._special_days = special_days
        self._slots = StreamSlots(source)
        self._held: dict[tuple[str | None, str], tuple[StreamState | None, Incident | None]] = {}

    def before(self, window: Window, baseline: Baseline) -> dict[str, Profile]:
        """Return the profile of all earlier windows of a window's stream, of the whole and of its segments."""
        state, _ = self._standing(window)
        if state is None or state.baseline != baseline.digest:
            return {}
        held = {name: one.history.whole for name, one in _held(state).items()}
        return {name: whole for name, whole in held.items() if whole is not None}

    def dependence(self, window: Window, baseline: Baseline) -> Dependence:
        """Return what all earlier windows of a window's stream have shown of how its rows depend on each other."""
        state, _ = self._standing(window)
        if state is None or state.baseline != baseline.digest:
            return Dependence()
        return _held(state).get(WHOLE, PartEvidence()).dependence

    def dependences(
        self, window: Window, baseline: Baseline, profiles: Mapping[str, Profile]
    ) -> dict[str, Dependence]:
        """Return the same of a window and all before it, by part; one that is judged again is among these."""
        state, _ = self._standing(window)
        known = state if state is not None and state.baseline == baseline.digest else None
        again = window.revision > 0 and known is not None and window.end <= known.updated
        held, found = _held(known), {}
        for name, profile in profiles.items():
            before = held[name].dependence if name in held else Dependence()
            found[name] = before if again else before.after(profile.order, profile.weight)
        return found

    def feed(
        self, window: Window, baseline: Baseline, dependences: Mapping[str, Dependence], *, provisional: bool
    ) -> Advanced | None:
        """Return how a stream stands after a window of too few rows; None if an incident is open."""
        before, incident = self._standing(window)
        if incident is not None:
            return None
        state = msgspec.structs.replace(feed(before, window, baseline, dependences), weight=self._weight)
        if not provisional:
            self._held[window.version, window.variant] = state, None
        return Advanced(state, None, "ok")

    def advance(
        self,
        window: Window,
        parts: Mapping[str, Part],
        dependences: Mapping[str, Dependence],
        seed: int,
        *,
        provisional: bool,
    ) -> Advanced:
        """Return how a window's stream stands after it, and, unless that is `provisional`, have it stand so."""
        key = window.version, window.variant
        before, incident = self._standing(window)
        own = [StreamKey(window.model, *one, "drift") for one in {*self._held, key}]
        calendar = self._calendar(window)
        advanced = advance(
            before,
            incident,
            window,
            parts,
            budget_seconds=self._budget * self._states.sharing(window.end, own, self._weight),
            seed=seed,
            dependences=dependences,
            floors=self._floors,
            calendar=calendar,
        )
        advanced = advanced._replace(
            state=msgspec.structs.replace(advanced.state, weight=self._weight), special=calendar.special
        )
        if not provisional:
            self._slots.put(advanced.slots)
            still = advanced.incident if advanced.state.incident_id is not None else None
            self._held[key] = advanced.state, still
        return advanced

    def _calendar(self, window: Window) -> Calendar:
        days = self._special_days
        if days is None:
            return Calendar()
        special = days.name_of(window.start, window.end)
        return Calendar(self._slots if days.seasonal else None, days.zone, special)

    def _standing(self, window: Window) -> tuple[StreamState | None, Incident | None]:
        return self._held.get((window.version, window.variant)) or self._stored(window)

    def _stored(self, window: Window) -> tuple[StreamState | None, Incident | None]:
        state = self._states.of(window.model, window.version, window.variant, "drift")
        if state is None or state.incident_id is None:
            return state, None
        return state, self._incidents.named(state.incident_id)


def write(tx: Transaction, advanced: Advanced) -> None:
    """Write how a stream stands, and its incident, in the transaction of the verdict that goes with it."""
    StreamStates(tx).put(advanced.state)
    for incident in filter(None, (advanced.ended, advanced.incident)):
        Incidents(tx).put(incident)
    Incidents(tx).end_stale(advanced.state.model, "drift", advanced.state.updated)
    write_slots(tx, advanced.slots)
