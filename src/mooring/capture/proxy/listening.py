"""The socket on which clients are waited for."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mooring.settings import FrontSettings

BACKLOG = 2048


class CantListen(OSError):
    """An address that is taken, or not this machine's."""


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
