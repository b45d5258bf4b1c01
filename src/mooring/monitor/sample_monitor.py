"""What rows show one by one: performance before there are labels, and whether features go together as they did.

Of each window that has ended some rows are looked at; what lasts is told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from mooring.log import listing, reader
from mooring.monitor.alerting.channels import Channel
from mooring.monitor.alerting.queue import enqueue_rated
from mooring.monitor.alerting.rules import transition
from mooring.monitor.causes import causes_of
from mooring.monitor.estimate_check import estimation_of
from mooring.monitor.estimators import Estimators, Learnt
from mooring.monitor.ingest import Stream
from mooring.monitor.joint_check import joint_drift_of
from mooring.monitor.metrics import Metrics
from mooring.monitor.samples import SampledRows, sample_of
from mooring.monitor.window_incidents import JointRating, Rated, budget_of, write_incidents
from mooring.monitor.windows import span_of
from mooring.settings import MonitorSettings
from mooring.state.baselines import StoredBaselines
from mooring.state.estimations import Estimation, Estimations
from mooring.state.leases import Lease
from mooring.state.repository import Transaction
from mooring.state.state import State
from mooring.state.windows import Window, Windows, final_verdict_id
from mooring.status import ALARMING, STATUSES

AT_ONCE = 50
"""So many windows are estimated with one look, the newest first: what came before waits for the next."""
_STANDING = 100
_OLD = timedelta(days=1)

logger = logging.getLogger(__name__)


class SampleMonitor:
    """Looks at samples of the windows of one model, as `PerformanceMonitor` does at labels once there are any.

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
        self._told = {""}
        self._behind = True

    def look(
        self,
        lease: Lease | None = None,
        *,
        changed: bool = True,
        provisional: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> int:
        """Look at the windows that ended, and return at how many.

        `changed`: whether any has ended since the last time. `provisional`: open windows too. What was written
        stays after a kill; the rest comes with the next look. Raises StoreError where the log can't be read now,
        StateError where the state refuses.
        """
        newest = Windows(self._state).history(self._model, newest=1) if changed or self._behind else []
        if not newest:
            return 0
        self._behind = False
        keep = timedelta(seconds=self._settings.keep + self._settings.grace)
        since = min(newest[0].window.end, datetime.now(UTC)) - keep
        count = 0
        for stream in [
            Stream(one.version, one.variant) for one in Windows(self._state).watched() if one.model == self._model
        ]:
            waiting = self._estimations.waiting(self._model, *stream, since, AT_ONCE, with_open=provisional)
            found = list(self._estimated(waiting, stopping)) if waiting and not stopping() else []
            self._behind = self._behind or len(found) == AT_ONCE or stopping()
            if found:
                self._write(stream, found, lease)
            count += len(found)
        return count

    def _estimated(self, windows: Sequence[Window], stopping: Callable[[], bool]) -> Iterator[Estimation]:
        """Yield what the rows of windows of one stream show; nothing where there are none to compare them with."""
        learnt = self._estimators.of(self._model, windows[0].version)
        if learnt.estimator is None and learnt.why_not not in self._told:
            self._told.add(learnt.why_not)
            level = logging.INFO if learnt.in_registry else logging.DEBUG
            logger.log(level, "performance is not estimated before there are labels: %s", learnt.why_not)
        if learnt.rows is None:
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
                why = "the log no longer has its rows"
                now = datetime.now(UTC)
                yield Estimation(
                    window=window, status="too_few", unknown=why, message=f"can't tell: {why}", created=now
                )
                continue
            found = self._of_window(window, learnt, sample)
            # It takes longer than all else: of windows that are caught up with nobody needs to know.
            if found.status in ALARMING and window is windows[-1] and learnt.rows is not None:
                causes = causes_of(learnt.rows, sample, int(window.id[:8], 16))
                message = f"{found.message}; {causes}" if causes is not None else found.message
                found = msgspec.structs.replace(found, causes=causes, message=message)
            yield found

    def _of_window(self, window: Window, learnt: Learnt, sample: SampledRows) -> Estimation:
        floors = self._settings.floors
        found = Estimation(window=window, status="no_baseline", message=learnt.why_not, created=datetime.now(UTC))
        if learnt.estimator is not None:
            budget = budget_of(self._state, window, "estimated", self._settings)
            found = estimation_of(window, learnt.estimator, sample, budget, floors=floors)
        if learnt.rows is None:
            return found
        budget = budget_of(self._state, window, "joint", self._settings)
        joint = joint_drift_of(window, learnt.rows, sample, budget, floors=floors)
        return msgspec.structs.replace(found, joint=joint)

    def _write(self, stream: Stream, written: Sequence[Estimation], lease: Lease | None) -> None:
        """Write estimations of a stream, what they amount to, and what is worth telling of it, all at once."""
        known = self._estimations.history(
            self._model, version=stream.version, variant=stream.variant, status="closed", newest=_STANDING
        )
        closed = [one for one in written if one.window.status == "closed"]
        after = {one.window.id: one for one in (*known, *closed)}
        newest = sorted(after.values(), key=lambda one: one.window.start)[-_STANDING:]
        with self._state.begin(lease) as tx:
            for one in written:
                Estimations(tx).put(one)
            if closed:
                self._conclude(tx, [one for one in newest if one.status != "no_baseline"])
                self._conclude(tx, [JointRating(one.window, one.joint) for one in newest if one.joint is not None])
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
            if one.joint is not None and one.joint.message:
                logger.info("%s: %s: %s", span_of(one.window), one.joint.status, one.joint.message)

    def _conclude(self, tx: Transaction, rated: Sequence[Rated]) -> None:
        """Write the incidents that windows of a stream amount to, and put in the queue what is worth telling."""
        if not rated:
            return
        before, now = write_incidents(tx, rated, self._settings.weight)
        kind, _ = transition(before, now)
        last = rated[-1]
        verdict_id = final_verdict_id(last.window)
        # Of what is long past nobody is told, as when estimates begin with a state of months.
        news = datetime.now(UTC) - last.window.end < _OLD + timedelta(seconds=self._settings.grace)
        if kind is not None and news and Windows(tx).judged(verdict_id) is not None:
            enqueue_rated(tx, kind, last, verdict_id, self._channels, report=self._settings.report)
