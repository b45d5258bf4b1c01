"""Capture inside the model server: a PythonModel that wraps any MLflow model and logs its requests and answers.

Nothing of this needs Mooring to be installed where the model is served: the code travels with the model.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import DataType, ParamSchema, ParamSpec

from mooring.capture.in_process import JSON, TEXT, Body, Captures, as_request, as_response, as_text, check, encoded
from mooring.config import resolve
from mooring.exchange import Exchange
from mooring.ids import new_request_id
from mooring.registry import baselines
from mooring.settings import CaptureSettings

if TYPE_CHECKING:
    from mooring.drift.baseline import Baseline

REQUIREMENTS = ("click", "crc32c", "msgspec", "obstore")
"""What this module and the drain need beside MLflow, as the names that PyPI has them under."""

_REQUEST_ID = "request_id"
TRAVELS = (
    *("__init__", "__main__", "casts", "config", "exchange", "files", "ids", "label", "messages", "payload"),
    *("settings", "drift/__init__", "performance/__init__", "registry/__init__", "registry/baselines"),
    *("registry/client", "registry/process", "registry/signatures", "registry/versions"),
    *("capture/__init__", "capture/drainer", "capture/in_process", "capture/monitored_model", "capture/pyfunc"),
    *("capture/recorder", "capture/redact"),
    *("spool/__init__", "spool/account", "spool/inspect", "spool/segments"),
    *(
        "log/__init__",
        "log/attempts",
        "log/csv_files",
        "log/drain",
        "log/labels",
        "log/listing",
        "log/parquet",
        "log/reader",
    ),
    *("log/schema", "log/signature", "log/store"),
    # `mooring drain`, and the other commands, since each is imported with it.
    *(
        "cli/__init__",
        "cli/baseline",
        "cli/capture",
        "cli/compare",
        "cli/flags",
        "cli/gate",
        "cli/help",
        "cli/incidents",
    ),
    *(
        "cli/labels",
        "cli/log",
        "cli/monitor",
        "cli/note",
        "cli/output",
        "cli/performance",
        "cli/retrain",
        "cli/rollout",
    ),
    *("cli/serve", "cli/start", "cli/ui"),
)
"""The modules that travel with a model: what capture in the server, and the drain behind it, import."""
_NAME = "mooring_model"
_PROCESS = "one for all monitored models of a process"
_logging_model = threading.Event()


def log_model(
    model_uri: str,
    *,
    name: str = "model",
    registered_model_name: str | None = None,
    input_example: Any = None,
    baseline: Baseline | None = None,
    **kwargs: Any,
) -> ModelInfo:
    """Log a copy of the model at `model_uri` that, wherever it is served, logs its requests and answers.

    The copy has the signature of the original, and takes a parameter `request_id` besides. Served, it writes one
    CSV file a request into `$MLFLOW_MONITORING_DIR` (default `out`), or Parquet where `$MLFLOW_MONITORING_FORMAT`
    says so or that is no directory but a bucket. In the log the model has its registered name. A `baseline`, as
    `mooring.baseline` makes it, goes with the model, where the monitor finds it. Further arguments go to
    `mlflow.pyfunc.log_model`. Raises MlflowException if there is no such model.

        info = mlflow.sklearn.log_model(model, name="model", signature=signature)
        mooring.log_model(info.model_uri, name="monitored", registered_model_name="my-model")
    """
    model_path = mlflow.artifacts.download_artifacts(model_uri)
    wrapped = Model.load(model_path)
    requirements = Path(mlflow.pyfunc.get_model_dependencies(model_path)).read_text().splitlines()
    kwargs.setdefault("signature", _with_request_id(wrapped.signature))
    requirements += kwargs.pop("extra_pip_requirements", None) or []
    kwargs.setdefault("pip_requirements", [*filter(None, requirements), *_requirements()])
    if registered_model_name is not None and isinstance(kwargs.get("model_config"), dict | None):
        kwargs["model_config"] = {**(kwargs.get("model_config") or {}), _NAME: registered_model_name}
    with _unlogged(), tempfile.TemporaryDirectory() as code:
        package = Path(__file__).resolve().parents[1]
        travelling = Path(code, "mooring")
        for module in TRAVELS:
            place = travelling / f"{module}.py"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(package / f"{module}.py", place)
        kwargs["code_paths"] = [*(kwargs.get("code_paths") or []), str(travelling)]
        info: ModelInfo = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(Path(__file__).with_name("monitored_model.py")),
            artifacts={"model": model_path},
            registered_model_name=registered_model_name,
            input_example=input_example,
            **kwargs,
        )
    if baseline is not None:
        if baseline.in_sample:
            warnings.warn(baseline.warning(), stacklevel=2)
        baselines.log(baseline.to_bytes(), baseline.sample, model_id=info.model_id)
    return info


class MonitoredModel(PythonModel):
    """The PythonModel that `log_model` logs; the model that it wraps is its artifact `model`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the wrapped model. Raises ValueError for invalid settings."""
        check(_settings())  # here, so that no request fails of them
        self._name = (context.model_config or {}).get(_NAME)
        self._model = mlflow.pyfunc.load_model(context.artifacts["model"])
        schema = self._model.metadata.get_params_schema()
        self._takes_request_id = schema is not None and any(param.name == _REQUEST_ID for param in schema.params)

    # MLflow reads the hint of model_input: this one changes nothing, another or none makes it warn. It may be
    # whatever the server makes of a payload.
    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> Any:
        """Return the wrapped model's predictions for `model_input`, and log both."""
        params = dict(params or {})
        client_request_id = as_text(params.get(_REQUEST_ID))
        if not self._takes_request_id:
            params.pop(_REQUEST_ID, None)
        if _logging_model.is_set():
            return self._model.predict(model_input, params=params or None)

        capture = _captures.get(_PROCESS, _settings)
        time_ns, started = time.time_ns(), time.perf_counter_ns()
        request_id = new_request_id(time_ns)
        if not capture.begin(request_id):
            return self._model.predict(model_input, params=params or None)
        request = encoded(as_request, model_input)  # before the model can change its input

        def record(status: int, response: Body) -> None:
            capture.record(
                Exchange(
                    request_id=request_id,
                    time_ns=time_ns,
                    duration_ns=time.perf_counter_ns() - started,
                    status=status,
                    request_type=request.type,
                    response_type=response.type,
                    request=request.content,
                    response=response.content,
                    client_request_id=client_request_id,
                    model=os.environ.get("MOORING_MODEL") or self._name,
                    version=os.environ.get("MOORING_MODEL_VERSION") or None,
                    sampling=capture.settings.sample,
                    errors=["unencodable"] if TEXT in (request.type, response.type) else [],
                )
            )

        try:
            predictions = self._model.predict(model_input, params=params or None)
        except Exception as error:
            message = {"error_code": "BAD_REQUEST", "message": str(error)}
            record(400, Body(json.dumps(message).encode(), JSON))
            raise
        record(200, encoded(as_response, predictions))
        return predictions


