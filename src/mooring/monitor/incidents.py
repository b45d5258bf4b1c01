"""What a window adds to the evidence of its stream, and which incident it opens, prolongs or closes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from mooring.drift.baseline import Baseline
from mooring.drift.blocks import BlockPValue, PastWindows, p_values, profile_of
from mooring.drift.dependence import Dependence, DesignEffect
from mooring.drift.evidence import Evidence, limit
from mooring.drift.judge import cutoff
from mooring.drift.judgement import Judgement, Result
from mooring.drift.profile import Profile
from mooring.drift.stored import FormatError, dump, load
from mooring.state.incidents import Incident, Incidents, StreamKey, StreamState, StreamStates
from mooring.state.repository import Transaction
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
_BEGINS = 0.1
_PARTS = 3
_LONGEST_NAME = 60


class Part(NamedTuple):
    """What is watched of a stream: all of a window, or the rows of a segment, with the baseline that is for it."""

    baseline: Baseline
    profile: Profile
    judgement: Judgement
    thresholds: Mapping[str, float] = MappingProxyType({})
    effects: Mapping[str, DesignEffect] = MappingProxyType({})

    def p_values(self, before: Profile, block: Profile, length: int, seed: int) -> dict[str, BlockPValue]:
        """Return the p-values of a block of its windows; what has a threshold of its own is none of chance."""
        return p_values(
            self.baseline,
            before,
            block,
            length=length,
            thresholds=self.thresholds,
            effects=self.effects,
            seed=seed,
        )


class PartEvidence(msgspec.Struct):
    """What a part of a stream has shown so far, and how many windows of an open incident have been calm by now."""

    history: PastWindows = msgspec.field(default_factory=PastWindows)
    evidence: Evidence = msgspec.field(default_factory=Evidence)
    calm: int = 0
    dependence: Dependence = msgspec.field(default_factory=Dependence)


class Advanced(NamedTuple):
    """How a stream stands after a window, the incidents that changed with it, and how bad the window is.

    `incident` is the newest of them, open or closed; `ended` is one that another baseline ended.
    """

    state: StreamState
    incident: Incident | None
    severity: Severity
    ended: Incident | None = None


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

    """
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
    if incident is not None and known is not None:
        return _go_on(state, known, incident, window, parts, floors=floors)
    ended = None
    if incident is not None:
        ended = msgspec.structs.replace(incident, closed=max(window.start, incident.updated))
    held = _held(known)
    share = _time_since(known, window) / budget_seconds
    again = window.revision > 0 and known is not None and window.end <= known.updated
    commissioned: set[str] = set()
    earlier = {name: one.history for name, one in held.items()}
    for name, part in parts.items():
        one = held.setdefault(name, PartEvidence())
        commissioned |= _add(one, name, part, share, seed, COMMISSIONING / len(parts), again=again)
    level = _level(held, parts) / limit(share)
    since = (state.since or window.start) if level >= _BEGINS else None
    suspects = commissioned | (_suspects(held) if level >= 1 else set())
    found = {name: excess for name, excess in _effects(parts, floors).items() if name in suspects}
    opened = None
    severity: Severity = "ok"
    if not found:
        _note_dependences(held, dependences)
    else:
        severity = worst(["warning", *_severities(parts, found)])
        opened = Incident(
            model=window.model,
            version=window.version,
            variant=window.variant,
            kind="drift",
            severity=severity,
            features=tuple(sorted(found, key=lambda name: (-found[name], name))),
            level=level,
            message=in_words(parts, found),
            start=since or window.start,
            opened=window.end,
            updated=window.end,
        )
        for name, one in held.items():  # nor does its first window become what is usual
            one.history = earlier.get(name, PastWindows())
    after = msgspec.structs.replace(
        state,
        windows=state.windows + 1,
        level=level,
        since=since,
        incident_id=None if opened is None else opened.id,
        data=dump(held, "stream", _FORMAT),
    )
    return Advanced(after, opened, severity, ended)


def _go_on(
    state: StreamState,
    known: StreamState,
    incident: Incident,
    window: Window,
    parts: Mapping[str, Part],
    *,
    floors: bool,
) -> Advanced:
    """Return what becomes of an open incident; what its windows hold does not become what is usual."""
    held = _held(known)
    whole = held.setdefault(WHOLE, PartEvidence())
    whole.calm = whole.calm + 1 if _is_calm(parts, incident.features, 1) else 0
    if whole.calm >= _CALM_WINDOWS and _is_calm(parts, incident.features, _CALM_WINDOWS):
        held = {name: PartEvidence(one.history, dependence=one.dependence) for name, one in held.items()}
        after = msgspec.structs.replace(
            state, windows=known.windows + 1, since=None, data=dump(held, "stream", _FORMAT)
        )
        closed = msgspec.structs.replace(
            incident, windows=incident.windows + 1, updated=window.end, closed=window.end
        )
        return Advanced(after, closed, "ok")
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
    return Advanced(after, lasting, severity)


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
    one: PartEvidence, name: str, part: Part, share: float, seed: int, alone: float, *, again: bool
) -> set[str]:
    """Take up a window of a part; return the features that differ from the baseline alone since the beginning.

    One that is judged `again`, as rows of it came late, is among what came before already: it is no new block.
    """
    reference = profile_of(part.baseline)
    if one.history.windows and one.history.digest != part.baseline.digest:
        one.history, one.evidence = PastWindows(), Evidence()
    if again:
        found_again = part.p_values(one.history.with_window(reference), part.profile, 1, seed)
        one.evidence.add(1, {feature: each.signed() for feature, each in found_again.items()})
        return set()
    one.evidence.pass_time(share)
    found: dict[int, dict[str, BlockPValue]] = {}
    for length, before, block in one.history.blocks(reference, part.profile):
        found[length] = part.p_values(before, block, length, seed)
        one.evidence.add(length, {feature: each.signed() for feature, each in found[length].items()})
    count = one.history.windows + 1
    commissioned = set()
    if count & (count - 1) == 0:
        look = count.bit_length()
        whole = one.history.with_window(part.profile)
        against = found[1] if count == 1 else part.p_values(reference, whole, count, seed)
        most = cutoff([each.p_value for each in against.values()], alone * 6 / (math.pi * look) ** 2)
        commissioned = {_full(name, feature) for feature, each in against.items() if each.p_value <= most}
    one.history = one.history.after(msgspec.structs.replace(part.profile, order=None))
    return commissioned


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

    """

    def __init__(self, source: State, budget_seconds: float, *, floors: bool) -> None:
        self._states = StreamStates(source)
        self._incidents = Incidents(source)
        self._budget = budget_seconds
        self._floors = floors
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
        state = feed(before, window, baseline, dependences)
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
        advanced = advance(
            before,
            incident,
            window,
            parts,
            budget_seconds=self._budget * self._states.sharing(window.end, own),
            seed=seed,
            dependences=dependences,
            floors=self._floors,
        )
        if not provisional:
            still = advanced.incident if advanced.state.incident_id is not None else None
            self._held[key] = advanced.state, still
        return advanced

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
