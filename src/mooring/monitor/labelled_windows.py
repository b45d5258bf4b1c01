"""Which windows new labels are of: their requests are looked for in the log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mooring.ids import OWN
from mooring.log import labels as label_log
from mooring.log import listing, reader
from mooring.log.listing import folder_name
from mooring.monitor import ingest
from mooring.monitor.ingest import Stream
from mooring.monitor.windows import micros, moment
from mooring.state.objects import DoneObject
from mooring.state.windows import Window, Windows

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_LOOK_UP_ROWS = 262_144
_NEAR = timedelta(minutes=2)
_LATEST = 9e10
_IDS = ("\0request_id", "\0client_request_id")


class LabelledWindows(NamedTuple):
    """What new labels are of: windows, and how many of the `requests` that they name are `unknown` to the log.

    `done` are the objects that the labels were read from.
    """

    windows: list[Window]
    done: list[DoneObject]
    requests: int
    unknown: int


def labelled_windows(
    stored: Windows, opened: ObjectStore, uri: str, model: str, new: Sequence[listing.Object], since: datetime
) -> LabelledWindows:
    """Return the windows from `since` on that the labels in `new` objects are of.

    Raises StoreError where the log can't be read now, StateError where the state refuses.
    """
    if not new:
        return LabelledWindows([], [], 0, 0)
    days = {one.path: one.day for one in new}
    found = reader.found_in(opened, uri, model, new, label_log.LABELS)
    parts = []
    done = []
    for path, table in label_log.label_tables(found):
        parts.append(pc.unique(table["request_id"]))
        done.append(DoneObject(path, days[path], table.num_rows))
    listing.log_skipped(found.skipped)
    if not parts:
        return LabelledWindows([], [], 0, 0)
    ids = pc.unique(pa.concat_arrays([pa.array([], pa.string()), *parts]))
    windows: dict[str, Window] = {}
    known = 0
    for stream, times, count in _located(opened, uri, model, ids, since):
        known += count
        first, last = moment(int(times.min())), moment(int(times.max()) + 1)
        there = stored.overlapping(model, *stream, first, last)
        starts = np.array([micros(one.start) for one in there], np.int64)
        for place in np.unique(np.searchsorted(starts, times, side="right") - 1).tolist():
            if place >= 0:
                windows[there[place].id] = there[place]
    return LabelledWindows(list(windows.values()), done, len(ids), len(ids) - known)


def _located(
    opened: ObjectStore, uri: str, model: str, ids: pa.Array, since: datetime
) -> Iterator[tuple[Stream, NDArray[np.int64], int]]:
    """Yield when requests were received, by stream, and how many ids were found then.

    Ids of Mooring's form tell their day, and are looked for there, those that are not there in the days after
    it, and all others in every day since `since`: a client's id names all requests that have it.
    """
    own = pc.match_substring_regex(ids, OWN)
    days = _days_of(ids.filter(own))
    listed = listing.list_objects(opened, uri, f"inferences/model={folder_name(model)}", since)
    found = pa.array([], pa.string())
    for some, places in ((ids.filter(own), [one for one in listed if one.day in days]), (ids, listed)):
        wanted = some.filter(pc.invert(pc.is_in(some, value_set=found)))
        if not len(wanted):
            continue
        if pc.all(pc.match_substring_regex(wanted, OWN)).as_py():
            # A client's id of that form is older than its requests.
            first = min(_days_of(wanted))
            places = [one for one in places if one.day >= first]
        for _, of_day in groupby(reversed(places), key=lambda one: one.day):
            table = _rows_of(opened, uri, model, list(of_day), wanted)
            if not table.num_rows:
                continue
            named = pa.concat_arrays([table[name].combine_chunks() for name in _IDS])
            named = pc.unique(named.filter(pc.is_in(named, value_set=wanted)))
            count = len(named) - (pc.sum(pc.is_in(named, value_set=found)).as_py() or 0)
            found = pc.unique(pa.concat_arrays([found, named]))
            for stream in ingest.streams_in(table):
                times = ingest.of_stream(table, stream)["\0time"].cast(pa.int64()).to_numpy()
                yield stream, times, count
                count = 0


def _rows_of(
    opened: ObjectStore, uri: str, model: str, objects: Sequence[listing.Object], ids: pa.Array
) -> pa.Table:
    """Return the rows of the requests that ids name, each with whose it is and when it was received."""
    columns = {name: (name[1:],) for name in (*_IDS, *ingest.OWN[:3])}
    found = reader.found_in(opened, uri, model, objects)
    tables = (table for _, table in reader.tables(found, columns))
    parts = []
    for table in label_log.together(tables, _LOOK_UP_ROWS):
        named = pc.or_(*(pc.is_in(table[name], value_set=ids) for name in _IDS))
        there = pc.and_(pc.is_valid(table["\0time"]), pc.is_valid(table["\0variant"]))
        parts.append(table.filter(pc.and_(there, named)))
    listing.log_skipped(found.skipped)
    return pa.concat_tables(parts) if parts else pa.table({})


def _days_of(ids: pa.Array) -> set[date]:
    """Return the days on which ids of Mooring's form can have been made: they tell it to about a minute."""
    days = set()
    for text in pc.unique(pc.utf8_slice_codeunits(ids, 0, 8)).to_pylist():
        at = min((int(text, 16) << 16) / 1000, _LATEST)
        days |= {(datetime.fromtimestamp(at, UTC) + near).date() for near in (-_NEAR, _NEAR)}
    return days
