"""Profiles: what is kept of a window, per feature, on the cells of a baseline's grid. Profiles add.

A profile is made by one function from Arrow batches, in this process or on a cluster alike, and the profile of two
samples together is the sum of theirs: counts, minimum and maximum exactly, moments to 1e-12.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mooring.drift.columns import (
    as_floats,
    as_lengths,
    as_microseconds,
    as_numbers,
    encoded,
    filled,
    is_number,
    is_text,
    plain,
)
from mooring.drift.counting import CategoryCounter, NumberCounter, least
from mooring.drift.dependence import effective_rows
from mooring.drift.grid import (
    CategoricalGrid,
    Floats,
    Grid,
    Integers,
    Numbers,
    NumericGrid,
    OtherGrid,
    TextGrid,
    TimestampGrid,
)
from mooring.drift.loose import Cells, fitted, is_loose
from mooring.drift.order import BatchSums, Runs, Scorer, keys_of
from mooring.drift.stored import encode
from mooring.drift.tensors import expanded

_UNKNOWN_COLUMNS = 1000
_CHUNK = 65_536
_DAYS = 65_536  # since 1970: to the year 2149
_DAY, _HOUR = 86_400_000_000, 3_600_000_000


class NumericProfile(msgspec.Struct, tag="numeric"):
    """Counts of a number's finite values in the cells of its grid, with moments about the grid's center.

    `low` and `high` are the sums of the values' positions in the two open cells; all sums are in the grid's unit.
    Of the `infinities` `minus` are negative; None where a profile of an earlier version has not kept that.
    """

    counts: Integers
    nans: int = 0
    infinities: int = 0
    total: float = 0.0
    squares: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf
    low: float = 0.0
    high: float = 0.0
    minus: int | None = None

    def __add__(self, other: NumericProfile) -> NumericProfile:
        """Return the profile of both samples."""
        return NumericProfile(
            self.counts + other.counts,
            self.nans + other.nans,
            self.infinities + other.infinities,
            self.total + other.total,
            self.squares + other.squares,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            self.low + other.low,
            self.high + other.high,
            self.negative + other.negative if self.signed and other.signed else None,
        )

    @property
    def values(self) -> int:
        """How many finite values there are."""
        return int(self.counts.sum())

    @property
    def signed(self) -> bool:
        """Whether the signs of its infinities are known."""
        return self.minus is not None or not self.infinities

    @property
    def negative(self) -> int:
        """How many values are negative infinity, 0 where that is not known."""
        return self.minus or 0

    def mean(self, grid: NumericGrid) -> float:
        """Return the mean of the finite values, NaN of none."""
        return grid.center + self.offset() * grid.unit if self.values else math.nan

    def offset(self) -> float:
        """Return by how much the mean exceeds the grid's center, in the grid's unit; NaN of no values."""
        return self.total / self.values if self.values else math.nan

    def deviation(self, grid: NumericGrid) -> float:
        """Return the standard deviation of the finite values, NaN of none, infinite where it has no number."""
        if not self.values:
            return math.nan
        if not math.isfinite(self.squares):
            return math.inf
        variance = self.squares / self.values - (self.total / self.values) ** 2
        return math.sqrt(variance) * grid.unit if variance > 0 else 0.0


def with_infinities(profiles: Sequence[NumericProfile]) -> list[Integers]:
    """Return counts with a cell more at either end, for the infinities.

    Where the signs of some are not known, all count as positive: so they are compared at least as infinities.

    >>> [counts] = with_infinities([NumericProfile(np.array([0, 5, 0]), infinities=3, minus=1)])
    >>> counts.tolist()
    [1, 0, 5, 0, 2]
    """
    signed = all(one.signed for one in profiles)
    found = []
    for one in profiles:
        minus = one.negative if signed else 0
        found.append(np.concatenate(([minus], one.counts, [one.infinities - minus])))
    return found


class CategoricalProfile(msgspec.Struct, tag="categorical"):
    """Counts of the baseline's categories, and of new ones by name.

    Of many new ones only those with the least hashes are kept by name, the rows of the rest are `more`. Which are
    kept depends on nothing but the names, so the counts of those kept are exact under any split and order.
    """

    counts: Integers
    new: dict[str, int] = {}
    more: int = 0

    def __add__(self, other: CategoricalProfile) -> CategoricalProfile:
        """Return the profile of both samples."""
        new = dict(self.new)
        for name, count in other.new.items():
            new[name] = new.get(name, 0) + count
        return CategoricalProfile(self.counts + other.counts, *least(new, self.more + other.more))

    @property
    def values(self) -> int:
        """How many values there are."""
        return int(self.counts.sum()) + sum(self.new.values()) + self.more


class TimestampProfile(msgspec.Struct, tag="timestamp"):
    """Counts of hours of the day and days of the week, Monday first, and which calendar days occur; all UTC."""

    hours: Integers
    weekdays: Integers
    days: Integers
    minimum: int = 2**62
    maximum: int = -(2**62)

    def __add__(self, other: TimestampProfile) -> TimestampProfile:
        """Return the profile of both samples."""
        return TimestampProfile(
            self.hours + other.hours,
            self.weekdays + other.weekdays,
            self.days | other.days,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
        )

    @property
    def values(self) -> int:
        """How many values there are."""
        return int(self.hours.sum())

    def longest_gap(self) -> int:
        """Return the length in days of the longest stretch between two values in which there is none."""
        there = np.flatnonzero(np.unpackbits(self.days.view(np.uint8), bitorder="little"))
        return int(np.diff(there).max() - 1) if len(there) > 1 else 0


class TextProfile(msgspec.Struct, tag="text"):
    """The profile of the lengths of texts, in characters."""

    lengths: NumericProfile

    def __add__(self, other: TextProfile) -> TextProfile:
        """Return the profile of both samples."""
        return TextProfile(self.lengths + other.lengths)

    @property
    def values(self) -> int:
        """How many texts there are."""
        return self.lengths.values


class OtherProfile(msgspec.Struct, tag="other"):
    """How often there is anything."""

    values: int = 0

    def __add__(self, other: OtherProfile) -> OtherProfile:
        """Return the profile of both samples."""
        return OtherProfile(self.values + other.values)


Values = NumericProfile | CategoricalProfile | TimestampProfile | TextProfile | OtherProfile


def _sum(one: Values, other: Values) -> Values:
    return one + other  # type: ignore[operator]  # profiles of one feature are of one grid, and so of one class


class FeatureProfile(msgspec.Struct):
    """A feature in a window: its values, and the rows that have none or one of another type (`misfits`).

    `absent` are the rows of batches that have no such column at all; they are among `nulls`. `cast` are the rows
    whose value came as another type, and was made one of this type before the model got it: it is among `values`.
    """

    values: Values
    nulls: int = 0
    misfits: int = 0
    absent: int = 0
    cast: int = 0

    def __add__(self, other: FeatureProfile) -> FeatureProfile:
        """Return the profile of both samples."""
        return FeatureProfile(
            _sum(self.values, other.values),
            self.nulls + other.nulls,
            self.misfits + other.misfits,
            self.absent + other.absent,
            self.cast + other.cast,
        )

    @property
    def unusable(self) -> int:
        """How many rows have no value that the model could have been trained on: null, NaN, another type."""
        nans = self.values.nans if isinstance(self.values, NumericProfile) else 0
        return self.nulls + self.misfits + nans


class Profile(msgspec.Struct):
    """What is kept of a sample: its features on a baseline's grids.

    `weight` is the sum over rows of how many rows came in the same request: rows squared by it are the effective
    rows. `unknown` are columns that the baseline does not have, with their rows. `order` has sums of rows that
    follow each other; None where their times are not known.

    >>> from mooring.drift.grid import numeric_grid
    >>> grids = {"x": numeric_grid(np.array([1.0, 2.0, 3.0]))}
    >>> a = profile([pa.table({"x": [1.0, None]})], grids); b = profile([pa.table({"x": [9.0]})], grids)
    >>> (a + b).rows, (a + b).features["x"].values.maximum, (a + b).features["x"].nulls
    (3, 9.0, 1)
    """

    digest: str
    features: dict[str, FeatureProfile]
    rows: int = 0
    weight: int = 0
    unknown: dict[str, int] = {}
    order: BatchSums | None = None

    def __add__(self, other: Profile) -> Profile:
        """Return the profile of both samples. Raises ValueError where they are on different grids."""
        if self.digest != other.digest:
            raise ValueError("profiles on the grids of different baselines do not add up")
        unknown = {name: self.unknown.get(name, 0) + other.unknown.get(name, 0)
                   for name in sorted(self.unknown | other.unknown)[:_UNKNOWN_COLUMNS]}  # fmt: skip
        return Profile(
            self.digest,
            {name: feature + other.features[name] for name, feature in self.features.items()},
            self.rows + other.rows,
            self.weight + other.weight,
            unknown,
            self._order_with(other),
        )

    def _order_with(self, other: Profile) -> BatchSums | None:
        if not self.rows or not other.rows:
            return self.order if self.rows else other.order
        return self.order + other.order if self.order is not None and other.order is not None else None

    @property
    def effective_rows(self) -> float:
        """How many independent rows tell as much: Kish's effective sample size of clusters."""
        return effective_rows(self.rows, self.weight, None)


