"""Severity: what is said of a window, a feature or an outcome, and how that ranks, reads and looks.

Commands, metrics, alerts, reports and pages all take it from the one table here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, cast, get_args

Severity = Literal["ok", "warning", "critical"]
"""How bad what was judged is."""
Status = Literal["ok", "warning", "critical", "too_few", "no_baseline"]
"""What is said of a window; the last two say that it could not be judged."""

JUDGED: tuple[Severity, ...] = get_args(Severity)
"""What is said of what could be judged, the mildest first."""
ALARMING: tuple[Severity, ...] = ("warning", "critical")


class Appearance(NamedTuple):
    """How a status is shown.

    `rank` is how bad it is, None where nobody knows. `word` is said of a window and of features, `labelled` of how
    well a model does on labelled rows. `mark` stands before it in a terminal's table, and `style` colours it
    there. In figures it has a `shape` and a `colour`, a variable of the style sheet; in a heat map `cell`, the
    class of a cell, and a `dot` on it.
    """

    rank: int | None
    word: str
    labelled: str
    mark: str
    style: str
    shape: str
    colour: str
    cell: str
    dot: str = ""

    @property
    def symbol(self) -> str:
        """Its shape as plotly calls it."""
        return {"triangle": "triangle-up", "ring": "circle-open"}.get(self.shape, self.shape)


STATUSES: dict[Status, Appearance] = {
    "critical": Appearance(2, "critical", "critical", "!!", "red", "square", "--large", "c", "square"),
    "warning": Appearance(1, "warning", "warning", "! ", "yellow", "triangle", "--alarm", "a", "dot"),
    "no_baseline": Appearance(None, "no baseline", "not judged", "? ", "dim", "ring", "--soft", "n"),
    "too_few": Appearance(None, "too few rows", "too few labels", "- ", "dim", "ring", "--soft", "n"),
    "ok": Appearance(0, "ok", "ok", "", "green", "circle", "--well", "t"),
}
"""Every status, that which most needs somebody first."""

OUTCOMES: dict[str, Severity] = {
    "sent": "ok",
    "promoted": "ok",
    "approval": "warning",
    "refused": "warning",
    "failed": "critical",
    "rolled_back": "critical",
    "aborted": "critical",
}
"""How bad it is that an alert, a retraining or a rollout has come to this; of others there is nothing to say."""


def rank(status: Status) -> int:
    """Return how bad a status is: 0, 1 or 2. Raises ValueError for one that says that nobody knows.

    >>> rank("ok"), rank("critical")
    (0, 2)
    """
    if (found := STATUSES[status].rank) is None:
        raise ValueError(f"{status} says that it could not be judged")
    return found


def worst(found: Iterable[Severity]) -> Severity:
    """Return the worst severity, ok of none.

    >>> worst(["ok", "critical", "warning"]), worst([])
    ('critical', 'ok')
    """
    return max(found, key=rank, default="ok")


def at_least(least: Severity) -> tuple[Severity, ...]:
    """Return a severity and those that are worse.

    >>> at_least("warning")
    ('warning', 'critical')
    """
    return JUDGED[rank(least) :]


def urgency(status: Status | None) -> int:
    """Return the place of a status where those that need somebody come first, None at the end.

    >>> sorted([None, "ok", "too_few", "warning"], key=urgency)
    ['warning', 'too_few', 'ok', None]
    """
    return len(STATUSES) if status is None else list(STATUSES).index(status)


def severity_of(status: Status) -> Severity | None:
    """Return how bad a window is, None where nobody knows.

    >>> severity_of("warning"), severity_of("too_few")
    ('warning', None)
    """
    return None if STATUSES[status].rank is None else cast("Severity", status)
