"""What a client's connection waits for, and for how long."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from mooring.capture.proxy.interfaces import NEVER

if TYPE_CHECKING:
    from mooring.config import FrontSettings

LINGER_SECONDS = 5.0
"""How long what a client still sends is read and dropped: closed at once, it might never see its answer."""


class State(IntEnum):
    """What a client's connection waits for."""

    IDLE = 0
    """A request."""
    HEAD = 1
    """The rest of a head."""
    BODY = 2
    """The rest of a body."""
    ANSWER = 3
    """The model server's answer."""
    READER = 4
    """The client, to read what was sent."""
    CLOSE = 5
    """The client, to close after the last answer."""


def deadlines(settings: FrontSettings) -> dict[State, float]:
    """Return how many seconds each state may last. A body's begin anew with each piece of it."""
    return {
        State.IDLE: settings.idle_timeout,
        State.HEAD: settings.receive_timeout,
        State.BODY: settings.receive_timeout,
        State.ANSWER: NEVER,  # the upstream's half has a deadline of its own
        State.READER: settings.receive_timeout,
        State.CLOSE: LINGER_SECONDS,
    }
