"""The heat map of a model: its features over windows, and in which order they stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from mooring.drift.baseline import BaselineParts
from mooring.drift.judgement import Judgement
from mooring.state.cells import Cell
from mooring.status import Severity
from mooring.ui import windows
from mooring.ui.windows import Chosen, ChosenWindows, finite

Order = Literal["drift", "alarms", "importance", "name"]


class HeatRow(msgspec.Struct, frozen=True, kw_only=True):
    """A feature over the windows: of each its strongest measure, None where that was not judged.

    `ratios` are values relative to their threshold: from 1 on as large as what alarms.
    """

    feature: str
    role: str
    see: str
    importance: float | None
    weighted: float | None
    alarms: int
    ratios: tuple[float | None, ...]
    severities: tuple[Severity | None, ...]
    measures: tuple[str | None, ...]
    scales: tuple[int | None, ...]
    values: tuple[float | None, ...]

    @property
    def cells(self) -> list[Cell | None]:
        """The same as cells, one for each window."""
        several = zip(self.ratios, self.severities, self.measures, self.scales, self.values, strict=True)
        return [
            Cell(float("inf") if ratio is None else ratio, severity, measured, scale or 1, value or 0.0)
            if severity is not None and measured is not None
            else None
            for ratio, severity, measured, scale, value in several
        ]


class FeatureHistory(msgspec.Struct, frozen=True):
    """A feature in each window; `now` is its cell in the one that is looked at, `rank` its place there."""

    name: str
    role: str
    cells: list[Cell | None]
    importance: float | None
    now: Cell | None
    rank: int

    @property
    def weighted(self) -> float:
        """How far it is from what alarms in the window that is looked at, times its importance to the model."""
        return (self.now.ratio if self.now else 0.0) * abs(self.importance or 0.0)

    @property
    def alarms(self) -> int:
        """In how many windows it alarmed."""
        return sum(cell is not None and cell.severity != "ok" for cell in self.cells)

    def key(self, order: Order) -> tuple[object, ...]:
        """Return what it is ordered by.

        By drift first what alarms in the window that is looked at, then what did in others, then what comes
        nearest to it; so is what is the same by alarms or importance.
        """
        drift = self.rank, -self.alarms, -(self.now.ratio if self.now else 0.0), self.name
        match order:
            case "alarms":
                return (-self.alarms, *drift)
            case "importance":
                return (-self.weighted, -abs(self.importance or 0.0), *drift)
            case "name":
                return self.name.casefold(), self.name
            case "drift":
                return drift


def histories(
    found: ChosenWindows,
    cells: Mapping[str, Mapping[str, Cell]],
    judgements: Iterable[Judgement],
    judgement: Judgement | None,
    baseline: BaselineParts | None,
) -> list[FeatureHistory]:
    """Return the features of windows.

    `cells` are those of verdicts by feature, `judgements` some that say whether these are predictions, and
    `judgement` that of the window that is looked at. Importances are the baseline's, where it is given.
    """
    of_windows = [cells.get(one.verdict.id) if one.verdict else None for one in found.windows]
    names = dict.fromkeys(windows.order_of(judgement))
    for some in reversed(of_windows):
        names.update(dict.fromkeys(some or ()))
    roles = {result.feature: result.role for one in judgements for result in one.results}
    ranks = {one: place for place, one in enumerate(judgement.features)} if judgement else {}
    at, told = found.place, []
    for name in names:
        history = [some.get(name) if some else None for some in of_windows]
        feature = windows.feature_of(baseline, name)
        told.append(
            FeatureHistory(
                name,
                roles.get(name, "input"),
                history,
                feature.importance if feature is not None else None,
                history[at] if at is not None else None,
                ranks.get(name, len(ranks)),
            )
        )
    return told


def rows(
    features: Iterable[FeatureHistory], order: Order, most: int, query: Chosen, model: str
) -> tuple[tuple[HeatRow, ...], int]:
    """Return the rows of the heat map, all predictions first, and how many of the other features are left out."""
    ordered = sorted(features, key=lambda one: one.key(order))
    outputs = [one for one in ordered if one.role == "output"]
    inputs = [one for one in ordered if one.role != "output"]
    shown = [_row(one, query, model) for one in (*outputs, *inputs[:most])]
    return tuple(shown), max(len(inputs) - most, 0)


def _row(one: FeatureHistory, query: Chosen, model: str) -> HeatRow:
    return HeatRow(
        feature=one.name,
        role=one.role,
        see=windows.feature_address(model, one.name, query),
        importance=finite(one.importance),
        weighted=finite(one.weighted) if one.importance is not None else None,
        alarms=one.alarms,
        ratios=tuple(finite(cell.ratio) if cell else None for cell in one.cells),
        severities=tuple(cell.severity if cell else None for cell in one.cells),
        measures=tuple(cell.measure if cell else None for cell in one.cells),
        scales=tuple(cell.scale if cell else None for cell in one.cells),
        values=tuple(finite(cell.value) if cell else None for cell in one.cells),
    )
