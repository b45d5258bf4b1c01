"""What is said on stderr: once, or now and then where it goes wrong again and again."""

from __future__ import annotations

import sys
import time
from contextlib import suppress


def say(text: str) -> None:
    """Print a line to stderr, if it takes that: it may be a file on a disk that is full."""
    with suppress(OSError):
        print(f"mooring: {text}", file=sys.stderr, flush=True)


class Seldom:
    """Prints to stderr, if it takes that, but says nothing for some seconds after it has said something."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._said = -seconds

    def __call__(self, text: str) -> None:
        """Print `text`, unless something was printed just now."""
        now = time.monotonic()
        if now - self._said < self._seconds:
            return
        self._said = now
        say(text)
