"""A logged model brings its own Mooring: it logs where no other is installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

import mooring
from mooring.capture.pyfunc import TRAVELS

SERVED = """
import json, sys
installed = sys.argv[2]
sys.path[:] = [path for path in sys.path if path != installed]
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
print(json.dumps(model.predict(pd.DataFrame({"n": [1.0, 2.0]})).tolist()))
import mooring
from mooring.capture.in_process import close_all
[capture] = close_all()
assert capture.finish(60.0)
print(mooring.__file__)
"""


DOUBLED = """
import mlflow

class Doubled(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input["n"].to_numpy() * 2

mlflow.models.set_model(Doubled())
"""


@pytest.mark.parametrize("log_format", ["csv", "parquet"])
def test_it_logs_in_a_process_that_has_no_other(tmp_path, monkeypatch, log_format):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "doubled.py").write_text(DOUBLED)
    mlflow.pyfunc.save_model("model", python_model="doubled.py", pip_requirements=["mlflow"])
    info = mooring.log_model("model")
    model = Path(mlflow.artifacts.download_artifacts(info.model_uri, dst_path=str(tmp_path / "served")))
    code = model / "code" / "mooring"
    travelled = {path.relative_to(code).with_suffix("").as_posix() for path in code.rglob("*.*")}
    assert travelled == set(TRAVELS)
    installed = Path(mooring.__file__).parents[1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"MLFLOW_MONITORING_DIR": "out", "MLFLOW_MONITORING_FORMAT": log_format}
    done = subprocess.run(
        [sys.executable, "-c", SERVED, str(model), str(installed)],
        capture_output=True, text=True, cwd=tmp_path, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    predictions, home = done.stdout.splitlines()
    assert json.loads(predictions) == [2.0, 4.0]
    assert home == str(code / "__init__.py")
    logged = list((tmp_path / "out").glob("*.csv" if log_format == "csv" else "inferences/*/*/*.parquet"))
    assert len(logged) == 1, done.stderr
    assert not re.search("^mooring", done.stderr, re.MULTILINE), done.stderr
