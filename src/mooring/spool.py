"""The spool: a crash-safe queue of bytes on local disk, between those who capture and the drain.

A spool is a directory. Each writing process holds a subdirectory of it, named by its writer id, under a
lock that the kernel releases when the process ends, however it ends. In it lie numbered segments: `N.open`
is being written, `N.segment` is closed. A segment is a magic word and then frames: length, CRC-32C, bytes.
A frame that a crash cut short fails one or the other, so a reader knows where the good part ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
from crc32c import crc32c

from mooring.exchange import Exchange, Ledger, decode
from mooring.files import make_directory
from mooring.label import Labels

MAGIC = b"MOORING1"
FRAME = struct.Struct("<II")
SEGMENT_BYTES = 64 * 2**20
SEGMENT_SECONDS = 60.0
UNREADABLE = "unreadable"
"""The directory of a spool with what the drain could not make a part of the log."""
_WHY = ".why.json"
_REMEMBERED = 64
_LEDGER = b"\xa6ledger"
"""The tag of a ledger's frame, behind the byte that begins its array."""
_TAIL_BYTES = 64 * 1024
_LOOKS = 8
_COPIED = 2**20
"""What is shorter is written from one place: to copy it takes less time than to gather it."""
_AT_ONCE = 1024
"""How many places one system call takes (IOV_MAX)."""


class NotASegment(ValueError):
    """A file in the spool that Mooring did not write."""


class Lock:
    """An exclusive lock on a file, held by this process until `release` or its end.

    A child that this process forks has no part in it.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        _held.add(self)

    def release(self) -> None:
        """Let others have it; nothing more if that was done."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


_held: weakref.WeakSet[Lock] = weakref.WeakSet()


def _let_go() -> None:
    # The kernel keeps a lock as long as any process has the file open, a child of the one that took it too.
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_let_go)


