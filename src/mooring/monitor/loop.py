"""`mooring monitor`: looks again and again, tells who wants to know, and goes on whatever fails meanwhile."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from mooring.files import replace
from mooring.log import reader
from mooring.log.store import StoreError, is_local
from mooring.monitor import alerts
from mooring.monitor.baselines import Baselines
from mooring.monitor.judging import LONGEST, lengths_of, rules_of
from mooring.monitor.metrics import Metrics, serving
from mooring.monitor.tracking import Tracking
from mooring.monitor.watch import Watch
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
Retrain = Callable[[State, str, Callable[[str], None]], bool]
_STAND_BY_SECONDS = 5.0
_WAIT_SECONDS = 30.0
_SAY_AGAIN_SECONDS = 600.0
_TRACKED_AT_ONCE = 50
_RETRAIN_SECONDS = 2.0


def run(
    settings: MonitorSettings,
    *,
    once: bool = False,
    small: Page | None = None,
    page: Page | None = None,
    retrain: Retrain | None = None,
) -> bool:
    """Watch a model's log until SIGTERM or SIGINT, or once; return whether all that was tried worked.

    Once, the windows that are still open are judged as they are, and what fails is not tried again. A log that has
    nothing yet is said, and is no failure: traffic may be still to come. So is a monitor that runs already.
    `small` makes the report that goes to MLflow, `page` the one that `--report` names. `retrain` takes a model's
    retraining as far as it goes now, and says whether it goes on soon. Raises ValueError for invalid settings,
    StateError where the state can't be opened, CantServe where the metrics can't be, and, once, LogError and
    StoreError.
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
            say(f"metrics on http://{settings.metrics_host}:{port}/metrics")
        watching = _Watching(settings, state, channels, metrics, small, page, retrain)
        return watching.once(stop) if once else watching.until(stop)


def _stop(stop: threading.Event, number: int) -> None:
    stop.set()
    signal.signal(number, signal.SIG_DFL)  # a second one ends it at once; nothing is lost by that either


def _check(settings: MonitorSettings) -> None:
    rules_of(settings)
    lengths_of(settings, settings.grace)
    for name, seconds in (("grace", settings.grace), ("keep", settings.keep), ("settle", settings.settle)):
        if seconds > LONGEST:
            raise ValueError(f"--{name} {seconds:g}s: it takes at most 1000 years")
    n, m = settings.alert_windows.split("/")
    alerts.level([], int(n), int(m))


def channels_of(settings: MonitorSettings) -> list[alerts.Channel]:
    """Return who is told of drift. Raises ValueError for what is no URL or no program."""
    webhooks = [alerts.Webhook(url, settings.alert_secret) for url in settings.alert_webhook]
    return [*webhooks, *(alerts.Command(command) for command in settings.alert_command)]


