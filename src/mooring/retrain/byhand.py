"""Moves of the champion that a person asks for, with the same record as the loop's own."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Literal

import msgspec

from mooring.monitor.state import State
from mooring.retrain import registry
from mooring.retrain.tickets import Promotion, Tickets, me


def promote(state: State, model: str, version: str, reason: str) -> Promotion:
    """Make a version the champion. Raises TrackingError, and LeaseHeld where a retraining is being worked on."""
    return _move(state, model, version, reason, "promotion")


def rollback(state: State, model: str, reason: str) -> Promotion:
    """Make the version before the champion again. Raises NoPrevious, TrackingError, LeaseHeld."""
    previous = registry.previous(model)
    if previous is None:
        raise NoPrevious(
            f"no version of {model} has the alias previous: name the one to go back to with mooring promote"
        )
    return _move(state, model, previous, reason, "rollback")


class NoPrevious(ValueError):
    """There is no version to go back to."""


def _move(
    state: State, model: str, version: str, reason: str, kind: Literal["promotion", "rollback"]
) -> Promotion:
    with state.lease(f"retrain/{model}") as lease:
        tickets = Tickets(state, lease)
        champion = registry.champion(model)
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
        tickets.put_promotion(begun)
        try:
            registry.move_champion(model, version, expected=champion)
        except Exception as error:
            told = msgspec.structs.replace(begun, status="failed", reason=f"{error}", ended=datetime.now(UTC))
            tickets.put_promotion(told)
            raise
        done = msgspec.structs.replace(begun, status="done", ended=datetime.now(UTC))
        tickets.put_promotion(done)
        return done
