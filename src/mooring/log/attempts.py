"""Which segments the drain has failed at: written down before it begins, so that a kill is known of afterwards."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from mooring.files import replace

MOST = 2
"""How often a segment is tried that fails."""
_KILLED = "the drain was killed while it worked at it: out of memory?"


class Attempt(msgspec.Struct):
    """How often a segment was begun and did not get into the log, and why the last time."""

    times: int = 0
    reason: str = ""


class Attempts:
    """The segments of a spool that were begun and are not in the log; kept in a file of the spool.

    It outlives the process, and is empty while no segment is worked at and none has failed. A disk that is full
    does not stop the drain, which frees it: then only a kill is not counted.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as spool:
    ...     Attempts(Path(spool)).begin("4f1d-00000001")
    ...     Attempts(Path(spool)).hopeless("4f1d-00000001"), Attempts(Path(spool)).failures("4f1d-00000001")
    (False, 1)
    """

    def __init__(self, spool: Path) -> None:
        self._path = spool / "attempts.json"
        try:
            self._attempts = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Attempt])
        except (OSError, msgspec.MsgspecError):
            self._attempts = {}

    def failures(self, name: str) -> int:
        """Return how often a segment has failed."""
        return self._attempts[name].times if name in self._attempts else 0

    def hopeless(self, name: str) -> bool:
        """Whether a segment has failed so often that it is not tried again."""
        return self.failures(name) >= MOST

    def reason(self, name: str) -> str:
        """Return why a segment failed the last time."""
        return self._attempts[name].reason

    def begin(self, name: str) -> None:
        """Count an attempt, as one that ends by a kill unless something else is said of it."""
        self._count(name, 1, _KILLED)

    def failed(self, name: str, error: Exception) -> None:
        """Say why the attempt failed that was begun."""
        self._count(name, 0, repr(error))

    def refused(self, name: str) -> None:
        """Take back the attempt that was begun: the segment is not to blame."""
        self._count(name, -1, "")

    def over(self, name: str) -> None:
        """Forget a segment that is in the log, or was set aside."""
        if self._attempts.pop(name, None) is not None:
            self._write()

    def keep(self, names: Collection[str]) -> None:
        """Forget all but these segments: others are no longer there."""
        if gone := self._attempts.keys() - names:
            for name in gone:
                del self._attempts[name]
            self._write()

    @contextmanager
    def waiting(self, name: str) -> Iterator[None]:
        """Have a kill not counted meanwhile: what takes long is another's doing, such as a store that is down."""
        reason = self._attempts[name].reason if name in self._attempts else _KILLED
        self._count(name, -1, reason)
        try:
            yield
        finally:
            self._count(name, 1, reason)

    def _count(self, name: str, more: int, reason: str) -> None:
        attempt = self._attempts.setdefault(name, Attempt())
        attempt.times += more
        attempt.reason = reason or attempt.reason
        if attempt.times <= 0:
            del self._attempts[name]
        self._write()

    def _write(self) -> None:
        with suppress(OSError):
            if self._attempts:
                replace(self._path, msgspec.json.encode(self._attempts))
            else:
                self._path.unlink(missing_ok=True)
