"""One connection to a model server: it sends a request, and feeds the answer back into what asked for it."""

from __future__ import annotations

import asyncio
import os
import re
import select
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

import httptools

from mooring.capture.proxy.headers import MOST_FIELDS, Boundaries, Fields, Headers, part
from mooring.capture.proxy.interfaces import BUFFER, NEVER, Carried, Connection, Target

if TYPE_CHECKING:
    from mooring.capture.proxy.context import Context

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ")
_MOST_DIGITS: Final = 18
"""Of a length: with one more it may be too large for what reads it."""
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9, \t]*[0-9])[ \t]*(?=\r\n)", re.IGNORECASE)
_REASON: Final = re.compile(rb"[\t -~\x80-\xff]*")
_TAB_AFTER_CODING: Final = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*\t\r\n", re.IGNORECASE)
"""The parser takes such an answer for one that ends with the connection."""
_UPGRADED: Final = "The model server switched protocols unasked."


class ConnectionOwner(ABC):
    """Whoever keeps the connections to one server, as one of them sees it."""

    limited: bool
    """Whether the server has a limited number of requests at a time, and is busy with one though nobody waits."""
    tls: bool
    local: bool
    """Whether it is reached by a Unix socket, which tells whether what was sent has been read."""

    @abstractmethod
    def answered(self, connection: UpstreamConnection, status: int) -> None:
        """An answer with this status has begun."""

    @abstractmethod
    def timed_out(self, connection: UpstreamConnection) -> None:
        """No answer came in time."""

    @abstractmethod
    def connect(self, carried: Carried, counted: bool) -> None:
        """Give it a new connection as soon as there is one."""

    @abstractmethod
    def give_back(self, connection: UpstreamConnection) -> None:
        """The connection is idle."""

    @abstractmethod
    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is closed."""


class UpstreamConnection(Connection, asyncio.BufferedProtocol):
    """One connection to the model server: sends what it carries, and feeds the answer back into it."""

    def __init__(self, context: Context, owner: ConnectionOwner) -> None:
        super().__init__()
        self._context = context
        self._owner = owner
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._carried: Carried | None = None
        self._fields = Fields(context.answer_table)
        self._trailers: Headers = []
        self._trailer_bytes = 0
        self._between = 0  # bytes of a body since the last that were its own
        self._reason = b""
        self._boundaries = Boundaries()
        self._head = b""  # what has come of a head that is not there in full
        self._mending = False  # the parser refused it, for a length that stands there twice perhaps
        self._head_done = self._until_close = self._answered = False
        self._spent = False  # the connection can't be used again
        self._parser_spent = False
        self._ended = False  # whether the server has said that nothing more comes
        self._poll = select.poll()
        self._paused = False
        self._was_counted = False
        self._transport: asyncio.Transport | None = None

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def connection_lost(self, error: Exception | None) -> None:
        self._context.upstreams.discard(self)
        if error is not None and self._carried is not None and not self._owner.tls:
            self._take_unread()
        self._was_counted = self.counted
        # The kernel says so of a Unix socket that was closed with something in it, or before that was written.
        self.unread = self._owner.local and isinstance(error, ConnectionResetError | BrokenPipeError)
        self._owner.forget(self)
        carried = self._carried
        if carried is not None:
            if self._until_close and self._ended and error is None:
                self._complete()
            else:
                self._carried = None
                if carried.answer_begun or not carried.lost_unanswered(self):
                    why = "The model server closed the connection before its answer was complete."
                    carried.failed(502, "upstream_failed", why)
        # Both know this object, and would keep it until the next collection of cycles.
        self._parser = self._transport = None

    def eof_received(self) -> None:
        self._ended = True  # over TLS this comes only with its own end, which nobody else can forge

    def pause_writing(self) -> None:
        self._paused = True
        if self._carried is not None:
            self._carried.hold_request()

    def resume_writing(self) -> None:
        self._paused = False
        if self._carried is not None:
            self._carried.release_request()

    def get_buffer(self, size_hint: int) -> memoryview:
        return BUFFER

    def buffer_updated(self, count: int) -> None:
        self.data_received(bytes(BUFFER[:count]))

    def data_received(self, data: bytes) -> None:
        carried = self._carried
        if carried is None:
            self.abort()  # nothing was asked
            return
        self._wait()
        at, end = 0, len(data)
        while at < end and self._carried is carried:
            if self._answered:
                self._spent = True  # what comes after the whole answer is nobody's
                break
            if self._head_done:
                self._between += end - at
                self._feed(part(data, at, end))
                at = end
                if self._between > self._context.max_head and not self._answered:
                    self._too_long()
            else:
                cut = self._boundaries.cut(data, at, end)
                self._take_head(bytes(part(data, at, cut)))
                at = cut
        if self._carried is not carried:
            return
        if self._answered:
            self._complete()
        else:
            carried.flush_answer()

    def _take_head(self, piece: bytes) -> None:
        """Take a piece of a head, or the end of it."""
        self._head = head = self._head + piece if self._head else piece
        limit = self._context.max_head
        if not (_STATUS_LINE.match(head) if len(head) > 8 else b"HTTP/1.".startswith(head[:7])):
            self._fail("The model server's answer is not one of HTTP/1.0 or HTTP/1.1.")
            return
        whole = head.endswith(b"\r\n\r\n")
        if not self._mending:
            self._feed(piece)
        elif whole:
            self._feed(_with_one_length(head))
            self._mending = False
        if self._carried is None:
            return
        if self._parser_spent and not self._head_done:
            self._new_parser()  # as after a 1xx that says Connection: close, which is for the last answer to say
        if whole:
            self._head = b""
        elif len(head) > limit:
            self._too_long()

    def _feed(self, data: bytes | memoryview) -> None:
        parser = self._parser
        if parser is None:
            return
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(_UPGRADED)
        except httptools.HttpParserError as error:
            if self._answered:
                self._spent = True  # what came after the whole answer is nobody's
            elif self._carried is not None and not self._mend(error):
                self._fail(f"The model server's answer is not valid HTTP: {error}.")

    def _mend(self, error: httptools.HttpParserError) -> bool:
        """Parse anew a head that repeats its one length (RFC 9112, section 6.3), if it is that."""
        head = self._head
        if self._head_done or self._mending or "Content-Length" not in str(error):
            return False
        self._mending = True
        self._parser = httptools.HttpResponseParser(self)
        if head.endswith(b"\r\n\r\n"):
            self._feed(_with_one_length(head))
            self._mending = False
        return True

    def _new_parser(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._parser_spent = False

    def _take_unread(self) -> None:
        """Take an answer that came before the connection broke: a write that failed is told before it."""
        if self._transport is None:
            return
        descriptor = self._transport.get_extra_info("socket").fileno()
        with suppress(OSError):
            while self._carried is not None and (data := os.read(descriptor, 2**16)):
                self.data_received(data)

    # The parser's events

    def on_message_begin(self) -> None:
        if self._answered:
            self._spent = True  # more than one answer to one request
            return
        self._fields = Fields(self._context.answer_table)
        self._trailers = []
        self._trailer_bytes = self._between = 0
        self._reason = b""
        self._head_done = False

    def on_status(self, data: bytes) -> None:
        self._reason += data

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answered:
            return  # of another answer, which is nobody's
        if not self._head_done:
            self._fields.add(name, value)
            if self._fields.count > MOST_FIELDS:
                self._too_long()
            return
        kind = self._context.answer_table.kind(name)
        if kind.in_trailers:
            self._trailers.append((name, value))
        elif not kind.passed:
            self._spent = True  # the parser heeds a Connection field even here
        self._trailer_bytes += len(name) + len(value)
        if self._trailer_bytes > self._context.max_head or len(self._trailers) > MOST_FIELDS:
            self._too_long()

    def on_headers_complete(self) -> None:
        carried, parser = self._carried, self._parser
        if carried is None or parser is None or self._answered:
            return
        status, read = parser.get_status_code(), self._fields.read
        if status == 101:
            self._fail(_UPGRADED)
            return
        if not 100 <= status <= 599:
            self._fail(f"The model server's status {status} is none.")
            return
        coding = read.get(b"transfer-encoding")
        if coding is not None and (coding.lower() != b"chunked" or _TAB_AFTER_CODING.search(self._head)):
            self._fail("The only transfer coding served is chunked.")
            return
        if len(self._head) > self._context.max_head:
            self._too_long()
            return
        if self._reason != b"OK" and not _REASON.fullmatch(self._reason):
            self._reason = b""
        if status < 200:
            carried.informational(status, self._reason, self._fields)
            self._parser_spent = not parser.should_keep_alive()
            return
        length = read.get(b"content-length", b"")
        if length:
            plain = length.lstrip(b"0") or b"0"
            if len(plain) > _MOST_DIGITS:
                self._fail("The model server's answer claims a length that no body has.")
                return
            if plain != length:
                self._fields.replace(b"content-length", plain)
        self._head_done = True
        bodiless = status in (204, 304) or carried.method == b"HEAD"
        self._until_close = not bodiless and b"content-length" not in read and b"transfer-encoding" not in read
        self._owner.answered(self, status)
        carried.answer_started(status, self._reason, self._fields, self._until_close)
        # MLflow's server closes a connection without a word after an answer that an exception brought about.
        if not parser.should_keep_alive() or (status >= 500 and self._owner.limited):
            self._spent = True
        if bodiless:
            # The parser can't be told that no body follows whatever the head says: its next answer gets a new one.
            self._answered = self._parser_spent = True

    def on_body(self, data: bytes) -> None:
        self._between = 0
        if self._answered:
            self._spent = True
        elif self._carried is not None:
            self._carried.answer_body(data)

    def on_message_complete(self) -> None:
        if self._head_done:
            self._answered = True

    # What those that are carried and the owner ask of it

    def take(self, carried: Carried) -> None:
        """Carry this from here on."""
        self._carried = carried
        self.since = self._context.loop.time()
        self._head_done = False
        self._head = b""
        self._wait()
        carried.connected(self)

    def send(self, pieces: list[bytes]) -> None:
        """Send the model server a part of the request."""
        self._wait()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(pieces)

    def pause_reading(self) -> None:
        """Stop reading the answer until `resume_reading`."""
        self.deadline = NEVER
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._wait()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def stale(self) -> bool:
        """Whether the model server has closed this idle connection, or said something unasked."""
        return self.closing or bool(self._poll.poll(0))

    @property
    def closing(self) -> bool:
        """Whether the connection is closed, or about to be."""
        return self._transport is None or self._transport.is_closing()

    def abort(self) -> None:
        """Break the connection off; what it carries, if anything, is told nothing."""
        self._carried = None
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close the connection once what was sent is written."""
        if self._transport is not None:
            self._transport.close()

    def abandon(self) -> None:
        """Nobody waits for the answer any more. A server that has a limit is busy with it all the same."""
        carried = self._carried
        if carried is None or not self._owner.limited or not carried.request_complete or self._paused:
            self.abort()
            return
        self._carried = Abandoned(carried)
        self.resume_reading()

    def replace(self, carried: Carried) -> None:
        """Carry on over a new connection to the same server."""
        self._owner.connect(carried, self._was_counted)

    def overdue(self) -> None:
        """The deadline has passed: 504 to the client, or the end of an idle connection."""
        if self._carried is None:
            self.abort()
            return
        if not self._carried.request_complete and not self._paused:
            self._wait()  # for the client, whose half has a deadline of its own
            return
        self._owner.timed_out(self)
        self._fail("The model server did not answer in time.", 504, "upstream_timeout")

    def _wait(self) -> None:
        self.deadline = self._context.now + self._context.response_timeout

    def _fail(self, message: str, status: int = 502, code: str = "upstream_failed") -> None:
        carried = self._carried
        self.abort()
        if carried is not None:
            carried.failed(status, code, message)

    def _too_long(self) -> None:
        limit = f"{self._context.max_head} bytes, or {MOST_FIELDS} fields"
        self._fail(f"The head of the model server's answer, or its trailer, is over {limit}.")

    def _complete(self) -> None:
        carried, self._carried = self._carried, None
        self._answered = False
        if carried is None:
            return
        if self._paused:
            carried.release_request()
        if self._spent or self._paused or not carried.request_complete or self.closing:
            self.abort()  # with what the model server has not read of the request
        else:
            if self._parser_spent:
                self._new_parser()
            self.reused = True
            self._owner.give_back(self)
        carried.answer_end(self._trailers)


