"""The recorder: takes finished exchanges into the spool and accounts for each of them."""

from __future__ import annotations

import errno
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mooring.exchange import Exchange, encode
from mooring.spool import SpoolWriter

_SAY_EVERY_SECONDS = 10.0


class Ledger(msgspec.Struct):
    """The account of every exchange: `seen = stored + in_flight + sum(dropped)`.

    `seen` is counted when a request is parsed, not as that sum. `failed` are those among them that got no
    prediction, `passed` the requests for other paths, which are not exchanges.
    """

    seen: int = 0
    stored: int = 0
    in_flight: int = 0
    failed: int = 0
    passed: int = 0
    dropped: Counter[str] = msgspec.field(default_factory=Counter)

    def __str__(self) -> str:
        dropped = ", ".join(f"{count} dropped ({reason})" for reason, count in self.dropped.items())
        return (
            f"{self.seen} exchanges seen, {self.stored} stored, {self.failed} of all failed, "
            f"{dropped or '0 dropped'}; {self.passed} other requests passed"
        )


class Recorder:
    """Writes exchanges to the spool. What it can't write it counts, and says so on stderr; it never raises."""

    def __init__(self, spool: Path) -> None:
        self.ledger = Ledger()
        self._spool = spool
        self._writer: SpoolWriter | None = None
        self._said = -_SAY_EVERY_SECONDS
        try:
            self._writer = SpoolWriter(spool)
        except OSError as error:
            self._say(f"nothing can be stored now: {error}. Requests are served all the same.")

    def begin(self) -> None:
        """Count an exchange whose request has been parsed."""
        self.ledger.seen += 1
        self.ledger.in_flight += 1

    def record(self, exchanges: Sequence[Exchange]) -> None:
        """Append finished exchanges to the spool, with one system call."""
        ledger = self.ledger
        ledger.in_flight -= len(exchanges)
        ledger.failed += sum(not exchange.succeeded for exchange in exchanges)
        try:
            if self._writer is None:
                self._writer = SpoolWriter(self._spool)
            self._writer.append([encode(exchange) for exchange in exchanges])
        except OSError as error:
            self._drop(exchanges, error)
            return
        ledger.stored += len(exchanges)

    def tick(self) -> None:
        """Close a segment that is old enough though no exchange comes; call it now and then."""
        if self._writer is None:
            return
        try:
            self._writer.rotate()
        except OSError as error:
            self._say(f"cannot close a segment in {self._spool}: {error}")

    def close(self) -> None:
        """Close the spool's segment, so that the drain takes all of it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _drop(self, exchanges: Sequence[Exchange], error: OSError) -> None:
        reason = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "spool_unwritable"
        self.ledger.dropped[reason] += len(exchanges)
        self._say(
            f"not stored: {self.ledger.dropped.total()} exchanges so far. The spool {self._spool} refuses them: "
            f"{error.strerror or error}. Clients still get their answers; make room or mend the directory's "
            "permissions, and logging goes on by itself."
        )

    def _say(self, text: str) -> None:
        if time.monotonic() - self._said < _SAY_EVERY_SECONDS:
            return
        self._said = time.monotonic()
        print(f"mooring: {text}", file=sys.stderr, flush=True)
