"""A search for bytes that the proxy doesn't take, led by coverage: a million inputs, from the corpus on."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from in_memory import as_input
from raw_cases import answer_cases, request_cases

RUNS = 1_000_000
FUZZ = Path(__file__).parents[1] / "support" / "fuzz.py"


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_no_bytes_are_found_that_either_half_does_not_take(tmp_path):
    answers = [b"".join(part for part in case.answer if isinstance(part, bytes)) for case in answer_cases()]
    for number, case in enumerate(request_cases()):
        answer = answers[number % len(answers)]
        seed = as_input(case.sent, answer)
        if len(seed) < 3000:
            (tmp_path / f"{number}").write_bytes(seed)
    command = [sys.executable, str(FUZZ), str(tmp_path), f"-runs={RUNS}", "-max_len=3000", "-verbosity=0"]
    path = os.pathsep.join([str(FUZZ.parent), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
