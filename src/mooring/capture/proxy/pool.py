"""The connections to one model server: those that are idle are used again, the most recent first."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from mooring.capture.proxy.address import Address
from mooring.capture.proxy.upstream import UpstreamProtocol

if TYPE_CHECKING:
    from mooring.capture.proxy.backend import Backend
    from mooring.capture.proxy.flow import Flow

MAX_IDLE = 128


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


class Pool:
    """Connections to one model server. `outstanding` is how many requests it has now that count for its limit."""

    def __init__(self, backend: Backend, address: Address) -> None:
        self.backend = backend
        self.address = address
        self.outstanding = 0
        self.closed = False
        self._proxy = backend.proxy
        self._idle: list[UpstreamProtocol] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._tls = _tls() if address.tls else None

    def acquire(self, flow: Flow, counted: bool = True) -> None:
        """Give `flow` a connection, now or as soon as there is one."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.stale():
                self.outstanding += counted
                connection.counted = counted
                connection.take(flow)
                return
            connection.abort()
        self.connect(flow, counted)

    def connect(self, flow: Flow, counted: bool = True) -> None:
        """Give `flow` a new connection as soon as there is one."""
        self.outstanding += counted
        task = self._proxy.loop.create_task(self._connect(flow, counted))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def give_back(self, connection: UpstreamProtocol) -> None:
        """Keep an idle connection for the next flow."""
        connection.deadline = self._proxy.now + self._proxy.settings.upstream_idle_timeout
        if len(self._idle) < MAX_IDLE and not self.closed:
            self._idle.append(connection)
        else:
            connection.transport.close()
        self._release(connection)

    def forget(self, connection: UpstreamProtocol) -> None:
        """Drop a connection that is closed."""
        if connection in self._idle:
            self._idle.remove(connection)
        self._release(connection)

    def close(self) -> None:
        """Close what is idle now, and the others once they are."""
        self.closed = True
        for connection in self._idle:
            connection.transport.close()

    def _release(self, connection: UpstreamProtocol) -> None:
        if connection.counted:
            connection.counted = False
            self.outstanding -= 1
            self.backend.freed()

    async def _connect(self, flow: Flow, counted: bool) -> None:
        try:
            async with asyncio.timeout(self._proxy.settings.connect_timeout):
                connection = await self._connection()
        except TimeoutError:
            self._unreachable(flow, counted, "did not accept a connection in time.", 504, "upstream_timeout")
        except OSError as error:
            gone = isinstance(error, ConnectionRefusedError | FileNotFoundError)
            self._unreachable(flow, counted, f"can't be reached: {_why(error)}", 502, "upstream_unreachable", gone)
        else:
            connection.counted = counted
            if flow.gone:
                self.give_back(connection)
            else:
                connection.take(flow)

    async def _connection(self) -> UpstreamProtocol:
        loop, address = self._proxy.loop, self.address
        if address.socket:
            _, connection = await loop.create_unix_connection(
                lambda: UpstreamProtocol(self._proxy, self), address.socket
            )
        else:
            _, connection = await loop.create_connection(
                lambda: UpstreamProtocol(self._proxy, self), address.host, address.port, ssl=self._tls
            )
        return connection

    def _unreachable(
        self, flow: Flow, counted: bool, why: str, status: int, code: str, gone: bool = False
    ) -> None:
        self.outstanding -= counted
        message = f"The model server at {self.address.url} {why}"
        self._proxy.say(message)
        if gone and self.backend.limit is not None:
            self.backend.lost(self, flow)
        else:
            flow.failed(status, code, message)
        self.backend.freed()
