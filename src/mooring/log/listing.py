"""Which objects a log has: of which models and days they are, by their names alone."""

from __future__ import annotations

import hashlib
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote

import obstore
from obstore.exceptions import BaseError

from mooring import spool
from mooring.log import store
from mooring.settings import CaptureSettings

if TYPE_CHECKING:
    from obstore.store import ObjectStore

Instant = datetime | date | str
Skipped = dict[str, str]
"""Objects of the log that were left out, by name: why each of them can't be read."""

AGAIN_SECONDS = 3600.0
"""After how long what can't be read is said again."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LISTS_AT_ONCE = 16

logger = logging.getLogger(__name__)


class LogError(ValueError):
    """A log, a model or a column that is not there; the message says what is."""


def folder_name(model: str) -> str:
    """Return the name of a model as its folders have it: no file system takes more than 255 bytes.

    >>> folder_name("wine/white")
    'wine%2Fwhite'
    """
    name = quote(model, safe="")
    if len(name) <= 200:
        return name
    return f"{re.sub('%.?$', '', name[:160])}-{hashlib.blake2b(model.encode(), digest_size=8).hexdigest()}"


def log_skipped(skipped: Skipped) -> None:
    """Log a warning of each object that was left out."""
    for path, reason in skipped.items():
        logger.warning(
            "%s is left out: %s. Remove it, or mend it: until then it is tried again",
            path,
            reason,
            extra={"every": AGAIN_SECONDS, "about": path},
        )


def open_log(uri: str) -> ObjectStore:
    """Return the store of a log. Raises LogError for a directory that is not there."""
    if store.is_local(uri) and not Path(uri.removeprefix("file://")).is_dir():
        raise LogError(f"there is no log at {uri}: name the one that --log named when it was written")
    return store.open_store(uri)


def models(opened: ObjectStore, uri: str) -> list[str]:
    """Return the names of the models that a log holds anything of."""
    found = _below(opened, uri, "payloads") | _below(opened, uri, "inferences")
    return sorted(unquote(name.removeprefix("model=")) for name in found if name.startswith("model="))


def only_model(opened: ObjectStore, uri: str, model: str | None) -> str:
    """Return `model`, or the only one of the log. Raises LogError where that is none."""
    there = models(opened, uri)
    if model is not None and folder_name(model) in map(folder_name, there):
        return model
    if not there:
        settings = CaptureSettings(log=uri)
        try:
            found = spool.look(settings.spool_path)
        except OSError:
            found = None  # it may be its owner's alone
        waiting = "" if found is None else f"; {found.ledger.stored} requests are in the spool now"
        raise LogError(
            f"there is nothing in the log {uri} yet: what is captured gets there by itself within "
            f"--segment-seconds ({settings.segment_seconds:g} s by default){waiting}"
        )
    if model is None and len(there) == 1:
        return there[0]
    names = ", ".join(there)
    wanted = "say which model is meant" if model is None else f"there is no model {model} in the log {uri}"
    raise LogError(f"{wanted}; it has: {names}")


class Object(NamedTuple):
    """An object of the log: its name in the store, its day, its size in bytes, and when it was written."""

    path: str
    day: date
    size: int
    written: datetime = _EPOCH


def list_objects(
    opened: ObjectStore, uri: str, prefix: str, start: datetime | None = None, end: datetime | None = None
) -> list[Object]:
    """Return the Parquet objects below `prefix` of the days that can have rows in [start, end), day by day."""

    def list_day(day: date) -> list[Object]:
        try:
            metas = [meta for batch in obstore.list(opened, f"{prefix}/date={day}/") for meta in batch]
        except (BaseError, OSError) as error:
            raise store.StoreError(store.explain(error, uri)) from error
        return sorted(
            Object(meta["path"], day, meta["size"], meta["last_modified"])
            for meta in metas
            if _is_data(meta["path"])
        )

    with ThreadPoolExecutor(_LISTS_AT_ONCE) as pool:
        return [one for objects in pool.map(list_day, days(opened, uri, prefix, start, end)) for one in objects]


def days(
    opened: ObjectStore, uri: str, prefix: str, start: datetime | None = None, end: datetime | None = None
) -> list[date]:
    """Return the days below `prefix` that can have rows in [start, end), in their order."""
    found = []
    for name in sorted(_below(opened, uri, prefix)):
        try:
            day = date.fromisoformat(name.removeprefix("date="))
        except ValueError:
            continue
        begin = midnight(day)
        if (start is None or begin + timedelta(days=1) > start) and (end is None or begin < end):
            found.append(day)
    return found


def midnight(day: date) -> datetime:
    """Return the moment in which a day of the log begins."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def instant(value: Instant | None, name: str) -> datetime | None:
    """Return a moment as a datetime in UTC. Raises LogError where it is none.

    >>> instant("2026-03-01T12:00+02:00", "start")
    datetime.datetime(2026, 3, 1, 10, 0, tzinfo=datetime.timezone.utc)
    """
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise LogError(f"{name} is no time: {value!r}; take 2026-03-01 or 2026-03-01T12:00Z") from None
    if not isinstance(value, datetime):
        return midnight(value)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _below(opened: ObjectStore, uri: str, prefix: str) -> set[str]:
    """Return the last parts of the names of what a store has right below `prefix`, as directories."""
    try:
        prefixes = obstore.list_with_delimiter(opened, f"{prefix}/")["common_prefixes"]
    except FileNotFoundError as error:
        if store.is_local(uri):
            return set()
        raise store.StoreError(store.explain(error, uri)) from error
    except (BaseError, OSError) as error:
        raise store.StoreError(store.explain(error, uri)) from error
    return {name.rstrip("/").rpartition("/")[2] for name in prefixes}


def _is_data(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.endswith(".parquet") and not name.startswith((".", "_"))
