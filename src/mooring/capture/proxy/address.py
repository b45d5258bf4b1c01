"""Where model servers are: an http URL, or a Unix socket of this machine."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import NamedTuple
from urllib.parse import urlsplit

_PRINTABLE = re.compile(r"[!-~]*")
_PATH = re.compile(r"(?:[\w.~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_LONGEST_NAME = 253
_LONGEST_URL = 2048


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

    Raises ValueError for what is no http URL of a server, with what is wrong with it.

    >>> of_url("http://localhost:5002/invocations").authority
    b'localhost:5002'
    >>> of_url("http://model..internal:5002")
    Traceback (most recent call last):
    ValueError: 'http://model..internal:5002' has a host name with an empty part: model..internal
    """
    if len(url) > _LONGEST_URL:
        raise ValueError(f"{url[:40]!r}… is a URL of {len(url)} characters; at most {_LONGEST_URL} are taken")
    if not _PRINTABLE.fullmatch(url):
        raise ValueError(
            f"{url!r} has a blank, a control character or a letter outside ASCII in it: write those of a path "
            "percent-encoded (%20 for a blank), and a host's name in its ASCII form (xn--…)"
        )
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise ValueError(f"{url!r} is no URL: {error}") from None
    if parts.username is not None or parts.password is not None:
        # The URL is not repeated: it would take a password to wherever messages go.
        raise ValueError("the URL of a model server has a user or password in it, which Mooring does not send on")
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{url!r} is not the URL of a model server. It looks like http://localhost:5002")
    if "?" in url or "#" in url:
        raise ValueError(f"{url!r} has a query or a fragment: give the server's address alone")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"{url!r} has a port that is none: it must be a number from 1 to 65535") from None
    if port == 0:
        raise ValueError(f"{url!r} has the port 0, where no server listens")
    if not _PATH.fullmatch(parts.path):
        raise ValueError(
            f"{url!r} has a path with signs that must be percent-encoded: all but letters, digits and "
            "-._~!$&'()*+,;=:@/"
        )
    if why := _wrong_with_host(host):
        raise ValueError(f"{url!r} has {why}")
    prefix = parts.path.removesuffix("/").removesuffix("/invocations")
    tls = parts.scheme == "https"
    return Address(url, host, port or (443 if tls else 80), tls, prefix.encode())


def of_socket(path: str) -> Address:
    """Return the address of a Unix socket."""
    return Address(f"unix:{path}", "", 0, socket=path)


def _wrong_with_host(host: str) -> str:
    """Say what keeps a host from ever being found, empty where nothing does: the resolver raises on some of it."""
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError as error:
            return f"an IPv6 address that is none: {error}"
        return ""
    if re.fullmatch(r"[0-9.]+", host):
        try:
            socket.inet_aton(host)
        except OSError:
            return f"an IPv4 address that is none: {host}"
        return ""
    name = host.removesuffix(".")
    if len(name) > _LONGEST_NAME:
        return f"a host name of {len(name)} characters; it can have {_LONGEST_NAME}"
    for label in name.split("."):
        if not label:
            return f"a host name with an empty part: {host}"
        if len(label) > 63:
            return f"a host name with a part of {len(label)} characters, {label[:20]}…; it can have 63"
        if not _LABEL.fullmatch(label):
            return f"a host name with a part that is none: {label}"
    return ""
