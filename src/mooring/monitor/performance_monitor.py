"""Performance: labels are joined to the log's rows as they come, and the windows that they are of assessed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from mooring.log import labels as label_log
from mooring.log import listing, reader
from mooring.monitor.alerting.channels import Channel
from mooring.monitor.alerting.queue import enqueue_rated
from mooring.monitor.alerting.rules import transition
from mooring.monitor.baselines import Baselines
from mooring.monitor.ingest import Stream
from mooring.monitor.joining import LabelSource, LoggedRows
from mooring.monitor.labelled_windows import LabelledWindows, labelled_windows
from mooring.monitor.metrics import Metrics
from mooring.monitor.new_objects import log_key
from mooring.monitor.performance_check import assess, unlabelled
from mooring.monitor.window_incidents import budget_of, write_incidents
from mooring.monitor.windows import span_of
from mooring.settings import MonitorSettings
from mooring.state.assessments import Assessment, Assessments
from mooring.state.leases import Lease
from mooring.state.objects import DoneObject, Objects
from mooring.state.repository import Transaction
from mooring.state.state import State
from mooring.state.windows import Window, Windows, final_verdict_id
from mooring.status import STATUSES, Severity

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_BATCH_ROWS = 500_000
_AT_ONCE = 200
_DAY = timedelta(days=1)
_STANDING = 100

logger = logging.getLogger(__name__)


class PerformanceMonitor:
    """Assesses the windows of one model, as `DriftMonitor` checks them.

    Parameters
    ----------
    model
        The model's name in the log.
    settings
        Of `mooring monitor`.
    state
        What was read and concluded before.
    baselines
        Where a version's baseline is found.
    channels
        Who is told of a model that does worse.
    metrics
        Counts for Prometheus.
    """

    def __init__(
        self,
        model: str,
        settings: MonitorSettings,
        state: State,
        baselines: Baselines,
        channels: Sequence[Channel],
        metrics: Metrics,
    ) -> None:
        self._model = model
        self._settings = settings
        self._state = state
        self._windows = Windows(state)
        self._assessments = Assessments(state)
        self._baselines = baselines
        self._channels = channels
        self._metrics = metrics
        self._key = log_key(settings.log) + "#labels"

    def look(
        self,
        opened: ObjectStore,
        lease: Lease | None = None,
        *,
        provisional: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> int:
        """Assess the windows that new labels are of, and those that ended; return how many were.

        `provisional`: open windows too. Labels are done with when all their windows are written, so after a kill
        the next call assesses again those that were not; an assessment that is there already comes out the same.
        Raises StoreError where the log can't be read now, StateError where the state refuses.
        """
        uri = self._settings.log
        newest = self._windows.history(self._model, newest=1)
        if not newest:
            return 0
        keep = timedelta(seconds=self._settings.keep + self._settings.grace)
        since = min(newest[0].window.end, datetime.now(UTC)) - keep
        # A label may be known by its day alone, which began before its row came.
        listed = label_log.list_label_objects(opened, uri, self._model, since - _DAY)
        if not listed:
            return 0
        seen = Objects(self._state).seen(self._model, self._key, [one.path for one in listed])
        new = [one for one in listed if one.path not in seen]
        labelled = labelled_windows(self._windows, opened, uri, self._model, new, since)
        self._note(labelled, since)
        waiting = [
            *self._assessments.unassessed(self._model, since, with_open=provisional),
            *self._with_a_baseline_now(since),
        ]
        chosen = {one.id: one for one in (*waiting, *labelled.windows) if provisional or one.status == "closed"}
        labels = LabelSource(uri, self._model, since - _DAY, listed, self._settings.protected)
        written: list[Assessment] = []
        if not seen:
            # These are the first labels: windows that they are not of have none, and need not be read.
            without = chosen.keys() - {one.id for one in labelled.windows}
            written = [unlabelled(chosen.pop(name)) for name in without]
        assessed = 0
        for batch in _batches(sorted(chosen.values(), key=lambda one: one.start)):
            if stopping():
                return assessed
            for one in self._assess(batch, labels):
                written.append(one)
                if len(written) >= _AT_ONCE or stopping():
                    assessed += self._write(written, (), lease)
                    written = []
                if stopping():
                    return assessed
        return assessed + self._write(written, labelled.done, lease)

    def _note(self, labelled: LabelledWindows, since: datetime) -> None:
        """Log and count labels whose requests the log does not have."""
        if not labelled.requests:
            return
        if labelled.unknown:
            logger.warning(
                "%d of %d requests that labels name are not in the log since %s: their rows are not captured yet, "
                "were sampled out, or the ids are others",
                labelled.unknown,
                labelled.requests,
                f"{since:%Y-%m-%d}",
            )
        self._metrics.labels(self._model, sum(one.rows for one in labelled.done), labelled.unknown)

    def _with_a_baseline_now(self, since: datetime) -> list[Window]:
        """Return the newest windows that were measured without a baseline, and that have one by now."""
        found = []
        for one in self._assessments.history(self._model, start=since, newest=_STANDING):
            if one.status == "no_baseline" and not one.before:
                baseline = self._baselines.of(self._model, one.window.version).baseline
                if baseline is not None and baseline.performance is not None:
                    found.append(one.window)
        return found

    def _assess(self, batch: Sequence[Window], labels: LabelSource) -> Iterator[Assessment]:
        """Yield the assessments of windows, whose rows are read together."""
        first, last = min(one.start for one in batch), max(one.end for one in batch)
        found = reader.find(self._settings.log, model=self._model, start=first, end=last)
        rows = LoggedRows.read(found, self._settings.segment, self._settings.protected)
        listing.log_skipped(found.skipped)
        labelled = labels.of(rows)
        for window in batch:
            baseline = self._baselines.of(self._model, window.version).baseline
            known = self._assessments.history(
                self._model,
                version=window.version,
                variant=window.variant,
                start=window.start,
                end=window.start + timedelta(microseconds=1),
                newest=1,
            )
            chosen = rows.of(window)
            yield assess(
                window,
                chosen,
                labelled.of(chosen),
                rows,
                baseline,
                known[0] if known else None,
                self._settings,
                budget_of(self._state, window, "performance", self._settings),
            )

    def _write(self, written: Sequence[Assessment], done: Iterable[DoneObject], lease: Lease | None) -> int:
        """Write assessments, what they amount to, what is worth telling of it, and which labels are done with.

        All at once.
        """
        streams = dict.fromkeys(map(_stream, written))
        known = {
            stream: self._assessments.history(
                self._model, version=stream.version, variant=stream.variant, status="closed", newest=_STANDING
            )
            for stream in streams
        }
        with self._state.begin(lease) as tx:
            for one in written:
                Assessments(tx).put(one)
            standing = {
                stream: self._conclude(tx, known[stream], [one for one in written if _stream(one) == stream])
                for stream in streams
            }
            Objects(tx).mark_done(self._model, self._key, done)
        for one in written:
            self._metrics.assessment(one, standing[_stream(one)])
            if one.labelled:
                logger.info(
                    "%s, %d of %d rows labelled: performance %s: %s",
                    span_of(one.window),
                    one.labelled,
                    one.rows,
                    STATUSES[one.status].labelled,
                    one.message,
                )
        return len(written)

    def _conclude(self, tx: Transaction, known: Sequence[Assessment], new: Sequence[Assessment]) -> Severity:
        """Write the incidents that a stream's new assessments lead to, and put the alert in the queue.

        Returns how bad what is open has been, ok where nothing is. The alert tells what stands now, not what has
        stood in between.
        """
        closed = [one for one in new if one.window.status == "closed"]
        after = {one.window.id: one for one in (*known, *closed)}
        assessed = sorted(after.values(), key=lambda one: one.window.start)[-_STANDING:]
        labelled = [one for one in assessed if one.labelled]
        if not labelled or not any(one.labelled for one in new):
            return "ok"
        before, now = write_incidents(tx, labelled, self._settings.weight)
        kind, _ = transition(before, now)
        about = [one for one in labelled if one in closed and one.look]
        if kind is not None and about:
            verdict_id = final_verdict_id(about[-1].window)
            if self._windows.judged(verdict_id) is not None:
                report = self._settings.report
                enqueue_rated(tx, kind, about[-1], verdict_id, self._channels, report=report)
        return now


def _stream(one: Assessment) -> Stream:
    return Stream(one.window.version, one.window.variant)


def _batches(windows: Sequence[Window]) -> Iterator[list[Window]]:
    """Yield windows that are read together: near each other, and not too many rows."""
    batch: list[Window] = []
    rows = 0
    for window in windows:
        far = bool(batch) and window.start - batch[-1].end > timedelta(days=1)
        if batch and (far or rows + window.rows > _BATCH_ROWS):
            yield batch
            batch, rows = [], 0
        batch.append(window)
        rows += window.rows
    if batch:
        yield batch
