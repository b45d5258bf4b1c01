"""Which objects of a model's log are new."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from mooring.log import listing
from mooring.log.store import is_local
from mooring.state.objects import Objects

if TYPE_CHECKING:
    from obstore.store import ObjectStore

LATEST = timedelta(days=7)
"""How far behind the newest day objects are looked for, beside the grace."""


def log_key(uri: str) -> str:
    """Return a log's name in the state: the same one however a directory is written.

    >>> log_key("logs/../mooring-log/") == log_key("./mooring-log") == log_key("file://mooring-log")
    True
    """
    return str(Path(uri.removeprefix("file://")).resolve()) if is_local(uri) else uri.rstrip("/")


class NewObjects:
    """Which objects of a model's log are new: those that the state does not know as done.

    Parameters
    ----------
    log
        Where the log lies.
    model
        The model's name.
    grace
        How many seconds after its rows' time an object may come.
    objects
        What is done.
    """

    def __init__(self, log: str, model: str, grace: float, objects: Objects) -> None:
        self.key = log_key(log)
        self.log = log
        self.model = model
        self._grace = timedelta(seconds=grace)
        self._objects = objects
        self._done: set[str] = set()

    def new(self, opened: ObjectStore) -> list[listing.Object]:
        """Return the objects that are not done, day by day. Raises StoreError where the log can't be read now."""
        newest = self._objects.newest_day(self.model, self.key)
        start = None
        if newest is not None:
            today = datetime.now(UTC).date()  # rows from the future must not hide today's
            start = listing.midnight(min(newest, today)) - LATEST - self._grace
        listed = listing.list_objects(
            opened, self.log, f"inferences/model={listing.folder_name(self.model)}", start
        )
        self._done &= {one.path for one in listed}
        unknown = [one.path for one in listed if one.path not in self._done]
        if unknown:
            self._done |= self._objects.seen(self.model, self.key, unknown)
        return [one for one in listed if one.path not in self._done]

    def mark_done(self, paths: Iterable[str]) -> None:
        """Remember that the state knows these objects as done from now on."""
        self._done.update(paths)

    def done_among(self, paths: Iterable[str]) -> set[str]:
        """Return those of these objects that the state knows as done."""
        return self._objects.seen(self.model, self.key, list(paths))
