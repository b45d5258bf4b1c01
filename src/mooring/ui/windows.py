"""The windows that a page is about, and what is told of one: on the page of a model, and on that of a feature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from mooring.drift.baseline import BaselineParts, Feature
from mooring.drift.judgement import Judgement
from mooring.drift.stored import FormatError
from mooring.report.course import CHAMPION
from mooring.state.baselines import StoredBaselines
from mooring.state.state import State
from mooring.state.windows import Judged, Windows
from mooring.status import JUDGED, Status
from mooring.ui import paths
from mooring.ui.responses import NotFound
from mooring.ui.routing import WindowRange, address, asked
from mooring.ui.sources import Sources

SHADOW = "shadow"
_BASELINES = 4  # of 200 features each is some megabytes

Here = dict[str, Any]


class Chosen(WindowRange, frozen=True, kw_only=True):
    """Which windows, and which one of them is looked at."""

    variant: Annotated[str, Meta(description="champion, canary or shadow; without, the one that answers")] = ""
    version: Annotated[str, Meta(description="windows of this version of the model only")] = ""
    window: Annotated[str, Meta(description="the window that is looked at; without, the newest judged")] = ""


class WindowPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A window and what was said of it. `status` is None where nothing was; `see` shows it.

    `incidents` are the ids of those that it is part of, where the page is about these, too.
    """

    id: str
    start: datetime
    end: datetime
    rows: int
    requests: int
    late: int
    version: str | None
    variant: str
    open: bool
    status: Status | None
    provisional: bool
    alarms: int
    message: str
    see: str
    incidents: tuple[str, ...] = ()

    @property
    def judged(self) -> bool:
        """Whether something is said of how it is."""
        return self.status in JUDGED


class Choice(msgspec.Struct, frozen=True):
    """Something that can be chosen, and where that leads."""

    name: str
    see: str
    chosen: bool


class ChosenWindows(NamedTuple):
    """The windows of a model that were asked for, in the order in which they ended.

    `picked` is the one that is looked at; it may lie outside of them, where its address says so.
    """

    variant: str
    variants: list[str]
    versions: list[str]
    windows: list[Judged]
    picked: Judged | None

    @property
    def place(self) -> int | None:
        """Where among the windows the picked one is."""
        return next((at for at, one in enumerate(self.windows) if one is self.picked), None)

    @property
    def judged(self) -> list[Judged]:
        """The windows of which it is said how they are."""
        return [one for one in self.windows if one.verdict is not None and one.verdict.status in JUDGED]


def found(sources: Sources, model: str, query: Chosen) -> ChosenWindows:
    """Return the windows that are asked for. Raises NotFound for a window that the model does not have."""
    for text in (model, query.variant, query.version, query.window):
        if not _can_be_kept(text):
            raise NotFound(f"Nothing here has a name as {text!r}.")
    watched = Windows(sources.state).watched(model)
    variants = sorted({one.variant for one in watched}, key=lambda one: (one == SHADOW, one != CHAMPION, one))
    versions = sorted({one.version for one in watched if one.version}, key=_by_number)
    variant = query.variant or (variants[0] if variants else CHAMPION)
    start, end = query.span
    windows = Windows(sources.state).history(
        model, variant=variant, version=query.version or ..., start=start, end=end, newest=query.newest
    )
    windows.sort(key=lambda one: (one.window.end, one.window.start, one.window.number))
    picked = None
    if query.window:
        picked = next((one for one in windows if one.window.id == query.window), None)
        picked = picked or Windows(sources.state).find(model, query.window)
        if picked is None:
            raise NotFound(f"There is no such window of {model}: {query.window}.")
    else:
        # Of the version that answers now: another's last window may have ended later, as it was left open.
        newest = max(windows, key=lambda one: (one.window.start, one.window.number), default=None)
        judged = [one for one in windows if one.verdict is not None and one.verdict.status in JUDGED]
        picked = max(judged, key=lambda one: (one.window.start, one.window.number), default=newest)
    return ChosenWindows(variant, variants, versions, windows, picked)


