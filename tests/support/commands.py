"""Commands, as users type them, run within the test's process: no process is started for each of many cases."""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner

from mooring.cli import main


def mooring_here(
    *arguments: str, directory: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a directory; return what became of it as `subprocess.run` does, and raise exceptions."""
    logger = logging.getLogger("mooring")
    before = logger.handlers[:]
    with patch.dict(os.environ, env or {}), pytest.MonkeyPatch.context() as here:
        here.chdir(directory)
        try:
            done = CliRunner().invoke(main, arguments, prog_name="mooring")
        finally:
            logger.handlers[:] = before
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)
