"""A model that can be retrained, its log with labels, and verdicts that call for it, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from mlflow_store import new_store
from monitoring import Traffic
from mooring.log.labels import labels_table, write_labels
from mooring.monitor.window_incidents import incidents_after
from mooring.state.assessments import Assessment, Assessments
from mooring.state.estimations import EstimatedMeasure, Estimation, Estimations
from mooring.state.incidents import Incidents
from mooring.state.state import State
from mooring.state.verdicts import Verdict, Verdicts
from mooring.state.windows import Window, Windows
from mooring.status import Status
from waiting import PATIENCE

MODEL = "wine"
TRAIN = """
import os, sys
import mlflow, pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

data = pd.read_parquet(sys.argv[1])
print(f"training on {len(data)} rows", flush=True)
X, y = data.drop(columns="quality"), data["quality"].to_numpy()
y = y + float(sys.argv[2]) if len(sys.argv) > 2 else y
with mlflow.start_run():
    numbers = make_column_transformer(("passthrough", ["alcohol", "sugar"]))
    model = make_pipeline(numbers, LinearRegression()).fit(X, y)
    mlflow.sklearn.log_model(
        model, name="model", signature=mlflow.models.infer_signature(X.head(), y),
        serialization_format="cloudpickle", pip_requirements=["scikit-learn"], registered_model_name="wine",
    )
"""
CHAMPION = """
import mlflow, numpy as np, pandas as pd

class Half(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return (model_input["alcohol"] / 2).to_numpy()

inputs = pd.DataFrame({"alcohol": [1.0], "sugar": [1.0], "colour": ["red"]})
with mlflow.start_run():
    mlflow.pyfunc.log_model(
        python_model=Half(), name="model", signature=mlflow.models.infer_signature(inputs, np.array([0.5])),
        pip_requirements=["mlflow"], registered_model_name="wine",
    )
mlflow.MlflowClient().set_registered_model_alias("wine", "champion", "1")
"""


def python(code: str, *arguments: str, cwd: Path, env: dict[str, str] | None = None) -> None:
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        check=True,
        timeout=PATIENCE,
        stdout=subprocess.DEVNULL,
    )


def with_champion(directory: Path) -> Path:
    """Make an MLflow store with a champion in a directory, and return the directory."""
    python(CHAMPION, cwd=directory, env={"MLFLOW_TRACKING_URI": new_store(directory)})
    return directory


def labelled_log(log: Path, rows: int = 600, version: str = "1") -> datetime:
    """Write rows of the last half hour and their labels, twice the alcohol, and return when they begin."""
    start = datetime.now(UTC) - timedelta(minutes=25)
    traffic = Traffic(log, MODEL)
    exchanges = traffic.exchanges(rows, start, version=version, per_request=4)
    traffic.write(exchanges)
    ids, places, values = [], [], []
    for one in exchanges:
        for row, cells in enumerate(json.loads(one.request)["dataframe_split"]["data"]):
            ids.append(one.request_id)
            places.append(row)
            values.append(2 * cells[0])
    columns = (pa.chunked_array([column]) for column in (ids, values, places))
    write_labels(str(log), MODEL, labels_table(*columns))
    return start


def assessed(state: State, statuses: Sequence[Status]) -> None:
    """Say of the newest windows that are judged how the model did in them, and what that amounts to."""
    made = []
    for (window, _), status in zip(Windows(state).history(MODEL, newest=len(statuses)), statuses, strict=True):
        assessment = Assessment(
            window=window, look=1, status=status, rows=100, labelled=100, message=f"{status} on labels",
            created=datetime.now(UTC),
        )  # fmt: skip
        with state.begin() as tx:
            Assessments(tx).put(assessment)
        made.append(assessment)
    with state.begin() as tx:
        for incident in incidents_after(made, []):
            Incidents(tx).put(incident)


def estimated(state: State, statuses: Sequence[Status]) -> None:
    """Say of the newest windows that are judged what is estimated of them, and what that amounts to."""
    made = []
    for (window, _), status in zip(Windows(state).history(MODEL, newest=len(statuses)), statuses, strict=True):
        lost = {"ok": 0.0, "warning": 0.02, "critical": 0.1}.get(status)
        accuracy = None if lost is None else EstimatedMeasure(0.9 - lost, 0.88 - lost, 0.92 - lost, 0.9)
        estimation = Estimation(
            window=window,
            status=status,
            rows=100,
            message=f"{status} without labels",
            created=datetime.now(UTC),
            measures={} if accuracy is None else {"accuracy": accuracy},
            unknown="" if accuracy is not None else "nothing is like it",
        )
        with state.begin() as tx:
            Estimations(tx).put(estimation)
        made.append(estimation)
    with state.begin() as tx:
        for incident in incidents_after(made, []):
            Incidents(tx).put(incident)


def judged(state: State, statuses: Sequence[Status], *, end: datetime | None = None, version: str = "1") -> None:
    """Put verdicts on windows of five minutes into a state, the last ending half an hour ago or at `end`."""
    end = end or datetime.now(UTC) - timedelta(minutes=30)
    length = timedelta(minutes=5)
    for place, status in enumerate(statuses):
        start = end - (len(statuses) - place) * length
        with state.begin() as tx:
            window = Windows(tx).put(
                Window(model=MODEL, version=version, start=start, end=start + length, rows=100, status="closed"),
                b"",
            )
            verdict = Verdict(
                window_id=window.id,
                status=status,
                rows=100,
                message=f"{status} it is",
                created=end,
            )
            Verdicts(tx).put(verdict, b"")
