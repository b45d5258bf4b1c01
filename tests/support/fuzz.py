"""A search for bytes that the proxy's halves don't take, led by which lines they reach (atheris, libFuzzer).

    python fuzz.py CORPUS -runs=100000

An input is how the client's and the server's bytes are split, then these bytes, with BETWEEN between them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mooring.capture.proxy"]):
    from in_memory import split, world

LENGTHS = 4
BETWEEN = b"\xff\xfe\xff"


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, world(Path(directory)) as anything:

        def one(data: bytes) -> None:
            requests, _, answers = data[2 * LENGTHS + 1 :].partition(BETWEEN)
            pieces = split(requests, data[:LENGTHS]), split(answers, data[LENGTHS : 2 * LENGTHS])
            anything.play(pieces[0], [pieces[1]] * 2, leaves=data[2 * LENGTHS : 2 * LENGTHS + 1] == b"\1")

        atheris.Setup(sys.argv, one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
