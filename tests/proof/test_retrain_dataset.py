"""The data of a retraining, made by a process that is killed at any line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import labelled_logs
from labelled_logs import all_labelled, make
from mooring.retrain.dataset import gather


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return all_labelled(tmp_path)


KILLED = """
import os, signal, sys
from mooring.retrain import dataset
steps, place = int(sys.argv[1]), 0
def trace(frame, event, argument):
    global place
    if frame.f_code.co_name in ("make", "_publish", "_write", "put") and "retrain" in frame.f_code.co_filename:
        place += event == "line"
        if place > steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
sys.settrace(trace)
import labelled_logs as tests
from pathlib import Path
tests.make(Path(sys.argv[2]), Path(sys.argv[3]))
"""


def test_killed_at_any_line_it_leaves_all_or_nothing_and_can_be_made_again(log, tmp_path):
    whole = make(log, tmp_path / "whole")
    env = {**os.environ, "PYTHONPATH": str(Path(labelled_logs.__file__).parent)}
    steps, done = 0, False
    while not done:
        directory = tmp_path / f"at-{steps}"
        command = [sys.executable, "-c", KILLED, str(steps), str(log), str(directory)]
        code = subprocess.run(command, env=env, check=False).returncode
        assert code in (0, -signal.SIGKILL)
        done = code == 0
        left = gather.read(directory)
        if left is not None:
            gather.open_holdout(directory, whole.holdout_digest)
            assert gather._digest(Path(left.training), Path(left.holdout)) == whole.digest
            gather.clear(Path(left.holdout).parent)
        assert make(log, directory).digest == whole.digest
        assert {path.name for path in directory.iterdir()} == {
            ".dataset.lock",
            "holdout.sealed",
            "manifest.json",
            "training",
        }
        steps += 7
