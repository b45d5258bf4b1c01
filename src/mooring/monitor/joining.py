"""Labels joined to the rows of the log, whichever of the two came first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mooring.drift.columns import is_text
from mooring.log import label_join, listing, reader
from mooring.log import labels as label_log
from mooring.log.label_join import LabelIndex
from mooring.monitor import ingest
from mooring.monitor.windows import micros
from mooring.performance.kinds import MOST_TEXTS
from mooring.performance.measures import LabelledRows, Task, scored_of
from mooring.performance.scored import UnscorableError, output_of, prediction_in
from mooring.performance.selection import SelectionTest, selection
from mooring.state.windows import Window

_SMALL_LABELS = 64_000_000


class JoinedLabels(NamedTuple):
    """Labels of rows: the rows' places, ascending, what they are, when they became known, and their own places.

    `protected` has, by column, the protected values that came with them, None where none did.
    """

    places: NDArray[np.int64]
    labels: pa.Array
    known: NDArray[np.int64]
    which: NDArray[np.int64]
    protected: Mapping[str, NDArray[np.object_]] = {}

    def only(self, chosen: NDArray[np.bool_]) -> JoinedLabels:
        """Return some of them."""
        labels = self.labels.filter(pa.array(chosen))
        protected = {name: values[chosen] for name, values in self.protected.items()}
        return JoinedLabels(self.places[chosen], labels, self.known[chosen], self.which[chosen], protected)

    def of(self, rows: NDArray[np.bool_]) -> JoinedLabels:
        """Return those of some of the rows."""
        return self.only(rows[self.places])

    def delay(self, times: NDArray[np.int64]) -> float | None:
        """Return how many seconds after its row a label became known, in the middle."""
        return float(np.median(self.known - times[self.places])) / 1e6 if len(self.places) else None


class LoggedRows(NamedTuple):
    """Rows of the log: who asked, when, and what the model said; `predicted` are the texts that it predicts.

    Of the inputs there are those that tell `segments` apart, and those that are `protected`.
    """

    table: pa.Table
    times: NDArray[np.int64]
    groups: NDArray[np.int64]
    outputs: dict[str, pa.ChunkedArray]
    segments: dict[str, pa.ChunkedArray]
    predicted: frozenset[str]
    protected: dict[str, pa.ChunkedArray]

    @classmethod
    def read(cls, found: reader.LogObjects, segments: Sequence[str], protected: Sequence[str] = ()) -> LoggedRows:
        """Return the rows of objects, by their time; of the inputs those that are named."""
        own = ("\0request_id", "\0client_request_id", "\0row", *ingest.OWN[:3])
        features = reader.choose(found.schema, None, flat=True)
        outputs = {name: path for name, path in features.items() if path[0] == "output"}
        inputs = {
            name: path for name, path in features.items() if path[0] == "input" and name in (*segments, *protected)
        }
        columns: dict[str, tuple[str, ...]] = {name: (name[1:],) for name in own}
        columns |= {f"output {name}": path for name, path in outputs.items()}
        columns |= {f"input {name}": path for name, path in inputs.items()}
        kinds = {name: reader.type_at(found.schema, path) for name, path in columns.items()}
        parts = [table for _, table in reader.tables(found, columns)]
        table = pa.concat_tables(parts) if parts else pa.schema(kinds).empty_table()
        table = table.filter(pc.and_(pc.is_valid(table["\0time"]), pc.is_valid(table["\0variant"])))
        # Always in one order, so that the same rows give the same figures.
        table = table.sort_by([(name, "ascending") for name in ("\0time", "\0request_id", "\0row")])
        ids = table["\0request_id"].combine_chunks().dictionary_encode()
        return cls(
            table,
            table["\0time"].cast(pa.int64()).to_numpy(),
            ids.indices.to_numpy().astype(np.int64),
            {name: table[f"output {name}"] for name in outputs},
            {name: table[f"input {name}"] for name in inputs if name in segments},
            _texts_in({name: table[f"output {name}"] for name in outputs}),
            {name: table[f"input {name}"] for name in inputs if name in protected},
        )

    def of(self, window: Window) -> NDArray[np.bool_]:
        """Return which rows are of a window."""
        there = (self.times >= micros(window.start)) & (self.times < micros(window.end))
        version = pc.equal(pc.fill_null(self.table["\0model_version"], ""), window.version or "")
        variant = pc.equal(self.table["\0variant"], window.variant)
        return np.asarray(there & pc.and_(version, variant).to_numpy())

    def scored(
        self,
        labelled: JoinedLabels,
        task: Task | None = None,
        classes: Sequence[str] | None = None,
        known: int | None = None,
    ) -> LabelledRows:
        """Return labelled rows as what measures are computed from; the baseline has the first `known` classes.

        Raises UnscorableError.
        """
        places = pa.array(labelled.places)
        found = scored_of(
            labelled.labels,
            {name: column.take(places) for name, column in self.outputs.items()},
            label_join.dependent(self.groups[labelled.places], labelled.which),
            task=task,
            classes=classes,
            seen=self.predicted,
        )
        return found._replace(known=known)

    def selection(self, chosen: NDArray[np.bool_], labelled: JoinedLabels) -> SelectionTest:
        """Return whether the labelled ones of some rows differ from the others in what the log has of both.

        That is the model's output, and of the inputs those that tell segments apart; rows without an output are
        none of which performance could be told.
        """
        rows = pa.array(chosen)
        outputs = {name: column.filter(rows) for name, column in self.outputs.items()}
        inputs = {name: column.filter(rows).combine_chunks() for name, column in self.segments.items()}
        try:
            said = output_of(outputs) if outputs else {}
        except UnscorableError:
            said = {name: column.combine_chunks() for name, column in outputs.items()}
        mask = np.zeros(len(chosen), np.bool_)
        mask[labelled.places] = True
        answered = np.ones(np.count_nonzero(chosen), np.bool_)
        for column in said.values():
            answered &= column.is_valid().to_numpy(zero_copy_only=False)
        columns = {name: column.filter(pa.array(answered)) for name, column in (said | inputs).items()}
        groups = np.unique(self.groups[chosen][answered], return_inverse=True)[1].astype(np.int64)
        return selection(columns, mask[chosen][answered], groups)


class LabelSource:
    """The labels of a model; read once where they are few, else again for each batch of rows."""

    def __init__(
        self,
        uri: str,
        model: str,
        since: datetime,
        listed: Sequence[listing.Object],
        protected: Sequence[str] = (),
    ) -> None:
        self._uri = uri
        self._protected = protected
        self._model = model
        self._since = since
        self._few = sum(one.size for one in listed) <= _SMALL_LABELS
        self._all: LabelIndex | None = None

    def of(self, rows: LoggedRows) -> JoinedLabels:
        """Return the labels of rows."""
        keys = rows.table.select([f"\0{name}" for name in label_join.COLUMNS])
        keys = keys.rename_columns(list(label_join.COLUMNS))
        index = self._index(keys)
        joined = index.join(keys)
        protected = {name: index.protected(joined.labels, name) for name in self._protected}
        return JoinedLabels(
            joined.rows, index.values(joined.labels), index.times[joined.labels], joined.labels, protected
        )

    def _index(self, keys: pa.Table) -> LabelIndex:
        if self._all is not None:
            return self._all
        ids = None
        if not self._few:
            ids = pc.unique(pa.concat_arrays([keys[name].combine_chunks() for name in label_join.COLUMNS[:2]]))
        labels = label_log.read_labels(self._uri, self._model, start=self._since, ids=ids)
        listing.log_skipped(labels.skipped)
        index = LabelIndex(labels.table)
        if self._few:
            self._all = index
        return index


def _texts_in(outputs: dict[str, pa.ChunkedArray]) -> frozenset[str]:
    """Return the texts that a model predicts, if they are few enough to be classes."""
    name = prediction_in(outputs)
    if name is None or not is_text(outputs[name].type):
        return frozenset()
    texts = pc.unique(outputs[name]).drop_null()
    return frozenset(texts.to_pylist()) if len(texts) <= MOST_TEXTS else frozenset()
