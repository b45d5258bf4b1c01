"""One proxy process: listens, joins the two halves, records once per turn of the loop, and ends in order."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from mooring.capture.proxy.downstream import ClientProtocol
from mooring.capture.proxy.flow import Flow
from mooring.capture.proxy.headers import (
    ANSWER_READ,
    HOP_BY_HOP,
    READ,
    REQUEST_REWRITTEN,
    REWRITTEN,
    FieldTable,
    date_line,
)
from mooring.capture.proxy.known import KnownAnswer
from mooring.capture.proxy.stats import Stats
from mooring.capture.proxy.tap import Tap
from mooring.capture.proxy.upstream import Pool, UpstreamProtocol, parse_upstream
from mooring.capture.recorder import Recorder
from mooring.capture.say import Seldom

if TYPE_CHECKING:
    from mooring.config import ProxySettings

    Answered = tuple[Flow, Tap, bytes, bool]

_SWEEP_SECONDS = 0.25
BACKLOG = 2048
_SAY_EVERY_SECONDS = 10.0


def _release(done: list[Answered]) -> None:
    """Let the last bytes of these answers go."""
    for flow, _, last, broken in done:
        flow.client.finished(flow, last, broken)


class CantListen(OSError):
    """An address that is taken, or not this machine's."""


class Proxy:
    """What all connections of one proxy process share."""

    def __init__(self, settings: ProxySettings, recorder: Recorder, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self.recorder = recorder
        self.loop = loop
        self.upstream = parse_upstream(settings.upstream)
        self.say = Seldom(_SAY_EVERY_SECONDS)
        self.pool = Pool(self)
        self.clients: set[ClientProtocol] = set()
        self.upstreams: set[UpstreamProtocol] = set()
        self.draining = False
        self.now = loop.time()
        self.date = date_line(time.time())
        self.model, self.version = settings.model, settings.model_version
        self.logged_headers = [(name.lower().encode(), name) for name in settings.header]
        read = (*READ, *(name for name, _ in self.logged_headers))
        self.request_table = FieldTable((*HOP_BY_HOP, *REWRITTEN, *REQUEST_REWRITTEN), read)
        self.answer_table = FieldTable((*HOP_BY_HOP, *REWRITTEN), ANSWER_READ)
        self.upstream_version_and_host = b" HTTP/1.1\r\nHost: " + self.upstream.authority + b"\r\n"
        self.known_answers: dict[bytes, KnownAnswer] = {}
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

    def set_version(self, version: str) -> None:
        """Name another version of the model in the log from now on."""
        self.version = version

    def stats(self) -> Stats:
        """Return what this process has counted."""
        self._stats.ledger = self.recorder.ledger
        self._stats.clients, self._stats.upstreams = len(self.clients), len(self.upstreams)
        self._stats.ready = int(self.recorder.ready and not self.draining)
        return self._stats

    def _record(self) -> None:
        done, self._done = self._done, []
        observe = self._stats.observe
        for _, tap, _, _ in done:
            observe(tap.status, tap.elapsed())
            if not tap.sampled:
                self.recorder.leave_out(200 <= tap.status < 300 and not tap.errors, tap.errors)
        exchanges = [tap.exchange() for _, tap, _, _ in done if tap.sampled]
        if self.settings.durability == "none":
            _release(done)
            self.recorder.record(exchanges)
            return
        self.recorder.record(exchanges)
        if self.settings.durability == "process":
            _release(done)
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
            _release(done)
        self._syncing = None

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


def bind(settings: ProxySettings) -> socket.socket:
    """Return a socket bound to the address; each worker listens on one of its own. Raises CantListen."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if settings.workers > 1:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        why = os.strerror(error.errno or 0)
        raise CantListen(f"can't listen on {settings.host}:{settings.port}: {why}") from error
    return bound
