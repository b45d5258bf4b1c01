"""The recorder: sampling, redaction, the way into the spool, and an account of every exchange."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Sequence

from mooring.capture.redact import Redactor, parse_rule
from mooring.exchange import Exchange, Ledger, encode, encoded, in_sample
from mooring.messages import REPEATS
from mooring.settings import CaptureSettings
from mooring.spool import SpoolWriter, spooled_bytes

logger = logging.getLogger(__name__)
logger.addFilter(REPEATS)
_SELDOM = {"every": 10.0}
_MEASURE_SECONDS = 1.0


class Recorder:
    """Writes exchanges to the spool. What it can't write it counts, and says so on stderr; it never raises.

    Raises ValueError for invalid settings.
    """

    def __init__(self, settings: CaptureSettings) -> None:
        self.check(settings)
        self.ledger = Ledger()
        self._settings = settings
        self._spool = settings.spool_path
        self._sample = settings.sample
        self._redactor = _redactor(settings)
        self._writer: SpoolWriter | None = None
        self._spooled = 0
        self._measured = 0.0
        self._refused = 0  # bytes that the disk would not take, until it takes as many
        self._account = b""
        self._open()

    @staticmethod
    def check(settings: CaptureSettings) -> None:
        """Raise ValueError for invalid settings."""
        if settings.format == "csv" and "://" in settings.log.removeprefix("file://"):
            raise ValueError(f"--format csv writes into a directory, and {settings.log} is none: leave it out")
        _redactor(settings)

    def begin(self, request_id: str) -> bool:
        """Count an exchange whose request has been parsed, and say whether it is in the sample."""
        ledger = self.ledger
        ledger.seen += 1
        if self._sample < 1.0 and not in_sample(request_id, self._sample, "sample"):
            ledger.sampled_out += 1
            return False
        ledger.in_flight += 1
        return True

    def leave_out(self, succeeded: bool, errors: Sequence[str]) -> None:
        """Count how an exchange ended that is not in the sample."""
        self.ledger.failed += not succeeded
        self._count(errors)

    def record(self, exchanges: Sequence[Exchange], *, redacted: bool = False) -> None:
        """Append finished exchanges, and the ledger as it is then, to the spool with one system call.

        They are redacted on their way, unless they have been; to do it twice would hash a hash.
        """
        if not exchanges:
            return
        ledger, count = self.ledger, len(exchanges)
        ledger.in_flight -= count
        for exchange in exchanges:
            if not exchange.succeeded:
                ledger.failed += 1
            if self._redactor is not None and not redacted:
                self._redactor(exchange)
            if exchange.errors:
                self._count(exchange.errors)
        frames = [encoded(exchange) for exchange in exchanges]
        if self._spooled > self._settings.spool_max_bytes and self._full():
            self._drop(count, "spool_full", f"{self._spool} holds --spool-max-bytes")
            return
        if self._writer is None and not self._open():
            self._drop(count, "spool_unwritable", f"{self._spool} can't be written")
            return
        ledger.stored += count
        self._account = encode(ledger)
        frames.append(self._account)
        try:
            self._spooled += self._append(frames)
        except OSError as error:
            ledger.stored -= count
            self._refused = sum(
                len(frame) if isinstance(frame, bytes) else sum(map(len, frame)) for frame in frames
            )
            reason = "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "spool_unwritable"
            self._drop(count, reason, error.strerror or str(error))

    def give_up(self, exchange: Exchange) -> None:
        """Count an exchange as dropped that could not be redacted before the end of this process."""
        self.ledger.in_flight -= 1
        self.leave_out(exchange.succeeded, exchange.errors)
        dropped = self.ledger.dropped
        dropped["not_redacted"] = dropped.get("not_redacted", 0) + 1
        logger.warning(
            "not stored: exchanges whose long bodies could not be redacted before the end of this process",
            extra=_SELDOM,
        )

    def record_shadows(self, exchanges: Sequence[Exchange], *, redacted: bool = False) -> None:
        """Append the shadow's answers to copies of requests; what there is no room for is dropped, and counted."""
        if not exchanges:
            return
        shadow, count = self.ledger.shadow, len(exchanges)
        for exchange in exchanges:
            if self._redactor is not None and not redacted:
                self._redactor(exchange)
        if self._spooled <= self._settings.spool_max_bytes and (self._writer is not None or self._open()):
            shadow["stored"] = shadow.get("stored", 0) + count
            self._account = encode(self.ledger)
            try:
                self._spooled += self._append([*(encoded(exchange) for exchange in exchanges), self._account])
                return
            except OSError as error:
                shadow["stored"] -= count
                why = error.strerror or error
                logger.warning("a shadow's answers are not stored: %s", why, extra=_SELDOM)
        shadow["dropped"] = shadow.get("dropped", 0) + count

    def _append(self, frames: Sequence[bytes | list[bytes]]) -> int:
        assert self._writer is not None
        try:
            return self._writer.append(frames)
        except FileNotFoundError:
            logger.warning("the spool %s was removed; it is made anew", self._spool, extra=_SELDOM)
            abandoned, self._writer = self._writer, None
            abandoned.abandon()
            self._writer = self._new_writer()
            return self._writer.append(frames)

    def sync(self) -> Callable[[], None]:
        """Return a function, to be run in a thread, that returns once what was recorded survives loss of power."""
        writer = self._writer
        return writer.sync if writer is not None else _nothing

    def tick(self) -> None:
        """Look after the spool now and then: close a segment that is old enough, see how full it is."""
        self._measure()
        if self._writer is None:
            self._open()
            return
        try:
            self._writer.rotate()
            if self._refused:
                self._writer.check_room(self._refused)
                self._refused = 0
            # What was dropped or left out has no append that would take the account along.
            account = encode(self.ledger)
            if account != self._account:
                self._append([account])
                self._account = account
        except OSError as error:
            logger.warning("can't write to the spool %s: %s", self._spool, error, extra=_SELDOM)

    @property
    def writer(self) -> str:
        """This process's name in the spool, empty while it has none."""
        return self._writer.directory.name if self._writer is not None else ""

    @property
    def ready(self) -> bool:
        """Whether the next exchange would be stored."""
        if self._writer is None or self._refused:
            return False
        return self._spooled <= self._settings.spool_max_bytes

    def close(self) -> None:
        """Write the last account, and close the spool's segment, so that the drain takes all of it."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        try:
            writer.append([encode(self.ledger)])
            writer.close()
        except OSError as error:
            logger.warning("can't close the spool %s: %s", self._spool, error, extra=_SELDOM)

    def _measure(self) -> None:
        self._measured = time.monotonic()
        self._spooled = spooled_bytes(self._spool)

    def _full(self) -> bool:
        """Whether the spool holds too much still; where nobody calls `tick`, it is measured here."""
        if time.monotonic() - self._measured > _MEASURE_SECONDS:
            self._measure()
        return self._spooled > self._settings.spool_max_bytes

    def _open(self) -> bool:
        try:
            self._writer = self._new_writer()
            self._writer.append([encode(self.ledger)])
        except OSError as error:
            logger.warning(
                "nothing can be stored now: %s. Requests are served all the same.", error, extra=_SELDOM
            )
        return self._writer is not None

    def _new_writer(self) -> SpoolWriter:
        settings = self._settings
        return SpoolWriter(
            self._spool,
            segment_bytes=settings.segment_bytes,
            segment_seconds=settings.segment_seconds,
            durable=settings.durability == "power",
        )

    def _count(self, errors: Sequence[str]) -> None:
        for code in errors:
            self.ledger.errors[code] = self.ledger.errors.get(code, 0) + 1

    def _drop(self, count: int, reason: str, why: str) -> None:
        dropped = self.ledger.dropped
        dropped[reason] = dropped.get(reason, 0) + count
        logger.warning(
            "not stored: %d exchanges so far (%s: %s). Clients still get their answers; make room or mend the "
            "directory's permissions, and logging goes on by itself.",
            sum(dropped.values()),
            reason,
            why,
            extra=_SELDOM,
        )


def _nothing() -> None:
    """There is nothing to wait for."""


def _redactor(settings: CaptureSettings) -> Redactor | None:
    if not settings.redact:
        return None
    rules = [parse_rule(text) for text in settings.redact]
    if any(rule.action == "hash" for rule in rules) and not settings.redact_key:
        raise ValueError(
            "--redact FIELD=hash needs a secret key, or anybody could try values until the hash fits: "
            "set MOORING_REDACT_KEY"
        )
    return Redactor(rules, (settings.redact_key or "").encode())
