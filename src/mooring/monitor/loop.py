"""`mooring monitor`: looks again and again, tells who wants to know, and goes on whatever fails meanwhile."""

from __future__ import annotations

import logging
import re
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from mooring.files import replace
from mooring.log import listing
from mooring.log.store import StoreError, is_local
from mooring.monitor.alerting.channels import Channel, channels_of
from mooring.monitor.alerting.queue import deliver
from mooring.monitor.baselines import Baselines
from mooring.monitor.drift_check import WindowCheck
from mooring.monitor.drift_monitor import DriftMonitor
from mooring.monitor.metrics import Metrics, serving
from mooring.monitor.performance_monitor import PerformanceMonitor
from mooring.monitor.sample_monitor import SampleMonitor
from mooring.monitor.thresholds import rules_of
from mooring.monitor.tracking import Tracking
from mooring.monitor.windows import LONGEST, lengths_of
from mooring.registry.client import TrackingError
from mooring.settings import MonitorSettings, duration_text
from mooring.state.assessments import Assessments
from mooring.state.baselines import StoredBaselines
from mooring.state.database import StateError
from mooring.state.judgements import judgement_of
from mooring.state.leases import Lease, LeaseHeld
from mooring.state.state import State
from mooring.state.verdicts import Verdicts
from mooring.state.windows import Windows

Page = Callable[[State, str], str]
Retrain = Callable[[State, str], bool]
_STAND_BY_SECONDS = 5.0
_WAIT_SECONDS = 30.0
_SAY_AGAIN_SECONDS = 600.0
_TRACKED_AT_ONCE = 50
_RETRAIN_SECONDS = 2.0

logger = logging.getLogger(__name__)


def run(
    settings: MonitorSettings,
    *,
    once: bool = False,
    small: Page | None = None,
    page: Page | None = None,
    retrain: Retrain | None = None,
) -> bool:
    """Watch a model's log until SIGTERM or SIGINT, or once; return whether all that was tried worked.

    Once, the windows that are still open are checked as they are, and what fails is not tried again. A log that
    has nothing yet is no failure, as traffic may be still to come; nor is a monitor that runs already.
    `small` makes the report that goes to MLflow, `page` the one that `--report` names. `retrain` takes a model's
    retraining as far as it goes now, and says whether it goes on soon. Raises ValueError for invalid settings,
    StateError where the state can't be opened, CantServeMetrics where the metrics can't be served, and, once,
    LogError and StoreError.
    """
    _check(settings)
    channels = channels_of(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: _stop(stop, number))
    metrics = Metrics()
    with ExitStack() as stack:
        state = stack.enter_context(State(settings.state))
        if settings.metrics_port >= 0 and not once:
            port = stack.enter_context(serving(metrics, settings.metrics_port, settings.metrics_host))
            logger.info("metrics on http://%s:%d/metrics", settings.metrics_host, port)
        loop = _Loop(settings, state, channels, metrics, small, page, retrain)
        return loop.once(stop) if once else loop.until(stop)


def _stop(stop: threading.Event, number: int) -> None:
    stop.set()
    signal.signal(number, signal.SIG_DFL)  # a second one ends it at once; nothing is lost by that either


def _check(settings: MonitorSettings) -> None:
    rules_of(settings)
    lengths_of(settings, settings.grace)
    times = {"grace": settings.grace, "keep": settings.keep, "settle": settings.settle}
    times["false-alarms"] = settings.false_alarm_seconds
    for name, seconds in times.items():
        if seconds > LONGEST:
            raise ValueError(f"--{name} {seconds:g}s: it takes at most 1000 years")


