"""The proxy's half towards clients."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import httptools

from mooring.capture.proxy.flow import Flow
from mooring.capture.proxy.headers import REASONS, VIA, Fields, Headers, own_answer
from mooring.capture.proxy.known import REQUESTS, KnownFlow, KnownRequest, learn_request
from mooring.capture.proxy.legacy import maybe_split

if TYPE_CHECKING:
    from mooring.capture.proxy.server import Proxy

NEVER = float("inf")
ALLOWED = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE"
LINGER_SECONDS = 5.0
"""How long what a client still sends is read and dropped: closed at once, it might never see its answer."""
_HOST = re.compile(rb"(?:\[[\w:.%]+\]|[\w.~!$&'()*+;=%-]*)(?::[0-9]*)?")


class Refused(Exception):
    """A request that goes no further, and the answer it gets."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code

    def answer(self, method: bytes, date: bytes) -> bytes:
        """Return the whole answer, with the line `date`, after which the connection closes."""
        lines, body = own_answer(self.status, self.code.upper(), str(self))
        if self.status == HTTPStatus.METHOD_NOT_ALLOWED:
            lines.append(b"Allow: %b\r\n" % ALLOWED)
        head = b"HTTP/1.1 %d %b\r\n%bVia: %b%b\r\nConnection: close\r\n\r\n"
        return head % (self.status, REASONS[self.status], b"".join(lines), VIA, date) + (
            b"" if method == b"HEAD" else body
        )


