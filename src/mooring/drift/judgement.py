"""What a judgement says: every result of a window, and which of them alarm. `judge` makes them."""

from __future__ import annotations

import msgspec

from mooring.drift.kinds import Kind, Role
from mooring.status import Severity


class Result(msgspec.Struct):
    """A measure of a feature in a window, or in the newest `scale` windows together.

    `p_value` is the probability of such a value when nothing has changed; None where it was not needed, the effect
    being less than the least that alarms, or the measure does not alarm. `threshold` is the value from which the
    measure alarms. `reference` is the baseline's own value. `strength` is the effect in units of the least.
    """

    feature: str
    role: Role
    kind: Kind
    measure: str
    value: float
    scale: int = 1
    reference: float | None = None
    p_value: float | None = None
    threshold: float | None = None
    alarm: bool = False
    severity: Severity = "ok"
    strength: float = 0.0
    excess: float | None = None
    effect_severity: Severity = "ok"


class Judgement(msgspec.Struct):
    """What is to be said of a window: every result, and the features that alarm, the most drifted first.

    `p_value` is the probability that an unchanged window has an alarm as sure as the surest here: the least budget
    at which anything calibrated alarms. `segments` are the judgements of the rows in which a feature has one
    value, by FEATURE=VALUE, where that was asked for. `unwatched` are in-sample outputs that there was no earlier
    window to compare with.
    """

    results: list[Result]
    severity: Severity
    features: list[str]
    rows: int
    effective_rows: float
    budget: float
    seed: int
    missing: list[str] = []
    unknown: list[str] = []
    p_value: float = msgspec.field(default=1.0, name="chance")
    segments: dict[str, Judgement] = {}
    unwatched: list[str] = []

    @property
    def alarms(self) -> list[Result]:
        """The results that alarm."""
        return [result for result in self.results if result.alarm]