class _Watching:
    def __init__(
        self,
        settings: MonitorSettings,
        state: State,
        channels: list[alerts.Channel],
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
        self._said: dict[str, float] = {}
        self._baselines = Baselines(StoredBaselines(state), self._complain)

    def once(self, stop: threading.Event) -> bool:
        if why_not := nothing_yet(self._settings.log):
            say(why_not)
            return True
        model = self._model()
        watch = self._watching(model)
        try:
            with self._state.lease(f"monitor/{model}") as lease:
                self._write_report(model, watch.look(lease, provisional=True, stopping=stop.is_set))
                told = self._tell(model, lease)
                tracked = self._track(model, stop)
                if self._retrain is not None:
                    self._retrain(self._state, model, self._complain)
                return tracked and told and not stop.is_set()
        except LeaseHeld:
            other = self._state.holder(f"monitor/{model}")
            where = other.in_words if other is not None else "another process"
            say(f"a monitor of {model} is running already, {where}: it goes on by itself, nothing was done here")
            return True

    def until(self, stop: threading.Event) -> bool:
        say(f"watching {self._settings.model or 'the model'} in {self._settings.log}, state in {self._state.name}")
        waits = False
        while not stop.is_set():
            try:
                if why_not := nothing_yet(self._settings.log):
                    if not waits:
                        say(f"{why_not}: waiting for the first traffic")
                    waits = True
                    stop.wait(min(self._settings.every, _WAIT_SECONDS))
                    continue
                waits = False
                model = self._model()
                every = duration_text(self._settings.every)
                with self._state.lease(f"monitor/{model}", every=every) as lease:
                    watch = self._watching(model)  # anew: another may have worked on the state meanwhile
                    while not stop.is_set():
                        self._write_report(model, watch.look(lease, stopping=stop.is_set))
                        self._tell(model, lease)
                        self._track(model, stop)
                        self._wait(model, stop)
            except LeaseHeld as error:
                self._complain(f"{error}. This one stands by")
                stop.wait(_STAND_BY_SECONDS)
            except (reader.LogError, StoreError, StateError) as error:
                self._metrics.error(
                    self._settings.model or "", "state" if isinstance(error, StateError) else "log"
                )
                self._complain(f"{error}. Nothing is lost; it is tried again")
                stop.wait(min(self._settings.every, 30.0))
        return True

    def _wait(self, model: str, stop: threading.Event) -> None:
        """Wait until it is time to look again, and go on meanwhile with a retraining."""
        end = time.monotonic() + self._settings.every
        while not stop.is_set() and (left := end - time.monotonic()) > 0:
            going_on = self._retrain is not None and self._retrain(self._state, model, self._complain)
            stop.wait(min(left, _RETRAIN_SECONDS) if going_on else left)

    def _watching(self, model: str) -> Watch:
        settings = msgspec.structs.replace(self._settings, model=model)
        return Watch(settings, self._state, self._baselines, self._channels, say, self._metrics)

    def _model(self) -> str:
        if self._settings.model:
            return self._settings.model
        opened = reader.open_log(self._settings.log)
        return reader.only_model(opened, self._settings.log, None)

    def _write_report(self, model: str, judged: int) -> None:
        """Write the report anew where something was judged, whole or not at all."""
        if not judged or self._page is None or self._settings.report is None:
            return
        path = Path(self._settings.report)
        try:
            replace(path, self._page(self._state, model).encode(), private=False)
        except OSError as error:
            self._complain(f"the report {path} can't be written: {error.strerror}")

    def _tell(self, model: str, lease: Lease) -> bool:
        """Send the alerts that are due, and return whether all were taken."""
        told = alerts.deliver(self._state, model, self._channels, lease=lease)
        for alert in told:
            self._metrics.alert(model, alert.kind, alert.status)
            if alert.status != "sent":
                self._complain(f"an alert to {alert.channel} was not sent: {alert.last_error}")
        return all(alert.status == "sent" for alert in told)

    def _track(self, model: str, stop: threading.Event) -> bool:
        """Log verdicts to MLflow that are not there yet; what fails is tried again the next time."""
        while not stop.is_set():
            waiting = Windows(self._state).untracked(model, _TRACKED_AT_ONCE + 1)
            if not waiting:
                return self._track_performance(model, stop)
            for place, (window, verdict) in enumerate(waiting[:_TRACKED_AT_ONCE], 1):
                if verdict is None:
                    continue
                judgement = judgement_of(Verdicts(self._state).results(verdict.id))
                results = judgement.results if judgement else []
                values = [(one.feature, one.measure, one.value) for one in results if one.scale == 1]
                html = self._small(self._state, model) if self._small and place == len(waiting) else None
                try:
                    self._tracking.log_verdict(window, verdict, values, html)
                except TrackingError as error:
                    self._metrics.error(model, "tracking")
                    self._complain(f"{error}. Verdicts wait in the state until then")
                    return False
                with self._state.begin() as tx:
                    Verdicts(tx).mark_tracked([verdict.id])
                if stop.is_set():
                    break
        return False

    def _track_performance(self, model: str, stop: threading.Event) -> bool:
        """Log how well the model did to MLflow, as far as that is not there yet."""
        while not stop.is_set():
            waiting = Assessments(self._state).untracked(model, _TRACKED_AT_ONCE)
            if not waiting:
                return True
            for assessment in waiting:
                try:
                    self._tracking.log_assessment(assessment)
                except TrackingError as error:
                    self._metrics.error(model, "tracking")
                    self._complain(f"{error}. What labels say waits in the state until then")
                    return False
                with self._state.begin() as tx:
                    Assessments(tx).mark_tracked([assessment.id])
        return False

    def _complain(self, text: str) -> None:
        """Say what is wrong, the same thing not again for a while."""
        now = time.monotonic()
        self._said = {old: when for old, when in self._said.items() if now - when < _SAY_AGAIN_SECONDS}
        if self._said.setdefault(re.sub(r"\d+", "", text), now) == now:  # whatever it counts or numbers
            say(text)


def nothing_yet(uri: str) -> str:
    """Return why a log has nothing to watch as long as nothing was logged, '' where it has something.

    Raises LogError for a log of CSV files, which the monitor can't read, and StoreError.
    """
    path = Path(uri.removeprefix("file://")) if is_local(uri) else None
    if path is not None and not path.exists():
        return f"no log at {uri} yet"
    if reader.models(reader.open_log(uri), uri):
        return ""
    if path is not None and any(path.glob("*.csv")):
        raise reader.LogError(
            f"the log {uri} is of CSV files, and the monitor reads Parquet. Have it written elsewhere: "
            "by MLFLOW_MONITORING_FORMAT=parquet in the model, or by --format parquet at the proxy"
        )
    return f"nothing in the log {uri} yet"


def say(text: str) -> None:
    """Print to stderr, if it takes that."""
    with suppress(OSError):
        print(f"mooring monitor: {text}", file=sys.stderr, flush=True)
