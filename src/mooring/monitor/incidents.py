"""What a window adds to the evidence of its stream, and which incident it opens, prolongs or closes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from mooring.drift.baseline import Baseline
from mooring.drift.blocks import BlockPValue, PastWindows, profile_of
from mooring.drift.common_cells import effective_rows_of
from mooring.drift.dependence import Dependence
from mooring.drift.evidence import Evidence, limit
from mooring.drift.judge import cutoff
from mooring.drift.likes import Like
from mooring.drift.stored import FormatError, dump, load
from mooring.monitor.parts import (
    CALM_WINDOWS,
    WHOLE,
    Part,
    PartEvidence,
    effects_of,
    full_name,
    in_words,
    is_calm,
    jumps_of,
    ordered,
    severities_of,
    stands_out,
)
from mooring.monitor.references import Calendar, WindowComparison, slots_of
from mooring.monitor.seasonal import Season, is_jump, taken_up
from mooring.monitor.slots import ChangedSlot
from mooring.state.incidents import Incident, StreamState
from mooring.state.windows import Window
from mooring.status import Severity, worst

COMMISSIONING = 0.02
"""How probable it is that an unchanged stream alarms as its first windows are compared with the baseline alone."""
_FORMAT = 1
_WHOLE = 0.9
_BEGINS = 0.1


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
    held = held_by(known)
    usual = {name: WindowComparison.of(held, name, part, window, calendar, seed) for name, part in parts.items()}
    if incident is not None and known is not None:
        if calendar.special is not None:
            return _pause(state, known, incident, window)
        return _go_on(state, known, incident, window, held, parts, usual, seed, floors=floors)
    ended = None
    if incident is not None:
        ended = msgspec.structs.replace(incident, closed=max(window.start, incident.updated))
    share = _time_since(known, window) / budget_seconds
    look = _Look(
        window,
        share,
        COMMISSIONING / len(parts),
        1.0 if floors else 0.0,
        seed,
        again=window.revision > 0 and known is not None and window.end <= known.updated,
    )
    commissioned: set[str] = set()
    earlier = {name: (one.history, one.season) for name, one in held.items()}
    for name, part in parts.items():
        one = held.setdefault(name, PartEvidence())
        if calendar.special is None:
            commissioned |= {full_name(name, feature) for feature in _add(one, part, usual[name], look)}
    seen = {name: usual[name].seen(part) for name, part in parts.items()}
    level = _level(held, parts) / limit(share)
    since = (state.since or window.start) if level >= _BEGINS else None
    suspects = commissioned | (_suspects(held) if level >= 1 else set())
    if calendar.special is not None:
        suspects = jumps_of(seen)
    found = {name: excess for name, excess in effects_of(seen, floors).items() if name in suspects}
    opened = None
    severity: Severity = "ok"
    if not found:
        _note_dependences(held, dependences)
    else:
        severity = worst(["warning", *severities_of(seen, found)])
        opened = Incident(
            model=window.model,
            version=window.version,
            variant=window.variant,
            kind="drift",
            severity=severity,
            features=tuple(ordered(seen, found)),
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
    return Advanced(after, opened, severity, ended, () if opened is not None else slots_of(usual))


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
    usual: Mapping[str, WindowComparison],
    seed: int,
    *,
    floors: bool,
) -> Advanced:
    """Return what becomes of an open incident; what its windows hold does not become what is usual."""
    whole = held.setdefault(WHOLE, PartEvidence())
    alone = {name: usual[name].lasting(part, Season(), seed) for name, part in parts.items()}
    whole.calm = whole.calm + 1 if is_calm(alone, incident.features, 1) else 0
    for name, part in parts.items():
        one = held.setdefault(name, PartEvidence())
        one.season = usual[name].learnt(one, part, window)
        one.season = usual[name].streak(one.season, part, calm=whole.calm > 0)
    parts = {name: usual[name].lasting(part, held[name].season, seed) for name, part in parts.items()}
    if whole.calm >= CALM_WINDOWS and is_calm(parts, incident.features, CALM_WINDOWS):
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
        return Advanced(after, closed, "ok", slots=slots_of(usual))
    effects = effects_of(parts, floors)
    moved = {name: effects.get(name, 0.0) for name in incident.features}
    moved |= {name: excess for name, excess in effects.items() if stands_out(parts, name)}
    severity = worst([*severities_of(parts, moved), "warning"])
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
    return Advanced(after, lasting, severity, slots=slots_of(usual))


def feed(
    before: StreamState | None,
    window: Window,
    baseline: Baseline,
    dependences: Mapping[str, Dependence],
) -> StreamState:
    """Return how a stream stands after a window of too few rows, which tell how they depend on each other, too."""
    known = before if before is not None and before.baseline == baseline.digest else None
    held = held_by(known)
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


def held_by(known: StreamState | None) -> dict[str, PartEvidence]:
    """Return what the parts of a stream have shown so far."""
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


class _Look(NamedTuple):
    """How a window is looked at.

    `share` is what part it is of the time of one false alarm, `alone` how probable it is that an unchanged part
    differs from the baseline alone at any look, `least` how large an effect matters. A window that is judged
    `again`, as rows of it came late, is among what came before already: it is no new block.
    """

    window: Window
    share: float
    alone: float
    least: float
    seed: int
    again: bool


def _add(one: PartEvidence, part: Part, usual: WindowComparison, look: _Look) -> set[str]:
    """Take up a window of a part; return the features that differ from the baseline alone since the beginning."""
    reference = profile_of(part.baseline)
    if one.history.windows and one.history.digest != part.baseline.digest:
        one.history, one.evidence, one.season = PastWindows(), Evidence(), Season()
    if look.again:
        again = usual.block(part, 1, one.history.with_window(reference), part.profile, look.seed)
        one.evidence.add(1, {feature: each.signed for feature, each in again.items()})
        return set()
    if usual.plan is not None:
        for feature in usual.plan.season.seasonal - one.season.seasonal:
            one.evidence.sums.pop(feature, None)  # what it swings by is no evidence any more
    one.evidence.pass_time(look.share)
    found: dict[int, dict[str, BlockPValue]] = {}
    for length, before, block in one.history.blocks(reference, part.profile):
        found[length] = usual.block(part, length, before, block, look.seed)
        one.evidence.add(length, {feature: each.signed for feature, each in found[length].items()})
    differing = _at_first(one, part, usual, look, found[1]) | _after_days(one, part, usual, look)
    one.history = one.history.after(part.profile)
    return differing


def _at_first(
    one: PartEvidence, part: Part, usual: WindowComparison, look: _Look, newest: Mapping[str, BlockPValue]
) -> set[str]:
    """Return the features that differ from the baseline alone after the first 1, 2, 4, 8 … windows.

    Where hours may differ only those that jump, and only on the first day.
    """
    count = one.history.windows + 1
    if count & (count - 1) or (usual.plan is not None and not usual.plan.season.first_day(look.window.end)):
        return set()
    against: Mapping[str, BlockPValue] = newest
    if count > 1:
        whole = one.history.with_window(part.profile)
        against = part.p_values(profile_of(part.baseline), whole, count, look.seed)
    if usual.plan is None:
        return _differing(against, look.alone, count.bit_length())
    jumps = {result.feature for result in part.judgement.results if is_jump(result)}
    return _differing(against, look.alone / 2, count.bit_length()) & jumps & usual.plan.passed


def _after_days(one: PartEvidence, part: Part, usual: WindowComparison, look: _Look) -> set[str]:
    """Take up a window's hour of the week; return what differs from the baseline alone by whole days."""
    planned = usual.plan
    if planned is None or usual.slots is None:
        return set()
    window, count, differing = look.window, one.history.windows + 1, set()
    if planned.season.look_is_due(window.end):
        number = planned.season.looks + 1
        found: dict[str, BlockPValue] = {}
        if count >= _WHOLE * (planned.season.windows + 1):  # windows of incidents are not among them
            whole, baseline = one.history.with_window(part.profile), profile_of(part.baseline)
            found = part.p_values(baseline, whole, count, look.seed, likes=_baseline_alone(part.baseline))
        for feature in _differing(found, look.alone / 2, number):
            results = [result for result in found[feature].results if (result.excess or 0.0) >= look.least]
            if results:
                usual.results.setdefault(feature, []).extend(results)
                differing.add(feature)
        planned = planned._replace(season=msgspec.structs.replace(planned.season, looks=number))
    one.season, usual.slot = taken_up(
        planned, part.profile, usual.slots, usual.key, windows=count - 1, start=window.start, end=window.end
    )
    return differing


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
    return {full_name(name, feature) for name, one in held.items() for feature in one.evidence.features()}
