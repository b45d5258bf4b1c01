"""One proxy process: listens, joins the two halves, records once per turn of the loop, and ends in order."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from mooring.capture.proxy.backend import Backend
from mooring.capture.proxy.downstream import ClientProtocol
from mooring.capture.proxy.flow import Flow
from mooring.capture.proxy.headers import (
    ANSWER_READ,
    ANSWER_REWRITTEN,
    HOP_BY_HOP,
    READ,
    REQUEST_REWRITTEN,
    REWRITTEN,
    Fields,
    FieldTable,
    date_line,
)
from mooring.capture.proxy.routes import Routes
from mooring.capture.proxy.shadow import Shadows
from mooring.capture.proxy.stats import Stats
from mooring.capture.proxy.tap import Tap, text
from mooring.capture.proxy.upstream import UpstreamProtocol
from mooring.capture.recorder import Recorder
from mooring.capture.say import Seldom

if TYPE_CHECKING:
    from mooring.config import FrontSettings

    Answered = tuple[Flow, Tap, bytes, bool]

_SWEEP_SECONDS = 0.25
BACKLOG = 2048
RECENT_BYTES = 256 * 1024
_SAY_EVERY_SECONDS = 10.0


class CantListen(OSError):
    """An address that is taken, or not this machine's."""


class Watcher(Protocol):
    """Whoever is told how requests were answered, and copies of them."""

    def answered(self, tap: Tap) -> None:
        """A request was answered by the champion or the canary, or the canary was lost over it."""

    def shadow(self, tap: Tap, live: Tap) -> None:
        """The shadow answered a copy of a request, to which the client got `live`."""

    def shadow_dropped(self) -> None:
        """There was no room for a copy."""


