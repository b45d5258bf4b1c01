"""The journal: exchanges are recorded once per turn of the loop, and only then do their answers' last bytes go."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from mooring.capture.proxy.exchange_capture import ExchangeCapture
from mooring.capture.proxy.interfaces import Carried
from mooring.capture.proxy.redactions import Redactions
from mooring.capture.proxy.stats import BUCKETS, Stats
from mooring.capture.recorder import Recorder
from mooring.exchange import Exchange

RECENT_BYTES: Final = 256 * 1024
RECORDED_BYTES: Final = 2**20
"""So many bytes of bodies are recorded in one turn of the loop, and what ends beyond them in the next."""
logger = logging.getLogger(__name__)
_SELDOM: Final = {"every": 10.0}
_BUCKETS_NS: Final = [round(bound * 1e9) for bound in BUCKETS]


class Watcher(Protocol):
    """Whoever is told how requests were answered, and copies of them."""

    def answered(self, capture: ExchangeCapture) -> None:
        """A request was answered by the champion or the canary, or the canary was lost over it."""

    def shadow(self, capture: ExchangeCapture, live: ExchangeCapture) -> None:
        """The shadow answered a copy of a request, to which the client got `live`."""

    def shadow_dropped(self) -> None:
        """The shadow had no room for a copy, as it had not answered those before."""


class Journal:
    """Takes what has its answer, records it with all others of this turn of the loop, then lets the answers go.

    What takes long to redact is recorded once it is redacted, and its answer waits for that alone.
    """

    def __init__(
        self, recorder: Recorder, redactions: Redactions, durability: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.recorder = recorder
        self._redactions = redactions
        self.watcher: Watcher | None = None
        self.recent: deque[ExchangeCapture] | None = None
        """The last requests that were answered with success, where somebody wants to put them again."""
        self.copy: Callable[[ExchangeCapture], None] | None = None
        """Takes requests of which the shadow gets a copy."""
        self._durability = durability
        self._loop = loop
        self._durations = [0] * (len(BUCKETS) + 1)
        self._duration_ns = 0
        self._answers: dict[tuple[str | None, str, int], int] = {}
        self._done: list[Carried] = []
        self._unsynced: list[Carried] = []
        self._syncing: asyncio.Task[None] | None = None

    def flush(self) -> None:
        """Record all that has ended, now."""
        while self._done:
            self._record()

    def submit(self, carried: Carried) -> None:
        """Record an exchange at the end of this turn of the loop, then let the last bytes of its answer go."""
        if not self._done:
            self._loop.call_soon(self._record)
        self._done.append(carried)

    def canary_lost(self, capture: ExchangeCapture) -> None:
        """The canary died over a request that the champion answers now."""
        if self.watcher is not None:
            self.watcher.answered(capture)

    def stats(self) -> Stats:
        """Return what was counted of answers; the caller fills in the rest."""
        statuses: dict[int, int] = {}
        answers: dict[str, int] = {}
        for (version, variant, status), count in self._answers.items():
            statuses[status] = statuses.get(status, 0) + count
            answers[f"{variant} {status} {version or ''}"] = count
        return Stats(
            ledger=self.recorder.ledger,
            statuses=statuses,
            durations=list(self._durations),
            duration_ns=self._duration_ns,
            answers=answers,
        )

    def _count(self, capture: ExchangeCapture) -> None:
        duration = capture.elapsed()
        self._durations[bisect_left(_BUCKETS_NS, duration)] += 1
        self._duration_ns += duration
        answered = capture.version, capture.variant, capture.status
        self._answers[answered] = self._answers.get(answered, 0) + 1

    def _record(self) -> None:
        done, self._done = self._done, []
        now: list[Carried] = []
        later: list[tuple[Carried, Exchange]] = []
        exchanges = []
        size = 0
        for at, carried in enumerate(done, 1):
            capture = carried.capture
            if capture is None:
                now.append(carried)
                continue
            self._count(capture)
            size += capture.size
            if self.recent is not None and capture.whole and len(capture.request) <= RECENT_BYTES:
                self.recent.append(capture)
            if not capture.sampled:
                self.recorder.leave_out(200 <= capture.status < 300 and not capture.errors, capture.errors)
                now.append(carried)
            elif self._redactions.needed(capture.size):
                later.append((carried, capture.exchange()))
            else:
                exchanges.append(capture.exchange())
                now.append(carried)
            if size > RECORDED_BYTES and at < len(done):  # a record is copied on its way, and takes its time
                self._done = done[at:]
                self._loop.call_soon(self._record)
                break
        if self._durability == "none":
            self._release(now)
            self.recorder.record(exchanges)
            self._answer([carried for carried, _ in later])
        else:
            self.recorder.record(exchanges)
            self._recorded(now)
        for carried, exchange in later:
            self._redactions.start(exchange, partial(self._redacted, carried, exchange))

    def _redacted(self, carried: Carried, exchange: Exchange, redacted: Exchange | None) -> None:
        """Record an exchange that was redacted aside, or count it as lost where it could not be."""
        if redacted is None:
            self.recorder.give_up(exchange)
        else:
            self.recorder.record([redacted], redacted=True)
        if self._durability == "none":
            self._pass_on(carried)
        else:
            self._recorded([carried])

    def _recorded(self, done: list[Carried]) -> None:
        """Let these answers go that were recorded, now or once they are synced."""
        if self._durability == "process":
            self._release(done)
            return
        self._unsynced += done
        if self._syncing is None:
            self._syncing = self._loop.create_task(self._sync())

    async def _sync(self) -> None:
        """Sync what was recorded, in a thread, for all answers that wait for it at once."""
        while self._unsynced:
            done, self._unsynced = self._unsynced, []
            try:
                await self._loop.run_in_executor(None, self.recorder.sync())
            except OSError as error:
                logger.warning("can't sync the spool: %s", error, extra=_SELDOM)
            self._release(done)
        self._syncing = None

    def _release(self, done: list[Carried]) -> None:
        """Let the last bytes of these answers go, and copies of some requests to the shadow."""
        self._answer(done)
        for carried in done:
            self._pass_on(carried)

    def _answer(self, done: list[Carried]) -> None:
        for carried in done:
            try:
                carried.release_answer()
            except Exception as error:  # noqa: BLE001 - nobody else's answer is to wait for it
                logger.warning("an answer could not be sent: %r", error, extra=_SELDOM)

    def _pass_on(self, carried: Carried) -> None:
        """Tell the watcher of an answered request, and send the shadow its copy; then forget it."""
        capture = carried.capture
        if capture is None:
            return
        try:
            if self.watcher is not None:
                self.watcher.answered(capture)
            if self.copy is not None and capture.copied and capture.status and not capture.errors:
                self.copy(capture)
        except Exception as error:  # noqa: BLE001 - the request has its answer, whatever becomes of its copy
            logger.warning("a request was neither watched nor copied: %r", error, extra=_SELDOM)
        capture.free()