class OwnColumns(NamedTuple):
    """The names of columns that are of no feature, None of those that there are not."""

    request_rows: str | None
    misfits: str | None
    time: str | None
    row: str | None


def grids_digest(grids: Mapping[str, Grid]) -> str:
    """Return a short text that names grids: profiles add where it is the same."""
    digest = hashlib.blake2b(digest_size=12)
    for name in sorted(grids):
        digest.update(name.encode() + b"\0" + encode(grids[name]) + b"\0")
    return digest.hexdigest()


def empty(grids: Mapping[str, Grid], digest: str | None = None) -> Profile:
    """Return the profile of no rows."""
    return Profile(
        digest if digest is not None else grids_digest(grids),
        {name: FeatureProfile(_no_values(grid)) for name, grid in grids.items()},
    )


def profile(
    batches: Iterable[pa.RecordBatch | pa.Table],
    grids: Mapping[str, Grid],
    *,
    request_rows: str | None = None,
    misfits: str | None = None,
    time: str | None = None,
    row: str | None = None,
    digest: str | None = None,
) -> Profile:
    """Return the profile of Arrow batches on grids. Columns go by name; their order and further ones don't matter.

    `request_rows` names a column that says how many rows came in the same request; without it each row counts as
    a request of its own. `misfits` names a column of JSON texts, {"input": {FEATURE: value}}, of values whose
    type did not fit, as the inference log has it: there the feature's own column is null. `time` names a column of
    when each row was received, and `row` one of its place in its request: with them its order is known. `digest`
    is that of the grids, which takes long to find.
    """
    found = empty(grids, digest)
    own = OwnColumns(request_rows, misfits, time, row)
    counters: dict[str, NumberCounter | CategoryCounter] = {}
    for name, grid in grids.items():
        if isinstance(grid, NumericGrid):
            counters[name] = NumberCounter(grid)
        elif isinstance(grid, CategoricalGrid):
            counters[name] = CategoryCounter(grid)
    scorers: dict[str, Scorer] = {}
    if time is not None:
        scorers = {name: Scorer(grid, counters.get(name)) for name, grid in grids.items()}
    for batch in batches:
        for start in range(0, batch.num_rows, _CHUNK):
            part = expanded(batch.slice(start, _CHUNK), grids.keys())
            order = _add(found, part, grids, counters, scorers, own)
            if order is not None:
                found.order = order if found.order is None else found.order + order
    for name, counter in counters.items():
        found.features[name].values = (
            _numbers_of(counter)
            if isinstance(counter, NumberCounter)
            else CategoricalProfile(counter.counts, counter.new, counter.more)
        )
    return found


