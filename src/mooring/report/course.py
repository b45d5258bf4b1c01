"""How a model has been over its windows: all that a sentence on it needs to know of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from mooring.drift.judgement import Judgement
from mooring.status import Status

CHAMPION = "champion"


class WindowSummary(NamedTuple):
    """A window of one version and variant, and what its verdict is.

    `judged` says whether what was found of it is known: another Mooring may have written that. `drifted` are the
    features that alarm, the most drifted first, of which `critical` are some. `missing` are those that its rows
    are without, `unwatched` in-sample predictions that were not judged yet. `message` says why it was
    not judged and what to do.
    """

    start: datetime
    end: datetime
    rows: int
    version: str | None
    variant: str
    status: Status
    judged: bool
    provisional: bool = False
    drifted: tuple[str, ...] = ()
    critical: frozenset[str] = frozenset()
    missing: tuple[str, ...] = ()
    unwatched: tuple[str, ...] = ()
    message: str = ""

    def with_found(self, judgement: Judgement) -> WindowSummary:
        """Return it with what was found of the window."""
        return self._replace(
            drifted=tuple(judgement.features),
            critical=frozenset(one.feature for one in judgement.alarms if one.severity == "critical"),
            missing=tuple(judgement.missing),
            unwatched=tuple(judgement.unwatched),
        )


class Course(NamedTuple):
    """The windows of the variant that answers (the champion), oldest first, over all its versions.

    `others` are the newest judged windows of each version of another variant, such as a canary.
    """

    windows: list[WindowSummary]
    others: list[WindowSummary]

    @property
    def judged(self) -> list[WindowSummary]:
        """Those that were judged."""
        return [window for window in self.windows if window.judged]

    def run(self) -> list[WindowSummary]:
        """Return the judged windows, oldest first, that have been as the newest is: well, or drifting."""
        found: list[WindowSummary] = []
        for window in reversed(self.judged):
            if found and (window.status == "ok") != (found[0].status == "ok"):
                break
            found.insert(0, window)
        return found

    def last_drift(self) -> tuple[datetime, datetime] | None:
        """Return when the last drift before the newest window began and ended; None if there was none."""
        began = ended = None
        for window in reversed(self.judged):
            if window.status != "ok":
                began, ended = window.start, ended or window.end
            elif ended:
                break
        return (began, ended) if began and ended else None


def course(windows: Iterable[WindowSummary], most: int) -> Course:
    """Return how a model has been over its windows, in any order, of those that answer the newest `most`."""
    ordered = sorted(windows, key=lambda one: (one.start, one.end))
    variant = answering((one.variant, one.rows) for one in ordered)
    others = {(one.version, one.variant): one for one in ordered if one.variant != variant and one.judged}
    return Course(
        [one for one in ordered if one.variant == variant][-most:],
        sorted(others.values(), key=lambda one: (one.variant != CHAMPION, one.variant, -one.end.timestamp())),
    )


def answering(rows: Iterable[tuple[str, int]]) -> str:
    """Return the variant that answers, from those of windows and their rows: the champion if there.

    >>> answering([("shadow", 10), ("champion", 5)]), answering([("shadow", 10), ("canary", 5), ("canary", 6)])
    ('champion', 'canary')
    """
    of_each: Counter[str] = Counter()
    for variant, some in rows:
        of_each[variant] += some
    if CHAMPION in of_each or not of_each:
        return CHAMPION
    return max(sorted(of_each), key=of_each.__getitem__)
