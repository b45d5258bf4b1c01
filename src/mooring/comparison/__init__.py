"""Any two samples compared: `mooring.baseline` and `mooring.compare`."""

from mooring.comparison.compare import Comparison, baseline, compare

__all__ = ["Comparison", "baseline", "compare"]
