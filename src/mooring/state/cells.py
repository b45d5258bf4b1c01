"""Cells: what each feature amounts to in a window. A heat map has one for each feature and window.

A verdict's results hold every measure of every feature, too much to be read for a hundred windows at once. Its
cells are kept beside them, a few kilobytes for 200 features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mooring.drift.stored import dump, load
from mooring.status import Severity, rank

if TYPE_CHECKING:  # who only reads cells is spared the statistics
    from mooring.drift.judgement import Judgement, Result

FORMAT = 1


class Cell(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A feature in a window: the measure and scale of its strongest result, and the value of that.

    `ratio` is the value relative to its threshold: from 1 on it is as large as what alarms. It is kept as an
    array: further fields may come at its end, and a Mooring that doesn't know them leaves them out.
    """

    ratio: float
    severity: Severity
    measure: str
    scale: int
    value: float


class Strongest(NamedTuple):
    """A feature's strongest result, and how large that is relative to its threshold."""

    ratio: float
    result: Result

    @property
    def severity(self) -> Severity:
        """Whether it alarms, and how badly."""
        return self.result.severity

    @property
    def cell(self) -> Cell:
        """The same without what the judgement alone says."""
        result = self.result
        return Cell(self.ratio, result.severity, result.measure, result.scale, result.value)


def ratio(result: Result) -> float | None:
    """Return a result relative to its threshold: from 1 on it is as large as what alarms. None without one.

    >>> from mooring.drift.judgement import Result
    >>> ratio(Result("x", "input", "numeric", "ks", 0.1, threshold=0.05))
    2.0
    """
    if not result.threshold or result.threshold <= 0:
        return None
    usual = result.reference or 0.0
    if result.measure != "null_rate" or result.threshold <= usual:
        found = abs(result.value) / result.threshold
    else:
        found = abs(result.value - usual) / (result.threshold - usual)
    return None if math.isnan(found) else found


def strongest(results: Iterable[Result]) -> Strongest | None:
    """Return the strongest of a feature's results: the worst alarm, else the one nearest to its threshold.

    None where none has a threshold.
    """
    found = [Strongest(size, one) for one in results if (size := ratio(one)) is not None]
    if alarms := [one.result for one in found if one.result.alarm]:
        top = strongest_alarm(alarms)
        return next(one for one in found if one.result is top)
    return max(found, key=lambda one: one.ratio, default=None)


def strongest_alarm(alarms: Sequence[Result]) -> Result:
    """Return the alarm to name of a feature: the worst, of those one of the window alone, then the largest effect.

    >>> from mooring.drift.judgement import Result
    >>> alarms = [Result("x", "input", "numeric", "ks", 0.3, scale=scale, strength=6.0) for scale in (4, 1)]
    >>> strongest_alarm(alarms).scale
    1
    """
    return max(alarms, key=lambda one: (rank(one.severity), -one.scale, one.strength))


def cells_of(judgement: Judgement) -> dict[str, Cell]:
    """Return a judgement's cells by feature, in the judgement's order; none of a feature without a threshold."""
    of_each: dict[str, list[Result]] = {}
    for result in judgement.results:
        of_each.setdefault(result.feature, []).append(result)
    tops = {name: strongest(results) for name, results in of_each.items()}
    return {name: top.cell for name, top in tops.items() if top is not None}


def encode(cells: Mapping[str, Cell]) -> bytes:
    """Return cells as bytes that `decode` reads: ratios with three significant digits, values with four.

    >>> decode(encode({"alcohol": Cell(0.123456, "ok", "ks", 1, 0.0061728)}))
    {'alcohol': Cell(ratio=0.123, severity='ok', measure='ks', scale=1, value=0.006173)}
    """
    short = {
        name: msgspec.structs.replace(cell, ratio=float(f"{cell.ratio:.3g}"), value=float(f"{cell.value:.4g}"))
        for name, cell in cells.items()
    }
    return dump(short, "cells", FORMAT)


def decode(data: bytes) -> dict[str, Cell]:
    """Return the cells that `encode` made bytes of.

    Raises FormatError for something else, and for cells of a newer Mooring.
    """
    return load(data, dict[str, Cell], "cells", FORMAT)
