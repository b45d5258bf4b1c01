"""Heads of messages as an intermediary passes them on (RFC 9110, section 7.6; RFC 9112)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

Headers = list[tuple[bytes, bytes]]

VIA: Final = b"1.1 mooring"
END_OF_HEAD: Final = b"\r\n\r\n"
REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}

# Fields that end here; those of them that go on are written anew.
HOP_BY_HOP: Final = (
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"transfer-encoding",
    b"upgrade",
)
REWRITTEN: Final = (b"via", b"x-request-id")
ANSWER_REWRITTEN: Final = (b"x-model-version",)
REQUEST_REWRITTEN: Final = (
    b"host",
    b"content-length",
    b"expect",
    b"forwarded",
    b"max-forwards",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
)
READ: Final = (b"content-type", b"content-encoding")
ANSWER_READ: Final = (*READ, b"content-length", b"date")
NOT_IN_TRAILERS: Final = (
    b"authorization",
    b"cache-control",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"expect",
    b"host",
    b"max-forwards",
    b"set-cookie",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"www-authenticate",
)
"""Fields that say how a message is read, routed or allowed: behind the body it is too late (RFC 9110, 6.5.1)."""
_OF_STATUS: Final = {
    401: b"WWW-Authenticate: Bearer\r\n",
    405: b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE\r\n",
    503: b"Retry-After: 1\r\n",
}
"""What an answer of the proxy's own says further."""
_COPIED: Final = 4096
MOST_FIELDS: Final = 1000
"""How many fields a head or a trailer may have: of short ones each takes ten times its length of memory."""


class FieldKind:
    """The name under which a field is read, empty where it is not, and whether it goes on, and in trailers."""

    def __init__(self, name: bytes, passed: bool, in_trailers: bool) -> None:
        self.name = name
        self.passed = passed
        self.in_trailers = in_trailers


_UNKNOWN: Final = FieldKind(b"", True, True)


class FieldTable:
    """Which fields of a message are kept back, which are read, by name in whatever case."""

    def __init__(self, kept_back: Iterable[bytes], read: Iterable[bytes]) -> None:
        kinds = {name: FieldKind(b"", True, False) for name in NOT_IN_TRAILERS}
        kinds |= {name: FieldKind(name, True, name not in NOT_IN_TRAILERS) for name in read}
        kinds |= {name: FieldKind(name, False, False) for name in kept_back}
        # As most clients spell them, so that these need not be made lower case. Other spellings are not
        # remembered: clients choose them.
        self._kinds = {name.title(): kind for name, kind in kinds.items()} | kinds

    def kind(self, name: bytes) -> FieldKind:
        """Return what becomes of the field with this name.

        >>> table = FieldTable([b"host"], [b"content-type"])
        >>> [table.kind(name).passed for name in (b"CONTENT-type", b"Host", b"Accept")]
        [True, False, True]
        """
        kind = self._kinds.get(name)
        return kind if kind is not None else self._kinds.get(name.lower(), _UNKNOWN)


class Fields:
    """The fields of one message: `lines` to pass on, as they go out, and `read`, those that the proxy knows.

    `count` is how many there were.
    """

    def __init__(self, table: FieldTable) -> None:
        self._table = table
        self.lines: list[bytes] = []
        self.read: dict[bytes, bytes] = {}
        self.count = 0

    def add(self, name: bytes, value: bytes) -> None:
        """Take a field. One that comes again is read as one list of values (RFC 9110, section 5.3)."""
        self.count += 1
        if value and value[-1] in (32, 9):  # blanks and tabs after it are no part of it (section 5.5)
            value = value.rstrip(b" \t")
        kind = self._table.kind(name)
        known = kind.name
        if known:
            read = self.read
            read[known] = read[known] + b", " + value if known in read else value
        if kind.passed:
            self.lines.append(b"%b: %b\r\n" % (name, value))

    def replace(self, name: bytes, value: bytes) -> None:
        """Give a field that is read and passed on another value."""
        self.read[name] = value
        self.lines = [*without(self.lines, name), b"%b: %b\r\n" % (name.title(), value)]

    def end_to_end(self) -> list[bytes]:
        """Return the lines to pass on, without the fields that `Connection` names.

        >>> fields = Fields(FieldTable(HOP_BY_HOP, READ))
        >>> fields.add(b"Connection", b"close, X-Hop"); fields.add(b"X-Hop", b"1"); fields.add(b"Accept", b"*/*")
        >>> fields.end_to_end()
        [b'Accept: */*\\r\\n']
        """
        options = self.read.get(b"connection", b"").lower()
        if options in (b"", b"keep-alive", b"close"):
            return self.lines
        # Content-Type and the like are no hop's to name: without them the message means something else.
        return without(self.lines, *{option.strip() for option in options.split(b",")}.difference(ANSWER_READ))


