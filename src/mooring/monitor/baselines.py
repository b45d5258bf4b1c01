"""Baselines of a model's versions: logged in training, found by the monitor, or built from data later."""

from __future__ import annotations

import time
import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mooring.drift.baseline import Baseline
from mooring.drift.reference_rows import TRAINING_ROWS
from mooring.drift.stored import FormatError
from mooring.log.signature import single_floats
from mooring.registry import aliases, baselines, versions
from mooring.registry.client import TrackingError, place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mooring.comparison.compare import Evaluation
    from mooring.drift.kinds import Kind
    from mooring.state.baselines import StoredBaseline, StoredBaselines

_AGAIN_SECONDS = 60.0
OF_REGISTRY = "models:/"


class Found(NamedTuple):
    """A baseline, the digest under which the state keeps it, and, where there is none, why and what to do."""

    baseline: Baseline | None
    digest: str | None
    why_not: str


class Baselines:
    """Finds the baseline of a version: in the state, else in MLflow, whose answer the state keeps."""

    def __init__(self, stored: StoredBaselines) -> None:
        self._stored = stored
        self._found: dict[tuple[str, str | None], Found] = {}
        self._fresh: set[tuple[str, str | None]] = set()
        self._asked: dict[tuple[str, str | None], tuple[float, str]] = {}
        self._failed = -_AGAIN_SECONDS, ""

    def look_again(self) -> None:
        """Look everything up anew from now on: somebody may have built another, or moved the champion."""
        self._fresh.clear()

    def of(self, model: str, version: str | None) -> Found:
        """Return a version's baseline; where there is none, MLflow is asked again after a minute.

        Rows that name no version are compared with the champion's baseline.
        """
        key = model, version
        if key not in self._fresh:
            self._found[key] = self._find(model, version)
            self._fresh.add(key)
        return self._found[key]

    def _find(self, model: str, version: str | None) -> Found:
        kept = self._stored.newest(model, version)
        why_not = ""
        if kept is None or (version is None and kept.source.startswith(OF_REGISTRY)):
            kept, why_not = self._ask(model, version, kept)
        if kept is None:
            return Found(None, None, why_not)
        known = self._found.get((model, version))
        if known is not None and known.digest == kept.digest:
            return known
        try:
            return Found(Baseline.from_bytes(kept.data), kept.digest, "")
        except FormatError as error:
            return Found(None, None, f"the baseline of {model} can't be read: {error}; `{_build(model, version)}`")

    def _ask(
        self, model: str, version: str | None, kept: StoredBaseline | None
    ) -> tuple[StoredBaseline | None, str]:
        """Return what MLflow has for a version, kept from now on, else what is kept, and why there is nothing.

        A server that does not answer is left alone for a minute, whichever version it is about: each attempt takes
        long, and others wait.
        """
        now = time.monotonic()
        failed, why_not = self._failed
        if now - failed < _AGAIN_SECONDS:
            return kept, why_not
        asked, why_not = self._asked.get((model, version), (-_AGAIN_SECONDS, ""))
        if now - asked < _AGAIN_SECONDS:
            return kept, why_not
        try:
            wanted = version or aliases.champion(model)
            source = f"{OF_REGISTRY}{model}/{wanted}"
            if kept is not None and (wanted is None or kept.source == source):
                return kept, ""
            data = baselines.find(model, wanted) if wanted else None
            if data is None:
                why_not = self._why_not(model, version, wanted)
        except TrackingError as error:
            why_not = f"{error}. Windows wait for their baseline until then"
            self._failed = time.monotonic(), why_not
            return kept, why_not
        if data is not None:
            return self._stored.put(model, version, data, source), ""
        self._asked[model, version] = time.monotonic(), why_not
        return kept, why_not

    def _why_not(self, model: str, version: str | None, wanted: str | None) -> str:
        """Say what MLflow lacks: the model, the alias, or the baseline of the version that was looked for."""
        build = f"`{_build(model, version)} --data FILE`"
        if wanted is not None:
            champion = "" if version else ", the champion, with which rows that name no version are compared,"
            return (
                f"version {wanted} of {model}{champion} has no baseline: log one in training with "
                f"mooring.log_baseline, or build one with {build}"
            )
        there = versions.all_of(model)
        if not there:
            return (
                f"the rows of {model} name no version, and MLflow at {place()} has no registered "
                f"model of that name whose baseline they could be compared with: build one with {build}"
            )
        return (
            f"no version of {model} has the alias champion, with whose baseline rows that name no version are "
            f"compared: set it with `python -c 'import mlflow; mlflow.MlflowClient().set_registered_model_alias("
            f'"{model}", "champion", "{there[-1].version}")\'`, or build a baseline with {build}'
        )


