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
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from crc32c import crc32c

MAGIC = b"MOORING1"
FRAME = struct.Struct("<II")
SEGMENT_BYTES = 64 * 2**20
SEGMENT_SECONDS = 60.0


class Lock:
    """An exclusive lock on a file, held by this process until `release` or its end."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    def release(self) -> None:
        """Let others have it."""
        os.close(self._fd)


def try_lock(path: Path) -> Lock | None:
    """Return the lock on `path`, made where it is missing, or None while somebody else holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
    ...     writer.append([b"one", b"two"])
    ...     writer.close()
    ...     [payload for segment in segments(Path(directory)) for payload, _ in read_frames(segment.path)]
    [b'one', b'two']
    """

    def __init__(
        self, root: Path, *, segment_bytes: int = SEGMENT_BYTES, segment_seconds: float = SEGMENT_SECONDS
    ) -> None:
        self.root = root
        self._segment_bytes = segment_bytes
        self._segment_seconds = segment_seconds
        self._fd = -1
        self._sequence = 0
        self._size = 0
        self._opened = 0.0
        self.directory, self._lock = _claim(root)

    def append(self, payloads: Sequence[bytes]) -> None:
        """Write `payloads` as frames with one system call; they outlive this process once it returns.

        Raises OSError where the disk refuses them; then none of them is in the spool.
        """
        self.rotate()
        if self._fd < 0:
            self._open()
        data = b"".join(
            part for payload in payloads for part in (FRAME.pack(len(payload), crc32c(payload)), payload)
        )
        try:
            written = os.write(self._fd, data)
            while written < len(data):
                written += os.write(self._fd, memoryview(data)[written:])
        except OSError:
            self._cut_back()
            raise
        self._size += len(data)

    def rotate(self) -> None:
        """Close the open segment if it is full or old enough, so that the drain can take it."""
        if self._fd < 0:
            return
        if self._size >= self._segment_bytes or time.monotonic() - self._opened >= self._segment_seconds:
            self._close_segment()

    def close(self) -> None:
        """Close the open segment and give up the subdirectory; the drain removes it."""
        self._close_segment()
        self._lock.release()

    def _open(self) -> None:
        self._sequence += 1
        path = self._path("open")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            if os.write(fd, MAGIC) != len(MAGIC):
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        self._fd, self._size, self._opened = fd, len(MAGIC), time.monotonic()

    def _cut_back(self) -> None:
        # A torn frame in mid-segment would hide those after it; if it can't be cut off, let it be the last.
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self._close_segment()

    def _close_segment(self) -> None:
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        os.rename(self._path("open"), self._path("segment"))

    def _path(self, suffix: str) -> Path:
        return self.directory / f"{self._sequence:08d}.{suffix}"


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

    Raises ValueError if the file is not a segment.
    """
    with open(path, "rb") as file:
        if offset:
            file.seek(offset)
        else:
            magic = file.read(len(MAGIC))
            if not MAGIC.startswith(magic):
                raise ValueError(f"{path} is not a segment of a Mooring spool: it begins with {magic!r}")
            offset = len(MAGIC)
        while len(header := file.read(FRAME.size)) == FRAME.size:
            length, checksum = FRAME.unpack(header)
            payload = file.read(length)
            if len(payload) < length or crc32c(payload) != checksum:
                return
            offset += FRAME.size + length
            yield payload, offset


def live_writers(root: Path) -> bool:
    """Whether any process still writes to this spool. Closes what dead writers left open, removes the empty.

    To be called by the one process that drains the spool.
    """
    alive = False
    for directory in root.iterdir():
        if not directory.is_dir():
            continue
        lock = try_lock(directory / "lock")
        if lock is None:
            alive = True
            continue
        for path in directory.glob("*.open"):
            path.rename(path.with_suffix(".segment"))
        if not any(directory.glob("*.segment")):
            shutil.rmtree(directory)
        lock.release()
    return alive


def _claim(root: Path) -> tuple[Path, Lock]:
    """Make a subdirectory of `root` that this process holds."""
    while True:
        directory = root / uuid.uuid4().hex[:12]
        directory.mkdir(parents=True)
        # Between mkdir and lock a drain may take it for one that a dead writer left, and remove it.
        with suppress(FileNotFoundError):
            lock = try_lock(directory / "lock")
            if lock is not None:
                return directory, lock
