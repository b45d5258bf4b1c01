"""Files that are taken again when they change, while the process goes on."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)
_LOOK_SECONDS = 1.0

Stamp = tuple[tuple[int, int, int, int, int] | None, ...]


def stamp(paths: Sequence[str]) -> Stamp:
    """Return what changes when one of these files is written or replaced; links are followed."""
    found: list[tuple[int, int, int, int, int] | None] = []
    for path in paths:
        try:
            of = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((of.st_dev, of.st_ino, of.st_size, of.st_mtime_ns, of.st_ctime_ns))
    return tuple(found)


class FileWatch:
    """Calls `load` again when one of the files has changed, and until that works.

    `load` raises ValueError for files that can't be taken. What they were before then stays in use. It is said
    once, and not before it was so twice in a row: files that belong together are not written at one time.
    """

    def __init__(self, paths: Sequence[str], load: Callable[[], None]) -> None:
        self._paths = paths
        self._load = load
        self._seen = stamp(paths)
        self._problem = ""
        self._said = ""
        self._looked = time.monotonic()
        load()

    def tick(self) -> None:
        """Look whether they have changed, if that was not done just now; to be called now and then."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            self.look()

    def look(self) -> None:
        """Take the files again if they have changed."""
        found = stamp(self._paths)
        settled = found == self._seen
        if settled and not self._problem:
            return
        self._seen = found
        problem = ""
        try:
            self._load()
        except ValueError as error:
            problem = str(error)
        names = ", ".join(self._paths)
        if not problem:
            logger.info("%s: changed, and in use from now on", names)
            self._said = ""
        elif settled and problem == self._problem and problem != self._said:
            logger.warning("%s What was read before stays in use", problem)
            self._said = problem
        self._problem = problem
