"""The connections to one model server: those that are idle are used again, the most recent first."""

from __future__ import annotations

import asyncio
import logging
import ssl
from abc import abstractmethod
from typing import TYPE_CHECKING, Final, cast

from mooring.capture.proxy.address import Address
from mooring.capture.proxy.interfaces import Carried, Target
from mooring.capture.proxy.upstream import ConnectionOwner, UpstreamConnection

if TYPE_CHECKING:
    from mooring.capture.proxy.context import Context

logger = logging.getLogger(__name__)
MAX_IDLE: Final = 128
_SELDOM: Final = {"every": 10.0}


class PoolOwner(Target):
    """Whoever has pools, as one of them sees it.

    `patience` is how many seconds an answer of a server with a limit may take.
    """

    patience: float

    @abstractmethod
    def freed(self) -> None:
        """A server may have room again."""

    @abstractmethod
    def lost(self, pool: Pool, carried: Carried) -> None:
        """Nobody listens at this server; nothing was sent of what is carried."""


def _tls() -> ssl.SSLContext:
    """Return how servers are verified: by the system's authorities, or those in SSL_CERT_FILE and SSL_CERT_DIR."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _why(error: OSError) -> str:
    """Say what keeps a connection from coming about, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted: {error.verify_message}. If an authority of your own has signed it, "
            "name a file with that one's certificate in SSL_CERT_FILE, and start again."
        )
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {error.reason or error}. Does it speak https, on this port?"
    reason = error.strerror or str(error) or "it closes the connection"
    return f"{reason}. Is it running?"


class Pool(ConnectionOwner):
    """Connections to one model server. `outstanding` is how many requests it has now that count for its limit.

    `timeouts` is how many of those have begun after the last that it came back with, and had no answer in time.
    """

    def __init__(self, context: Context, address: Address, owner: PoolOwner) -> None:
        self.address = address
        self.limited = owner.limit is not None
        self.tls = address.tls
        self.local = bool(address.socket)
        self.outstanding = 0
        self.timeouts = 0
        self._came_back = 0.0
        self.closed = False
        self._context = context
        self._owner = owner
        self._idle: list[UpstreamConnection] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._tls = _tls() if address.tls else None

    def acquire(self, carried: Carried, counted: bool = True) -> None:
        """Give it a connection, now or as soon as there is one."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.stale():
                self.outstanding += counted
                connection.counted = counted
                connection.take(carried)
                return
            connection.abort()
        self.connect(carried, counted)

    def connect(self, carried: Carried, counted: bool = True) -> None:
        """Give it a new connection as soon as there is one."""
        context = self._context
        if len(context.upstreams) >= context.max_upstream_connections:
            logger.warning(
                "%d connections to model servers are open, and requests that need another get 503: see "
                "--max-upstream-connections, and `ulimit -n`",
                context.max_upstream_connections,
                extra=_SELDOM,
            )
            # In a turn of its own, since the answer to many in a row begins with the next.
            context.loop.call_soon(carried.refused, "All connections to model servers are in use.")
            return
        self.outstanding += counted
        connection = UpstreamConnection(context, self)
        context.upstreams.add(connection)
        task = context.loop.create_task(self._connect(connection, carried, counted))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def answered(self, connection: UpstreamConnection, status: int) -> None:
        """Note whether the model has come back with something.

        What is refused, as a malformed request is, may never have reached it. A 504 that is there before the time
        is over is an answer of the model's own.
        """
        if not connection.counted or 400 <= status < 500:
            return
        now = self._context.loop.time()
        if status == 504 and now - connection.since >= self._owner.patience:
            self.timed_out(connection)
        else:
            self._came_back = now
            self.timeouts = 0

    def timed_out(self, connection: UpstreamConnection) -> None:
        """Note that a request had no answer in time, unless the model came back with another since it began."""
        if connection.counted and connection.since >= self._came_back:
            self.timeouts += 1

    def give_back(self, connection: UpstreamConnection) -> None:
        """Keep an idle connection for the next request."""
        connection.deadline = self._context.now + self._context.upstream_idle_timeout
        if len(self._idle) < MAX_IDLE and not self.closed:
            self._idle.append(connection)
        else:
            connection.close()
        self._release(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """Drop a connection that is closed."""
        if connection in self._idle:
            self._idle.remove(connection)
        self._release(connection)

    def close(self) -> None:
        """Close what is idle now, and the others once they are."""
        self.closed = True
        for connection in self._idle:
            connection.close()

    def _release(self, connection: UpstreamConnection) -> None:
        if connection.counted:
            connection.counted = False
            self.outstanding -= 1
            self._owner.freed()

    async def _connect(self, connection: UpstreamConnection, carried: Carried, counted: bool) -> None:
        try:
            async with asyncio.timeout(self._context.connect_timeout):
                await self._open(connection)
        except TimeoutError:
            why = "did not accept a connection in time."
            self._unreachable(connection, carried, counted, why, 504, "upstream_timeout", False)
        except OSError as error:
            gone = isinstance(error, ConnectionRefusedError | FileNotFoundError)
            why = f"can't be reached: {_why(error)}"
            self._unreachable(connection, carried, counted, why, 502, "upstream_unreachable", gone)
        except Exception as error:  # noqa: BLE001 - else the client would wait for ever: nobody awaits this task
            why = f"can't be reached: {error}"
            self._unreachable(connection, carried, counted, why, 502, "upstream_unreachable", False)
        else:
            if connection.closing:
                why = "closed the connection at once."
                self._unreachable(connection, carried, counted, why, 502, "upstream_failed", False)
                return
            connection.counted = counted
            if carried.gone:
                self.give_back(connection)
            else:
                connection.take(carried)

    async def _open(self, connection: UpstreamConnection) -> None:
        loop, address = self._context.loop, self.address
        protocol = cast("asyncio.Protocol", connection)
        if address.socket:
            await loop.create_unix_connection(lambda: protocol, address.socket)
        else:
            await loop.create_connection(lambda: protocol, address.host, address.port, ssl=self._tls)

    def _unreachable(
        self,
        connection: UpstreamConnection,
        carried: Carried,
        counted: bool,
        why: str,
        status: int,
        code: str,
        gone: bool,
    ) -> None:
        self._context.upstreams.discard(connection)
        connection.abort()  # it may have come about too late
        self.outstanding -= counted
        logger.warning("The model server at %s %s", self.address.url, why, extra=_SELDOM)
        if gone and self.limited:
            self._owner.lost(self, carried)
        else:
            carried.failed(status, code, f"The model server at {self.address.url} {why}")
        self._owner.freed()
