"""Messages to people, by the standard library's logging: lines on stderr, as text or as JSON.

Every module has its `logger = logging.getLogger(__name__)`. A process of Mooring's own calls `set_up` first. Where
Mooring is a library, nothing is configured: what users have set up shows its messages, and where they have set up
nothing, `last_resort` shows warnings as the commands do.

A message that may come again and again says how often it may be shown, in seconds:

    logger.warning("can't write to %s: %s", path, error, extra={"every": 10.0})

Those with the same template in between are counted, and the next one that is shown says how many they were. Where
that has to be told apart by more than the template, by the model say, `extra` has it as `about`.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]
_ROOT = "mooring"
_MOST = 1000


class Repeats(logging.Filter):
    """Lets a message pass that has an `every` in its record only where none like it did within so many seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[tuple[str, str, object], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is shown; its record then has how many were `suppressed` since the last like it."""
        every = getattr(record, "every", None)
        if every is None or hasattr(record, "suppressed"):  # the latter passed another filter of this kind
            return True
        key = record.name, str(record.msg), getattr(record, "about", None)
        now = time.monotonic()
        shown, suppressed = self._shown.pop(key, (-float("inf"), 0))
        if now - shown < every:
            self._shown[key] = shown, suppressed + 1
            return False
        if len(self._shown) >= _MOST:
            del self._shown[next(iter(self._shown))]
        self._shown[key] = now, 0
        record.suppressed = suppressed
        return True


REPEATS = Repeats()
"""For the loggers of modules that repeat themselves in users' processes, which have handlers of their own."""


class Text(logging.Formatter):
    """`mooring: TEXT`, and with `details` when, how bad and from where, too."""

    def __init__(self, program: str = _ROOT, *, details: bool = False) -> None:
        super().__init__()
        self._program = program
        self._details = details

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return a message with what stands before and after it."""
        details = f" {_time(record)} {record.levelname} {record.name}" if self._details else ""
        more = getattr(record, "suppressed", 0)
        return (
            f"{self._program}{details}: {record.message}{f' ({more} more like this since the last)' * bool(more)}"
        )


class Json(logging.Formatter):
    """A JSON object on one line: time, level, program, logger, message, and what else there is to say of it."""

    def __init__(self, program: str = _ROOT) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        found: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "program": self._program,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if more := getattr(record, "suppressed", 0):
            found["suppressed"] = more
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found)  # in ASCII, as stderr may take no more than that


class Stderr(logging.Handler):
    """Writes to what is stderr at the time, if that takes it: it may be a file on a disk that is full."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - of a template that its values do not fit logging tells by itself
            self.handleError(record)
            return
        if sys.stderr is not None:
            with suppress(OSError, ValueError):
                print(line, file=sys.stderr, flush=True)


class LastResort(Stderr):
    """Writes only where users have set up no handler of their own."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        if not logging.getLogger().handlers:
            super().emit(record)


def set_up(format: Format = "text", level: Level = "info", program: str = _ROOT) -> None:
    """Show this process's messages, those of `level` and above, on stderr: for processes of Mooring's own.

    `program` is whose they are. At level debug text has times and levels, as JSON always has.
    """
    handler = Stderr()
    handler.setFormatter(Json(program) if format == "json" else Text(program, details=level == "debug"))
    handler.addFilter(REPEATS)
    logger = logging.getLogger(_ROOT)
    for one in [one for one in logger.handlers if isinstance(one, Stderr)]:
        logger.removeHandler(one)
    logger.addHandler(handler)
    logger.setLevel(level.upper())


def last_resort() -> None:
    """Have warnings shown as `mooring: TEXT` where a user, whose process it is, has set up no logging."""
    if not logging.getLogger(_ROOT).handlers:
        handler = LastResort(logging.WARNING)
        handler.setFormatter(Text())
        handler.addFilter(REPEATS)
        logging.getLogger(_ROOT).addHandler(handler)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
