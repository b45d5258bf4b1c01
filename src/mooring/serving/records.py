"""What the controller keeps in the state: the lease, rollouts, what is served. It has a thread of its own."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from mooring.monitor.alerting import queue
from mooring.monitor.alerting.channels import Channel
from mooring.retrain.evaluation.difference import Difference
from mooring.serving import models, registry_watch
from mooring.serving.start import REPEATED, Start
from mooring.state.database import StateError
from mooring.state.leases import Lease, LeaseHeld, LeaseLost
from mooring.state.retrainings import TicketError, Tickets
from mooring.state.rollouts import EventName, Rollout, Rollouts, Served
from mooring.state.state import State

logger = logging.getLogger(__name__)

LEASE_SECONDS = 15.0
_AGAIN_SECONDS = 1.0
Value = TypeVar("Value")


class Lead(NamedTuple):
    """Whether this supervisor rolls out, and the rollout that is under way: another's, or one to be taken up."""

    has: bool
    rollout: Rollout | None = None
    holdout: Difference | None = None


class Records:
    """The state as the controller uses it; each method may take long.

    What has to be written waits until the state takes it, in its order: traffic goes on meanwhile. All raise
    LeaseLost where another supervisor rolls out by now.
    """

    def __init__(self, start: Start, channels: Sequence[Channel]) -> None:
        self._start = start
        self._channels = channels
        self.state: State | None = None
        self.lease: Lease | None = None
        self._host = socket.gethostname()

    def open(self) -> str | None:
        """Open the state, and return the version that was served here last. Raises StateError."""
        if self.state is None:
            self.state = State(self._start.settings.state)
        found = Rollouts(self.state).serving(self._start.model, self._host)
        return next((one.version for one in found if one.follows == self._start.follows), None)

    def lead(self) -> Lead:
        """Take the lease where nobody else has it, or make sure of it. Raises StateError."""
        assert self.state is not None
        if self.lease is not None:
            self.lease.renew()
            return Lead(True)
        lease = self.state.lease(f"serve/{self._start.model}", LEASE_SECONDS)
        lease.me = self._start.holder or lease.me
        try:
            lease.__enter__()
        except LeaseHeld:
            return Lead(False, Rollouts(self.state).unended(self._start.model))
        self.lease = lease
        rollout = Rollouts(self.state).unended(self._start.model)
        return Lead(True, rollout, self._holdout(rollout) if rollout is not None else None)

    def lose(self) -> None:
        """Have the lease no longer."""
        lease, self.lease = self.lease, None
        if lease is not None:
            with suppress(StateError):
                lease.__exit__(None, None, None)

    def begin(self, rollout: Rollout) -> tuple[Rollout, Difference | None] | None:
        """Write that a rollout begins; return it with its number, and what the gate saw of the two versions.

        One that was champion before has proven itself: whoever goes back to it can't wait for a plan. None where
        the retraining that it is of has not written down that it passed the gate.
        """
        if (name := rollout.ticket_id) is not None:
            ticket = next(iter(self._surely(lambda: self._tickets.known([name]))), None)
            if ticket is None:  # it is of another state
                rollout = msgspec.structs.replace(rollout, ticket_id=None)
            elif ticket.is_undecided:
                if ticket.status != "gating":  # where it is about to be written down that it passed
                    logger.warning(
                        "version %s is not rolled out: its retraining %s has not passed the gate (%s)",
                        *(rollout.version, ticket.number, ticket.in_words),
                        extra=REPEATED,
                    )
                return None
        if rollout.cause == "moved":
            past = self._surely(lambda: self._rollouts.newest(rollout.model))
            proven = {one.previous for one in past} | {one.version for one in past if one.status == "promoted"}
            if rollout.version in proven:
                rollout = msgspec.structs.replace(rollout, plan=())
        begun = self._surely(lambda: self._rollouts.open(rollout))
        return begun, self._surely(lambda: self._holdout(begun))

    def move(self, before: Rollout, after: Rollout, what: EventName, detail: dict[str, Any], who: str) -> None:
        """Write what has happened to a rollout, whom to tell of it, and what it means for its ticket."""
        self._surely(lambda: self._rollouts.move(before, after, what, detail, who=who))
        if after.status == "rolling_back":
            self._surely(lambda: self._enqueue_alert(after))
        if after.status == "superseded":
            with suppress(TicketError):  # it is what somebody else has made of it
                self._surely(lambda: registry_watch.end_ticket(self._tickets, after, "cancelled", "superseded"))

    def keep(self, rollout: Rollout) -> Rollout:
        """Write a rollout's clock and evidence, and return it with what somebody asks of it. Raises StateError."""
        return self._rollouts.keep(rollout)

    def taken(self, rollout: Rollout) -> None:
        """Note that what somebody has asked for is seen to."""
        self._surely(lambda: self._rollouts.taken(rollout))

    def serving(self, version: str, held_back: str) -> None:
        """Write which version is served here, and why what the alias names is not."""
        start, now = self._start, datetime.now(UTC)
        served = Served(
            model=start.model,
            host=self._host,
            follows=start.follows,
            version=version,
            since=now,
            held_back=held_back,
        )
        self._surely(lambda: Rollouts(self._opened).put_serving(served))

    def forget(self, keep: set[str]) -> None:
        """Remove the files of other versions that nobody on this host serves. Raises BringError, StateError."""
        served = {one.version for one in Rollouts(self._opened).serving(self._start.model, self._host)}
        under_way = Rollouts(self._opened).unended(self._start.model)
        served |= {under_way.version, under_way.previous or ""} if under_way is not None else set()
        models.forget(self._start.model, keep | served, Path(self._start.settings.serve_directory))

    def send_alerts(self) -> None:
        """Send the alerts about rollouts that are due; to be done in a thread of its own. Raises StateError."""
        for alert in queue.deliver(self._opened, self._start.model, self._channels, rollouts=True):
            if alert.status != "sent":
                logger.warning("an alert to %s was not sent: %s", alert.channel, alert.last_error, extra=REPEATED)

    @property
    def _opened(self) -> State:
        assert self.state is not None
        return self.state

    @property
    def _rollouts(self) -> Rollouts:
        return Rollouts(self._opened, self.lease)

    @property
    def _tickets(self) -> Tickets:
        return Tickets(self._opened, self.lease)

    def _surely(self, work: Callable[[], Value]) -> Value:
        """Do it as often as it takes."""
        while True:
            try:
                return work()
            except (LeaseLost, LeaseHeld):
                raise
            except StateError as error:
                logger.warning("%s. Requests are answered meanwhile; it is tried again", error, extra=REPEATED)
                time.sleep(_AGAIN_SECONDS)

    def _enqueue_alert(self, rollout: Rollout) -> None:
        told = rollout.id, rollout.model, rollout.version, rollout.previous, rollout.number, rollout.reason
        with self._opened.begin(self.lease) as tx:
            queue.enqueue_rollback(tx, *told, self._channels)

    def _holdout(self, rollout: Rollout) -> Difference | None:
        """Return how far the two versions lay apart for the gate, where it was these two that it compared."""
        steps = self._tickets.steps(rollout.ticket_id) if rollout.ticket_id is not None else []
        gate = next((step.detail for step in steps if step.what == "gate"), {})
        found = gate.get("difference")
        if found is None or gate.get("champion") != rollout.previous or gate.get("candidate") != rollout.version:
            return None
        return msgspec.convert(found, Difference)
