"""What is worth telling of a drift, or of a loss of performance: only what is new about it."""

from __future__ import annotations

from mooring.state.alerts import Kind
from mooring.status import Severity, rank


def transition(standing: Severity, now: Severity | None) -> tuple[Kind | None, Severity]:
    """Return what is to be told of a drift, if anything, and how bad it is known to be from then on.

    `standing` is the worst that was told of a drift that lasts, so it is told once that it got worse, however
    often it does.

    >>> transition("ok", "warning"), transition("warning", "critical"), transition("critical", "ok")
    (('new', 'warning'), ('worsened', 'critical'), ('ended', 'ok'))
    >>> transition("critical", "warning")
    (None, 'critical')
    """
    if now is None or now == standing:
        return None, standing
    if now == "ok":
        return "ended", now
    if standing == "ok":
        return "new", now
    return ("worsened", now) if rank(now) > rank(standing) else (None, standing)
