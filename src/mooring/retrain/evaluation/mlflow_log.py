"""What MLflow's own evaluation says of two versions, where its pages show it, and by its own thresholds."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import mlflow
import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow.models import EvaluationResult, MetricThreshold, make_metric
from mlflow.models.evaluation.validation import ModelValidationFailedException

from mooring.performance.measures import lower_is_better
from mooring.performance.scored import scored_of
from mooring.registry.client import TrackingError, connect
from mooring.registry.experiments import experiment_id
from mooring.retrain.evaluation.records import Evaluation, EvaluationError, reason_of


def log_to_mlflow(
    found: Evaluation,
    labels: pa.ChunkedArray,
    outputs: Mapping[str, pa.Table],
    model_ids: Mapping[str, str | None],
    better_by: float,
) -> Evaluation:
    """Log each version's evaluation as a run in the experiment mooring/NAME, and let MLflow compare them.

    Returns the evaluation with the runs' ids, and what MLflow's MetricThreshold has against the candidate. Raises
    EvaluationError where MLflow does not take it.
    """
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    results: dict[str, Any] = {}
    runs: dict[str, str] = {}
    try:
        experiment = experiment_id(connect(), found.model)
        for who, output in outputs.items():
            version = found.champion if who == "champion" else found.candidate
            tags = {"mooring.model": found.model, "mooring.evaluated": str(version), "mooring.as": who}
            name = f"{found.model} {version} as {who}"
            with mlflow.start_run(experiment_id=experiment, run_name=name, tags=tags) as begun:
                results[who] = _mlflow_result(found, who, labels, output, model_ids[who])
                runs[who] = begun.info.run_id
    except (mlflow.MlflowException, TrackingError) as error:
        raise EvaluationError(
            f"MLflow does not take the evaluation: {reason_of(error)}", temporary=True
        ) from error
    found = msgspec.structs.replace(found, runs=runs)
    if "champion" not in results or found.metric is None or found.metric == "bias":
        return found
    threshold = MetricThreshold(  # type: ignore[no-untyped-call]  # MLflow's
        min_relative_change=float(better_by), greater_is_better=not lower_is_better(found.metric)
    )
    try:
        mlflow.validate_evaluation_results({found.metric: threshold}, results["candidate"], results["champion"])
    except ModelValidationFailedException as error:
        return msgspec.structs.replace(found, threshold=str(error).strip()[:500])
    return found


def _mlflow_result(
    found: Evaluation, who: str, labels: pa.ChunkedArray, output: pa.Table, model_id: str | None
) -> Any:
    """Return what `mlflow.models.evaluate` makes of predictions, our measures by our names among its own."""
    scored = scored_of(labels, output, task=found.task, classes=found.classes)
    measures = found.measures[who]
    labelled, predicted = scored.labels, scored.predictions
    if scored.classes is not None:
        names = np.asarray(scored.classes)
        labelled, predicted = names[labelled.astype(int)], names[predicted.astype(int)]
    if not scored.rows or (scored.classes is not None and len(np.unique([labelled, predicted])) < 2):
        mlflow.log_metrics(measures, model_id=model_id)  # MLflow evaluates no single class
        return EvaluationResult(measures, {})  # type: ignore[no-untyped-call]  # MLflow's
    return mlflow.models.evaluate(  # type: ignore[no-untyped-call]  # MLflow's
        data=pd.DataFrame({"label": labelled, "prediction": predicted}),
        targets="label",
        predictions="prediction",
        model_type="regressor" if scored.classes is None else "classifier",
        evaluators="default",
        evaluator_config={"log_model_explainability": False, "log_explainer": False},
        extra_metrics=[
            make_metric(  # type: ignore[no-untyped-call]  # MLflow's
                eval_fn=lambda predictions, targets, value=value: value,
                greater_is_better=not lower_is_better(name),
                name=name,
            )
            for name, value in measures.items()
        ],
        model_id=model_id,
    )
