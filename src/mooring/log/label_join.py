"""The one join of labels to rows of the log; docs/log.md says its rules, and why.

Which label a row has depends on the row and the labels alone, never on which other rows are read with it or on the
order in which labels came: so a window, a dataset for retraining and a count find the same labels, whatever range
of the log each of them reads.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from mooring.label import number_text
from mooring.log.labels import latest

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
COLUMNS = ("request_id", "client_request_id", "row")
"""The columns of `inferences` that say which label a row has."""


class Joined(NamedTuple):
    """Rows that have a label: their places among the rows, ascending, and the places of their labels."""

    rows: Integers
    labels: Integers


class LabelIndex:
    """Labels by the request id and the row that they name.

    Parameters
    ----------
    labels
        A table of LABELS, in any order, replaced ones too.

    Attributes
    ----------
    table
        The label that counts of each request id and row.
    times
        When each became known, in microseconds since the epoch.

    >>> from mooring.log.labels import labels_table
    >>> index = LabelIndex(labels_table(pa.chunked_array([["order-1"]]), pa.chunked_array([[6]])))
    >>> rows = pa.table({"request_id": ["a", "b"], "client_request_id": ["order-1", None], "row": [0, 0]})
    >>> joined = index.join(rows)
    >>> joined.rows.tolist(), index.values(joined.labels).to_pylist()
    ([0], [6.0])
    """

    def __init__(self, labels: pa.Table) -> None:
        self.table = latest(labels)
        self.times = _numbers(self.table["time"])
        encoded = self.table["request_id"].combine_chunks().dictionary_encode()
        self._ids = encoded.dictionary
        keys = _keys(encoded.indices, self.table["row"])
        self._order = np.argsort(keys)
        self._keys = keys[self._order]

    def __len__(self) -> int:
        """Return how many labels count."""
        return len(self._keys)

    def join(self, rows: pa.Table) -> Joined:
        """Return the labels of rows, which have COLUMNS."""
        ours, theirs = (self._find(rows[name], rows["row"]) for name in COLUMNS[:2])
        if not len(self):
            return Joined(np.empty(0, np.int64), np.empty(0, np.int64))
        later = (ours < 0) | ((theirs >= 0) & (self.times[theirs] > self.times[ours]))
        labels = np.where(later, theirs, ours)
        there = np.flatnonzero(labels >= 0)
        return Joined(there, labels[there])

    def naming(self, rows: pa.Table) -> Flags:
        """Return which labels name one of these rows, whether they are its label or another is."""
        found = np.zeros(len(self), np.bool_)
        for name in COLUMNS[:2]:
            places = self._find(rows[name], rows["row"])
            found[places[places >= 0]] = True
        return found

    def values(self, places: Integers) -> pa.Array:
        """Return the labels at these places: numbers, or texts where one of them is."""
        chosen = self.table.select(["label", "label_text"]).take(pa.array(places)).combine_chunks()
        numbers, texts = (one.combine_chunks() for one in chosen.columns)
        if texts.null_count == len(texts):
            return numbers
        spelled = [None if one is None else number_text(one) for one in numbers.to_pylist()]
        return pc.coalesce(texts, pa.array(spelled, pa.string()))

    def protected(self, places: Integers, column: str) -> NDArray[np.object_]:
        """Return the protected values of a column that came with the labels at these places, None where none."""
        chosen = self.table["protected"].combine_chunks().take(pa.array(places)).dictionary_encode()
        known = [msgspec.json.decode(text, type=dict[str, str]) for text in chosen.dictionary.to_pylist()]
        values = np.array([*(one.get(column) for one in known), None], object)
        found: NDArray[np.object_] = values[_numbers(pc.fill_null(chosen.indices, len(known)))]
        return found

    def _find(self, ids: pa.Array | pa.ChunkedArray, rows: pa.Array | pa.ChunkedArray) -> Integers:
        """Return the place of the label that each id and row has, -1 where there is none."""
        keys = _keys(pc.fill_null(pc.index_in(ids, value_set=self._ids), -1), rows)
        places = np.full(len(keys), -1, np.int64)
        if len(self):
            at = np.minimum(np.searchsorted(self._keys, keys), len(self) - 1)
            there = self._keys[at] == keys
            places[there] = self._order[at[there]]
        return places


def dependent(requests: Integers, labels: Integers) -> Integers:
    """Return for each labelled row the number of its group: rows of one request, and rows that share a label.

    Rows of one group are not independent, so they are drawn, counted and held out together.

    Parameters
    ----------
    requests, labels
        The number of each row's request, and the place of its label.

    >>> dependent(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])).tolist()
    [0, 0, 0, 1]
    """
    if not len(requests):
        return np.empty(0, np.int64)
    of, count = np.unique(requests, return_inverse=True)[1], int(requests.max()) + 1
    which = np.unique(labels, return_inverse=True)[1] + count
    size = int(which.max()) + 1
    links = coo_matrix((np.ones(len(of), np.int8), (of, which)), shape=(size, size))
    parts = connected_components(links, directed=False)[1][of]
    return np.asarray(np.unique(parts, return_inverse=True)[1], np.int64)


def _keys(codes: pa.Array | pa.ChunkedArray, rows: pa.Array | pa.ChunkedArray) -> Integers:
    return _numbers(codes) << 32 | _numbers(rows)


def _numbers(column: pa.Array | pa.ChunkedArray) -> Integers:
    return np.asarray(pc.cast(column, pa.int64()).to_numpy(), np.int64)
