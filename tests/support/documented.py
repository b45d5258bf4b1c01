"""What the documentation has to say of each measure, from the table of measures."""

from __future__ import annotations

from mooring.drift.grid import CategoricalGrid, NumericGrid, TextGrid, TimestampGrid
from mooring.drift.measure_table import MEASURES
from mooring.performance.measures import MEASURES as OF_PERFORMANCE

_GRIDS = {
    NumericGrid: "numbers",
    TextGrid: "lengths of texts",
    CategoricalGrid: "categories",
    TimestampGrid: "timestamps",
}


def measures() -> list[str]:
    """Return the lines of the table of measures of drift."""
    return [
        f"| `{name}` | {one.definition} | {', '.join(_GRIDS[grid] for grid in one.grids) or 'all'} |"
        for name, one in MEASURES.items()
    ]


def performance_measures() -> list[str]:
    """Return the lines of the table of measures of performance."""
    return [f"| `{name}` | {one.definition} | {one.task} | {one.better} |" for name, one in OF_PERFORMANCE.items()]
