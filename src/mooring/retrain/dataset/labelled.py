"""The labelled rows of the log: which they are, and what is theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mooring.drift.columns import is_text
from mooring.log import label_join, listing, reader
from mooring.log.label_join import LabelIndex
from mooring.log.labels import read_labels
from mooring.log.schema import TIME
from mooring.log.store import StoreError
from mooring.performance.kinds import MOST_TEXTS, as_predicted
from mooring.performance.scored import prediction_in

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Windows = Sequence[tuple[datetime, datetime]]
_ROWS_A_LOOK = 262_144
_COLUMNS = (*label_join.COLUMNS, "time", "model_version", "variant")


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
        labels = read_labels(log, model)
        self._labels = LabelIndex(labels.table)
        self._values = self._as_predicted()
        self._windows = None if windows is None else [(_micros(begin), _micros(stop)) for begin, stop in windows]
        self._rows = 0
        self._first = 2**62
        parts = list(self._parts())
        listing.log_skipped(self.found.skipped | labels.skipped)
        self.first = datetime.fromtimestamp(min(self._first, _micros(end)) / 1e6, UTC)
        self._choose(parts)

    def _as_predicted(self) -> pa.Array:
        """Return all labels, of the kind of what the model predicts."""
        values = self._labels.values(np.arange(len(self._labels)))
        if "output" not in self.found.schema.names:
            return values
        outputs = self.found.schema.field("output").type
        name = prediction_in([field.name for field in outputs])
        if name is None:
            return values
        kind = outputs.field(name).type
        if not is_text(kind):
            return as_predicted(values, pa.array([], kind))
        texts = pa.array([], kind)
        for _, table in reader.tables(self.found, {"prediction": ("output", name)}):
            texts = pc.unique(pa.concat_arrays([texts, *table["prediction"].chunks]))
            if len(texts) > MOST_TEXTS:
                return values
        return as_predicted(values, texts)

    def _parts(self) -> Iterator[_Part]:
        places = {path: place for place, path in enumerate(self.paths)}
        waiting: list[pa.Table] = []
        for path, table in reader.tables(self.found, {name: (name,) for name in _COLUMNS}):
            positions = np.arange(table.num_rows)
            table = table.append_column("position", pa.array(positions))
            table = table.append_column("object", pa.array(np.full(table.num_rows, places[path])))
            waiting.append(self._counted(table))
            # Each look-up makes a hash table of all ids: not for a handful of rows.
            if sum(map(len, waiting)) >= _ROWS_A_LOOK:
                yield self._labelled(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            yield self._labelled(pa.concat_tables(waiting))

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

    def _labelled(self, table: pa.Table) -> _Part:
        joined = self._labels.join(table)
        # A label that can't be what the model predicts, such as "unknown" beside numbers, is none.
        there = pc.is_valid(self._values.take(pa.array(joined.labels))).to_numpy(zero_copy_only=False)
        joined = label_join.Joined(joined.rows[there], joined.labels[there])
        table = table.take(joined.rows)
        return _Part(
            _numbers(table["object"]),
            _numbers(table["position"]),
            joined.labels,
            _numbers(table["row"]),
            _numbers(table["time"]),
            np.asarray(pc.equal(table["variant"], "champion")),
            table["request_id"].combine_chunks(),
            table["model_version"].combine_chunks(),
        )

    def _choose(self, parts: list[_Part]) -> None:
        """Keep each row once."""
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
        kept = order[np.lexsort((position[order], of[order]))]
        self.object, self.position, self._label = of[kept], position[kept], labels[kept]
        self.times, self.champion = times[kept], champion[kept]
        self._groups = label_join.dependent(codes[kept], labels[kept])
        self._requests = requests.take(kept)
        self.in_windows = self._within(self.times)
        self.labelled = int(self.in_windows.sum())
        self.unlabelled = max(self._rows - self.labelled, 0)
        found = {one for one in pc.unique(versions.take(kept)).to_pylist() if one}
        self.versions = sorted(found, key=lambda one: (len(one), one))

    def newest(self, share: float) -> Flags:
        """Return which rows are of the newest requests that together have about `share` of all rows.

        Requests that share a label stay together, else what is held out were known in training.
        """
        if not len(self._groups):
            return np.zeros(0, np.bool_)
        counts = np.bincount(self._groups)
        began = np.full(len(counts), 2**62)
        np.minimum.at(began, self._groups, self.times)
        order = np.lexsort((np.arange(len(counts)), began))[::-1]
        distances = np.abs(np.cumsum(counts[order]) - share * len(self._groups))
        newest = np.zeros(len(counts), np.bool_)
        newest[order[: int(distances.argmin()) + 1]] = True
        return np.asarray(newest[self._groups], np.bool_)

    def label_values(self) -> pa.Array:
        """Return the labels of the rows, of the kind of what the model predicts."""
        return self._values.take(pa.array(self._label))

    def protected(self, column: str) -> pa.Array:
        """Return the protected values of the rows that came with their labels, null where none did."""
        return pa.array(self._labels.protected(self._label, column), pa.string())

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
