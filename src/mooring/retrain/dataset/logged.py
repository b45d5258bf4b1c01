"""What the log says of a model's inputs and labels in general: a sample of its newest traffic, all its labels."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mooring.log import listing, reader
from mooring.log.labels import LABELS, label_tables, list_label_objects
from mooring.log.listing import folder_name

_MOST_CLASSES = 10_000


def traffic(log: str, model: str, rows: int) -> pa.Table | None:
    """Return the features of `rows` of the newest rows in a log; None where it has none, or is not there.

    Objects are read from the newest on, of a large one every so many rows. Raises StoreError where the log
    refuses.
    """
    parts: list[pa.Table] = []
    try:
        for part in _newest(log, model):
            step = max(1, -(-part.num_rows // rows))
            parts.append(part.take(pa.array(np.arange(0, part.num_rows, step))))
            if sum(map(len, parts)) >= rows:
                break
    except listing.LogError:
        return None
    parts = [part for part in parts if part.num_rows]
    return pa.concat_tables(parts, promote_options="permissive").slice(0, rows) if parts else None


def _newest(log: str, model: str) -> Iterator[pa.Table]:
    opened = listing.open_log(log)
    prefix = f"inferences/model={folder_name(model)}"
    for day in reversed(listing.days(opened, log, prefix)):
        begin = listing.midnight(day)
        for one in reversed(listing.list_objects(opened, log, prefix, begin, begin + timedelta(days=1))):
            found = reader.found_in(opened, log, model, [one])
            if "input" in found.schema.names:
                wanted = {field.name: ("input", field.name) for field in found.schema.field("input").type}
                yield from (table for _, table in reader.tables(found, wanted))
            listing.log_skipped(found.skipped)


class LabelRange(NamedTuple):
    """The least and the greatest label, None where they are no numbers, and the labels as names of classes."""

    low: float | None
    high: float | None
    classes: frozenset[str]


def label_range(log: str, model: str, own: pa.Array) -> LabelRange:
    """Return the range and the classes of the labels `own` and of all those in a log, if there is one.

    Raises StoreError where the log refuses.

    >>> found = label_range("", "wine", pa.array([5, 6, 5]))
    >>> found.low, found.high, sorted(found.classes)
    (5.0, 6.0, ['5', '6'])
    """
    numbers, texts = [], set()
    if pa.types.is_floating(own.type) or pa.types.is_integer(own.type) or pa.types.is_boolean(own.type):
        numbers.append(own.cast(pa.float64()))
    else:
        texts |= set(own.cast(pa.string()).to_pylist())
    try:
        opened = listing.open_log(log) if log else None
        if opened is not None:
            found = reader.found_in(opened, log, model, list_label_objects(opened, log, model), LABELS)
            for _, table in label_tables(found):
                numbers.append(pc.unique(table["label"]))
                texts |= set(pc.unique(table["label_text"]).to_pylist())
            listing.log_skipped(found.skipped)
    except listing.LogError:
        pass  # no log: there are no others
    values = np.unique(np.concatenate([np.empty(0), *(np.asarray(one.drop_null()) for one in numbers)]))
    values = values[np.isfinite(values)]
    names = {str(int(one)) if one == int(one) else str(one) for one in values[:_MOST_CLASSES].tolist()}
    if not len(values):
        return LabelRange(None, None, frozenset(texts - {None}))
    return LabelRange(float(values[0]), float(values[-1]), frozenset(names | (texts - {None})))
