"""The admin port: metrics for Prometheus, health, the ledger, the servers that requests go to, and labels."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

import msgspec

from mooring.capture import compiled
from mooring.capture.admin.hosts import Hosts, is_loopback
from mooring.capture.admin.http import (
    JSON,
    LONGEST_HEAD,
    TEXT,
    HttpRefused,
    Reply,
    Request,
    read_body,
    read_head,
    refusal,
)
from mooring.capture.admin.labels import LabelIntake
from mooring.capture.admin.metrics import metrics
from mooring.capture.proxy.api_keys import ApiKeys
from mooring.capture.proxy.routes import Upstream, check_upstreams
from mooring.capture.proxy.stats import Stats
from mooring.exchange import Ledger
from mooring.spool import past_ledger, spooled_bytes

if TYPE_CHECKING:
    from prometheus_client import Metric

    from mooring.capture.proxy.security import Security
    from mooring.settings import FrontSettings

Snapshot = Callable[[], Awaitable[Stats]]
_TIMEOUT = 10.0
_VERSION = "/model-version/"
_UPSTREAMS = "/upstreams"
_LABELS = "/labels"
_OPEN = ("/healthz", "/readyz")
"""What probes ask, which have no key."""
_LONGEST_VERSION = 200
_EXAMPLE = (
    '[{"version": "3", "url": "http://localhost:5002"}, '
    '{"version": "4", "url": "http://localhost:5003", "variant": "canary", "share": 0.05}]'
)


class Upstreams:
    """The servers of others that requests go to, as somebody may change while the proxy runs."""

    def __init__(self, upstreams: Sequence[Upstream], apply: Callable[[list[Upstream]], None]) -> None:
        self.now = list(upstreams)
        self._apply = apply

    def set(self, upstreams: Sequence[Upstream]) -> None:
        """Send requests there from now on. Raises ValueError where that is invalid."""
        check_upstreams(upstreams)
        for one in upstreams:
            _check_version(one.version)
        self.now = list(upstreams)
        self._apply(self.now)

    def name(self, version: str) -> None:
        """Name another version of the champion in the log from now on. Raises ValueError as `set` does."""
        champion = [one.variant == "champion" for one in self.now]
        self.set(
            [
                msgspec.structs.replace(one, version=version) if is_it else one
                for one, is_it in zip(self.now, champion, strict=True)
            ]
        )


class Further(Protocol):
    """What somebody has to tell beside the proxy."""

    def stats(self) -> dict[str, object]:
        """Return what /stats says further."""

    def metrics(self) -> Iterator[Metric]:
        """Yield further metrics."""


def _check_version(version: str | None) -> None:
    if version is None:
        return
    if not version:
        raise ValueError("the version is missing")
    if not version.isprintable() or len(version) > _LONGEST_VERSION:
        raise ValueError(f"a version is a printable text of at most {_LONGEST_VERSION} characters")


def _allowed(path: str) -> str:
    if path == _LABELS:
        return "POST"
    if path == _UPSTREAMS:
        return "GET, HEAD, PUT"
    return "PUT" if path.startswith(_VERSION) else "GET, HEAD"


class Admin:
    """Answers on the admin port. `snapshot` collects the counts of all workers.

    Without `upstreams` nobody may change where requests go, since a supervisor does; `further` is what it tells.
    """

    def __init__(
        self,
        spool: Path,
        snapshot: Snapshot,
        labels: LabelIntake,
        upstreams: Upstreams | None = None,
        further: Further | None = None,
    ) -> None:
        self._spool = spool
        self._snapshot = snapshot
        self._labels = labels
        self._upstreams = upstreams
        self._further = further
        self._keys: ApiKeys | None = None
        self._certificates = False
        self._local = False
        self._hosts = Hosts([], open=False)

    async def serve(self, settings: FrontSettings, security: Security) -> asyncio.Server:
        """Listen where the settings say. Raises OSError where that address can't be listened on."""
        self._keys = security.admin_keys
        self._certificates = security.tls is not None and security.tls.takes_certificates
        host, loop = settings.admin_host, asyncio.get_running_loop()

        def connection() -> asyncio.Protocol:
            reader = asyncio.StreamReader(limit=LONGEST_HEAD)
            return asyncio.StreamReaderProtocol(reader, self._answer)

        server = await loop.create_server(security.for_admin(connection), host, settings.admin_port)
        self._local = all(is_loopback(bound.getsockname()[0]) for bound in server.sockets)
        own = [] if self._local else [socket.gethostname()]
        self._hosts = Hosts([host, *own, *settings.admin_allowed_host], open=not self._local)
        return server

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(_TIMEOUT):
                method = ""
                try:
                    request = await read_head(reader)
                    method = request.method
                    self._check(request, writer)
                    reply = await self._respond(request, reader, writer)
                except HttpRefused as refused:
                    reply = refusal(refused)
                writer.write(reply.encoded(method))
                await writer.drain()
                if method not in ("GET", "HEAD"):
                    # What of a body was not read would have the answer thrown away as the connection closes.
                    if writer.can_write_eof():
                        writer.write_eof()
                    while await reader.read(65536):
                        pass
        writer.close()

    def _check(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Raise HttpRefused for a request that its sender may not make."""
        host = request.fields.get("host")
        if host is not None and not self._hosts.known(host):
            raise HttpRefused(421, "this port is not reached by that name: allow it with --admin-allowed-host")
        method, path = request.method, request.path
        origin = request.fields.get("origin")
        if method not in ("GET", "HEAD") and origin and not self._hosts.known(origin.partition("://")[2]):
            raise HttpRefused(403, "a page from another origin changes nothing here")
        if path in _OPEN and method in ("GET", "HEAD"):
            return
        if self._certificates and not writer.get_extra_info("peercert"):
            raise HttpRefused(403, "this takes a certificate that an authority in --tls-client-ca has signed")
        if path == _LABELS:
            return
        if self._keys is not None:
            if not self._shows_key(request):
                raise HttpRefused(401, "this takes a key of --admin-key-file or --api-key-file, as a bearer token")
        elif not self._local and method not in ("GET", "HEAD"):
            raise HttpRefused(
                403,
                "from elsewhere this takes a key, since who may do it gets all requests: start with "
                "--admin-key-file, or with --admin-host on loopback",
            )

    def _shows_key(self, request: Request) -> bool:
        given = request.fields.get("authorization")
        return self._keys is not None and given is not None and self._keys.known(given.encode("latin-1"))

    async def _respond(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Reply:
        method, path = request.method, request.path
        if method not in _allowed(path).split(", "):
            text = b"only GET, HEAD, PUT /upstreams, PUT /model-version/VERSION and POST /labels\n"
            return Reply(405, TEXT, text, f"Allow: {_allowed(path)}\r\n")
        if path == _LABELS:
            self._labels.check(request.fields, allowed=None if self._keys is None else self._shows_key(request))
            body = await read_body(request, reader, writer)
            taken = await self._labels.take(request.fields, body)
            return Reply(202, JSON, json.dumps(taken._asdict()).encode() + b"\n")
        if path.startswith(_VERSION):
            return self._put_version(path.removeprefix(_VERSION))
        if path == _UPSTREAMS:
            if self._upstreams is None:
                return _SUPERVISED
            if method == "PUT":
                self._put_upstreams(self._upstreams, await read_body(request, reader, writer))
            return Reply(200, JSON, msgspec.json.format(msgspec.json.encode(self._upstreams.now)) + b"\n")
        return await self._tell(path)

    def _put_upstreams(self, upstreams: Upstreams, body: bytes) -> None:
        try:
            upstreams.set(msgspec.json.decode(body, type=list[Upstream]))
        except RecursionError:
            raise HttpRefused(400, f"the body is nested too deep; it looks like {_EXAMPLE}") from None
        except ValueError as error:
            raise HttpRefused(400, f"{error}; the body looks like {_EXAMPLE}") from None

    def _put_version(self, quoted: str) -> Reply:
        if self._upstreams is None:
            return _SUPERVISED
        try:
            self._upstreams.name(unquote(quoted, errors="strict"))
        except ValueError as error:
            raise HttpRefused(400, f"{error}: PUT /model-version/VERSION") from None
        return Reply(200, TEXT, b"ok\n")

    async def _tell(self, path: str) -> Reply:
        if path == "/healthz":
            return Reply(200, TEXT, b"ok\n")
        stats = await self._snapshot()
        if path == "/readyz":
            if stats.ready < stats.workers:
                return Reply(503, TEXT, b"exchanges can't be stored\n")
            return Reply(200, TEXT, b"ready\n") if stats.up else Reply(503, TEXT, b"no model server is up\n")
        past = past_ledger(self._spool, stats.ended)
        if path == "/stats":
            return Reply(200, JSON, json.dumps(self._as_dict(stats, past), indent=1).encode() + b"\n")
        if path == "/metrics":
            return Reply(200, "text/plain; version=0.0.4; charset=utf-8", self._metrics(stats, past))
        return Reply(404, TEXT, b"there are /metrics, /healthz, /readyz, /stats and, to POST, /labels\n")

    def _as_dict(self, stats: Stats, past: Ledger) -> dict[str, object]:
        total, since_start = stats.ledger + past, stats.since_start
        return {
            "ledger": msgspec.structs.asdict(total) | {"balance": total.balance},
            "since_start": msgspec.structs.asdict(since_start) | {"balance": since_start.balance},
            "statuses": {str(status): count for status, count in sorted(stats.statuses.items())},
            "compiled": compiled(),
            "workers": stats.workers,
            "clients": stats.clients,
            "upstreams": stats.upstreams,
            "spool_bytes": spooled_bytes(self._spool),
            "labels_taken": self._labels.taken,
            "waiting": stats.waiting,
            "answers": stats.answers,
            "unauthorized": stats.unauthorized,
            **(self._further.stats() if self._further is not None else {}),
        }

    def _metrics(self, stats: Stats, past: Ledger) -> bytes:
        from prometheus_client import CollectorRegistry, generate_latest

        spool_bytes, labels, further = spooled_bytes(self._spool), self._labels.taken, self._further

        class Collector:
            def collect(self) -> Iterator[Metric]:
                yield from metrics(stats, stats.ledger + past, spool_bytes, labels)
                if further is not None:
                    yield from further.metrics()

        registry = CollectorRegistry()
        registry.register(Collector())
        return generate_latest(registry)


_SUPERVISED = Reply(409, TEXT, b"the supervisor decides where requests go: see mooring rollout\n")
