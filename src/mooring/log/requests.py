"""Single requests in the log: those of a time, and everything about one by its id. Both look only so far."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import obstore
import pyarrow as pa
import pyarrow.compute as pc
from obstore.exceptions import BaseError

from mooring.ids import made_at
from mooring.log import labels, listing, reader, store
from mooring.log.listing import folder_name
from mooring.log.schema import PAYLOADS

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SUMMARY = (
    "request_id",
    "client_request_id",
    "time",
    "duration_ns",
    "status",
    "model_version",
    "variant",
    "errors",
    "reason",
)
"""The columns of a payload that say how a request went, without its bodies."""
MOST_ROWS = 100
MOST_EXCHANGES = 20
LOOKBACK_DAYS = 7
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 2**47
"""In the year 6429; a time must have a day before and one after it."""
_DAY = timedelta(days=1)
_MARGIN = timedelta(hours=1)
"""How far a client's clock may be off that makes ids such as ours; a shadow may answer so much later."""
_OBJECTS_AT_ONCE = 32
_MOST_LABEL_OBJECTS = 2000


class NewestPayloads(NamedTuple):
    """Requests of a time, without bodies. Of the `objects` that may have some the newest `read` were looked at."""

    table: pa.Table
    start: datetime | None
    end: datetime | None
    read: int
    objects: int


class Story(NamedTuple):
    """What the log holds of a request.

    `exchanges` are rows of payloads, with their bodies: the client's answer first, then a shadow's. `rows` are
    those of `inferences`, a hundred at most, and `labels` the labels of the request. `whole` is false where the
    time ran out before all that could be meant was looked at.
    """

    model: str
    exchanges: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    labels: list[dict[str, Any]]
    whole: bool


def newest_payloads(
    uri: str,
    model: str,
    start: datetime | None = None,
    end: datetime | None = None,
    *,
    most: int = 200_000,
    seconds: float = 1.5,
) -> NewestPayloads:
    """Return the requests of [start, end), by default those of the newest 24 hours that have any.

    No more objects are begun after `most` requests or so many seconds. What a shadow answered is left out. Raises
    LogError where there is no log, StoreError where it refuses.
    """
    until = time.monotonic() + seconds
    opened = listing.open_log(uri)
    prefix = f"payloads/model={folder_name(model)}"
    days = listing.days(opened, uri, prefix, start, end)
    if start is None and days:
        # A day is two of the log's at most, but the end of the last is not known yet.
        last = min(listing.midnight(days[-1]) + _DAY, end or datetime.max.replace(tzinfo=UTC))
        days = [day for day in days if listing.midnight(day) + _DAY > last - 2 * _DAY]
    listed = [one for day in reversed(days) for one in _newest_first(opened, uri, prefix, day)]
    parts: list[pa.Table] = []
    count = read = 0
    for some in _chunks(listed):
        if read and (count >= most or time.monotonic() > until):
            break
        found = reader.found_in(opened, uri, model, some, PAYLOADS)
        found = found._replace(filter=reader.time_filter(start, end))
        for _, table in reader.tables(found, {name: (name,) for name in SUMMARY}):
            parts.append(table)
            count += len(table)
        listing.log_skipped(found.skipped)
        read += len(some)
        if start is None and count:
            last = end or pc.max(pa.concat_tables(parts)["time"]).as_py() + timedelta(microseconds=1)
            start, end = last - _DAY, last
            parts = [_between(one, start, end) for one in parts]
            count = sum(map(len, parts))
    empty = pa.schema([PAYLOADS.field(name) for name in SUMMARY]).empty_table()
    return NewestPayloads(pa.concat_tables([empty, *parts]), start, end, read, len(listed))


