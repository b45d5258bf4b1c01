"""HTTP as the admin port speaks it: one request a connection, and none of them large."""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple

TEXT = "text/plain"
JSON = "application/json"
LONGEST_HEAD = 16 * 1024
LONGEST_BODY = 2**20


class HttpRefused(Exception):
    """A request that is not served: `status` and the message are its answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Reply(NamedTuple):
    """An answer; `further` are header fields beyond those that every answer has."""

    status: int
    content_type: str
    body: bytes
    further: str = ""

    def encoded(self, method: str) -> bytes:
        """Return it as it goes out."""
        head = (
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\nDate: {formatdate(usegmt=True)}\r\n"
            f"Content-Type: {self.content_type}\r\nContent-Length: {len(self.body)}\r\n"
            f"{self.further}Connection: close\r\n\r\n"
        )
        return head.encode("latin-1", "replace") + (b"" if method == "HEAD" else self.body)


def refusal(refused: HttpRefused) -> Reply:
    """Return the answer to a request that is not served."""
    further = "WWW-Authenticate: Bearer\r\n" if refused.status == HTTPStatus.UNAUTHORIZED else ""
    return Reply(refused.status, TEXT, f"{refused}\n".encode(errors="replace"), further)


class Request(NamedTuple):
    """A request's head: `fields` by lower-case name, of each the first."""

    method: str
    path: str
    fields: dict[str, str]


async def read_head(reader: asyncio.StreamReader) -> Request:
    """Read a request up to its body.

    Raises HttpRefused for one that is none, asyncio.IncompleteReadError where the client goes first.
    """
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError:
        raise HttpRefused(431, f"the request's head is over {LONGEST_HEAD} bytes") from None
    line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    method, _, rest = line.partition(" ")
    target, _, version = rest.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or not method.isalpha() or not target.startswith("/"):
        raise HttpRefused(400, "this is no HTTP/1.1 request")
    fields: dict[str, str] = {}
    hosts = 0
    for name, _, value in (one.partition(":") for one in lines):
        fields.setdefault(name.lower(), value.strip())
        hosts += name.lower() == "host"
    if hosts > 1 or (hosts == 0 and version == "HTTP/1.1"):
        raise HttpRefused(400, "a request must have one Host field")
    return Request(method, target.partition("?")[0], fields)


async def read_body(
    request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, longest: int = LONGEST_BODY
) -> bytes:
    """Read a request's body. Raises HttpRefused for one without a length, or that is too long."""
    length = content_length(request.fields, longest)
    if request.fields.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return await reader.readexactly(length)


def content_length(fields: dict[str, str], longest: int) -> int:
    """Return the length of the body. Raises HttpRefused as `read_body` does.

    >>> content_length({"content-length": "12"}, 100)
    12
    """
    text = fields.get("content-length", "")
    if "transfer-encoding" in fields or not (text.isascii() and text.isdecimal()):
        raise HttpRefused(411, "the request needs a Content-Length")
    digits = text.lstrip("0") or "0"
    if len(digits) > len(str(longest)) or int(digits) > longest:
        raise HttpRefused(413, f"{digits[:20]} bytes are more than the {longest} that are taken at once")
    return int(digits)
