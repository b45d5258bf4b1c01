"""Some rows of a window, as they stand in the log: which ones is said by a hash of the request's id."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mooring.drift.columns import Column
from mooring.log import reader
from mooring.monitor.ingest import OWN, REQUEST_ID, Stream, between
from mooring.state.windows import Window

SAMPLE_ROWS = 2000
"""How many rows of a window are looked at one by one, beside the profile of all of them."""
_HASH = "\0hash"


class SampledRows(NamedTuple):
    """Rows of a window: what the model was given, what it said, and which request each came in, from 0 on."""

    inputs: dict[str, Column]
    outputs: dict[str, Column]
    groups: NDArray[np.int64]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.groups)


def sample_of(found: reader.LogObjects, window: Window, most: int = SAMPLE_ROWS) -> SampledRows:
    """Return rows of a window, at most so many: those of the requests whose ids have the smallest hashes.

    So the same rows are drawn however often and in whatever order the log is read, and rows of a request stay
    together as far as there is room. They are redacted as the log is, and gone once it has forgotten them: nothing
    is kept of them. Raises LookupError where the log has no rows of the window any more.
    """
    stream = Stream(window.version, window.variant)
    table = smallest(between(found, stream, window.start, window.end, ids=True), most)
    outputs = {name for name, path in reader.choose(found.schema, None, flat=True).items() if path[0] == "output"}
    ids = table[REQUEST_ID].combine_chunks().dictionary_encode()
    names = [name for name in table.column_names if name not in (*OWN, REQUEST_ID, _HASH)]
    return SampledRows(
        {name: table[name] for name in names if name not in outputs},
        {name: table[name] for name in names if name in outputs},
        ids.indices.to_numpy().astype(np.int64),
    )


def smallest(parts: Iterable[pa.Table], most: int) -> pa.Table:
    """Return the rows whose requests have the smallest hashes, by it and their number in the request.

    Tables may come in any order, and be divided in any way.

    >>> rows = pa.table({REQUEST_ID: ["a", "b", "b", "c"], "\\0row": [0, 0, 1, 0]})
    >>> one = smallest([rows], 2)
    >>> one.equals(smallest([rows.slice(2), rows.slice(0, 2)], 2))
    True
    """
    kept: pa.Table | None = None
    for part in parts:
        hashes = _hashes(part[REQUEST_ID])
        if kept is not None and kept.num_rows == most:
            chosen = hashes <= kept[_HASH][most - 1].as_py()
            part, hashes = part.filter(pa.array(chosen)), hashes[chosen]
        part = part.append_column(_HASH, pa.array(hashes, pa.uint64()))
        both = part if kept is None else pa.concat_tables([kept, part])
        order = pc.sort_indices(both, [(name, "ascending") for name in (_HASH, REQUEST_ID, "\0row")])
        kept = both.take(order[:most])
    if kept is None:
        raise LookupError("the log has no objects of this window")
    return kept


def _hashes(ids: pa.ChunkedArray) -> NDArray[np.uint64]:
    from pandas.util import hash_array

    names = ids.combine_chunks().dictionary_encode()
    of_each = hash_array(names.dictionary.to_numpy(zero_copy_only=False), categorize=False)
    return np.asarray(of_each[names.indices.to_numpy()], np.uint64)