_captures = Captures()


def _settings() -> CaptureSettings:
    """Return the settings of capture in this process: MOORING_* variables, and two of MLflow's spelling."""
    log = os.environ.get("MLFLOW_MONITORING_DIR", "out")
    log_format = os.environ.get("MLFLOW_MONITORING_FORMAT", "parquet" if "://" in log else "csv")
    return resolve(CaptureSettings, {"log": log, "format": log_format}, os.environ)


def _with_request_id(signature: ModelSignature | None) -> ModelSignature | None:
    if signature is None:
        return None
    params = list(signature.params.params) if signature.params else []
    if all(param.name != _REQUEST_ID for param in params):
        params.append(ParamSpec(_REQUEST_ID, DataType.string, default=None))
    extended = ModelSignature(signature.inputs, signature.outputs, ParamSchema(params))
    # MLflow keeps these aside of the schema: whether it comes from type hints, and so how inputs are read.
    for name in ("_is_signature_from_type_hint", "_is_type_hint_from_example"):
        if hasattr(signature, name):
            setattr(extended, name, getattr(signature, name))
    return extended


def _requirements() -> list[str]:
    return [f"{package}=={version(package)}" for package in REQUIREMENTS]


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep the trial predictions that MLflow makes while it saves a model out of the log."""
    _logging_model.set()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*[tT]ype hint", UserWarning)  # those of `predict` say nothing
            yield
    finally:
        _logging_model.clear()
