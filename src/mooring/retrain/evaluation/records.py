"""Two versions of a model on the same rows: what the gate decides from.

    python -m mooring.retrain.evaluation --model wine --champion 3 --candidate 4 \\
        --holdout holdout.parquet --label quality --output evaluation.json

That is a process of its own, as it loads the models. It ends with 0 once it knows, also that a candidate can't
predict; with 1 where it can't be known, with the reason on stderr; with 75 where MLflow or the log does not
answer, so that it may be tried again.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from mooring.performance.scored import LabelledRows, Task, scored_of
from mooring.retrain.evaluation.difference import Difference
from mooring.settings import GateSettings

TEMPORARY = 75
"""The exit code for what may be otherwise another time, as sysexits.h has it."""
_PACKAGE = "mooring.retrain.evaluation"


class EvaluationError(Exception):
    """The versions can't be compared; the message says why. `temporary`: another time they may be."""

    def __init__(self, message: str, *, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


class Latency(msgspec.Struct, frozen=True):
    """Seconds that a prediction takes, medians: of one row, and of a batch of `batch_rows`."""

    single: float
    batch: float
    batch_rows: int


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The candidate's predictions of the holdout and of logged traffic, together.

    `missing` is how many are no finite number where the champion's are. `low` and `high` are theirs,
    `label_low` and `label_high` those of all labels; `unknown` are classes that neither a label nor the champion
    has; `failure` is why it can't predict the traffic, which the champion can.
    """

    rows: int
    logged: int
    missing: int
    low: float | None = None
    high: float | None = None
    label_low: float | None = None
    label_high: float | None = None
    unknown: tuple[str, ...] = ()
    failure: str | None = None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of two versions.

    `failure` says why the candidate can't predict the holdout: then nothing more is known of it. `metric` is what
    they are compared by, `measures`, `latency`, `size` (bytes) and `runs` (of MLflow) are by "champion" and
    "candidate". `threshold` is what `mlflow.validate_evaluation_results` has against the candidate. `difference`
    is how far both's predictions of the holdout lie apart, where they can be compared.
    """

    model: str
    champion: str | None
    candidate: str
    created: datetime
    rows: int
    failure: str | None = None
    schema: tuple[str, ...] = ()
    task: Task | None = None
    classes: tuple[str, ...] | None = None
    metric: str | None = None
    measures: dict[str, dict[str, float]] = {}
    threshold: str | None = None
    sample: Sample | None = None
    latency: dict[str, Latency] = {}
    size: dict[str, int] = {}
    runs: dict[str, str] = {}
    difference: Difference | None = None


class Evaluated(NamedTuple):
    """An evaluation, both versions' predictions of the same rows, and by column the segment that each row is of.

    `protected` has by column the protected value of each row. The predictions are there where both versions have
    one for each row.
    """

    found: Evaluation
    champion: LabelledRows | None = None
    candidate: LabelledRows | None = None
    segments: Mapping[str, pa.Array] = {}
    protected: Mapping[str, pa.Array] = {}


def reason_of(error: BaseException) -> str:
    """Return what an error of somebody else's code says, in a line, without the password of a URL.

    >>> reason_of(ValueError("no answer from https://me:secret@mlflow.example"))
    'ValueError: no answer from https://mlflow.example'
    """
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = re.sub(r"//[^/@\s]*@", "//", text)
    return f"{type(error).__name__}: {text}"[:500]


def command(
    settings: GateSettings,
    *,
    model: str,
    champion: str | None,
    candidate: str,
    holdout: Path,
    label: str,
    output: Path,
    digest: str = "",
) -> list[str]:
    """Return the command that evaluates two versions, and writes what `read` reads to `output` and beside it.

    The rows are those of `holdout`, a Parquet, CSV or JSONL file with the column `label`; where it has the column
    `request_id`, rows of one request are taken together; where `digest` is given, a Parquet file with another
    SHA-256 is refused. A sample of traffic and the range of labels are from the settings' log, as far as it has
    them.
    """
    arguments = ["--model", model, "--champion", champion or "", "--candidate", candidate]
    arguments += ["--holdout", str(holdout.absolute()), "--label", label, "--output", str(output.absolute())]
    arguments += ["--digest", digest]
    arguments += ["--log", settings.log, "--state", settings.state, "--metric", settings.gate_metric or ""]
    arguments += ["--better-by", str(settings.gate_better_by)]
    for segment in settings.gate_segment:
        arguments += ["--segment", segment]
    for column in settings.protected:
        arguments += ["--protected", column]
    return [sys.executable, "-P", "-W", "ignore", "-m", _PACKAGE, *arguments]


def run(arguments: list[str], timeout: float = 3600.0) -> None:
    """Run what `command` gave, and wait for it. Raises EvaluationError with what it said where it fails."""
    try:
        ended = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise EvaluationError(f"the models did not answer within {timeout:.0f} seconds") from None
    if ended.returncode:
        lines = ended.stderr.strip().splitlines()
        raise EvaluationError(
            lines[-1] if lines else f"the evaluation ended with code {ended.returncode}, and gave no reason",
            temporary=ended.returncode == TEMPORARY,
        )


def read(path: Path) -> Evaluated:
    """Return the evaluation that was written to `path`. Raises OSError, and msgspec's ValidationError."""
    found = msgspec.json.decode(path.read_bytes(), type=Evaluation)
    if found.failure is not None or found.champion is None:
        return Evaluated(found)
    table = pq.read_table(path.with_suffix(".parquet"))
    groups = table["group"].to_numpy()
    champion, candidate = (
        scored_of(table["label"], table[who], groups, task=found.task, classes=found.classes)
        for who in ("champion", "candidate")
    )
    if champion.rows != candidate.rows:
        return Evaluated(found)
    segments, protected = (
        {
            name.removeprefix(prefix): table[name].combine_chunks()
            for name in table.column_names
            if name.startswith(prefix)
        }
        for prefix in ("segment.", "protected.")
    )
    return Evaluated(found, champion, candidate, segments, protected)