def try_lock(path: Path, *, shared: bool = False) -> Lock | None:
    """Return the lock on `path`, made where it is missing; None if another holds it or its directory is gone.

    One that is shared is no obstacle to others that are, and makes no file.
    """
    try:
        fd = os.open(path, os.O_CLOEXEC | (os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT), 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        # Whoever held it before may have removed the file since it was opened here.
        if os.path.samestat(os.fstat(fd), os.stat(path)):
            return Lock(path, fd)
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(fd)
    return None


class SpoolWriter:
    """The writing end of a spool, one for each process. Not safe to share between threads without a lock.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     writer = SpoolWriter(Path(directory))
    ...     _ = writer.append([b"one", b"two"])
    ...     writer.close()
    ...     [payload for segment in segments(Path(directory)) for payload, _ in read_frames(segment.path)]
    [b'one', b'two']
    """

    def __init__(
        self,
        root: Path,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        segment_seconds: float = SEGMENT_SECONDS,
        durable: bool = False,
    ) -> None:
        self.root = root
        self._durable = durable
        self._segment_bytes = segment_bytes
        self._segment_seconds = segment_seconds
        self._fd = -1
        self._sequence = 0
        self._size = 0
        self._opened = 0.0
        self.directory, self._lock = _claim(root)
        if durable:
            for made in (self.directory, root, root.parent):
                sync_directory(made)

    def append(self, payloads: Sequence[bytes | list[bytes]]) -> int:
        """Write `payloads` as frames with one system call; they outlive this process once it returns.

        One that is long may come in pieces, which are not copied. Returns the bytes written. Raises OSError where
        the disk refuses them; then none of them is in the spool.
        """
        self.rotate()
        if self._fd < 0:
            self._open()
        elif os.fstat(self._fd).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "the spool was removed", str(self.directory))
        parts: list[bytes] = []
        size = 0
        for payload in payloads:
            pieces = [payload] if isinstance(payload, bytes) else payload
            length = checksum = 0
            for piece in pieces:
                length += len(piece)
                checksum = crc32c(piece, checksum)
            parts += (FRAME.pack(length, checksum), *pieces)
            size += FRAME.size + length
        try:
            self._write(parts if size > _COPIED else [b"".join(parts)])
        except OSError:
            self._cut_back()
            raise
        self._size += size
        return size

    def _write(self, parts: list[bytes]) -> None:
        for at in range(0, len(parts), _AT_ONCE):
            some: list[bytes | memoryview] = [*parts[at : at + _AT_ONCE]]
            left = sum(map(len, some)) - os.writev(self._fd, some)
            while left:  # the system takes no more than 2 GB, or was interrupted
                rest = memoryview(b"".join(some))[-left:]
                left -= os.write(self._fd, rest)

    def sync(self) -> None:
        """Return once all that was appended before survives a loss of power; may be called in another thread.

        Of a writer that is `durable`: it syncs the segments that it closes.
        """
        fd = self._fd
        if fd < 0:
            return  # a segment is synced as it is closed
        duplicate = os.dup(fd)  # the segment may close meanwhile
        try:
            (os.fdatasync if hasattr(os, "fdatasync") else os.fsync)(duplicate)
        finally:
            os.close(duplicate)

    def check_room(self, size: int) -> None:
        """Raise OSError unless the disk takes `size` bytes now."""
        path = self.directory / "room"
        try:
            path.write_bytes(bytes(size))
        finally:
            path.unlink(missing_ok=True)

    def rotate(self) -> None:
        """Close the open segment if it is full or old enough, so that the drain can take it."""
        if self._fd < 0:
            return
        if self._size >= self._segment_bytes or time.monotonic() - self._opened >= self._segment_seconds:
            self._close_segment()

    def abandon(self) -> None:
        """Give up a directory that somebody has removed, perhaps with the whole log."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._lock.release()

    def close(self) -> None:
        """Close the open segment and give up the subdirectory; the drain removes it."""
        self._close_segment()
        self._lock.release()

    def _open(self) -> None:
        self._sequence += 1
        path = self._path("open")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, MAGIC) != len(MAGIC):
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        self._fd, self._size, self._opened = fd, len(MAGIC), time.monotonic()
        if self._durable:
            sync_directory(self.directory)

    def _cut_back(self) -> None:
        # A torn frame in mid-segment would hide those after it; if it can't be cut off, let it be the last.
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self._close_segment()

    def _close_segment(self) -> None:
        if self._fd < 0:
            return
        if self._durable:
            os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1
        os.rename(self._path("open"), self._path("segment"))

    def _path(self, suffix: str) -> Path:
        return self.directory / f"{self._sequence:08d}.{suffix}"


def spooled_bytes(root: Path) -> int:
    """Return how many bytes wait in a spool."""
    total = 0
    with suppress(OSError):
        for directory in os.scandir(root):
            with suppress(OSError):  # it is removed meanwhile, or no directory
                for entry in os.scandir(directory):
                    with suppress(FileNotFoundError):
                        total += entry.stat().st_size
    return total


class Segment(NamedTuple):
    """A segment file as the drain sees it. `name` is WRITER-SEQUENCE and stays when the segment closes."""

    name: str
    path: Path
    closed: bool


def segments(root: Path) -> list[Segment]:
    """Return the segments of a spool in the order in which each writer wrote them."""
    return [
        Segment(f"{path.parent.name}-{path.stem}", path, path.suffix == ".segment")
        for path in sorted(root.glob("*/*.*"))
        if path.suffix in (".open", ".segment")
    ]


def read_frames(path: Path, offset: int = 0) -> Iterator[tuple[bytes, int]]:
    """Yield each whole frame's bytes and the offset behind it, from `offset` on; stop before a torn tail.

    Raises NotASegment if it is something else.
    """
    with open(path, "rb") as file:
        if offset:
            file.seek(offset)
        else:
            magic = file.read(len(MAGIC))
            if not MAGIC.startswith(magic):
                raise NotASegment(f"{path} is not a segment of a Mooring spool: it begins with {magic!r}")
            offset = len(MAGIC)
        while len(header := file.read(FRAME.size)) == FRAME.size:
            length, checksum = FRAME.unpack(header)
            payload = file.read(length)
            if len(payload) < length or crc32c(payload) != checksum:
                return
            offset += FRAME.size + length
            yield payload, offset


def abandoned(root: Path) -> bool:
    """Whether a process that has ended left anything in this spool."""
    for directory in writers(root):
        # Shared, as the drain's own look at it is: neither must take the other for a writer that lives.
        lock = try_lock(directory / "lock", shared=True)
        if lock is not None:
            lock.release()
            return True
    return False


def live_writers(root: Path) -> bool:
    """Whether any process still writes to this spool. Closes what dead writers left open, removes the empty.

    To be called by the one process that drains the spool. Raises OSError where the spool can't be written.
    """
    alive = False
    for directory in writers(root):
        lock = try_lock(directory / "lock", shared=True)
        if lock is None:
            alive = alive or (directory / "lock").exists()
            continue
        for path in directory.glob("*.open"):
            path.rename(path.with_suffix(".segment"))
        if not any(directory.glob("*.segment")):
            kept = _kept(directory)
            if kept is not None:
                _retire(root, directory.name, kept.ledger)
            for path in directory.iterdir():
                if path.name != "lock":  # it goes last: a drain that comes after this one goes on by it
                    path.unlink()
            shutil.rmtree(directory)
        lock.release()
    for directory in _directories(root):
        with suppress(OSError):
            directory.rmdir()  # what a kill left between making it and its lock, or between removing the two
    return alive


class Kept(msgspec.Struct):
    """A writer's account up to a segment of its, which is in the log and may be deleted."""

    ledger: Ledger
    segment: str


