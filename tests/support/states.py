"""Windows, verdicts and alerts to put into a state."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from mooring.state.alerts import Alert
from mooring.state.state import State
from mooring.state.verdicts import Verdict, Verdicts
from mooring.state.windows import Window, Windows

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
LOG = "s3://bucket/log"


def window(hour: int = 0, **changed) -> Window:
    start = NOON + hour * HOUR
    given = {"model": "wine", "version": "3", "start": start, "end": start + HOUR, "status": "closed"}
    return Window(**{**given, **changed})


def verdict(of: Window, status: str = "ok", **changed) -> Verdict:
    return Verdict(window_id=of.id, status=status, created=of.end, revision=of.revision, **changed)


def put(state: State, *windows: Window, status: str = "ok") -> list[Window]:
    """Write windows, each with a verdict, and return them with their numbers."""
    with state.begin() as tx:
        written = [Windows(tx).put(one, b"profile of " + one.id.encode()) for one in windows]
        for one in written:
            Verdicts(tx).put(verdict(one, status), b"results of " + one.id.encode())
    return written


DAY = date(2026, 3, 1)


def alert(about: Verdict, kind: str = "new", channel: str = "https://example.org", **changed) -> Alert:
    given = {"model": "wine", "created": NOON, "next_attempt": NOON}
    return Alert(verdict_id=about.id, kind=kind, channel=channel, **{**given, **changed})
