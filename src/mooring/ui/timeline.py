"""What happened to a model in a time: alerts, retrainings and rollouts, as a timeline shows them."""

from __future__ import annotations

from datetime import datetime

import msgspec

from mooring.state.alerts import Alerts
from mooring.state.retrainings import Tickets
from mooring.state.rollouts import Rollouts
from mooring.state.state import State
from mooring.ui import paths
from mooring.ui.routing import address

_MOST = 200


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """An alert. `channel` is named without its secrets; `see` is the page about what it says."""

    kind: str
    status: str
    channel: str
    created: datetime
    error: str | None
    see: str


class Retrained(msgspec.Struct, frozen=True, kw_only=True):
    """A retraining, under way as long as it has not ended."""

    number: int
    status: str
    reason: str
    candidate: str | None
    created: datetime
    ended: datetime | None
    see: str


class PutIntoService(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout of a version, under way as long as it has not ended."""

    number: int
    status: str
    version: str
    reason: str
    created: datetime
    ended: datetime | None
    see: str


def sent(state: State, model: str, start: datetime, end: datetime) -> tuple[Sent, ...]:
    """Return the newest alerts that were made between two times, the oldest of them first."""
    see = address(paths.HISTORY, {"model": model})
    found = [
        Sent(
            kind=one.kind,
            status=one.status,
            channel=one.channel,
            created=one.created,
            error=one.last_error,
            see=see,
        )
        for one in Alerts(state).newest(model, _MOST, start=start, end=end)
    ]
    return tuple(found[::-1])


def retrained(state: State, model: str, start: datetime, end: datetime) -> tuple[Retrained, ...]:
    """Return the newest retrainings that were under way between two times, the oldest of them first."""
    found = [
        Retrained(
            number=one.number,
            status=one.status,
            reason=one.reason,
            candidate=one.candidate,
            created=one.created,
            ended=one.ended,
            see=address(paths.RETRAINING, {"model": model, "number": one.number}),
        )
        for one in Tickets(state).under_way(model, start, end, _MOST)
    ]
    return tuple(found[::-1])


def put_into_service(state: State, model: str, start: datetime, end: datetime) -> tuple[PutIntoService, ...]:
    """Return the newest rollouts that were under way between two times, the oldest of them first."""
    found = [
        PutIntoService(
            number=one.number,
            status=one.status,
            version=one.version,
            reason=one.reason,
            created=one.created,
            ended=one.ended,
            see=address(paths.ROLLOUT, {"model": model, "number": one.number}),
        )
        for one in Rollouts(state).under_way(model, start, end, _MOST)
    ]
    return tuple(found[::-1])
