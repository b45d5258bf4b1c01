"""A reader of HTTP/1.1 that takes a message only as RFC 9112 has a sender write it. No code of Mooring's.

What a lenient recipient could read in two ways (bare LF, two lengths, chunk extensions, …) raises Malformed here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([!-~]+) HTTP/1\.1")
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) ([\t -~\x80-\xff]*)")
_FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*((?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?)[ \t]*")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,18}")
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,16}")
_STRAY = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0")
_NO_TRAILERS = frozenset({b"content-length", b"transfer-encoding", b"host", b"connection", b"content-type"})


class Malformed(Exception):
    """The bytes are not what RFC 9112 has a sender write."""


class CutShort(Malformed):
    """The connection ended within a message."""


class Parsed(NamedTuple):
    """A whole message: `line` is (method, target) or (status, reason)."""

    line: tuple[bytes, bytes]
    fields: list[tuple[bytes, bytes]]
    body: bytes
    chunked: bool = False
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    head: bytes = b""

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name]

    @property
    def status(self) -> int:
        return int(self.line[0])


def _fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    found = []
    for line in lines:
        match = _FIELD.fullmatch(line)
        if not match:
            raise Malformed(f"no field line: {line[:200]!r}")
        found.append((match[1], match[2]))
    return found


class _Reader:
    """Feed it what comes; `next` gives the next whole message, or None as long as there is none."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self._head: Parsed | None = None
        self._length: int | None = None
        self._body = bytearray()
        self._in_trailers = False

    @property
    def head(self) -> Parsed | None:
        """The head of a message whose body is still to come."""
        return self._head

    @property
    def body_begun(self) -> bytes:
        """What has come of that body."""
        return bytes(self._body if self._length is None else self.buffer)

    def feed(self, data: bytes) -> None:
        self.buffer += data

    def next(self) -> Parsed | None:
        if self._head is None:
            end = self.buffer.find(b"\r\n\r\n")
            stray = _STRAY.search(self.buffer, 0, end + 4 if end >= 0 else len(self.buffer))
            if stray:
                raise Malformed(f"a bare CR or LF, or NUL, in a head: {bytes(self.buffer[:400])!r}")
            if self.buffer.startswith(b"\r\n"):
                raise Malformed("an empty line in front of a message")
            if end < 0:
                return None
            head = bytes(self.buffer[: end + 4])
            del self.buffer[: end + 4]
            first, *lines = head[:-4].split(b"\r\n")
            self._head = Parsed(self._first(first), _fields(lines), b"", head=head)
            self._length = self._framing(self._head)
            self._body.clear()
        if self._length is not None:
            if len(self.buffer) < self._length:
                return None
            body = bytes(self.buffer[: self._length])
            del self.buffer[: self._length]
            return self._whole(body)
        return self._chunks()

    def _whole(self, body: bytes, trailers: tuple[tuple[bytes, bytes], ...] = (), chunked: bool = False) -> Parsed:
        head, self._head, self._length = self._head, None, None
        assert head is not None
        return head._replace(body=body, trailers=trailers, chunked=chunked)

    def _chunks(self) -> Parsed | None:
        while True:
            end = self.buffer.find(b"\r\n")
            if self._in_trailers:
                end = -1 if self.buffer[:2] == b"\r\n" else self.buffer.find(b"\r\n\r\n")
                if self.buffer[:2] != b"\r\n" and end < 0:
                    return None
                lines = bytes(self.buffer[: end + 2]).split(b"\r\n")[:-1] if end >= 0 else []
                del self.buffer[: end + 4 if end >= 0 else 2]
                self._in_trailers = False
                trailers = _fields(lines)
                if any(name.lower() in _NO_TRAILERS for name, _ in trailers):
                    raise Malformed(f"a field that is none of a trailer's: {trailers}")
                return self._whole(bytes(self._body), tuple(trailers), chunked=True)
            if end < 0:
                if len(self.buffer) > 17:
                    raise Malformed(f"no chunk size: {bytes(self.buffer[:40])!r}")
                return None
            line = bytes(self.buffer[:end])
            if not _CHUNK_SIZE.fullmatch(line):
                raise Malformed(f"no chunk size: {line[:40]!r}")
            size = int(line, 16)
            if not size:
                self._in_trailers = True
                del self.buffer[: end + 2]
                continue
            if len(self.buffer) < end + 4 + size:
                return None
            if self.buffer[end + 2 + size : end + 4 + size] != b"\r\n":
                raise Malformed("a chunk that does not end with CRLF")
            self._body += self.buffer[end + 2 : end + 2 + size]
            del self.buffer[: end + 4 + size]

    def _first(self, line: bytes) -> tuple[bytes, bytes]:
        raise NotImplementedError

    def _framing(self, head: Parsed) -> int | None:
        raise NotImplementedError

    @staticmethod
    def _declared(head: Parsed) -> int | None:
        """Return the body's length, None if it is chunked, -1 if nothing says so."""
        lengths, codings = head.all(b"content-length"), head.all(b"transfer-encoding")
        if len(lengths) + len(codings) > 1:
            raise Malformed(f"more than one framing: {lengths} {codings}")
        if codings:
            if codings[0].lower() != b"chunked":
                raise Malformed(f"a transfer coding of {codings}")
            return None
        if not lengths:
            return -1
        if not _LENGTH.fullmatch(lengths[0]):
            raise Malformed(f"a length of {lengths}")
        return int(lengths[0])


class RequestReader(_Reader):
    """Reads requests."""

    def _first(self, line: bytes) -> tuple[bytes, bytes]:
        match = _REQUEST_LINE.fullmatch(line)
        if not match:
            raise Malformed(f"no request line: {line[:200]!r}")
        return match[1], match[2]

    def _framing(self, head: Parsed) -> int | None:
        if len(head.all(b"host")) != 1:
            raise Malformed(f"Host {head.all(b'host')}")
        declared = self._declared(head)
        return 0 if declared == -1 else declared


class AnswerReader(_Reader):
    """Reads answers; `methods` are those of the requests, in order, and GET after the last."""

    def __init__(self, *methods: str) -> None:
        super().__init__()
        self._methods = list(methods)
        self.closed = False

    def _first(self, line: bytes) -> tuple[bytes, bytes]:
        match = _STATUS_LINE.fullmatch(line)
        if not match:
            raise Malformed(f"no status line: {line[:200]!r}")
        return match[1], match[2]

    def _framing(self, head: Parsed) -> int | None:
        declared = self._declared(head)
        if (head.status < 200 or head.status == 204) and declared != -1:
            raise Malformed(f"a {head.status} with framing")
        if head.status < 200:
            return 0
        method = self._methods.pop(0) if self._methods else "GET"
        if method == "HEAD" or head.status in (204, 304):
            return 0
        return 2**62 if declared == -1 else declared

    def end(self) -> Parsed | None:
        """The connection has ended: return an answer that lasts until then. Raises CutShort within one."""
        if self._head is None:
            if self.buffer:
                raise CutShort(f"an answer cut short: {bytes(self.buffer[:100])!r}")
            return None
        if self._length != 2**62:
            raise CutShort(f"an answer cut short: {self._head.line} {bytes(self.buffer[:100])!r}")
        body = bytes(self.buffer)
        self.buffer.clear()
        return self._whole(body)