def find_request(uri: str, model: str, request_id: str, *, seconds: float = 4.0) -> Story | None:
    """Return what a model's log holds of a request, by Mooring's id or the client's; None where that is nothing.

    Mooring's own ids tell their time, so only their day is looked at; others are looked for in the newest
    `LOOKBACK_DAYS` that have anything. Of several requests with one id of a client's the newest come, up to
    `MOST_EXCHANGES`, and rows and labels only where it is one. Raises LogError where there is no log, StoreError
    where it refuses.
    """
    until = time.monotonic() + seconds
    opened = listing.open_log(uri)
    prefix = f"payloads/model={folder_name(model)}"
    moment = time_of(request_id)
    if moment is not None:
        days = listing.days(opened, uri, prefix, moment - _MARGIN, moment + _MARGIN)
    else:
        days = listing.days(opened, uri, prefix)[-LOOKBACK_DAYS:]
    wanted = pc.field("request_id") == request_id
    if moment is None:
        wanted = pc.field("client_request_id") == request_id
    exchanges, places, whole = _search(opened, uri, model, days, wanted, moment, until)
    if not exchanges and moment is not None and whole:  # a client may make ids such as ours
        wanted = pc.field("client_request_id") == request_id
        exchanges, places, whole = _search(opened, uri, model, days, wanted, None, until)
    if not exchanges:
        return None if whole else Story(model, [], [], [], False)
    exchanges.sort(key=lambda one: (one["variant"] == "shadow", -one["time"].timestamp()))
    ids = {one["request_id"] for one in exchanges}
    if len(ids) > 1:
        return Story(model, exchanges[:MOST_EXCHANGES], [], [], whole)
    rows = _rows(opened, uri, model, places, exchanges[0]["request_id"])
    given, all_labels = _labels(opened, uri, model, exchanges[0], until)
    return Story(model, exchanges, rows, given, whole and all_labels)


def time_of(request_id: str) -> datetime | None:
    """Return when a request with an id of Mooring's came, None where it is another's.

    >>> time_of("01890a5d-ac96-774b-bcce-b302099a8057"), time_of("order-1")
    (datetime.datetime(2023, 6, 30, 3, 34, 18, 518000, tzinfo=datetime.timezone.utc), None)
    """
    milliseconds = made_at(request_id)
    if milliseconds is None or milliseconds >= _LAST_MS:
        return None
    return _EPOCH + timedelta(milliseconds=milliseconds)


def csv_records(uri: str, request_id: str) -> list[tuple[str, str]]:
    """Return what a log of CSV files has of a request: the kind of each file and its text.

    Kinds are `csv`, `errors` and `payloads`; what a shadow answered comes last, as `shadow/csv` and so on.
    """
    if not store.is_local(uri) or made_at(request_id) is None:
        return []
    directory = Path(uri.removeprefix("file://"))
    found = []
    for below in ("", "shadow/"):
        for kind, name in (("csv", f"{request_id}.csv"), *((k, f"{k}/{request_id}.json") for k in _RECORDS)):
            path = directory / below / name
            if path.is_file():
                found.append((below + kind, path.read_text("utf-8", "replace")))
    return found


_RECORDS = ("errors", "payloads")


class CsvFiles(NamedTuple):
    """The requests of a log of CSV files: their ids, the newest first, and those of them that failed."""

    ids: list[str]
    failed: list[str]


def csv_requests(uri: str, start: datetime | None, end: datetime | None) -> CsvFiles | None:
    """Return the requests of a log of CSV files in [start, end); None where it is no such log."""
    if not store.is_local(uri):
        return None
    directory = Path(uri.removeprefix("file://"))

    def ids(place: Path, suffix: str) -> Iterator[str]:
        if place.is_dir():
            for path in place.iterdir():
                moment = time_of(path.stem) if path.suffix == suffix else None
                if moment and (start is None or moment >= start) and (end is None or moment < end):
                    yield path.stem

    failed = sorted(ids(directory / "errors", ".json"), reverse=True)
    every = {*failed, *ids(directory, ".csv"), *ids(directory / "payloads", ".json")}
    if not every and not any(directory.glob("*.csv")):
        return None
    return CsvFiles(sorted(every, reverse=True), failed)


def csv_failure(uri: str, request_id: str) -> dict[str, Any]:
    """Return the record of a request that failed, of a log of CSV files; {} where it can't be read."""
    path = Path(uri.removeprefix("file://"), "errors", f"{request_id}.json")
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _newest_first(opened: ObjectStore, uri: str, prefix: str, day: Any) -> list[listing.Object]:
    """Return the objects of a day, those that were written last first: a segment is closed after its requests."""
    begin = listing.midnight(day)
    listed = listing.list_objects(opened, uri, prefix, begin, begin + _DAY)
    return sorted(listed, key=lambda one: one.written, reverse=True)


