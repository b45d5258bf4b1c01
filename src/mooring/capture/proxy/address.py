"""Where model servers are: an http URL, or a Unix socket of this machine."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit


class Address(NamedTuple):
    """Where a model server is. `prefix` is put before every request's path; `socket` is a path, else empty."""

    url: str
    host: str
    port: int
    tls: bool = False
    prefix: bytes = b""
    socket: str = ""

    @property
    def authority(self) -> bytes:
        """The Host field for requests to it."""
        if self.socket:
            return b"localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        standard = self.port == (443 if self.tls else 80)
        return (host if standard else f"{host}:{self.port}").encode()


def of_url(url: str) -> Address:
    """Return where `url` points; a trailing `/invocations` is taken for granted and left out.

    Raises ValueError if it is no http URL.

    >>> of_url("http://localhost:5002/invocations").authority
    b'localhost:5002'
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not the URL of a model server. It looks like http://localhost:5002")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"{url!r} has a port that is none") from None
    prefix = parts.path.removesuffix("/").removesuffix("/invocations")
    tls = parts.scheme == "https"
    return Address(url, parts.hostname, port or (443 if tls else 80), tls, prefix.encode())


def of_socket(path: str) -> Address:
    """Return the address of a Unix socket."""
    return Address(f"unix:{path}", "", 0, socket=path)