class ModelMonitor:
    """Watches one model's log for drift, and how well the model does, as long as nobody else does.

    Parameters
    ----------
    settings
        Of `mooring monitor`, with the model's name.
    state
        What was read and concluded before.
    baselines
        Where a version's baseline is found.
    channels
        Who is told of drift, and of a model that does worse.
    metrics
        Counts for Prometheus.

    Raises ValueError for invalid settings.
    """

    def __init__(
        self,
        settings: MonitorSettings,
        state: State,
        baselines: Baselines,
        channels: Sequence[Channel],
        metrics: Metrics,
    ) -> None:
        self._model = settings.model or ""
        self._settings = settings
        self._state = state
        self.drift = DriftMonitor(self._model, settings, state, baselines, channels, metrics)
        self.performance = PerformanceMonitor(self._model, settings, state, baselines, channels, metrics)
        self.samples = SampleMonitor(self._model, settings, state, channels, metrics)

    def look(
        self,
        lease: Lease | None = None,
        *,
        provisional: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> int:
        """Read what is new and check what ended; return how many windows were checked, assessed or estimated.

        `provisional`: the open windows are checked too, as they are now. Raises LogError where there is no log,
        StoreError where it can't be read now, StateError where the state refuses.
        """
        opened = listing.open_log(self._settings.log)
        listing.only_model(opened, self._settings.log, self._model)
        checked = self.drift.look(opened, lease, provisional=provisional, stopping=stopping)
        if not stopping():
            checked += self.performance.look(opened, lease, provisional=provisional, stopping=stopping)
        if not stopping() and self._settings.estimates:
            checked += self.samples.look(
                lease, changed=checked > 0 or provisional, provisional=provisional, stopping=stopping
            )
        if checked:
            [newest] = Windows(self._state).history(self._model, newest=1)
            keep = timedelta(seconds=self._settings.keep + self._settings.grace)
            with self._state.begin(lease) as tx:
                Windows(tx).prune(self._model, min(newest.window.end, datetime.now(UTC)) - keep)
        return checked


class _Loop:
    def __init__(
        self,
        settings: MonitorSettings,
        state: State,
        channels: list[Channel],
        metrics: Metrics,
        small: Page | None,
        page: Page | None,
        retrain: Retrain | None,
    ) -> None:
        self._settings = settings
        self._state = state
        self._channels = channels
        self._small = small
        self._page = page
        self._retrain = retrain
        self._metrics = metrics
        self._tracking = Tracking()
        self._baselines = Baselines(StoredBaselines(state))

    def once(self, stop: threading.Event) -> bool:
        if why_not := nothing_yet(self._settings.log):
            logger.info("%s", why_not)
            return True
        model = self._model()
        monitor = self._monitor(model)
        try:
            with self._state.lease(f"monitor/{model}") as lease:
                self._write_report(model, monitor.look(lease, provisional=True, stopping=stop.is_set))
                sent = self._send_alerts(model, lease)
                tracked = self._track(model, stop)
                if self._retrain is not None:
                    self._retrain(self._state, model)
                return tracked and sent and not stop.is_set()
        except LeaseHeld:
            other = self._state.holder(f"monitor/{model}")
            where = other.in_words if other is not None else "another process"
            logger.info(
                "a monitor of %s is running already, %s: it goes on by itself, nothing was done here", model, where
            )
            return True

    def until(self, stop: threading.Event) -> bool:
        logger.info(
            "watching %s in %s, state in %s",
            self._settings.model or "the model",
            self._settings.log,
            self._state.name,
        )
        waits = False
        while not stop.is_set():
            try:
                if why_not := nothing_yet(self._settings.log):
                    if not waits:
                        logger.info("%s: waiting for the first traffic", why_not)
                    waits = True
                    stop.wait(min(self._settings.every, _WAIT_SECONDS))
                    continue
                waits = False
                model = self._model()
                every = duration_text(self._settings.every)
                with self._state.lease(f"monitor/{model}", every=every) as lease:
                    monitor = self._monitor(model)  # anew: another may have worked on the state meanwhile
                    while not stop.is_set():
                        self._write_report(model, monitor.look(lease, stopping=stop.is_set))
                        self._send_alerts(model, lease)
                        self._track(model, stop)
                        self._wait(model, stop)
            except LeaseHeld as error:
                logger.warning("%s. This one stands by", error, extra=_seldom(error))
                stop.wait(_STAND_BY_SECONDS)
            except (listing.LogError, StoreError, StateError) as error:
                self._metrics.error(
                    self._settings.model or "", "state" if isinstance(error, StateError) else "log"
                )
                logger.warning("%s. Nothing is lost; it is tried again", error, extra=_seldom(error))
                stop.wait(min(self._settings.every, 30.0))
        return True

    def _wait(self, model: str, stop: threading.Event) -> None:
        """Wait until it is time to look again, and go on meanwhile with a retraining."""
        end = time.monotonic() + self._settings.every
        while not stop.is_set() and (left := end - time.monotonic()) > 0:
            going_on = self._retrain is not None and self._retrain(self._state, model)
            stop.wait(min(left, _RETRAIN_SECONDS) if going_on else left)

    def _monitor(self, model: str) -> ModelMonitor:
        settings = msgspec.structs.replace(self._settings, model=model)
        return ModelMonitor(settings, self._state, self._baselines, self._channels, self._metrics)

    def _model(self) -> str:
        if self._settings.model:
            return self._settings.model
        opened = listing.open_log(self._settings.log)
        return listing.only_model(opened, self._settings.log, None)

    def _write_report(self, model: str, checked: int) -> None:
        """Write the report anew where something was checked, whole or not at all."""
        if not checked or self._page is None or self._settings.report is None:
            return
        path = Path(self._settings.report)
        try:
            replace(path, self._page(self._state, model).encode(), private=False)
        except OSError as error:
            logger.warning("the report %s can't be written: %s", path, error.strerror, extra=_seldom())

    def _send_alerts(self, model: str, lease: Lease) -> bool:
        """Send the alerts that are due, and return whether all were taken."""
        tried = deliver(self._state, model, self._channels, lease=lease)
        for alert in tried:
            self._metrics.alert(model, alert.kind, alert.status)
            if alert.status != "sent":
                logger.warning(
                    "an alert to %s was not sent: %s",
                    alert.channel,
                    alert.last_error,
                    extra=_seldom(alert.channel, alert.last_error),
                )
        return all(alert.status == "sent" for alert in tried)

    def _track(self, model: str, stop: threading.Event) -> bool:
        """Log to MLflow what is not there yet; what fails is tried again the next time."""
        try:
            return self._track_verdicts(model, stop) and self._track_assessments(model, stop)
        except TrackingError as error:
            self._metrics.error(model, "tracking")
            logger.warning("%s. Verdicts wait in the state until then", error, extra=_seldom(error))
            return False

    def _track_verdicts(self, model: str, stop: threading.Event) -> bool:
        verdicts = Verdicts(self._state)
        while not stop.is_set():
            waiting = Windows(self._state).untracked(model, _TRACKED_AT_ONCE + 1)
            if not waiting:
                return True
            for place, (window, verdict) in enumerate(waiting[:_TRACKED_AT_ONCE], 1):
                if stop.is_set():
                    return False
                if verdict is None:
                    continue
                check = WindowCheck(verdict, judgement_of(verdicts.results(verdict.id)))
                html = self._small(self._state, model) if self._small and place == len(waiting) else None
                self._tracking.log_verdict(window, verdict, check.values, html)
                verdicts.mark_tracked([verdict.id])
        return False

    def _track_assessments(self, model: str, stop: threading.Event) -> bool:
        assessments = Assessments(self._state)
        while not stop.is_set():
            waiting = assessments.untracked(model, _TRACKED_AT_ONCE)
            if not waiting:
                return True
            for one in waiting:
                self._tracking.log_assessment(one)
                assessments.mark_tracked([one.id])
        return False


def _seldom(*about: object) -> dict[str, Any]:
    """Return what has a warning shown again only after a while, whatever it counts or numbers."""
    return {"every": _SAY_AGAIN_SECONDS, "about": tuple(re.sub(r"\d+", "", str(one)) for one in about)}


def nothing_yet(uri: str) -> str:
    """Return why a log has nothing to watch as long as nothing was logged, '' where it has something.

    Raises LogError for a log of CSV files, which the monitor can't read, and StoreError.
    """
    path = Path(uri.removeprefix("file://")) if is_local(uri) else None
    if path is not None and not path.exists():
        return f"no log at {uri} yet"
    if listing.models(listing.open_log(uri), uri):
        return ""
    if path is not None and any(path.glob("*.csv")):
        raise listing.LogError(
            f"the log {uri} is of CSV files, and the monitor reads Parquet. Have it written elsewhere: "
            "by MLFLOW_MONITORING_FORMAT=parquet in the model, or by --format parquet at the proxy"
        )
    return f"nothing in the log {uri} yet"
