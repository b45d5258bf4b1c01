"""Exchange: one captured request and its answer, the record that everything starts from."""

from __future__ import annotations

import os
import time

import msgspec


class Exchange(msgspec.Struct, array_like=True, kw_only=True):
    """One scoring request and its answer, a failed one too.

    `time_ns` is when the request was received (UTC, nanoseconds since the epoch) and `duration_ns` how long
    its answer took. Bodies are the raw bytes as the client sent and got them. `status` is 0 where no answer
    came. `errors` holds the codes of what went wrong in the capture itself or between client and server.

    New fields go to the end and have a default, so that a spool written by an older version can be read.

    >>> exchange = Exchange(request_id=new_request_id(), time_ns=time.time_ns(), request=b"{}", response=b"[]")
    >>> decode(encode(exchange)) == exchange
    True
    """

    request_id: str
    time_ns: int
    duration_ns: int = 0
    method: str = "POST"
    path: str = "/invocations"
    status: int = 200
    request_type: str = "application/json"
    request_encoding: str = ""
    response_type: str = "application/json"
    response_encoding: str = ""
    request: bytes = b""
    response: bytes = b""
    client_request_id: str | None = None
    headers: dict[str, str] = {}
    model: str | None = None
    version: str | None = None
    variant: str = "champion"
    sampling: float = 1.0
    errors: list[str] = []

    @property
    def succeeded(self) -> bool:
        """Whether the model server answered this request with a prediction."""
        return 200 <= self.status < 300


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Exchange).decode


def new_request_id(time_ns: int | None = None) -> str:
    """Return a UUIDv7 (RFC 9562, section 5.7) as text: ids sort by the time they were made.

    >>> new_request_id(0)[:15]
    '00000000-0000-7'
    >>> new_request_id(1) < new_request_id(2_000_000)
    True
    """
    milliseconds = (time.time_ns() if time_ns is None else time_ns) // 1_000_000
    random = int.from_bytes(os.urandom(10))
    value = (milliseconds & 0xFFFFFFFFFFFF) << 80 | 7 << 76 | (random >> 68) << 64 | 2 << 62
    text = f"{value | random & 0x3FFFFFFFFFFFFFFF:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
