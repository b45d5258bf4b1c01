"""`python -m mooring.retrain.evaluation`: the process that compares two versions; see `records`."""

from __future__ import annotations

import os
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path

from mooring.retrain.evaluation.records import TEMPORARY, EvaluationError

# A model that logs its requests by itself must not take the gate's for traffic.
_UNLOGGED = {"MOORING_SAMPLE": "0", "MLFLOW_MONITORING_FORMAT": "csv"}


def main(arguments: list[str] | None = None) -> int:
    """Evaluate; return the exit code."""
    parser = ArgumentParser(prog="python -m mooring.retrain.evaluation")
    for name in ("model", "candidate", "holdout", "label", "output"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("champion", "digest", "log", "state", "metric"):
        parser.add_argument(f"--{name}", default="")
    for name in ("segment", "protected"):
        parser.add_argument(f"--{name}", action="append", default=[])
    parser.add_argument("--better-by", type=float, default=0.0)
    given = parser.parse_args(arguments)
    sys.path.append(os.getcwd())  # for modules beside which a model was trained; last, so that they shadow nothing
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(_UNLOGGED, MLFLOW_MONITORING_DIR=f"{scratch}/log")
        os.environ.pop("MOORING_SPOOL", None)
        from mooring.retrain.evaluation.process import evaluate_versions  # models and MLflow, told so before

        try:
            evaluate_versions(given, Path(scratch))
        except EvaluationError as error:
            print(error, file=sys.stderr)
            return TEMPORARY if error.temporary else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
