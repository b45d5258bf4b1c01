"""Adding labels to the log: what of them is new, what was there, and what names no row that the log has."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mooring.config import load
from mooring.ids import OWN, made_at
from mooring.log import label_join, listing, reader
from mooring.log.label_join import LabelIndex
from mooring.log.labels import (
    LABELS,
    LabelError,
    labels_table,
    read_labels,
    rows_a_look,
    together,
    write_labels,
)
from mooring.log.listing import folder_name
from mooring.log.schema import INFERENCES
from mooring.settings import LabelSettings

if TYPE_CHECKING:
    from obstore.store import ObjectStore

LOOKBACK = timedelta(days=90)
_MARGIN = timedelta(hours=1)
"""How far the clock may be off of a client that makes ids such as ours."""
_FIRST = datetime(2020, 1, 1, tzinfo=UTC)
_OBJECTS_AT_ONCE = 64
_ROWS_AT_ONCE = 500_000
_KEY = ["request_id", "row"]
_ONE_TIME_US = 1000


class Added(msgspec.Struct, frozen=True):
    """What became of labels: each is one of the first four.

    `added`: the row had none before. `repeated`: it had the same. `replaced`: it had another. `outdated`: it has
    one that became known later, which stays. `unknown` of all name a row that the log does not have, or not yet:
    they are kept.
    """

    added: int = 0
    repeated: int = 0
    replaced: int = 0
    outdated: int = 0
    unknown: int = 0

    def __add__(self, other: Added) -> Added:
        """Return the counts of both."""
        return Added(
            *(a + b for a, b in zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True))
        )


def add_labels(
    data: Any, *, model: str, log: str | os.PathLike[str] | None = None, protected: Sequence[str] = ()
) -> Added:
    """Add ground truth to the log, and return what became of it.

    Parameters
    ----------
    data
        A DataFrame of pandas or Polars, a table of Arrow, or a dict of columns. Its columns are `request_id` (ours
        or the client's), `label` (numbers, booleans or text), and if need be `row` (the place in the request,
        default 0) and `time` (when it became known, default now). Others are left alone.
    model
        The model's name in the log.
    log
        The log: a directory, or s3://, gs:// or az:// and a bucket. Default: `$MOORING_LOG`, `log` in
        mooring.yaml, `./mooring-log`.
    protected
        Further columns, such as `sex`, that stay beside the labels, so that performance can be told apart by them.
        Default: `$MOORING_PROTECTED`, `protected` in mooring.yaml; those of them that there are.

    A row's latest label counts; of two of one time the one that is added last. Raises LabelError where one of them
    is invalid, or a column that `protected` names is missing (then none is added), LogError where there is no log,
    and StoreError where it refuses: then the same call adds what is missing.
    """
    table = _as_table(data)
    ids, known, rows, times = (
        table[name] if name in table.column_names else None for name in ("request_id", "label", "row", "time")
    )
    if ids is None or known is None:
        raise LabelError(
            f"labels have the columns request_id and label; there is: {', '.join(table.column_names)}"
        )
    for name in protected:
        if name not in table.column_names:
            raise LabelError(f"labels have no protected column {name}; there is: {', '.join(table.column_names)}")
    given = {"log": None if log is None else os.fspath(log), "model": model, "protected": tuple(protected)}
    settings = load(LabelSettings, given)
    beside = {name: table[name] for name in settings.protected if name in table.column_names}
    labels = labels_table(ids, known, rows, times, beside)
    return sum(add_tables(settings.log, model, [labels]), Added())


def add_tables(
    uri: str, model: str, tables: Iterable[pa.Table], lookback: timedelta = LOOKBACK
) -> Iterator[Added]:
    """Add tables of LABELS in their order, some together, and yield what became of them as they are in the log.

    Ids that are not Mooring's own are looked for in the days of `lookback`. Raises LogError where there is no log
    and StoreError where it refuses.
    """
    opened = listing.open_log(uri)
    for table in together(tables, _ROWS_AT_ONCE):
        counts, new = _compare(table, uri, model, lookback)
        if new.num_rows:
            write_labels(uri, model, new)
        yield msgspec.structs.replace(counts, unknown=_unknown(table, opened, uri, model, lookback))


def _as_table(data: Any) -> pa.Table:
    try:
        if isinstance(data, Mapping):
            return pa.table(dict(data))
        if isinstance(data, pa.RecordBatch):
            return pa.table(data)
        return data if isinstance(data, pa.Table) else pa.table(data)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise LabelError(f"labels come as a DataFrame, a table of Arrow or a dict of columns: {error}") from None


def _compare(table: pa.Table, uri: str, model: str, lookback: timedelta) -> tuple[Added, pa.Table]:
    """Return what becomes of labels, and those that have to be written, with times by which they count."""
    table = table.append_column("at", pa.array(np.arange(len(table))))
    table = table.sort_by([(name, "ascending") for name in (*_KEY, "time", "at")]).combine_chunks()
    ids, rows = (table[name].combine_chunks() for name in _KEY)
    same_row = pc.and_(pc.equal(ids[1:], ids[:-1]), pc.equal(rows[1:], rows[:-1]))
    last = pa.concat_arrays([pc.invert(same_row), pa.array([True])])
    # Of those in the file that a later one follows: are they the same as it?
    repeated = pc.sum(pc.and_(same_row, _equal(table.slice(1), table.slice(0, len(table) - 1)))).as_py() or 0
    replaced = (pc.sum(same_row).as_py() or 0) - repeated
    table = table.filter(last)

    since = _earliest(table["request_id"], lookback)
    read = read_labels(uri, model, start=since, ids=pc.unique(table["request_id"]))
    listing.log_skipped(read.skipped)
    known = read.table.rename_columns(
        [name if name in _KEY else f"old_{name}" for name in read.table.column_names]
    )
    both = table.join(known, _KEY, join_type="left outer").sort_by("at")
    old = pa.table({name: both[f"old_{name}"] for name in ("label", "label_text", "time", "protected")})
    is_known = pc.is_valid(old["time"])
    equal = _equal(both, old)
    # Of two labels of one time that which is added last counts. The log can't tell, so its time is put behind the
    # other's, by a microsecond each time that a row is corrected so; hence a little older counts as of one time.
    time, known_at = pc.cast(both["time"], pa.int64()), pc.cast(old["time"], pa.int64())
    older = pc.fill_null(pc.less(pc.add(time, _ONE_TIME_US), known_at), False)
    later = pc.cast(pc.max_element_wise(time, pc.add(known_at, 1)), both["time"].type)
    changed = pc.and_(is_known, pc.invert(equal))
    written = pc.and_(pc.invert(equal), pc.invert(older))
    new = both.set_column(both.column_names.index("time"), "time", later).filter(written)
    counts = Added(
        added=_count(pc.invert(is_known)),
        repeated=repeated + _count(equal),
        replaced=replaced + _count(pc.and_(changed, pc.invert(older))),
        outdated=_count(pc.and_(changed, older)),
    )
    return counts, new.select(LABELS.names)


def _equal(a: pa.Table, b: pa.Table) -> pa.ChunkedArray:
    """Whether labels are the same, whenever they became known; those of `a` need not repeat protected values."""
    numbers, texts = (pc.fill_null(pc.equal(a[name], b[name]), False) for name in ("label", "label_text"))
    no_texts = pc.and_(pc.is_null(a["label_text"]), pc.is_null(b["label_text"]))
    beside = pc.fill_null(pc.equal(a["protected"], b["protected"]), False)
    return pc.and_(pc.or_(texts, pc.and_(no_texts, numbers)), pc.or_(pc.is_null(a["protected"]), beside))


def _count(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)


def _moments(ids: pa.Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return when ids of Mooring's form were made, in milliseconds since the epoch."""
    return np.array([made_at(one) for one in ids.to_pylist()], np.int64)