def point(judged: Judged, path: str, here: Here) -> WindowPoint:
    """Return a window as it is told. `here` is what the page at `path` is asked."""
    window, verdict = judged
    id = window.id
    return WindowPoint(
        id=id,
        start=window.start,
        end=window.end,
        rows=window.rows,
        requests=window.requests,
        late=window.late,
        version=window.version,
        variant=window.variant,
        open=window.status == "open",
        status=verdict.status if verdict else None,
        provisional=bool(verdict and verdict.provisional),
        alarms=verdict.alarms if verdict else 0,
        message=verdict.message if verdict else "",
        see=address(path, here | {"window": id}),
    )


def beside(found: ChosenWindows, path: str, here: Here) -> tuple[str | None, str | None]:
    """Return where the window before the picked one is shown, and the one after it."""
    place = found.place
    if place is None:
        return None, None
    before = found.windows[place - 1] if place > 0 else None
    after = found.windows[place + 1] if place + 1 < len(found.windows) else None
    earlier, later = (
        address(path, here | {"window": one.window.id}) if one is not None else None for one in (before, after)
    )
    return earlier, later


def choices(names: Sequence[str], chosen: str, field: str, path: str, here: Here) -> tuple[Choice, ...]:
    """Return links by which one of several names is chosen; of another, another window is looked at."""
    fresh = {name: value for name, value in here.items() if name != "window"}
    return tuple(Choice(name, address(path, fresh | {field: name}), name == chosen) for name in names)


def here_of(model: str, query: Chosen, **parts: str) -> Here:
    """Return what a page is asked, for addresses of the same page with something else."""
    return {"model": model, **parts, **asked(query)}


def feature_address(model: str, feature: str, query: Chosen) -> str:
    """Return where a feature of the same windows is shown."""
    kept = {name: value for name, value in asked(query).items() if name in Chosen.__struct_fields__}
    return address(paths.FEATURE, {"model": model, "feature": feature, **kept})


def baseline_of(state: State, judged: Judged) -> BaselineParts | None:
    """Return the very baseline that a window was compared with, else that of its version.

    None where there is none, or none that this Mooring can read.
    """
    window, verdict = judged
    digest = verdict.baseline if verdict else None
    digest = digest or StoredBaselines(state).newest_digest(window.model, window.version)
    try:
        return _baseline(state, window.model, digest) if digest is not None else None
    except (LookupError, FormatError):
        return None


@lru_cache(maxsize=_BASELINES)
def _baseline(state: State, model: str, digest: str) -> BaselineParts:
    data = StoredBaselines(state).data(model, digest)
    if data is None:
        raise LookupError(digest)
    return BaselineParts.from_bytes(data)


def feature_of(baseline: BaselineParts | None, name: str) -> Feature | None:
    """Return a feature of a baseline, if that has it and can be read."""
    try:
        return baseline.feature(name) if baseline is not None else None
    except FormatError:
        return None


def in_sample(baseline: BaselineParts | None, judgement: Judgement | None) -> tuple[str, ...]:
    """Return the outputs of a judgement whose baseline is of rows that the model was trained on, or may be."""
    results = judgement.results if judgement is not None else []
    outputs = dict.fromkeys(one.feature for one in results if one.role == "output")
    found = ((name, feature_of(baseline, name)) for name in outputs)
    return tuple(name for name, feature in found if feature is not None and feature.in_sample)


def order_of(judgement: Judgement | None) -> list[str]:
    """Return the features that a judgement is about: those that drifted first, the most drifted first."""
    if judgement is None:
        return []
    return list(dict.fromkeys([*judgement.features, *(one.feature for one in judgement.results)]))


def finite(value: float | None) -> float | None:
    """Return a number as JSON has it: none that is not finite.

    >>> finite(0.5), finite(math.inf), finite(None)
    (0.5, None, None)
    """
    return value if value is not None and math.isfinite(value) else None


def _can_be_kept(text: str) -> bool:
    """Whether a database can hold a text: PostgreSQL refuses NUL, and neither takes half a character."""
    try:
        return "\0" not in text.encode().decode()
    except UnicodeEncodeError:
        return False


def _by_number(version: str) -> tuple[int, int, str]:
    """Order versions, the newest first: numbers as numbers.

    >>> sorted(["2", "10", "b", "a"], key=_by_number)
    ['10', '2', 'a', 'b']
    """
    if version.isdecimal():
        return (0, -int(version[:20]), version)
    return (1, 0, version)
