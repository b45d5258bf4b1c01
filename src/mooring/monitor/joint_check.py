"""The check of a window's features together: whether they depend on each other as they did in training."""

from __future__ import annotations

import numpy as np

from mooring.drift.joint import JointShift, joint_shift
from mooring.drift.reference_rows import ReferenceRows
from mooring.monitor.samples import SampledRows
from mooring.state.estimations import JointDrift, JointPair
from mooring.state.windows import Window
from mooring.status import Severity

LEAST_ROWS = 500
"""A window with fewer rows shows too little of how its features go together."""
MIN_EFFECT = 0.1
"""By how much a correlation has to move for an alarm, as a share of the way from -1 to 1."""
LARGE = 0.25
"""From which share on an alarm is critical."""


def joint_drift_of(
    window: Window, rows: ReferenceRows, sample: SampledRows, budget: float, *, floors: bool = True
) -> JointDrift | None:
    """Return how a window's features go together, beside how they did in training; None where it can't be told.

    `budget` is how probable it may be that features which go together as they did alarm; `floors` says whether
    what moves less than `MIN_EFFECT` is passed over.
    """
    if not rows.training or sample.rows < LEAST_ROWS:
        return None
    training = len(next(iter(rows.training.values())))
    found = joint_shift(
        rows.training,
        sample.inputs,
        reference_groups=np.arange(training),
        current_groups=sample.groups,
        seed=int(window.id[:8], 16),
    )
    if found.p_value is None or found.effect is None:
        return None
    severity: Severity = "ok"
    if found.p_value <= budget and (found.effect >= MIN_EFFECT or not floors):
        severity = "critical" if found.effect >= LARGE else "warning"
    return JointDrift(
        status=severity,
        chance=found.p_value,
        budget=budget,
        effect=found.effect,
        pairs=tuple(JointPair(one.features, one.labels, one.reference, one.current) for one in found.pairs),
        message=_in_words(found) if severity != "ok" else "",
    )


def _in_words(found: JointShift) -> str:
    told = [
        f"{' and '.join(one.labels)} (correlation {one.current:.2f}, in training {one.reference:.2f})"
        for one in found.pairs[:3]
    ]
    return f"features no longer go together as they did: {'; '.join(told)}"
