"""One client's request on its way to the model server, and its answer on the way back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from mooring.capture.proxy.exchange_capture import ExchangeCapture
from mooring.capture.proxy.headers import (
    REASONS,
    VIA,
    Fields,
    Headers,
    last_chunk,
    one_hop_less,
    own_answer,
    without,
)
from mooring.capture.proxy.interfaces import Carried, Client, Connection, Target
from mooring.capture.proxy.legacy import SPLIT_AFTER, SPLIT_BEFORE, is_split, maybe_split, plain_json

if TYPE_CHECKING:
    from mooring.capture.proxy.context import Context

GATHERED_BYTES: Final = 8 * 2**20
"""So much of a request is gathered before it takes the place of another at a server that has so many at a time."""
ASIDE_BYTES: Final = 2**20
"""A longer body of MLflow 1 is looked at in a thread, so that others need not wait for it."""
JOINED_BYTES: Final = 16 * 1024
"""Pieces that are shorter in all are sent as one: to copy them takes less time than to send them apart."""
PIECE_BYTES: Final = 64
"""What each piece of a body that is held takes of memory beside its bytes, and its frame in a chunked one."""
SCORING_PATH: Final = b"/invocations"
ID: Final = b"\r\nX-Request-Id: "
IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
COUNTED: Final = frozenset({b"OPTIONS", b"TRACE"})
"""Methods whose Max-Forwards says over how many intermediaries they may go (RFC 9110, section 7.6.2)."""
SECRETS: Final = (b"authorization", b"cookie")
_NO_ROOM: Final = "More is being held in memory for requests than --max-held allows."


class ProxiedRequest(Carried):
    """One request and its answer. The client's half feeds in the request, the upstream's half the answer.

    Bytes are collected while one read is parsed and written at its end, so that a small message is one write.
    """

    def __init__(
        self,
        context: Context,
        client: Client,
        method: bytes,
        target: bytes,
        version: str,
        fields: Fields,
        keep_alive: bool,
    ) -> None:
        read = fields.read
        self._context = context
        self.client = client
        self.version = version
        self.keep_alive = keep_alive
        self.body_size = 0
        self._fields = fields
        self._connection: Connection | None = None
        self._acquired = False  # whether a connection was asked for
        self._retried = False
        self._sent_again: list[bytes] | None = None  # the request as it was sent, where it may be sent again
        self._begun = False  # whether some of it was sent
        self._trailers: Headers = []
        self._request: list[bytes] = []
        self._chunk: list[bytes] = []  # the pieces of a chunk that begins
        self._held = 0
        self._answer: list[bytes] = []
        self._answer_chunked = False
        self._answer_sent = False  # whether some of the answer went out
        self._broken = False
        self._sniffed: bytearray | None = None  # the body, until it is known whether it is of MLflow 1
        self._aside = False  # whether a thread looks at it

        self._hops, self._stops_here = read.get(b"max-forwards"), False
        if self._hops is not None and method in COUNTED:
            self._hops, self._stops_here = one_hop_less(self._hops)
        self._request_chunked = b"transfer-encoding" in read
        length = read.get(b"content-length")
        self.has_body = self._request_chunked or length not in (None, b"0")
        self.framing = b"" if length is None else b"Content-Length: %b\r\n" % length
        if self._request_chunked:
            self.framing = b"Transfer-Encoding: chunked\r\n"

        if method == b"POST" and _is_scoring(target):
            capture = ExchangeCapture(context.captures, fields, target)
            super().__init__(method, capture)
            self.target = context.choose(capture, fields)
            if (
                context.legacy_split
                and self.has_body
                and b"content-encoding" not in read
                and read.get(b"content-type", b"").lower().startswith(b"application/json")
            ):
                self._sniffed = bytearray()
        else:
            super().__init__(method, None)
            self.target = context.routes.champion
            context.recorder.ledger.passed += 1
        self._path = target if target == b"*" else self.target.prefix + target
        # Work for a server that has so many at a time is there before it is busy with it; a question, such as
        # whether it is well, or for a path that is none, is not work.
        self._gathered = self.target.limit is not None and self.capture is not None
        # Where its head can't go on before its body is seen, the model server can't be asked.
        self._continued = False
        if (self._sniffed is not None or self._gathered) and version == "1.1":
            self._continued = read.get(b"expect", b"").lower() == b"100-continue"
        if self._continued:
            client.send([b"HTTP/1.1 100 Continue\r\n\r\n"])
        if self._sniffed is None:
            self._request.append(self.head_out())

    # The request

    def request_body(self, data: bytes) -> None:
        """Take a piece of the request's body."""
        if self.gone:
            return
        if self._sniffed is not None and not self.body_size and maybe_split(data) is False:
            self._sniffed = None  # as most are: it can go on at once
            self._request.append(self.head_out())
        self.body_size += len(data)
        if self.capture is not None:
            self.capture.request_body(data)
        if self._must_be_held():
            size = len(data) + PIECE_BYTES
            if not self._context.held.take(size):
                self.refused(_NO_ROOM)
                return
            self._held += size
        if self._sniffed is not None:
            self._sniffed += data
        elif self._request_chunked:
            self._chunk.append(data)
        else:
            self._request.append(data)

    def _must_be_held(self) -> bool:
        """Whether what comes of the body now can't go on before more of it is there."""
        return not self._acquired and (self._sniffed is not None or self._gathered)

    def request_end(self, trailers: Headers) -> None:
        """Take the end of the request."""
        self.request_complete = True
        self._trailers = trailers
        if self._sniffed is None:
            self._end_chunks()

    def _end_chunks(self) -> None:
        if self._request_chunked:
            self._close_chunk()
            self._request.append(last_chunk(self._trailers))

    def _close_chunk(self) -> None:
        """Make one chunk of all that has come."""
        pieces, self._chunk = self._chunk, []
        if pieces:
            self._request.append(b"%x\r\n" % sum(map(len, pieces)))
            self._request += _joined(pieces)
            self._request.append(b"\r\n")

    def flush_request(self) -> None:
        """Send on what has come, as far as it may go."""
        if self.gone or self._aside:
            return
        if self._sniffed is not None:
            self._sniff(self._sniffed)
        self._close_chunk()
        if not self._request:
            return
        if self._connection is not None:
            self._send_request(self._connection)
        elif not self._acquired:
            if self._gathered and self._waits_for_more():
                return
            self._acquired = True
            self._acquire()
        elif not self.request_complete:
            self.client.hold()

    def _acquire(self) -> None:
        target, routes = self.target, self._context.routes
        if self._stops_here:
            # In a turn of its own, since the answer to many in a row begins with the next.
            self._context.loop.call_soon(self._answer_here)
        elif target.limit is not None and target is not routes.champion and target not in routes.targets:
            self.move(routes.champion)  # it was taken out of service meanwhile
        else:
            target.acquire(self)

    def _waits_for_more(self) -> bool:
        """Whether more of the request is to come before a server is kept busy with it."""
        return not self.request_complete and self.body_size < GATHERED_BYTES

    def move(self, target: Target) -> None:
        """Have another version answer, of which nothing has been asked yet."""
        self.target = target
        if self.capture is not None:
            self.capture.version, self.capture.variant = target.version, target.variant
        target.acquire(self)

    def connected(self, connection: Connection) -> None:
        """Take the connection to the model server over which this request goes."""
        self._connection = connection
        if self.capture is not None:
            self.capture.sent()
        self.client.release()
        self._send_request(connection)

    def hold_request(self) -> None:
        """The model server reads slowly: read no more from the client."""
        self.client.hold()

    def release_request(self) -> None:
        """The model server has caught up."""
        self.client.release()

    def _send_request(self, connection: Connection) -> None:
        pieces, self._request = self._request, []
        self._sent_again = pieces if self.request_complete and not self._begun else None
        self._begun = True
        connection.send(_joined(pieces))

    def _sniff(self, sniffed: bytearray) -> None:
        """Decide whether the body is one of MLflow 1; its first bytes say whether to wait for all of it."""
        maybe = maybe_split(sniffed) if sniffed else None
        short = len(sniffed) <= self._context.legacy_max_bytes
        if not self.request_complete and short and maybe is not False:
            return
        if not (self.request_complete and maybe and short):
            self._go_on(bytes(sniffed), legacy=False)
        elif len(sniffed) <= ASIDE_BYTES:
            self._go_on(bytes(sniffed), legacy=is_split(sniffed))
        else:
            self._aside = True
            future = self._context.loop.run_in_executor(self._context.aside, is_split, sniffed)
            future.add_done_callback(self._looked_at)

    def _looked_at(self, future: asyncio.Future[bool]) -> None:
        """Go on with a body that was looked at in a thread."""
        self._aside = False
        if self._sniffed is not None and not self.gone:
            legacy = not future.cancelled() and future.exception() is None and future.result()
            self._go_on(bytes(self._sniffed), legacy=legacy)
            self.flush_request()

    def _go_on(self, body: bytes, legacy: bool) -> None:
        """Send the head and the body that was held back; one of MLflow 1 in the form of today."""
        self._sniffed = None
        if legacy:
            if self.capture is not None:
                self.capture.rewrapped = True
            self._request_chunked = False
            pieces = (SPLIT_BEFORE, body, SPLIT_AFTER)
            self.framing = b"Content-Length: %d\r\n" % sum(map(len, pieces))
            self._fields.replace(b"content-type", plain_json(self._fields.read[b"content-type"]))
            self._request += (self.head_out(), *pieces)
            return
        self._request.append(self.head_out())
        if not self._request_chunked:
            self._request.append(body)
            return
        if body:
            self._chunk.append(body)
        if self.request_complete:
            self._end_chunks()

    def head_out(self) -> bytes:
        """Return the head that goes to the model server."""
        fields, client = self._fields, self.client
        read = fields.read
        via, mark = read.get(b"via"), VIA if self.version == "1.1" else b"1.0" + VIA[3:]
        forwarded_for, proto, host = client.address, self._context.scheme, read.get(b"host", b"")
        if self._context.trust_forwarded:
            if earlier := read.get(b"x-forwarded-for"):
                forwarded_for = earlier + b", " + forwarded_for
            proto = read.get(b"x-forwarded-proto", proto)
            host = read.get(b"x-forwarded-host", host)
        request_id = read.get(b"x-request-id") if self.capture is None else self.capture.answer_id
        expect = b"" if self._continued or self.version != "1.1" else read.get(b"expect")
        return b"".join(
            (
                self.method,
                b" ",
                self._path,
                self.target.version_and_host(read.get(b"host")),
                *fields.end_to_end(),
                b"Via: ",
                via + b", " + mark if via else mark,
                b"\r\nX-Forwarded-For: ",
                forwarded_for,
                b"\r\nX-Forwarded-Proto: ",
                proto,
                b"\r\nX-Forwarded-Host: " + host if host else b"",
                ID + request_id if request_id else b"",
                b"\r\nExpect: " + expect if expect else b"",
                b"\r\nMax-Forwards: " + self._hops if self._hops else b"",
                b"\r\n",
                self.framing,
                b"\r\n",
            )
        )

    # The answer

    def informational(self, status: int, reason: bytes, fields: Fields) -> None:
        """Pass a 1xx on at once, to clients that know of them."""
        if self.version == "1.1":
            lines = without(fields.end_to_end(), b"content-length")  # it has no body
            self.client.send([b"".join((b"HTTP/1.1 %d " % status, reason, b"\r\n", *lines, b"\r\n"))])

    def answer_started(self, status: int, reason: bytes, fields: Fields, until_close: bool) -> None:
        """Take the head of the answer; `until_close` says that it has no framing of its own."""
        version_line = self.target.version_line
        if not version_line and b"x-model-version" in fields.read:
            version_line = b"\r\nX-Model-Version: " + fields.read[b"x-model-version"]
        self._start_answer(status, reason, fields, until_close, version_line)

    def _start_answer(
        self, status: int, reason: bytes, fields: Fields, until_close: bool, version_line: bytes
    ) -> None:
        self.answer_begun = True
        read = fields.read
        chunked = until_close or b"transfer-encoding" in read
        if not self.request_complete or self._context.draining:
            self.keep_alive = False
        if self.version != "1.1":
            self.keep_alive = self.keep_alive and not chunked
            chunked = False
        bodiless = self.method == b"HEAD" or status in (204, 304)
        self._answer_chunked = chunked and not bodiless
        capture, via = self.capture, read.get(b"via")
        if capture is not None:
            capture.answer_starts(status, fields)
        request_id = read.get(b"x-request-id") if capture is None else capture.answer_id
        out = self._answer
        out.append(b"HTTP/1.1 %d %b\r\n" % (status, reason or REASONS.get(status, b"")))
        lines = fields.end_to_end()
        if status == 204 and b"content-length" in read:  # it has none (RFC 9110, section 8.6)
            lines = without(lines, b"content-length")
        out += lines
        out += (b"Via: ", via + b", " + VIA if via else VIA)
        if b"date" not in read:
            out.append(self._context.date)
        if request_id:
            out += (ID, request_id)
        if version_line:
            out.append(version_line)
        if chunked and status not in (204, 304):
            out.append(b"\r\nTransfer-Encoding: chunked")
        if not self.keep_alive:
            out.append(b"\r\nConnection: close")
        elif self.version != "1.1":
            out.append(b"\r\nConnection: keep-alive")
        out.append(b"\r\n\r\n")

    def answer_body(self, data: bytes) -> None:
        """Take a piece of the answer's body."""
        if self.capture is not None:
            self.capture.answer_body(data)
        if self._answer_chunked:
            self._answer += (b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._answer.append(data)

    def flush_answer(self) -> None:
        """Send the client what has come of the answer."""
        if self._answer and not self.gone:
            pieces, self._answer = self._answer, []
            self._answer_sent = True
            self.client.send(_joined(pieces))

    def answer_end(self, trailers: Headers) -> None:
        """Take the end of the answer: record the exchange, then let its last bytes go."""
        self._connection = None
        if self._answer_chunked:
            self._answer.append(last_chunk(trailers))
        self._finish()

    def refused(self, message: str) -> None:
        """All servers are busy: the client may try again soon."""
        self.failed(503, "overloaded", message)

    def failed(self, status: int, code: str, message: str) -> None:
        """The request gets no answer from the model server, or only the beginning of one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        if self.gone:
            return
        if self.capture is not None:
            self.capture.errors.append(code)
        if self._answer_sent:
            # What was sent promised more: only a broken connection tells the client so.
            self._finish(broken=True)
            return
        lines, body = own_answer(status, code.upper(), message)
        self._answer_ourselves(status, lines, b"application/json", body)

    def _answer_here(self) -> None:
        """Answer as the last server that the client wants to reach (RFC 9110, sections 9.3.7 and 9.3.8)."""
        if self.gone:
            return
        if self.method == b"OPTIONS":
            self._answer_ourselves(200, [b"Content-Length: 0\r\n"], b"", b"")
            return
        read = self._fields.read
        host = b"Host: %b\r\n" % read[b"host"] if b"host" in read else b""
        lines = without(self._fields.end_to_end(), *SECRETS)
        seen = b"TRACE %b HTTP/%b\r\n%b%b\r\n" % (self._path, self.version.encode(), host, b"".join(lines))
        head = b"Content-Type: message/http\r\nContent-Length: %d\r\n" % len(seen)
        self._answer_ourselves(200, [head], b"message/http", seen)

    def _answer_ourselves(self, status: int, lines: list[bytes], content_type: bytes, body: bytes) -> None:
        """Give an answer of the proxy's own, in the place of one that nothing was sent of."""
        self._answer.clear()
        self._answer_chunked = False
        fields = Fields(self._context.answer_table)
        fields.lines, fields.read = lines, {b"content-type": content_type}
        self._start_answer(status, b"", fields, False, b"")
        if self.method != b"HEAD":
            self.answer_body(body)
        self._finish()

    def lost_unanswered(self, connection: Connection) -> bool:
        """Try once more where the model server closed an old connection; say whether it was tried.

        A POST may have been worked on though no answer came, and even though the connection was reset, so it never
        is: that its connection is still open is looked at before it is sent. But a server of this machine that had
        not read all of it has not begun, and gets it again: that says nothing of how well it answers. And what a
        canary of our own took with it as it died, the champion answers: a scoring request may be worked on twice.
        """
        whole, capture, champion = self._sent_again, self.capture, self._context.routes.champion
        if self._retried or self.gone or whole is None:
            return False
        if connection.unread:
            self._send_again(whole)
            connection.replace(self)
            return True
        if (
            self.target.limit is not None
            and capture is not None
            and capture.variant == "canary"
            and self.target is not champion
        ):
            self._send_again(whole)
            capture.errors.append("canary_lost")
            self._context.journal.canary_lost(capture)
            self.move(champion)
            return True
        if not connection.reused or self.method not in IDEMPOTENT:
            return False
        self._send_again(whole)
        connection.replace(self)
        return True

    def _send_again(self, whole: list[bytes]) -> None:
        self._retried = True
        self._connection = None
        self._request = whole

    def client_lost(self) -> None:
        """The client went away before its answer was complete."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        if not self.gone and self.capture is not None:
            self.capture.errors.append("client_gone")
        self._finish(broken=True)

    def pause_answer(self) -> None:
        """The client reads slowly: stop reading its answer."""
        if self._connection is not None:
            self._connection.pause_reading()

    def resume_answer(self) -> None:
        """The client has caught up."""
        if self._connection is not None:
            self._connection.resume_reading()

    def release_answer(self) -> None:
        """Let the last bytes of the answer go."""
        pieces, self._answer = self._answer, []
        if pieces and not self._broken:
            self.client.send(_joined(pieces))
        self.client.finished(self.keep_alive and self.request_complete, self._broken)

    def _finish(self, broken: bool = False) -> None:
        """The answer is there, or there will be none: nothing of the request is needed any more."""
        if self.gone:
            return
        self.gone = True
        self._broken = broken
        if self.queued:
            self.target.leave(self)
        if broken:
            self._answer.clear()
        self._request, self._chunk, self._sent_again = [], [], None
        self._sniffed = None
        self._context.held.give(self._held)
        self._held = 0
        if self.capture is None:
            self.release_answer()
        else:
            self._context.journal.submit(self)


def _joined(pieces: list[bytes]) -> list[bytes]:
    """Return pieces as they are sent with the least work: short ones as one, a long one as it is."""
    size = 0
    for piece in pieces:
        size += len(piece)
    if size < JOINED_BYTES:
        return [b"".join(pieces)] if len(pieces) > 1 else pieces
    joined: list[bytes] = []
    short: list[bytes] = []
    for piece in pieces:
        if len(piece) < JOINED_BYTES:
            short.append(piece)
            continue
        if short:
            joined.append(b"".join(short))
            short = []
        joined.append(piece)
    if short:
        joined.append(b"".join(short))
    return joined


def _is_scoring(target: bytes) -> bool:
    """Whether the model server takes `target` for its scoring path, in whatever spelling."""
    path = target.partition(b"?")[0]
    return path == SCORING_PATH or (b"%" in path and unquote_to_bytes(path) == SCORING_PATH)
