"""The labelled rows of the log: which they are, and what is theirs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mooring.log import reader
from mooring.log.labels import read_labels
from mooring.log.schema import TIME
from mooring.log.store import StoreError

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Windows = Sequence[tuple[datetime, datetime]]
_ROWS_A_LOOK = 262_144
_COLUMNS = ("request_id", "client_request_id", "row", "time", "model_version", "variant")


class _Part(NamedTuple):
    """Rows with a label in some objects: where they are, which label is theirs, whose rows they are."""

    object: Integers
    position: Integers
    label: Integers
    row: Integers
    time: Integers
    champion: Flags
    request: pa.Array
    version: pa.Array


class Labelled:
    """The labelled rows of a range, each once, in the order of the log.

    Of all the log only its own columns are read, a few objects at a time; `tables` reads the others of the rows
    that are wanted.

    Parameters
    ----------
    log, model
        Whose rows.
    start, end
        When they were received: from `start` on and before `end`.
    windows
        The times that `in_windows` tells of.

    Attributes
    ----------
    found
        The objects of the log, and of their rows all but a shadow's: its requests are the champion's, too.
    champion, in_windows
        Which of the rows the champion answered, and which are of the windows; without windows all are.
    labelled, unlabelled
        How many rows of the windows have a label, and how many have none.
    first
        When the first row of the range was received.
    versions
        Those that answered the labelled rows.

    Raises LogError where there is no such log or model, StoreError where it refuses.
    """

    def __init__(
        self, log: str, model: str, start: datetime | None, end: datetime, windows: Windows | None
    ) -> None:
        self.found = reader.find(log, model=model, start=start, end=end)
        self.paths = list(self.found.fragments)
        self._labels = read_labels(log, model)
        self._windows = None if windows is None else [(_micros(begin), _micros(stop)) for begin, stop in windows]
        self._rows = 0
        self._first = 2**62
        parts = list(self._parts())
        self.first = datetime.fromtimestamp(min(self._first, _micros(end)) / 1e6, UTC)
        self._choose(parts)

    def _parts(self) -> Iterator[_Part]:
        known = _Known(self._labels)
        places = {path: place for place, path in enumerate(self.paths)}
        waiting: list[pa.Table] = []
        for path, table in reader.tables(self.found, {name: (name,) for name in _COLUMNS}):
            positions = np.arange(table.num_rows)
            table = table.append_column("position", pa.array(positions))
            table = table.append_column("object", pa.array(np.full(table.num_rows, places[path])))
            waiting.append(self._counted(table))
            # Each look-up makes a hash table of all ids: not for a handful of rows.
            if sum(map(len, waiting)) >= _ROWS_A_LOOK:
                yield self._labelled(pa.concat_tables(waiting), known)
                waiting = []
        if waiting:
            yield self._labelled(pa.concat_tables(waiting), known)

    def _counted(self, table: pa.Table) -> pa.Table:
        if table.num_rows:
            times = _numbers(table["time"])
            self._first = min(self._first, int(times.min()))
            self._rows += int(self._within(times).sum())
        return table

    def _within(self, times: Integers) -> Flags:
        if self._windows is None:
            return np.ones(len(times), np.bool_)
        within = np.zeros(len(times), np.bool_)
        for begin, end in self._windows:
            within |= (times >= begin) & (times < end)
        return within

    def _labelled(self, table: pa.Table, known: _Known) -> _Part:
        rows = _numbers(table["row"])
        labels = known.latest(known.find(table["request_id"], rows), known.find(table["client_request_id"], rows))
        there = np.flatnonzero(labels >= 0)
        table = table.take(there)
        return _Part(
            _numbers(table["object"]),
            _numbers(table["position"]),
            labels[there],
            rows[there],
            _numbers(table["time"]),
            np.asarray(pc.equal(table["variant"], "champion")),
            table["request_id"].combine_chunks(),
            table["model_version"].combine_chunks(),
        )

    def _choose(self, parts: list[_Part]) -> None:
        """Keep of each row one, and of each label."""
        empty = np.empty(0, np.int64)
        nothing = pa.array([], pa.string())
        parts.append(_Part(*(empty,) * 5, empty.astype(bool), nothing, nothing))
        requests = pa.concat_arrays([part.request for part in parts])
        versions = pa.concat_arrays([part.version for part in parts])
        of, position, labels, rows, times, champion = (
            np.concatenate([part[place] for part in parts]) for place in range(6)
        )
        codes = _ranks(requests)
        # The champion's answer before others', the first request before those that came again.
        order = np.lexsort((position, of, codes, times, ~champion))
        order = order[_firsts(codes[order] << 32 | rows[order])]
        order = order[_firsts(labels[order])]
        kept = order[np.lexsort((position[order], of[order]))]
        self.object, self.position, self._label = of[kept], position[kept], labels[kept]
        self.times, self.champion, self._codes = times[kept], champion[kept], codes[kept]
        self._requests = requests.take(kept)
        self.in_windows = self._within(self.times)
        self.labelled = int(self.in_windows.sum())
        self.unlabelled = max(self._rows - self.labelled, 0)
        found = {one for one in pc.unique(versions.take(kept)).to_pylist() if one}
        self.versions = sorted(found, key=lambda one: (len(one), one))

    def newest(self, share: float) -> Flags:
        """Return which rows are of the newest requests that together have about `share` of all rows."""
        codes, first, inverse, counts = np.unique(
            self._codes, return_index=True, return_inverse=True, return_counts=True
        )
        if not len(codes):
            return np.zeros(0, np.bool_)
        order = np.lexsort((codes, self.times[first]))[::-1]
        distances = np.abs(np.cumsum(counts[order]) - share * len(self._codes))
        newest = np.zeros(len(codes), np.bool_)
        newest[order[: int(distances.argmin()) + 1]] = True
        return np.asarray(newest[inverse.ravel()], np.bool_)

    def label_values(self) -> pa.Array:
        """Return the labels of the rows: numbers, or texts where one of them is."""
        chosen = self._labels.select(["label", "label_text"]).take(self._label).combine_chunks()
        numbers, texts = (one.combine_chunks() for one in chosen.columns)
        if texts.null_count == len(texts):
            return numbers
        return pc.coalesce(texts, pc.cast(numbers, pa.string()))

    def tables(self, wanted: Flags, columns: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[Integers, pa.Table]]:
        """Yield the wanted rows' places among all, and their columns, object by object.

        Raises StoreError where the log is no longer what it was.
        """
        places = np.flatnonzero(wanted)
        objects = self.object[places]
        present = np.unique(objects)
        paths = [self.paths[one] for one in present]
        found = self.found._replace(fragments={path: self.found.fragments[path] for path in paths})
        columns = {**columns, "\0request_id": ("request_id",)}
        first = np.searchsorted(objects, present)
        last = np.searchsorted(objects, present, side="right")
        done = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", reader.LogWarning)
            for path, table in reader.tables(found, columns):
                if done == len(paths) or path != paths[done]:
                    break
                mine = places[first[done] : last[done]]
                done += 1
                table = table.take(self.position[mine])
                yield mine, self._checked(path, table, mine)
        if done < len(paths):
            raise StoreError(f"{paths[done]} vanished from the log while it was read: try again")

    def _checked(self, path: str, table: pa.Table, places: Integers) -> pa.Table:
        if not table["\0request_id"].combine_chunks().equals(self._requests.take(places)):
            raise StoreError(f"{path} changed while it was read: try again")
        return table.drop_columns("\0request_id")


class _Known:
    """Labels, to be found by request id and row."""

    def __init__(self, labels: pa.Table) -> None:
        encoded = labels["request_id"].combine_chunks().dictionary_encode()
        self._ids = encoded.dictionary
        keys = _numbers(encoded.indices) << 32 | _numbers(labels["row"])
        self._order = np.argsort(keys)
        self._keys = keys[self._order]
        self._times = _numbers(labels["time"])

    def find(self, ids: pa.ChunkedArray, rows: Integers) -> Integers:
        """Return the place of each row's label, -1 where it has none."""
        codes = pc.fill_null(pc.index_in(ids, value_set=self._ids), -1)
        keys = _numbers(codes) << 32 | rows
        places = np.full(len(keys), -1)
        if len(self._keys):
            at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            there = self._keys[at] == keys
            places[there] = self._order[at[there]]
        return places

    def latest(self, ours: Integers, theirs: Integers) -> Integers:
        """Return of two labels of a row the one that became known later, ours where that is the same time."""
        if not len(self._times):
            return ours
        later = (ours < 0) | ((theirs >= 0) & (self._times[theirs] > self._times[ours]))
        return np.where(later, theirs, ours)


def _firsts(keys: Integers) -> Integers:
    """Return the places at which a key is there for the first time, in their order."""
    return np.sort(np.unique(keys, return_index=True)[1])


def _ranks(texts: pa.Array) -> Integers:
    """Return numbers that are ordered as texts are, equal ones for equal texts."""
    encoded = texts.dictionary_encode()
    ranks = np.empty(len(encoded.dictionary), np.int64)
    ranks[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(ranks))
    return ranks[_numbers(encoded.indices)]


def _numbers(column: pa.Array | pa.ChunkedArray) -> Integers:
    return np.asarray(pc.cast(column, pa.int64()).to_numpy(), np.int64)


def _micros(moment: datetime) -> int:
    return int(pa.scalar(moment.astimezone(UTC), TIME).cast(pa.int64()).as_py())
