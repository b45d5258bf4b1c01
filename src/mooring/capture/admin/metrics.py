"""What a proxy tells Prometheus; docs/operate.md says what each metric means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mooring.capture.proxy.stats import BUCKETS, Stats
from mooring.exchange import Ledger

if TYPE_CHECKING:
    from prometheus_client import Metric


def metrics(stats: Stats, ledger: Ledger, spool_bytes: int, labels: int = 0) -> Iterator[Metric]:
    """Yield the metrics of all that a proxy has counted."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for name, text, value in (
        ("seen", "Scoring requests parsed", ledger.seen),
        ("stored", "Exchanges in the spool or beyond it", ledger.stored),
        ("sampled_out", "Exchanges that the sample left out", ledger.sampled_out),
        ("failed", "Exchanges that got no prediction", ledger.failed),
    ):
        yield CounterMetricFamily(f"mooring_exchanges_{name}", text, value=value)
    dropped = CounterMetricFamily("mooring_exchanges_dropped", "Exchanges lost, by reason", labels=["reason"])
    for reason, count in ledger.dropped.items():
        dropped.add_metric([reason], count)
    yield dropped
    errors = CounterMetricFamily("mooring_exchanges_errors", "Exchanges with an error code", labels=["code"])
    for code, count in ledger.errors.items():
        errors.add_metric([code], count)
    yield errors
    yield GaugeMetricFamily("mooring_exchanges_in_flight", "Exchanges not yet answered", value=ledger.in_flight)
    yield CounterMetricFamily("mooring_requests_passed", "Requests for other paths", value=ledger.passed)
    text = "Requests refused without a valid key"
    yield CounterMetricFamily("mooring_requests_unauthorized", text, value=stats.unauthorized)
    yield CounterMetricFamily("mooring_labels_taken", "Labels taken by POST /labels since the start", value=labels)
    answers = CounterMetricFamily("mooring_answers", "Answers to scoring requests, by status", labels=["status"])
    for status, count in sorted(stats.statuses.items()):
        answers.add_metric([str(status)], count)
    yield answers
    of_version = CounterMetricFamily(
        "mooring_answers_by_version",
        "Answers to scoring requests, by version of the model, variant and status",
        labels=["version", "variant", "status"],
    )
    for key, count in sorted(stats.answers.items()):
        variant, code, version = key.split(" ", 2)
        of_version.add_metric([version, variant, code], count)
    yield of_version
    copies = CounterMetricFamily("mooring_shadow_copies", "Copies of requests for the shadow", labels=["what"])
    for what, count in ledger.shadow.items():
        copies.add_metric([what], count)
    yield copies
    yield GaugeMetricFamily("mooring_requests_waiting", "Requests that wait for a server", value=stats.waiting)
    yield _durations(stats)
    yield GaugeMetricFamily("mooring_connections_clients", "Open connections of clients", value=stats.clients)
    yield GaugeMetricFamily(
        "mooring_connections_upstreams", "Open connections to the server", value=stats.upstreams
    )
    yield GaugeMetricFamily("mooring_spool_bytes", "Bytes that wait in the spool", value=spool_bytes)
    yield GaugeMetricFamily("mooring_workers", "Proxy processes", value=stats.workers)
    yield GaugeMetricFamily("mooring_ready", "Whether every worker can store exchanges", value=stats.ready)


def _durations(stats: Stats) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    seen, buckets = 0, []
    for bound, count in zip([*BUCKETS, "+Inf"], stats.durations, strict=True):
        seen += count
        buckets.append((str(bound), seen))
    text = "How long scoring requests took, from the request's head to the answer's end"
    return HistogramMetricFamily("mooring_answer_duration_seconds", text, buckets, stats.duration_ns / 1e9)
