"""The spool: a crash-safe queue of bytes on local disk, between those who capture and the drain.

A spool is a directory. Each writing process holds a subdirectory of it, named by its writer id, under a
lock that the kernel releases when the process ends, however it ends. In it lie numbered segments: `N.open`
is being written, `N.segment` is closed. A segment is a magic word and then frames: length, CRC-32C, bytes.
A frame that a crash cut short fails one or the other, so a reader knows where the good part ends.
"""

from __future__ import annotations

from mooring.spool.account import (
    Account,
    Past,
    Why,
    keep_account,
    last_ledger,
    live_writers,
    past_ledger,
    set_aside,
)
from mooring.spool.inspect import Look, Unreadable, Writer, look, unreadable
from mooring.spool.segments import (
    FRAME,
    MAGIC,
    NotASegment,
    SpoolSegment,
    SpoolWriter,
    abandoned,
    read_frames,
    segments,
    spooled_bytes,
    writers,
)

__all__ = [
    "FRAME",
    "MAGIC",
    "Account",
    "Look",
    "NotASegment",
    "Past",
    "SpoolSegment",
    "SpoolWriter",
    "Unreadable",
    "Why",
    "Writer",
    "abandoned",
    "keep_account",
    "last_ledger",
    "live_writers",
    "look",
    "past_ledger",
    "read_frames",
    "segments",
    "set_aside",
    "spooled_bytes",
    "unreadable",
    "writers",
]
