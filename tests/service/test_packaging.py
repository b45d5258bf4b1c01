"""What a process imports, and the version that the command says."""

from __future__ import annotations

import re
import subprocess
import sys


def test_the_proxys_process_imports_neither_pandas_nor_mlflow_nor_pyarrow():
    code = (
        "import sys, mooring, mooring.cli, mooring.capture.proxy.server;"
        "print([name for name in ('pandas', 'numpy', 'mlflow', 'pyarrow', 'rich') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_the_version_is_said():
    version = subprocess.check_output([sys.executable, "-m", "mooring", "--version"], text=True)
    assert re.search(r"\d+\.\d+\.\d+", version)