class Proxy:
    """What all connections of one proxy process share. `routes` say where requests go, first nowhere."""

    def __init__(self, settings: FrontSettings, recorder: Recorder, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self.recorder = recorder
        self.loop = loop
        self.say = Seldom(_SAY_EVERY_SECONDS)
        self.routes = Routes(Backend(self, None, limit=0))
        self.shadows = Shadows(self)
        self.watcher: Watcher | None = None
        self.clients: set[ClientProtocol] = set()
        self.upstreams: set[UpstreamProtocol] = set()
        self.draining = False
        self.now = loop.time()
        self.date = date_line(time.time())
        self.model = settings.model
        self._sticky = settings.sticky.lower().encode() if settings.sticky else None
        self.logged_headers = [(name.lower().encode(), name) for name in settings.header]
        read = (*READ, *(name for name, _ in self.logged_headers))
        kept_back = (*HOP_BY_HOP, *REWRITTEN, *REQUEST_REWRITTEN)
        sticky = [self._sticky] if self._sticky and self._sticky not in kept_back else []
        self.request_table = FieldTable(kept_back, (*read, *sticky))
        self.answer_table = FieldTable((*HOP_BY_HOP, *REWRITTEN, *ANSWER_REWRITTEN), ANSWER_READ)
        self.recent: deque[Tap] | None = None
        """The last requests that were answered with success, where somebody wants to put them again."""
        self._answers: dict[tuple[str | None, str, int], int] = {}
        self._stats = Stats()
        self._no_clients = asyncio.Event()
        self._done: list[Answered] = []
        self._unsynced: list[Answered] = []
        self._syncing: asyncio.Task[None] | None = None

    def submit(self, flow: Flow, tap: Tap, last: bytes, broken: bool) -> None:
        """Record an exchange at the end of this turn of the loop; only then let its answer's last bytes go."""
        if not self._done:
            self.loop.call_soon(self._record)
        self._done.append((flow, tap, last, broken))

    def choose(self, tap: Tap, fields: Fields) -> Backend:
        """Return who answers a scoring request."""
        routes = self.routes
        if not routes.canaries:
            return routes.champion
        value = fields.read.get(self._sticky) if self._sticky else None
        return routes.choose(text(value) or tap.request_id)

    def canary_lost(self, tap: Tap) -> None:
        """The canary died over a request that the champion answers now."""
        if self.watcher is not None:
            self.watcher.answered(tap)

    def stats(self) -> Stats:
        """Return what this process has counted."""
        self._stats.ledger = self.recorder.ledger
        self._stats.clients, self._stats.upstreams = len(self.clients), len(self.upstreams)
        self._stats.ready = int(self.recorder.ready and not self.draining)
        self._stats.up = int(self.routes.champion.up)
        self._stats.waiting = sum(backend.waiting for backend in self.routes.backends)
        self._stats.answers = {
            f"{variant} {status} {version or ''}": count
            for (version, variant, status), count in self._answers.items()
        }
        return self._stats

    def _record(self) -> None:
        done, self._done = self._done, []
        observe, answers = self._stats.observe, self._answers
        for _, tap, _, _ in done:
            observe(tap.status, tap.elapsed())
            answered = tap.version, tap.variant, tap.status
            answers[answered] = answers.get(answered, 0) + 1
            if self.recent is not None and tap.whole and len(tap.request) <= RECENT_BYTES:
                self.recent.append(tap)
            if not tap.sampled:
                self.recorder.leave_out(200 <= tap.status < 300 and not tap.errors, tap.errors)
        exchanges = [tap.exchange() for _, tap, _, _ in done if tap.sampled]
        if self.settings.durability == "none":
            self._release(done)
            self.recorder.record(exchanges)
            return
        self.recorder.record(exchanges)
        if self.settings.durability == "process":
            self._release(done)
            return
        self._unsynced += done
        if self._syncing is None:
            self._syncing = self.loop.create_task(self._sync())

    async def _sync(self) -> None:
        """Sync what was recorded, in a thread, for all answers that wait for it at once."""
        while self._unsynced:
            done, self._unsynced = self._unsynced, []
            try:
                await self.loop.run_in_executor(None, self.recorder.sync())
            except OSError as error:
                self.recorder.say(f"can't sync the spool: {error}")
            self._release(done)
        self._syncing = None

    def _release(self, done: list[Answered]) -> None:
        """Let the last bytes of these answers go, and copies of some requests to the shadow."""
        for flow, _, last, broken in done:
            flow.client.finished(flow, last, broken)
        if self.watcher is not None:
            for _, tap, _, _ in done:
                self.watcher.answered(tap)
        if self.routes.shadow is not None:
            for _, tap, _, _ in done:
                if tap.copied and tap.status and not tap.errors:
                    self.shadows.send(tap)

    def client_lost(self, client: ClientProtocol) -> None:
        """Forget a connection that is closed."""
        self.clients.discard(client)
        if not self.clients:
            self._no_clients.set()

    async def clients_gone(self) -> None:
        """Return once no client is connected."""
        self._no_clients.clear()
        if self.clients:
            await self._no_clients.wait()

    def sweep(self) -> None:
        """Tell the connections whose deadline has passed."""
        self.now = now = self.loop.time()
        self.date = date_line(time.time())
        connections: list[ClientProtocol | UpstreamProtocol] = [*self.clients, *self.upstreams]
        for connection in connections:
            if connection.deadline < now:
                connection.overdue()
        for backend in self.routes.backends:
            backend.sweep(now)


async def serve(proxy: Proxy, listening: socket.socket, stop: asyncio.Event) -> None:
    """Serve clients until `stop`, then finish what is in flight, for at most `--drain-timeout`."""
    loop, settings = proxy.loop, proxy.settings
    server = await loop.create_server(lambda: ClientProtocol(proxy), sock=listening, backlog=BACKLOG)
    sweeping = loop.create_task(_sweep(proxy))
    await stop.wait()

    server.close()
    proxy.draining = True
    for client in list(proxy.clients):
        client.stop()
    with suppress(TimeoutError):
        async with asyncio.timeout(settings.drain_timeout):
            await proxy.clients_gone()
    for client in list(proxy.clients):
        client.transport.abort()
    for _ in range(3):  # what was aborted is recorded in the next turns
        await asyncio.sleep(0)
    sweeping.cancel()
    proxy.recorder.close()


async def _sweep(proxy: Proxy) -> None:
    while True:
        proxy.sweep()
        proxy.recorder.tick()
        await asyncio.sleep(_SWEEP_SECONDS)


def bind(settings: FrontSettings, *, shared: bool = False) -> socket.socket:
    """Return a socket bound to the address; with `shared`, others may listen there as well. Raises CantListen."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        why = os.strerror(error.errno or 0)
        raise CantListen(f"can't listen on {settings.host}:{settings.port}: {why}") from error
    return bound
