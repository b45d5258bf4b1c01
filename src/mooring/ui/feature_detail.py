"""A feature in a window: the baseline against the window, in words, as a figure, and by every measure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add
from typing import Literal

import msgspec
import numpy as np
from markupsafe import Markup

from mooring.drift.baseline import ProfileParts
from mooring.drift.distributions import Bars, ClockShares, Distribution, Histogram, distribution
from mooring.drift.grid import Floats
from mooring.drift.judgement import Judgement, Result
from mooring.drift.measure_table import MEASURES
from mooring.drift.profile import FeatureProfile
from mooring.drift.stored import FormatError
from mooring.monitor.results import was_judged
from mooring.report import figures, words
from mooring.report.reading import FeatureReading
from mooring.state.cells import strongest
from mooring.state.state import State
from mooring.state.windows import Judged, Windows
from mooring.status import STATUSES, Severity
from mooring.ui.windows import ChosenWindows, baseline_of, feature_of, finite

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class MeasureValue(msgspec.Struct, frozen=True, kw_only=True):
    """What a measure gave for a feature, in a window or in the newest `scale` of them together.

    `threshold` is the value from which it alarms, None for a measure that does not. `reference` is the baseline's
    own rate. What is not a finite number is None.
    """

    measure: str
    scale: int
    value: float | None
    threshold: float | None
    p_value: float | None
    reference: float | None
    alarm: bool
    severity: Severity

    @property
    def is_rate(self) -> bool:
        """Whether it is told in percent."""
        return words.is_rate(self.measure)

    def text(self, value: float | None) -> str:
        """Return a value of this measure as people read it."""
        if value is None:
            return "–"
        return words.percent(value) if self.is_rate else words.number(value, 3)


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of the values of baseline and window.

    Of a histogram by cells of one `width` from `start` on, and `below` and `above` those; of categories by
    `names`, those that are `new` told by name, and `rest` further ones; of times by hour and by day of the week.
    """

    kind: Literal["histogram", "categories", "times"]
    reference: tuple[float, ...] = msgspec.field(name="before")
    current: tuple[float, ...] = msgspec.field(name="after")
    start: float | None = None
    width: float | None = None
    below: tuple[float, float] = (0.0, 0.0)
    above: tuple[float, float] = (0.0, 0.0)
    names: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    rest: int = 0
    rest_shares: tuple[float, float] = (0.0, 0.0)
    weekdays_reference: tuple[float, ...] = msgspec.field(default=(), name="weekdays_before")
    weekdays_current: tuple[float, ...] = msgspec.field(default=(), name="weekdays_after")

    @property
    def figure(self) -> Markup:
        """The same as a figure: the baseline as an area, the window as a line."""
        return figures.draw(self._drawn())

    @property
    def rows(self) -> list[tuple[str, float, float]]:
        """The same as a table: a name, the baseline's share, the window's."""
        both = list(zip(self.reference, self.current, strict=True))
        match self.kind:
            case "histogram":
                start, width = self.start or 0.0, self.width or 0.0
                edges = [words.number(start + width * at) for at in range(len(both) + 1)]
                found = [(f"{edges[at]} to {edges[at + 1]}", *shares) for at, shares in enumerate(both)]
                if any(self.below):
                    found.insert(0, (f"below {edges[0]}", *self.below))
                if any(self.above):
                    found.append((f"above {edges[-1]}", *self.above))
            case "categories":
                names = [f"{one} (new)" if one in self.new else one for one in self.names]
                found = [(one, *shares) for one, shares in zip(names, both, strict=True)]
                if self.rest:
                    found.append((f"{self.rest:,} more", *self.rest_shares))
            case "times":
                found = [(f"{at} to {at + 1} h", *shares) for at, shares in enumerate(both)]
                days = zip(_WEEKDAYS, self.weekdays_reference, self.weekdays_current, strict=True)
                found += list(days)
        return found

    def _drawn(self) -> Distribution:
        reference, current = np.array(self.reference), np.array(self.current)
        match self.kind:
            case "histogram":
                return Histogram(self.start or 0.0, self.width or 1.0, reference, current, self.below, self.above)
            case "categories":
                new = [one in self.new for one in self.names]
                return Bars(list(self.names), reference, current, new, self.rest, self.rest_shares)
            case "times":
                return ClockShares(
                    (reference, current), (np.array(self.weekdays_reference), np.array(self.weekdays_current))
                )


class FeatureInWindow(msgspec.Struct, frozen=True, kw_only=True):
    """A feature in a window, alone and with those before it.

    `changes` says in words how it differs from the baseline. `strongest` is its strongest measure. Of the newest
    `span` windows together, as many as the strongest alarm is about, `shares` are told; `without` says why there
    are none. `in_sample` says of an output that the baseline's values may be of rows that the model was trained
    on, `watched` whether it is compared with anything in this window.
    """

    feature: str
    role: str
    kind: str | None
    importance: float | None
    severity: Severity | None
    changes: str
    strongest: MeasureValue | None
    ratio: float | None
    measures: tuple[MeasureValue, ...]
    span: int
    shares: Shares | None
    without: str
    in_sample: bool = False
    watched: bool = True


