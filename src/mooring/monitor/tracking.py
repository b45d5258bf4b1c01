"""What the monitor has to do with MLflow: it finds versions and their baselines there, and logs its verdicts."""

from __future__ import annotations

import hashlib
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mooring.registry.process import BASELINE, DIRECTORY, NO_STORE, has_store
from mooring.state.assessments import Assessment
from mooring.state.verdicts import Verdict
from mooring.state.windows import Window
from mooring.status import ALARMING, STATUSES

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag

REPORT = "report.html"

_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
_METRICS_AT_ONCE = 500  # MLflow takes 1000, and a megabyte
_LONGEST_NAME = 100
_MARK = "mooring.monitor"


class TrackingError(Exception):
    """MLflow does not do what it is asked; the message says why, and what to do. Another time it may."""


class Version(msgspec.Struct, frozen=True):
    """A version of a registered model; `aliases` are those that name it now."""

    version: str
    aliases: tuple[str, ...]
    run_id: str | None
    source: str | None
    created: datetime


class Tracking:
    """MLflow's tracking server and registry, where MLflow itself looks for them: MLFLOW_TRACKING_URI and so on.

    Making one lets MLflow give up on a server that is not there after seconds, rather than minutes, in all of this
    process, unless the environment says otherwise. Nothing is asked yet.
    """

    def __init__(self) -> None:
        self._run_ids: dict[str, str] = {}
        for name, value in _IMPATIENT.items():
            os.environ.setdefault(name, value)

    def champion(self, model: str, alias: str = "champion") -> str | None:
        """Return the version that an alias names, or None. Raises TrackingError."""
        with self._asking(f"tell which version of {model} is {alias}"):
            found = self._unless_missing(lambda: self._client.get_registered_model(model))
            return str(found.aliases[alias]) if found and alias in found.aliases else None

    def versions(self, model: str) -> list[Version]:
        """Return the versions of a registered model, the oldest first. Raises TrackingError."""
        quote = '"' if "'" in model else "'"
        with self._asking(f"tell the versions of {model}"):
            found = list(_paged(self._client.search_model_versions, filter_string=f"name={quote}{model}{quote}"))
            registered = self._unless_missing(lambda: self._client.get_registered_model(model))
        aliases = dict(registered.aliases) if registered else {}
        return [
            Version(
                version=str(one.version),
                aliases=tuple(sorted(name for name, of in aliases.items() if str(of) == str(one.version))),
                run_id=one.run_id or None,
                source=one.source or None,
                created=datetime.fromtimestamp(one.creation_timestamp / 1000, UTC),
            )
            for one in sorted(found, key=lambda one: int(one.version))
        ]

    def find_baseline(self, model: str, version: str) -> bytes | None:
        """Return the baseline that was logged with a version's model, else that of its run, or None.

        Raises TrackingError.
        """
        with self._asking(f"give the baseline of {model} version {version}"):
            found = self._unless_missing(lambda: self._client.get_model_version(model, version))
            if found is None:
                return None
            data = self._artifact(f"models:/{model}/{version}/{DIRECTORY}")
            if data is None and found.run_id:
                data = self._artifact(f"runs:/{found.run_id}/{DIRECTORY}")
            return data

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
        with self._asking(f"take the verdict on {window.model}"):
            try:
                run_id = self._run_id(window.model)
                for start in range(0, len(metrics), _METRICS_AT_ONCE):
                    self._client.log_batch(run_id, metrics[start : start + _METRICS_AT_ONCE], synchronous=True)
                for path in reports:
                    self._client.log_text(run_id, report or "", _of_variant(window, path))
                self._client.log_batch(run_id, tags=tags, synchronous=True)
            except BaseException:
                self._run_ids.pop(window.model, None)  # somebody may have deleted it
                raise
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
        with self._asking(f"take the performance of {window.model}"):
            try:
                run_id = self._run_id(window.model)
                self._client.log_batch(run_id, metrics, tags=tags, synchronous=True)
            except BaseException:
                self._run_ids.pop(window.model, None)  # somebody may have deleted it
                raise
        return run_id

    def _run_id(self, model: str) -> str:
        """Return the model's run, found again or made."""
        if model not in self._run_ids:
            experiment_id = self._experiment_id(f"mooring/{model}")
            found = self._client.search_runs(
                [experiment_id],
                filter_string=f"tags.`{_MARK}` = 'verdicts'",
                max_results=1,
                order_by=["attributes.start_time ASC"],
            )
            tags = {_MARK: "verdicts", "mooring.model": model}
            run = (
                found[0] if found else self._client.create_run(experiment_id, tags=tags, run_name=f"{model} drift")
            )
            if run.info.status == "RUNNING":
                # Between two verdicts nothing runs; to a run that has ended MLflow logs all the same.
                self._client.set_terminated(run.info.run_id)
            self._run_ids[model] = str(run.info.run_id)
        return self._run_ids[model]

    def _experiment_id(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            return str(self._client.create_experiment(name))
        if experiment.lifecycle_stage != "active":
            raise TrackingError(
                f"the experiment {name} of {self.name} was deleted: bring it back with "
                f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`"
            )
        return str(experiment.experiment_id)

    def _artifact(self, directory: str) -> bytes | None:
        """Return the bytes of the baseline in a directory of artifacts, or None."""
        import mlflow

        listed = self._unless_missing(lambda: mlflow.artifacts.list_artifacts(artifact_uri=directory))
        if not any(one.path.rpartition("/")[2] == BASELINE for one in listed or ()):
            return None
        with tempfile.TemporaryDirectory() as local:
            path = mlflow.artifacts.download_artifacts(artifact_uri=f"{directory}/{BASELINE}", dst_path=local)
            return Path(path).read_bytes()

    @cached_property
    def _client(self) -> MlflowClient:
        import mlflow

        if not has_store():
            raise TrackingError(NO_STORE)
        return mlflow.MlflowClient()

    @property
    def name(self) -> str:
        """Where MLflow is, without a password."""
        import mlflow

        return _without_password(mlflow.get_tracking_uri())

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Turn MLflow's errors into TrackingErrors; each store of artifacts has errors of its own."""
        try:
            yield
        except TrackingError:
            raise
        except Exception as error:
            reason = _without_password(str(error).strip().partition("\n")[0])[:300]
            raise TrackingError(
                f"MLflow at {self.name} does not {what}: {reason}; check that it runs, and MLFLOW_TRACKING_URI"
            ) from error

    def _unless_missing(self, ask: Any) -> Any:
        """Return what MLflow answers, or None where it does not have it."""
        from mlflow.exceptions import MlflowException

        try:
            return ask()
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise


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


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)


def _paged(ask: Any, **arguments: Any) -> Iterator[Any]:
    token = None
    while True:
        page = ask(**arguments, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
