"""A search for bytes that the proxy's halves don't take, led by which lines they reach (atheris, libFuzzer).

    python fuzz.py CORPUS -runs=100000

The corpus is a directory of inputs, as `in_memory.as_input` makes them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mooring.capture.proxy"]):
    from in_memory import play_input, world


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, world(Path(directory)) as anything:
        atheris.Setup(sys.argv, lambda data: play_input(anything, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
