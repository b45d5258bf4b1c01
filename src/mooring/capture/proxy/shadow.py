"""The shadow: a copy of a request, sent after the live answer, whose own answer is compared and logged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from mooring.capture.proxy.context import Context
from mooring.capture.proxy.exchange_capture import ExchangeCapture
from mooring.capture.proxy.headers import Fields, Headers
from mooring.capture.proxy.interfaces import Carried, Connection, Target
from mooring.capture.proxy.legacy import SPLIT_AFTER, SPLIT_BEFORE
from mooring.exchange import Exchange

MOST_WAITING: Final = 256
logger = logging.getLogger(__name__)
_REPEAT_SECONDS: Final = 60.0
MOST_BYTES: Final = 32 * 2**20
"""How many copies, and bytes of them and of the live answers, there may be at a time; further ones are dropped."""


class ShadowCopy(Carried):
    """A copy of a request on its way to another version. `live` is the capture of the answer that the client got.

    `done` is called once, with this copy and whether there was room for it.
    """

    def __init__(
        self, context: Context, target: Target, live: ExchangeCapture, done: Callable[[ShadowCopy, bool], None]
    ) -> None:
        self.own_capture = capture = live.copy(target.version)
        """The capture of this copy."""
        super().__init__(b"POST", capture)
        self.request_complete = True
        self.live = live
        self._report = done
        self._retried = False
        self._connection: Connection | None = None
        body = bytes(live.request)
        if live.rewrapped:
            body = SPLIT_BEFORE + body + SPLIT_AFTER
        self.bytes = len(body) + len(live.answer)
        fields = b"".join(live.request_fields.end_to_end())
        head = b"POST %b%b%bX-Request-Id: %b\r\nContent-Length: %d\r\n\r\n"
        path = target.prefix + live.target
        named = target.version_and_host(live.request_fields.read.get(b"host"))
        self._request = [head % (path, named, fields, live.answer_id, len(body)), body]

    def connected(self, connection: Connection) -> None:
        """Take the connection, and send the copy."""
        self._connection = connection
        self.own_capture.restart()
        connection.send(self._request)

    def answer_started(self, status: int, reason: bytes, fields: Fields, until_close: bool) -> None:
        """Take the head of the answer."""
        self.answer_begun = True
        self.own_capture.answer_starts(status, fields)

    def answer_body(self, data: bytes) -> None:
        """Keep a piece of the answer."""
        self.own_capture.answer_body(data)

    def answer_end(self, trailers: Headers) -> None:
        """Take the end of the answer."""
        self._end(sent=True)

    def failed(self, status: int, code: str, message: str) -> None:
        """The copy gets no answer, or not all of one."""
        if self._connection is not None:
            self._connection.abort()
        if not self.gone:
            self.own_capture.errors.append(code)
            self._end(sent=True)

    def lost_unanswered(self, connection: Connection) -> bool:
        """Send it once more where the server closed an old connection before it had read the copy."""
        if self.gone or self._retried or not connection.unread:
            return False
        self._retried = True
        self._connection = None
        connection.replace(self)
        return True

    def refused(self, message: str) -> None:
        """There is no room for it."""
        self._end(sent=False)

    def move(self, target: Target) -> None:
        """The shadow is gone: nobody else gets the copy."""
        self._end(sent=False)

    def _end(self, sent: bool) -> None:
        if self.gone:
            return
        self.gone = True
        self._connection = None
        if sent:
            self.own_capture.elapsed()
        self._report(self, sent)


class Shadows:
    """The copies that are on their way, bounded in number and bytes, and the account of them."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._count = self._bytes = 0
        self._ended: list[ShadowCopy] = []

    def send(self, live: ExchangeCapture) -> None:
        """Send a copy of a request that has its answer, if there is room."""
        context, account = self._context, self._context.recorder.ledger.shadow
        account["copied"] = account.get("copied", 0) + 1
        target = context.routes.shadow
        # What clients wait for comes first, where the same servers are the canary's, too.
        if target is None or target.live_waiting or "truncated" in live.errors:
            self._count_dropped()
            return
        copy = ShadowCopy(context, target, live, self._end)
        if self._count >= MOST_WAITING or self._bytes + copy.bytes > MOST_BYTES:
            self._fell_behind(copy)
            return
        self._count += 1
        self._bytes += copy.bytes
        target.acquire(copy)

    def _end(self, copy: ShadowCopy, sent: bool) -> None:
        """Record a copy's answer, with those others that end in this turn of the loop."""
        self._count -= 1
        self._bytes -= copy.bytes
        if not sent:
            self._fell_behind(copy)
            return
        if not self._ended:
            self._context.loop.call_soon(self._record)
        self._ended.append(copy)

    def _record(self) -> None:
        ended, self._ended = self._ended, []
        watcher = self._context.journal.watcher
        for copy in ended:
            if watcher is not None:
                watcher.shadow(copy.own_capture, copy.live)
        redactions = self._context.redactions
        exchanges = []
        for copy in ended:
            capture = copy.own_capture
            if capture.sampled and redactions.needed(capture.size):
                redactions.start(capture.exchange(), partial(self._redacted, capture))
                continue
            if capture.sampled:
                exchanges.append(capture.exchange())
            capture.free()
        self._context.recorder.record_shadows(exchanges)

    def _redacted(self, capture: ExchangeCapture, redacted: Exchange | None) -> None:
        """Record a copy's answer that was redacted aside, unless it could not be."""
        if redacted is None:
            self._count_dropped()
        else:
            self._context.recorder.record_shadows([redacted], redacted=True)
        capture.free()

    def _fell_behind(self, copy: ShadowCopy) -> None:
        """Drop a copy that the shadow has no room for, as it has not answered those before."""
        self._count_dropped()
        account = self._context.recorder.ledger.shadow
        logger.warning(
            "the shadow, version %s, does not keep up: %s of %s copies for shadows were dropped so far",
            copy.own_capture.version,
            f"{account['dropped']:,}",
            f"{account['copied']:,}",
            extra={"every": _REPEAT_SECONDS},
        )
        if self._context.journal.watcher is not None:
            self._context.journal.watcher.shadow_dropped()

    def _count_dropped(self) -> None:
        account = self._context.recorder.ledger.shadow
        account["dropped"] = account.get("dropped", 0) + 1
