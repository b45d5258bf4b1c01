"""How well models did, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from mooring.monitor.performance_check import unlabelled
from mooring.monitor.results import model_in
from mooring.performance.fairness import Disparity, GroupRate, measure_name
from mooring.settings import DEFAULT_STATE
from mooring.state.assessments import Assessment, Assessments, Measured
from mooring.state.estimations import Estimation, Estimations
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
    "estimated",
    "estimated_low",
    "estimated_high",
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
    """Return how well a model did in its newest windows that were assessed or estimated, oldest first.

    Those that were only estimated have no labelled row. Raises UnknownModel.
    """
    known = model_in(state, model)
    which: dict[str, Any] = {"version": version or ..., "start": start, "end": end, "newest": newest}
    found = Assessments(state).history(known, **which)
    there = {one.window.id for one in found}
    found += [
        unlabelled(one.window) for one in Estimations(state).history(known, **which) if one.window.id not in there
    ]
    return sorted(found, key=lambda one: (one.window.start, one.window.number))[-newest:]


def worse(found: Sequence[Assessment]) -> bool:
    """Return whether the model did worse in the newest judged window: of the champion, if there is any."""
    answering = [one for one in found if one.window.variant == "champion"] or list(found)
    judged = [one for one in answering if one.status not in ("too_few", "no_baseline")]
    return bool(judged) and judged[-1].status != "ok"


def estimations(state: State, found: Sequence[Assessment]) -> dict[str, Estimation]:
    """Return what was estimated of the windows of assessments, by the windows' ids."""
    return Estimations(state).of(one.window.id for one in found)


def as_dicts(
    found: Sequence[Assessment], estimated: Mapping[str, Estimation] | None = None
) -> list[dict[str, Any]]:
    """Return assessments as plain data for JSON, with what was estimated of their windows, by the windows' ids."""
    known = estimated or {}
    return [_as_dict(one) | {"estimated": _as_estimated(one, known.get(one.window.id))} for one in found]


def _as_estimated(one: Assessment, found: Estimation | None) -> dict[str, Any] | None:
    """Return what was estimated of a window, and how that compares with what labels show."""
    if found is None:
        return None
    return {
        "status": found.status,
        "message": found.message,
        "rows": found.rows,
        "out_of_support": found.outside,
        "chance": found.chance,
        "budget": found.budget,
        "causes": None if found.causes is None else msgspec.to_builtins(found.causes),
        "measures": {
            name: {
                "value": each.value,
                "low": each.low,
                "high": each.high,
                "held_out": each.held_out,
                "refuted": each.refuted_by(one.measures[name].value) if name in one.measures else None,
            }
            for name, each in found.measures.items()
        },
    }


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
    held-out rows), chance, and estimated, estimated_low and estimated_high: what was estimated without labels, and
    its 90 % interval. How far the values of a protected column are apart stands under its name alone, and a
    measure that is about one class has that behind it, as `selection_rate (yes)`. Raises UnknownModel, and
    StateError where the state can't be read.
    """
    import pandas as pd

    rows: list[tuple[Any, ...]] = []
    with State(state) as opened:
        found = assessments(opened, model, version=version, start=start, end=end, newest=newest)
        estimated = estimations(opened, found)
    for one in found:
        window = one.window
        own = (window.model, window.version, window.variant, window.start, window.end)
        parts = [("", one.rows, one.labelled, one.measures)]
        parts += [
            (f"{each.column}={each.value}", each.rows, each.labelled, each.measures) for each in one.segments
        ]
        for segment, count, labelled, measures in parts:
            of_it = (count, labelled, labelled / count if count else 0.0, one.delay, one.status, segment)
            guessed = estimated[window.id].measures if window.id in estimated and not segment else {}
            for name in dict.fromkeys([*measures, *guessed]):
                measure, guess = measures.get(name), guessed.get(name)
                value = (None, None, None) if measure is None else (measure.value, measure.low, measure.high)
                before = one.before.get(name) if guess is None else guess.held_out
                rows.append(
                    (
                        *(*own, *of_it, name, *value),
                        *((before, one.chance) if not segment else (None, None)),
                        *((None, None, None) if guess is None else (guess.value, guess.low, guess.high)),
                    )
                )
        for segment, count, figure in _by_protected(one):
            of_it = (count, count, 1.0, one.delay, one.status, segment)
            values = (figure.value, figure.low, figure.high)
            rows.append((*own, *of_it, measure_name(figure), *values, *(None,) * 5))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = ("coverage", "delay", "value", "low", "high", "before", "chance")
    return table.astype(dict.fromkeys((*numbers, "estimated", "estimated_low", "estimated_high"), float))
