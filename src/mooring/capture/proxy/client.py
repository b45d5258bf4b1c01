"""The proxy's half towards clients."""

from __future__ import annotations

import asyncio
import logging
import re
import select
import socket
import struct
from typing import TYPE_CHECKING, Final, cast

import httptools

from mooring.capture.proxy.headers import (
    MOST_FIELDS,
    REASONS,
    VIA,
    Boundaries,
    Fields,
    Headers,
    own_answer,
    part,
)
from mooring.capture.proxy.interfaces import BUFFER, NEVER, Client
from mooring.capture.proxy.request import ProxiedRequest
from mooring.capture.proxy.states import ClientState

if TYPE_CHECKING:
    from mooring.capture.proxy.context import Context

SLICE_BYTES: Final = 16 * 1024
PIECES_AT_ONCE: Final = 1000
"""A chunked body may have thousands of pieces in one read. It is parsed in slices of so many bytes, and after so
many pieces the rest waits for the next turn of the loop."""
_SAID_ALL: Final[int] = getattr(select, "POLLRDHUP", 0)
"""Linux tells of a client that has said all though nothing is read from it."""
logger = logging.getLogger(__name__)
_HOST: Final = re.compile(rb"(?:\[[\w:.%]+\]|[\w.~!$&'()*+;=%-]*)(?::[0-9]*)?")


