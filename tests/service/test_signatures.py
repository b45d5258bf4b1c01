"""The signatures of registered models, asked of a real registry."""

from __future__ import annotations

import mlflow
import pandas as pd
import pytest
from mlflow.models import infer_signature

from mlflow_store import new_store
from mooring.log.signature import Signature, ask_mlflow, integers_of
from waiting import PATIENCE


class Nothing(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [1] * len(model_input)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    directory = tmp_path_factory.mktemp("registry")
    uri = new_store(directory)
    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setattr("mooring.registry.process._SECONDS", PATIENCE)
        mlflow.set_tracking_uri(uri)
        for inputs in (
            pd.DataFrame({"zip": [501], "x": [1.5]}),
            pd.DataFrame({"zip": ["00501"], "x": [[1.5]]}),
            None,
        ):
            mlflow.pyfunc.log_model(
                name="model",
                python_model=Nothing(),
                signature=None if inputs is None else infer_signature(inputs, pd.DataFrame({"n": [1]})),
                registered_model_name="wine",
                pip_requirements=["mlflow"],
            )
        yield uri
        mlflow.set_tracking_uri(before)


def test_each_version_has_its_own(registry):
    first, second = ask_mlflow("wine", "1"), ask_mlflow("wine", "2")
    assert first is not None
    assert first.fields.input == {"zip": "double", "x": "double"}
    assert first.fields.output == {"prediction": "double"}
    assert second is not None
    assert second.fields.input == {"zip": "string", "x": "tensor"}
    assert second.casts is not None


@pytest.mark.proof
def test_the_newest_may_have_none_and_others_are_not_there(registry):
    assert ask_mlflow("wine", None) == Signature(None, None)
    assert ask_mlflow("wine", "4") is None
    assert ask_mlflow("beer", None) is None
    assert integers_of("wine") == []
