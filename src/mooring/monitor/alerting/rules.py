"""When a drift is worth telling: n of the last m windows, and only what is new about it."""

from __future__ import annotations

from collections.abc import Sequence

from mooring.state.alerts import Kind
from mooring.status import ALARMING, STATUSES, Severity, Status, rank, worst


def level(statuses: Sequence[Status], n: int = 1, m: int = 1) -> Severity | None:
    """Return how bad the drift is: what at least `n` of the last `m` windows are, or worse. None: nobody knows.

    `statuses` are those of the last windows, the newest at the end; more of them than `m`, since those that could
    not be checked do not count. Raises ValueError unless 1 <= n <= m.

    >>> level(["ok", "warning", "critical"]), level(["critical", "warning", "ok"], n=2, m=3)
    ('critical', 'warning')
    >>> level(["warning", "too_few"]), level(["too_few"])
    ('warning', None)
    """
    if not 1 <= n <= m:
        raise ValueError(f"an alert asks for n of the last m windows, with 1 <= n <= m; got {n} of {m}")
    known = [found for status in statuses if (found := STATUSES[status].rank) is not None][-m:]
    if not known:
        return None
    return worst(one for one in ALARMING if sum(each >= rank(one) for each in known) >= n)


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


def standing_of(statuses: Sequence[Status], n: int = 1, m: int = 1) -> Severity:
    """Return how bad it is known to be after windows of these statuses, the newest at the end.

    >>> standing_of(["ok", "critical", "warning"]), standing_of(["critical", "ok", "too_few"])
    ('critical', 'ok')
    """
    standing: Severity = "ok"
    for at in range(len(statuses)):
        last = statuses[max(0, at - 2 * m - 9) : at + 1]
        _, standing = transition(standing, level(last, n, m))
    return standing
