"""The monitor's metrics: what a Prometheus that scrapes them gets, and that they stay few."""

from __future__ import annotations

import math
import socket
from datetime import UTC, datetime, timedelta
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mooring.monitor.metrics import KEPT, CantServeMetrics, Metrics, serving
from mooring.state.verdicts import Verdict
from mooring.state.windows import Window
from waiting import PATIENCE

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
LABELS = ("model", "version", "variant", "feature", "measure", "kind", "status", "part")


def judged(hour: int = 0, status: str = "ok", **changed) -> tuple[Window, Verdict]:
    start = NOON + hour * HOUR
    window = Window(**{"model": "wine", "version": "3", "start": start, "end": start + HOUR, **changed})
    return window, Verdict(window_id=window.id, status=status, rows=100 + hour, alarms=2, created=start)


def fetch(url: str) -> str:
    with build_opener(ProxyHandler({})).open(url, timeout=PATIENCE) as answer:
        return answer.read().decode()


def scrape(metrics: Metrics) -> dict[str, dict[tuple[str, ...], float]]:
    """Return what a scrape over HTTP gives: of each name the values by their labels."""
    with serving(metrics, 0) as port:
        text = fetch(f"http://127.0.0.1:{port}/metrics")
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(sample.labels[name] for name in LABELS if name in sample.labels)
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def test_the_newest_window_is_told_feature_by_feature():
    metrics = Metrics()
    metrics.verdict(*judged(0), [("alcohol", "ks", 0.1), ("gone", "ks", 0.1)])
    metrics.verdict(
        *judged(1, "critical"), [("alcohol", "ks", 0.4), ('odd "name"\n', "js", math.inf), ("pH", "ks", None)]
    )
    metrics.verdict(*judged(0, "warning"), [("alcohol", "ks", 0.2)])  # late rows made an older window new
    found = scrape(metrics)
    wine = ("wine", "3", "champion")
    assert found == {
        "mooring_drift": {(*wine, "alcohol", "ks"): 0.4, (*wine, 'odd "name"\n', "js"): math.inf},
        "mooring_verdict": {wine: 2},
        "mooring_window_rows": {wine: 101},
        "mooring_window_alarms": {wine: 2},
        "mooring_window_end_seconds": {wine: (NOON + 2 * HOUR).timestamp()},
    }


def test_a_window_that_could_not_be_judged_has_no_verdict():
    metrics = Metrics()
    metrics.verdict(*judged(0, "critical"), [("alcohol", "ks", 0.1)])
    metrics.verdict(*judged(1, "too_few", version=None), [])
    metrics.verdict(*judged(1, "no_baseline"), [])
    found = scrape(metrics)
    assert "mooring_verdict" not in found
    assert "mooring_drift" not in found
    assert set(found["mooring_window_rows"]) == {("wine", "3", "champion"), ("wine", "", "champion")}


def test_only_the_versions_that_were_judged_last_are_told_of():
    metrics = Metrics()
    metrics.verdict(*judged(0, model="beer"), [])
    for version in range(20):
        metrics.verdict(*judged(version, version=str(version)), [("alcohol", "ks", 0.1)])
    found = scrape(metrics)
    streams = {(model, version) for model, version, _ in found["mooring_window_rows"]}
    assert streams == {("beer", "3"), *(("wine", str(version)) for version in range(20 - KEPT, 20))}
    assert len(found["mooring_drift"]) == KEPT


def test_the_lag_is_the_age_of_the_newest_row_that_was_read():
    metrics = Metrics(clock=lambda: NOON)
    metrics.read("wine", NOON - HOUR)
    metrics.read("wine", NOON - 3 * HOUR)
    metrics.read("beer", NOON - 2 * HOUR)
    assert scrape(metrics) == {"mooring_monitor_lag_seconds": {("wine",): 3600, ("beer",): 7200}}


def test_errors_and_alerts_are_counted():
    metrics = Metrics()
    for part in ("log", "tracking", "log"):
        metrics.error("wine", part)
    metrics.alert("wine", "new", "pending")
    metrics.alert("wine", "new", "sent")
    found = scrape(metrics)
    assert found["mooring_monitor_errors_total"] == {("wine", "log"): 2, ("wine", "tracking"): 1}
    assert found["mooring_alerts_total"] == {("wine", "new", "pending"): 1, ("wine", "new", "sent"): 1}


def test_they_are_served_until_the_end_and_on_loopback_alone():
    with serving(Metrics(), 0) as port:
        fetch(f"http://127.0.0.1:{port}/metrics")
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.2", port), timeout=PATIENCE)
    with pytest.raises(URLError):
        fetch(f"http://127.0.0.1:{port}/metrics")


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(CantServeMetrics, match=rf"can't be served on 127\.0\.0\.1:{port}: "),
            serving(Metrics(), port),
        ):
            pass
