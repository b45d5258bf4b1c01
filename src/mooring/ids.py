"""Ids of requests: UUIDv7, so that they sort by the time they were made."""

from __future__ import annotations

from random import getrandbits
from time import time_ns as clock


def new_request_id(time_ns: int | None = None) -> str:
    """Return a UUIDv7 (RFC 9562, section 5.7) as text, for a time in nanoseconds since the epoch, or for now.

    >>> new_request_id(0)[:15]
    '00000000-0000-7'
    >>> new_request_id(1) < new_request_id(2_000_000)
    True
    """
    milliseconds = (clock() if time_ns is None else time_ns) // 1_000_000 & 0xFFFFFFFFFFFF
    # Unique, not secret: the generator is seeded by the system, anew in a forked process too.
    high = milliseconds << 16 | 0x7000 | getrandbits(12)
    text = (high << 64 | 2 << 62 | getrandbits(62)).to_bytes(16, "big").hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