def _own(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether ids are such as Mooring makes."""
    return pc.match_substring_regex(ids, OWN)


def _earliest(ids: pa.ChunkedArray, lookback: timedelta) -> datetime:
    """Return from when on these requests can have labels; a label may be known by its day only."""
    earliest = datetime.now(UTC) - lookback
    own = _own(ids)
    if pc.all(own).as_py() and len(ids):
        made = _moments(ids)
        earliest = max(_FIRST, datetime.fromtimestamp(int(made.min()) / 1000, UTC))
    return earliest - timedelta(days=1)


def _unknown(table: pa.Table, opened: ObjectStore, uri: str, model: str, lookback: timedelta) -> int:
    """Return how many labels name a row that the log does not have.

    Ids of Mooring's form are looked for in their own days, those that are not there as a client's in later ones:
    its ids of that form are older than their requests.
    """
    since = datetime.now(UTC) - lookback
    prefix = f"inferences/model={folder_name(model)}"
    own = table.filter(_own(table["request_id"]))
    left = table.filter(pc.invert(_own(table["request_id"])))
    if len(own):
        days = _days(own["request_id"])
        first, last = (min(days), max(days)) if days else (_FIRST.date(), _FIRST.date())
        begin, end = listing.midnight(first), listing.midnight(last) + timedelta(days=1)
        listed = [one for one in listing.list_objects(opened, uri, prefix, begin, end) if one.day in days]
        left = pa.concat_tables([left, _not_in(own, opened, uri, model, listed)])
    if len(left):
        if pc.all(_own(left["request_id"])).as_py():
            since = max(since, listing.midnight(min(_days(left["request_id"]), default=since.date())))
        listed = listing.list_objects(opened, uri, prefix, since)
        left = _not_in(left, opened, uri, model, listed[::-1])
    return len(table.select(_KEY).join(left.select(_KEY), _KEY, join_type="left semi")) if len(left) else 0


def _days(ids: pa.ChunkedArray) -> set[date]:
    """Return the days of the log that can have requests with these ids of ours."""
    made = _moments(ids)
    made = made[(made >= _FIRST.timestamp() * 1000) & (made <= (datetime.now(UTC) + _MARGIN).timestamp() * 1000)]
    margin = int(_MARGIN.total_seconds() * 1000)
    days = np.unique(np.concatenate([made - margin, made + margin]) // 86_400_000)
    return {date(1970, 1, 1) + timedelta(days=int(day)) for day in days}


def _not_in(labels: pa.Table, opened: ObjectStore, uri: str, model: str, listed: list[listing.Object]) -> pa.Table:
    """Return what of labels names a row in none of these objects."""
    index = LabelIndex(labels)
    found = np.zeros(len(index), np.bool_)
    columns = {name: (name,) for name in label_join.COLUMNS}

    def parts() -> Iterator[pa.Table]:
        for start in range(0, len(listed), _OBJECTS_AT_ONCE):
            some = reader.found_in(opened, uri, model, listed[start : start + _OBJECTS_AT_ONCE], INFERENCES)
            yield from (part for _, part in reader.tables(some, columns))
            listing.log_skipped(some.skipped)

    for part in together(parts(), rows_a_look(len(index))):
        found |= index.naming(part)
        if found.all():
            break
    return index.table.filter(pa.array(~found))
