"""Because of what a window is estimated to be worse: which inputs moved to where the model errs, and where."""

from __future__ import annotations

import logging

import msgspec
import numpy as np

from mooring.drift.reference_rows import ReferenceRows
from mooring.monitor.samples import SampledRows
from mooring.state.estimations import CauseFeature, Causes

logger = logging.getLogger(__name__)


def causes_of(rows: ReferenceRows, sample: SampledRows, seed: int) -> Causes | None:
    """Return what the loss rose by that held-out rows lead to expect of a window's; None where that can't be told.

    The loss is an error of a class, and the size of an error of a number, as alarms go by it. It takes some
    seconds, so it is asked of windows that alarm.
    """
    from mooring.estimation.attribution import attribute
    from mooring.estimation.loss_model import LossRows
    from mooring.estimation.rows import EstimationError, labelled_rows
    from mooring.estimation.segments import worst_segment
    from mooring.performance.measures import errors_of

    complete = labelled_rows(rows.labels, dict(rows.outputs), rows.inputs)
    scored = complete.scored
    losses = np.abs(scored.labels - scored.predictions) if scored.classes is None else errors_of(scored)
    held_out = LossRows(complete.features, np.asarray(losses, np.float64), scored.groups)
    window = LossRows(sample.inputs, None, sample.groups)
    try:
        found = attribute(held_out, window, seed=seed)
    except EstimationError as error:
        logger.debug("it can't be told because of what a window is worse: %s", error)
        return None
    if found.inputs is None:
        return None
    told = Causes(
        loss=found.inputs.value,
        low=found.inputs.lower,
        high=found.inputs.upper,
        features=tuple(CauseFeature(one.feature, one.value, one.lower, one.upper) for one in found.named),
    )
    try:
        worst = worst_segment(held_out, window, seed=seed)
    except EstimationError as error:
        logger.debug("it can't be told where a window is worst: %s", error)
        return told
    if not worst.confirmed or worst.segment is None:
        return told
    return msgspec.structs.replace(
        told, segment=str(worst.segment), share=worst.share, share_before=worst.share_before
    )
