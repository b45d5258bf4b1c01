"""Profiles: what is kept of a window, per feature, on the cells of a baseline's grid. Profiles add.

A profile is made by one function from Arrow batches, in this process or on a cluster alike, and the profile of two
samples together is the sum of theirs: counts, minimum and maximum exactly, moments to 1e-12.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mooring.drift.grid import (
    CategoricalGrid,
    Floats,
    Grid,
    Integers,
    NumericGrid,
    OtherGrid,
    TextGrid,
    TimestampGrid,
    category_text,
)
from mooring.drift.stored import encode

NEW_CATEGORIES = 1000
_UNKNOWN_COLUMNS = 1000
_CHUNK = 131_072
_DAYS = 65_536  # since 1970: to the year 2149
_DAY, _HOUR = 86_400_000_000, 3_600_000_000


class NumericProfile(msgspec.Struct, tag="numeric"):
    """Counts of a number's finite values in the cells of its grid, with moments about the grid's center.

    `low` and `high` are the sums of the values in the two open cells.
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
        )

    @property
    def values(self) -> int:
        """How many finite values there are."""
        return int(self.counts.sum())

    def mean(self, grid: NumericGrid) -> float:
        """Return the mean of the finite values, NaN of none."""
        return grid.center + self.total / self.values if self.values else math.nan

    def deviation(self) -> float:
        """Return the standard deviation of the finite values, NaN of none."""
        if not self.values:
            return math.nan
        variance = self.squares / self.values - (self.total / self.values) ** 2
        return math.sqrt(variance) if variance > 0 else 0.0


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
        return CategoricalProfile(self.counts + other.counts, *_least(new, self.more + other.more))

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


class FeatureProfile(msgspec.Struct):
    """A feature in a window: its values, and the rows that have none or one of another type (`misfits`).

    `absent` are the rows of batches that have no such column at all; they are among `nulls`.
    """

    values: Values
    nulls: int = 0
    misfits: int = 0
    absent: int = 0

    def __add__(self, other: FeatureProfile) -> FeatureProfile:
        """Return the profile of both samples."""
        return FeatureProfile(
            self.values + other.values,  # type: ignore[operator]
            self.nulls + other.nulls,
            self.misfits + other.misfits,
            self.absent + other.absent,
        )

    @property
    def unusable(self) -> int:
        """How many rows have no value that the model could have been trained on: null, NaN, another type."""
        nans = self.values.nans if isinstance(self.values, NumericProfile) else 0
        return self.nulls + self.misfits + nans


class Profile(msgspec.Struct):
    """What is kept of a sample: its features on a baseline's grids.

    `weight` is the sum over rows of how many rows came in the same request: rows squared by it is how many
    independent rows these are worth. `unknown` are columns that the baseline does not have, with their rows.

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
        )

    @property
    def effective_rows(self) -> float:
        """How many independent rows these are worth: Kish's effective sample size of clusters."""
        return self.rows**2 / self.weight if self.weight else 0.0


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
) -> Profile:
    """Return the profile of Arrow batches on grids. Columns go by name; their order and further ones don't matter.

    `request_rows` names a column that says how many rows came in the same request; without it each row counts as
    a request of its own. `misfits` names a column of JSON texts, {"input": {FEATURE: value}}, of values whose
    type did not fit, as the inference log has it: there the feature's own column is null.
    """
    digest = grids_digest(grids)
    found = empty(grids, digest)
    for batch in batches:
        for start in range(0, batch.num_rows, _CHUNK):
            _add(found, batch.slice(start, _CHUNK), grids, request_rows, misfits)
    return found


def _add(
    found: Profile,
    batch: pa.RecordBatch | pa.Table,
    grids: Mapping[str, Grid],
    request_rows: str | None,
    misfits: str | None,
) -> None:
    rows = batch.num_rows
    found.rows += rows
    places = {name: place for place, name in enumerate(batch.schema.names)}
    if request_rows is not None and request_rows in places:
        found.weight += int(pc.sum(batch.column(places[request_rows])).as_py() or 0)
    else:
        found.weight += rows
    for name, grid in grids.items():
        feature = found.features[name]
        if name not in places:
            feature.nulls += rows
            feature.absent += rows
            continue
        column = batch.column(places[name])
        if pa.types.is_dictionary(column.type) and not isinstance(grid, CategoricalGrid):
            column = column.cast(column.type.value_type)
        feature.nulls += column.null_count
        values, odd = _profile_values(column, grid)
        feature.values += values  # type: ignore[operator]
        feature.misfits += odd
    for name in places.keys() - grids.keys() - {request_rows, misfits}:
        if name in found.unknown or len(found.unknown) < _UNKNOWN_COLUMNS:
            filled = rows - batch.column(places[name]).null_count
            if filled:
                found.unknown[name] = found.unknown.get(name, 0) + filled
    if misfits is not None and misfits in places:
        _note_misfits(found, batch.column(places[misfits]))


def _note_misfits(found: Profile, texts: pa.Array | pa.ChunkedArray) -> None:
    for text in pc.drop_null(texts).to_pylist():
        for part, values in json.loads(text).items():
            for name, value in values.items():
                feature = found.features.get(f"{part}.{name}") or found.features.get(name)
                # A number that was only rounded is there all the same.
                if feature is not None and not (
                    isinstance(value, int) and isinstance(feature.values, NumericProfile)
                ):
                    feature.nulls -= 1
                    feature.misfits += 1
                elif feature is None and len(found.unknown) < _UNKNOWN_COLUMNS:
                    found.unknown[name] = found.unknown.get(name, 0) + 1


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


