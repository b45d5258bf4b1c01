"""The verdicts of the monitor in MLflow: metrics, tags and reports in a run of each model."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC
from typing import TYPE_CHECKING

from mooring.registry.client import asking
from mooring.registry.experiments import experiment_id
from mooring.state.assessments import Assessment
from mooring.state.verdicts import Verdict
from mooring.state.windows import Window
from mooring.status import ALARMING, STATUSES

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag

REPORT = "report.html"

_METRICS_AT_ONCE = 500  # MLflow takes 1000, and a megabyte
_LONGEST_NAME = 100
_MARK = "mooring.monitor"


class Tracking:
    """Logs verdicts to MLflow's tracking server. Nothing is asked yet."""

    def __init__(self) -> None:
        self._run_ids: dict[str, str] = {}

    def log_verdict(
        self,
        window: Window,
        verdict: Verdict,
        values: Iterable[tuple[str, str, float | None]],
        report: str | None = None,
    ) -> str:
        """Log a verdict to the model's run in the experiment `mooring/NAME`, and return the run's id.

        Parameters
        ----------
        window, verdict
            The metrics `severity` (0 ok, 1 warning, 2 critical), `alarms` and `rows`, at the window's end and with
            its number as step, and tags.
        values
            Feature, measure and value of what becomes the metric FEATURE/MEASURE. What is no finite number is left
            out.
        report
            HTML, the artifact report.html; of a drift it is kept as drift/TIME.html, too.

        What is not of the champion begins with its variant: canary/FEATURE/MEASURE. Logged again, the same verdict
        changes nothing. Raises TrackingError.

        """
        metrics, tags = _metrics(window, verdict, values), _tags(window, verdict)
        reports = [REPORT] if report is not None else []
        if reports and verdict.status in ALARMING:
            reports.append(f"drift/{window.end.astimezone(UTC):%Y-%m-%dT%H-%M-%SZ}.html")
        with self._logging(window.model, "verdict on") as (client, run_id):
            for start in range(0, len(metrics), _METRICS_AT_ONCE):
                client.log_batch(run_id, metrics[start : start + _METRICS_AT_ONCE], synchronous=True)
            for path in reports:
                client.log_text(run_id, report or "", _of_variant(window, path))
            client.log_batch(run_id, tags=tags, synchronous=True)
        return run_id

    def log_assessment(self, assessment: Assessment) -> str:
        """Log how well a model did in a window to the same run, and return its id.

        The metrics performance/MEASURE, performance/coverage and performance/severity, at the window's end and
        with its number as step, and tags. What is not of the champion begins with its variant.

        Raises TrackingError.
        """
        from mlflow.entities import Metric, RunTag

        window = assessment.window
        numbers = {name: measure.value for name, measure in assessment.measures.items()}
        numbers["coverage"] = assessment.coverage
        if (rank := STATUSES[assessment.status].rank) is not None:
            numbers["severity"] = rank
        at = int(window.end.timestamp() * 1000)
        metrics = [
            Metric(_of_variant(window, f"performance/{name}"), value, at, window.number)
            for name, value in numbers.items()
            if math.isfinite(value)
        ]
        tags = [
            RunTag(f"mooring.{_of_variant(window, name)}", value)
            for name, value in (
                ("performance", assessment.status),
                ("performance_window", window.start.isoformat()),
            )
        ]
        with self._logging(window.model, "performance of") as (client, run_id):
            client.log_batch(run_id, metrics, tags=tags, synchronous=True)
        return run_id

    @contextmanager
    def _logging(self, model: str, what: str) -> Iterator[tuple[MlflowClient, str]]:
        """Give a client and the id of the model's run, which is looked for again after anything went wrong."""
        with asking(f"take the {what} {model}") as client:
            try:
                yield client, self._run_id(client, model)
            except BaseException:
                self._run_ids.pop(model, None)  # somebody may have deleted it
                raise

    def _run_id(self, client: MlflowClient, model: str) -> str:
        """Return the model's run, found again or made."""
        if model not in self._run_ids:
            experiment = experiment_id(client, model)
            found = client.search_runs(
                [experiment],
                filter_string=f"tags.`{_MARK}` = 'verdicts'",
                max_results=1,
                order_by=["attributes.start_time ASC"],
            )
            tags = {_MARK: "verdicts", "mooring.model": model}
            run = found[0] if found else client.create_run(experiment, tags=tags, run_name=f"{model} drift")
            if run.info.status == "RUNNING":
                # Between two verdicts nothing runs; to a run that has ended MLflow logs all the same.
                client.set_terminated(run.info.run_id)
            self._run_ids[model] = str(run.info.run_id)
        return self._run_ids[model]


def _metrics(window: Window, verdict: Verdict, values: Iterable[tuple[str, str, float | None]]) -> list[Metric]:
    from mlflow.entities import Metric

    numbers = [(metric_name(feature, measure), value) for feature, measure, value in values]
    numbers += [("alarms", verdict.alarms), ("rows", verdict.rows), ("severity", STATUSES[verdict.status].rank)]
    at = int(window.end.timestamp() * 1000)
    return [
        Metric(_of_variant(window, name), float(value), at, window.number)
        for name, value in numbers
        if value is not None and math.isfinite(value)
    ]


def _tags(window: Window, verdict: Verdict) -> list[RunTag]:
    from mlflow.entities import RunTag

    tags = {
        "verdict": verdict.id,
        "severity": verdict.status,
        "model_version": window.version or "",
        "window_start": window.start.isoformat(),
        "window_end": window.end.isoformat(),
    }
    return [RunTag(f"mooring.{_of_variant(window, name)}", value) for name, value in tags.items()]


def _of_variant(window: Window, name: str) -> str:
    return name if window.variant == "champion" else f"{window.variant}/{name}"


def metric_name(feature: str, measure: str) -> str:
    """Return the name of a metric that MLflow takes: what it does not is replaced, and told apart by a digest.

    >>> metric_name("alcohol", "ks"), metric_name("residual sugar (g/l)", "js")
    ('alcohol/ks', 'residual sugar _g_l_ 9255620b/js')
    """
    # MLflow takes names for paths, so "..", "." and slashes will not do.
    plain = re.sub(r"[^\w\- .]", "_", feature)
    if plain != feature or not plain.strip(".") or len(plain) > _LONGEST_NAME:
        digest = hashlib.sha256(feature.encode(errors="surrogatepass")).hexdigest()[:8]
        plain = f"{plain[:_LONGEST_NAME]} {digest}"
    return f"{plain}/{measure}"
