"""What a spool holds, for those who only look: nothing in it is changed, and nobody has to wait."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
from crc32c import crc32c

from mooring.exchange import Ledger, decode
from mooring.files import try_lock
from mooring.spool.account import UNREADABLE, WHY, Account, Why, kept_account, past_accounts
from mooring.spool.segments import FRAME, SpoolSegment, directories, segments, writers

_LEDGER = b"\xa6ledger"
"""The tag of a ledger's frame, behind the byte that begins its array."""
_TAIL_BYTES = 64 * 1024
_LOOKS = 8


class Writer(NamedTuple):
    """A process that writes to a spool, or has ended and left something in it; `lives` is None where unknown."""

    name: str
    lives: bool | None
    ledger: Ledger


class Look(NamedTuple):
    """What a spool holds at a moment, for those who only look.

    `ledger` is the account of all that ever wrote to it. `waiting` are its segments with their sizes and the times
    of their last writes, `drained` says whether a drain lives (None where nobody knows), `unreadable` what a drain
    has set aside.
    """

    ledger: Ledger
    writers: tuple[Writer, ...]
    waiting: tuple[tuple[SpoolSegment, int, float], ...]
    drained: bool | None
    unreadable: tuple[Unreadable, ...]


def look(root: Path) -> Look | None:
    """Return what a spool holds, None where there is none. Nothing in it is changed, and nobody has to wait.

    Of a segment only its end is read, however long it is. Raises OSError where the spool can't be read.

    >>> look(Path("no-such-spool")) is None
    True
    """
    if not root.is_dir():
        return None
    found = []
    for directory in writers(root):
        lives = _is_held(directory / "lock")
        ledger = _ledger_now(directory)
        if ledger is not None:
            found.append(Writer(directory.name, lives, ledger if lives is not False else ledger.ended()))
    past = past_accounts(root)  # last: a writer that ends meanwhile is in it by name, and counts once
    alive = tuple(one for one in found if one.name not in past.writers)
    return Look(
        sum((one.ledger for one in alive), past.ledger),
        alive,
        tuple(_with_sizes(segments(root))),
        _is_held(root / "drain.lock"),
        tuple(unreadable(root)),
    )


def _is_held(path: Path) -> bool | None:
    """Whether a process holds a lock; None where that can't be told. It is shared, for a moment only."""
    try:
        lock = try_lock(path, shared=True)
        if lock is None:
            return path.exists()
    except OSError:
        return None
    lock.release()
    return False


def _ledger_now(directory: Path) -> Ledger | None:
    """Return the newest account of a writer, from the end of its newest segment that has one."""
    for _ in range(_LOOKS):
        kept = kept_account(directory)
        waiting = sorted(path for path in directories(directory) if path.suffix in (".open", ".segment"))
        account, parts = Account(), list[tuple[Path, int]]()
        try:
            for path in reversed([path for path in waiting if kept is None or path.stem > kept.segment]):
                place = _last_ledger_at(path)
                parts.append((path, place or 0))
                if place is not None:
                    break
            for path, place in reversed(parts):
                account.read(path, place)
        except FileNotFoundError:
            continue  # closed, or in the log, since it was listed
        return account.ledger(kept.ledger if kept else None)
    return None


def _last_ledger_at(path: Path) -> int | None:
    """Return where the last whole ledger of a segment begins, None where it has none."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        wanted = min(size, _TAIL_BYTES)
        while True:
            file.seek(size - wanted)
            tail = file.read(wanted)
            at = len(tail)
            while (at := tail.rfind(_LEDGER, 0, at)) >= 0:
                begin = at - 1 - FRAME.size
                if begin >= 0 and _is_ledger(tail, begin):
                    return size - wanted + begin
            if wanted == size:
                return None
            wanted = min(size, wanted * 8)


def _is_ledger(tail: bytes, begin: int) -> bool:
    length, checksum = FRAME.unpack_from(tail, begin)
    payload = tail[begin + FRAME.size : begin + FRAME.size + length]
    if len(payload) < length or crc32c(payload) != checksum:
        return False
    try:
        return isinstance(decode(payload), Ledger)
    except (ValueError, msgspec.MsgspecError):
        return False


def _with_sizes(waiting: Sequence[SpoolSegment]) -> Iterator[tuple[SpoolSegment, int, float]]:
    for segment in waiting:
        with suppress(FileNotFoundError):  # in the log by now
            stat = segment.path.stat()
            yield segment, stat.st_size, stat.st_mtime


class Unreadable(NamedTuple):
    """A file that a drain could not make a part of the log; `why` is None where nothing says it."""

    path: Path
    bytes: int
    why: Why | None


def unreadable(root: Path) -> list[Unreadable]:
    """Return what a drain has set aside.

    >>> unreadable(Path("no-such-spool"))
    []
    """
    found = []
    for path in sorted(directories(root / UNREADABLE)):
        if path.name.endswith((WHY, ".part")):
            continue
        with suppress(FileNotFoundError):
            found.append(Unreadable(path, path.stat().st_size, _why(path)))
    return found


def _why(path: Path) -> Why | None:
    try:
        return msgspec.json.decode(path.with_name(path.name + WHY).read_bytes(), type=Why)
    except (OSError, msgspec.MsgspecError):
        return None
