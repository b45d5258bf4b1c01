"""Clients in threads of their own, as long as a context lasts."""

from __future__ import annotations

import threading
from typing import Self


class Clients:
    """Threads that run from the beginning of a context, and are asked by `_stop` to return at its end."""

    _threads: list[threading.Thread]

    def __init__(self) -> None:
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