def _profile_values(column: pa.Array | pa.ChunkedArray, grid: Grid) -> tuple[Values, int]:
    """Return the profile of a column's values, and how many are of another type."""
    match grid:
        case NumericGrid():
            numbers = as_floats(column)
            if numbers is None:
                return _no_values(grid), len(column) - column.null_count
            return numeric_profile(numbers, grid), 0
        case CategoricalGrid():
            return _categorical_profile(column, grid)
        case TimestampGrid():
            micros = as_microseconds(column)
            if micros is None:
                return _no_values(grid), len(column) - column.null_count
            return _timestamp_profile(micros), 0
        case TextGrid():
            if not is_text(column.type):
                return _no_values(grid), len(column) - column.null_count
            lengths = pc.utf8_length(column).drop_null().to_numpy().astype(np.float64)
            return TextProfile(numeric_profile(lengths, grid.lengths)), 0
        case OtherGrid():
            return OtherProfile(len(column) - column.null_count), 0


def numeric_profile(values: Floats, grid: NumericGrid) -> NumericProfile:
    """Return the profile of numbers without nulls."""
    values = np.sort(values)  # sorted, each edge is found once instead of each value's cell
    edges = grid.edges
    first, finite = values.searchsorted((-math.inf, math.inf), "right")
    last = values.searchsorted(math.inf, "left")
    nans = len(values) - int(finite)
    infinities = int(first) + int(finite - last)
    values = values[first:last]
    if not len(values):
        return NumericProfile(np.zeros(grid.cells, np.int64), nans, infinities)
    bounds = np.empty(len(edges) + 2, np.int64)
    bounds[0], bounds[-1] = 0, len(values)
    bounds[1:-1] = values.searchsorted(edges)
    with np.errstate(over="ignore"):
        centered = values - grid.center
        return NumericProfile(
            np.diff(bounds),
            nans,
            infinities,
            float(centered.sum()),
            float(np.dot(centered, centered)),
            float(values[0]),
            float(values[-1]),
            float(values[: bounds[1]].sum()),
            float(values[bounds[-2] :].sum()),
        )


def _categorical_profile(column: pa.Array | pa.ChunkedArray, grid: CategoricalGrid) -> tuple[Values, int]:
    counts = np.zeros(grid.cells, np.int64)
    filled = len(column) - column.null_count
    if grid.numbers is not None:
        numbers = as_floats(column)
        if numbers is None:
            return CategoricalProfile(counts), filled
        names, found = _number_categories(numbers[~np.isnan(numbers)], grid.numbers, counts)
        new, more = _least(dict(zip(names, found, strict=True)), 0)
        return CategoricalProfile(counts, new, more), int(np.isnan(numbers).sum())
    texts = as_texts(column)
    if texts is None:
        return CategoricalProfile(counts), filled
    unique = pc.value_counts(texts)
    categories, totals = unique.field(0), unique.field(1).to_numpy()
    if pa.types.is_dictionary(categories.type):
        categories = categories.cast(categories.type.value_type)
    wanted = pa.array(grid.categories, categories.type)
    places = pc.index_in(categories, value_set=wanted).fill_null(-1).to_numpy()
    known = places >= 0
    np.add.at(counts, places[known], totals[known])
    others = ~known & np.asarray(categories.is_valid())
    names = categories.filter(pa.array(others)).to_pylist()
    new, more = _least(dict(zip(names, totals[others].tolist(), strict=True)), 0)
    return CategoricalProfile(counts, new, more), 0


def _number_categories(values: Floats, known: Floats, counts: Integers) -> tuple[list[str], list[int]]:
    """Count known categories, which are sorted, and return the names and counts of the others."""
    distinct, totals = np.unique(values, return_counts=True)
    places = np.minimum(known.searchsorted(distinct), max(len(known) - 1, 0))
    found = known[places] == distinct if len(known) else np.zeros(len(distinct), bool)
    counts[places[found]] += totals[found]
    return [category_text(float(value)) for value in distinct[~found]], totals[~found].tolist()


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


def _least(new: dict[str, int], more: int) -> tuple[dict[str, int], int]:
    """Return the new categories with the least hashes, by name, and the rows of the rest added to `more`."""
    if len(new) <= NEW_CATEGORIES:
        return dict(sorted(new.items())), more
    kept = sorted(new, key=_hash)[:NEW_CATEGORIES]
    left = {name: new[name] for name in sorted(kept)}
    return left, more + sum(new.values()) - sum(left.values())


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is text."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether an Arrow type is a number."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def as_floats(column: pa.Array | pa.ChunkedArray) -> Floats | None:
    """Return a column's numbers without nulls, booleans as 0 and 1; None if it holds something else."""
    if pa.types.is_null(column.type):
        return np.empty(0)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (is_number(column.type) or pa.types.is_boolean(column.type)):
        return None
    if column.type != pa.float64():
        column = pc.cast(column, pa.float64(), safe=False)
    if column.null_count:
        column = column.drop_null()
    numbers: Floats = column.to_numpy()
    return numbers


def as_texts(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray | None:
    """Return a column as texts, booleans as true and false; None if it holds something else."""
    if is_text(column.type):
        return column
    if pa.types.is_boolean(column.type) or pa.types.is_null(column.type):
        return pc.cast(column, pa.string())
    return None


def as_microseconds(column: pa.Array | pa.ChunkedArray) -> Integers | None:
    """Return a column's moments without nulls as microseconds since 1970 UTC; None if it holds something else."""
    if pa.types.is_null(column.type):
        return np.empty(0, np.int64)
    if not (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
        return None
    moments = pc.cast(column, pa.timestamp("us", getattr(column.type, "tz", None)), safe=False)
    micros: Integers = pc.cast(moments, pa.int64()).drop_null().to_numpy()
    return micros
