"""Any two samples compared: `mooring.baseline` and `mooring.compare`."""

from mooring.comparison.compare import Comparison, baseline, compare, evaluated

__all__ = ["Comparison", "baseline", "compare", "evaluated"]
