"""Features as scores that correlations are computed of: what is left of a number is its rank in its own sample.

So a feature's own distribution, whatever it is and however it moves, is gone, and what is left is how features go
together: their copula. Of a number there are two scores, its rank and how far that is from the middle (the first
two Legendre polynomials, which are uncorrelated for ranks); of a category whether a row has one of its frequent
values; of either whether it is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mooring.drift.columns import Column, as_floats, counts_rows, filled, is_number, is_text, is_unique_text, plain
from mooring.drift.grid import Floats, Integers

Bools = NDArray[np.bool_]
Scores = NDArray[np.float32]

_MOST_VALUES = 6
_LEAST_SHARE, _LEAST_ROWS = 0.02, 20
_DISTANCE = "the distance of {} from its middle"


class ScoredSample(NamedTuple):
    """The scores of a sample's rows.

    `scores` is an array (terms, rows), 0 where a value is missing. `present` has a row of ones, and a row for each
    number that lacks values: 1 where it has one, else 0.
    """

    scores: Scores
    present: Scores


class PooledScores:
    """The scores of two samples, and of any two that their rows are divided into anew.

    Ranks are those in the sample that a row is in, so they are computed anew for each division. What is divided is
    not the values (a pool of two different distributions depends in another way than either) but each row's ranks
    in its own sample. A value that both samples have is one in the pool, at the mean of its ranks.

    `features` and `labels` say of each score what it is of, `presence` in which row of `ScoredSample.present` it
    is said where it is missing; `left_out` says of each feature without scores why it has none.

    >>> pool = PooledScores({"x": pa.array([1.0, 2.0, 3.0])}, {"x": pa.array([70.0, 50.0, 60.0])}, most=10)
    >>> pool.labels
    ['x', 'the distance of x from its middle']
    >>> reference, current = pool.observed()
    >>> reference.scores[0].round(2), current.scores[0].round(2)
    (array([-0.67,  0.  ,  0.67], dtype=float32), array([ 0.67, -0.67,  0.  ], dtype=float32))
    """

    def __init__(self, reference: Mapping[str, Column], current: Mapping[str, Column], *, most: int) -> None:
        self.left_out: dict[str, str] = {}
        found: dict[str, _Feature] = {}
        for name in reference:
            one = _feature(name, plain(reference[name]), plain(current[name]))
            if isinstance(one, str):
                self.left_out[name] = one
            else:
                found[name] = one
        deepest = max((one.scores for one in found.values()), default=0)
        while deepest > 1 and sum(min(one.scores, deepest) for one in found.values()) > most:
            deepest -= 1  # the next score of all features, or of none
        sizes = [len(next(iter(columns.values()), ())) for columns in (reference, current)]
        self._is_current = np.repeat([False, True], sizes)
        self._choose({name: one.up_to(deepest) for name, one in found.items()})

    def _choose(self, found: Mapping[str, _Feature]) -> None:
        numbers = {name: one.order for name, one in found.items() if one.order is not None}
        curved = [name for name in numbers if found[name].curved]
        flags = [(name, *flag) for name, one in found.items() for flag in one.flags]
        self.features = [*numbers, *curved, *(name for name, _, _ in flags)]
        self.labels = [*numbers, *map(_DISTANCE.format, curved), *(label for _, label, _ in flags)]
        places = {name: at for at, name in enumerate(numbers)}
        self._curved = np.array([places[name] for name in curved], np.int64)
        rows = len(self._is_current)
        self._flags = _stacked([flag for _, _, flag in flags], rows).astype(np.float32)
        self._flags -= self._flags.sum(axis=1, keepdims=True) / max(rows, 1)
        orders = list(numbers.values())
        self._ranks = _stacked([one.ranks for one in orders], rows).astype(np.float32)
        self._order = _stacked([one.order for one in orders], rows).astype(np.int64)
        self._there = self._ranks > -np.inf  # false of nan
        self._filled = self._there.sum(axis=1, keepdims=True)
        corners = (np.arange(len(orders)) * (rows + 1))[:, None]  # of the features' parts of a flat array
        starts = _stacked([one.starts for one in orders], rows).astype(np.int64)
        ends = _stacked([one.ends for one in orders], rows).astype(np.int64)
        self._sums = (starts + ends).astype(np.float32)
        self._from, self._to = starts + corners, ends + corners
        lacking = np.flatnonzero(~self._there.all(axis=1))
        self._present = np.concatenate([np.ones((1, rows), np.float32), self._there[lacking].astype(np.float32)])
        kinds = np.zeros(len(orders), np.int64)
        kinds[lacking] = np.arange(len(lacking)) + 1
        self.presence = np.concatenate([kinds, kinds[self._curved], np.zeros(len(flags), np.int64)])

    def observed(self) -> tuple[ScoredSample, ScoredSample]:
        """Return the scores of the reference and of the current sample."""
        return self._samples(self._is_current, self._ranks)

    def divided(self, is_current: Bools) -> tuple[ScoredSample, ScoredSample]:
        """Return the scores of two samples of all rows: of those that are not current, and of those that are."""
        counted = np.zeros((len(self._order), len(is_current) + 1), np.float32)  # whole numbers far below 2^24
        np.cumsum(is_current.take(self._order), axis=1, dtype=np.float32, out=counted[:, 1:])
        current = counted.take(self._from) + counted.take(self._to)
        filled = np.take_along_axis(counted, self._filled, axis=1)  # what is missing comes last
        others = np.maximum(self._filled - filled, 1).astype(np.float32)
        ranks = np.where(is_current, current / np.maximum(filled, 1), (self._sums - current) / others)
        ranks -= 1
        return self._samples(is_current, ranks)

    def _samples(self, is_current: Bools, ranks: Scores) -> tuple[ScoredSample, ScoredSample]:
        curved = 1.5 * ranks[self._curved] ** 2 - 0.5
        if len(self._present) > 1:
            ranks = np.where(self._there, ranks, np.float32(0))
            curved = np.where(self._there[self._curved], curved, np.float32(0))
        scores = np.concatenate([ranks, curved, self._flags])
        reference, current = (
            ScoredSample(scores.take(rows, axis=1), self._present.take(rows, axis=1))
            for rows in (np.flatnonzero(~is_current), np.flatnonzero(is_current))
        )
        return reference, current


class _Order(NamedTuple):
    """A number's rows in the order of the pool.

    `ranks` are those in each row's own sample, from -1 to 1, nan where missing; `order` names the rows as they
    ascend, missing ones last; a row's value has the places from `starts` to before `ends` there.
    """

    ranks: Floats
    order: Integers
    starts: Integers
    ends: Integers


class _Feature(NamedTuple):
    """The scores of a feature: ranks of a number, how far these are from the middle, flags with their labels."""

    order: _Order | None
    curved: bool
    flags: list[tuple[str, Bools]]

    @property
    def scores(self) -> int:
        return (self.order is not None) + self.curved + len(self.flags)

    def up_to(self, most: int) -> _Feature:
        """Return the feature with the first of its scores."""
        left = most - (self.order is not None)
        curved = self.curved and left > 0
        return _Feature(self.order, curved, self.flags[: left - curved])


def _feature(name: str, reference: Column, current: Column) -> _Feature | str:
    """Return the scores of a feature, or why it has none."""
    kinds = reference.type, current.type
    for kind in kinds:
        if not (is_text(kind) or is_number(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
            return f"it is {kind}, neither a number, nor a boolean, nor a category"
    texts = any(is_text(kind) for kind in kinds)
    if texts and not all(is_text(kind) or pa.types.is_null(kind) for kind in kinds):
        return f"it is {kinds[0]} in the reference and {kinds[1]} in the current sample"
    if filled(reference) == 0 or filled(current) == 0:
        return "it has no values"
    if any(is_unique_text(one) if texts else counts_rows(one) for one in (reference, current)):
        return "nearly each of its texts is another" if texts else "it numbers the rows"
    one = _category(name, reference, current) if texts else _number(name, reference, current)
    return one if one.scores else "it has one value, or none but one often enough"


def _category(name: str, reference: Column, current: Column) -> _Feature:
    values = pa.chunked_array([_texts(reference), _texts(current)]).combine_chunks()
    counted = pc.value_counts(values)
    texts, counts = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
    order = sorted(range(len(texts)), key=lambda at: (-counts[at], texts[at] or ""))[:_MOST_VALUES]
    flags = []
    for text in (texts[at] for at in order):
        is_it = values.is_null() if text is None else pc.equal(values, text).fill_null(False)
        flag = is_it.to_numpy(zero_copy_only=False)
        if _varies(flag):
            flags.append((f"{name} is missing" if text is None else f"{name} is {text}", flag))
    return _Feature(None, False, flags[:1] if len(texts) == 2 else flags)


def _number(name: str, reference: Column, current: Column) -> _Feature:
    pair = [_finite(one) for one in (reference, current)]
    values = np.concatenate(pair)
    missing = np.isnan(values)
    flags = [(f"{name} is missing", missing)] if _varies(missing) else []
    distinct, codes = np.unique(values[~missing], return_inverse=True)
    if len(distinct) < 2:
        return _Feature(None, False, flags)
    is_current = np.repeat([False, True], [len(one) for one in pair])[~missing]
    counts = np.stack([np.bincount(codes[is_current == side], minlength=len(distinct)) for side in (False, True)])
    ranks = (2 * counts.cumsum(axis=1) - counts) / counts.sum(axis=1, keepdims=True) - 1
    own = np.full(len(values), np.nan)
    own[~missing] = ranks[is_current.astype(np.int64), codes]
    # A value that one sample alone has is at its rank there, any other at the mean of its ranks.
    keys = np.full(len(values), np.nan)
    keys[~missing] = ((ranks * counts).sum(axis=0) / counts.sum(axis=0))[codes]
    ordered = np.sort(keys)
    starts, ends = (np.searchsorted(ordered, keys, side=side) for side in ("left", "right"))
    return _Feature(_Order(own, np.argsort(keys), starts, ends), len(distinct) > 2, flags)


def _varies(flag: Bools) -> bool:
    """Return whether enough rows have a flag, and enough do not."""
    least = max(_LEAST_SHARE * len(flag), _LEAST_ROWS)
    return bool(least <= np.count_nonzero(flag) <= len(flag) - least)


def _finite(column: Column) -> Floats:
    numbers = as_floats(column, nan=True)
    if numbers is None:
        return np.full(len(column), np.nan)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _texts(column: Column) -> pa.Array:
    texts = column.cast(pa.string())
    return texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts


def _stacked(parts: Sequence[NDArray[Any]], rows: int) -> NDArray[Any]:
    return np.array(parts).reshape(len(parts), rows)
