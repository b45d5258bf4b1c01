"""One proxy process: listens, joins the two halves, looks at the time, and ends in order."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from mooring.capture.proxy.backend import Backend
from mooring.capture.proxy.client import ClientConnection
from mooring.capture.proxy.context import Context, Routes
from mooring.capture.proxy.listening import BACKLOG
from mooring.capture.proxy.security import Security
from mooring.capture.proxy.shadow import Shadows
from mooring.capture.proxy.stats import Stats
from mooring.capture.recorder import Recorder

if TYPE_CHECKING:
    from mooring.settings import FrontSettings

logger = logging.getLogger(__name__)
_SWEEP_SECONDS = 0.25


class Proxy:
    """One proxy process: what its connections share, the shadow's copies, and the counts of it all."""

    def __init__(
        self,
        settings: FrontSettings,
        recorder: Recorder,
        loop: asyncio.AbstractEventLoop,
        security: Security | None = None,
    ) -> None:
        self.security = security or Security(settings)
        self.settings = settings
        self.recorder = recorder
        self.loop = loop
        self.context = Context(settings, recorder, loop, self.security)
        self.context.routes = Routes(Backend(self.context, None, limit=0))
        self.journal = self.context.journal
        self.journal.copy = Shadows(self.context).send

    @property
    def routes(self) -> Routes:
        """Where requests go: first nowhere."""
        return self.context.routes

    def stats(self) -> Stats:
        """Return what this process has counted."""
        stats, context = self.journal.stats(), self.context
        stats.clients, stats.upstreams = len(context.clients), len(context.upstreams)
        stats.unauthorized = context.unauthorized
        stats.ready = int(self.recorder.ready and not context.draining)
        stats.up = int(self.routes.champion.up)
        stats.waiting = sum(target.waiting for target in self.routes.targets)
        return stats

    def sweep(self) -> None:
        """Tell the connections whose deadline has passed, and see which clients have left."""
        context = self.context
        context.tick()
        now = context.now
        for client in list(context.clients):
            if client.deadline < now:
                client.overdue()
            else:
                client.look()
        for connection in list(context.upstreams):
            if connection.deadline < now:
                connection.overdue()
        for target in self.routes.targets:
            target.sweep(now)


async def serve(proxy: Proxy, listening: socket.socket, stop: asyncio.Event) -> None:
    """Serve clients until `stop`, then finish what is in flight, for at most `--drain-timeout`."""
    loop, settings, context = proxy.loop, proxy.settings, proxy.context

    def client() -> asyncio.Protocol:
        return cast("asyncio.Protocol", ClientConnection(context))

    server = await loop.create_server(proxy.security.for_clients(client), sock=listening, backlog=BACKLOG)
    sweeping = loop.create_task(_sweep(proxy))
    await stop.wait()

    server.close()
    context.draining = True
    for open_client in list(context.clients):
        open_client.stop()
    with suppress(TimeoutError):
        async with asyncio.timeout(settings.drain_timeout):
            await context.clients_gone()
            await context.redactions.finished()  # of clients that have left, too
    for open_client in list(context.clients):
        open_client.abort()
    for _ in range(3):  # what was aborted ends in the next turns
        await asyncio.sleep(0)
    proxy.journal.flush()
    context.redactions.stop()
    sweeping.cancel()
    proxy.recorder.close()


async def _sweep(proxy: Proxy) -> None:
    while True:
        try:
            proxy.sweep()
            proxy.recorder.tick()
        except Exception as error:  # noqa: BLE001 - without it no time limit would hold any more
            logger.warning("a look at what is overdue failed, and is repeated: %r", error, extra={"every": 10.0})
        await asyncio.sleep(_SWEEP_SECONDS)
