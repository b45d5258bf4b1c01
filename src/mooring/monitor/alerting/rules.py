"""When a drift is worth telling: n of the last m windows, and only what is new about it."""

from __future__ import annotations

from collections.abc import Sequence

from mooring.state.alerts import Kind
from mooring.state.tables import Level, Status

_RANK: dict[Level, int] = {"ok": 0, "warning": 1, "critical": 2}


def level(statuses: Sequence[Status], n: int = 1, m: int = 1) -> Level | None:
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
    known = [_RANK[status] for status in statuses if status != "too_few" and status != "no_baseline"][-m:]
    if not known:
        return None
    for worst in ("critical", "warning"):
        if sum(rank >= _RANK[worst] for rank in known) >= n:
            return worst
    return "ok"


def transition(standing: Level, now: Level | None) -> tuple[Kind | None, Level]:
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
    return ("worsened", now) if _RANK[now] > _RANK[standing] else (None, standing)


def standing_of(statuses: Sequence[Status], n: int = 1, m: int = 1) -> Level:
    """Return how bad it is known to be after windows of these statuses, the newest at the end.

    >>> standing_of(["ok", "critical", "warning"]), standing_of(["critical", "ok", "too_few"])
    ('critical', 'ok')
    """
    standing: Level = "ok"
    for at in range(len(statuses)):
        last = statuses[max(0, at - 2 * m - 9) : at + 1]
        _, standing = transition(standing, level(last, n, m))
    return standing