class Account:
    """What a writer's frames say of their exchanges: the last ledger, and what came behind it.

    Nothing does but before a torn tail: a writer ends what it appends with a ledger.
    """

    def __init__(self) -> None:
        self._ledger: Ledger | None = None
        self._behind = self._failed = 0
        self._errors: Counter[str] = Counter()

    def add(self, record: Exchange | Ledger | Labels) -> None:
        """Take the next frame. The account is the same with labels, and with a shadow's answers, as without."""
        if isinstance(record, Labels) or (isinstance(record, Exchange) and record.variant == "shadow"):
            return
        if isinstance(record, Ledger):
            self._ledger = record
            self._behind = self._failed = 0
            self._errors.clear()
            return
        self._behind += 1
        if not record.succeeded:
            self._failed += 1
        if record.errors:
            self._errors.update(record.errors)

    def read(self, segment: Path, offset: int = 0) -> None:
        """Take the frames of a segment, as far as they can be read. Raises FileNotFoundError where it has gone."""
        try:
            for payload, _ in read_frames(segment, offset):
                self.add(decode(payload))
        except FileNotFoundError:
            raise
        except (OSError, ValueError, msgspec.MsgspecError):
            return

    def ledger(self, before: Ledger | None) -> Ledger | None:
        """Return the account, None where there is none, given that of the segments before."""
        ledger, behind = self._ledger or before, self._behind
        if not behind:
            return ledger
        ledger = ledger or Ledger()
        begun = min(behind, ledger.in_flight)
        found = Ledger(
            seen=behind - begun,
            stored=behind,
            in_flight=-begun,
            failed=self._failed,
            errors=dict(self._errors),
        )
        return ledger + found


def keep_account(segment: Segment, account: Account) -> None:
    """Keep a writer's account beside its segments, once for each: it was read from one about to be deleted."""
    directory, name = segment.path.parent, segment.path.stem
    kept = _kept(directory)
    if kept is not None and name <= kept.segment:
        return
    ledger = account.ledger(kept.ledger if kept else None)
    if ledger is not None:
        replace(directory / "ledger.json", msgspec.json.encode(Kept(ledger, name)))


def last_ledger(directory: Path) -> Ledger | None:
    """Return the account of a writer that has ended, however far the drain is with it; None if it left none.

    >>> last_ledger(Path("no-such-spool/writer")) is None
    True
    """
    while directory.is_dir():
        kept = _kept(directory)
        waiting = [*directory.glob("*.open"), *directory.glob("*.segment")]
        account = Account()
        try:
            # One that the log refuses is still there when those after it have gone.
            for path in sorted(path for path in waiting if kept is None or path.stem > kept.segment):
                account.read(path)
        except FileNotFoundError:
            continue  # the drain has just closed or deleted it
        if directory.name in _past(directory.parent).writers:
            break  # what is in the directory is about to go
        if _kept(directory) == kept:
            return account.ledger(kept.ledger if kept else None)
    return _past(directory.parent).writers.get(directory.name)


def _kept(directory: Path) -> Kept | None:
    try:
        return msgspec.json.decode((directory / "ledger.json").read_bytes(), type=Kept)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def writers(root: Path) -> list[Path]:
    """Return the subdirectories of a spool: of processes that live, and of those that have ended."""
    return [path for path in _directories(root) if (path / "lock").exists()]


def _directories(root: Path) -> list[Path]:
    try:
        return list(root.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def replace(path: Path, content: bytes) -> None:
    """Write a file, which is there whole, as it was or as it is now, whenever the process ends."""
    part = path.with_name(f"{path.name}.part")
    _write(part, content)
    os.replace(part, path)


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)


