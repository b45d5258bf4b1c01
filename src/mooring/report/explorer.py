"""The data from which the page's script draws a feature in full, kept short."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from mooring.drift.distributions import Bars, ClockShares, Distribution, Histogram
from mooring.drift.grid import Floats
from mooring.report.figures import ticks
from mooring.report.reading import Reading
from mooring.report.view import FeatureLine
from mooring.report.words import measure, name, short
from mooring.state.cells import Cell
from mooring.status import JUDGED, STATUSES, rank


def data(reading: Reading, shown: Sequence[FeatureLine]) -> dict[str, Any]:
    """Return what the script reads.

    Of each cell of a feature's history that is two numbers: 100 times the value relative to its threshold, and
    three times the place of its measure in `measures`, plus 0, 1 or 2 for ok, warning or critical. They stand
    in one flat list; a window that was not judged has null and 0.
    """
    kinds: dict[tuple[str, int], int] = {}

    def cell(one: Cell | None) -> list[int | None]:
        if one is None:
            return [None, 0]
        kind = kinds.setdefault((one.measure, one.scale), len(kinds))
        return [round(min(one.ratio, 1e4) * 100), 3 * kind + rank(one.severity)]

    features = [
        {
            "name": line.name,
            "says": line.changes,
            "span": line.feature.span,
            "history": [part for one in line.feature.history for part in cell(one)],
            "shown": _shown(line.shown),
        }
        for line in shown
    ]
    return {
        "windows": [
            [_time(window.start), _time(window.end), window.rows, window.severity, name(window.version or "", 40)]
            for window in reading.windows
        ],
        "features": features,
        "severities": [{"word": STATUSES[one].word, "symbol": STATUSES[one].symbol} for one in JUDGED],
        "measures": [
            measure(kind) + (f", {scale} windows together" if scale > 1 else "") for kind, scale in kinds
        ],
    }


def embed(value: object) -> str:
    """Return a value as JSON that no element of HTML can end.

    >>> embed("</script>")
    '"\\\\u003c/script>"'
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _shown(found: Distribution | None) -> dict[str, Any] | None:
    match found:
        case Histogram():
            return {
                "kind": "histogram",
                "start": found.start,
                "width": found.width,
                "ticks": ticks(found.start, found.end),
                "reference": _rounded(found.reference),
                "current": _rounded(found.current),
                "below": [round(share, 5) for share in found.below],
                "above": [round(share, 5) for share in found.above],
            }
        case Bars():
            return {
                "kind": "bars",
                "names": [
                    short(one, 24) + (" (new)" if new else "")
                    for one, new in zip(found.names, found.new, strict=True)
                ],
                "reference": _rounded(found.reference),
                "current": _rounded(found.current),
            }
        case ClockShares():
            return {
                "kind": "hours",
                "names": [f"{hour} h" for hour in range(24)],
                "reference": _rounded(found.hours[0]),
                "current": _rounded(found.hours[1]),
            }
        case None:
            return None


def _rounded(shares: Floats) -> list[float]:
    return [float(f"{share:.3g}") for share in shares]


def _time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