def _build(model: str, version: str | None) -> str:
    return f"mooring baseline build --model {model}" + (f" --model-version {version}" if version else "")


def log_baseline(
    data: Any,
    *,
    predictions: Any = None,
    labels: Any = None,
    kinds: dict[str, Kind] | None = None,
    importance: dict[str, float] | None = None,
    model: Any = None,
    evaluation: Evaluation | None = None,
    held_out: bool = False,
    segments: Sequence[str] = (),
    keep_rows: int = TRAINING_ROWS,
    run_id: str | None = None,
    model_id: str | None = None,
) -> Baseline:
    """Log what a model is trained on as its baseline, which the monitor finds from the model's version.

    Parameters
    ----------
    data
        The training inputs: a table of pandas, polars or pyarrow, or a path; columns as the model gets them. Or
        what `mooring.baseline` made of them.
    predictions
        What the model predicts of them. It is surer of these rows than of others, as it was trained on them:
        windows are compared with the predictions of `evaluation` instead. Only where these are of rows that it was
        not trained on, such as those of cross-validation, say so by `held_out`.
    labels
        The ground truth.
    kinds
        What a column is (numeric, categorical, timestamp, text, other), where that is not to be found out. An
        integer with few values is taken for a category.
    importance
        How much the model heeds a feature, in any unit: by it and the size of the drift features are ranked.
    model
        The model, an object with `predict`, or a function that predicts, to have importances computed by
        permutation: shares of what its loss on `evaluation`, which needs the inputs then, grows by as each is
        shuffled.
    evaluation
        Labels of rows that the model did not see in training, and its predictions of them, as it gives them where
        it is served: the monitor compares later predictions and the model's performance with these. Without, it
        compares predictions with those of earlier windows, and performance with that on the training data, which
        flatters the model. With their inputs as a third part, both are judged by the `segments`, too, and
        performance is estimated before there are labels.
    held_out
        Whether `predictions` are of rows that the model was not trained on: held-out rows, or the out-of-fold
        predictions that scikit-learn's `cross_val_predict` gives.
    segments
        Inputs by whose values `mooring monitor --segment` looks for drift, too.
    keep_rows
        How many rows are kept as they are beside the baseline, in MLflow. What no single feature shows, and
        performance without labels, is found by them, the latter by the rows of `evaluation`: ten times as many of
        these are kept. With 0 there are none of either.
    run_id, model_id
        The run or the logged model that it goes with; by default the active run.

        with mlflow.start_run():
            mlflow.sklearn.log_model(model, name="model", signature=signature)
            mooring.log_baseline(X_train, labels=y_train, evaluation=(y_test, model.predict(X_test)))

    Warns where predictions are of rows that the model was trained on. Raises ValueError where there is no active
    run and none is named, and what MLflow raises.
    """
    from mooring.comparison import baseline, evaluated

    if run_id is None and model_id is None:
        import mlflow

        active = mlflow.active_run()
        if active is None:
            raise ValueError("a baseline goes with a run: call this within mlflow.start_run(), or give run_id")
        run_id = active.info.run_id
    made: Baseline = data
    if not isinstance(data, Baseline):
        made = baseline(
            data,
            predictions=predictions,
            labels=labels,
            kinds=kinds,
            importance=importance,
            model=model,
            evaluation=evaluation,
            held_out=held_out,
            segments=segments,
            keep_rows=keep_rows,
            singles=single_floats(run_id=run_id, model_id=model_id),
        )
    elif model is not None and evaluation is None:
        raise ValueError("model needs evaluation=(labels, predictions, inputs): importances are of held-out rows")
    elif evaluation is not None:
        made = evaluated(made, evaluation, keep_rows=keep_rows, model=model)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    about = {**made.about, "created": created, "run_id" if run_id else "model_id": run_id or model_id or ""}
    made = msgspec.structs.replace(made, about=about)
    if made.in_sample:
        warnings.warn(made.warning(), stacklevel=2)
    baselines.log(made.to_bytes(), made.sample, run_id=run_id, model_id=model_id)
    return made
