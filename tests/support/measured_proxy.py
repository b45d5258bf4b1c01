"""`mooring` with a clock in its loop: at SIGUSR1 it says how much CPU the costliest turn took since the last."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Coroutine
from typing import Any

from mooring.capture import workers
from mooring.cli import main

run_loop = workers.run_loop


async def clocked(program: Coroutine[Any, Any, None]) -> None:
    """Run the program, and look at the clock in every turn. All threads count: any may keep the loop waiting."""
    loop, longest, last = asyncio.get_running_loop(), 0.0, time.process_time()

    def tick() -> None:
        nonlocal longest, last
        now = time.process_time()
        longest = max(longest, now - last)
        last = now
        loop.call_soon(tick)

    def say() -> None:
        nonlocal longest
        print(f"costliest turn: {longest * 1000:.1f} ms", file=sys.stderr, flush=True)
        longest = 0.0

    loop.add_signal_handler(signal.SIGUSR1, say)
    tick()
    await program


if __name__ == "__main__":
    workers.run_loop = lambda program: run_loop(clocked(program))
    main()
