"""The signatures of versions and logged models, as MLflow keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mooring.registry import versions
from mooring.registry.client import asking, connect

if TYPE_CHECKING:
    from mlflow.models import ModelSignature


def of_version(model: str, version: str) -> dict[str, Any] | None:
    """Return the signature of a version, or of the newest where none is named; None if there is no such version.

    Its `inputs` and `outputs` are as `mlflow.types.Schema.to_dict` has them, None for nothing; `from_type_hints`
    says whether it was made of type hints. Raises TrackingError.
    """
    import mlflow

    with asking(f"tell the signature of {model}") as client:
        if not version:
            version = next((str(one.version) for one in versions.search(model, newest=1)), "")
        if versions.found(client, model, version) is None:
            return None
        return _as_dict(mlflow.models.get_model_info(f"models:/{model}/{version}").signature)


def of_logged_model(*, run_id: str | None = None, model_id: str | None = None) -> dict[str, Any] | None:
    """Return the signature of a logged model, or of the newest one of a run, as `of_version` does.

    None where there is no such model, or nobody knows its signature, as of one that lies elsewhere.
    """
    import mlflow

    try:
        if model_id is None:
            outputs = connect().get_run(str(run_id)).outputs
            model_id = outputs.model_outputs[-1].model_id if outputs and outputs.model_outputs else None
        return _as_dict(mlflow.models.get_model_info(f"models:/{model_id}").signature) if model_id else None
    except mlflow.MlflowException:
        return None


def _as_dict(signature: ModelSignature | None) -> dict[str, Any]:
    inputs, outputs = (signature.inputs, signature.outputs) if signature is not None else (None, None)
    return {
        "inputs": inputs.to_dict() if inputs is not None else None,
        "outputs": outputs.to_dict() if outputs is not None else None,
        "from_type_hints": bool(getattr(signature, "_is_signature_from_type_hint", False)),
    }
