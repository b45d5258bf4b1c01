"""Performance before there are labels: windows are estimated as they end, and losses that last are told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from mooring.log import listing, reader
from mooring.monitor.alerting.channels import Channel
from mooring.monitor.alerting.queue import enqueue_performance
from mooring.monitor.alerting.rules import transition
from mooring.monitor.estimate_check import estimation_of
from mooring.monitor.estimators import Estimators
from mooring.monitor.ingest import Stream
from mooring.monitor.metrics import Metrics
from mooring.monitor.performance_incidents import budget_of, write_incidents
from mooring.monitor.samples import sample_of
from mooring.monitor.windows import span_of
from mooring.settings import MonitorSettings
from mooring.state.baselines import StoredBaselines
from mooring.state.estimations import Estimation, Estimations
from mooring.state.leases import Lease
from mooring.state.state import State
from mooring.state.windows import Window, Windows, final_verdict_id
from mooring.status import STATUSES

AT_ONCE = 50
"""So many windows are estimated with one look, the newest first: what came before waits for the next."""
_STANDING = 100
_OLD = timedelta(days=1)

logger = logging.getLogger(__name__)


class EstimateMonitor:
    """Estimates the windows of one model, as `PerformanceMonitor` measures them once there are labels.

    Parameters
    ----------
    model
        The model's name in the log.
    settings
        Of `mooring monitor`.
    state
        What was concluded before.
    channels
        Who is told of a model that does worse.
    metrics
        Values for Prometheus.
    """

    def __init__(
        self, model: str, settings: MonitorSettings, state: State, channels: Sequence[Channel], metrics: Metrics
    ) -> None:
        self._model = model
        self._settings = settings
        self._state = state
        self._estimations = Estimations(state)
        self._channels = channels
        self._metrics = metrics
        self._estimators = Estimators(StoredBaselines(state))

    def look(
        self,
        lease: Lease | None = None,
        *,
        provisional: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> int:
        """Estimate the windows that ended, and return how many were.

        `provisional`: open windows too. What was written goes on standing after a kill; the rest comes with the
        next look. Raises StoreError where the log can't be read now, StateError where the state refuses.
        """
        newest = Windows(self._state).history(self._model, newest=1)
        if not newest:
            return 0
        keep = timedelta(seconds=self._settings.keep + self._settings.grace)
        since = min(newest[0].window.end, datetime.now(UTC)) - keep
        count = 0
        for stream in [
            Stream(one.version, one.variant) for one in Windows(self._state).watched() if one.model == self._model
        ]:
            waiting = self._estimations.waiting(self._model, *stream, since, AT_ONCE, with_open=provisional)
            found = list(self._estimated(waiting, stopping)) if waiting and not stopping() else []
            if found:
                self._write(stream, found, lease)
            count += len(found)
        return count

    def _estimated(self, windows: Sequence[Window], stopping: Callable[[], bool]) -> Iterator[Estimation]:
        """Yield what is estimated of windows of one stream; nothing where nothing is learnt of its version."""
        learnt = self._estimators.of(self._model, windows[0].version)
        if learnt.estimator is None:
            if learnt.why_not:
                how = {"every": listing.AGAIN_SECONDS, "about": learnt.why_not}
                logger.info("performance is not estimated before there are labels: %s", learnt.why_not, extra=how)
            return
        first, last = min(one.start for one in windows), max(one.end for one in windows)
        log = reader.find(self._settings.log, model=self._model, start=first, end=last)
        listing.log_skipped(log.skipped)
        for window in windows:
            if stopping():
                return
            try:
                sample = sample_of(log, window)
            except LookupError:
                continue  # the log has forgotten it
            budget = budget_of(self._state, window, "estimated", self._settings)
            yield estimation_of(window, learnt.estimator, sample, budget, floors=self._settings.floors)

    def _write(self, stream: Stream, written: Sequence[Estimation], lease: Lease | None) -> None:
        """Write estimations of a stream, what they amount to, and what is worth telling of it, all at once."""
        known = self._estimations.history(
            self._model, version=stream.version, variant=stream.variant, status="closed", newest=_STANDING
        )
        closed = [one for one in written if one.window.status == "closed"]
        after = {one.window.id: one for one in (*known, *closed)}
        estimated = sorted(after.values(), key=lambda one: one.window.start)[-_STANDING:]
        with self._state.begin(lease) as tx:
            for one in written:
                Estimations(tx).put(one)
            if closed:
                before, now = write_incidents(tx, estimated, self._settings.weight)
                kind, _ = transition(before, now)
                verdict_id = final_verdict_id(closed[-1].window)
                # Of what is long past nobody is told, as when estimates begin with a state of months.
                news = datetime.now(UTC) - closed[-1].window.end < _OLD + timedelta(seconds=self._settings.grace)
                if kind is not None and news and Windows(tx).judged(verdict_id) is not None:
                    report = self._settings.report
                    enqueue_performance(tx, kind, closed[-1], verdict_id, self._channels, report=report)
        for one in written:
            self._metrics.estimation(one)
            if one.measures:
                logger.info(
                    "%s, %d rows without labels: performance %s: %s",
                    span_of(one.window),
                    one.rows,
                    STATUSES[one.status].labelled,
                    one.message,
                )
