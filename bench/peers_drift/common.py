"""What each peer's script does around its own part: one core, the clock, the memory."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

Run = Callable[[str], object]


def measure(prepare: Callable[[str], Run]) -> None:
    """Prepare with the reference, run on the current file, and print seconds and peak memory as JSON.

    Imports and what can be done with the reference beforehand are not counted.
    """
    reference, current = sys.argv[1:3]
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    run = prepare(reference)
    wall, cpu = time.perf_counter(), time.process_time()
    said = run(current)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    # Not getrusage's: that is at least what the parent process had when it started this one.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(json.dumps({"wall": wall, "cpu": cpu, "mib": peak, "said": str(said)}))