class Abandoned(Carried):
    """In place of a request whose client has gone: what still comes of the answer is thrown away."""

    def __init__(self, carried: Carried) -> None:
        super().__init__(carried.method, None)
        self.request_complete = self.gone = True
        self.answer_begun = carried.answer_begun

    def connected(self, connection: Connection) -> None:
        """It never is: its request has been sent."""

    def answer_started(self, status: int, reason: bytes, fields: Fields, until_close: bool) -> None:
        """Nobody reads it."""
        self.answer_begun = True

    def answer_end(self, trailers: Headers) -> None:
        """The server is free again."""

    def failed(self, status: int, code: str, message: str) -> None:
        """Nobody is told."""

    def refused(self, message: str) -> None:
        """Nobody is told."""

    def move(self, target: Target) -> None:
        """Nobody wants it from another."""

    def lost_unanswered(self, connection: Connection) -> bool:
        """Nobody wants it a second time."""
        return True


def _with_one_length(head: bytes) -> bytes:
    r"""Return a head whose Content-Length fields agree with one of them left; one where they don't as it is.

    >>> _with_one_length(b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nA: b\r\ncontent-length: 5\r\n\r\n")
    b'HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\n\r\n'
    """
    lengths = {part.strip() for found in _LENGTH.findall(head) for part in found.split(b",")}
    if len(lengths) != 1:
        return head
    return _LENGTH.sub(b"", head)[:-2] + b"Content-Length: %b\r\n\r\n" % lengths.pop()
