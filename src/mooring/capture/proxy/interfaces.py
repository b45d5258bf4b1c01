"""What the parts of the proxy ask of each other, so that none has to know another's class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

from mooring.capture.proxy.exchange_capture import ExchangeCapture
from mooring.capture.proxy.headers import Fields, Headers

NEVER: Final = float("inf")
READ_BYTES: Final = 2**16
BUFFER: Final = memoryview(bytearray(READ_BYTES))
"""What all connections read into: each takes out what has come before another reads."""


class Timed(ABC):
    """Something that waits until `deadline`, in seconds of the loop's clock."""

    def __init__(self) -> None:
        self.deadline = NEVER

    @abstractmethod
    def overdue(self) -> None:
        """The deadline has passed."""


class Connection(Timed):
    """A connection to a model server, as whatever it carries sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.reused = False
        """Whether it has carried something before."""
        self.counted = False
        """Whether what it carries is one of those that its server has a limited number of."""
        self.since = 0.0
        """Since when it carries that, in seconds of the loop's clock."""
        self.unread = False
        """Whether the server, one of this machine, closed it before it had read all of the request."""

    @abstractmethod
    def send(self, pieces: list[bytes]) -> None:
        """Send the model server a part of the request."""

    @abstractmethod
    def pause_reading(self) -> None:
        """Stop reading the answer until `resume_reading`."""

    @abstractmethod
    def resume_reading(self) -> None:
        """Read on."""

    @abstractmethod
    def abort(self) -> None:
        """Break the connection off; what it carries, if anything, is told nothing."""

    @abstractmethod
    def abandon(self) -> None:
        """Nobody waits for the answer any more."""

    @abstractmethod
    def replace(self, carried: Carried) -> None:
        """Carry on over a new connection to the same server."""


class Target(ABC):
    """One version of the model, as a request sees who answers it.

    `limit` is how many requests each of its servers has at a time, None where others run them.
    """

    def __init__(self, version: str | None, limit: int | None, prefix: bytes, authority: bytes) -> None:
        self.version = version
        self.limit = limit
        self.variant = "champion"
        self.prefix = prefix
        self._named = b" HTTP/1.1\r\nHost: " + authority + b"\r\n"
        self.version_line = b"" if version is None else b"\r\nX-Model-Version: " + _field_value(version)

    def version_and_host(self, host: bytes | None) -> bytes:
        """Return the end of a request's first line, and its Host field.

        A server of our own gets the client's, as its redirects name it. One that others run is asked by its own
        name, for which it has a certificate or a virtual host; X-Forwarded-Host tells it the client's.
        """
        return self._named if self.limit is None or host is None else b" HTTP/1.1\r\nHost: " + host + b"\r\n"

    @property
    @abstractmethod
    def up(self) -> bool:
        """Whether there is a server that requests can go to."""

    @property
    @abstractmethod
    def has_room(self) -> bool:
        """Whether a server could begin with a request now."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How many requests wait."""

    @property
    @abstractmethod
    def live_waiting(self) -> bool:
        """Whether a client waits, and not a copy for the shadow alone."""

    @abstractmethod
    def acquire(self, carried: Carried) -> None:
        """Give it a connection, now or when it is its turn."""

    @abstractmethod
    def leave(self, carried: Carried) -> None:
        """Nobody wants an answer any more to what waits here."""

    @abstractmethod
    def hand_over(self, other: Target) -> None:
        """Have another version answer those that wait."""

    @abstractmethod
    def sweep(self, now: float) -> None:
        """Turn those away that have waited for too long."""

    @abstractmethod
    def close(self) -> None:
        """Close the idle connections."""


class Carried(ABC):
    """What a connection to a model server carries: it gives its request, and takes the answer."""

    def __init__(self, method: bytes, capture: ExchangeCapture | None) -> None:
        self.method = method
        self.capture = capture
        self.request_complete = False
        self.answer_begun = False
        self.gone = False
        """Whether nobody waits for an answer any more."""
        self.queued = False
        """Whether it waits for a server that is free."""

    @abstractmethod
    def connected(self, connection: Connection) -> None:
        """Send the request over this connection."""

    def hold_request(self) -> None:
        """The model server reads slowly: send no more for now."""
        return

    def release_request(self) -> None:
        """The model server has caught up."""
        return

    def informational(self, status: int, reason: bytes, fields: Fields) -> None:
        """Take a 1xx."""
        return

    @abstractmethod
    def answer_started(self, status: int, reason: bytes, fields: Fields, until_close: bool) -> None:
        """Take the head of the answer; `until_close` says that it has no framing of its own."""

    def answer_body(self, data: bytes) -> None:
        """Take a piece of the answer's body."""
        return

    def flush_answer(self) -> None:
        """All that came in one read has been taken."""
        return

    @abstractmethod
    def answer_end(self, trailers: Headers) -> None:
        """Take the end of the answer."""

    @abstractmethod
    def failed(self, status: int, code: str, message: str) -> None:
        """There is no answer, or only the beginning of one."""

    @abstractmethod
    def refused(self, message: str) -> None:
        """All servers are busy."""

    @abstractmethod
    def move(self, target: Target) -> None:
        """Have another version answer, of which nothing has been asked yet."""

    def lost_unanswered(self, connection: Connection) -> bool:
        """The connection broke before a byte of the answer: say whether it is tried again."""
        return False

    def release_answer(self) -> None:
        """The exchange has been recorded: let the last bytes of the answer go."""
        return


class Client(Timed):
    """A client's connection, as its request sees it. `address` is the client's."""

    def __init__(self) -> None:
        super().__init__()
        self.address = b""

    @abstractmethod
    def send(self, pieces: list[bytes]) -> None:
        """Send the client a part of the answer."""

    @abstractmethod
    def hold(self) -> None:
        """Stop reading from the client until `release`."""

    @abstractmethod
    def release(self) -> None:
        """Read on."""

    @abstractmethod
    def finished(self, keep_alive: bool, broken: bool) -> None:
        """Its request has its answer, or the beginning of one that is broken."""

    @abstractmethod
    def look(self) -> None:
        """See whether the client has left while nothing is read from it."""

    @abstractmethod
    def stop(self) -> None:
        """Close once nothing is in flight here."""

    @abstractmethod
    def abort(self) -> None:
        """Close at once."""


def _field_value(text: str) -> bytes:
    """Return text as a field's value: what may not be there is left out."""
    return "".join(char for char in text if " " <= char <= "~").encode()
