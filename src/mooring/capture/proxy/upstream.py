"""The proxy's half towards the model server: connections, and the pool that keeps them."""

from __future__ import annotations

import asyncio
import os
import select
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, cast
from urllib.parse import urlsplit

import httptools

from mooring.capture.proxy.headers import Fields, Headers
from mooring.capture.proxy.known import ANSWERS, learn_answer

if TYPE_CHECKING:
    from mooring.capture.proxy.flow import Flow
    from mooring.capture.proxy.server import Proxy

MAX_IDLE = 128


class Upstream(NamedTuple):
    """Where the model server is. `prefix` is put before every request's path."""

    url: str
    host: str
    port: int
    tls: bool
    prefix: bytes

    @property
    def authority(self) -> bytes:
        """The Host field for requests to it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        standard = self.port == (443 if self.tls else 80)
        return (host if standard else f"{host}:{self.port}").encode()


def parse_upstream(url: str) -> Upstream:
    """Return where `url` points; a trailing `/invocations` is taken for granted and left out.

    Raises ValueError if it is no http URL.

    >>> parse_upstream("http://localhost:5002/invocations").authority
    b'localhost:5002'
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not the URL of a model server. It looks like http://localhost:5002")
    prefix = parts.path.removesuffix("/").removesuffix("/invocations")
    tls = parts.scheme == "https"
    return Upstream(url, parts.hostname, parts.port or (443 if tls else 80), tls, prefix.encode())


