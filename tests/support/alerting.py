"""Windows that conclude in one status after the other, and the alerts that come of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mooring.monitor.alerting.queue import deliver, enqueue_drift
from mooring.state.state import State
from mooring.state.verdicts import Finding, Verdict, Verdicts
from mooring.state.windows import Window, Windows

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECRET = "not to be seen"
FINDINGS = (
    Finding(feature="alcohol", measure="ks", value=0.3149, threshold=0.05, p_value=0.0001),
    Finding(feature="pH (new)", measure="null_rate", value=None),
)


def conclude(state: State, *seen: str, channels=(), first: int = 0, **options) -> list[str | None]:
    """Give the model a window of each status, one an hour, and return what is told of each."""
    kinds = []
    for hour, status in enumerate(seen, start=first):
        start = NOON + hour * HOUR
        window = Window(model="wine", version="3", start=start, end=start + HOUR, status="closed", rows=1000)
        with state.begin() as tx:
            window = Windows(tx).put(window, b"")
            verdict = Verdict(
                window_id=window.id, status=status, rows=1000, created=start, alarms=2, summary=FINDINGS
            )
            if not Verdicts(tx).put(verdict, b""):
                kinds.append(None)
                continue
            kinds.append(enqueue_drift(tx, window, verdict, channels, **options))
    return kinds


def delivered(state: State, *channels, later: timedelta = timedelta(0)) -> list[tuple[str, str | None]]:
    """Deliver what is due, and return status and error of each."""
    now = datetime.now(UTC) + later
    return [(alert.status, alert.last_error) for alert in deliver(state, "wine", channels, now=now)]
