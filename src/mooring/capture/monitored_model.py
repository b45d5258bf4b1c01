"""The model as MLflow's "models from code" loads it: this file is what `log_model` hands to MLflow."""

from mlflow.models import set_model

from mooring.capture.pyfunc import MonitoredModel

set_model(MonitoredModel())
