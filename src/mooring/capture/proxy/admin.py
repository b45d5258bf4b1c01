"""The admin port: metrics for Prometheus, health, the ledger, the servers that requests go to, and labels."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import unquote

import msgspec

from mooring.capture import compiled
from mooring.capture.proxy.labels import LabelIntake, Refused
from mooring.capture.proxy.routes import Upstream, check_upstreams
from mooring.capture.proxy.stats import BUCKETS, Stats
from mooring.exchange import Ledger
from mooring.spool import past_ledger, spooled_bytes

if TYPE_CHECKING:
    from prometheus_client import Metric

Snapshot = Callable[[], Awaitable[Stats]]
_TIMEOUT = 10.0
_VERSION = "/model-version/"
_UPSTREAMS = "/upstreams"
_LABELS = "/labels"
_LONGEST = 2**20
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_TEXT = "text/plain"


class Reply(NamedTuple):
    """An answer; `further` are header fields beyond those that every answer has."""

    status: int
    content_type: str
    body: bytes
    further: str = ""


class Upstreams:
    """The servers of others that requests go to, as somebody may change while the proxy runs."""

    def __init__(self, upstreams: Sequence[Upstream], apply: Callable[[list[Upstream]], None]) -> None:
        self.now = list(upstreams)
        self._apply = apply

    def set(self, upstreams: Sequence[Upstream]) -> None:
        """Send requests there from now on. Raises ValueError where that can't be meant."""
        check_upstreams(upstreams)
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
        self._local = False

    async def serve(self, host: str, port: int) -> asyncio.Server:
        """Listen. Raises OSError where the address can't be listened on."""
        self._local = host in _LOOPBACK
        return await asyncio.start_server(self._answer, host, port, limit=16 * 1024)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_TIMEOUT):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                method, target, *_ = head.split("\r\n", 1)[0].split(" ")
                path = target.partition("?")[0]
                if method == "POST" and path == _LABELS:
                    reply = await self._take_labels(_fields(head), reader, writer)
                elif method == "PUT" and path == _UPSTREAMS:
                    length = _fields(head).get("content-length", "")
                    body = await reader.readexactly(min(int(length), _LONGEST)) if length.isdigit() else b""
                    reply = self._put_upstreams(body)
                else:
                    reply = await self._respond(method, path)
                phrase = HTTPStatus(reply.status).phrase
                writer.write(
                    f"HTTP/1.1 {reply.status} {phrase}\r\nDate: {formatdate(usegmt=True)}\r\n"
                    f"Content-Type: {reply.content_type}\r\nContent-Length: {len(reply.body)}\r\n"
                    f"{reply.further}Connection: close\r\n\r\n".encode()
                    + (b"" if method == "HEAD" else reply.body)
                )
                await writer.drain()
                if method not in ("GET", "HEAD"):
                    # What of a body was not read would have the answer thrown away as the connection closes.
                    writer.write_eof()
                    while await reader.read(65536):
                        pass
        writer.close()

    async def _take_labels(
        self, fields: dict[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Reply:
        try:
            length = self._labels.check(fields)
            if fields.get("expect", "").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            taken = await self._labels.take(fields, await reader.readexactly(length))
        except Refused as refused:
            further = "WWW-Authenticate: Bearer\r\n" if refused.status == HTTPStatus.UNAUTHORIZED else ""
            return Reply(refused.status, _TEXT, f"{refused}\n".encode(), further)
        return Reply(202, "application/json", json.dumps(taken._asdict()).encode() + b"\n")

    def _put_upstreams(self, body: bytes) -> Reply:
        if self._upstreams is None:
            return _SUPERVISED
        if not self._local:
            return Reply(403, _TEXT, b"only with --admin-host on loopback: who may do this gets all requests\n")
        try:
            self._upstreams.set(msgspec.json.decode(body, type=list[Upstream]))
        except (msgspec.DecodeError, ValueError) as error:
            example = '[{"version": "3", "url": "http://localhost:5002"}, {"version": "4", "url": '
            example += '"http://localhost:5003", "variant": "canary", "share": 0.05}]'
            return Reply(400, _TEXT, f"{error}; the body looks like {example}\n".encode())
        return self._tell_upstreams(self._upstreams)

    def _tell_upstreams(self, upstreams: Upstreams) -> Reply:
        return Reply(200, "application/json", msgspec.json.format(msgspec.json.encode(upstreams.now)) + b"\n")

    async def _respond(self, method: str, path: str) -> Reply:
        if method not in _allowed(path).split(", "):
            text = b"only GET, HEAD, PUT /upstreams, PUT /model-version/VERSION and POST /labels\n"
            return Reply(405, _TEXT, text, f"Allow: {_allowed(path)}\r\n")
        if path.startswith(_VERSION):
            version = unquote(path.removeprefix(_VERSION))
            if not version:
                return Reply(400, _TEXT, b"the version is missing: PUT /model-version/VERSION\n")
            if self._upstreams is None:
                return _SUPERVISED
            try:
                self._upstreams.name(version)
            except ValueError as error:
                return Reply(400, _TEXT, f"{error}\n".encode())
            return Reply(200, _TEXT, b"ok\n")
        if path == _UPSTREAMS:
            return _SUPERVISED if self._upstreams is None else self._tell_upstreams(self._upstreams)
        if path == "/healthz":
            return Reply(200, _TEXT, b"ok\n")
        stats = await self._snapshot()
        if path == "/readyz":
            if stats.ready < stats.workers:
                return Reply(503, _TEXT, b"exchanges can't be stored\n")
            return Reply(200, _TEXT, b"ready\n") if stats.up else Reply(503, _TEXT, b"no model server is up\n")
        past = past_ledger(self._spool, stats.ended)
        if path == "/stats":
            return Reply(
                200, "application/json", json.dumps(self._as_dict(stats, past), indent=1).encode() + b"\n"
            )
        if path == "/metrics":
            return Reply(200, "text/plain; version=0.0.4; charset=utf-8", self._metrics(stats, past))
        return Reply(404, _TEXT, b"there are /metrics, /healthz, /readyz, /stats and, to POST, /labels\n")

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


_SUPERVISED = Reply(409, _TEXT, b"the supervisor decides where requests go: see mooring rollout\n")


def _fields(head: str) -> dict[str, str]:
    """Return a head's fields by lower-case name."""
    lines = (line.partition(":") for line in head.split("\r\n")[1:])
    return {name.lower(): value.strip() for name, _, value in lines}


def metrics(stats: Stats, ledger: Ledger, spool_bytes: int, labels: int = 0) -> Iterator[Metric]:
    """Yield the metrics; docs/operate.md says what each means."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    for name, text, value in (
        ("seen", "Scoring requests parsed", ledger.seen),
        ("stored", "Exchanges in the spool or beyond it", ledger.stored),
        ("sampled_out", "Exchanges that the sample left out", ledger.sampled_out),
        ("failed", "Exchanges that got no prediction", ledger.failed),
    ):
        yield CounterMetricFamily(f"mooring_exchanges_{name}", text, value=value)
    dropped = CounterMetricFamily("mooring_exchanges_dropped", "Exchanges lost, by reason", labels=["reason"])
    for reason, count in ledger.dropped.items():
        dropped.add_metric([reason], count)
    yield dropped
    errors = CounterMetricFamily("mooring_exchanges_errors", "Exchanges with an error code", labels=["code"])
    for code, count in ledger.errors.items():
        errors.add_metric([code], count)
    yield errors
    yield GaugeMetricFamily("mooring_exchanges_in_flight", "Exchanges not yet answered", value=ledger.in_flight)
    yield CounterMetricFamily("mooring_requests_passed", "Requests for other paths", value=ledger.passed)
    yield CounterMetricFamily("mooring_labels_taken", "Labels taken by POST /labels since the start", value=labels)
    answers = CounterMetricFamily("mooring_answers", "Answers to scoring requests, by status", labels=["status"])
    for status, count in sorted(stats.statuses.items()):
        answers.add_metric([str(status)], count)
    yield answers
    of_version = CounterMetricFamily(
        "mooring_answers_by_version",
        "Answers to scoring requests, by version of the model, variant and status",
        labels=["version", "variant", "status"],
    )
    for key, count in sorted(stats.answers.items()):
        variant, code, version = key.split(" ", 2)
        of_version.add_metric([version, variant, code], count)
    yield of_version
    copies = CounterMetricFamily("mooring_shadow_copies", "Copies of requests for the shadow", labels=["what"])
    for what, count in ledger.shadow.items():
        copies.add_metric([what], count)
    yield copies
    yield GaugeMetricFamily("mooring_requests_waiting", "Requests that wait for a server", value=stats.waiting)
    seen, buckets = 0, []
    for bound, count in zip([*BUCKETS, "+Inf"], stats.durations, strict=True):
        seen += count
        buckets.append((str(bound), seen))
    text = "How long scoring requests took, from the request's head to the answer's end"
    yield HistogramMetricFamily("mooring_answer_duration_seconds", text, buckets, stats.duration_ns / 1e9)
    yield GaugeMetricFamily("mooring_connections_clients", "Open connections of clients", value=stats.clients)
    yield GaugeMetricFamily(
        "mooring_connections_upstreams", "Open connections to the server", value=stats.upstreams
    )
    yield GaugeMetricFamily("mooring_spool_bytes", "Bytes that wait in the spool", value=spool_bytes)
    yield GaugeMetricFamily("mooring_workers", "Proxy processes", value=stats.workers)
    yield GaugeMetricFamily("mooring_ready", "Whether every worker can store exchanges", value=stats.ready)
