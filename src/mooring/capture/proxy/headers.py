"""Heads of messages as an intermediary passes them on (RFC 9110, section 7.6; RFC 9112)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus

Headers = list[tuple[bytes, bytes]]
Said = tuple[str, str, str, dict[str, str]]
"""Path, content type, content encoding and the headers that are logged, as text."""

VIA = b"1.1 mooring"
REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}

# Fields that end here; those of them that go on are written anew.
HOP_BY_HOP = (
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"transfer-encoding",
    b"upgrade",
)
REWRITTEN = (b"via", b"x-request-id")
ANSWER_REWRITTEN = (b"x-model-version",)
REQUEST_REWRITTEN = (
    b"host",
    b"content-length",
    b"expect",
    b"forwarded",
    b"max-forwards",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
)
READ = (b"content-type", b"content-encoding")
ANSWER_READ = (*READ, b"content-length", b"date")


class FieldTable:
    """Which fields of a message are kept back, which are read, by name in whatever case.

    Names as they were spelled are remembered, so that a field costs one look-up.
    """

    def __init__(self, kept_back: Iterable[bytes], read: Iterable[bytes]) -> None:
        self._kinds = {name: (name, True) for name in read} | {name: (name, False) for name in kept_back}
        self.spelled: dict[bytes, tuple[bytes, bool]] = {}

    def kind(self, name: bytes) -> tuple[bytes, bool]:
        """Return the name under which a field is read, empty if it is not, and whether it is passed on."""
        kind = self._kinds.get(name.lower(), (b"", True))
        if len(self.spelled) < 4096 and len(name) < 128:  # clients choose the names
            self.spelled[name] = kind
        return kind


class Fields:
    """The fields of one message: `lines` to pass on, as they go out, and `read`, those that the proxy knows."""

    __slots__ = ("_table", "lines", "read", "said")

    def __init__(self, table: FieldTable) -> None:
        self._table = table
        self.lines: list[bytes] = []
        self.read: dict[bytes, bytes] = {}
        self.said: Said | None = None  # what the record of an exchange takes from here

    def add(self, name: bytes, value: bytes) -> None:
        """Take a field. One that comes again is read as one list of values (RFC 9110, section 5.3)."""
        table = self._table
        known, passed = table.spelled.get(name) or table.kind(name)
        if known:
            read = self.read
            read[known] = read[known] + b", " + value if known in read else value
        if passed:
            self.lines += (name, b": ", value, b"\r\n")

    def size(self) -> int:
        """Return the bytes of all fields that are kept, about as they came in."""
        return sum(map(len, self.lines)) + sum(map(len, self.read.values()))

    def end_to_end(self) -> list[bytes]:
        """Return the lines to pass on, without the fields that `Connection` names.

        >>> fields = Fields(FieldTable(HOP_BY_HOP, READ))
        >>> fields.add(b"Connection", b"close, X-Hop"); fields.add(b"X-Hop", b"1"); fields.add(b"Accept", b"*/*")
        >>> fields.end_to_end()
        [b'Accept', b': ', b'*/*', b'\\r\\n']
        """
        options = self.read.get(b"connection", b"").lower()
        if options in (b"", b"keep-alive", b"close"):
            return self.lines
        # Content-Type and the like are no hop's to name: without them the message means something else.
        return without(self.lines, *{option.strip() for option in options.split(b",")}.difference(ANSWER_READ))


def without(lines: list[bytes], *names: bytes) -> list[bytes]:
    """Return the lines of fields, as `Fields.add` takes them down, but for those with these names."""
    return [
        part for at in range(0, len(lines), 4) if lines[at].lower() not in names for part in lines[at : at + 4]
    ]


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
    return [b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)], body


def chunk(data: bytes) -> bytes:
    """Return `data` as one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Headers) -> bytes:
    """Return the end of a chunked body, with its trailer fields."""
    return b"0\r\n" + b"".join(name + b": " + value + b"\r\n" for name, value in trailers) + b"\r\n"
