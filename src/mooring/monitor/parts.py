"""What is watched of a stream, the whole and its segments: what is seen of each, and how it is said."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from mooring.drift.baseline import Baseline
from mooring.drift.blocks import BlockPValue, PastWindows, p_values
from mooring.drift.dependence import Dependence, DesignEffect
from mooring.drift.evidence import Evidence
from mooring.drift.judgement import Judgement, Result
from mooring.drift.likes import Like
from mooring.drift.profile import Profile
from mooring.monitor.seasonal import Season, is_jump
from mooring.status import Severity, worst

WHOLE = ""
"""The name of the whole among a stream's segments."""
CALM_WINDOWS = 4
"""After how many windows in a row in which nothing is away by as much as matters an incident has passed."""
BY_CHANCE = 0.05
"""From which p-value on chance explains what is seen."""
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


def full_name(part: str, feature: str) -> str:
    """Return the name of a feature of a part in an incident.

    >>> full_name(WHOLE, "pH"), full_name("colour=red", "pH")
    ('pH', 'colour=red: pH')
    """
    return feature if part == WHOLE else f"{part}: {feature}"


def results_of(parts: Mapping[str, Part]) -> dict[str, list[Result]]:
    """Return the results of what may alarm, by feature, each of the whole or of a segment."""
    found: dict[str, list[Result]] = {}
    for name, part in parts.items():
        for result in part.judgement.results:
            if result.excess is not None:
                found.setdefault(full_name(name, result.feature), []).append(result)
    return found


def effects_of(parts: Mapping[str, Part], floors: bool) -> dict[str, float]:
    """Return the features that moved by as much as matters, and by how many times that much."""
    found = {name: max(one.excess or 0.0 for one in results) for name, results in results_of(parts).items()}
    return {name: excess for name, excess in found.items() if excess >= (1.0 if floors else 0.0)}


def severities_of(parts: Mapping[str, Part], names: Mapping[str, float]) -> list[Severity]:
    """Return how bad the effects on these features are."""
    return [worst(one.effect_severity for one in results)
            for name, results in results_of(parts).items() if name in names]  # fmt: skip


def stands_out(parts: Mapping[str, Part], name: str) -> bool:
    """Whether a feature alarms in the window by itself."""
    return any(one.alarm for one in results_of(parts).get(name, ()))


def is_calm(parts: Mapping[str, Part], names: tuple[str, ...], scale: int) -> bool:
    """Whether none of what moved is away by as much as matters in the newest `scale` windows together.

    In small windows chance alone often gives as much: that is no reason to go on.
    """
    results = results_of(parts)
    return not any(
        one.scale == scale and (one.excess or 0.0) >= 1.0 and (one.p_value or 0.0) < BY_CHANCE
        for name in names
        for one in results.get(name, ())
    )


def in_words(parts: Mapping[str, Part], names: Mapping[str, float]) -> str:
    """Say in a line what moved."""
    results = results_of(parts)
    strongest = ordered(parts, names)
    words = [_in_words(name, results[name]) for name in strongest[:_PARTS] if name in results]
    more = len(strongest) - len(words)
    return "; ".join([*words, *([f"and {more} more"] if more > 0 else [])])


def ordered(parts: Mapping[str, Part], effects: Mapping[str, float]) -> list[str]:
    """Return what moved by the effect, times its importance to the model where that is known."""
    known = {
        full_name(name, feature): one.importance
        for name, part in parts.items()
        for feature, one in part.baseline.features.items()
        if one.importance is not None
    }
    weighted = {name: effect * abs(known.get(name, 1.0)) for name, effect in effects.items()}
    return sorted(effects, key=lambda name: (-weighted[name], -effects[name], name))


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


def jumps_of(parts: Mapping[str, Part]) -> set[str]:
    """Return what jumps by so much that it is drift on whatever day."""
    return {
        name for name, results in results_of(parts).items() if any(one.alarm and is_jump(one) for one in results)
    }