class _Resumed:
    """A parser's events where only the body of a message, and what follows it, is still to come."""

    def __init__(self, client: ClientProtocol) -> None:
        self._client = client
        self.on_body, self.on_message_complete = client.on_body, client.on_message_complete
        self.muted = True

    def on_message_begin(self) -> None:
        if not self.muted:
            self._client.on_message_begin()

    def on_url(self, data: bytes) -> None:
        if not self.muted:
            self._client.on_url(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.muted:
            self._client.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self.muted:
            self._client.on_headers_complete()


class ClientProtocol(asyncio.Protocol):
    """One client's connection: parses its requests into flows and answers them in their order."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._parser = httptools.HttpRequestParser(self)
        self._flows: deque[Flow] = deque()
        self._receiving: Flow | None = None
        self._refused: Refused | None = None
        self._known: dict[bytes, KnownRequest] = {}
        self._in_head = False
        self._head_bytes = 0
        self._holds: set[str] = set()
        self._target = b""
        self._fields = Fields(proxy.request_table)
        self._trailers: Headers = []
        self._trailer_bytes = 0
        self._body_follows = False  # although the parser takes the message for complete
        self._paused = self._waiting = False
        self._closing = False
        self._expected = ""
        self.deadline = 0.0
        self.address = b""

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.address = peer[0].encode() if peer else b"unknown"
        self._proxy.clients.add(self)
        self._expect("idle")

    def connection_lost(self, error: Exception | None) -> None:
        self._proxy.client_lost(self)
        flows, self._flows = self._flows, deque()
        for flow in flows:
            flow.client_lost()

    def eof_received(self) -> bool:
        # A client that has said all may still wait for its answers; one in mid-request has gone.
        if self._receiving is not None or not self._flows:
            return False
        self._closing = True
        return True

    def pause_writing(self) -> None:
        self._paused = True
        if self._flows:
            self._flows[0].pause_answer()
        if self._expected != "close":
            self._expect("reader")

    def resume_writing(self) -> None:
        self._paused = False
        if self._waiting:
            self._activate()
        elif self._flows:
            self._flows[0].resume_answer()
        if self._expected == "reader":
            self._expect("body" if self._receiving is not None else "answer" if self._flows else "idle")

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        idle = not self._flows and not self._in_head
        if idle and self._known and self._known_request(data):
            return
        if not self._in_head and self._receiving is None:
            self._head_bytes = 0
            self._expect("head")
        elif self._receiving is not None:
            self._expect("body")
        self._head_bytes += len(data)
        rest = data
        while rest:
            rest = self._feed(rest)
        if self._closing:
            return
        if self._head_bytes > self._proxy.settings.max_head and (self._in_head or self._receiving is not None):
            self._refuse(self._too_long())
            return
        if self._receiving is not None:
            self._receiving.flush_request()
        elif idle and len(self._flows) == 1:
            self._learn(data)
        if len(self._flows) > 1 or self._waiting:
            self.hold("pipeline")

    def _known_request(self, data: bytes) -> bool:
        """Take the short way with a request that came whole, its head a known one; say whether it was taken."""
        end = data.find(b"\r\n\r\n") + 4
        known = self._known.get(data[:end])
        if known is None or len(data) - end != known.length or self._proxy.draining or self._paused:
            return False
        body = data[end:]
        if self._proxy.settings.legacy_split and maybe_split(body) is not False:
            return False
        self.deadline, self._expected = NEVER, "answer"
        flow = KnownFlow(self._proxy, self, known, body)
        self._flows.append(flow)
        flow.backend.acquire(flow)
        return True

    def _learn(self, data: bytes) -> None:
        """Keep the head of a request that came whole, for the short way."""
        learnt = learn_request(self._flows[0], data)
        if learnt is not None:
            if len(self._known) >= REQUESTS:
                self._known.clear()
            self._known[learnt[0]] = learnt[1]

    def _feed(self, data: bytes) -> bytes:
        """Parse `data`; return what of it is still to be parsed."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # An intermediary may ignore the wish (RFC 9110, 7.8): what follows is HTTP/1.1 as before.
            self._parser = httptools.HttpRequestParser(self)
            if self._receiving is not None:
                self._resume(self._receiving)
            return data[upgrade.args[0] :]
        except httptools.HttpParserCallbackError as error:
            refused = error.__context__
            if not isinstance(refused, Refused):
                raise
            self._refuse(refused)
        except httptools.HttpParserError as error:
            self._refuse(Refused(400, "bad_request", f"This is not a valid HTTP/1.1 request: {error}."))
        return b""

    def _resume(self, flow: Flow) -> None:
        """Go on with the body of a request for an upgrade, which the parser leaves to the other protocol."""
        events = _Resumed(self)
        self._parser = httptools.HttpRequestParser(events)
        self._parser.feed_data(b"POST / HTTP/1.1\r\n" + flow.framing + b"\r\n")
        events.muted = False

    def _too_long(self) -> Refused:
        limits = self._proxy.settings
        if len(self._target) > limits.max_target:
            return Refused(414, "target_too_long", f"The request target is over {limits.max_target} bytes.")
        return Refused(431, "head_too_large", f"The request's head is over {limits.max_head} bytes.")

    # The parser's events

    def on_message_begin(self) -> None:
        self._in_head = True
        self._target = b""
        self._fields = Fields(self._proxy.request_table)
        self._trailers = []
        self._trailer_bytes = 0

    def on_url(self, data: bytes) -> None:
        self._target += data
        if len(self._target) > self._proxy.settings.max_target:
            raise self._too_long()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self._fields.add(name, value)
            return
        if self._proxy.request_table.kind(name)[1]:
            self._trailers.append((name, value))
        self._trailer_bytes += len(name) + len(value)
        if self._trailer_bytes > self._proxy.settings.max_head:
            raise Refused(431, "head_too_large", "The request's trailer is too large.")

    def on_headers_complete(self) -> None:
        self._in_head = False
        parser, fields = self._parser, self._fields
        if self._head_bytes > self._proxy.settings.max_head and fields.size() > self._proxy.settings.max_head:
            raise self._too_long()
        method, version = parser.get_method(), parser.get_http_version()
        target = _checked_target(method, self._target, version, fields, self._proxy.settings.max_body)
        flow = Flow(self._proxy, self, method, target, version, fields, parser.should_keep_alive())
        self._receiving = flow
        self._flows.append(flow)
        if b"upgrade" in fields.read and parser.should_upgrade():
            self._body_follows = flow.has_body
        if len(self._flows) == 1:
            self._waiting = self._paused
            if not self._paused:
                flow.activate()

    def on_body(self, data: bytes) -> None:
        self._head_bytes = 0
        flow = self._receiving
        if flow is None:
            return
        flow.request_body(data)
        if flow.body_size > self._proxy.settings.max_body:
            raise Refused(413, "body_too_large", f"The body is over {self._proxy.settings.max_body} bytes.")

    def on_message_complete(self) -> None:
        if self._body_follows:
            self._body_follows = False
            return
        self._head_bytes = 0
        flow, self._receiving = self._receiving, None
        self.deadline, self._expected = NEVER, "answer"  # the upstream's half has a deadline of its own
        if flow is not None:
            flow.request_end(self._trailers)
            flow.flush_request()

    # What flows ask of it

    def write(self, data: bytes) -> None:
        """Send the client bytes of the answer it waits for."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def finished(self, flow: Flow, last: bytes, broken: bool) -> None:
        """Send the last bytes of an answer and go on to the next request, or close."""
        if not self._flows or flow is not self._flows[0]:
            return
        if broken:
            if flow.version != "1.1":  # for such a client a plain end would be the answer's
                option = struct.pack("ii", 1, 0)
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
            self.transport.abort()
            return
        self.write(last)
        self._flows.popleft()
        self.release("upstream")
        if not flow.keep_alive or not flow.request_complete:
            self._close(linger=not flow.request_complete or bool(self._holds))
            return
        if self._flows:
            self._activate()
            return
        self.release("pipeline")
        if self._refused is not None:
            self._refuse(self._refused)
        elif self._closing or (self._proxy.draining and self._receiving is None):
            self._close(linger=False)
        elif not self._in_head:
            self._expect("idle")

    def _activate(self) -> None:
        """Begin with the flow that is first now, unless the client doesn't read the answers that it has."""
        self._waiting = self._paused
        if not self._paused:
            flow = self._flows[0]
            flow.activate()
            flow.flush_request()
            if len(self._flows) == 1:
                self.release("pipeline")

    def _close(self, linger: bool) -> None:
        """Close once all is written; with `linger`, drop what the client still sends until it closes too."""
        self._closing = True
        self._expect("close")
        if self.transport.is_closing():
            return
        if not linger or not self.transport.can_write_eof():
            self.transport.close()
            return
        if self._holds:
            self._holds.clear()
            self.transport.resume_reading()
        self.deadline = self._proxy.now + LINGER_SECONDS
        self.transport.write_eof()

    def hold(self, reason: str) -> None:
        """Stop reading from the client until this reason, and any other, is released."""
        if not self._holds:
            self.transport.pause_reading()
        self._holds.add(reason)

    def release(self, reason: str) -> None:
        """Take back `hold(reason)`."""
        if reason not in self._holds:
            return
        self._holds.remove(reason)
        if not self._holds and not self.transport.is_closing():
            self.transport.resume_reading()
            self._expect("body" if self._receiving is not None else "head" if self._in_head else "answer")

    def stop(self) -> None:
        """Close once nothing is in flight here."""
        if not self._flows:
            self.transport.close()

    # Time

    def _expect(self, what: str) -> None:
        settings = self._proxy.settings
        self._expected = what
        if what == "answer":
            self.deadline = NEVER
        else:
            self.deadline = self._proxy.now + (
                settings.idle_timeout if what == "idle" else settings.receive_timeout
            )

    def overdue(self) -> None:
        """The deadline has passed: answer 408 to a request that does not end, close what is idle."""
        if self._expected == "body" and self._holds:
            self._expect("body")
            return
        if self._expected == "close":
            self.transport.abort()
        elif self._expected == "idle":
            self._close(linger=False)
        elif self._expected == "reader" or (self._flows and self._flows[0].answer_begun):
            self.transport.abort()
        elif self._receiving is not None and self._flows[0] is self._receiving:
            self._receiving.failed(408, "request_timeout", "The request's body did not come in time.")
        elif not self._flows:
            self._refuse(Refused(408, "request_timeout", "The request's head did not come in time."))

    def _refuse(self, refused: Refused) -> None:
        """Answer a request that goes no further, after those before it, and close."""
        self._closing = True
        flow, self._receiving = self._receiving, None
        if flow is not None:
            first = flow is self._flows[0]
            if not first:
                self._flows.remove(flow)  # its turn has not come: the refusal alone answers it, below
            flow.failed(refused.status, refused.code, str(refused))
            if first:
                return
        if self._flows:
            self._refused = refused
            return
        self.write(refused.answer(self._parser.get_method(), self._proxy.date))
        self._close(linger=True)


def _checked_target(method: bytes, target: bytes, version: str, fields: Fields, max_body: int) -> bytes:
    """Return the target in origin form. Raises Refused for a request that must not be passed on."""
    read = fields.read
    host = read.get(b"host")
    if method == b"CONNECT":
        raise Refused(405, "method_not_allowed", "This is no tunnel: CONNECT is not served.")
    if version not in ("1.0", "1.1"):
        raise Refused(505, "version_not_supported", "Only HTTP/1.0 and HTTP/1.1 are served here.")
    if (host is None and version == "1.1") or (host is not None and not _HOST.fullmatch(host.rstrip(b" \t"))):
        raise Refused(400, "bad_request", "A request must have one Host field, with a host in it.")
    if b"transfer-encoding" in read:
        if b"content-length" in read:
            raise Refused(400, "bad_request", "Content-Length and Transfer-Encoding contradict each other.")
        if version != "1.1":
            raise Refused(400, "bad_request", "HTTP/1.0 has no Transfer-Encoding.")
        if read[b"transfer-encoding"].strip().lower() != b"chunked":
            raise Refused(501, "not_implemented", "The only transfer coding served is chunked.")
    length = read.get(b"content-length")
    if length is not None:
        if not length.isdigit() or len(length) > 20:
            raise Refused(400, "bad_request", "Content-Length must be one number.")
        if int(length) > max_body:
            raise Refused(413, "body_too_large", f"The body is over {max_body} bytes.")
    if b"#" in target:
        raise Refused(400, "bad_request", "A request target has no fragment.")
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise Refused(400, "bad_request", "The request target must be a path or an http URL.")
    end = re.search(rb"[/?]", rest)
    authority = rest[: end.start()] if end else rest
    if not authority or not _HOST.fullmatch(authority):
        raise Refused(400, "bad_request", "The host in the request target is none.")
    read[b"host"] = authority  # which overrules the field (RFC 9112, section 3.2.2)
    if end is None:
        return b"*" if method == b"OPTIONS" else b"/"
    path = rest[end.start() :]
    return path if path.startswith(b"/") else b"/" + path