class Refused(Exception):
    """A request that goes no further, and the answer it gets."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code

    def answer(self, method: bytes, date: bytes) -> bytes:
        """Return the whole answer, with the line `date`, after which the connection closes."""
        lines, body = own_answer(self.status, self.code.upper(), str(self))
        head = b"HTTP/1.1 %d %b\r\n%bVia: %b%b\r\nConnection: close\r\n\r\n"
        return head % (self.status, REASONS[self.status], b"".join(lines), VIA, date) + (
            b"" if method == b"HEAD" else body
        )


class ClientConnection(Client, asyncio.BufferedProtocol):
    """One client's connection: parses its requests, one at a time, and answers each before the next is parsed."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._state = ClientState.IDLE
        self._request: ProxiedRequest | None = None
        self._rest = b""  # what is not parsed yet: a request behind the one under way, or the rest of a body
        self._boundaries = Boundaries()
        self._head = b""  # what has come of a head that is not there in full
        self._target = b""
        self._host = b""  # the last that was valid
        self._fields: Fields | None = None  # of the head that is being parsed
        self._trailers: Headers = []
        self._trailer_bytes = 0
        self._between = 0  # bytes of a chunked body since the last that were the body's own
        self._pieces = 0  # of a body, in what is being parsed
        self._left = -1  # bytes of the body that are to come, where its length is known
        self._unread_head = False  # the parser is told a head that was read before
        self._body_follows = False  # although the parser takes the message for complete
        self._parser_spent = False
        self._held = False  # the model server doesn't take more of the request
        self._reading = True
        self._writable = True
        self._half_closed = False
        self._left_unsent = 0  # bytes, at the last look after the last answer
        self._transport: asyncio.Transport | None = None

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.address = peer[0].encode() if peer else b"unknown"
        context = self._context
        context.clients.add(self)
        self._wait_for(ClientState.IDLE)
        if len(context.clients) > context.max_connections:
            logger.warning(
                "%d clients are connected, and further ones get 503: see --max-connections, and `ulimit -n`",
                context.max_connections,
                extra={"every": 10.0},
            )
            refused = Refused(503, "overloaded", "As many clients are connected as may be.")
            self._state = ClientState.CLOSE
            self.send([refused.answer(b"", context.date)])
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        request, self._request = self._request, None
        self._state = ClientState.CLOSE
        self._rest = self._head = b""
        self._context.closed(self)
        if request is not None:
            request.client_lost()
        # Both know this object, and would keep it until the next collection of cycles.
        self._parser = self._transport = None

    def eof_received(self) -> bool:
        # A client that has said all may still wait for an answer that is under way. One in mid-request has gone,
        # and so has one in the queue: a client's own time-out looks like this, and it would be in others' way.
        while self._rest and not self._answer_is_due and self._state is not ClientState.CLOSE:
            self._parse_rest()
        if self._request is None or not self._request.request_complete or self._request.queued:
            return False
        self._half_closed = True
        return self._transport is not None and self._transport.can_write_eof()  # over TLS its end is all of it

    def pause_writing(self) -> None:
        self._writable = False
        if self._request is not None:
            self._request.pause_answer()
        if self._state is not ClientState.CLOSE:
            self._wait_for(ClientState.READER)

    def resume_writing(self) -> None:
        self._writable = True
        if self._request is not None:
            self._request.resume_answer()
        if self._state is ClientState.READER:
            self._go_on()

    def get_buffer(self, size_hint: int) -> memoryview:
        return BUFFER

    def buffer_updated(self, count: int) -> None:
        self.data_received(bytes(BUFFER[:count]))

    @property
    def _answer_is_due(self) -> bool:
        """Whether a request is there in full, so that what comes next has to wait for its answer."""
        return self._request is not None and self._request.request_complete

    def data_received(self, data: bytes) -> None:
        if self._state is ClientState.CLOSE:
            return
        if self._rest or self._answer_is_due or (self._request is None and not self._writable):
            self._keep(self._rest + data)
        else:
            self._parse(data)

    def _keep(self, rest: bytes) -> None:
        """Keep what can't be parsed yet, and read no more until it was."""
        self._rest = rest
        self._read_or_not()

    def _parse(self, data: bytes) -> None:
        """Parse up to the end of a request, and keep what is behind it."""
        self._pieces = 0
        at, end = 0, len(data)
        while at < end and self._state is not ClientState.CLOSE:
            request = self._request
            if request is None:
                at = self._parse_head(data, at)
            elif request.request_complete:
                self._keep(data[at:])
                break
            elif self._pieces > PIECES_AT_ONCE:  # others have their turn before
                self._keep(data[at:])
                self._context.loop.call_soon(self._parse_rest)
                break
            else:
                at = self._parse_body(data, at)
        if self._request is not None and self._state is not ClientState.CLOSE:
            self._request.flush_request()

    def _parse_rest(self) -> None:
        """Go on with what was kept, unless that is done, or an answer is due first."""
        if not self._rest or self._answer_is_due or self._state is ClientState.CLOSE:
            return
        rest, self._rest = self._rest, b""
        self._parse(rest)
        if self._half_closed and not self._rest and not self._answer_is_due:
            self._close(linger=False)  # what has begun there has no end
        self._read_or_not()

    def _parse_head(self, data: bytes, at: int) -> int:
        """Parse a head, or what there is of it; return where in `data` that ends."""
        if not self._head:
            if data[at : at + 1] in (b"\r", b"\n"):  # empty lines before a request (RFC 9112, section 2.2)
                at = len(data) - len(data[at:].lstrip(b"\r\n"))
            if at == len(data):
                return at
            self._wait_for(ClientState.HEAD)
        cut = self._boundaries.cut(data, at, len(data))
        piece = data[at:cut]
        self._head = head = self._head + piece if self._head else piece
        whole = head.endswith(b"\r\n\r\n")
        self._feed(piece)
        if self._state is ClientState.CLOSE:
            return cut
        if whole:
            self._head = b""
        elif len(head) > self._context.max_head + len(self._target):
            self._refuse(self._too_long())
        return cut

    def _parse_body(self, data: bytes, at: int) -> int:
        """Parse what there is of a body; return where in `data` that ends."""
        self._wait_for(ClientState.BODY)
        self._pieces += 1
        if self._left < 0:
            cut = self._boundaries.cut(data, at, min(len(data), at + SLICE_BYTES))
        else:
            cut = min(len(data), at + self._left)
            self._left -= cut - at
        self._between += cut - at
        self._feed(part(data, at, cut))
        if self._between > self._context.max_head and self._state is not ClientState.CLOSE:
            self._refuse(self._too_long())
        if self._parser_spent and self._request is not None and self._request.request_complete:
            self._parser_spent = False
            self._parser = httptools.HttpRequestParser(self)
        return cut

    def _feed(self, data: bytes | memoryview) -> None:
        parser = self._parser
        if parser is None:
            return
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # An intermediary may ignore the wish (RFC 9110, section 7.8): what follows is HTTP/1.1 as before.
            self._parser = parser = httptools.HttpRequestParser(self)
            if self._request is not None and not self._request.request_complete:
                self._unread_head = True
                parser.feed_data(b"POST / HTTP/1.1\r\n" + self._request.framing + b"\r\n")
                self._unread_head = False
        except httptools.HttpParserCallbackError as error:
            refused = error.__context__
            if not isinstance(refused, Refused):
                raise
            refused.__traceback__ = None  # its frames know this object, and would keep it: a cycle
            self._refuse(refused)
        except httptools.HttpParserError as error:
            self._refuse(Refused(400, "bad_request", f"This is not a valid HTTP/1.1 request: {error}."))

    def _too_long(self) -> Refused:
        limits = self._context
        if len(self._target) > limits.max_target:
            return Refused(414, "target_too_long", f"The request target is over {limits.max_target} bytes.")
        return Refused(431, "head_too_large", f"The request's head is over {limits.max_head} bytes.")

    # The parser's events

    def on_message_begin(self) -> None:
        if self._unread_head:
            return
        if self._request is not None:
            raise Refused(400, "bad_request", "The request does not end where its framing says.")
        self._target = b""
        self._fields = Fields(self._context.request_table)
        self._trailers = []
        self._trailer_bytes = self._between = 0

    def on_url(self, data: bytes) -> None:
        if self._unread_head:
            return
        self._target += data
        if len(self._target) > self._context.max_target:
            raise self._too_long()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._unread_head:
            return
        if self._fields is not None:
            self._fields.add(name, value)
            if self._fields.count > MOST_FIELDS:
                raise Refused(431, "head_too_large", f"The request has over {MOST_FIELDS} fields.")
            return
        kind = self._context.request_table.kind(name)
        if kind.in_trailers:
            self._trailers.append((name, value))
        elif not kind.passed:
            self._parser_spent = True  # it heeds a Connection field even here
        self._trailer_bytes += len(name) + len(value)
        if self._trailer_bytes > self._context.max_head or len(self._trailers) > MOST_FIELDS:
            raise Refused(431, "head_too_large", "The request's trailer is too large.")

    def on_headers_complete(self) -> None:
        parser, fields = self._parser, self._fields
        if parser is None or fields is None:
            return
        self._fields = None
        if len(self._head) > self._context.max_head + len(self._target):
            raise self._too_long()
        method, version = parser.get_method(), parser.get_http_version()
        host = fields.read.get(b"host")
        target = _checked_target(method, self._target, version, fields, self._context.max_body)
        if host != self._host or host is None:
            self._check_host(host, version)
        end = self._head.find(b"\r\n")
        if self._head[end - 9 : end - 3] != b" HTTP/":  # the parser takes RTSP and ICE, too
            raise Refused(400, "bad_request", "The request is not one of HTTP.")
        if not self._context.admits(fields):
            raise Refused(
                401, "unauthenticated", "This takes one of the server's keys: Authorization: Bearer KEY."
            )
        length = fields.read.get(b"content-length")
        self._left = -1 if length is None else int(length)
        self._request = request = ProxiedRequest(
            self._context, self, method, target, version, fields, parser.should_keep_alive()
        )
        if b"upgrade" in fields.read and parser.should_upgrade():
            self._body_follows = request.has_body

    def _check_host(self, host: bytes | None, version: str) -> None:
        """Raise Refused for a Host that is none; the last that was one is remembered."""
        if host is None and version == "1.0":
            return
        if host is None or not _HOST.fullmatch(host):
            raise Refused(400, "bad_request", "A request must have one Host field, with a host in it.")
        self._host = host

    def on_body(self, data: bytes) -> None:
        self._between = 0
        self._pieces += 1
        request = self._request
        if request is None:
            return
        request.request_body(data)
        if self._request is request and request.body_size > self._context.max_body:
            raise Refused(413, "body_too_large", f"The body is over {self._context.max_body} bytes.")

    def on_message_complete(self) -> None:
        if self._body_follows:
            self._body_follows = False
            return
        request = self._request
        if request is not None:
            self._wait_for(ClientState.ANSWER)
            request.request_end(self._trailers)

    # What its request asks of it

    def send(self, pieces: list[bytes]) -> None:
        """Send the client bytes of the answer it waits for."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.writelines(pieces)

    def finished(self, keep_alive: bool, broken: bool) -> None:
        """The answer was sent: go on to the next request, or close."""
        request, self._request = self._request, None
        if request is None or self._transport is None:
            return
        if broken:
            if request.version != "1.1":  # for such a client a plain end would be the answer's
                option = struct.pack("ii", 1, 0)
                self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
            self._transport.abort()
            return
        self._held = False
        if not keep_alive or self._state is ClientState.CLOSE:
            self._close(linger=not request.request_complete or not self._reading)
        else:
            self._go_on()

    def _go_on(self) -> None:
        """Wait for whatever is next, now that an answer is sent or the client reads again."""
        request = self._request
        if not self._writable:
            self._wait_for(ClientState.READER)
        elif request is not None:
            self._wait_for(ClientState.ANSWER if request.request_complete else ClientState.BODY)
        elif self._rest:
            # In a turn of its own: what ended this answer may not have done with its own work.
            self._wait_for(ClientState.IDLE)
            self._context.loop.call_soon(self._parse_rest)
        elif self._half_closed or self._context.draining:
            self._close(linger=False)
        else:
            self._wait_for(ClientState.IDLE)
        self._read_or_not()

    def _close(self, linger: bool) -> None:
        """Close once all is written; with `linger`, drop what the client still sends until it closes too."""
        self._wait_for(ClientState.CLOSE)
        self._rest = self._head = b""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if not linger or not transport.can_write_eof():
            transport.close()
            return
        self._held = False
        self._read_or_not()
        transport.write_eof()

    def _refuse(self, refused: Refused) -> None:
        """Answer a request that goes no further, and close."""
        request = self._request
        self._state, self.deadline = ClientState.CLOSE, NEVER
        if request is not None:
            request.failed(refused.status, refused.code, str(refused))
            return
        method = self._parser.get_method() if self._parser is not None else b""
        self.send([refused.answer(method, self._context.date)])
        self._close(linger=True)

    def hold(self) -> None:
        """Stop reading from the client until `release`."""
        self._held = True
        self._read_or_not()

    def release(self) -> None:
        """Read on."""
        if self._held:
            self._held = False
            self._read_or_not()
            if self._state is ClientState.BODY:
                self._wait_for(ClientState.BODY)

    def _read_or_not(self) -> None:
        """Read from the client unless there is something that has to go on before."""
        reading = not self._held and not self._rest
        transport = self._transport
        if reading == self._reading or transport is None or transport.is_closing():
            return
        self._reading = reading
        if reading:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def stop(self) -> None:
        """Close once nothing is in flight here."""
        if self._request is None and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # Time

    def _wait_for(self, state: ClientState) -> None:
        self._state = state
        self.deadline = self._context.now + self._context.deadlines[state]

    def overdue(self) -> None:
        """The deadline has passed: answer 408 to a request that does not end, close what is idle."""
        request = self._request
        if self._state is ClientState.IDLE:
            self._close(linger=False)
        elif self._state is ClientState.HEAD:
            self._refuse(Refused(408, "request_timeout", "The request's head did not come in time."))
        elif self._state is ClientState.BODY and self._held:
            self._wait_for(ClientState.BODY)  # it is the model server that does not read
        elif self._state is ClientState.BODY and request is not None and not request.answer_begun:
            request.failed(408, "request_timeout", "The request's body did not come in time.")
        elif self._state is ClientState.CLOSE and self._unsent():
            self.deadline = self._context.now + self._context.deadlines[ClientState.READER]
        else:
            self.abort()

    def _unsent(self) -> bool:
        """Whether the client still reads what was sent before the end, if slowly."""
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        progress = unsent != self._left_unsent
        self._left_unsent = unsent
        return unsent > 0 and progress

    def look(self) -> None:
        """See whether the client has left while nothing is read from it, or has said all while it is queued."""
        transport, request = self._transport, self._request
        queued = request is not None and request.queued
        if (self._reading and not self._half_closed) or transport is None or transport.is_closing():
            return
        poll = select.poll()
        poll.register(transport.get_extra_info("socket").fileno(), _SAID_ALL if queued else 0)
        # It was reset; a client that only has no more to say may wait for an answer that is under way.
        if (queued and self._half_closed) or poll.poll(0):
            transport.abort()


def _checked_target(method: bytes, target: bytes, version: str, fields: Fields, max_body: int) -> bytes:
    """Return the target in origin form. Raises Refused for a request that must not be passed on."""
    read = fields.read
    if method == b"CONNECT":
        raise Refused(405, "method_not_allowed", "This is no tunnel: CONNECT is not served.")
    if version not in ("1.0", "1.1"):
        raise Refused(505, "version_not_supported", "Only HTTP/1.0 and HTTP/1.1 are served here.")
    if b"transfer-encoding" in read:
        if b"content-length" in read:
            raise Refused(400, "bad_request", "Content-Length and Transfer-Encoding contradict each other.")
        if version != "1.1":
            raise Refused(400, "bad_request", "HTTP/1.0 has no Transfer-Encoding.")
        if read[b"transfer-encoding"].strip().lower() != b"chunked":
            raise Refused(501, "not_implemented", "The only transfer coding served is chunked.")
    length = read.get(b"content-length")
    if length is not None:
        if not length.isdigit():
            raise Refused(400, "bad_request", "Content-Length must be one number.")
        read[b"content-length"] = length = length.lstrip(b"0") or b"0"
        if len(length) > 20 or int(length) > max_body:
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
