"""Commands, as users type them, run within the test's process: no process is started for each of many cases."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
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
    store = _mlflow_store()
    with patch.dict(os.environ, env or {}), pytest.MonkeyPatch.context() as here:
        here.chdir(directory)
        try:
            done = CliRunner().invoke(main, arguments, prog_name="mooring")
        finally:
            logger.handlers[:] = before
            if "mlflow" in sys.modules:
                sys.modules["mlflow"].set_tracking_uri(store)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def _mlflow_store() -> str | None:
    """Return the store that MLflow was told of in this process, whatever the environment says; None of none."""
    mlflow = sys.modules.get("mlflow")
    with patch.dict(os.environ):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        return mlflow.get_tracking_uri() if mlflow is not None and mlflow.is_tracking_uri_set() else None
