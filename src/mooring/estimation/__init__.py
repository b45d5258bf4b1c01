"""Performance without labels: `mooring.estimate`, and the `Estimator` behind it; because of what loss changed."""

from mooring.estimation.attribution import Attribution, attribute
from mooring.estimation.estimate import estimate
from mooring.estimation.estimates import Estimate, Estimates
from mooring.estimation.estimator import Estimator
from mooring.estimation.loss_model import LossRows
from mooring.estimation.rows import EstimationError
from mooring.estimation.segments import WorstSegment, worst_segment

__all__ = [
    "Attribution",
    "Estimate",
    "Estimates",
    "EstimationError",
    "Estimator",
    "LossRows",
    "WorstSegment",
    "attribute",
    "estimate",
    "worst_segment",
]
