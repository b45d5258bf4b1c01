"""A client's connection by TLS: asyncio's protocol towards the socket, its transport towards the protocol above.

asyncio has one of its own. This one costs a third of it for a short request on a connection that is kept, takes
the context of the moment, so that certificates change without a new listening socket, and closes in halves as
TCP does.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, cast

from mooring.capture.proxy.interfaces import BUFFER
from mooring.capture.proxy.tls import Handshake, ServerTls

logger = logging.getLogger(__name__)
_RECORD = 16 * 1024
_PLAIN = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 24\r\nConnection: close\r\n\r\n"
    b"This port takes https.\r\n"
)
_REASONS = {
    "HTTP_REQUEST": "it sent plain HTTP: this port takes https",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate, which --tls-client-ca asks for",
    "UNSUPPORTED_PROTOCOL": "it wants a version of TLS before 1.2",
}


class TlsConnection(Handshake, asyncio.BufferedProtocol):
    """Hands `app` what comes as a plain connection does, and encrypts what it writes.

    With `optional` clients may come without the certificate that they otherwise have to show.
    """

    def __init__(
        self, tls: ServerTls, app: asyncio.Protocol, handshake_seconds: float, *, optional: bool = False
    ) -> None:
        self._tls = tls
        self._app = app
        self._context = tls.asking if optional else tls.context
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._seconds = handshake_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._established = False
        self._ended = False
        """The client sends no more."""
        self._stays = False
        """It is open nevertheless, as `app` wants it to be."""
        self._shut = False
        """Nothing more is sent, and what comes is dropped."""

    # Towards the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the client's first word."""
        self._transport = cast("asyncio.Transport", transport)
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._transport.abort)
        # Who takes long over it gives way to those who come after: a client that is one needs a moment only.
        shaking = self._tls.shaking
        shaking[self] = None
        if len(shaking) > self._tls.handshakes:
            next(iter(shaking)).abort()

    def get_buffer(self, size_hint: int) -> memoryview:
        """Return what to read into."""
        return BUFFER

    def buffer_updated(self, count: int) -> None:
        """Take what was read."""
        self.data_received(bytes(BUFFER[:count]))

    def data_received(self, data: bytes) -> None:
        """Decrypt what has come, and pass it on at once."""
        if self._shut or self._ended:
            return
        self._incoming.write(data)
        try:
            if not self._established and not self._shake_hands():
                return
            found, ended = self._decrypt()
        except ssl.SSLError as error:
            self._fail(error)
            return
        if self._outgoing.pending:  # what TLS itself has to say, of new keys for instance
            self._transport.write(self._outgoing.read())
        if found:
            self._app.data_received(found)
        if ended and not self._end():
            self.close()

    def eof_received(self) -> bool:
        """The client has ended its half."""
        if self._established and self._end():
            return True
        self.close()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """It is closed."""
        self._shut = True
        self._stop_timer()
        if self._established:
            self._app.connection_lost(error)

    def pause_writing(self) -> None:
        """The client does not read."""
        if self._established:
            self._app.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        if self._established:
            self._app.resume_writing()

    # Towards the protocol above

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Encrypt and send."""
        if self._shut or not data:
            return
        sent = self._object.write(data)
        while sent < len(data):
            data = memoryview(data)[sent:]
            sent = self._object.write(data)
        self._transport.write(self._outgoing.read())

    def writelines(self, pieces: Iterable[bytes]) -> None:
        """Encrypt and send these together."""
        self.write(b"".join(pieces))

    def can_write_eof(self) -> bool:
        """Whether it can be closed in halves."""
        return True

    def write_eof(self) -> None:
        """Say that nothing more comes; what the client still sends is dropped."""
        if not self._shut:
            self._say_end()
            self._transport.write_eof()

    def close(self) -> None:
        """Close once all is sent."""
        if not self._shut:
            self._say_end()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._shut = True
        self._stop_timer()
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        """Take nothing from the client for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading."""
        self._transport.resume_reading()

    def is_reading(self) -> bool:
        """Whether it reads."""
        return self._transport.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Say when `app` is to stop writing."""
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Return the bytes that are not sent yet."""
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection, as of a transport of asyncio's."""
        if name == "ssl_object":
            return self._object
        if name == "sslcontext":
            return self._context
        if name == "peercert":
            return self._object.getpeercert() if self._established else default
        return self._transport.get_extra_info(name, default)

    # TLS

    def _shake_hands(self) -> bool:
        """Go on with the handshake; return whether it is done."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            if self._outgoing.pending:
                self._transport.write(self._outgoing.read())
        self._stop_timer()
        self._established = True
        self._app.connection_made(cast("asyncio.Transport", self))
        return True

    def _decrypt(self) -> tuple[bytes, bool]:
        """Return what has come, and whether the client has said that it sends no more."""
        tls, incoming = self._object, self._incoming
        pieces: list[bytes] = []
        ended = False
        while not ended and (size := incoming.pending or tls.pending()):
            try:
                # A record at a time; its text is no longer than it is itself.
                piece = tls.read(min(size, _RECORD))
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                piece = b""
            if piece:
                pieces.append(piece)
            else:
                ended = True
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), ended

    def _end(self) -> bool:
        """Tell `app` that the client sends no more; return whether the connection stays open for answers."""
        if not self._ended:
            self._ended = True
            self._stays = bool(self._app.eof_received())
        return self._stays

    def _say_end(self) -> None:
        self._shut = True
        with suppress(ssl.SSLError):  # nobody waits for the client to say it too
            self._object.unwrap()
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())

    def _fail(self, error: ssl.SSLError) -> None:
        """Close what can't be gone on with."""
        self._shut = True
        if self._outgoing.pending:  # an alert, which says why
            self._transport.write(self._outgoing.read())
        if not self._established:
            if error.reason == "HTTP_REQUEST":
                self._transport.write(_PLAIN)
            peer = self._transport.get_extra_info("peername")
            why = _REASONS.get(error.reason or "", "") or _reason(error)
            client = peer[0] if peer else "an unknown address"
            logger.warning("a client at %s can't connect by TLS: %s", client, why, extra={"every": 60.0})
        self._transport.close()

    def _stop_timer(self) -> None:
        self._tls.shaking.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return (error.reason or str(error)).replace("_", " ").lower()
