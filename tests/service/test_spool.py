"""What was appended to the spool outlives kill -9."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from mooring.spool import (
    live_writers,
    read_frames,
    segments,
)

WRITE_THEN_DIE = """
import os, signal, sys
from pathlib import Path
from mooring.spool import SpoolWriter
writer = SpoolWriter(Path(sys.argv[1]))
for number in range(1000):
    writer.append([b"%d" % number])
    os.write(1, b"%d\\n" % number)
os.kill(os.getpid(), signal.SIGKILL)
"""


def payloads(spool: Path) -> list[bytes]:
    return [payload for segment in segments(spool) for payload, _ in read_frames(segment.path)]


def test_what_was_appended_outlives_kill_9(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", WRITE_THEN_DIE, str(tmp_path)], capture_output=True, check=False
    )
    assert process.returncode == -signal.SIGKILL
    assert payloads(tmp_path) == process.stdout.split()
    assert not segments(tmp_path)[0].closed
    assert not live_writers(tmp_path)
    assert segments(tmp_path)[0].closed
