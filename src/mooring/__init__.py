"""Mooring keeps MLflow models from drifting: it logs, watches, retrains and redeploys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mooring.capture.model import log_model

__version__ = "0.1.0"
__all__ = ["__version__", "log_model"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: the proxy's process must stay free of MLflow and pandas.
    if name == "log_model":
        from mooring.capture.model import log_model

        return log_model
    raise AttributeError(f"module 'mooring' has no attribute {name!r}")