def feature_in(
    state: State, found: ChosenWindows, judged: Judged, judgement: Judgement | None, name: str
) -> FeatureInWindow:
    """Return a feature in a window of those found, or of one outside of them."""
    baseline = baseline_of(state, judged)
    feature = feature_of(baseline, name)
    is_judged = judged.verdict is not None and was_judged(judged.verdict)
    results = [one for one in judgement.results if one.feature == name] if judgement else []
    top = strongest(results)
    profiles: list[FeatureProfile] = []
    without = ""
    if baseline is not None and feature is not None:
        wanted = _with_those_before(found, judged, top.result.scale if top and top.result.alarm else 1)
        profiles, without = _profiles(state, wanted, baseline.digest, name)
    else:
        without = "The baseline does not have it." if baseline is not None else _no_baseline(judged)
    current = reduce(add, profiles) if profiles else None
    missing = judgement.missing if judgement else []
    reading = FeatureReading(name, feature, results, top, [], current, max(len(profiles), 1))
    shown, without = _drawn(reading, missing, without)
    return FeatureInWindow(
        feature=name,
        role=reading.role,
        kind=feature.kind if feature else (results[0].kind if results else None),
        importance=finite(feature.importance) if feature else None,
        severity=reading.severity if results and is_judged else None,
        changes=words.changes(reading, missing),
        strongest=value_of(top.result, is_judged) if top else None,
        ratio=finite(top.ratio) if top else None,
        measures=_in_order(value_of(one, is_judged) for one in results),
        span=reading.span,
        shares=_shares(shown),
        without=without,
        in_sample=feature is not None and feature.in_sample,
        watched=judgement is None or name not in judgement.unwatched,
    )


def _drawn(reading: FeatureReading, missing: Sequence[str], without: str) -> tuple[Distribution | None, str]:
    """Return what can be drawn of a feature, else why nothing can be: `without` where it has no profile."""
    if reading.name in missing:
        return None, "It is missing from the traffic: no row has it."
    if reading.baseline is None or reading.current is None:
        return None, without
    shown = distribution(reading.baseline.grid, reading.baseline.profile, reading.current)
    return shown, "" if shown else "There is nothing to draw: neither has values of a kind that can be."


def _in_order(values: Iterable[MeasureValue]) -> tuple[MeasureValue, ...]:
    """Return values of measures, those that alarm by default first."""
    order = {name: (one.test is None, place) for place, (name, one) in enumerate(MEASURES.items())}
    last = True, len(order)
    return tuple(sorted(values, key=lambda one: (order.get(one.measure, last), one.scale)))


def unjudged(judged: Judged) -> str:
    """Return why nothing is said of how a window is, and what to do; '' where something is."""
    verdict = judged.verdict
    if verdict is None:
        return "Nothing is said of this window yet: the monitor judges it once it is closed."
    if was_judged(verdict):
        return ""
    return f"Not judged ({STATUSES[verdict.status].word}): {verdict.message or 'no reason was given'}."


def _with_those_before(found: ChosenWindows, judged: Judged, span: int) -> list[Judged]:
    """Return a window and those of its version just before it, the newest first, so many in all."""
    same = [
        one
        for one in found.judged
        if one.window.version == judged.window.version
        and one.window.variant == judged.window.variant
        and one.window.start < judged.window.start
    ]
    same.sort(key=lambda one: one.window.start, reverse=True)
    return [judged, *same[: span - 1]]


def _profiles(
    state: State, of: Sequence[Judged], digest: str | None, name: str
) -> tuple[list[FeatureProfile], str]:
    """Return a feature's profile in each of these windows, up to the first without; and why the first has none."""
    kept = Windows(state).profiles(one.window.id for one in of)
    found: list[FeatureProfile] = []
    why = "The window's distribution is no longer kept (mooring monitor --keep); its measures are."
    for one in of:
        data = kept.get(one.window.id)
        if not data:
            break
        try:
            parts = ProfileParts.from_bytes(data)
            profile = parts.feature(name)
        except FormatError:
            why = "Another version of Mooring wrote the window's distribution, which this one can't read."
            break
        if profile is None or parts.digest != digest:
            why = "The window's distribution is on other grids than this baseline's."
            break
        found.append(profile)
    return found, "" if found else why


def _no_baseline(judged: Judged) -> str:
    if judged.verdict is not None and judged.verdict.baseline is not None:
        return "Another version of Mooring wrote the baseline, which this one can't read."
    return "There is no baseline to compare it with: make one with mooring baseline build."


def value_of(result: Result, is_judged: bool) -> MeasureValue:
    """Return a result as it is told; of a window that could not be judged none alarms."""
    return MeasureValue(
        measure=result.measure,
        scale=result.scale,
        value=finite(result.value),
        threshold=finite(result.threshold),
        p_value=finite(result.p_value),
        reference=finite(result.reference),
        alarm=result.alarm and is_judged,
        severity=result.severity if is_judged else "ok",
    )


def _shares(found: Distribution | None) -> Shares | None:
    match found:
        case Histogram():
            return Shares(
                kind="histogram",
                start=found.start,
                width=found.width,
                reference=_plain(found.reference),
                current=_plain(found.current),
                below=found.below,
                above=found.above,
            )
        case Bars():
            return Shares(
                kind="categories",
                names=tuple(words.name(one) for one in found.names),
                new=tuple(words.name(one) for one, new in zip(found.names, found.new, strict=True) if new),
                reference=_plain(found.reference),
                current=_plain(found.current),
                rest=found.rest,
                rest_shares=found.rest_shares,
            )
        case ClockShares():
            return Shares(
                kind="times",
                reference=_plain(found.hours[0]),
                current=_plain(found.hours[1]),
                weekdays_reference=_plain(found.weekdays[0]),
                weekdays_current=_plain(found.weekdays[1]),
            )
        case None:
            return None


def _plain(shares: Floats) -> tuple[float, ...]:
    return tuple(float(f"{share:.5g}") for share in shares)
