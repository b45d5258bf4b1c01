"""Ports for programs that can't choose one and say which; until they listen, nobody does."""

from __future__ import annotations

import fcntl
import itertools
import os
import socket
import tempfile
from pathlib import Path

_LOCKS = Path(tempfile.gettempdir()) / f"mooring-ports-{os.getuid()}"
_taken: list[int] = []  # open files, whose locks are this process's until it ends
_next = itertools.count(os.getpid())  # where to begin to look: elsewhere in each process


def reserved_port() -> int:
    """Return a port that nobody else gets as long as this process runs.

    It lies below those from which the system chooses, so that no connection or socket gets it by chance, and other
    processes of the tests respect the lock on its file.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert lowest > 12_000, "there are too few ports below those from which the system chooses"
    _LOCKS.mkdir(exist_ok=True)
    for _ in range(10_000, lowest):
        port = 10_000 + next(_next) % (lowest - 10_000)
        file = os.open(_LOCKS / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as candidate:
                candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                candidate.bind(("127.0.0.1", port))
        except OSError:
            os.close(file)
            continue
        _taken.append(file)
        return port
    raise AssertionError("no port is free")
