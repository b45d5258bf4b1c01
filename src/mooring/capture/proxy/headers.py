"""Heads of messages as an intermediary passes them on (RFC 9110, section 7.6; RFC 9112)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple

Headers = list[tuple[bytes, bytes]]

VIA = b"1.1 mooring"
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    }
)
FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"})
REQUEST_ID = b"x-request-id"
REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class RequestHead(NamedTuple):
    """A request's line and fields, as the client sent them."""

    method: bytes
    target: bytes
    version: str
    headers: Headers

    def get(self, name: bytes) -> bytes:
        """Return the first value of the field `name` (in lower case), or empty bytes."""
        return next((value for key, value in self.headers if key.lower() == name), b"")


class AnswerHead(NamedTuple):
    """A response's status line and fields, as the model server sent them."""

    status: int
    reason: bytes
    headers: Headers

    def get(self, name: bytes) -> bytes:
        """Return the first value of the field `name` (in lower case), or empty bytes."""
        return next((value for key, value in self.headers if key.lower() == name), b"")


def end_to_end(headers: Headers, also_drop: Iterable[bytes] = ()) -> Headers:
    """Return the fields that pass an intermediary: neither hop-by-hop nor named by `Connection`.

    >>> end_to_end([(b"Connection", b"close, X-Hop"), (b"X-Hop", b"1"), (b"Accept", b"*/*")])
    [(b'Accept', b'*/*')]
    """
    drop = HOP_BY_HOP.union(also_drop)
    for name, value in headers:
        if name.lower() == b"connection":
            drop = drop.union(option.strip().lower() for option in value.split(b","))
    return [header for header in headers if header[0].lower() not in drop]


def request_head(
    head: RequestHead,
    target: bytes,
    *,
    host: bytes,
    client: bytes,
    framing: tuple[bytes, bytes] | None,
    request_id: bytes | None = None,
    drop: Iterable[bytes] = (),
) -> bytes:
    """Return the head to send to the model server.

    `framing` is the Content-Length or Transfer-Encoding field, None for a request without a body.
    """
    dropped = {b"host", b"content-length", *FORWARDED, *drop}
    if request_id is not None:
        dropped.add(REQUEST_ID)
    via = [value for name, value in head.headers if name.lower() == b"via"]
    lines = [head.method + b" " + target + b" HTTP/1.1", b"Host: " + host]
    lines += [name + b": " + value for name, value in end_to_end(head.headers, {*dropped, b"via"})]
    lines.append(b"Via: " + b", ".join([*via, VIA]))
    lines.append(b"X-Forwarded-For: " + client)
    lines.append(b"X-Forwarded-Proto: http")
    if forwarded_host := head.get(b"host"):
        lines.append(b"X-Forwarded-Host: " + forwarded_host)
    if request_id is not None:
        lines.append(b"X-Request-Id: " + request_id)
    if framing is not None:
        lines.append(framing[0] + b": " + framing[1])
    return b"\r\n".join(lines) + b"\r\n\r\n"


def answer_head(
    answer: AnswerHead, *, chunked: bool, connection: bytes | None, request_id: bytes | None = None
) -> bytes:
    """Return the head to send to the client, with `Connection: connection` where it must be said."""
    reason = answer.reason or REASONS.get(answer.status, b"")
    lines = [b"HTTP/1.1 %d " % answer.status + reason]
    drop = {b"via"} if request_id is None else {b"via", REQUEST_ID}
    via = [value for name, value in answer.headers if name.lower() == b"via"]
    lines += [name + b": " + value for name, value in end_to_end(answer.headers, drop)]
    lines.append(b"Via: " + b", ".join([*via, VIA]))
    if request_id is not None:
        lines.append(b"X-Request-Id: " + request_id)
    if chunked:
        lines.append(b"Transfer-Encoding: chunked")
    if connection is not None:
        lines.append(b"Connection: " + connection)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def own_answer(status: int, code: str, message: str) -> tuple[AnswerHead, bytes]:
    """Return an answer of the proxy's own, its body shaped as MLflow shapes its errors."""
    body = json.dumps({"error_code": code, "message": message}).encode() + b"\n"
    headers = [(b"Content-Type", b"application/json"), (b"Content-Length", str(len(body)).encode())]
    return AnswerHead(status, REASONS[status], headers), body


def chunk(data: bytes) -> bytes:
    """Return `data` as one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Headers) -> bytes:
    """Return the end of a chunked body, with its trailer fields."""
    return b"0\r\n" + b"".join(name + b": " + value + b"\r\n" for name, value in trailers) + b"\r\n"
