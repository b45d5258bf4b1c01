"""Who may read what Mooring writes: its owner, and nobody else unless the directory that was named has a group.

A directory that Mooring makes is 0700 and a file 0600, whatever the umask. Below a directory that is closed to
others and open to its group, as somebody has to make it on purpose (`chmod 2750`), the group gets the same rights.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path

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
