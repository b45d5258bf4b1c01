"""What the monitor tells Prometheus: the newest windows, how far behind it is, and what went wrong."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from mooring.state.assessments import Assessment
from mooring.state.estimations import Estimation
from mooring.state.verdicts import Verdict
from mooring.state.windows import Window
from mooring.status import STATUSES, Severity

if TYPE_CHECKING:
    from prometheus_client import Metric

KEPT = 8
"""How many versions and variants of a model are told of: those with the newest windows."""
_STREAM = ["model", "version", "variant"]


class CantServeMetrics(Exception):
    """The metrics can't be served where that was asked for; the message says why."""


class NewestVerdict(NamedTuple):
    """The newest window of a model, version and variant, and what was concluded of it."""

    window: Window
    verdict: Verdict
    values: list[tuple[str, str, float]]
    evidence: float | None


class NewestAssessment(NamedTuple):
    """How well a model, version and variant did of late, and how bad an open incident has been, ok without one."""

    assessment: Assessment
    incident: Severity


class Metrics:
    """The monitor's metrics, in memory; any thread may call any method.

    `clock` gives the time now; tests have their own.
    """

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._newest: dict[tuple[str, str | None, str], NewestVerdict] = {}
        self._read_until: dict[str, datetime] = {}
        self._errors: Counter[tuple[str, str]] = Counter()
        self._alerts: Counter[tuple[str, str, str]] = Counter()
        self._assessed: dict[tuple[str, str | None, str], NewestAssessment] = {}
        self._estimated: dict[tuple[str, str | None, str], Estimation] = {}
        self._labels: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()

    def verdict(
        self,
        window: Window,
        verdict: Verdict,
        values: Iterable[tuple[str, str, float | None]],
        evidence: float | None = None,
    ) -> None:
        """Tell of a verdict from now on, with feature, measure and value of each result.

        `evidence` is that of the next incident, which 1 opens; None where there is none. One on an older window
        than is told of already is left out. Of a model the versions and variants that were checked last are told
        of; others are dropped.
        """
        numbers = [(feature, measure, value) for feature, measure, value in values if value is not None]
        key = window.model, window.version, window.variant
        with self._lock:
            known = self._newest.get(key)
            if known is not None and known.window.start > window.start:
                return
            self._newest[key] = NewestVerdict(window, verdict, numbers, evidence)
            of_model = [each for each in self._newest if each[0] == window.model]
            of_model.sort(key=lambda each: self._newest[each].window.end, reverse=True)
            for each in of_model[KEPT:]:
                del self._newest[each]

    def assessment(self, assessment: Assessment, incident: Severity = "ok") -> None:
        """Tell of how well a model did from now on, unless a newer window is told of already.

        `incident` is how bad the loss of performance that lasts has been, ok where none does.
        """
        window = assessment.window
        key = window.model, window.version, window.variant
        with self._lock:
            known = self._assessed.get(key)
            if not assessment.measures or (known is not None and known.assessment.window.start > window.start):
                return
            self._assessed[key] = NewestAssessment(assessment, incident)
            of_model = [each for each in self._assessed if each[0] == window.model]
            of_model.sort(key=lambda each: self._assessed[each].assessment.window.end, reverse=True)
            for each in of_model[KEPT:]:
                del self._assessed[each]

    def estimation(self, estimation: Estimation) -> None:
        """Tell of what a model is estimated to do from now on, unless a newer window is told of already."""
        window = estimation.window
        key = window.model, window.version, window.variant
        with self._lock:
            known = self._estimated.get(key)
            if estimation.status == "no_baseline" or (known is not None and known.window.start > window.start):
                return
            self._estimated[key] = estimation
            of_model = [each for each in self._estimated if each[0] == window.model]
            of_model.sort(key=lambda each: self._estimated[each].window.end, reverse=True)
            for each in of_model[KEPT:]:
                del self._estimated[each]

    def labels(self, model: str, labels: int, unknown: int) -> None:
        """Count labels that were read, and requests that they name and the log does not have."""
        with self._lock:
            self._labels[model] += labels
            self._unknown[model] += unknown

    def read(self, model: str, newest: datetime) -> None:
        """Note the time of the newest row of a model that was read."""
        with self._lock:
            self._read_until[model] = max(newest, self._read_until.get(model, newest))

    def error(self, model: str, part: str) -> None:
        """Count something that went wrong; `part` is a word for where: log, baseline, state, tracking."""
        with self._lock:
            self._errors[model, part] += 1

    def alert(self, model: str, kind: str, status: str) -> None:
        """Count an attempt to send an alert; `status` is what it is after that: sent, pending, failed."""
        with self._lock:
            self._alerts[model, kind, status] += 1

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with self._lock:
            newest, read_until = list(self._newest.values()), dict(self._read_until)
            errors, alerts = dict(self._errors), dict(self._alerts)
            assessed, labels, unknown = list(self._assessed.values()), dict(self._labels), dict(self._unknown)
            estimated = list(self._estimated.values())
        drift = GaugeMetricFamily(
            "mooring_drift", "What a measure gives for a feature", labels=[*_STREAM, "feature", "measure"]
        )
        verdict = GaugeMetricFamily("mooring_verdict", "0 ok, 1 warning, 2 critical", labels=_STREAM)
        rows = GaugeMetricFamily("mooring_window_rows", "Rows of the newest window", labels=_STREAM)
        alarms = GaugeMetricFamily("mooring_window_alarms", "Alarms of the newest window", labels=_STREAM)
        end = GaugeMetricFamily("mooring_window_end_seconds", "When the newest window ends", labels=_STREAM)
        evidence = GaugeMetricFamily("mooring_evidence", "Evidence of drift; 1 opens an incident", labels=_STREAM)
        for one in newest:
            stream = [one.window.model, one.window.version or "", one.window.variant]
            for feature, measure, value in one.values:
                drift.add_metric([*stream, feature, measure], value)
            if (rank := STATUSES[one.verdict.status].rank) is not None:
                verdict.add_metric(stream, rank)
            rows.add_metric(stream, one.verdict.rows)
            alarms.add_metric(stream, one.verdict.alarms)
            end.add_metric(stream, one.window.end.timestamp())
            if one.evidence is not None:
                evidence.add_metric(stream, one.evidence)
        yield from (drift, verdict, evidence, rows, alarms, end)
        lag = GaugeMetricFamily(
            "mooring_monitor_lag_seconds", "How long ago the newest row that was read came", labels=["model"]
        )
        for model, until in read_until.items():
            lag.add_metric([model], (self._clock() - until).total_seconds())
        yield lag
        failed = CounterMetricFamily("mooring_monitor_errors", "What went wrong", labels=["model", "part"])
        for (model, part), count in errors.items():
            failed.add_metric([model, part], count)
        yield failed
        told = CounterMetricFamily(
            "mooring_alerts", "Attempts to send alerts, by what came of them", labels=["model", "kind", "status"]
        )
        for (model, kind, status), count in alerts.items():
            told.add_metric([model, kind, status], count)
        yield told
        yield from _of_assessments(assessed)
        yield from _of_estimations(estimated)
        for name, what, counts in (
            ("mooring_labels", "Labels that were read", labels),
            ("mooring_labels_unknown", "Requests that labels name and the log does not have", unknown),
        ):
            counted = CounterMetricFamily(name, what, labels=["model"])
            for model, count in counts.items():
                counted.add_metric([model], count)
            yield counted


