"""The searches of the other tests, with many examples, which are others every day.

What one finds becomes an `@example` of the test that found it: so the quick suite shows it from then on.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SEARCHING = sorted(
    path
    for kind in ("unit", "service")
    for path in (TESTS / kind).glob("test_*.py")
    if re.search(r"^@given\b", path.read_text(), re.MULTILINE)
)


@pytest.mark.parametrize("path", SEARCHING, ids=lambda path: path.stem)
def test_nothing_new_is_found(path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "hypothesis", "--hypothesis-profile=proof"]
    done = subprocess.run([*command, str(path)], cwd=TESTS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
