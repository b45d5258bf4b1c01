"""How many connections there may be, as the limit of open files allows."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from mooring.settings import FrontSettings

_OTHER_FILES: Final = 40
"""Files that are left for the spool, the admin port and whatever else needs one."""


_MOST_FILES: Final = 10_240
"""As many as macOS lets a process have."""


class ConnectionLimits(NamedTuple):
    """How many connections of clients and to model servers there may be, and TLS handshakes under way."""

    clients: int
    upstreams: int
    handshakes: int


def raise_file_limit(settings: FrontSettings) -> None:
    """Let this process, and those that it starts, open as many files as the settings need, if the system does."""
    wanted = min(settings.max_connections + settings.max_upstream_connections + _OTHER_FILES, _MOST_FILES)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def limits(settings: FrontSettings) -> ConnectionLimits:
    """Return the limits that are set, or lower ones where fewer files may be open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    clients, upstreams = settings.max_connections, settings.max_upstream_connections
    if files != resource.RLIM_INFINITY and files < clients + upstreams + _OTHER_FILES:
        each = max((files - _OTHER_FILES) // 2, 1)
        clients, upstreams = min(clients, each), min(upstreams, each)
    handshakes = max(clients // 8, 1)
    return ConnectionLimits(max(clients - handshakes, 1) if settings.tls_cert else clients, upstreams, handshakes)
