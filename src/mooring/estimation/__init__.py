"""Performance without labels: `mooring.estimate`, and the `Estimator` behind it."""

from mooring.estimation.estimate import estimate
from mooring.estimation.estimates import Estimate, Estimates
from mooring.estimation.estimator import Estimator
from mooring.estimation.rows import EstimationError

__all__ = ["Estimate", "Estimates", "EstimationError", "Estimator", "estimate"]
