"""How well models did, as data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from mooring.monitor.results import model_in
from mooring.performance.fairness import Disparity, GroupRate, measure_name
from mooring.settings import DEFAULT_STATE
from mooring.state.assessments import Assessment, Assessments, Measured
from mooring.state.state import State

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "model",
    "version",
    "variant",
    "start",
    "end",
    "rows",
    "labelled",
    "coverage",
    "delay",
    "status",
    "segment",
    "measure",
    "value",
    "low",
    "high",
    "before",
    "chance",
)


def assessments(
    state: State,
    model: str | None = None,
    *,
    version: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    newest: int = 100,
) -> list[Assessment]:
    """Return how well a model did in its newest windows that were assessed, oldest first. Raises UnknownModel."""
    return Assessments(state).history(
        model_in(state, model), version=version or ..., start=start, end=end, newest=newest
    )


def worse(found: Sequence[Assessment]) -> bool:
    """Return whether the model did worse in the newest judged window: of the champion, if there is any."""
    answering = [one for one in found if one.window.variant == "champion"] or list(found)
    judged = [one for one in answering if one.status not in ("too_few", "no_baseline")]
    return bool(judged) and judged[-1].status != "ok"


def as_dicts(found: Sequence[Assessment]) -> list[dict[str, Any]]:
    """Return assessments as plain data for JSON."""
    return [_as_dict(one) for one in found]


def _as_dict(one: Assessment) -> dict[str, Any]:
    window = one.window
    return {
        "model": window.model,
        "version": window.version,
        "variant": window.variant,
        "start": window.start.isoformat(),
        "end": window.end.isoformat(),
        "id": one.id,
        "rows": one.rows,
        "labelled": one.labelled,
        "coverage": one.coverage,
        "delay": one.delay,
        "status": one.status,
        "message": one.message,
        "task": one.task or None,
        "look": one.look,
        "chance": one.chance,
        "budget": one.budget,
        "measures": _plain(one.measures),
        "before": dict(one.before),
        "segments": [
            {
                "column": segment.column,
                "value": segment.value,
                "rows": segment.rows,
                "labelled": segment.labelled,
                "status": segment.status,
                "chance": segment.chance,
                "measures": _plain(segment.measures),
            }
            for segment in one.segments
        ],
        "fairness": [msgspec.to_builtins(each) for each in one.fairness],
    }


def _by_protected(one: Assessment) -> Iterator[tuple[str, int, GroupRate | Disparity]]:
    """Yield rates of groups and how far these are apart, each with its segment and of how many labelled rows."""
    for found in one.fairness:
        for rate in found.rates:
            yield f"{found.column}={rate.group}", found.groups[rate.group], rate
        for disparity in found.disparities:
            yield found.column, sum(found.groups.values()), disparity


def _plain(measures: dict[str, Measured]) -> dict[str, Any]:
    return {name: {"value": one.value, "low": one.low, "high": one.high} for name, one in measures.items()}


def performance(
    model: str | None = None,
    *,
    state: str = DEFAULT_STATE,
    version: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    newest: int = 100,
) -> pd.DataFrame:
    """Return how well a model did on its labelled rows: a row for each window, segment and measure.

    Parameters
    ----------
    model
        Its name; may be left out where the state knows only one.
    state
        The monitor's state, as its `--state`.
    version, start, end, newest
        Only windows of this version, that begin in [start, end), and only the newest of them.

    Columns are model, version, variant, start, end, rows, labelled, coverage, delay (seconds), status, segment (''
    for all rows, else COLUMN=VALUE), measure, value, low and high (its 95 % interval), before (on the baseline's
    held-out rows) and chance. How far the values of a protected column are apart stands under its name alone, and
    a measure that is about one class has that behind it, as `selection_rate (yes)`. Raises UnknownModel, and
    StateError where the state can't be read.
    """
    import pandas as pd

    rows: list[tuple[Any, ...]] = []
    with State(state) as opened:
        found = assessments(opened, model, version=version, start=start, end=end, newest=newest)
    for one in found:
        window = one.window
        own = (window.model, window.version, window.variant, window.start, window.end)
        parts = [("", one.rows, one.labelled, one.measures)]
        parts += [
            (f"{each.column}={each.value}", each.rows, each.labelled, each.measures) for each in one.segments
        ]
        for segment, count, labelled, measures in parts:
            of_it = (count, labelled, labelled / count if count else 0.0, one.delay, one.status, segment)
            rows += [
                (
                    *(*own, *of_it, name, measure.value, measure.low, measure.high),
                    *((one.before.get(name), one.chance) if not segment else (None, None)),
                )
                for name, measure in measures.items()
            ]
        for segment, count, figure in _by_protected(one):
            of_it = (count, count, 1.0, one.delay, one.status, segment)
            rows.append((*own, *of_it, measure_name(figure), figure.value, figure.low, figure.high, None, None))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype(dict.fromkeys(("coverage", "delay", "value", "low", "high", "before", "chance"), float))
