"""Segments of a spool: how they are written, found and read."""

from __future__ import annotations

import errno
import os
import struct
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from crc32c import crc32c

from mooring.files import Lock, make_directory, sync, try_lock

MAGIC = b"MOORING1"
FRAME = struct.Struct("<II")
SEGMENT_BYTES = 64 * 2**20
SEGMENT_SECONDS = 60.0
_COPIED = 2**20
"""What is shorter is written from one place: to copy it takes less time than to gather it."""
_AT_ONCE = 1024
"""How many places one system call takes (IOV_MAX)."""


class NotASegment(ValueError):
    """A file in the spool that Mooring did not write."""


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
                sync(made)

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
            sync(self.directory)

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


class SpoolSegment(NamedTuple):
    """A segment file as the drain sees it. `name` is WRITER-SEQUENCE and stays when the segment closes."""

    name: str
    path: Path
    closed: bool


def segments(root: Path) -> list[SpoolSegment]:
    """Return the segments of a spool in the order in which each writer wrote them."""
    return [
        SpoolSegment(f"{path.parent.name}-{path.stem}", path, path.suffix == ".segment")
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


def writers(root: Path) -> list[Path]:
    """Return the subdirectories of a spool: of processes that live, and of those that have ended."""
    return [path for path in directories(root) if (path / "lock").exists()]


def directories(root: Path) -> list[Path]:
    """Return what lies in a directory, nothing where it is none."""
    try:
        return list(root.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def abandoned(root: Path) -> bool:
    """Whether a process that has ended left anything in this spool."""
    for directory in writers(root):
        # Shared, as the drain's own look at it is: neither must take the other for a writer that lives.
        lock = try_lock(directory / "lock", shared=True)
        if lock is not None:
            lock.release()
            return True
    return False


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
