"""Redacts long bodies in a process of its own: while one is parsed, no other thread of a Python process runs."""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from io import BufferedReader, FileIO
from struct import Struct
from typing import BinaryIO, cast

import msgspec

from mooring.capture.drainer import environment
from mooring.capture.redact import EMPTIED, Redactor, parse_rule
from mooring.exchange import Exchange, decode, encoded
from mooring.settings import CaptureSettings

logger = logging.getLogger("mooring.capture.redacting")  # __name__ is another where this is run
_MEMORY = 64 * 2**20
_MEMORY_PER_BYTE = 40
"""What the process may take: a body of many short cells is some 20 times as long once it is parsed."""
_LENGTH = Struct("<Q")


class _Setup(msgspec.Struct, array_like=True):
    rules: tuple[str, ...]
    key: str
    max_payload: int


class _Redacted(msgspec.Struct, array_like=True):
    """What becomes of an exchange; both bodies follow, of these lengths."""

    request: int
    response: int
    errors: list[str]


class RedactingProcess:
    """A process that redacts one exchange after another; started at the first one, it ends with this process.

    `redact` is called in one thread at a time, and `close` in any.
    """

    def __init__(self, settings: CaptureSettings) -> None:
        self._setup = _Setup(settings.redact, settings.redact_key or "", settings.max_payload)
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: BufferedReader | None = None
        self._closed = False
        self._lock = threading.Lock()

    def redact(self, exchange: Exchange) -> Exchange:
        """Return `exchange` redacted, its bodies cut to `--max-payload` where they have become longer than that.

        Where the process comes to an end over it, it is returned without bodies, and its errors say so.
        """
        try:
            process, answers = self._running()
            _write(cast("FileIO", process.stdin), encoded(exchange))
            redacted = msgspec.msgpack.decode(_read(answers), type=_Redacted)
            request = _exactly(answers, redacted.request)
            response = _exactly(answers, redacted.response)
        except (OSError, EOFError) as error:
            self._end()
            logger.warning(
                "long bodies are not stored, since the process that redacts them ended: %r",
                error,
                extra={"every": 10.0},
            )
            request = response = b""
            redacted = _Redacted(0, 0, [*exchange.errors, *([] if EMPTIED in exchange.errors else [EMPTIED])])
        return msgspec.structs.replace(exchange, request=request, response=response, errors=redacted.errors)

    def close(self) -> None:
        """End the process; what it has begun comes to nothing."""
        self._closed = True
        self._end()

    def _running(self) -> tuple[subprocess.Popen[bytes], BufferedReader]:
        with self._lock:
            if self._closed:
                raise EOFError("it was closed")
            if self._process is None or self._answers is None:
                # In a session of its own, since Ctrl-C in a terminal is for the proxy, which waits for it.
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "mooring.capture.redacting"],
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,
                    env=environment(),
                )
                self._answers = BufferedReader(cast("FileIO", self._process.stdout))
                # The key is for nobody who can list processes.
                _write(cast("FileIO", self._process.stdin), msgspec.msgpack.encode(self._setup))
            return self._process, self._answers

    def _end(self) -> None:
        with self._lock:
            process, self._process, self._answers = self._process, None, None
            if process is not None:
                process.kill()
                process.wait()


def main() -> None:
    """Redact what comes on stdin, until its end."""
    gc.disable()  # what is parsed has no cycles, and is long to look through
    # It may be sent to all processes of a service, and this one goes on until the proxy ends.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    asked, answers = BufferedReader(FileIO(0)), FileIO(1, "w")
    try:
        setup = msgspec.msgpack.decode(_read(asked), type=_Setup)
        limit = _MEMORY + _MEMORY_PER_BYTE * setup.max_payload
        with suppress(ValueError, OSError):  # not every system has that limit
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        redactor = Redactor([parse_rule(rule) for rule in setup.rules], setup.key.encode())
        while True:
            exchange = decode(_read(asked))
            assert isinstance(exchange, Exchange)
            redactor(exchange)
            _cut(exchange, setup.max_payload)
            head = _Redacted(len(exchange.request), len(exchange.response), exchange.errors)
            _write(answers, msgspec.msgpack.encode(head))
            _write_all(answers, (exchange.request, exchange.response))
            del exchange  # or it is kept until the next one has come
    except (EOFError, BrokenPipeError):
        os._exit(0)  # whoever asked has gone


def _cut(exchange: Exchange, limit: int) -> None:
    """Cut what has become longer than a body may be in the log: a hash is longer than a digit."""
    if len(exchange.request) > limit or len(exchange.response) > limit:
        exchange.request, exchange.response = exchange.request[:limit], exchange.response[:limit]
        exchange.errors = [*exchange.errors, "truncated"]


def _write(file: FileIO, message: bytes | list[bytes]) -> None:
    pieces = [message] if isinstance(message, bytes) else message
    _write_all(file, (_LENGTH.pack(sum(map(len, pieces))), *pieces))


def _write_all(file: FileIO, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            rest = rest[file.write(rest) :]


def _read(file: BinaryIO) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(file, _LENGTH.size))
    return _exactly(file, length)


def _exactly(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise EOFError("nothing more comes of it")
    return data


if __name__ == "__main__":
    main()
