"""The shadow: a copy of a request, sent after the live answer, whose own answer is compared and logged."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from mooring.capture.proxy.flow import Flow
from mooring.capture.proxy.legacy import maybe_split, rewrap
from mooring.capture.proxy.tap import Tap

if TYPE_CHECKING:
    from mooring.capture.proxy.backend import Backend
    from mooring.capture.proxy.downstream import ClientProtocol
    from mooring.capture.proxy.headers import Fields, Headers
    from mooring.capture.proxy.server import Proxy
    from mooring.capture.proxy.upstream import UpstreamProtocol

MOST_WAITING = 256
MOST_BYTES = 32 * 2**20
"""How many copies, and bytes of them and of the live answers, there may be at a time; further ones are dropped."""


class _Nobody:
    """In place of a client: nobody waits for a copy's answer."""

    address = b"shadow"

    def hold(self, reason: str) -> None:
        """Nobody sends more."""

    def release(self, reason: str) -> None:
        """Nobody was held."""


class ShadowFlow(Flow):
    """A copy of a request on its way to another version. `live` is the tap of the answer that the client got.

    `done` is called once, with this flow and whether there was room for it.
    """

    __slots__ = ("_report", "_request", "bytes", "live")

    def __init__(
        self, proxy: Proxy, backend: Backend, live: Tap, done: Callable[[ShadowFlow, bool], None]
    ) -> None:
        self._begin_whole(proxy, cast("ClientProtocol", _Nobody()), live.copy(backend), backend)
        self._report = done
        self.live = live
        body = bytes(live.request)
        if proxy.settings.legacy_split and maybe_split(body):
            body = rewrap(body) or body
        self.bytes = len(body) + len(live.answer)
        fields = b"".join(live.request_fields.end_to_end())
        head = b"POST %b%b%bX-Request-Id: %b\r\nContent-Length: %d\r\n\r\n"
        prefix = backend.prefix + live.target
        self._request = head % (prefix, backend.version_and_host, fields, live.answer_id, len(body)) + body

    @property
    def usual(self) -> bool:
        """Its answer never takes the short way, which ends at a client."""
        return False

    def connected(self, upstream: UpstreamProtocol) -> None:
        """Take the connection, and send the copy."""
        self._upstream = upstream
        assert self.tap is not None
        self.tap.restart(time.time_ns())
        upstream.write(self._request)

    def informational(self, status: int, reason: bytes, fields: Fields) -> None:
        """Nobody is told."""

    def answer_started(self, status: int, reason: bytes, fields: Fields, *, until_close: bool) -> None:
        """Take the head of the answer."""
        self.answer_begun = True
        assert self.tap is not None
        self.tap.status, self.tap.answer_fields = status, fields

    def answer_body(self, data: bytes) -> None:
        """Keep a piece of the answer."""
        assert self.tap is not None
        self.tap.answer_body(data)

    def flush_answer(self) -> None:
        """Nobody reads it."""

    def answer_end(self, trailers: Headers) -> None:
        """Take the end of the answer."""
        self._upstream = None
        self._end()

    def failed(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        """The copy gets no answer, or not all of one."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()
        if not self._done:
            assert self.tap is not None
            self.tap.errors.append(code)
            self._end()

    def refused(self, message: str) -> None:
        """There is no room for it."""
        self._drop()

    def move(self, backend: Backend) -> None:
        """The shadow is gone: nobody else gets the copy."""
        self._drop()

    def _drop(self) -> None:
        if not self._done:
            self._done = True
            self._report(self, False)

    def _end(self) -> None:
        self._done = True
        assert self.tap is not None
        self.tap.elapsed()
        self._report(self, True)


class Shadows:
    """The copies that are on their way, bounded in number and bytes, and the account of them."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._count = self._bytes = 0
        self._ended: list[ShadowFlow] = []

    def send(self, live: Tap) -> None:
        """Send a copy of a request that has its answer, if there is room."""
        proxy, account = self._proxy, self._proxy.recorder.ledger.shadow
        account["copied"] = account.get("copied", 0) + 1
        backend = proxy.routes.shadow
        # What clients wait for comes first, where the same servers are the canary's, too.
        if backend is None or backend.live_waiting or "truncated" in live.errors:
            self._count_dropped()
            return
        flow = ShadowFlow(proxy, backend, live, self._end)
        if self._count >= MOST_WAITING or self._bytes + flow.bytes > MOST_BYTES:
            self._count_dropped()
            return
        self._count += 1
        self._bytes += flow.bytes
        backend.acquire(flow)

    def _end(self, flow: ShadowFlow, sent: bool) -> None:
        """Record a copy's answer, with those others that end in this turn of the loop."""
        self._count -= 1
        self._bytes -= flow.bytes
        if not sent:
            self._count_dropped()
            return
        if not self._ended:
            self._proxy.loop.call_soon(self._record)
        self._ended.append(flow)

    def _record(self) -> None:
        ended, self._ended = self._ended, []
        proxy = self._proxy
        taps = [flow.tap for flow in ended if flow.tap is not None]
        if proxy.watcher is not None:
            for flow, tap in zip(ended, taps, strict=True):
                proxy.watcher.shadow(tap, flow.live)
        proxy.recorder.record_shadows([tap.exchange() for tap in taps if tap.sampled])

    def _count_dropped(self) -> None:
        account = self._proxy.recorder.ledger.shadow
        account["dropped"] = account.get("dropped", 0) + 1
        if self._proxy.watcher is not None:
            self._proxy.watcher.shadow_dropped()
