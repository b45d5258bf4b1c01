"""What the front process and the controller of `mooring serve` say to each other, over a pair of sockets.

The front answers clients and runs the model servers; it needs neither MLflow nor a database. The controller, a
process of its own, watches the registry, keeps the state, and says what it wants. Should it die, or wait for
MLflow, the front goes on with what was wanted last.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Literal

import msgspec

Variant = Literal["champion", "canary", "shadow"]
_LENGTH = struct.Struct(">I")


class Model(msgspec.Struct, frozen=True):
    """A version whose servers are to run: its directory on this machine, and how its environment is entered.

    `activate` is a shell command, such as `source …/bin/activate`; empty for this Python's own environment.
    """

    version: str
    path: str
    activate: str = ""


class Route(msgspec.Struct, frozen=True):
    """Which share of the requests a version answers, or, as the shadow, gets a copy of.

    The champion answers whatever is left over by the canary, so its own share says nothing.
    """

    version: str
    variant: Variant
    share: float = 1.0


class Want(msgspec.Struct, frozen=True, tag="want"):
    """The controller wants these versions' servers to run, and requests to go there. It replaces any before it.

    A version without a route runs and gets no requests; one that is not named any more finishes what it has and is
    stopped. A route to a version of which no server is ready yet waits for one, but for canary and shadow: theirs
    go to the champion, or nowhere, meanwhile.
    """

    models: tuple[Model, ...]
    routes: tuple[Route, ...]


class Replay(msgspec.Struct, frozen=True, tag="replay"):
    """The controller wants requests that the champion has answered to be put to another version, as a check.

    Where there was no traffic yet, `example` is put to it, the body of a scoring request; without one, nothing.
    """

    version: str
    requests: int = 20
    example: bytes | None = None


class Server(msgspec.Struct, frozen=True):
    """How a version's servers are: so many of those wanted answer, so often one ended by itself since they run.

    `crashed` counts those, too, that had to be ended, and `hung` how many of them were since their requests timed
    out. `reason` says why the last one ended or does not come up, and is empty where none has.
    """

    wanted: int
    ready: int
    crashed: int = 0
    reason: str = ""
    hung: int = 0


class Serving(msgspec.Struct, frozen=True, tag="serving"):
    """The front tells how servers are, whenever that changes and every second."""

    servers: dict[str, Server]


class ReplayedAnswer(msgspec.Struct, frozen=True, array_like=True):
    """A request that was put as a check, its media type, the answer, and the champion's, where there is one."""

    request: bytes
    request_type: str
    answer: bytes
    champion_answer: bytes | None = None


class Replayed(msgspec.Struct, frozen=True, tag="replayed"):
    """The front tells how a replay went. Requests that the champion itself had failed are not put.

    `answers` are those that came with success, as far as there was room for them.
    """

    version: str
    requests: int
    failed: int
    reason: str = ""
    answers: tuple[ReplayedAnswer, ...] = ()


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """How a version answered one request. `ok` says that it was with success (2xx).

    `answer` is its body, there for canary, shadow and some of the champion's, as far as there was room for it.
    Of a shadow, `champion_ok` and `champion_answer` are how the champion answered the same request, and
    `champion_seconds` how long that took; that request is told as the champion's, too. `request` is there with
    `answer` where the champion's is not, with its media type.
    """

    version: str
    variant: Variant
    ok: bool
    seconds: float
    answer: bytes | None = None
    champion_ok: bool | None = None
    champion_seconds: float | None = None
    champion_answer: bytes | None = None
    request: bytes | None = None
    request_type: str = ""


class Outcomes(msgspec.Struct, frozen=True, tag="outcomes"):
    """The front tells how requests were answered while the servers of more than one version are wanted.

    `left_out` counts those that there was no room for; `shadow_dropped` copies that the shadow had none for, and
    `shadow_timed_out` those of `outcomes` that it did not answer in time.
    """

    outcomes: tuple[Outcome, ...]
    left_out: int = 0
    shadow_dropped: int = 0
    shadow_timed_out: int = 0


FromController = Want | Replay
FromFront = Serving | Replayed | Outcomes
_encode = msgspec.msgpack.Encoder().encode
_from_controller: msgspec.msgpack.Decoder[FromController] = msgspec.msgpack.Decoder(FromController)
_from_front: msgspec.msgpack.Decoder[FromFront] = msgspec.msgpack.Decoder(FromFront)


def pack(message: FromController | FromFront) -> bytes:
    """Return a message as it goes over the socket: its length in four bytes, then itself."""
    body = _encode(message)
    return _LENGTH.pack(len(body)) + body


def unpack(data: bytearray) -> Iterator[bytes]:
    """Take the whole messages off the front of `data`, and yield each as it was encoded.

    >>> data = bytearray(pack(Replay("3")) + b"more")
    >>> [from_controller(one) for one in unpack(data)], bytes(data)
    ([Replay(version='3', requests=20, example=None)], b'more')
    """
    while len(data) >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(data)
        end = _LENGTH.size + length
        if len(data) < end:
            return
        body = bytes(data[_LENGTH.size : end])
        del data[:end]
        yield body


def from_controller(body: bytes) -> FromController:
    """Return what the controller said."""
    return _from_controller.decode(body)


def from_front(body: bytes) -> FromFront:
    """Return what the front said."""
    return _from_front.decode(body)