def sync_directory(directory: Path) -> None:
    """Return once the names in a directory survive a loss of power."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _claim(root: Path) -> tuple[Path, Lock]:
    """Make a subdirectory of `root` that this process holds."""
    while True:
        directory = root / uuid.uuid4().hex[:12]
        make_directory(directory, root)
        # Between mkdir and lock a drain may take it for one that a dead writer left, and remove it.
        with suppress(FileNotFoundError):
            lock = try_lock(directory / "lock")
            if lock is not None:
                return directory, lock


def past_ledger(root: Path, ended: Mapping[str, Ledger] | None = None) -> Ledger:
    """Return the account of the processes that wrote to this spool and have ended.

    Those in `ended`, by writer, are in it even if the drain is not done with them yet.
    """
    ended = ended or {}
    waiting = [name for name in ended if (root / name).is_dir()]
    past = _past(root)
    return sum((ended[name] for name in waiting if name not in past.writers), past.ledger)


class Past(msgspec.Struct):
    """The account of all writers that have ended, and those of the last of them by name.

    Which are in it must be known while their directory is still there, and somewhat longer to whoever asks.
    """

    ledger: Ledger = msgspec.field(default_factory=Ledger)
    writers: dict[str, Ledger] = {}


def _past(root: Path) -> Past:
    try:
        return msgspec.json.decode((root / "ledger.json").read_bytes(), type=Past)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return Past()


def _retire(root: Path, writer: str, ledger: Ledger) -> None:
    """Add the account of a writer that has ended to that of the past, once, however often this is called."""
    past = _past(root)
    if writer in past.writers:
        return
    last = list(past.writers)[-_REMEMBERED:]
    writers = {name: kept for name, kept in past.writers.items() if name in last or (root / name).is_dir()}
    ended = ledger.ended()
    replace(root / "ledger.json", msgspec.json.encode(Past(past.ledger + ended, writers | {writer: ended})))


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
    waiting: tuple[tuple[Segment, int, float], ...]
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
    past = _past(root)  # last: a writer that ends meanwhile is in it by name, and counts once
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
        kept = _kept(directory)
        waiting = sorted(path for path in _directories(directory) if path.suffix in (".open", ".segment"))
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


def _with_sizes(waiting: Sequence[Segment]) -> Iterator[tuple[Segment, int, float]]:
    for segment in waiting:
        with suppress(FileNotFoundError):  # in the log by now
            stat = segment.path.stat()
            yield segment, stat.st_size, stat.st_mtime


class Why(msgspec.Struct):
    """Why a file was set aside, when (ISO 8601, UTC), and how many exchanges are in it."""

    reason: str
    exchanges: int
    time: str


class Unreadable(NamedTuple):
    """A file that a drain could not make a part of the log; `why` is None where nothing says it."""

    path: Path
    bytes: int
    why: Why | None


def set_aside(root: Path, name: str, content: Path | bytes, reason: str, exchanges: int) -> Path:
    """Put a segment, or a frame of one, where nothing empties, with the reason beside it, and return its place.

    Its exchanges were stored, and count as dropped from then on, under `unreadable`. To be called by the drain.
    Raises OSError where the spool can't be written.
    """
    directory = root / UNREADABLE
    make_directory(directory, root)
    path = directory / name
    why = Why(reason, exchanges, datetime.now(UTC).isoformat(timespec="seconds"))
    replace(path.with_name(name + _WHY), msgspec.json.format(msgspec.json.encode(why), indent=1))
    if isinstance(content, bytes):
        _write(path, content)
    else:
        content.rename(path)
    if exchanges:
        past = _past(root)
        lost = Ledger(stored=-exchanges, dropped={UNREADABLE: exchanges})
        replace(root / "ledger.json", msgspec.json.encode(Past(past.ledger + lost, past.writers)))
    return path


def unreadable(root: Path) -> list[Unreadable]:
    """Return what a drain has set aside.

    >>> unreadable(Path("no-such-spool"))
    []
    """
    found = []
    for path in sorted(_directories(root / UNREADABLE)):
        if path.name.endswith((_WHY, ".part")):
            continue
        with suppress(FileNotFoundError):
            found.append(Unreadable(path, path.stat().st_size, _why(path)))
    return found


def _why(path: Path) -> Why | None:
    try:
        return msgspec.json.decode(path.with_name(path.name + _WHY).read_bytes(), type=Why)
    except (OSError, msgspec.MsgspecError):
        return None
