"""Mooring keeps MLflow models from drifting: it logs, watches, retrains and redeploys."""

from __future__ import annotations

import sys
from importlib import import_module
from inspect import Signature, signature
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mooring.capture.api import flush, log
    from mooring.capture.model import log_model
    from mooring.log.reader import read_log, scan_log

__version__ = "0.1.0"
__all__ = ["__version__", "flush", "log", "log_model", "read_log", "scan_log"]

# Imported when asked for: the proxy's process must stay free of MLflow, pandas and pyarrow.
_HOMES = {
    "flush": "mooring.capture.api",
    "log_model": "mooring.capture.model",
    "read_log": "mooring.log.reader",
    "scan_log": "mooring.log.reader",
}


class _Log(ModuleType):
    """`mooring.log` is two things: the package of the inference log and, called, what adds to that log."""

    def __call__(self, *args: Any, **kwargs: Any) -> list[str]:
        from mooring.capture.api import log

        return log(*args, **kwargs)

    @property
    def __signature__(self) -> Signature:
        from mooring.capture.api import log

        return signature(log)


import_module("mooring.log")
sys.modules["mooring.log"].__class__ = _Log


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mooring' has no attribute {name!r}")
