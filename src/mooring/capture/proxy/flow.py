"""A flow: one request on its way to the model server, and its answer on the way back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mooring.capture.proxy.headers import (
    REQUEST_ID,
    AnswerHead,
    Headers,
    RequestHead,
    answer_head,
    chunk,
    last_chunk,
    own_answer,
    request_head,
)
from mooring.capture.proxy.legacy import maybe_split, plain_json, rewrap
from mooring.exchange import Exchange, new_request_id

if TYPE_CHECKING:
    from mooring.capture.proxy.downstream import ClientProtocol
    from mooring.capture.proxy.server import Proxy
    from mooring.capture.proxy.upstream import UpstreamProtocol

IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Captured:
    """A body as it is kept for the log: its beginning, up to a limit."""

    __slots__ = ("_limit", "_parts", "_size", "cut")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self.cut = False

    def add(self, data: bytes) -> None:
        """Keep `data`, or as much of it as the limit leaves room for."""
        room = self._limit - self._size
        if len(data) > room:
            self.cut = True
            data = data[:room]
        self._size += len(data)
        self._parts.append(data)

    def bytes(self) -> bytes:
        """Return what was kept."""
        return b"".join(self._parts)


class Flow:
    """One request and its answer. The client's half feeds in the request, the upstream's half the answer.

    Bytes are collected while one read is parsed and written at its end, so that a small message is one write.
    """

    def __init__(
        self, proxy: Proxy, client: ClientProtocol, head: RequestHead, target: bytes, keep_alive: bool
    ) -> None:
        self.proxy = proxy
        self.client = client
        self.head = head
        self.keep_alive = keep_alive
        self.request_complete = False
        self.answer_begun = False
        self.scored = head.method == b"POST" and target.partition(b"?")[0] == b"/invocations"
        self._target = proxy.upstream.prefix + target
        self._upstream: UpstreamProtocol | None = None
        self._active = self._acquired = self._retried = self._done = False

        length = head.get(b"content-length")
        self._request_chunked = bool(head.get(b"transfer-encoding"))
        self._has_body = self._request_chunked or length not in (b"", b"0")
        self._framing: tuple[bytes, bytes] | None = None
        if self._request_chunked:
            self._framing = (b"Transfer-Encoding", b"chunked")
        elif length:
            self._framing = (b"Content-Length", length)
        self._request_out: list[bytes] = []
        self._answer_out: list[bytes] = []
        self._answer_chunked = False
        self._sniffing = self._continued = False
        if not self.scored:
            proxy.recorder.ledger.passed += 1
            self._request_out.append(self._head_out())
            return

        proxy.recorder.begin()
        self._time_ns = time.time_ns()
        self._started = time.perf_counter_ns()
        self._request_id = new_request_id(self._time_ns)
        self._client_request_id = head.get(REQUEST_ID) or None
        self._request = Captured(proxy.settings.max_payload)
        self._answer = Captured(proxy.settings.max_payload)
        self._answer_head: AnswerHead | None = None
        self._errors: list[str] = []
        self._sniffing = (
            proxy.settings.legacy_split
            and self._has_body
            and not head.get(b"content-encoding")
            and head.get(b"content-type").lower().startswith(b"application/json")
        )
        self._sniffed: list[bytes] = []
        if not self._sniffing:
            self._request_out.append(self._head_out())

    # The request

    def activate(self) -> None:
        """Begin: those that the client sent before this one have their answers."""
        self._active = True
        if self._sniffing and self.head.get(b"expect").lower() == b"100-continue":
            # Its head can't go on before its body is seen, so the model server can't be asked.
            self._continued = True
            self.client.write(CONTINUE)
        self.flush_request()

    def request_body(self, data: bytes) -> None:
        """Take a piece of the request's body."""
        if self._done:
            return
        if self.scored:
            self._request.add(data)
        if self._sniffing:
            self._sniffed.append(data)
            return
        self._request_out.append(chunk(data) if self._request_chunked else data)

    def request_end(self, trailers: Headers) -> None:
        """Take the end of the request."""
        self.request_complete = True
        if self._request_chunked and not self._sniffing:
            self._request_out.append(last_chunk(trailers))

    def flush_request(self) -> None:
        """Send on what has come, as far as it may go."""
        if not self._active or self._done:
            return
        if self._sniffing:
            self._sniff()
        if not self._request_out:
            return
        if self._upstream is not None:
            self._write_request(self._upstream)
        elif not self._acquired:
            self._acquired = True
            self.proxy.pool.acquire(self)
        elif not self.request_complete:
            self.client.hold("upstream")

    def connected(self, upstream: UpstreamProtocol) -> None:
        """Take the connection to the model server over which this flow goes."""
        self._upstream = upstream
        self.client.release("upstream")
        self._write_request(upstream)

    def _write_request(self, upstream: UpstreamProtocol) -> None:
        data = b"".join(self._request_out)
        self._request_out.clear()
        upstream.write(data)

    def _sniff(self) -> None:
        """Decide whether the body is one of MLflow 1; its first bytes say whether to wait for all of it."""
        body = b"".join(self._sniffed)
        self._sniffed = [body]
        decided = maybe_split(body)
        small = len(body) <= self.proxy.settings.max_payload
        if not self.request_complete and small and decided is not False:
            return
        self._sniffing = False
        new_body = rewrap(body) if self.request_complete and decided and small else None
        if new_body is not None:
            self._request_chunked = False
            self._framing = (b"Content-Length", b"%d" % len(new_body))
            content_type = plain_json(self.head.get(b"content-type"))
            self._request_out += [self._head_out(content_type), new_body]
            return
        self._request_out.append(self._head_out())
        if not self._request_chunked:
            self._request_out.append(body)
            return
        if body:
            self._request_out.append(chunk(body))
        if self.request_complete:
            self._request_out.append(last_chunk([]))

    def _head_out(self, content_type: bytes | None = None) -> bytes:
        head, drop = self.head, set()
        if content_type is not None:
            headers = [pair for pair in head.headers if pair[0].lower() != b"content-type"]
            head = head._replace(headers=[*headers, (b"Content-Type", content_type)])
        if self._continued:
            drop.add(b"expect")
        return request_head(
            head,
            self._target,
            host=self.proxy.upstream.authority,
            client=self.client.address,
            framing=self._framing,
            request_id=self._answer_id() if self.scored else None,
            drop=drop,
        )

    def _answer_id(self) -> bytes:
        return self._client_request_id or self._request_id.encode()

    # The answer

    def informational(self, answer: AnswerHead) -> None:
        """Pass a 1xx on at once, to clients that know of them."""
        if self.head.version == "1.1":
            self.client.write(answer_head(answer, chunked=False, connection=None))

    def answer_started(self, answer: AnswerHead, *, until_close: bool) -> None:
        """Take the head of the answer; `until_close` says that it has no framing of its own."""
        self.answer_begun = True
        chunked = until_close or bool(answer.get(b"transfer-encoding"))
        if not self.request_complete or self.proxy.draining:
            self.keep_alive = False
        if self.head.version != "1.1":
            self.keep_alive = self.keep_alive and not chunked
            chunked = False
        if answer.status in (204, 304) or self.head.method == b"HEAD":
            self._answer_chunked = False
            chunked = chunked and self.head.method == b"HEAD"
        else:
            self._answer_chunked = chunked
        connection = None if self.keep_alive else b"close"
        if self.keep_alive and self.head.version != "1.1":
            connection = b"keep-alive"
        if self.scored:
            self._answer_head = answer
        self._answer_out.append(
            answer_head(
                answer,
                chunked=chunked,
                connection=connection,
                request_id=self._answer_id() if self.scored else None,
            )
        )

    def answer_body(self, data: bytes) -> None:
        """Take a piece of the answer's body."""
        if self.scored:
            self._answer.add(data)
        self._answer_out.append(chunk(data) if self._answer_chunked else data)

    def flush_answer(self) -> None:
        """Send the client what has come of the answer."""
        if self._answer_out and not self._done:
            data = b"".join(self._answer_out)
            self._answer_out.clear()
            self.client.write(data)

    def answer_end(self, trailers: Headers) -> None:
        """Take the end of the answer: record the exchange, then let its last bytes go."""
        self._upstream = None
        if self._answer_chunked:
            self._answer_out.append(last_chunk(trailers))
        self._finish()

    def failed(self, status: int, code: str, message: str) -> None:
        """The model server gave no answer, or only the beginning of one."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()
        if self._done:
            return
        if self.scored:
            self._errors.append(code)
        if self.answer_begun:
            # What was sent promised more: only a broken connection tells the client so.
            self._answer_out.clear()
            self._finish(broken=True)
            return
        answer, body = own_answer(status, code.upper(), message)
        self.answer_started(answer, until_close=False)
        if self.head.method != b"HEAD":
            self.answer_body(body)
        self._finish()

    def lost_unanswered(self, upstream: UpstreamProtocol) -> bool:
        """Try once more where the model server closed an old connection; say whether it was tried.

        A POST may have been worked on though no answer came, so it never is.
        """
        method = self.head.method
        if self._retried or self._done or not upstream.reused or method not in IDEMPOTENT or self._has_body:
            return False
        self._retried = True
        self._upstream = None
        self._request_out = [self._head_out()]
        self.proxy.pool.acquire(self)
        return True

    def client_lost(self) -> None:
        """The client went away before its answer was complete."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()
        if not self._done and self.scored:
            self._errors.append("client_gone")
        self._answer_out.clear()
        self._finish(broken=True)

    def pause_answer(self) -> None:
        """The client reads slowly: stop reading its answer."""
        if self._upstream is not None:
            self._upstream.pause_reading()

    def resume_answer(self) -> None:
        """The client has caught up."""
        if self._upstream is not None:
            self._upstream.resume_reading()

    @property
    def gone(self) -> bool:
        """Whether nobody waits for an answer any more."""
        return self._done

    def _finish(self, broken: bool = False) -> None:
        if self._done:
            return
        self._done = True
        last = b"".join(self._answer_out)
        self._answer_out.clear()

        def release() -> None:
            self.client.finished(self, last, broken)

        if self.scored:
            self.proxy.submit(self._exchange(), release)
        else:
            release()

    def _exchange(self) -> Exchange:
        answer = self._answer_head
        if self._request.cut or self._answer.cut:
            self._errors.append("truncated")
        return Exchange(
            request_id=self._request_id,
            time_ns=self._time_ns,
            duration_ns=time.perf_counter_ns() - self._started,
            method=self.head.method.decode(),
            path=self._target.decode("latin-1"),
            status=answer.status if answer else 0,
            request_type=self.head.get(b"content-type").decode("latin-1"),
            request_encoding=self.head.get(b"content-encoding").decode("latin-1"),
            response_type=answer.get(b"content-type").decode("latin-1") if answer else "",
            response_encoding=answer.get(b"content-encoding").decode("latin-1") if answer else "",
            request=self._request.bytes(),
            response=self._answer.bytes(),
            client_request_id=self._client_request_id.decode("latin-1") if self._client_request_id else None,
            model=self.proxy.settings.model,
            version=self.proxy.settings.model_version,
            errors=self._errors,
        )
