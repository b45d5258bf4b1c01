"""The queue of alerts: each is put there with what it is about, and sent at least once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from mooring.monitor.alerting import payload
from mooring.monitor.alerting.channels import Channel, NotSent
from mooring.monitor.alerting.payload import Payload, RolledBack
from mooring.monitor.alerting.rules import transition
from mooring.monitor.window_incidents import Rated
from mooring.state.alerts import About, Alert, AlertKind, Alerts, Kind
from mooring.state.leases import Lease
from mooring.state.repository import Transaction
from mooring.state.state import State
from mooring.state.verdicts import Verdict
from mooring.state.windows import Window, Windows
from mooring.status import severity_of

_BACKOFF_SECONDS = 5.0, 3600.0
_GIVE_UP = timedelta(hours=24)
_LEAST_ATTEMPTS = 10
_KINDS: dict[tuple[About, Kind], AlertKind] = {
    ("performance", "new"): "performance_new",
    ("performance", "worsened"): "performance_worsened",
    ("performance", "ended"): "performance_ended",
    ("estimated", "new"): "estimated_new",
    ("estimated", "worsened"): "estimated_worsened",
    ("estimated", "ended"): "estimated_ended",
    ("joint", "new"): "joint_new",
    ("joint", "worsened"): "joint_worsened",
    ("joint", "ended"): "joint_ended",
}


def enqueue_drift(
    tx: Transaction,
    window: Window,
    verdict: Verdict,
    channels: Sequence[Channel],
    *,
    report: str | None = None,
) -> Kind | None:
    """Put what is worth telling about a new verdict in the queue, in the verdict's own transaction.

    Returns what is told, even where there is no channel to tell it.
    """
    standing = Windows(tx).standing(window.model, window.version, window.variant)
    kind, after = transition(standing, severity_of(verdict.status))
    if after != standing:
        Windows(tx).set_standing(window.model, window.version, window.variant, after)
    if kind is not None:
        _enqueue(tx, kind, payload.of_drift(kind, window, verdict, report), channels, verdict_id=verdict.id)
    return kind


def enqueue_rated(
    tx: Transaction,
    kind: Kind,
    rated: Rated,
    verdict_id: str,
    channels: Sequence[Channel],
    *,
    report: str | None = None,
) -> None:
    """Put it in the queue that a window is worse, worse still, or no longer is; idempotent.

    `rated` says in what: performance, measured or estimated, or how features go together. `verdict_id` is that of
    the verdict on the same window, whose drift may be none.
    """
    said = payload.of_rated(kind, rated, verdict_id, report)
    _enqueue(tx, _KINDS[said.about, kind], said, channels, verdict_id=verdict_id)


def enqueue_rollback(
    tx: Transaction,
    rollout_id: str,
    model: str,
    version: str,
    previous: str | None,
    number: int,
    reason: str,
    channels: Sequence[Channel],
) -> None:
    """Put it in the queue that a new version was taken out of service again; idempotent."""
    said = payload.of_rollback(rollout_id, model, version, previous, number, reason)
    _enqueue(tx, "rolled_back", said, channels, rollout_id=rollout_id)


def _enqueue(
    tx: Transaction,
    kind: AlertKind,
    said: Payload | RolledBack,
    channels: Sequence[Channel],
    *,
    verdict_id: str | None = None,
    rollout_id: str | None = None,
) -> None:
    for channel in channels:
        alert = Alert(
            verdict_id=verdict_id,
            rollout_id=rollout_id,
            model=said.model,
            kind=kind,
            channel=channel.name,
            created=said.created,
            next_attempt=said.created,
        )
        text = msgspec.json.encode(msgspec.structs.replace(said, id=alert.id)).decode()
        Alerts(tx).put(msgspec.structs.replace(alert, payload=text))


def deliver(
    state: State,
    model: str,
    channels: Sequence[Channel],
    *,
    lease: Lease | None = None,
    now: datetime | None = None,
    rollouts: bool = False,
) -> list[Alert]:
    """Send a model's alerts that are due, and return them with what became of each.

    Those about verdicts, or, where asked for, those about rollouts: each kind has one process that sends it.
    What a channel does not take is tried again, later and later, for at least a day. A kill between sending and
    noting it down sends an alert again: receivers know it by its id. Raises StateError.
    """
    named = {channel.name: channel for channel in channels}
    tried: list[Alert] = []
    begun = now or datetime.now(UTC)
    while due := Alerts(state).due(model, begun, rollouts=rollouts):
        for alert in due:
            told = _tell(alert, named.get(alert.channel), now)
            with state.begin(lease) as tx:
                Alerts(tx).update(told)
            tried.append(told)
    return tried


def _tell(alert: Alert, channel: Channel | None, now: datetime | None) -> Alert:
    """Return the alert after one attempt to send it."""
    attempts = alert.attempts + 1
    try:
        if channel is None:
            raise NotSent("this channel is no longer configured", final=True)
        channel.send(alert.id, alert.payload.encode())
    except NotSent as error:
        at = now or datetime.now(UTC)
        given_up = at - alert.created > _GIVE_UP and attempts >= _LEAST_ATTEMPTS
        return msgspec.structs.replace(
            alert,
            attempts=attempts,
            status="failed" if error.final or given_up else "pending",
            last_error=str(error),
            next_attempt=at + timedelta(seconds=max(backoff(attempts), error.wait)),
        )
    return msgspec.structs.replace(
        alert, attempts=attempts, status="sent", sent=now or datetime.now(UTC), last_error=None
    )


def backoff(attempts: int) -> float:
    """Return how many seconds to wait after so many failed attempts: twice as long each time, up to an hour."""
    shortest, longest = _BACKOFF_SECONDS
    return float(min(shortest * 2.0 ** min(attempts - 1, 30), longest) * random.uniform(0.5, 1.0))
