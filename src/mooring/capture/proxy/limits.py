"""How many connections there may be, as the limit of open files allows."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from mooring.config import FrontSettings

_OTHER_FILES: Final = 40
"""Files that are left for the spool, the admin port and whatever else needs one."""


class Limits(NamedTuple):
    """How many connections of clients and to model servers there may be, and TLS handshakes under way."""

    clients: int
    upstreams: int
    handshakes: int


def limits(settings: FrontSettings) -> Limits:
    """Return the limits that are set, or lower ones where fewer files may be open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    clients, upstreams = settings.max_connections, settings.max_upstream_connections
    if files != resource.RLIM_INFINITY:
        each = max((files - _OTHER_FILES) // 2, 1)
        clients, upstreams = min(clients, each), min(upstreams, each)
    handshakes = max(clients // 8, 1)
    return Limits(max(clients - handshakes, 1) if settings.tls_cert else clients, upstreams, handshakes)
