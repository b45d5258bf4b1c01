"""Waiting for one of several things."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def first_of(*waits: Coroutine[Any, Any, Any] | asyncio.Task[Any], seconds: float | None = None) -> int:
    """Wait until one of these ends, for so many seconds at most; return which, -1 if none has.

    Coroutines that have not ended by then are cancelled; tasks go on.
    """
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return next((at for at, task in enumerate(tasks) if task.done()), -1)
    finally:
        for wait, task in zip(waits, tasks, strict=True):
            if task is not wait:
                task.cancel()
