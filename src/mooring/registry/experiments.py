"""The experiment of a model, `mooring/NAME`, where verdicts and the gate's evaluations are logged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mooring.registry.client import TrackingError, place

if TYPE_CHECKING:
    from mlflow import MlflowClient


def experiment_id(client: MlflowClient, model: str) -> str:
    """Return the id of a model's experiment, which is made where there is none.

    Raises TrackingError where somebody has deleted it, and what MLflow raises.
    """
    name = f"mooring/{model}"
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return str(client.create_experiment(name))
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"the experiment {name} of {place()} was deleted: bring it back with "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`"
        )
    return str(experiment.experiment_id)