class UpstreamProtocol(asyncio.Protocol):
    """One connection to the model server: sends a flow's request, feeds the answer back into it."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._parser = httptools.HttpResponseParser(self)
        self._flow: Flow | None = None
        self._fields = Fields(proxy.answer_table)
        self._trailers: Headers = []
        self._reason = b""
        self._head_done = self._until_close = self._answered = self._spent = self._parser_spent = False
        self._begun = False  # whether anything of this flow's answer has come
        self._ended = False  # whether the server has said that nothing more comes
        self._head_bytes = self._trailer_bytes = 0
        self._poll = select.poll()
        self._paused = False
        self.reused = False
        self.deadline = float("inf")

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self._proxy.upstreams.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._proxy.upstreams.discard(self)
        self._proxy.pool.forget(self)
        if error is not None and self._flow is not None and not self._proxy.upstream.tls:
            self._take_unread()
        flow = self._flow
        if flow is None:
            return
        if self._until_close and self._ended and error is None:
            self._complete()
            return
        self._flow = None
        if not flow.answer_begun and flow.lost_unanswered(self):
            return
        flow.failed(
            502, "upstream_failed", "The model server closed the connection before its answer was complete."
        )

    def eof_received(self) -> None:
        self._ended = True  # over TLS this comes only with its own end, which nobody else can forge

    def pause_writing(self) -> None:
        self._paused = True
        if self._flow is not None:
            self._flow.client.hold("upstream")

    def resume_writing(self) -> None:
        self._paused = False
        if self._flow is not None:
            self._flow.client.release("upstream")

    def data_received(self, data: bytes) -> None:
        flow = self._flow
        if flow is None:
            self.abort()  # nothing was asked
            return
        first, self._begun = not self._begun, True
        if first and self._known_answer(flow, data):
            return
        self._wait()
        if not self._head_done:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("The model server switched protocols unasked.")
            return
        except httptools.HttpParserError as error:
            if self._flow is flow and not self._answered:
                self._fail(f"The model server's answer is not valid HTTP: {error}.")
                return
            self._spent = True  # what came after the whole answer is nobody's
        if self._answered:
            if first and not self._spent and not self._parser_spent:
                self._learn(flow, data)
            self._complete()
        elif not self._head_done and self._head_bytes > self._proxy.settings.max_head:
            self._too_long()
        else:
            flow.flush_answer()

    def _take_unread(self) -> None:
        """Take an answer that came before the connection broke: a write that failed is told before it."""
        descriptor = self.transport.get_extra_info("socket").fileno()
        with suppress(OSError):
            while self._flow is not None and (data := os.read(descriptor, 2**16)):
                self.data_received(data)

    def _known_answer(self, flow: Flow, data: bytes) -> bool:
        """Take the short way with an answer that came whole, its head a known one; say whether it was taken."""
        end = data.find(b"\r\n\r\n") + 4
        known = self._proxy.known_answers.get(data[:end])
        if known is None or len(data) - end != known.length or flow.tap is None or not flow.usual or self._paused:
            return False
        self._flow = None
        self.reused = True
        self._proxy.pool.give_back(self)
        flow.answer_known(known, data[end:])
        return True

    def _learn(self, flow: Flow, data: bytes) -> None:
        """Keep the head of an answer that came whole, for the short way."""
        learnt = learn_answer(flow, data)
        if learnt is not None:
            known = self._proxy.known_answers
            if len(known) >= ANSWERS:
                known.clear()
            known[learnt[0]] = learnt[1]

    # The parser's events

    def on_message_begin(self) -> None:
        if self._answered:
            self._spent = True  # more than one answer to one request
        self._fields = Fields(self._proxy.answer_table)
        self._trailers = []
        self._trailer_bytes = 0
        self._reason = b""
        self._head_done = False

    def on_status(self, data: bytes) -> None:
        self._reason += data

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:
            if self._proxy.answer_table.kind(name)[1]:
                self._trailers.append((name, value))
            else:
                self._spent = True  # the parser heeds a Connection field even here
            self._trailer_bytes += len(name) + len(value)
            if self._trailer_bytes > self._proxy.settings.max_head and not self._answered:
                self._too_long()
        else:
            self._fields.add(name, value)

    def on_headers_complete(self) -> None:
        flow = self._flow
        if flow is None or self._answered:
            return
        status, read, limit = self._parser.get_status_code(), self._fields.read, self._proxy.settings.max_head
        if status == 101:
            self._fail("The model server switched protocols unasked.")
            return
        if read.get(b"transfer-encoding", b"chunked").strip().lower() != b"chunked":
            self._fail("The only transfer coding served is chunked.")
            return
        if self._head_bytes > limit and self._fields.size() + len(self._reason) > limit:
            self._too_long()
            return
        if status < 200:
            self._head_bytes = 0
            flow.informational(status, self._reason, self._fields)
            return
        self._head_done = True
        bodiless = status in (204, 304) or flow.method == b"HEAD"
        self._until_close = not bodiless and b"content-length" not in read and b"transfer-encoding" not in read
        flow.answer_started(status, self._reason, self._fields, until_close=self._until_close)
        if not self._parser.should_keep_alive():
            self._spent = True
        if bodiless:
            # The parser can't be told that no body follows whatever the head says: its next answer gets a new one.
            self._answered = self._parser_spent = True

    def on_body(self, data: bytes) -> None:
        if self._answered:
            self._spent = True
        elif self._flow is not None:
            self._flow.answer_body(data)

    def on_message_complete(self) -> None:
        if self._head_done:
            self._answered = True

    # What flows and the pool ask of it

    def take(self, flow: Flow) -> None:
        """Carry `flow` from here on."""
        self._flow = flow
        self._begun = self._head_done = False
        self._head_bytes = 0
        self._wait()
        flow.connected(self)

    def write(self, data: bytes) -> None:
        """Send the model server a part of the request."""
        self._wait()
        self.transport.write(data)

    def pause_reading(self) -> None:
        """Stop reading the answer until `resume_reading`."""
        self.deadline = float("inf")
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._wait()
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def stale(self) -> bool:
        """Whether the model server has closed this idle connection, or said something unasked."""
        return self.transport.is_closing() or bool(self._poll.poll(0))

    def abort(self) -> None:
        """Break the connection off; its flow, if any, is told nothing."""
        self._flow = None
        self.transport.abort()

    def overdue(self) -> None:
        """The deadline has passed: 504 to the client, or the end of an idle connection."""
        if self._flow is None:
            self.transport.abort()
            return
        if not self._flow.request_complete and not self._paused:
            self._wait()  # for the client, whose half has a deadline of its own
            return
        self._fail("The model server did not answer in time.", 504, "upstream_timeout")

    def _wait(self) -> None:
        self.deadline = self._proxy.now + self._proxy.settings.response_timeout

    def _fail(self, message: str, status: int = 502, code: str = "upstream_failed") -> None:
        flow, self._flow = self._flow, None
        self.transport.abort()
        if flow is not None:
            flow.failed(status, code, message)

    def _too_long(self) -> None:
        limit = self._proxy.settings.max_head
        self._fail(f"The head of the model server's answer, or its trailer, is over {limit} bytes.")

    def _complete(self) -> None:
        flow, self._flow = self._flow, None
        self._answered = False
        if flow is None:
            return
        if self._paused:
            flow.client.release("upstream")
        if self._spent or self._paused or not flow.request_complete or self.transport.is_closing():
            self.transport.abort()  # with what the model server has not read of the request
        else:
            if self._parser_spent:
                self._parser = httptools.HttpResponseParser(self)
                self._parser_spent = False
            self.reused = True
            self._proxy.pool.give_back(self)
        flow.answer_end(self._trailers)


def _tls() -> ssl.SSLContext:
    """Return how servers are verified: by the system's authorities, or those in SSL_CERT_FILE and SSL_CERT_DIR."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _why(error: OSError) -> str:
    """Say what keeps a connection from coming about, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted: {error.verify_message}. If an authority of your own has signed it, "
            "name a file with that one's certificate in SSL_CERT_FILE, and start again."
        )
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {error.reason or error}. Does it speak https, on this port?"
    reason = error.strerror or str(error) or "it closes the connection"
    return f"{reason}. Is it running?"


class Pool:
    """Idle connections to the model server, the most recently used first."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._idle: list[UpstreamProtocol] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._tls = _tls() if proxy.upstream.tls else None

    def acquire(self, flow: Flow) -> None:
        """Give `flow` a connection, now or as soon as there is one."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.stale():
                connection.take(flow)
                return
            connection.abort()
        self.connect(flow)

    def connect(self, flow: Flow) -> None:
        """Give `flow` a new connection as soon as there is one."""
        task = self._proxy.loop.create_task(self._connect(flow))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def give_back(self, connection: UpstreamProtocol) -> None:
        """Keep an idle connection for the next flow."""
        connection.deadline = self._proxy.now + self._proxy.settings.upstream_idle_timeout
        if len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.transport.close()

    def forget(self, connection: UpstreamProtocol) -> None:
        """Drop a connection that is closed."""
        if connection in self._idle:
            self._idle.remove(connection)

    async def _connect(self, flow: Flow) -> None:
        proxy, upstream = self._proxy, self._proxy.upstream
        try:
            async with asyncio.timeout(proxy.settings.connect_timeout):
                _, connection = await proxy.loop.create_connection(
                    lambda: UpstreamProtocol(proxy), upstream.host, upstream.port, ssl=self._tls
                )
        except TimeoutError:
            message = f"The model server at {upstream.url} did not accept a connection in time."
            proxy.say(message)
            flow.failed(504, "upstream_timeout", message)
        except OSError as error:
            message = f"The model server at {upstream.url} can't be reached: {_why(error)}"
            proxy.say(message)
            flow.failed(502, "upstream_unreachable", message)
        else:
            if flow.gone:
                self.give_back(connection)
            else:
                connection.take(flow)
