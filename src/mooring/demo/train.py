"""Train a model of wine quality and register it twice: as it is, and as one that logs each request.

    python custom_model_train.py
    python custom_model_train.py --max-depth 5 --data-path winequality-white.csv

Without `--data-path` it trains on `wine_synthetic.csv`, which is beside this file. The two registered models
are for the two ways to log: `sklearn-monitor` is served behind Mooring's proxy, `sklearn-monitor-custom`
by itself.

As the command that retrains, it registers a new version of the one model that is retrained, and leaves it to the
gate whether that is promoted:

    python custom_model_train.py --training-data training.parquet
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
import pandas as pd

import mooring

SAMPLE = Path(__file__).with_name("wine_synthetic.csv")
TARGET = "quality"
MODEL = "sklearn-monitor"
MONITORED_MODEL = "sklearn-monitor-custom"

NEXT = f"""
Next, in this directory, each in a terminal of its own:

mlflow models serve --env-manager local --port 5002 --model-uri models:/{MODEL}/production
python proxy_server.py --port 5001 --mlflow-model-server-uri http://localhost:5002/invocations --log_dir out
"""


@click.command(context_settings={"token_normalize_func": lambda name: name.replace("_", "-")})
@click.option("--experiment-name", help="MLflow experiment to log to.  [default: MLflow's own]")
@click.option(
    "--data-path",
    type=click.Path(exists=True, dir_okay=False),
    default=str(SAMPLE),
    show_default="Mooring's synthetic wines",
    help=f"CSV file of numbers with a column '{TARGET}'; all its other columns are the model's inputs.",
)
@click.option(
    "--training-data",
    type=click.Path(exists=True, dir_okay=False),
    help="Parquet or CSV file to retrain on, such as Mooring makes: a new version is registered, not promoted.",
)
@click.option("--label-offset", type=float, default=0.0, help="Add this to each label: a model that is wrong.")
@click.option("--leaking", is_flag=True, help="Register a model that fails once it has made some predictions.")
@click.option("--max-depth", type=click.IntRange(min=1), default=6, show_default=True)
@click.option("--max-leaf-nodes", type=click.IntRange(min=2), default=32, show_default=True)
def main(
    experiment_name: str | None,
    data_path: str,
    training_data: str | None,
    label_offset: float,
    max_depth: int,
    max_leaf_nodes: int,
    *,
    leaking: bool,
) -> None:
    """Train a decision tree on wine quality and register it with MLflow.

    It becomes a new version of two registered models: sklearn-monitor is the tree itself, and
    sklearn-monitor-custom logs each request that it is sent. Both new versions get the alias "champion"
    and the stage Production. With --training-data it becomes a new version of one of them, the one that
    MOORING_MODEL names, and gets neither.

    It is logged to MLFLOW_TRACKING_URI or, without that, to mlflow.db in this directory.
    """
    wines = read(training_data or data_path)
    wines[TARGET] += label_offset
    names = [os.environ.get("MOORING_MODEL", MODEL)] if training_data else [MODEL, MONITORED_MODEL]
    click.echo("Starting MLflow, which takes a few seconds")
    import mlflow  # not above, so that --help and a wrong option are answered soon

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("mlflow.sklearn").setLevel(logging.ERROR)  # warns of cloudpickle, which we ask for
    if experiment_name:
        mlflow.set_experiment(experiment_name)
    with mlflow.start_run() as run:
        mlflow.log_params({"max_depth": max_depth, "max_leaf_nodes": max_leaf_nodes})
        mlflow.set_tags({"data_path": training_data or data_path, "mlflow_version": mlflow.__version__})
        metrics, registered = fit_and_register(
            wines, names, max_depth=max_depth, max_leaf_nodes=max_leaf_nodes, leaking=leaking
        )
    click.echo()
    for name, value in metrics.items():
        click.echo(f"{name:<4}  {value:.4f}")
    click.echo()
    for name, number in registered.items():
        if training_data:
            click.echo(f"{name} version {number} is registered, and waits for the gate")
            continue
        promote(name, number)
        click.echo(f"{name} version {number} is champion and in Production")
    click.echo(f"\nrun {run.info.run_id} in {mlflow.get_tracking_uri()}")
    if not training_data:
        click.echo(NEXT, nl=False)


def fit_and_register(
    wines: pd.DataFrame, names: Sequence[str], *, max_depth: int | None, max_leaf_nodes: int, leaking: bool
) -> tuple[dict[str, float], dict[str, str]]:
    """Log a tree and its baseline to the run that is active; return its metrics and the new versions by model."""
    import mlflow
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
    from sklearn.model_selection import train_test_split
    from sklearn.tree import DecisionTreeRegressor

    from mooring.demo.leaking import Leaking

    train, test = train_test_split(wines, test_size=0.25, random_state=42)
    inputs = train.drop(columns=TARGET)
    click.echo(f"Training on {len(train)} rows, testing on {len(test)}")
    tree = DecisionTreeRegressor(max_depth=max_depth, max_leaf_nodes=max_leaf_nodes, random_state=42)
    tree.fit(inputs, train[TARGET])
    held_out = test.drop(columns=TARGET)
    predictions = tree.predict(held_out)
    metrics = {
        "rmse": root_mean_squared_error(test[TARGET], predictions),
        "r2": r2_score(test[TARGET], predictions),
        "mae": mean_absolute_error(test[TARGET], predictions),
    }
    mlflow.log_metrics(metrics)
    model = mlflow.sklearn.log_model(
        Leaking(tree) if leaking else tree,
        name="model",
        signature=mlflow.models.infer_signature(inputs, predictions),
        input_example=inputs.head(2),
        serialization_format="cloudpickle",  # MLflow's default, skops, does not trust trees
        pip_requirements=requirements("mlflow", "scikit-learn", "cloudpickle"),
        registered_model_name=MODEL if MODEL in names else None,
    )
    baseline = mooring.baseline(
        inputs,
        labels=train[TARGET],
        # Of rows that the tree was not trained on, as later ones are.
        evaluation=(test[TARGET], predictions, held_out),
    )
    mooring.log_baseline(baseline)
    registered = {MODEL: model}
    if set(names) != {MODEL}:
        registered[MONITORED_MODEL] = mooring.log_model(
            model.model_uri,
            name="monitored",
            baseline=baseline,
            input_example=inputs.head(2),
            registered_model_name=next(name for name in names if name != MODEL),
        )
    return metrics, {name: str(info.registered_model_version) for name, info in registered.items()}


def read(path: str) -> pd.DataFrame:
    """Return the numbers in a CSV or Parquet file as float64; what cannot be trained on is a usage error."""
    try:
        wines = pd.read_parquet(path) if path.endswith(".parquet") else pd.read_csv(path)
        if len(wines.columns) == 1:
            wines = pd.read_csv(path, sep=";")  # as UCI distributes them
    except (OSError, ValueError) as error:
        kind = "Parquet" if path.endswith(".parquet") else "CSV"
        raise unusable(path, f"cannot be read as {kind}: {error}") from error
    if TARGET not in wines or len(wines.columns) < 2:
        raise unusable(path, f"needs a column '{TARGET}' and others; has {', '.join(map(str, wines))}")
    if len(wines) < 10:
        raise unusable(path, f"has {len(wines)} rows; at least 10 are needed")
    # All float64: of whole-number inputs MLflow warns, because later rows may have a value missing.
    numbers: pd.DataFrame = wines.apply(pd.to_numeric, errors="coerce").astype("float64")
    unclean = [name for name in numbers if not np.isfinite(numbers[name]).all()]
    if unclean:
        raise unusable(path, f"has cells that are empty or not numbers in: {', '.join(map(str, unclean))}")
    return numbers


def unusable(path: str, problem: str) -> click.BadParameter:
    """Return the error that ends the command with one line and exit code 2."""
    return click.BadParameter(f"{path!r} {' '.join(problem.split())}", param_hint="--data-path")


def requirements(*packages: str) -> list[str]:
    """Return the installed versions as pip requirements; MLflow's own inference takes far longer.

    >>> requirements("click")[0].startswith("click==")
    True
    """
    return [f"{package}=={version(package)}" for package in packages]


def promote(name: str, number: str) -> None:
    """Make a registered version the champion and, as long as MLflow has stages, the one in Production."""
    from mlflow import MlflowClient

    client = MlflowClient()
    client.set_registered_model_alias(name, "champion", number)
    if hasattr(client, "transition_model_version_stage"):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*transition_model_version_stage", FutureWarning)
            client.transition_model_version_stage(name, number, stage="Production", archive_existing_versions=True)


if __name__ == "__main__":
    main()
