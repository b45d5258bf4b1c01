"""Under which names the admin port may be reached.

A page of somebody else's may have its own name resolve to this machine (DNS rebinding); its requests then count as
from the same origin, and may be any. They show that name in Host, which no other client of the port does.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.~-]+)?)\]|([\w.-]+))(?::[0-9]*)?", re.ASCII)


def host_of(header: str) -> str:
    """Return the name or address in a Host field, without its port; empty where there is none.

    >>> host_of("localhost:5003"), host_of("[::1]:5003"), host_of("Evil.example."), host_of("a b"), host_of("")
    ('localhost', '::1', 'evil.example', '', '')
    """
    found = _HOST.fullmatch(header.strip())
    return (found[1] or found[2]).lower().removesuffix(".") if found else ""


def is_loopback(address: str) -> bool:
    """Whether an address is one of this machine's that nobody else reaches.

    >>> is_loopback("127.0.0.2"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("localhost")
    (True, True, False, False)
    """
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class Hosts:
    """Tells whether a Host field is one of this port's.

    `localhost` and loopback addresses are, and `names`. Where the port is reached from elsewhere, `open`, every
    address is: probes and Prometheus use a pod's, and no page has an address for its name.

    >>> Hosts(["metrics.internal"], open=False).known("metrics.internal:5003")
    True
    >>> Hosts([], open=False).known("evil.example"), Hosts([], open=True).known("10.0.0.7:5003")
    (False, True)
    """

    def __init__(self, names: Iterable[str], *, open: bool) -> None:
        self._names = {"localhost", *(host_of(name) for name in names)} - {""}
        self._open = open

    def known(self, header: str) -> bool:
        """Whether requests with this Host field are answered."""
        host = host_of(header)
        if host in self._names:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return self._open or address.is_loopback
