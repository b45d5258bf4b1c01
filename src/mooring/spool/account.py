"""The account of a spool's exchanges, kept by the drain when what it was read from goes into the log, or aside."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from mooring.exchange import Exchange, Ledger, decode
from mooring.files import make_directory, replace, try_lock
from mooring.label import Labels
from mooring.spool.segments import SpoolSegment, directories, read_frames, writers

UNREADABLE = "unreadable"
"""The directory of a spool with what the drain could not make a part of the log."""
WHY = ".why.json"
"""How the name of the file ends that says why another was set aside."""
_REMEMBERED = 64


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


def keep_account(segment: SpoolSegment, account: Account) -> None:
    """Keep a writer's account beside its segments, once for each: it was read from one about to be deleted."""
    directory, name = segment.path.parent, segment.path.stem
    kept = kept_account(directory)
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
        kept = kept_account(directory)
        waiting = [*directory.glob("*.open"), *directory.glob("*.segment")]
        account = Account()
        try:
            # One that the log refuses is still there when those after it have gone.
            for path in sorted(path for path in waiting if kept is None or path.stem > kept.segment):
                account.read(path)
        except FileNotFoundError:
            continue  # the drain has just closed or deleted it
        if directory.name in past_accounts(directory.parent).writers:
            break  # what is in the directory is about to go
        if kept_account(directory) == kept:
            return account.ledger(kept.ledger if kept else None)
    return past_accounts(directory.parent).writers.get(directory.name)


def kept_account(directory: Path) -> Kept | None:
    """Return what the drain has kept of a writer's account, None where that is nothing yet."""
    try:
        return msgspec.json.decode((directory / "ledger.json").read_bytes(), type=Kept)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def past_ledger(root: Path, ended: Mapping[str, Ledger] | None = None) -> Ledger:
    """Return the account of the processes that wrote to this spool and have ended.

    Those in `ended`, by writer, are in it even if the drain is not done with them yet.
    """
    ended = ended or {}
    waiting = [name for name in ended if (root / name).is_dir()]
    past = past_accounts(root)
    return sum((ended[name] for name in waiting if name not in past.writers), past.ledger)


class Past(msgspec.Struct):
    """The account of all writers that have ended, and those of the last of them by name.

    Which are in it must be known while their directory is still there, and somewhat longer to whoever asks.
    """

    ledger: Ledger = msgspec.field(default_factory=Ledger)
    writers: dict[str, Ledger] = {}


def past_accounts(root: Path) -> Past:
    """Return the account of all writers that have ended, as the drain has kept it."""
    try:
        return msgspec.json.decode((root / "ledger.json").read_bytes(), type=Past)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return Past()


def _retire(root: Path, writer: str, ledger: Ledger) -> None:
    """Add the account of a writer that has ended to that of the past, once, however often this is called."""
    past = past_accounts(root)
    if writer in past.writers:
        return
    last = list(past.writers)[-_REMEMBERED:]
    writers = {name: kept for name, kept in past.writers.items() if name in last or (root / name).is_dir()}
    ended = ledger.ended()
    replace(root / "ledger.json", msgspec.json.encode(Past(past.ledger + ended, writers | {writer: ended})))


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
            kept = kept_account(directory)
            if kept is not None:
                _retire(root, directory.name, kept.ledger)
            for path in directory.iterdir():
                if path.name != "lock":  # it goes last: a drain that comes after this one goes on by it
                    path.unlink()
            shutil.rmtree(directory)
        lock.release()
    for directory in directories(root):
        with suppress(OSError):
            directory.rmdir()  # what a kill left between making it and its lock, or between removing the two
    return alive


class Why(msgspec.Struct):
    """Why a file was set aside, when (ISO 8601, UTC), and how many exchanges are in it."""

    reason: str
    exchanges: int
    time: str


def set_aside(root: Path, name: str, content: Path | bytes, reason: str, exchanges: int) -> Path:
    """Put a segment, or a frame of one, where nothing empties, with the reason beside it, and return its place.

    Its exchanges were stored, and count as dropped from then on, under `unreadable`. To be called by the drain.
    Raises OSError where the spool can't be written.
    """
    directory = root / UNREADABLE
    make_directory(directory, root)
    path = directory / name
    why = Why(reason, exchanges, datetime.now(UTC).isoformat(timespec="seconds"))
    replace(path.with_name(name + WHY), msgspec.json.format(msgspec.json.encode(why), indent=1))
    if isinstance(content, bytes):
        replace(path, content)
    else:
        content.rename(path)
    if exchanges:
        past = past_accounts(root)
        lost = Ledger(stored=-exchanges, dropped={UNREADABLE: exchanges})
        replace(root / "ledger.json", msgspec.json.encode(Past(past.ledger + lost, past.writers)))
    return path
