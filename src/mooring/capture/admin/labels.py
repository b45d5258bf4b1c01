"""POST /labels on the admin port: ground truth goes into the spool of the exchanges, by a writer of its own."""

from __future__ import annotations

import asyncio
import errno
import hmac
import logging
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mooring.capture.admin.http import HttpRefused
from mooring.exchange import encode
from mooring.label import Label, Labels, as_label
from mooring.spool import SpoolWriter, spooled_bytes

if TYPE_CHECKING:
    from mooring.settings import FrontSettings

_JSON = ("application/json", "")
_LINES = ("application/x-ndjson", "application/jsonl", "application/x-jsonlines")
_KEYS = {"request_id", "row", "label", "time", "model", "protected"}
_ENTRIES_AT_ONCE = 64
logger = logging.getLogger(__name__)
_SELDOM = {"every": 10.0}
_MEASURE_SECONDS = 1.0


class Taken(NamedTuple):
    """How many labels of which model were taken."""

    taken: int
    models: dict[str, int]


class LabelIntake:
    """Takes labels into the spool of a proxy; `taken` counts them since the start."""

    def __init__(self, settings: FrontSettings) -> None:
        self.taken = 0
        self._settings = settings
        self._spool = settings.spool_path
        self._writer: SpoolWriter | None = None
        self._spooled = 0
        self._measured = -_MEASURE_SECONDS

    def check(self, fields: Mapping[str, str], *, allowed: bool | None = None) -> None:
        """Raise HttpRefused for a request with these fields, by lower-case name, whose body need not be read.

        It has to show the token for labels, unless it is `allowed` already; None says that nothing else allows it.
        """
        token = self._settings.labels_token
        if not token and allowed is None:
            raise HttpRefused(
                403, "labels are taken once --labels-token or MOORING_LABELS_TOKEN is set on the proxy"
            )
        scheme, _, given = fields.get("authorization", "").partition(" ")
        # Both as bytes, compared in a time that does not tell how much of it is right.
        is_token = hmac.compare_digest(given.strip().encode("latin-1"), (token or "").encode())
        if not allowed and not (token and scheme.lower() == "bearer" and is_token):
            which = "--labels-token" if token else "--admin-key-file or --api-key-file"
            raise HttpRefused(
                401, f"the header must be Authorization: Bearer TOKEN, with one of the proxy's {which}"
            )
        if self._settings.format != "parquet":
            raise HttpRefused(
                409, "this proxy writes CSV files; labels need the Parquet log: start it with --format parquet"
            )
        if _media_type(fields) not in (*_JSON, *_LINES):
            raise HttpRefused(415, "labels come as application/json or application/x-ndjson")
        if fields.get("content-encoding", "identity") != "identity":
            raise HttpRefused(415, "labels come without Content-Encoding")

    async def take(self, fields: Mapping[str, str], body: bytes) -> Taken:
        """Take the labels of a request; they survive what `--durability` says once this returns.

        Raises HttpRefused where one of them is invalid, or where the spool takes none now.
        """
        lines = _media_type(fields) in _LINES
        # In a thread, since the loop has requests to pass on meanwhile.
        records, frames = await asyncio.to_thread(_read, body, lines, self._settings.model)
        if frames:
            self._append(frames)
            if self._settings.durability == "power" and self._writer is not None:
                try:
                    await asyncio.to_thread(self._writer.sync)
                except OSError as error:
                    raise self._unwritable(error) from error
        counts = {record.model or "default": len(record.labels) for record in records}
        taken = Taken(sum(counts.values()), counts)
        self.taken += taken.taken
        return taken

    def tick(self) -> None:
        """Close a segment that is old enough; to be called now and then."""
        if self._writer is None:
            return
        try:
            self._writer.rotate()
        except OSError as error:
            logger.warning("can't write labels to the spool %s: %s", self._spool, error, extra=_SELDOM)

    def close(self) -> None:
        """Close the segment, so that the drain takes it."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.close()
        except OSError as error:
            logger.warning("can't close the spool %s: %s", self._spool, error, extra=_SELDOM)

    def _append(self, frames: list[bytes]) -> None:
        if time.monotonic() - self._measured > _MEASURE_SECONDS:
            self._measured, self._spooled = time.monotonic(), spooled_bytes(self._spool)
        if self._spooled > self._settings.spool_max_bytes:
            raise HttpRefused(507, f"{self._spool} holds --spool-max-bytes: the log must take some of it first")
        try:
            self._spooled += self._open().append(frames)
        except FileNotFoundError:  # somebody removed the spool, perhaps with the whole log; it is made anew
            if self._writer is not None:
                self._writer.abandon()
                self._writer = None
            try:
                self._open().append(frames)
            except OSError as error:
                raise self._unwritable(error) from error
        except OSError as error:
            raise self._unwritable(error) from error

    def _open(self) -> SpoolWriter:
        if self._writer is None:
            settings = self._settings
            self._writer = SpoolWriter(
                self._spool,
                segment_bytes=settings.segment_bytes,
                segment_seconds=settings.segment_seconds,
                durable=settings.durability == "power",
            )
        return self._writer

    def _unwritable(self, error: OSError) -> HttpRefused:
        why = error.strerror or str(error)
        logger.warning(
            "labels were refused, since the spool %s can't be written: %s", self._spool, why, extra=_SELDOM
        )
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return HttpRefused(
            507 if full else 503, f"the spool {self._spool} can't be written: {why}; send them again later"
        )


def _media_type(fields: Mapping[str, str]) -> str:
    return fields.get("content-type", "").partition(";")[0].strip().lower()


def _read(body: bytes, lines: bool, model: str | None) -> tuple[list[Labels], list[bytes]]:
    """Return the labels of a body, model by model, and their frames. Raises HttpRefused that names the entry."""
    records: dict[str | None, Labels] = {}
    now_us = time.time_ns() // 1000
    for count, (place, entry) in enumerate(_lines(body) if lines else _entries(body)):
        if count % _ENTRIES_AT_ONCE == 0:
            time.sleep(0)  # lets the loop go on now; else Python lets it wait for 5 ms each time
        try:
            name, label = _label(entry, now_us)
        except ValueError as error:
            raise HttpRefused(400, f"{place}: {error}. None was taken") from None
        name = name or model
        record = records.get(name)
        if record is None:
            record = records[name] = Labels(model=name)
        record.labels.append(label)
    found = list(records.values())
    return found, [encode(record) for record in found]


def _lines(body: bytes) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(body.split(b"\n"), 1):
        if line.strip():
            yield f"line {number}", _json(line, f"line {number}")


def _entries(body: bytes) -> Iterator[tuple[str, Any]]:
    entries = _json(body, "the body")
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        yield f"entry {number} (counted from 0)", entry


def _json(text: bytes, name: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise HttpRefused(400, f"{name} is not JSON: {error}. None was taken") from None


def _label(entry: Any, now_us: int) -> tuple[str | None, Label]:
    if not isinstance(entry, dict):
        raise ValueError('it must be an object such as {"request_id": "…", "row": 0, "label": 6}')
    if unknown := entry.keys() - _KEYS:
        raise ValueError(f"there is no key {min(unknown)!r}; there is: {', '.join(sorted(_KEYS))}")
    model = entry.get("model")
    if model is not None and not (isinstance(model, str) and model.isprintable() and model):
        raise ValueError("model is no name")
    protected = entry.get("protected")
    if protected is not None and not isinstance(protected, dict):
        raise ValueError('protected must be an object such as {"sex": "f"}')
    label = as_label(
        *(entry.get(name) for name in ("request_id", "label", "row", "time")), now_us=now_us, protected=protected
    )
    return model, label
