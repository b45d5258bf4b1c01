"""Mooring keeps MLflow models from drifting: it logs, watches, retrains and redeploys."""

from __future__ import annotations

from importlib import import_module
from inspect import Signature, signature
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mooring.capture.batch import flush, log
    from mooring.capture.pyfunc import log_model
    from mooring.comparison import baseline, compare
    from mooring.estimation import estimate
    from mooring.log.add_labels import add_labels
    from mooring.log.reader import read_log, scan_log
    from mooring.monitor.baselines import log_baseline
    from mooring.monitor.performance_results import performance
    from mooring.monitor.results import drift

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "add_labels",
    "baseline",
    "compare",
    "drift",
    "estimate",
    "flush",
    "log",
    "log_baseline",
    "log_model",
    "performance",
    "read_log",
    "scan_log",
]

# Imported when asked for: the proxy's process must stay free of MLflow, pandas and pyarrow.
_HOMES = {
    "add_labels": "mooring.log.add_labels",
    "baseline": "mooring.comparison",
    "compare": "mooring.comparison",
    "estimate": "mooring.estimation",
    "flush": "mooring.capture.batch",
    "log_baseline": "mooring.monitor.baselines",
    "log_model": "mooring.capture.pyfunc",
    "read_log": "mooring.log.reader",
    "scan_log": "mooring.log.reader",
}
# Two things at once: `mooring.log` is the package of the inference log and, called, what adds to it.
_CALLED = {
    "drift": "mooring.monitor.results",
    "log": "mooring.capture.batch",
    "performance": "mooring.monitor.performance_results",
}


class _Called(ModuleType):
    """A package that can be called, too."""

    def _function(self) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(import_module(_CALLED[name]), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function()(*args, **kwargs)

    @property
    def __signature__(self) -> Signature:
        return signature(self._function())


for _name in _CALLED:
    import_module(f"mooring.{_name}").__class__ = _Called


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mooring' has no attribute {name!r}")
