"""The monitor's results as data."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mooring.drift.judgement import Result
from mooring.settings import DEFAULT_STATE
from mooring.state.judgements import judgement_of
from mooring.state.state import State
from mooring.state.verdicts import Verdict, Verdicts
from mooring.state.windows import Judged, Windows
from mooring.status import ALARMING, JUDGED

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "model",
    "version",
    "variant",
    "start",
    "end",
    "rows",
    "status",
    "feature",
    "measure",
    "scale",
    "value",
    "p_value",
    "threshold",
    "alarm",
)


class UnknownModel(ValueError):
    """A model of which the state knows nothing; the message says what it knows."""


def was_judged(verdict: Verdict) -> bool:
    """Return whether a verdict says how a window is; of one with too few rows there are values, and no alarms."""
    return verdict.status in JUDGED


def history(
    state: State,
    model: str | None = None,
    *,
    version: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    newest: int = 100,
) -> list[Judged]:
    """Return the newest windows of a model that have a verdict, oldest first. Raises UnknownModel."""
    name = model_in(state, model)
    found: list[Judged] = []
    for status in ("closed", "open"):  # of these only some have a verdict
        found += Windows(state).history(
            name, version=version or ..., start=start, end=end, status=status, newest=newest
        )
    found = [judged for judged in found if judged.verdict is not None]
    return sorted(found, key=lambda one: (one.window.start, one.window.number))[-newest:]


def drifted(judged: list[Judged]) -> bool:
    """Return whether the newest window drifted: of the champion, as long as there is any of it."""
    answering = [one for one in judged if one.window.variant == "champion"] or judged
    newest = answering[-1].verdict if answering else None
    return newest is not None and newest.status in ALARMING


def model_in(state: State, model: str | None) -> str:
    """Return `model`, or the only one that the state knows. Raises UnknownModel."""
    known = sorted({watched.model for watched in Windows(state).watched()})
    if model in known:
        return str(model)
    if model is None and len(known) == 1:
        return known[0]
    if not known:
        raise UnknownModel(f"the state {state.name} has no verdicts yet: run `mooring monitor` first")
    what = f"of {model}" if model else "unless you say of which model"
    raise UnknownModel(f"the state {state.name} has nothing {what}; it has: {', '.join(known)}")


def as_dicts(state: State, judged: list[Judged], *, values: bool = False) -> list[dict[str, Any]]:
    """Return windows with their verdicts as plain data for JSON; `values` are all measures rather than alarms."""
    return [_as_dict(state, one, values) for one in judged]


def _as_dict(state: State, judged: Judged, values: bool) -> dict[str, Any]:
    window, verdict = judged
    assert verdict is not None
    judgement = judgement_of(Verdicts(state).results(verdict.id))
    judged_it = was_judged(verdict)
    shown = [one for one in judgement.results if values or (judged_it and one.alarm)] if judgement else []
    return {
        "model": window.model,
        "version": window.version,
        "variant": window.variant,
        "start": window.start.isoformat(),
        "end": window.end.isoformat(),
        "rows": window.rows,
        "requests": window.requests,
        "effective_rows": judgement.effective_rows if judgement else None,
        "verdict": verdict.id,
        "status": verdict.status,
        "provisional": verdict.provisional,
        "message": verdict.message,
        "budget": verdict.budget,
        "seed": verdict.seed,
        "features": judgement.features if judgement and judged_it else [],
        "missing": judgement.missing if judgement else [],
        "unknown": judgement.unknown if judgement else [],
        "results": _results(shown, judged_it),
        "segments": {
            name: {
                "severity": one.severity,
                "rows": one.rows,
                "features": one.features,
                "results": _results(one.results if values else one.alarms, True),
            }
            for name, one in (judgement.segments if judgement else {}).items()
        },
    }


def _results(shown: list[Result], judged_it: bool) -> list[dict[str, Any]]:
    return [
        {
            "feature": one.feature,
            "measure": one.measure,
            "scale": one.scale,
            "value": _number(one.value),
            "p_value": _number(one.p_value),
            "threshold": _number(one.threshold),
            "alarm": one.alarm and judged_it,
            "severity": one.severity if judged_it else "ok",
        }
        for one in shown
    ]


def _number(value: float | None) -> float | None:
    """Return a number as JSON has it: none that is not finite."""
    return value if value is not None and math.isfinite(value) else None


def drift(
    model: str | None = None,
    *,
    state: str = DEFAULT_STATE,
    version: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    newest: int = 100,
) -> pd.DataFrame:
    """Return what the monitor found: a row for each window, feature, measure and number of windows merged.

    Parameters
    ----------
    model
        Its name; may be left out where the state knows only one.
    state
        The monitor's state, as its `--state`.
    version, start, end, newest
        Only windows of this version, that begin in [start, end), and only the newest of them.

    Columns are model, version, variant, start, end, rows, status, feature, measure, scale, value, p_value,
    threshold and alarm. Raises UnknownModel, and StateError where the state can't be read.
    """
    import pandas as pd

    rows = []
    with State(state) as opened:
        found = history(opened, model, version=version, start=start, end=end, newest=newest)
        for window, verdict in found:
            assert verdict is not None
            judgement = judgement_of(Verdicts(opened).results(verdict.id))
            judged_it = was_judged(verdict)
            own = (
                window.model,
                window.version,
                window.variant,
                window.start,
                window.end,
                window.rows,
                verdict.status,
            )
            rows += [
                (
                    *own,
                    one.feature,
                    one.measure,
                    one.scale,
                    one.value,
                    one.p_value,
                    one.threshold,
                    one.alarm and judged_it,
                )
                for one in (judgement.results if judgement else [])
            ]
    return pd.DataFrame(rows, columns=list(COLUMNS))
