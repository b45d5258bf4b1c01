"""How Mooring writes files: whole or not at all, locked where several do, and closed to others.

A file is written beside its place and renamed into it, so whoever reads it finds it as it was or as it is now. One
that is `durable` survives a loss of power, too: its content is synced first, and its name after that.

Who may read what Mooring writes: its owner, and nobody else unless the directory that was named has a group.

A directory that Mooring makes is 0700 and a file 0600, whatever the umask. Below a directory that is closed to
others and open to its group, as somebody has to make it on purpose (`chmod 2750`), the group gets the same rights.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_OWNER = 0o700
_FILE = 0o600
_GROUP = 0o070
_OTHERS = 0o007
_MADE = re.compile(
    r"payloads|inferences|labels|schemas|errors|shadow|unreadable|ledger\.json|attempts\.json|drain\.lock|[0-9a-f]{12}"
    r"|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.csv"
)
"""What lies in a spool or log: directories, the spool's account, and requests of the log in CSV."""
OWN = ".mooring"
"""The directory that Mooring makes for itself: what is in it is nobody else's business."""


def shared(root: Path) -> int:
    """Return the rights that a group has on what is below a directory, as bits of a mode.

    >>> import tempfile
    >>> directory = Path(tempfile.mkdtemp())
    >>> def seen(mode): directory.chmod(mode); return oct(shared(directory))
    >>> seen(0o750), seen(0o755), seen(0o700)
    ('0o50', '0o0', '0o0')
    """
    try:
        mode = root.stat().st_mode
    except OSError:
        return 0
    return 0 if mode & _OTHERS else mode & _GROUP


def make_directory(path: Path, root: Path) -> None:
    """Make a directory at or below `root` and those above it, as far as they are missing.

    Raises OSError where that can't be.
    """
    missing = []
    for one in (path, *path.parents):
        if one.is_dir():
            break
        missing.append(one)
    for one in reversed(missing):
        with suppress(FileExistsError):
            one.mkdir(_OWNER)
            rights = shared(root) if one != root and root in one.parents else 0
            one.chmod(_OWNER | rights | (one.stat().st_mode & stat.S_ISGID))
    if not path.is_dir():
        path.mkdir()  # raises what is wrong


def close_file(fd: int, root: Path) -> None:
    """Give a file that was just made, for its owner alone, the rights of what is below `root`."""
    os.fchmod(fd, _FILE | (shared(root) & 0o060))


def check(root: Path, what: str) -> str:
    """Close what others can read at a directory of Mooring's, and return what has to be said of it.

    A directory of Mooring's own, `.mooring` and below, is closed. Of another one, what Mooring has made in it is
    closed, and the text says that it is open. Nothing is said where nobody else can read it, or it is not there.
    """
    try:
        if not root.stat().st_mode & _OTHERS:
            return ""
        if OWN in root.absolute().parts:
            root.chmod(_OWNER)
            return ""
        for entry in os.scandir(root):
            if _MADE.fullmatch(entry.name):  # what else may be there is not Mooring's to close
                close(Path(entry.path))
    except OSError:  # it is gone, or somebody else's
        return ""
    return (
        f"{what} {root} is a directory that every user of this machine can look into: what Mooring writes there "
        f"is closed to them, but not its names. Run chmod 700 {root}, or chmod 2750 to let its group read"
    )


def close(path: Path) -> None:
    """Take a file or directory of one's own from others; what is somebody else's, or gone, stays."""
    with suppress(OSError):
        found = path.lstat()
        if found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode) and found.st_mode & _OTHERS:
            path.chmod(_OWNER if stat.S_ISDIR(found.st_mode) else _FILE)


@contextmanager
def writing(
    path: Path, *, root: Path | None = None, durable: bool = False, private: bool = True
) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` at the end, or leaves it as it was where that fails.

    To be called by one process at a time for each path. The file is its owner's alone, unless `root` says whose
    rights it gets, or it is not `private` and the umask does. Raises OSError.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb", opener=_private if private else None) as file:
            if root is not None:
                close_file(file.fileno(), root)
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def replace(
    path: Path, content: bytes, *, root: Path | None = None, durable: bool = False, private: bool = True
) -> None:
    """Write a file, or replace it, as `writing` does."""
    with writing(path, root=root, durable=durable, private=private) as file:
        file.write(content)


def create(path: Path, content: bytes | memoryview, root: Path) -> bool:
    """Make a file below `root`, unless there is one, and say whether it was made; several may try at a time.

    It is durable, and so are the directories that it needs. Raises OSError.
    """
    if path.exists():
        return False
    make_directory(path.parent, root)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        with open(part, "xb", opener=_private) as file:
            close_file(file.fileno(), root)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)
    except FileExistsError:
        return False
    finally:
        part.unlink(missing_ok=True)
    for made in path.parents[: len(path.parent.relative_to(root).parts) + 1]:
        sync(made)
    return True


def sync(path: Path) -> None:
    """Return once a file, or the names in a directory, survive a loss of power."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def clear(path: Path) -> None:
    """Remove whatever is in a place, not what a link there leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, _FILE)


class Lock:
    """A lock on a file, held by this process until `release` or its end.

    A child that this process forks has no part in it, one that it starts and hands the descriptor has.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        _held.add(self)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

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
        fd = os.open(path, os.O_CLOEXEC | (os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT), _FILE)
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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until nobody else has the lock on `path`, made where it is missing, and hold it meanwhile."""
    lock = Lock(path, os.open(path, os.O_CLOEXEC | os.O_RDWR | os.O_CREAT, _FILE))
    try:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        yield
    finally:
        lock.release()
