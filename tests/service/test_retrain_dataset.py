"""The data of a retraining, made by several processes at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import labelled_logs
from labelled_logs import all_labelled, make
from waiting import PATIENCE


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return all_labelled(tmp_path)


def test_made_by_several_at_once_it_is_made_once(log, tmp_path):
    code = (
        "import sys; from pathlib import Path; import labelled_logs as tests; sys.stdin.read();"
        f"print(tests.make(Path({str(log)!r}), Path({str(tmp_path / 'data')!r})).created.isoformat())"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(labelled_logs.__file__).parent)}
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    answers = [one.communicate(timeout=PATIENCE)[0] for one in makers]
    assert answers[0] == answers[1] == f"{make(log, tmp_path / 'data').created.isoformat()}\n"
