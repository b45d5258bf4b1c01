"""Baselines of a model's versions: logged in training, found by the monitor, or built from data later."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from mooring.drift.baseline import Baseline
from mooring.drift.stored import FormatError
from mooring.monitor.tracking import TrackingError
from mooring.registry import log_baseline_artifact

if TYPE_CHECKING:
    from collections.abc import Callable

    from mooring.drift.grid import Kind
    from mooring.monitor.state import State
    from mooring.monitor.tracking import Tracking

_AGAIN_SECONDS = 60.0


class Found(NamedTuple):
    """A baseline, the digest under which the state keeps it, and, where there is none, why and what to do."""

    baseline: Baseline | None
    digest: str | None
    why_not: str
    asked: float


class Baselines:
    """Finds the baseline of a version: in the state, else in MLflow, whose answer the state keeps."""

    def __init__(self, state: State, tracking: Tracking, say: Callable[[str], None]) -> None:
        self._state = state
        self._tracking = tracking
        self._say = say
        self._found: dict[tuple[str, str | None], Found] = {}

    def of(self, model: str, version: str | None) -> tuple[Baseline | None, str | None]:
        """Return a version's baseline and its digest; where there is none, MLflow is asked again after a minute.

        Rows that name no version are compared with the champion's baseline.
        """
        known = self._found.get((model, version))
        if known is None or (known.baseline is None and time.monotonic() - known.asked > _AGAIN_SECONDS):
            known = self._find(model, version)
            if known.why_not:
                self._say(known.why_not)
            self._found[model, version] = known
        return known.baseline, known.digest

    def forget(self) -> None:
        """Look everything up anew, since somebody may have built another."""
        self._found.clear()

    def why_not(self, model: str, version: str | None) -> str:
        """Return why a version has no baseline, and what to do; nothing where it has one."""
        found = self._found.get((model, version))
        return found.why_not if found else ""

    def _find(self, model: str, version: str | None) -> Found:
        kept = self._state.baseline(model, version)
        build = f"mooring baseline build --model {model}" + (f" --model-version {version}" if version else "")
        if kept is None:
            try:
                wanted = version or self._tracking.champion(model)
                data = self._tracking.find_baseline(model, wanted) if wanted else None
            except TrackingError as error:
                return Found(None, None, f"{error}. Windows wait for their baseline until then", time.monotonic())
            if data is None:
                named = f"version {version} of {model}" if version else model
                why = (
                    f"{named} has no baseline: log one in training with mooring.log_baseline, or build one with "
                    f"`{build} --data FILE`"
                )
                return Found(None, None, why, time.monotonic())
            with self._state.begin() as tx:
                kept = tx.put_baseline(model, version, data, f"models:/{model}/{wanted}")
        try:
            return Found(Baseline.from_bytes(kept.data), kept.digest, "", time.monotonic())
        except FormatError as error:
            return Found(
                None, None, f"the baseline of {model} can't be read: {error}; `{build}`", time.monotonic()
            )


def log_baseline(
    data: Any,
    *,
    predictions: Any = None,
    labels: Any = None,
    kinds: dict[str, Kind] | None = None,
    importance: dict[str, float] | None = None,
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
        What the model says of them, which the monitor watches too.
    labels
        The ground truth.
    kinds
        What a column is (numeric, categorical, timestamp, text, other), where that is not to be found out. An
        integer with few values is taken for a category.
    importance
        How much the model heeds a feature, in any unit: by it and the size of the drift features are ranked.
    run_id, model_id
        The run or the logged model that it goes with; by default the active run.

        with mlflow.start_run():
            mlflow.sklearn.log_model(model, name="model", signature=signature)
            mooring.log_baseline(X_train, predictions=model.predict(X_train), labels=y_train)

    Raises ValueError where there is no active run and none is named, and what MLflow raises.
    """
    from mooring.comparison import baseline

    if run_id is None and model_id is None:
        import mlflow

        active = mlflow.active_run()
        if active is None:
            raise ValueError("a baseline goes with a run: call this within mlflow.start_run(), or give run_id")
        run_id = active.info.run_id
    made: Baseline = data
    if not isinstance(data, Baseline):
        made = baseline(data, predictions=predictions, labels=labels, kinds=kinds, importance=importance)
    made.about["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    made.about["run_id" if run_id else "model_id"] = run_id or model_id or ""
    log_baseline_artifact(made.to_bytes(), run_id=run_id, model_id=model_id)
    return made
