"""The short way for heads that came before: what was parsed once, byte for byte, need not be parsed again.

Clients that keep their connection repeat their heads, and so does the model server. What the parser has read, and
what was made of it, is kept; a message that has the same head and comes whole, in one read, is passed on without
the parser, at half the processor's time. Whatever is not exactly so takes the long way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mooring.capture.proxy.flow import ID, Flow
from mooring.capture.proxy.tap import Tap

if TYPE_CHECKING:
    from mooring.capture.proxy.downstream import ClientProtocol
    from mooring.capture.proxy.headers import Fields
    from mooring.capture.proxy.server import Proxy
    from mooring.capture.proxy.upstream import UpstreamProtocol

REQUESTS = 64
"""How many heads are kept for each client connection."""
ANSWERS = 256
"""How many heads of answers are kept; they change with their Date."""
LONGEST = 4096
"""Bytes of the longest head that is kept."""


class KnownRequest(NamedTuple):
    """A scoring request's head: what goes to the server before and after our id, and the length of its body.

    `before` begins after the Host field, which is that of the server.
    """

    before: bytes
    after: bytes
    length: int
    fields: Fields
    target: bytes


class KnownAnswer(NamedTuple):
    """An answer's head: what goes to the client before and after the id, and the length of its body.

    `dated` says whether the server gave it a Date; else the proxy does, in front of the id.
    """

    before: bytes
    after: bytes
    length: int
    dated: bool
    status: int
    fields: Fields


class KnownFlow(Flow):
    """A flow whose request came whole, with a head that is known."""

    __slots__ = ("_body", "_known")

    def __init__(self, proxy: Proxy, client: ClientProtocol, known: KnownRequest, body: bytes) -> None:
        tap = Tap(proxy, known.fields, known.target)
        backend = proxy.choose(tap, known.fields)
        tap.go_to(backend)
        tap.request_body(body)
        self._begin_whole(proxy, client, tap, backend)
        self._known = known
        self._body = body

    def connected(self, upstream: UpstreamProtocol) -> None:
        """Take the connection to the model server, and send all of the request."""
        self._upstream = upstream
        known, tap, backend = self._known, self.tap, self.backend
        assert tap is not None
        upstream.write(
            b"".join(
                (
                    b"POST ",
                    backend.prefix,
                    known.target,
                    backend.version_and_host,
                    known.before,
                    tap.request_id.encode(),
                    known.after,
                    self._body,
                )
            )
        )

    def _can_be_sent_again(self) -> bool:
        return True

    def flush_request(self) -> None:
        """Do nothing: all has been sent."""


def learn_request(flow: Flow, data: bytes) -> tuple[bytes, KnownRequest] | None:
    """Return the head in `data`, all that was read of a request, and what was made of it, if it is usual."""
    tap = flow.tap
    if tap is None or tap.client_request_id is not None or not flow.usual:
        return None
    end = data.find(b"\r\n\r\n") + 4
    if end > LONGEST:
        return None
    start = b"POST %b%b%b" % (flow.backend.prefix, tap.target, flow.backend.version_and_host)
    before, found, after = flow.head_out().removeprefix(start).partition(ID + tap.request_id.encode())
    if not found or b"Content-Length: %d\r\n" % (len(data) - end) not in after:
        return None  # it goes on with another length: a body of MLflow 1
    return data[:end], KnownRequest(before + ID, after, len(data) - end, tap.request_fields, tap.target)


def learn_answer(flow: Flow, data: bytes) -> tuple[bytes, KnownAnswer] | None:
    """Return the head in `data`, all that was read of an answer, and what was made of it, if it is usual."""
    tap = flow.tap
    if tap is None or tap.answer_fields is None or not flow.usual:
        return None
    end = data.find(b"\r\n\r\n") + 4
    length = len(data) - end
    if tap.answer_fields.read.get(b"content-length") != b"%d" % length or not length or end > LONGEST:
        return None
    head = b"".join(flow.answer_out)[:-length]
    before, found, after = head.partition(ID + tap.answer_id)
    if not found:
        return None
    dated = b"date" in tap.answer_fields.read
    before = before if dated else before.removesuffix(flow.proxy.date)
    return data[:end], KnownAnswer(before, after, length, dated, tap.status, tap.answer_fields)
