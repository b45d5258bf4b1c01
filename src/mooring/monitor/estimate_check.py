"""The check of a window before it has labels: how well the model does, and whether inputs moved to its errors."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from mooring.estimation.rows import EstimationError
from mooring.monitor.samples import SampledRows
from mooring.performance.judge import severity_of_loss
from mooring.performance.measures import first_of
from mooring.performance.scored import UnscorableError
from mooring.state.estimations import EstimatedMeasure, Estimation, ExpectedLoss
from mooring.state.windows import Window

if TYPE_CHECKING:
    from mooring.estimation.estimates import Estimates
    from mooring.estimation.estimator import Estimator, HarmTest


def estimation_of(
    window: Window, estimator: Estimator, sample: SampledRows, budget: float, *, floors: bool = True
) -> Estimation:
    """Return what is estimated of a window.

    Parameters
    ----------
    window
        The window as it is now.
    estimator
        What is learnt of its version.
    sample
        Some of its rows.
    budget
        How probable it may be that rows of which nothing has moved alarm.
    floors
        Whether a loss that is larger by less than 5 % is passed over.
    """
    now = datetime.now(UTC)
    blank = Estimation(window=window, status="too_few", rows=sample.rows, budget=budget, created=now)
    try:
        found = estimator.estimate(sample.outputs, sample.inputs, groups=sample.groups)
        harm = estimator.harm(sample.outputs, sample.inputs, groups=sample.groups, budget=budget)
    except (EstimationError, UnscorableError) as error:
        return msgspec.structs.replace(blank, unknown=str(error), message=f"can't tell: {error}")
    known = msgspec.structs.replace(
        blank,
        rows=found.rows,
        held_out_rows=found.held_out_rows,
        outside=found.out_of_support,
        chance=harm.p_value,
        loss=ExpectedLoss(harm.value, harm.reference),
    )
    if found.unknown:
        return msgspec.structs.replace(known, unknown=found.unknown, message=f"can't tell: {found.unknown}")
    measures = {
        one.measure: EstimatedMeasure(one.estimated, one.lower, one.upper, one.held_out)
        for one in found.estimates
        if one.estimated is not None and one.lower is not None and one.upper is not None
    }
    status = severity_of_loss(harm.p_value, budget, harm.change, floors=floors)
    return msgspec.structs.replace(
        known, status=status, measures=measures, message=_in_words(measures, harm, found, status != "ok")
    )


def _in_words(measures: dict[str, EstimatedMeasure], harm: HarmTest, found: Estimates, harmful: bool) -> str:
    name = first_of(measures)
    one = measures[name]
    text = f"estimated {name} {one.value:.4g} ({one.low:.4g} to {one.high:.4g})"
    if one.held_out is not None:
        text += f", {one.held_out:.4g} on held-out rows"
    if not harmful:
        return text
    what = "more errors" if found.classes is not None else "larger errors"
    return f"{text}: inputs have moved to where {harm.change:.0%} {what} are expected"
