"""Ids of requests: UUIDv7, so that they sort by the time they were made."""

from __future__ import annotations

import re
from random import getrandbits
from time import time_ns as clock

OWN = "^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
"""What Mooring's ids match, as `re` and Arrow read it. A client may make such ids, too."""
_OWN = re.compile(OWN[1:-1])


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


def made_at(request_id: str) -> int | None:
    """Return when an id of Mooring's form was made, in milliseconds since the epoch; None for another's.

    >>> made_at("01890a5d-ac96-774b-bcce-b302099a8057"), made_at("order-1")
    (1688096058518, None)
    """
    return int(request_id[:8] + request_id[9:13], 16) if _OWN.fullmatch(request_id) else None
