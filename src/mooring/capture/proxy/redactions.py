"""Redactions under way: what is long is redacted beside the loop, one exchange after another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from mooring.capture.redacting import RedactingProcess
from mooring.exchange import Exchange
from mooring.settings import CaptureSettings

LONG_BYTES: Final = 64 * 1024
"""An exchange with longer bodies is redacted aside; a shorter one at once, which takes less than 10 ms."""

Done = Callable[[Exchange | None], None]


class Redactions:
    """Redacts exchanges aside: of each, `done` gets what may be stored, or None where it was given up.

    Until then the bodies are held by the exchange's capture, and count there.
    """

    def __init__(self, settings: CaptureSettings, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._process = RedactingProcess(settings) if settings.redact else None
        self._executor = ThreadPoolExecutor(1)  # waits for the process
        self._under_way: dict[asyncio.Future[Exchange], Done] = {}
        self._finished = asyncio.Event()

    def needed(self, size: int) -> bool:
        """Whether an exchange with so many bytes of bodies is to be redacted here."""
        return size > LONG_BYTES and self._process is not None

    def start(self, exchange: Exchange, done: Done) -> None:
        """Redact an exchange once those before it are."""
        assert self._process is not None
        future = self._loop.run_in_executor(self._executor, self._process.redact, exchange)
        self._under_way[future] = done
        future.add_done_callback(self._ended)

    def _ended(self, future: asyncio.Future[Exchange]) -> None:
        done = self._under_way.pop(future, None)
        if done is None:
            return  # it was given up
        failed = future.cancelled() or future.exception() is not None
        done(None if failed else future.result())
        if not self._under_way:
            self._finished.set()

    async def finished(self) -> None:
        """Return once none is under way."""
        self._finished.clear()
        if self._under_way:
            await self._finished.wait()

    def stop(self) -> None:
        """Give up those that are under way."""
        under_way, self._under_way = self._under_way, {}
        self._executor.shutdown(wait=False, cancel_futures=True)
        if self._process is not None:
            self._process.close()
        for done in under_way.values():
            done(None)