def _of_assessments(assessed: Iterable[NewestAssessment]) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    value = GaugeMetricFamily(
        "mooring_performance", "What a measure gives on labelled rows", labels=[*_STREAM, "measure"]
    )
    status = GaugeMetricFamily("mooring_performance_status", "0 ok, 1 warning, 2 critical", labels=_STREAM)
    coverage = GaugeMetricFamily("mooring_label_coverage", "Share of rows that have a label", labels=_STREAM)
    delay = GaugeMetricFamily(
        "mooring_label_delay_seconds", "How long after its row a label came, in the middle", labels=_STREAM
    )
    for one, incident in assessed:
        stream = [one.window.model, one.window.version or "", one.window.variant]
        for measure, found in one.measures.items():
            value.add_metric([*stream, measure], found.value)
        standing = incident if incident != "ok" else one.status
        if (rank := STATUSES[standing].rank) is not None:
            status.add_metric(stream, rank)
        coverage.add_metric(stream, one.coverage)
        if one.delay is not None:
            delay.add_metric(stream, one.delay)
    yield from (value, status, coverage, delay)


def _of_estimations(estimated: Iterable[Estimation]) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    labels = [*_STREAM, "measure"]
    value = GaugeMetricFamily(
        "mooring_estimated_performance", "What a measure is estimated to be without labels", labels=labels
    )
    low = GaugeMetricFamily(
        "mooring_estimated_performance_low", "The lower end of its 90 % interval", labels=labels
    )
    high = GaugeMetricFamily(
        "mooring_estimated_performance_high", "The upper end of its 90 % interval", labels=labels
    )
    status = GaugeMetricFamily("mooring_estimated_status", "0 ok, 1 warning, 2 critical", labels=_STREAM)
    outside = GaugeMetricFamily(
        "mooring_estimated_out_of_support", "Share of rows where held-out rows are too few", labels=_STREAM
    )
    for one in estimated:
        stream = [one.window.model, one.window.version or "", one.window.variant]
        for measure, found in one.measures.items():
            value.add_metric([*stream, measure], found.value)
            low.add_metric([*stream, measure], found.low)
            high.add_metric([*stream, measure], found.high)
        if (rank := STATUSES[one.status].rank) is not None:
            status.add_metric(stream, rank)
        outside.add_metric(stream, one.outside)
    yield from (value, low, high, status, outside)


@contextmanager
def serving(metrics: Metrics, port: int, host: str = "127.0.0.1") -> Iterator[int]:
    """Serve metrics over HTTP meanwhile, and yield the port, a free one for 0. Raises CantServeMetrics."""
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(metrics)
    try:
        server, thread = start_http_server(port, host, registry)
    except (OSError, OverflowError) as error:
        raise CantServeMetrics(f"the monitor's metrics can't be served on {host}:{port}: {error}") from None
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