def _add(
    found: Profile,
    batch: pa.RecordBatch | pa.Table,
    grids: Mapping[str, Grid],
    counters: Mapping[str, NumberCounter | CategoryCounter],
    scorers: Mapping[str, Scorer],
    own: OwnColumns,
) -> BatchSums | None:
    rows = batch.num_rows
    found.rows += rows
    places = {name: place for place, name in enumerate(batch.schema.names)}
    request_rows, misfits = own.request_rows, own.misfits
    runs = _runs(batch, own) if scorers else None
    channels: list[tuple[Floats, float]] = []
    if request_rows is not None and request_rows in places:
        found.weight += int(pc.sum(batch.column(places[request_rows])).as_py() or 0)
    else:
        found.weight += rows
    for name, grid in grids.items():
        feature = found.features[name]
        if name not in places:
            feature.nulls += rows
            feature.absent += rows
            if runs is not None:
                channels += scorers[name].none(runs)
            continue
        column, odd = _fitting(batch.column(places[name]), grid)
        if runs is not None:
            if isinstance(grid, CategoricalGrid) and grid.numbers is None and is_text(column.type):
                column = encoded(column)
            channels += scorers[name].sums(column, runs) if len(column) == rows else scorers[name].unknown(runs)
        feature.nulls += column.null_count
        feature.misfits += odd
        counter = counters.get(name)
        if counter is not None and misfits in places and _has_integers(grid) and is_number(column.type):
            column, exact = _exact(column, batch.column(places[misfits]), name, grids)
            for few, kind in (([one for one in exact if one < 2**63], pa.int64()),
                              ([one for one in exact if one >= 2**63], pa.uint64())):  # fmt: skip
                _add_values(feature, pa.array(few, kind), grid, counter)
        feature.misfits += _add_values(feature, column, grid, counter)
    for name in places.keys() - grids.keys() - set(own):
        there = filled(batch.column(places[name]))
        if there and (name in found.unknown or len(found.unknown) < _UNKNOWN_COLUMNS):
            found.unknown[name] = found.unknown.get(name, 0) + there
    if misfits is not None and misfits in places:
        _note_misfits(found, batch, misfits, grids)
    return None if runs is None else runs.order(channels)


