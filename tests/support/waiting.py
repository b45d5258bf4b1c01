"""Waiting for what is to happen: as long as a slow machine takes, and not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 600.0  # seconds; only what hangs takes as long, so that nothing fails for being slow


def wait_for(condition: Callable[[], object], failure: str, patience: float = PATIENCE) -> None:
    """Return once `condition` holds. What does not happen within `patience` fails with `failure`."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, failure
        time.sleep(0.05)
