"""A model's inputs as numbers that trees can be grown on, and which of them can't be."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mooring.drift.columns import MOST_CATEGORIES, Column, counts_rows, is_number, is_text, is_unique_text, plain
from mooring.estimation.rows import EstimationError
from mooring.performance.scored import Floats


class FeatureEncoder:
    """Which columns are features, and how their values become numbers.

    Numbers and booleans are themselves; a text is its place among the texts of the held-out rows, by how often it
    is there. What is missing, and a text that no held-out row has, is nan. `left_out` says of each other column
    why it is none.

    >>> days = pa.array([1, 2, 3], pa.date32())
    >>> encoder = FeatureEncoder({"x": pa.array([1, 5, 5]), "at": days})
    >>> encoder.names, encoder.left_out
    (['x'], {'at': 'it is date32[day], neither a number, nor a boolean, nor a category'})
    >>> encoder.column("x", pa.array([5, None, 2])).tolist()
    [5.0, nan, 2.0]
    """

    def __init__(self, columns: Mapping[str, Column], *, named: bool = False) -> None:
        self.categories: dict[str, list[str]] = {}
        self.left_out: dict[str, str] = {}
        self.names: list[str] = []
        for name, column in columns.items():
            why_not = self._learn(name, plain(column), named)
            if why_not:
                self.left_out[name] = why_not
            else:
                self.names.append(name)

    def _learn(self, name: str, column: Column, named: bool) -> str:
        kind, there = column.type, column.drop_null()
        if not len(there):
            return "it has no values"
        if is_number(kind) or pa.types.is_boolean(kind):
            if not named and counts_rows(there):
                return "it numbers the rows"
            return "it has one value" if pc.count_distinct(there).as_py() == 1 else ""
        if not is_text(kind):
            return f"it is {kind}, neither a number, nor a boolean, nor a category"
        counted = pc.value_counts(_texts(there))
        values, counts = counted.field("values").to_pylist(), counted.field("counts").to_numpy()
        if len(values) == 1:
            return "it has one value"
        if is_unique_text(there):
            return "nearly each of its texts is another"
        order = sorted(range(len(values)), key=lambda at: (-counts[at], values[at]))
        self.categories[name] = [values[at] for at in order]
        return ""

    def keep(self, names: Collection[str]) -> None:
        """Leave out all but some of the features."""
        self.names = [name for name in self.names if name in names]
        self.categories = {name: texts for name, texts in self.categories.items() if name in names}

    def column(self, name: str, column: Column) -> Floats:
        """Return the numbers of one feature."""
        column = plain(column)
        texts = self.categories.get(name)
        if texts is None:
            found = _floats(column)
            return np.where(np.isfinite(found), found, np.nan)
        places = _floats(pc.index_in(_texts(column), value_set=pa.array(texts, pa.string())))
        return np.minimum(places, MOST_CATEGORIES)

    def misfit(self, name: str, column: Column) -> str:
        """Return what is wrong with the type of a feature's values; empty where it is as in the held-out rows."""
        kind = plain(column).type
        if pa.types.is_null(kind):
            return ""
        if name in self.categories:
            return "" if is_text(kind) else f"{name} is {kind}, and text in the held-out rows"
        fits = is_number(kind) or pa.types.is_boolean(kind)
        return "" if fits else f"{name} is {kind}, and a number in the held-out rows"

    def require(self, columns: Mapping[str, Column]) -> None:
        """Raise EstimationError where a feature lacks, or is of another type than in the held-out rows."""
        if lacking := [name for name in self.names if name not in columns]:
            raise EstimationError(
                f"the rows have no column {', '.join(lacking)}, which errors were learnt by: add it, or leave it "
                "out of the features"
            )
        misfits = [self.misfit(name, columns[name]) for name in self.names]
        if any(misfits):
            raise EstimationError(f"{'; '.join(filter(None, misfits))}: give it as the same type in both")

    def matrix(self, columns: Mapping[str, Column], rows: int) -> Floats:
        """Return the features of each row, an array (rows, features). Raises KeyError for one that lacks."""
        if not self.names:
            return np.empty((rows, 0))
        return np.stack([self.column(name, columns[name]) for name in self.names], axis=1)

    @property
    def categorical(self) -> list[bool]:
        """Whether each feature is a category."""
        return [name in self.categories for name in self.names]


def _texts(column: Column) -> pa.Array:
    texts = column.cast(pa.string())
    return texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts


def _floats(column: Column) -> NDArray[np.float64]:
    found: NDArray[np.float64] = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return found