def without(lines: list[bytes], *names: bytes) -> list[bytes]:
    """Return the lines of fields but for those with these names, in lower case."""
    left_out = frozenset(names)  # clients choose how many there are
    return [line for line in lines if line.partition(b":")[0].lower() not in left_out]


def one_hop_less(max_forwards: bytes) -> tuple[bytes, bool]:
    """Return Max-Forwards as it is passed on, and whether it lets the message go no further.

    >>> one_hop_less(b"3"), one_hop_less(b"0"), one_hop_less(b"many")
    ((b'2', False), (b'0', True), (b'many', False))
    """
    if not max_forwards.isdigit():
        return max_forwards, False
    number = int(max_forwards[-9:]) if len(max_forwards.lstrip(b"0")) < 10 else 10**9
    return b"%d" % max(number - 1, 0), number == 0


def date_line(seconds: float) -> bytes:
    """Return the Date field for a time in seconds since the epoch, with the end of the line before it.

    >>> date_line(0)
    b'\\r\\nDate: Thu, 01 Jan 1970 00:00:00 GMT'
    """
    return b"\r\nDate: " + formatdate(seconds, usegmt=True).encode()


def own_answer(status: int, code: str, message: str) -> tuple[list[bytes], bytes]:
    """Return fields and body of an answer of the proxy's own, shaped as MLflow shapes its errors."""
    body = json.dumps({"error_code": code, "message": message}).encode() + b"\n"
    lines = [b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)]
    if status in _OF_STATUS:
        lines.append(_OF_STATUS[status])
    return lines, body


def last_chunk(trailers: Headers) -> bytes:
    """Return the end of a chunked body, with its trailer fields."""
    return b"0\r\n" + b"".join(name + b": " + value + b"\r\n" for name, value in trailers) + b"\r\n"


def part(data: bytes, at: int, end: int) -> bytes | memoryview:
    """Return a part of `data`, which is not copied where that would take longer than not to."""
    if at == 0 and end == len(data):
        return data
    return data[at:end] if end - at < _COPIED else memoryview(data)[at:end]


class Boundaries:
    """Finds where heads and chunked bodies may end, so that a parser is given no more than one message at a time.

    Both end with an empty line, and each piece that `cut` gives ends with one, or with what was read. What it gets
    wrong costs time and nothing else: it is the parser that says where a message ends.
    """

    def __init__(self) -> None:
        self._tail = b""

    def cut(self, data: bytes, at: int, end: int) -> int:
        """Return where the piece of `data` that begins at `at` ends, at `end` at the latest.

        >>> boundaries = Boundaries()
        >>> boundaries.cut(b"GET / HTTP/1.1\\r\\n\\r", 0, 17), boundaries.cut(b"\\nGET /", 0, 6)
        (17, 1)
        """
        tail = self._tail
        if tail:
            found = (tail + data[at : min(at + 3, end)]).find(END_OF_HEAD)
            if found >= 0:
                self._tail = b""
                return at + found + 4 - len(tail)
        found = data.find(END_OF_HEAD, at, end)
        if found >= 0:
            self._tail = b""
            return found + 4
        self._tail = (tail + data[at:end])[-3:] if end - at < 3 else data[end - 3 : end]
        return end
