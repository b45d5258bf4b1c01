"""Moves of the champion that a person asks for, with the same record as the loop's own."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal

import msgspec

from mooring.registry import champions
from mooring.state.leases import Lease
from mooring.state.promotions import Promotion
from mooring.state.retrainings import Tickets, me
from mooring.state.state import State

_PATIENCE_SECONDS = 20.0


class NoPrevious(ValueError):
    """There is no version to go back to."""


class Already(ValueError):
    """The version is the champion."""


def promote(state: State, model: str, version: str, reason: str) -> Promotion:
    """Make a version the champion.

    Raises Already, TrackingError, and LeaseHeld where a retraining is being worked on for long.
    """
    with _lease(state, model) as lease:
        tickets = Tickets(state, lease)
        return _move(tickets, model, version, reason, "promotion", _unfinished(tickets, model, "promotion"))


def rollback(state: State, model: str, reason: str) -> Promotion:
    """Make the version before the champion again.

    Raises NoPrevious, TrackingError, and LeaseHeld where a retraining is being worked on for long.
    """
    with _lease(state, model) as lease:
        tickets = Tickets(state, lease)
        # One that was killed, or lost MLflow, may have moved the alias previous already: then its record tells.
        if (begun := _unfinished(tickets, model, "rollback")) is not None:
            return _move(tickets, model, begun.version, reason, "rollback", begun)
        previous = champions.previous(model)
        if previous is None or previous == champions.champion(model):
            raise NoPrevious(
                f"no other version of {model} has the alias previous: name the one to go back to with mooring "
                "promote"
            )
        return _move(tickets, model, previous, reason, "rollback", None)


@contextmanager
def _lease(state: State, model: str) -> Iterator[Lease]:
    """Have the lease; a monitor that works on a retraining has it for a moment, again and again."""
    lease = state.lease(f"retrain/{model}")
    end = time.monotonic() + _PATIENCE_SECONDS
    while not lease.acquire():
        if time.monotonic() > end:
            break
        time.sleep(0.2)
    with lease:  # raises LeaseHeld where it is not ours by now
        yield lease


def _unfinished(tickets: Tickets, model: str, kind: Literal["promotion", "rollback"]) -> Promotion | None:
    """Return the newest move, where it is one by hand of this kind that was begun and not done."""
    newest = next(iter(tickets.promotions.newest(model, 1)), None)
    if newest is None or newest.ticket_id is not None or newest.kind != kind or newest.status == "done":
        return None
    return newest if champions.champion(model) in (newest.version, newest.previous) else None


def _move(
    tickets: Tickets,
    model: str,
    version: str,
    reason: str,
    kind: Literal["promotion", "rollback"],
    unfinished: Promotion | None,
) -> Promotion:
    champions.require(model, version)
    if unfinished is not None and unfinished.version == version:
        begun = msgspec.structs.replace(unfinished, status="begun", reason=reason, ended=None)
    else:
        champion = champions.champion(model)
        if champion == version:
            raise Already(f"version {version} of {model} is the champion already")
        begun = Promotion(
            id=str(uuid.uuid4()),
            model=model,
            ticket_id=None,
            kind=kind,
            version=version,
            previous=champion,
            status="begun",
            reason=reason,
            who=me(),
            created=datetime.now(UTC),
        )
    tickets.promotions.put(begun)
    try:
        champions.move_champion(model, version, expected=begun.previous)
    except Exception as error:
        told = msgspec.structs.replace(begun, status="failed", reason=f"{error}", ended=datetime.now(UTC))
        tickets.promotions.put(told)
        raise
    done = msgspec.structs.replace(begun, status="done", ended=datetime.now(UTC))
    tickets.promotions.put(done)
    return done
