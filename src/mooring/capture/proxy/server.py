"""The proxy's process: listens, joins the two halves, records once per turn of the loop, and ends in order."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from mooring.capture.drainer import Drainer
from mooring.capture.proxy.downstream import ClientProtocol
from mooring.capture.proxy.upstream import Pool, UpstreamProtocol, parse_upstream
from mooring.capture.recorder import Recorder

if TYPE_CHECKING:
    from mooring.config import ProxySettings
    from mooring.exchange import Exchange

_SWEEP_SECONDS = 0.25


class Proxy:
    """What all connections of one proxy process share."""

    def __init__(self, settings: ProxySettings, recorder: Recorder, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self.recorder = recorder
        self.loop = loop
        self.upstream = parse_upstream(settings.upstream)
        self.pool = Pool(self)
        self.clients: set[ClientProtocol] = set()
        self.upstreams: set[UpstreamProtocol] = set()
        self.draining = False
        self._no_clients = asyncio.Event()
        self._done: list[tuple[Exchange, Callable[[], None]]] = []

    def submit(self, exchange: Exchange, release: Callable[[], None]) -> None:
        """Record `exchange` at the end of this turn of the loop; only then `release` its answer's last bytes."""
        if not self._done:
            self.loop.call_soon(self._record)
        self._done.append((exchange, release))

    def _record(self) -> None:
        done, self._done = self._done, []
        self.recorder.record([exchange for exchange, _ in done])
        for _, release in done:
            release()

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
        now = self.loop.time()
        connections: list[ClientProtocol | UpstreamProtocol] = [*self.clients, *self.upstreams]
        for connection in connections:
            if connection.deadline < now:
                connection.overdue()


async def serve(settings: ProxySettings, arguments: list[str]) -> None:
    """Run the proxy until SIGTERM or SIGINT; `arguments` are those of its drain.

    Raises OSError where the address can't be listened on, ValueError for a wrong upstream.
    """
    loop = asyncio.get_running_loop()
    recorder = Recorder(settings.spool_path)
    proxy = Proxy(settings, recorder, loop)
    drainer = Drainer(settings.spool_path, arguments)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)

    server = await loop.create_server(
        lambda: ClientProtocol(proxy), settings.host, settings.port, backlog=1024, reuse_address=True
    )
    for listening in server.sockets:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    port = server.sockets[0].getsockname()[1]
    _say(f"listening on http://{settings.host}:{port} for {proxy.upstream.url}, logging to {settings.log}")

    ticking = loop.create_task(_tick(proxy, recorder, drainer))
    await stopped.wait()

    server.close()
    proxy.draining = True
    for client in list(proxy.clients):
        client.stop()
    deadline = loop.time() + settings.drain_timeout
    with suppress(TimeoutError):
        async with asyncio.timeout_at(deadline):
            await proxy.clients_gone()
    for client in list(proxy.clients):
        client.transport.abort()
    await asyncio.sleep(0)  # the aborted exchanges are recorded in the next turn
    await asyncio.sleep(0)
    ticking.cancel()
    recorder.close()
    _say(str(recorder.ledger))
    drained = await asyncio.to_thread(drainer.finish, max(1.0, deadline - loop.time()))
    if not drained:
        _say(f"the log did not take everything in time; the rest stays in {settings.spool_path}")


async def _tick(proxy: Proxy, recorder: Recorder, drainer: Drainer) -> None:
    while True:
        drainer.ensure()
        recorder.tick()
        proxy.sweep()
        await asyncio.sleep(_SWEEP_SECONDS)


def run(settings: ProxySettings, arguments: list[str]) -> None:
    """Run the proxy on uvloop where it is installed, else on asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(settings, arguments))
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, arguments))


def _say(text: str) -> None:
    print(f"mooring: {text}", file=sys.stderr, flush=True)
