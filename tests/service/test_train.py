"""The training example, run as its user runs it: a process of its own, in a directory of its own, twice."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from click.testing import CliRunner

from mooring.demo.train import SAMPLE, main

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["sklearn-monitor", "sklearn-monitor-custom"]


def run(directory, *options):
    # The tracking store is set for all runs, and the sources of this tree are those that are imported.
    environment = os.environ | {"MLFLOW_TRACKING_URI": "sqlite:///store.db", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / "custom_model_train.py"), *options]
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, encoding="utf-8", check=False
    )


@dataclass
class Trained:
    directory: Path
    first: subprocess.CompletedProcess
    second: subprocess.CompletedProcess
    client: mlflow.MlflowClient

    def versions(self, name):
        """Return the registered versions, the oldest first."""
        return sorted(self.client.search_model_versions(f"name = '{name}'"), key=lambda found: int(found.version))

    def run_of(self, name, version):
        return self.client.get_run(self.client.get_model_version(name, str(version)).run_id)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Run the script with its defaults, then with other spellings on a file as UCI distributes it."""
    directory = tmp_path_factory.mktemp("train")
    pd.read_csv(SAMPLE).head(500).to_csv(directory / "semicolons.csv", sep=";", index=False)
    first = run(directory)
    second = run(
        directory,
        *("--experiment_name", "wine", "--data_path", "semicolons.csv"),
        *("--max_depth", "3", "--max-leaf-nodes", "5"),
    )
    uri = f"sqlite:///{(directory / 'store.db').as_posix()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)
        yield Trained(directory, first, second, mlflow.MlflowClient(uri))
        mlflow.set_tracking_uri(None)


def test_both_runs_succeed_and_are_quiet(trained):
    for process in (trained.first, trained.second):
        assert process.returncode == 0, process.stderr
        for noise in ("Traceback", "FutureWarning", "INFO", "alembic", "cloudpickle", "pip requirements"):
            assert noise not in process.stderr


def test_output_ends_with_the_next_commands(trained):
    output = trained.second.stdout
    assert "rmse" in output
    for name in NAMES:
        assert f"{name} version 2 is champion and in Production\n" in output
    assert "in sqlite:///store.db\n" in output
    assert output.endswith(
        "mlflow models serve --env-manager local --port 5002 --model-uri models:/sklearn-monitor/production\n"
        "python proxy_server.py --port 5001 "
        "--mlflow-model-server-uri http://localhost:5002/invocations --log_dir out\n"
    )


def test_nothing_is_written_elsewhere(trained):
    assert {path.name for path in trained.directory.iterdir()} == {"semicolons.csv", "store.db", "mlruns"}


@pytest.mark.parametrize("name", NAMES)
def test_second_run_moves_alias_and_stage(trained, name):
    assert [(found.version, found.current_stage) for found in trained.versions(name)] == [
        (1, "Archived"),
        (2, "Production"),
    ]
    assert trained.client.get_model_version_by_alias(name, "champion").version == 2


def test_both_models_are_of_one_run(trained):
    assert trained.run_of(NAMES[0], 1).info.run_id == trained.run_of(NAMES[1], 1).info.run_id


@pytest.mark.parametrize(
    ("version", "params", "data_path", "experiment"),
    [
        (1, {"max_depth": "6", "max_leaf_nodes": "32"}, str(SAMPLE), "Default"),
        (2, {"max_depth": "3", "max_leaf_nodes": "5"}, "semicolons.csv", "wine"),
    ],
)
def test_run(trained, version, params, data_path, experiment):
    logged = trained.run_of(NAMES[0], version)
    assert params.items() <= logged.data.params.items()
    assert logged.data.tags["data_path"] == data_path
    assert logged.data.tags["mlflow_version"] == mlflow.__version__
    assert trained.client.get_experiment(logged.info.experiment_id).name == experiment
    assert logged.info.status == "FINISHED"


def test_metrics(trained):
    metrics = trained.run_of(NAMES[0], 1).data.metrics
    assert set(metrics) == {"rmse", "r2", "mae"}
    assert metrics["r2"] > 0.2
    assert 0 < metrics["mae"] < metrics["rmse"] < 0.8


@pytest.mark.parametrize("name", NAMES)
def test_signature_and_input_example(trained, name):
    model = mlflow.models.Model.load(f"models:/{name}@champion")
    columns = list(pd.read_csv(SAMPLE).columns.drop("quality"))
    assert model.signature.inputs.input_names() == columns
    assert {column.type.name for column in model.signature.inputs.inputs} == {"double"}
    assert model.signature.outputs is not None
    example = model.load_input_example()
    assert list(example) == columns
    assert len(example) == 2


def test_lower_case_stage_resolves_and_predicts(trained):
    model = mlflow.pyfunc.load_model("models:/sklearn-monitor/production")
    wines = pd.read_csv(trained.directory / "semicolons.csv", sep=";").drop(columns="quality")
    predictions = model.predict(wines.astype("float64"))
    assert len(set(predictions)) == 5  # as many as --max-leaf-nodes
    assert 3 <= min(predictions) < max(predictions) <= 9


def test_missing_file_ends_without_a_traceback(tmp_path):
    process = run(tmp_path, "--data-path", "no-such-file.csv")
    assert process.returncode == 2
    assert "no-such-file.csv" in process.stderr.splitlines()[-1]
    assert "Traceback" not in process.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as CSV: No columns to parse from file"),
        (b"\x89PNG\r\n\x1a\n", "cannot be read as CSV: "),
        (b"pH,quality\n1,2\n1,2,3\n", "cannot be read as CSV: "),
        (b"pH,alcohol\n" + 20 * b"3,9\n", "needs a column 'quality' and others; has pH, alcohol"),
        (b"quality\n" + 20 * b"6\n", "needs a column 'quality' and others; has quality"),
        (b"pH,quality\n" + 9 * b"3,6\n", "has 9 rows; at least 10 are needed"),
        (b"pH,alcohol,quality\n" + 20 * b"3,low,6\n", "has cells that are empty or not numbers in: alcohol"),
        (b"pH,quality\n,6\n3,inf\n" + 20 * b"3,6\n", "has cells that are empty or not numbers in: pH, quality"),
    ],
)
def test_unusable_data_is_said_in_one_line(tmp_path, content, message):
    path = tmp_path / "wines.csv"
    path.write_bytes(content)
    result = CliRunner().invoke(main, ["--data-path", str(path)])
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]
    assert result.stderr.splitlines()[-1].startswith("Error: Invalid value for --data-path: ")


@pytest.mark.parametrize(
    "options", [["--max-depth", "0"], ["--max_leaf_nodes", "1"], ["--max-depth", "deep"], ["x"]]
)
def test_wrong_options_are_refused(options):
    assert CliRunner().invoke(main, options).exit_code == 2


def test_help_names_every_option():
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for option in ("--experiment-name", "--data-path", "--max-depth", "--max-leaf-nodes"):
        assert option in result.output
