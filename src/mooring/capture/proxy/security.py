"""Who may ask the proxy and its admin port, and how they connect: keys, and TLS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from mooring.capture.proxy.api_keys import ApiKeys
from mooring.capture.proxy.limits import limits
from mooring.capture.proxy.tls import ServerTls
from mooring.capture.proxy.tls_connection import TlsConnection

if TYPE_CHECKING:
    from mooring.settings import FrontSettings

_LOOK_SECONDS = 1.0
_ADMIN_HANDSHAKE_SECONDS = 10.0


class Security:
    """The keys and certificates of a process, read anew when their files change. None where there is no such file.

    `keys` are those of clients, `admin_keys` those of the admin port.
    """

    def __init__(self, settings: FrontSettings) -> None:
        """Read the files. Raises ValueError for invalid settings, and files that can't be taken."""
        self._seconds = settings.receive_timeout
        if settings.tls_cert is None and (settings.tls_key or settings.tls_client_ca):
            given = "--tls-key" if settings.tls_key else "--tls-client-ca"
            raise ValueError(f"{given} needs --tls-cert: the certificate that clients are shown, in PEM")
        self.tls = (
            ServerTls(
                settings.tls_cert, settings.tls_key, settings.tls_client_ca, handshakes=limits(settings).handshakes
            )
            if settings.tls_cert is not None
            else None
        )
        file = settings.api_key_file
        self.keys = ApiKeys(file, "--api-key-file") if file else None
        file = settings.admin_key_file
        self.admin_keys = ApiKeys(file, "--admin-key-file") if file else self.keys
        if self.keys is not None and "authorization" in (name.lower() for name in settings.header):
            raise ValueError("--header Authorization would write clients' keys into the log: leave it out")

    @property
    def scheme(self) -> str:
        """How URLs of this process begin."""
        return "http" if self.tls is None else "https"

    def for_clients(self, make: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """Return what makes the protocol of a client's connection, given that of a plain one."""
        tls, seconds = self.tls, self._seconds
        return make if tls is None else lambda: _secure(TlsConnection(tls, make(), seconds))

    def for_admin(self, make: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """Return the same for the admin port, where a client's certificate is asked for but not demanded."""
        tls = self.tls
        seconds = _ADMIN_HANDSHAKE_SECONDS
        return make if tls is None else lambda: _secure(TlsConnection(tls, make(), seconds, optional=True))

    def tick(self) -> None:
        """Look whether files have changed; to be called now and then."""
        if self.tls is not None:
            self.tls.tick()
        if self.keys is not None:
            self.keys.tick()
        if self.admin_keys is not None and self.admin_keys is not self.keys:
            self.admin_keys.tick()

    async def watch(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.tick()


def _secure(connection: TlsConnection) -> asyncio.Protocol:
    return cast("asyncio.Protocol", connection)
