"""Labels joined to the rows of the log, whichever of the two came first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mooring.log import labels as label_log
from mooring.log import reader
from mooring.monitor import incoming
from mooring.monitor.schema import Window
from mooring.monitor.windows import micros
from mooring.performance.measures import Scored, Task, scored_of

_SMALL_LABELS = 64_000_000


class Labelled(NamedTuple):
    """Labels of rows: the rows' places, ascending, what the labels are, and when they became known."""

    places: NDArray[np.int64]
    labels: pa.Array
    known: NDArray[np.int64]

    def only(self, chosen: NDArray[np.bool_]) -> Labelled:
        """Return some of them."""
        return Labelled(self.places[chosen], self.labels.filter(pa.array(chosen)), self.known[chosen])

    def of(self, rows: NDArray[np.bool_]) -> Labelled:
        """Return those of some of the rows."""
        return self.only(rows[self.places])

    def delay(self, times: NDArray[np.int64]) -> float | None:
        """Return how many seconds after its row a label became known, in the middle."""
        return float(np.median(self.known - times[self.places])) / 1e6 if len(self.places) else None


class Rows(NamedTuple):
    """Rows of the log: who asked, when, and what the model said."""

    table: pa.Table
    times: NDArray[np.int64]
    groups: NDArray[np.int64]
    outputs: dict[str, pa.ChunkedArray]
    segments: dict[str, pa.ChunkedArray]

    @classmethod
    def read(cls, found: reader.Found, segments: Sequence[str]) -> Rows:
        """Return the rows of objects, by their time; of the inputs those that tell segments apart."""
        own = ("\0request_id", "\0client_request_id", "\0row", *incoming.OWN[:3])
        features = reader.choose(found.schema, None, flat=True)
        outputs = {name: path for name, path in features.items() if path[0] == "output"}
        inputs = {name: path for name, path in features.items() if path[0] == "input" and name in segments}
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
            {name: table[f"input {name}"] for name in inputs},
        )

    def of(self, window: Window) -> NDArray[np.bool_]:
        """Return which rows are of a window."""
        there = (self.times >= micros(window.start)) & (self.times < micros(window.end))
        version = pc.equal(pc.fill_null(self.table["\0model_version"], ""), window.version or "")
        variant = pc.equal(self.table["\0variant"], window.variant)
        return np.asarray(there & pc.and_(version, variant).to_numpy())

    def scored(self, labelled: Labelled, task: Task | None = None, classes: Sequence[str] | None = None) -> Scored:
        """Return labelled rows as what measures are computed from. Raises UnscorableError."""
        places = pa.array(labelled.places)
        return scored_of(
            labelled.labels,
            {name: column.take(places) for name, column in self.outputs.items()},
            self.groups[labelled.places],
            task=task,
            classes=classes,
        )


class Truth:
    """The labels of a model; read once where they are few, else again for each batch of rows."""

    def __init__(
        self, uri: str, model: str, since: datetime, listed: Sequence[reader.Object], say: Callable[[str], None]
    ) -> None:
        self._uri = uri
        self._model = model
        self._since = since
        self._say = say
        self._few = sum(one.size for one in listed) <= _SMALL_LABELS
        self._all: pa.Table | None = None

    def of(self, rows: Rows) -> Labelled:
        """Return the labels of rows, by our id of their request or the client's: the latest of each."""
        keys = rows.table.select(["\0request_id", "\0client_request_id", "\0row"])
        keys = keys.rename_columns(["request_id", "client", "row"])
        keys = keys.append_column("place", pa.array(np.arange(keys.num_rows)))
        labels = self._read(keys)
        labels = labels.append_column("label_place", pa.array(np.arange(labels.num_rows)))
        wanted = labels.select(["request_id", "row", "label_place"])
        by_client = keys.filter(pc.is_valid(keys["client"])).select(["client", "row", "place"])
        pairs = pa.concat_tables(
            [
                part.rename_columns(["request_id", "row", "place"])
                .join(wanted, ["request_id", "row"], join_type="inner")
                .select(["place", "label_place"])
                for part in (keys.select(["request_id", "row", "place"]), by_client)
            ]
        )
        known = labels["time"].cast(pa.int64()).to_numpy()
        places, of_label = (pairs[name].to_numpy() for name in ("place", "label_place"))
        order = np.lexsort((of_label, known[of_label], places))
        places, of_label = places[order], of_label[order]
        last = np.append(places[1:] != places[:-1], True)[: len(places)]
        places, of_label = places[last], of_label[last]
        return Labelled(places, _values(labels, of_label), known[of_label])

    def _read(self, keys: pa.Table) -> pa.Table:
        with incoming.telling(self._say):
            if self._few:
                if self._all is None:
                    self._all = label_log.read_labels(self._uri, self._model, start=self._since)
                return self._all
            ids = pa.concat_arrays([keys[name].combine_chunks() for name in ("request_id", "client")])
            return label_log.read_labels(self._uri, self._model, start=self._since, ids=pc.unique(ids.drop_null()))


def _values(labels: pa.Table, places: NDArray[np.int64]) -> pa.Array:
    """Return labels as numbers, or as texts where any is one."""
    chosen = labels.select(["label", "label_text"]).take(pa.array(places)).combine_chunks()
    numbers, texts = (chosen[name].combine_chunks() for name in ("label", "label_text"))
    if texts.null_count == len(texts):
        return numbers
    said = [None if one is None else f"{one:.15g}" for one in numbers.to_pylist()]
    return pc.coalesce(texts, pa.array(said, pa.string()))
