"""Metrics of the monitor, each told something."""

from __future__ import annotations

from datetime import UTC, datetime

from mooring.monitor.metrics import Metrics
from mooring.state.assessments import Assessment, Measured
from mooring.state.estimations import EstimatedMeasure, Estimation
from mooring.state.verdicts import Verdict
from mooring.state.windows import Window


def told_metrics() -> Metrics:
    """Return metrics of which each has a series."""
    at = datetime(2026, 3, 1, tzinfo=UTC)
    window = Window(model="m", version="3", start=at, end=at)
    told = Metrics()
    told.verdict(window, Verdict(window_id=window.id, status="ok", created=at), [("x", "ks", 0.1)], 0.2)
    told.read("m", at)
    told.error("m", "log")
    told.alert("m", "new", "sent")
    told.labels("m", 2, 1)
    measured = {"rmse": Measured(0.5)}
    told.assessment(
        Assessment(window=window, status="ok", rows=2, labelled=1, delay=6.0, created=at, measures=measured)
    )
    told.estimation(
        Estimation(
            window=window, status="ok", rows=2, created=at, measures={"rmse": EstimatedMeasure(0.5, 0.4, 0.6)}
        )
    )
    return told
