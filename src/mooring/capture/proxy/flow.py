"""A flow: one request on its way to the model server, and its answer on the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from mooring.capture.proxy.headers import (
    REASONS,
    VIA,
    Fields,
    Headers,
    chunk,
    last_chunk,
    one_hop_less,
    own_answer,
    without,
)
from mooring.capture.proxy.legacy import maybe_split, plain_json, rewrap
from mooring.capture.proxy.tap import Tap

if TYPE_CHECKING:
    from mooring.capture.proxy.backend import Backend
    from mooring.capture.proxy.downstream import ClientProtocol
    from mooring.capture.proxy.known import KnownAnswer
    from mooring.capture.proxy.server import Proxy
    from mooring.capture.proxy.upstream import UpstreamProtocol

LEGACY_BYTES = 64 * 2**20
"""A body of MLflow 1 is held until it is whole; a longer one passes as it is."""
GATHERED_BYTES = 8 * 2**20
"""So much of a request is gathered before it takes the place of another at a server that has so many at a time."""
RETRY_AFTER = 1
SCORING_PATH = b"/invocations"
ID = b"\r\nX-Request-Id: "
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
COUNTED = frozenset({b"OPTIONS", b"TRACE"})
"""Methods whose Max-Forwards says over how many intermediaries they may go (RFC 9110, section 7.6.2)."""
SECRETS = (b"authorization", b"cookie")


class Flow:
    """One request and its answer. The client's half feeds in the request, the upstream's half the answer.

    Bytes are collected while one read is parsed and written at its end, so that a small message is one write.
    """

    __slots__ = (
        "_acquired",
        "_active",
        "_answer_chunked",
        "_begun",
        "_continued",
        "_done",
        "_fields",
        "_hops",
        "_request_chunked",
        "_request_out",
        "_retried",
        "_sniffed",
        "_stops_here",
        "_target",
        "_trailers",
        "_upstream",
        "_whole",
        "answer_begun",
        "answer_out",
        "backend",
        "body_size",
        "client",
        "framing",
        "has_body",
        "keep_alive",
        "method",
        "proxy",
        "request_complete",
        "tap",
        "version",
    )

    def __init__(
        self,
        proxy: Proxy,
        client: ClientProtocol,
        method: bytes,
        target: bytes,
        version: str,
        fields: Fields,
        keep_alive: bool,
    ) -> None:
        self.proxy = proxy
        self.client = client
        self.method = method
        self.version = version
        self.keep_alive = keep_alive
        self.request_complete = self.answer_begun = False
        self._fields = fields
        self._upstream: UpstreamProtocol | None = None
        self._active = self._acquired = self._retried = self._done = self._continued = False
        self._answer_chunked = self._begun = False
        self._whole: bytes | None = None  # the request as it was sent, if that was one write
        self.body_size = 0
        self._trailers: Headers = []
        self._request_out: list[bytes] = []
        self.answer_out: list[bytes] = []
        self._sniffed: bytearray | None = None  # the body's beginning, until it is known what it is

        read = fields.read
        self._hops, self._stops_here = read.get(b"max-forwards"), False
        if self._hops is not None and method in COUNTED:
            self._hops, self._stops_here = one_hop_less(self._hops)
        self._request_chunked = b"transfer-encoding" in read
        length = read.get(b"content-length")
        self.has_body = self._request_chunked or length not in (None, b"0")
        if self._request_chunked:
            self.framing = b"Transfer-Encoding: chunked\r\n"
        else:
            self.framing = b"" if length is None else b"Content-Length: %b\r\n" % length

        self.tap: Tap | None = None
        self.backend = proxy.routes.champion
        if method == b"POST" and _is_scoring(target):
            self.tap = tap = Tap(proxy, fields, target)
            self.backend = proxy.choose(tap, fields)
            tap.go_to(self.backend)
            if (
                proxy.settings.legacy_split
                and self.has_body
                and b"content-encoding" not in read
                and read.get(b"content-type", b"").lower().startswith(b"application/json")
            ):
                self._sniffed = bytearray()
        else:
            proxy.recorder.ledger.passed += 1
        self._target = target if target == b"*" else self.backend.prefix + target
        # Where its head can't go on before its body is seen, the model server can't be asked.
        if (self._sniffed is not None or self.backend.limit is not None) and version == "1.1":
            self._continued = read.get(b"expect", b"").strip().lower() == b"100-continue"
        if self._sniffed is None:
            self._request_out.append(self.head_out())

    def _begin_whole(self, proxy: Proxy, client: ClientProtocol, tap: Tap, backend: Backend) -> None:
        """Be a scoring request that is there in full, in the place of __init__, which parses one."""
        self.proxy, self.client, self.tap, self.backend = proxy, client, tap, backend
        self.method, self.version = b"POST", "1.1"
        self.keep_alive = self.request_complete = self.has_body = self._active = self._acquired = True
        self.answer_begun = self._done = self._answer_chunked = self._retried = False
        self.answer_out = []
        self._upstream = self._whole = None

    # The request

    def activate(self) -> None:
        """Begin: those that the client sent before this one have their answers."""
        self._active = True
        if self._continued:
            self.client.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def request_body(self, data: bytes) -> None:
        """Take a piece of the request's body."""
        if self._done:
            return
        self.body_size += len(data)
        if self.tap is not None:
            self.tap.request_body(data)
        if self._sniffed is not None:
            self._sniffed += data
        else:
            self._request_out.append(chunk(data) if self._request_chunked else data)

    def request_end(self, trailers: Headers) -> None:
        """Take the end of the request."""
        self.request_complete = True
        self._trailers = trailers
        if self._request_chunked and self._sniffed is None:
            self._request_out.append(last_chunk(trailers))

    def flush_request(self) -> None:
        """Send on what has come, as far as it may go."""
        if not self._active or self._done:
            return
        if self._sniffed is not None:
            self._sniff(self._sniffed)
        if not self._request_out:
            return
        if self._upstream is not None:
            self._write_request(self._upstream)
        elif not self._acquired:
            if self.backend.limit is not None and self._waits_for_more():
                return
            self._acquired = True
            backend, routes = self.backend, self.proxy.routes
            if backend.limit is not None and backend is not routes.champion and backend not in routes.backends:
                self.move(routes.champion)  # it was taken out of service meanwhile
            elif self._stops_here:
                # In a turn of its own, since the answer to many in a row begins with the next.
                self.proxy.loop.call_soon(self._answer_here)
            else:
                self.backend.acquire(self)
        elif not self.request_complete:
            self.client.hold("upstream")

    def _waits_for_more(self) -> bool:
        """Whether more of the request is to come before a server is kept busy with it."""
        return not self.request_complete and self.body_size < GATHERED_BYTES

    def move(self, backend: Backend) -> None:
        """Have another backend answer, of which nothing has been asked yet."""
        self.backend = backend
        if self.tap is not None:
            self.tap.version, self.tap.variant = backend.version, backend.variant
        backend.acquire(self)

    def connected(self, upstream: UpstreamProtocol) -> None:
        """Take the connection to the model server over which this flow goes."""
        self._upstream = upstream
        self.client.release("upstream")
        self._write_request(upstream)

    def _write_request(self, upstream: UpstreamProtocol) -> None:
        data = b"".join(self._request_out)
        self._request_out.clear()
        self._whole = data if self.request_complete and not self._begun else None
        self._begun = True
        upstream.write(data)

    def _sniff(self, sniffed: bytearray) -> None:
        """Decide whether the body is one of MLflow 1; its first bytes say whether to wait for all of it."""
        maybe = maybe_split(sniffed) if sniffed else None
        small = len(sniffed) <= LEGACY_BYTES
        if not self.request_complete and small and maybe is not False:
            return
        body = bytes(sniffed)
        self._sniffed = None
        new_body = rewrap(body) if self.request_complete and maybe and small else None
        if new_body is not None:
            self._request_chunked = False
            self.framing = b"Content-Length: %d\r\n" % len(new_body)
            lines = self._fields.lines
            for at in range(0, len(lines), 4):
                if lines[at].lower() == b"content-type":
                    lines[at + 2] = plain_json(lines[at + 2])
            self._request_out += (self.head_out(), new_body)
            return
        self._request_out.append(self.head_out())
        if not self._request_chunked:
            self._request_out.append(body)
            return
        if body:
            self._request_out.append(chunk(body))
        if self.request_complete:
            self._request_out.append(last_chunk(self._trailers))

    def head_out(self) -> bytes:
        """Return the head that goes to the model server."""
        fields, proxy, client = self._fields, self.proxy, self.client
        read = fields.read
        via, mark = read.get(b"via"), VIA if self.version == "1.1" else b"1.0" + VIA[3:]
        forwarded_for, proto, host = client.address, b"http", read.get(b"host", b"")
        if proxy.settings.trust_forwarded:
            if earlier := read.get(b"x-forwarded-for"):
                forwarded_for = earlier + b", " + forwarded_for
            proto = read.get(b"x-forwarded-proto", proto)
            host = read.get(b"x-forwarded-host", host)
        request_id = read.get(b"x-request-id") if self.tap is None else self.tap.answer_id
        expect = b"" if self._continued or self.version != "1.1" else read.get(b"expect")
        return b"".join(
            (
                self.method,
                b" ",
                self._target,
                self.backend.version_and_host,
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
            head = (b"HTTP/1.1 %d " % status, reason, b"\r\n", *fields.end_to_end(), b"\r\n")
            self.client.write(b"".join(head))

    def answer_started(self, status: int, reason: bytes, fields: Fields, *, until_close: bool) -> None:
        """Take the head of the answer; `until_close` says that it has no framing of its own."""
        version_line = self.backend.version_line
        if not version_line and b"x-model-version" in fields.read:
            version_line = b"\r\nX-Model-Version: " + fields.read[b"x-model-version"]
        self._start_answer(status, reason, fields, until_close, version_line)

    def _start_answer(
        self, status: int, reason: bytes, fields: Fields, until_close: bool, version_line: bytes = b""
    ) -> None:
        self.answer_begun = True
        read = fields.read
        chunked = until_close or b"transfer-encoding" in read
        if not self.request_complete or self.proxy.draining:
            self.keep_alive = False
        if self.version != "1.1":
            self.keep_alive = self.keep_alive and not chunked
            chunked = False
        if self.method == b"HEAD" or status in (204, 304):
            chunked = chunked and self.method == b"HEAD"
        else:
            self._answer_chunked = chunked
        tap, via = self.tap, read.get(b"via")
        if tap is not None:
            tap.status, tap.answer_fields = status, fields
        request_id = read.get(b"x-request-id") if tap is None else tap.answer_id
        out = self.answer_out
        out.append(b"HTTP/1.1 %d %b\r\n" % (status, reason or REASONS.get(status, b"")))
        lines = fields.end_to_end()
        if status == 204 and b"content-length" in read:  # it has none (RFC 9110, section 8.6)
            lines = without(lines, b"content-length")
        out += lines
        out += (b"Via: ", via + b", " + VIA if via else VIA)
        if b"date" not in read:
            out.append(self.proxy.date)
        if request_id:
            out += (ID, request_id)
        if version_line:
            out.append(version_line)
        if chunked:
            out.append(b"\r\nTransfer-Encoding: chunked")
        if not self.keep_alive:
            out.append(b"\r\nConnection: close")
        elif self.version != "1.1":
            out.append(b"\r\nConnection: keep-alive")
        out.append(b"\r\n\r\n")

    def answer_body(self, data: bytes) -> None:
        """Take a piece of the answer's body."""
        if self.tap is not None:
            self.tap.answer_body(data)
        self.answer_out.append(chunk(data) if self._answer_chunked else data)

    def flush_answer(self) -> None:
        """Send the client what has come of the answer."""
        if self.answer_out and not self._done:
            data = b"".join(self.answer_out)
            self.answer_out.clear()
            self.client.write(data)

    def answer_end(self, trailers: Headers) -> None:
        """Take the end of the answer: record the exchange, then let its last bytes go."""
        self._upstream = None
        if self._answer_chunked:
            self.answer_out.append(last_chunk(trailers))
        self._finish()

    def refused(self, message: str) -> None:
        """All servers are busy: the client may try again soon."""
        self.failed(503, "overloaded", message, RETRY_AFTER)

    def failed(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        """The request gets no answer from the model server, or only the beginning of one."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()
        if self._done:
            return
        if self.tap is not None:
            self.tap.errors.append(code)
        if self.answer_begun:
            # What was sent promised more: only a broken connection tells the client so.
            self.answer_out.clear()
            self._finish(broken=True)
            return
        lines, body = own_answer(status, code.upper(), message)
        if retry_after is not None:
            lines.append(b"Retry-After: %d\r\n" % retry_after)
        self._answer(status, lines, b"application/json", body)

    def _answer_here(self) -> None:
        """Answer as the last server that the client wants to reach (RFC 9110, sections 9.3.7 and 9.3.8)."""
        if self._done:
            return
        if self.method == b"OPTIONS":
            self._answer(200, [b"Content-Length: 0\r\n"], b"", b"")
            return
        read = self._fields.read
        host = b"Host: %b\r\n" % read[b"host"] if b"host" in read else b""
        lines = without(self._fields.end_to_end(), *SECRETS)
        seen = b"TRACE %b HTTP/%b\r\n%b%b\r\n" % (self._target, self.version.encode(), host, b"".join(lines))
        head = b"Content-Type: message/http\r\nContent-Length: %d\r\n" % len(seen)
        self._answer(200, [head], b"message/http", seen)

    def _answer(self, status: int, lines: list[bytes], content_type: bytes, body: bytes) -> None:
        """Give an answer of the proxy's own."""
        fields = Fields(self.proxy.answer_table)
        fields.lines, fields.read = lines, {b"content-type": content_type}
        self._start_answer(status, b"", fields, until_close=False)
        if self.method != b"HEAD":
            self.answer_body(body)
        self._finish()

    def lost_unanswered(self, upstream: UpstreamProtocol) -> bool:
        """Try once more where the model server closed an old connection; say whether it was tried.

        A POST may have been worked on though no answer came, and even though the connection was reset, so it never
        is: that its connection is still open is looked at before it is sent. But what a canary of our own took
        with it as it died, the champion answers: a scoring request may be worked on twice.
        """
        if self._retried or self._done or not self._can_be_sent_again():
            return False
        own, champion = self.backend.limit is not None, self.proxy.routes.champion
        if own and self.tap is not None and self.tap.variant == "canary" and self.backend is not champion:
            self._send_again()
            self.tap.errors.append("canary_lost")
            self.proxy.canary_lost(self.tap)
            self.move(champion)
            return True
        if not upstream.reused or self.method not in IDEMPOTENT:
            return False
        self._send_again()
        upstream.pool.connect(self, counted=upstream.counted)
        return True

    def _can_be_sent_again(self) -> bool:
        return self._whole is not None

    def _send_again(self) -> None:
        self._retried = True
        self._upstream = None
        self._request_out = [self._whole] if self._whole is not None else []

    def client_lost(self) -> None:
        """The client went away before its answer was complete."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abandon()
        if not self._done and self.tap is not None:
            self.tap.errors.append("client_gone")
        self.answer_out.clear()
        self._finish(broken=True)

    def pause_answer(self) -> None:
        """The client reads slowly: stop reading its answer."""
        if self._upstream is not None:
            self._upstream.pause_reading()

    def resume_answer(self) -> None:
        """The client has caught up."""
        if self._upstream is not None:
            self._upstream.resume_reading()

    def answer_known(self, known: KnownAnswer, body: bytes) -> None:
        """Take a whole answer whose head is known."""
        tap = self.tap
        assert tap is not None
        self.answer_begun = self._done = True
        self._upstream = None
        tap.status, tap.answer_fields = known.status, known.fields
        tap.answer_body(body)
        date = b"" if known.dated else self.proxy.date
        last = b"".join((known.before, date, ID, tap.answer_id, known.after, body))
        self.proxy.submit(self, tap, last, False)

    @property
    def usual(self) -> bool:
        """Whether the flow is one of those that the short way is for: HTTP/1.1, and the connection stays."""
        return self.version == "1.1" and self.keep_alive and self.request_complete and not self.proxy.draining

    @property
    def gone(self) -> bool:
        """Whether nobody waits for an answer any more."""
        return self._done

    def _finish(self, broken: bool = False) -> None:
        if self._done:
            return
        self._done = True
        last = b"".join(self.answer_out)
        self.answer_out.clear()
        if self.tap is None:
            self.client.finished(self, last, broken)
        else:
            self.proxy.submit(self, self.tap, last, broken)


class Abandoned(Flow):
    """In place of a flow whose client has gone: what still comes of the answer is thrown away."""

    def __init__(self, flow: Flow) -> None:
        self.proxy, self.client, self.backend = flow.proxy, flow.client, flow.backend
        self.method, self.version = flow.method, flow.version
        self.keep_alive, self.request_complete, self.answer_begun = False, True, flow.answer_begun
        self.tap = None
        self._done = True

    def informational(self, status: int, reason: bytes, fields: Fields) -> None:
        """Nobody is told."""

    def answer_started(self, status: int, reason: bytes, fields: Fields, *, until_close: bool) -> None:
        """Nobody reads it."""
        self.answer_begun = True

    def answer_body(self, data: bytes) -> None:
        """Nobody reads it."""

    def flush_answer(self) -> None:
        """Nobody reads it."""

    def answer_end(self, trailers: Headers) -> None:
        """The server is free again."""

    def failed(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        """Nobody is told."""

    def lost_unanswered(self, upstream: UpstreamProtocol) -> bool:
        """Nobody wants it a second time."""
        return True


def _is_scoring(target: bytes) -> bool:
    """Whether the model server takes `target` for its scoring path, in whatever spelling."""
    path = target.partition(b"?")[0]
    return path == SCORING_PATH or (b"%" in path and unquote_to_bytes(path) == SCORING_PATH)
