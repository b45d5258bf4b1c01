"""MLflow's client, and how its errors are told: everything that Mooring asks of MLflow goes through here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from mlflow import MlflowClient

NO_STORE = "MLFLOW_TRACKING_URI is not set, and there is no mlflow.db in this directory"
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Variables with which MLflow gives up on a server that is not there after seconds, rather than minutes."""

T = TypeVar("T")


class TrackingError(Exception):
    """MLflow does not do what it is asked; the message says why, and what to do. Another time it may."""


class PermanentError(TrackingError):
    """MLflow will not do it another time either."""


def has_store() -> bool:
    """Return whether MLflow has a store to ask. Where it has none, asking would make a new, empty one here."""
    return "MLFLOW_TRACKING_URI" in os.environ or any(map(os.path.exists, ("mlflow.db", "mlruns")))


def place() -> str:
    """Return where MLflow is, without a password."""
    import mlflow

    return _without_password(mlflow.get_tracking_uri())


def connect() -> MlflowClient:
    """Return a client of the tracking server and registry that MLflow's own settings name now."""
    import mlflow

    return mlflow.MlflowClient(tracking_uri=mlflow.get_tracking_uri(), registry_uri=mlflow.get_registry_uri())


@contextmanager
def asking(what: str) -> Iterator[MlflowClient]:
    """Give a client for doing `what`; what MLflow raises meanwhile becomes a TrackingError that says so.

    with asking(f"tell the aliases of {model}") as client:
        return client.get_registered_model(model).aliases
    """
    if not has_store():
        raise TrackingError(NO_STORE)
    try:
        yield connect()
    except TrackingError:
        raise
    except Exception as error:  # each store of artifacts has errors of its own
        reason = _without_password(str(error).strip().partition("\n")[0])[:300]
        raise TrackingError(
            f"MLflow at {place()} does not {what}: {reason}; check that it runs, and MLFLOW_TRACKING_URI"
        ) from error


def unless_missing(ask: Callable[[], T]) -> T | None:
    """Return what MLflow answers, or None where it does not have it."""
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)
