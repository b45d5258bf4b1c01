"""`mooring serve`: the front process. It answers clients, runs the model servers, and heeds its controller."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mooring.capture.admin.app import Admin
from mooring.capture.admin.labels import LabelIntake
from mooring.capture.drainer import Drainer
from mooring.capture.proxy.address import of_socket
from mooring.capture.proxy.backend import Backend
from mooring.capture.proxy.limits import raise_file_limit
from mooring.capture.proxy.listening import BACKLOG, bind
from mooring.capture.proxy.security import Security
from mooring.capture.proxy.server import Proxy, serve
from mooring.capture.proxy.stats import Stats
from mooring.capture.proxy.tasks import first_of
from mooring.capture.recorder import Recorder
from mooring.capture.workers import announce, last_drain, look_after, open_admin, run_loop, stop_on_signals
from mooring.serving.link import ControllerLink
from mooring.serving.protocol import FromController, Replay, Replayed, Route, Server, Serving, Want
from mooring.serving.rollout.outcomes import OutcomeCollector
from mooring.serving.rollout.replay import replay
from mooring.serving.servers import Servers
from mooring.serving.start import Start

if TYPE_CHECKING:
    from prometheus_client import Metric

    from mooring.settings import ServeSettings

logger = logging.getLogger(__name__)

_TELL_SECONDS = 0.1
_SERVING_SECONDS = 1.0
_REPLAY_SECONDS = 30.0
_RECENT = 20


def run(settings: ServeSettings, alias: str | None, version: str | None) -> None:
    """Serve the version of `settings.model` that an alias names, or one version for good, until SIGTERM or SIGINT.

    Raises CantListen where the address can't be listened on, ControllerGaveUp where the model can't be served at
    all, ValueError for invalid settings.
    """
    raise_file_limit(settings)
    holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(6)}"
    run_loop(_run(Start(settings=settings, alias=alias, version=version, holder=holder), Security(settings)))


async def _run(start: Start, security: Security) -> None:
    settings = start.settings
    loop = asyncio.get_running_loop()
    proxy = Proxy(settings, Recorder(settings), loop, security)
    listening = bind(settings)
    stop = stop_on_signals(loop)
    sockets = Path(tempfile.mkdtemp(prefix="mooring-"))
    supervisor = Supervisor(start, proxy, sockets)
    labels = LabelIntake(settings)

    async def snapshot() -> Stats:
        return proxy.stats()

    admin = await open_admin(settings, security, Admin(settings.spool_path, snapshot, labels, further=supervisor))
    drainer = Drainer(settings)
    looking = loop.create_task(look_after(drainer, labels, security))
    supervising = loop.create_task(supervisor.run())
    try:
        if await first_of(stop.wait(), supervisor.ready.wait(), supervising) == 1:
            listening.listen(BACKLOG)  # before it is said
            announce(settings, security, listening, admin, f"version {supervisor.champion} of {settings.model}")
            serving = loop.create_task(serve(proxy, listening, stop))
            await asyncio.wait([serving, supervising], return_when=asyncio.FIRST_COMPLETED)
            stop.set()
            await serving
        else:
            proxy.recorder.close()
    finally:
        looking.cancel()
        ended = supervising.done() and not supervising.cancelled() and supervising.exception()
        supervising.cancel()
        await supervisor.close()
        listening.close()
        if admin is not None:
            admin.close()
        labels.close()
        shutil.rmtree(sockets, ignore_errors=True)
    logger.info("%s", proxy.recorder.ledger)
    await last_drain(settings, drainer)
    if isinstance(ended, Exception):
        raise ended


class Supervisor:
    """Brings about what the controller wants: which servers run, and which of them get which requests."""

    def __init__(self, start: Start, proxy: Proxy, sockets: Path) -> None:
        self.ready = asyncio.Event()
        """Set once a server of the champion answers."""
        self._settings = settings = start.settings
        self._proxy = proxy
        proxy.journal.recent = deque(maxlen=_RECENT)
        self._servers = Servers(settings, sockets, self._changed)
        self._link = ControllerLink(start, self._handle)
        self._collector = OutcomeCollector(self._link.tell)
        self._want = Want((), ())
        self._backends: dict[str, Backend] = {}
        self._retiring: dict[str, asyncio.Task[None]] = {}
        self._replaying: set[asyncio.Task[None]] = set()

    @property
    def champion(self) -> str | None:
        """The version that answers requests."""
        return next((route.version for route in self._want.routes if route.variant == "champion"), None)

    @property
    def _wanted(self) -> set[str]:
        return {model.version for model in self._want.models}

    async def run(self) -> None:
        """Do what the controller wants. Raises ControllerGaveUp where it gives up."""
        telling = asyncio.create_task(self._tell())
        try:
            await self._link.run()
        finally:
            telling.cancel()

    async def close(self) -> None:
        """End the controller and the servers."""
        tasks = [*self._retiring.values(), *self._replaying]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(self._link.close(), self._servers.close())

    # What the controller says

    def _handle(self, message: FromController) -> None:
        if isinstance(message, Want):
            self._want = message
            self._changed()
            return
        task = asyncio.create_task(self._replay(message))
        self._replaying.add(task)
        task.add_done_callback(self._replaying.discard)

    def _changed(self) -> None:
        """Bring about what is wanted, with the servers as they are now, and tell the controller how they are."""
        wanted = self._wanted
        self._servers.want(self._want.models)
        for version in wanted - self._backends.keys():
            settings = self._settings
            self._backends[version] = Backend(
                self._proxy.context,
                version,
                limit=settings.concurrency,
                queue=settings.queue,
                patience=settings.timeout,
            )
        for version, backend in self._backends.items():
            backend.set_addresses(of_socket(path) for path in self._servers.sockets(version))
        self._route()
        for version in self._backends.keys() - wanted - self._retiring.keys():
            if self._backends[version] is not self._proxy.routes.champion:
                self._retiring[version] = asyncio.create_task(self._retire(version))
        if self._proxy.routes.champion.up:
            self.ready.set()
        self._link.tell(Serving(self._servers.states()))

    def _route(self) -> None:
        proxy, routes = self._proxy, self._want.routes
        before = proxy.routes.targets
        of = [(route, self._backends[route.version]) for route in routes if route.version in self._backends]
        champion = next((backend for route, backend in of if route.variant == "champion"), None)
        if champion is None:
            return
        now = proxy.routes.champion
        if not champion.up and now.up and now in self._backends.values():
            return  # who answers goes on until the next one can
        proxy.routes.set(
            champion,
            [(route.share, backend) for route, backend in of if route.variant == "canary"],
            next(((route.share, backend) for route, backend in of if route.variant == "shadow"), None),
        )
        # From when the next version loads on, so that it is known by then how the champion does.
        proxy.journal.watcher = self._collector if len(self._want.models) > 1 else None
        for target in before:
            if target not in proxy.routes.targets:
                target.hand_over(champion)

    async def _retire(self, version: str) -> None:
        """Let a version's servers finish what they have, and end them."""
        backend = self._backends[version]
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_timeout):
                await backend.drained()
        del self._retiring[version]
        if version in self._wanted:  # again
            return
        del self._backends[version]
        backend.close()
        await self._servers.stop(version)

    async def _replay(self, asked: Replay) -> None:
        backend = self._backends.get(asked.version)
        if backend is None:
            told = Replayed(asked.version, 0, 1, "its servers do not run")
        else:
            seconds = self._settings.timeout + _REPLAY_SECONDS
            try:
                async with asyncio.timeout(seconds):
                    told = await replay(self._proxy, backend, asked)
            except TimeoutError:
                told = Replayed(asked.version, asked.requests, 1, f"it took longer than {seconds:g} s over them")
        self._link.tell(told)

    # What it is told

    async def _tell(self) -> None:
        told = 0.0
        while True:
            await asyncio.sleep(_TELL_SECONDS)
            self._collector.flush()
            now = self._proxy.loop.time()
            for version, backend in list(self._backends.items()):
                backend.sweep(now)
                for socket_path in backend.hanging:
                    self._servers.take_out(version, socket_path)
            if now - told >= _SERVING_SECONDS:
                told = now
                self._changed()

    def stats(self) -> dict[str, object]:
        """Return what runs, for /stats."""
        return {
            "routes": msgspec.to_builtins(self._want.routes),
            "servers": msgspec.to_builtins(self._servers.states()),
        }

    def metrics(self) -> Iterator[Metric]:
        """Yield what runs, for /metrics."""
        return metrics(self._servers.states(), self._want.routes)


def metrics(servers: Mapping[str, Server], routes: Sequence[Route]) -> Iterator[Metric]:
    """Yield the metrics of servers and routes; docs/operate.md says what each means."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    text = "Model server processes, by how they are"
    processes = GaugeMetricFamily("mooring_servers", text, labels=["version", "state"])
    text = "Model server processes that ended by themselves"
    crashes = CounterMetricFamily("mooring_server_crashes", text, labels=["version"])
    text = "Model server processes that were replaced since their requests timed out"
    hung = CounterMetricFamily("mooring_server_hung", text, labels=["version"])
    for version, server in servers.items():
        processes.add_metric([version, "wanted"], server.wanted)
        processes.add_metric([version, "ready"], server.ready)
        crashes.add_metric([version], server.crashed)
        hung.add_metric([version], server.hung)
    yield processes
    yield crashes
    yield hung
    text = "Share of the requests that a version answers, or has copies of"
    shares = GaugeMetricFamily("mooring_route_share", text, labels=["version", "variant"])
    left = 1.0 - sum(route.share for route in routes if route.variant == "canary")
    for route in routes:
        shares.add_metric([route.version, route.variant], left if route.variant == "champion" else route.share)
    yield shares