def _runs(batch: pa.RecordBatch | pa.Table, own: OwnColumns) -> Runs:
    times, rows, request_rows = (
        batch.column(name).cast(pa.int64()).to_numpy() for name in (own.time, own.row, own.request_rows)
    )
    return Runs(keys_of(times, rows, request_rows))


def _fitting(column: pa.Array | pa.ChunkedArray, grid: Grid) -> tuple[pa.Array | pa.ChunkedArray, int]:
    """Return a column of the kind that a grid is for, and how many cells are left out as they are of another.

    Only of columns that are text because of odd cells these are told apart; of others all cells are of one type.
    """
    loose = is_loose(column)
    if not loose and not (_of_texts(grid) and is_text(column.type)):
        return plain(column), 0
    wanted = cells_of(grid)
    if wanted is None:
        return plain(column), 0
    fit, odd = fitted(column, wanted)
    return plain(fit), odd


def _of_texts(grid: Grid) -> bool:
    return isinstance(grid, NumericGrid | CategoricalGrid) and grid.texts is True


def cells_of(grid: Grid) -> Cells | None:
    """Return what cells a grid is for; None where it is for any."""
    match grid:
        case NumericGrid():
            return "numbers"
        case CategoricalGrid(categories=names, numbers=numbers):
            return "numbers" if numbers is not None else "booleans" if names == ["false", "true"] else "texts"
        case TimestampGrid():
            return "moments"
        case TextGrid():
            return "texts"
        case OtherGrid():
            return None


def _add_values(
    feature: FeatureProfile,
    column: pa.Array | pa.ChunkedArray,
    grid: Grid,
    counter: NumberCounter | CategoryCounter | None,
) -> int:
    """Add a column's values, and return how many are of another type."""
    if isinstance(counter, CategoryCounter):
        return counter.add(column)
    if counter is not None:
        numbers = as_numbers(column) if _has_integers(grid) else as_floats(column)
        if numbers is None:
            return filled(column)
        counter.add(numbers)
        return 0
    values = _values_of(column, grid)
    if values is None:
        return filled(column)
    feature.values = _sum(feature.values, values)
    return 0


def _has_integers(grid: Grid) -> bool:
    """Whether a grid's numbers are integers that floats can't tell apart."""
    numbers = grid.edges if isinstance(grid, NumericGrid) else getattr(grid, "numbers", None)
    return numbers is not None and numbers.dtype.kind in "iu"


