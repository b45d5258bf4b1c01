"""Alerts: a queue of messages to channels, each about a verdict or a rollout, and what became of them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import ColumnElement, func, select, tuple_, update

from mooring.state.database import insert
from mooring.state.repository import Repository, created_within, stable_id
from mooring.state.tables import alerts

Kind = Literal["new", "worsened", "ended"]
"""What happened to a drift that somebody is told of."""
AlertKind = Literal[
    "new",
    "worsened",
    "ended",
    "performance_new",
    "performance_worsened",
    "performance_ended",
    "estimated_new",
    "estimated_worsened",
    "estimated_ended",
    "joint_new",
    "joint_worsened",
    "joint_ended",
    "rolled_back",
]
"""The same of an alert in the queue, which may be about the model's performance, or about a rollout, instead."""
About = Literal["drift", "joint", "performance", "estimated"]
"""What an alert is about."""
_DUE_AT_ONCE = 1000


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one channel about a verdict or a rollout: one of the two is named.

    `channel` names it without its secrets; `payload` is JSON.
    """

    verdict_id: str | None = None
    rollout_id: str | None = None
    model: str
    kind: AlertKind
    channel: str
    payload: str = "{}"
    status: Literal["pending", "sent", "failed"] = "pending"
    attempts: int = 0
    created: datetime
    next_attempt: datetime
    last_error: str | None = None
    sent: datetime | None = None

    @property
    def id(self) -> str:
        """The alert's id: whoever gets one twice knows it by this."""
        return alert_id(self.verdict_id or self.rollout_id or "", self.kind, self.channel)


_ALERT = [alerts.c[name] for name in Alert.__struct_fields__]


class Alerts(Repository):
    """The alerts in a state."""

    def due(self, model: str, now: datetime, *, rollouts: bool = False) -> list[Alert]:
        """Return what is to be sent now, the oldest first: of each channel only the first that waits.

        Those about verdicts, which the monitor sends, or those about rollouts, which the supervisor does.
        """
        earlier = alerts.alias()
        waits = select(earlier.c.id).where(
            earlier.c.rollout_id.is_not(None) if rollouts else earlier.c.rollout_id.is_(None),
            earlier.c.model == alerts.c.model,
            earlier.c.channel == alerts.c.channel,
            earlier.c.status == "pending",
            tuple_(earlier.c.created, earlier.c.id) < tuple_(alerts.c.created, alerts.c.id),
        )
        return self._alerts(
            alerts.c.model == model,
            alerts.c.rollout_id.is_not(None) if rollouts else alerts.c.rollout_id.is_(None),
            alerts.c.status == "pending",
            alerts.c.next_attempt <= now,
            ~waits.exists(),
            newest=_DUE_AT_ONCE,
        )[::-1]

    def newest(
        self,
        model: str | None,
        count: int = 100,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> list[Alert]:
        """Return a model's newest alerts, or those of all models, sent or not, the newest first.

        Those that were made from `start` on and before `end`.
        """
        return self._alerts(*created_within(alerts, model, start, end), newest=count)

    def failed(self, since: datetime) -> dict[str, int]:
        """Return by model how many alerts could not be sent, of those made since then."""
        query = select(alerts.c.model, func.count()).where(alerts.c.status == "failed", alerts.c.created >= since)
        with self._reading() as connection:
            return {row[0]: row[1] for row in connection.execute(query.group_by(alerts.c.model))}

    def put(self, alert: Alert) -> bool:
        """Put an alert in the queue, and return whether it was not there yet."""
        with self._writing() as connection:
            written = insert(connection, alerts).values(id=alert.id, **msgspec.structs.asdict(alert))
            new = written.on_conflict_do_nothing().returning(alerts.c.id)
            return connection.execute(new).first() is not None

    def update(self, alert: Alert) -> None:
        """Write what became of an alert: its status, attempts, times and error."""
        changing = ("status", "attempts", "next_attempt", "last_error", "sent")
        changes = {name: getattr(alert, name) for name in changing}
        with self._writing() as connection:
            connection.execute(update(alerts).where(alerts.c.id == alert.id).values(changes))

    def _alerts(self, *where: ColumnElement[bool], newest: int) -> list[Alert]:
        query = select(*_ALERT).where(*where).order_by(alerts.c.created.desc(), alerts.c.id.desc()).limit(newest)
        with self._reading() as connection:
            return [Alert(**row._mapping) for row in connection.execute(query)]


def alert_id(about: str, kind: AlertKind, channel: str) -> str:
    """Return the id of the alert of this kind to a channel; `about` is the id of a verdict or of a rollout."""
    return stable_id(about, kind, channel)
