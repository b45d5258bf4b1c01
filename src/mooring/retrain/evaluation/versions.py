"""Versions of a model as the gate takes them: loaded here, asked for predictions, measured for time and size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mooring.registry.baselines import DIRECTORY
from mooring.retrain.evaluation.records import Latency
from mooring.retrain.evaluation.signatures import as_input

_BATCH_ROWS = 256
_LEAST_REPEATS, _MOST_REPEATS = 3, 50
_SECONDS = 3.0


class LoadedModel:
    """A version of a model, loaded from `path` as MLflow's server would. Raises whatever the model does."""

    def __init__(self, path: Path) -> None:
        self.pyfunc = mlflow.pyfunc.load_model(str(path))
        self.signature = self.pyfunc.metadata.signature

    @property
    def model_id(self) -> str | None:
        """The logged model that it is, where this MLflow knows it."""
        model_id = getattr(self.pyfunc.metadata, "model_id", None)
        try:
            return model_id and mlflow.get_logged_model(model_id).model_id
        except mlflow.MlflowException:
            return None  # it was copied from another server, say

    def predict(self, frame: pd.DataFrame) -> pa.Table:
        """Return the model's output, a row for each of `frame`."""
        output = as_table(self.pyfunc.predict(self.input(frame)))
        if output.num_rows != len(frame):
            raise ValueError(f"it answers {output.num_rows} predictions for {len(frame)} rows")
        return output

    def input(self, frame: pd.DataFrame) -> Any:
        """Return a copy of rows in the types that the signature declares."""
        return as_input(frame.copy(), self.signature.inputs if self.signature else None)


def as_table(output: Any) -> pa.Table:
    """Return what a model answered as columns; a single one without a name is `prediction`.

    >>> as_table(np.array([[0.2, 0.8]])).column_names, as_table([5.5]).column_names
    (['0', '1'], ['prediction'])
    """
    if isinstance(output, pd.DataFrame):
        named = output.set_axis([str(name) for name in output.columns], axis=1)
        return pa.Table.from_pandas(named, preserve_index=False).replace_schema_metadata()
    if isinstance(output, Mapping):
        return pa.table({str(name): pa.array(np.asarray(one)) for name, one in output.items()})
    if isinstance(output, pd.Series):
        return pa.table({"prediction": pa.array(output, from_pandas=True)})
    if isinstance(output, list) and output and isinstance(output[0], Mapping):
        return pa.Table.from_pylist(output)
    values = np.asarray(output)
    if values.ndim > 2:
        raise ValueError(f"it answers an array of shape {values.shape}, and the gate compares columns")
    if values.ndim == 2 and values.shape[1] > 1:
        return pa.table({str(at): pa.array(values[:, at]) for at in range(values.shape[1])})
    return pa.table({"prediction": pa.array(values.reshape(-1), from_pandas=True)})


def finite(output: pa.Table) -> np.ndarray:
    """Return of each row whether all that was answered is there, and finite where it is a number.

    >>> finite(pa.table({"prediction": [1.0, None, float("nan")]})).tolist()
    [True, False, False]
    """
    fine = np.ones(output.num_rows, bool)
    for column in output.columns:
        fine &= np.asarray(pc.is_valid(column))
        if pa.types.is_floating(column.type):
            fine &= np.isfinite(column.to_numpy())
    return fine


def size(path: Path) -> int:
    """Return the bytes of a model's files; the baseline beside them is not part of it."""
    files = (one for one in path.rglob("*") if one.is_file())
    return sum(one.stat().st_size for one in files if one.relative_to(path).parts[0] != DIRECTORY)


def latencies(models: Mapping[str, LoadedModel], frame: pd.DataFrame) -> dict[str, Latency]:
    """Return how long models take, asked in turns, so that whatever else runs here slows all alike."""
    batch = frame.head(_BATCH_ROWS)
    single, whole = _medians(models, frame.head(1)), _medians(models, batch)
    return {who: Latency(single[who], whole[who], len(batch)) for who in models}


def _medians(models: Mapping[str, LoadedModel], frame: pd.DataFrame) -> dict[str, float]:
    inputs = [(who, model, model.input(frame)) for who, model in models.items()]
    seconds: dict[str, list[float]] = {who: [] for who in models}
    for _, model, rows in inputs:
        model.pyfunc.predict(rows)  # the first is slow in many libraries
    began = perf_counter()
    for done in range(_MOST_REPEATS):
        if done >= _LEAST_REPEATS and perf_counter() - began > _SECONDS:
            break
        for who, model, rows in inputs if done % 2 else reversed(inputs):
            start = perf_counter()
            model.pyfunc.predict(rows)
            seconds[who].append(perf_counter() - start)
    return {who: float(np.median(values)) for who, values in seconds.items()}
