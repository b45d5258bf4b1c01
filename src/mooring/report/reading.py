"""What the windows of a report amount to: which of them count, and how features rank."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import NamedTuple

from mooring.drift.baseline import Baseline, Feature
from mooring.drift.judgement import Result
from mooring.drift.profile import FeatureProfile, Profile
from mooring.report.course import CHAMPION, answering
from mooring.report.model import Report, ReportWindow
from mooring.state.cells import Cell, Strongest, cells_of, strongest
from mooring.status import Severity


class FeatureReading(NamedTuple):
    """A feature over the windows of a report.

    `results` are those of the newest judged window and `top` is the strongest of them. `history` has a cell for
    each window, None where that was not judged. `current` is the profile of the newest `span` windows together, as
    many as the strongest alarm is about.
    """

    name: str
    baseline: Feature | None
    results: list[Result]
    top: Strongest | None
    history: list[Cell | None]
    current: FeatureProfile | None
    span: int

    @property
    def role(self) -> str:
        """Whether it is an input or an output."""
        return self.results[0].role if self.results else self.baseline.role if self.baseline else "input"

    @property
    def severity(self) -> Severity:
        """How far it has drifted in the newest judged window."""
        return self.top.severity if self.top else "ok"

    @property
    def alarms(self) -> int:
        """In how many windows it alarmed."""
        return sum(cell is not None and cell.severity != "ok" for cell in self.history)


class Series(NamedTuple):
    """The windows of one version and variant, oldest first."""

    version: str | None
    variant: str
    windows: list[ReportWindow]

    @property
    def judged(self) -> ReportWindow | None:
        """The newest window that was judged."""
        return next((window for window in reversed(self.windows) if window.judgement), None)


class Reading(NamedTuple):
    """A report's windows, put in order.

    `windows` are those of the variant that answers (the champion), oldest first, over all its versions; `earlier`
    is how many before them are left out, and `newest` the last of them that was judged. `features` begin with
    those that drifted, the most drifted first.
    """

    windows: list[ReportWindow]
    earlier: int
    newest: ReportWindow | None
    series: list[Series]
    features: list[FeatureReading]

    @property
    def drifted(self) -> list[FeatureReading]:
        """The features that alarm in the newest judged window."""
        return [feature for feature in self.features if feature.severity != "ok"]

    @property
    def steady(self) -> list[FeatureReading]:
        """The others."""
        return [feature for feature in self.features if feature.severity == "ok"]

    @property
    def versions(self) -> list[int]:
        """The places of the windows with which another version of the model begins."""
        windows = self.windows
        return [at for at in range(1, len(windows)) if windows[at].version != windows[at - 1].version]


def read(report: Report, most_windows: int) -> Reading:
    """Return what a report's newest `most_windows` windows amount to."""
    ordered = sorted(report.windows, key=lambda window: (window.start, window.end))
    variant = answering((window.variant, window.rows) for window in ordered)
    answered = [window for window in ordered if window.variant == variant]
    windows = answered[-most_windows:]
    newest = next((window for window in reversed(windows) if window.judgement), None)
    return Reading(
        windows,
        len(answered) - len(windows),
        newest,
        _series(ordered),
        _features(report.baseline, windows, newest),
    )


def _series(windows: Sequence[ReportWindow]) -> list[Series]:
    found: dict[tuple[str | None, str], Series] = {}
    for window in windows:
        key = (window.version, window.variant)
        found.setdefault(key, Series(*key, [])).windows.append(window)
    return sorted(
        found.values(), key=lambda one: (one.variant != CHAMPION, one.variant, -one.windows[-1].end.timestamp())
    )


def _features(
    baseline: Baseline | None, windows: Sequence[ReportWindow], newest: ReportWindow | None
) -> list[FeatureReading]:
    results = _by_feature(newest)
    known = {name: one for name, one in baseline.features.items() if one.role != "label"} if baseline else {}
    names = list(results) or list(known)
    of_windows = [cells_of(window.judgement) if window.judgement else None for window in windows]
    profiles = _profiles(baseline, windows, newest)
    found = []
    for name in names:
        top = strongest(results.get(name, []))
        span = top.result.scale if top and top.result.alarm else 1
        mine = [one.features[name] for one in profiles[:span] if name in one.features]
        history = [cells.get(name) if cells else None for cells in of_windows]
        current = reduce(add, mine) if mine else None
        found.append(
            FeatureReading(name, known.get(name), results.get(name, []), top, history, current, max(len(mine), 1))
        )
    order = (
        {name: place for place, name in enumerate(newest.judgement.features)}
        if newest and newest.judgement
        else {}
    )
    return sorted(
        found,
        key=lambda one: (
            one.severity == "ok",
            order.get(one.name, len(order)),
            -(one.top.ratio if one.top else 0.0),
            one.name,
        ),
    )


def _by_feature(window: ReportWindow | None) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    if window is not None and window.judgement is not None:
        for result in window.judgement.results:
            found.setdefault(result.feature, []).append(result)
    return found


def _profiles(
    baseline: Baseline | None, windows: Sequence[ReportWindow], newest: ReportWindow | None
) -> list[Profile]:
    """Return the profiles of the newest judged window and those just before it, on the baseline's grids."""
    if baseline is None or newest is None:
        return []
    digest, found = baseline.digest, []
    same = [window for window in windows if window.version == newest.version and window.judgement]
    for window in reversed(same):
        if window.profile is None or window.profile.digest != digest:
            break
        found.append(window.profile)
    return found
