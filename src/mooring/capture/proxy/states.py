"""What a client's connection waits for, and for how long."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from mooring.capture.proxy.interfaces import NEVER

if TYPE_CHECKING:
    from mooring.settings import FrontSettings

LINGER_SECONDS = 5.0
"""How long what a client still sends is read and dropped: closed at once, it might never see its answer."""


class ClientState(IntEnum):
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


def deadlines(settings: FrontSettings) -> dict[ClientState, float]:
    """Return how many seconds each state may last. A body's begin anew with each piece of it."""
    return {
        ClientState.IDLE: settings.idle_timeout,
        ClientState.HEAD: settings.receive_timeout,
        ClientState.BODY: settings.receive_timeout,
        ClientState.ANSWER: NEVER,  # the upstream's half has a deadline of its own
        ClientState.READER: settings.receive_timeout,
        ClientState.CLOSE: LINGER_SECONDS,
    }
