"""What alarms: the budget and the fixed thresholds that somebody gave."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from mooring.drift.baseline import Baseline
from mooring.drift.judge import AlarmRules
from mooring.drift.measure_table import MEASURES
from mooring.settings import JudgeSettings

_NAMES = 10


def rules_of(settings: JudgeSettings) -> AlarmRules:
    """Return what alarms. Raises ValueError for an invalid threshold."""
    return AlarmRules(settings.window_budget, settings.floors, thresholds_of(settings.threshold))


def thresholds_of(given: Sequence[str]) -> dict[str, float]:
    """Return fixed thresholds from MEASURE=VALUE or FEATURE.MEASURE=VALUE. Raises ValueError for something else.

    >>> thresholds_of(["psi=0.2", "alcohol.ks=0.1"])
    {'psi': 0.2, 'alcohol.ks': 0.1}
    """
    thresholds = {}
    for text in given:
        name, _, value = text.rpartition("=")
        try:
            thresholds[name.strip()] = float(value)
        except ValueError:
            raise ValueError(f"--threshold {text}: give MEASURE=VALUE, such as psi=0.2") from None
        if name.strip().rpartition(".")[2] not in MEASURES:
            raise ValueError(f"--threshold {text}: there is no such measure; there is: {', '.join(MEASURES)}")
    return thresholds


def pointless(thresholds: Iterable[str], baseline: Baseline) -> list[str]:
    """Return why thresholds of the form FEATURE.MEASURE never alarm, where they do not.

    >>> from mooring.drift.baseline import make
    >>> import pyarrow as pa
    >>> pointless(["sugra.ks"], make({"sugar": pa.array([1.5, 2.5])}))
    ['--threshold sugra.ks: the baseline has no feature sugra; it has: sugar']
    """
    known = {name: one for name, one in baseline.features.items() if one.role != "label"}
    found = []
    for threshold in thresholds:
        name, dot, measure = threshold.rpartition(".")
        if not dot:
            continue
        if name not in known:
            names = list(dict.fromkeys([*get_close_matches(name, known, 3), *known]))
            more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
            there = f"it has: {', '.join(names[:_NAMES])}{more}"
            found.append(f"--threshold {threshold}: the baseline has no feature {name}; {there}")
            continue
        feature = known[name]
        suits = [one for one, entry in MEASURES.items() if entry.suits(feature)]
        if measure not in suits:
            has = f"{name} is {feature.kind} and has: {', '.join(sorted(suits))}"
            found.append(f"--threshold {threshold}: no such measure suits that feature; {has}")
    return found