def _note_misfits(
    found: Profile, batch: pa.RecordBatch | pa.Table, misfits: str, grids: Mapping[str, Grid]
) -> None:
    """Note the values that did not fit. Where the row has one all the same, it was cast or rounded, and counts."""
    there: dict[str, NDArray[np.bool_]] = {}
    names = set(batch.schema.names)
    for row, known, value in _misfits_in(batch.column(misfits), grids):
        feature = found.features.get(known)
        if feature is None:
            if known in found.unknown or len(found.unknown) < _UNKNOWN_COLUMNS:
                found.unknown[known] = found.unknown.get(known, 0) + 1
            continue
        if known in names and known not in there:
            there[known] = np.asarray(pc.is_valid(batch.column(known)), bool)
        if known not in there or not there[known][row]:
            feature.nulls -= 1
            feature.misfits += 1
        elif type(value) is not int or abs(value) <= 2**53:
            feature.cast += 1


def _misfits_in(texts: pa.Array | pa.ChunkedArray, grids: Mapping[str, Grid]) -> Iterator[tuple[int, str, Any]]:
    """Yield the misfits of a column of JSON texts: the row, the feature's name, the value."""
    rows = np.flatnonzero(np.asarray(pc.is_valid(texts), bool)).tolist()
    for row, text in zip(rows, pc.drop_null(texts).to_pylist(), strict=True):
        for part, values in json.loads(text).items():
            for name, value in values.items():
                yield row, f"{part}.{name}" if f"{part}.{name}" in grids else name, value


def _exact(
    column: pa.Array | pa.ChunkedArray, texts: pa.Array | pa.ChunkedArray, name: str, grids: Mapping[str, Grid]
) -> tuple[pa.Array | pa.ChunkedArray, list[int]]:
    """Return a column of floats without the values that were integers no float has, and these as they were."""
    there = np.asarray(pc.is_valid(column), bool)
    exact = {
        row: value
        for row, known, value in _misfits_in(texts, grids)
        if known == name and type(value) is int and -(2**63) <= value < 2**64 and there[row]
    }
    rounded = np.zeros(len(column), bool)
    rounded[list(exact)] = True
    return (column.filter(pa.array(~rounded)), list(exact.values())) if exact else (column, [])


def _no_values(grid: Grid) -> Values:
    match grid:
        case NumericGrid():
            return NumericProfile(np.zeros(grid.cells, np.int64))
        case CategoricalGrid():
            return CategoricalProfile(np.zeros(grid.cells, np.int64))
        case TimestampGrid():
            return TimestampProfile(np.zeros(24, np.int64), np.zeros(7, np.int64), np.zeros(_DAYS // 64, np.int64))
        case TextGrid():
            return TextProfile(NumericProfile(np.zeros(grid.lengths.cells, np.int64)))
        case OtherGrid():
            return OtherProfile()


def _values_of(column: pa.Array | pa.ChunkedArray, grid: Grid) -> Values | None:
    """Return the profile of a column's values, None where they are of another type."""
    match grid:
        case TimestampGrid():
            micros = as_microseconds(column)
            return None if micros is None else _timestamp_profile(micros)
        case TextGrid():
            lengths = as_lengths(column)
            return None if lengths is None else TextProfile(numeric_profile(lengths, grid.lengths))
        case _:
            return OtherProfile(filled(column))


def numeric_profile(values: Numbers, grid: NumericGrid) -> NumericProfile:
    """Return the profile of numbers without nulls.

    >>> from mooring.drift.grid import numeric_grid
    >>> numeric_profile(np.array([2.0, np.nan, 7.0]), numeric_grid(np.array([1.0, 2.0, 3.0]))).maximum
    7.0
    """
    counter = NumberCounter(grid)
    counter.add(values)
    return _numbers_of(counter)


def _numbers_of(counter: NumberCounter) -> NumericProfile:
    return NumericProfile(
        counter.counts(),
        counter.nans,
        counter.infinities,
        counter.total,
        counter.squares,
        counter.minimum,
        counter.maximum,
        counter.low,
        counter.high,
        counter.minus,
    )


def _timestamp_profile(micros: Integers) -> TimestampProfile:
    days = micros // _DAY
    here = days[(days >= 0) & (days < _DAYS)]
    bits = np.zeros(_DAYS, bool)
    bits[here] = True
    return TimestampProfile(
        np.bincount((micros % _DAY) // _HOUR, minlength=24).astype(np.int64),
        np.bincount((days + 3) % 7, minlength=7).astype(np.int64),  # 1970 began on a Thursday
        np.packbits(bits, bitorder="little").view(np.int64),
        int(micros.min(initial=2**62)),
        int(micros.max(initial=-(2**62))),
    )
