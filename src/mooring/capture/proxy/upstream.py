"""One connection to a model server: it sends a flow's request, and feeds the answer back into the flow."""

from __future__ import annotations

import asyncio
import os
import select
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import httptools

from mooring.capture.proxy.flow import Abandoned
from mooring.capture.proxy.headers import Fields, Headers
from mooring.capture.proxy.known import ANSWERS, learn_answer

if TYPE_CHECKING:
    from mooring.capture.proxy.flow import Flow
    from mooring.capture.proxy.pool import Pool
    from mooring.capture.proxy.server import Proxy


class UpstreamProtocol(asyncio.Protocol):
    """One connection to the model server: sends a flow's request, feeds the answer back into it."""

    def __init__(self, proxy: Proxy, pool: Pool) -> None:
        self._proxy = proxy
        self.pool = pool
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
        self.counted = False
        """Whether the flow that it carries is one of those that its server has a limited number of."""
        self.deadline = float("inf")

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self._proxy.upstreams.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._proxy.upstreams.discard(self)
        if error is not None and self._flow is not None and not self.pool.address.tls:
            self._take_unread()
        self.pool.forget(self)
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
        known = self.pool.backend.known_answers.get(data[:end])
        if known is None or len(data) - end != known.length or flow.tap is None or not flow.usual or self._paused:
            return False
        self._flow = None
        self.reused = True
        self.pool.give_back(self)
        flow.answer_known(known, data[end:])
        return True

    def _learn(self, flow: Flow, data: bytes) -> None:
        """Keep the head of an answer that came whole, for the short way."""
        learnt = learn_answer(flow, data)
        if learnt is not None:
            known = self.pool.backend.known_answers
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

    def abandon(self) -> None:
        """Nobody waits for the answer any more. A server that has a limit is busy with it all the same."""
        flow = self._flow
        if flow is None or self.pool.backend.limit is None or not flow.request_complete or self._paused:
            self.abort()
            return
        self._flow = Abandoned(flow)
        self.resume_reading()

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
            self.pool.give_back(self)
        flow.answer_end(self._trailers)
