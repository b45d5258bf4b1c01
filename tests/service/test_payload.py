"""Importing the decoder is light, and stays so for regular payloads."""

from __future__ import annotations

import subprocess
import sys


def test_import_is_light_and_stays_so_for_regular_shapes() -> None:
    program = (
        "import sys\n"
        "from mooring.payload import decode_inputs, decode_outputs\n"
        'decode_inputs(b\'{"dataframe_split": {"columns": ["a"], "data": [[1], [null]]}}\')\n'
        'decode_inputs(b\'{"inputs": {"a": [1]}}\')\n'
        "decode_outputs(b'[[1, 2]]')\n"
        'print({"pandas", "numpy", "pyarrow", "mlflow"} & set(sys.modules))\n'
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