def _search(
    opened: ObjectStore,
    uri: str,
    model: str,
    days: Sequence[Any],
    wanted: pc.Expression,
    moment: datetime | None,
    until: float,
) -> tuple[list[dict[str, Any]], list[listing.Object], bool]:
    """Return the rows of payloads that are wanted, the objects that they are in, and whether all were looked at.

    With the `moment` that it came the objects are begun with that were written soonest after it.
    """
    prefix = f"payloads/model={folder_name(model)}"
    listed = [one for day in reversed(days) for one in _newest_first(opened, uri, prefix, day)]
    if moment is not None:
        since = moment
        listed.sort(key=lambda one: (one.written < since, one.written))
    rows: list[dict[str, Any]] = []
    places: list[listing.Object] = []
    left: int | None = None
    for number, some in enumerate(_chunks(listed)):
        # A shadow's answer is in the same segment or in one of the next; a client's id may come once more.
        if left == 0 or len(rows) >= MOST_EXCHANGES:
            break
        if number and time.monotonic() > until:
            return rows, places, False
        found = reader.found_in(opened, uri, model, some, PAYLOADS)
        found = found._replace(filter=wanted, live=False)
        ids = {"request_id": ("request_id",)}
        holding = [path for path, table in reader.tables(found, ids) if len(table)]
        if holding:  # only then are bodies read
            those = found._replace(fragments={path: found.fragments[path] for path in holding})
            for _, table in reader.tables(those, {name: (name,) for name in PAYLOADS.names}):
                rows += table.slice(0, MOST_EXCHANGES).to_pylist()
            places += [found.objects[path] for path in holding]
        listing.log_skipped(found.skipped)
        left = left - 1 if left is not None else 1 if places else None
    return rows, places, True


def _rows(
    opened: ObjectStore, uri: str, model: str, places: Sequence[listing.Object], request_id: str
) -> list[dict[str, Any]]:
    """Return the scored rows of a request: they are in the objects of the same names as its payloads."""
    names = [f"inferences/{one.path.partition('/')[2]}" for one in places]
    there = []
    for name, place in zip(names, places, strict=True):
        try:
            size = obstore.head(opened, name)["size"]
        except FileNotFoundError:
            continue  # none of its requests had rows
        except (BaseError, OSError) as error:
            raise store.StoreError(store.explain(error, uri)) from error
        there.append(place._replace(path=name, size=size))
    if not there:
        return []
    found = reader.found_in(opened, uri, model, there)
    found = found._replace(filter=pc.field("request_id") == request_id, live=False)
    parts = [table for _, table in reader.tables(found, {name: (name,) for name in found.schema.names})]
    listing.log_skipped(found.skipped)
    if not parts:
        return []
    table = pa.concat_tables(parts).sort_by([("variant", "ascending"), ("row", "ascending")])
    rows: list[dict[str, Any]] = table.filter(pc.less(table["row"], MOST_ROWS)).to_pylist()
    return rows


def _labels(
    opened: ObjectStore, uri: str, model: str, exchange: dict[str, Any], until: float
) -> tuple[list[dict[str, Any]], bool]:
    """Return the labels of a request, and whether all were looked at: those that came soonest are first."""
    ids = [one for one in (exchange["request_id"], exchange["client_request_id"]) if one]
    listed = labels.list_label_objects(opened, uri, model, exchange["time"] - _DAY)
    parts = [labels.LABELS.empty_table()]
    whole = len(listed) <= _MOST_LABEL_OBJECTS
    for some in _chunks(listed[:_MOST_LABEL_OBJECTS]):
        if time.monotonic() > until:
            whole = False
            break
        found = reader.found_in(opened, uri, model, some, labels.LABELS)
        found = found._replace(filter=pc.field("request_id").isin(ids))
        parts += [table for _, table in labels.label_tables(found)]
        listing.log_skipped(found.skipped)
    table = labels.latest(pa.concat_tables(parts))
    return table.slice(0, 10 * MOST_ROWS).to_pylist(), whole


def _between(table: pa.Table, start: datetime, end: datetime) -> pa.Table:
    kind = PAYLOADS.field("time").type
    after = pc.greater_equal(table["time"], pa.scalar(start, kind))
    return table.filter(pc.and_(after, pc.less(table["time"], pa.scalar(end, kind))))


def _chunks(listed: Sequence[listing.Object]) -> Iterator[Sequence[listing.Object]]:
    for begin in range(0, len(listed), _OBJECTS_AT_ONCE):
        yield listed[begin : begin + _OBJECTS_AT_ONCE]
