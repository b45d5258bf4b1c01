"""How much of the log is labelled, day by day, and how long labels take to come."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from itertools import groupby

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mooring.log import label_join, listing, reader
from mooring.log.label_join import LabelIndex
from mooring.log.labels import read_labels, rows_a_look, together
from mooring.log.listing import folder_name
from mooring.log.schema import INFERENCES


class Day(msgspec.Struct, frozen=True):
    """A day of the log: its scored rows, how many of them have a label, and after how many seconds."""

    date: date
    rows: int
    labelled: int
    median_delay: float | None

    @property
    def coverage(self) -> float:
        """The share of the rows that have a label."""
        return self.labelled / self.rows if self.rows else 0.0


def label_days(uri: str, model: str, since: datetime) -> list[Day]:
    """Return the days of a model from `since` on, oldest first.

    Raises LogError where there is no log, StoreError where it refuses.
    """
    opened = listing.open_log(uri)
    read = read_labels(uri, model, start=since - timedelta(days=1))
    listing.log_skipped(read.skipped)
    labels = LabelIndex(read.table)
    listed = listing.list_objects(opened, uri, f"inferences/model={folder_name(model)}", since)
    columns = {name: (name,) for name in (*label_join.COLUMNS, "time")}
    days = []
    for day, objects in groupby(listed, key=lambda one: one.day):
        found = reader.found_in(opened, uri, model, list(objects), INFERENCES)
        rows, delays = 0, [np.array([], np.int64)]
        for table in together((part for _, part in reader.tables(found, columns)), rows_a_look(len(labels))):
            rows += len(table)
            delays.append(_delays(table, labels))
        listing.log_skipped(found.skipped)
        all_delays = np.concatenate(delays)
        median = float(np.median(all_delays)) / 1e6 if len(all_delays) else None
        days.append(Day(day, rows, len(all_delays), median))
    return days


def _delays(table: pa.Table, labels: LabelIndex) -> NDArray[np.int64]:
    """Return of the rows that have a label how long it took, in microseconds."""
    joined = labels.join(table)
    return np.asarray(labels.times[joined.labels] - pc.cast(table["time"], pa.int64()).to_numpy()[joined.rows])
