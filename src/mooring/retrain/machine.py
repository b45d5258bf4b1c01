"""A retraining, step by step: its data, its job, its gate, its promotion.

Each step can be done again: what it does outside the state leaves a mark by which it is known to be done, and the
state moves on only afterwards. So whoever is killed in the middle goes on, and nothing is done twice.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from mooring import child_environment
from mooring.drift.baseline import Baseline
from mooring.drift.stored import FormatError
from mooring.files import clear
from mooring.log.listing import LogError
from mooring.log.store import StoreError
from mooring.promotion import begun, promote
from mooring.registry import aliases, versions
from mooring.registry.client import PermanentError, TrackingError
from mooring.retrain import gate, trigger
from mooring.retrain.dataset import gather
from mooring.retrain.evaluation import records
from mooring.retrain.job import jobs, webhook
from mooring.settings import RetrainSettings
from mooring.state.baselines import StoredBaselines
from mooring.state.leases import LeaseHeld
from mooring.state.promotions import Promotion
from mooring.state.retrainings import ENDED, Ticket, TicketError, Tickets
from mooring.state.state import State
from mooring.state.windows import Windows

logger = logging.getLogger(__name__)
TRAINING = "training.parquet"
RESULT = "gate.json"
ROLLS_OUT = "the supervisor rolls it out"
_AGAIN = timedelta(minutes=1)
_SAY_AGAIN_SECONDS = 600.0
_GIVE_UP = timedelta(days=1)
_NO_SUPERVISOR = timedelta(minutes=10)


class Retraining:
    """Retrains one model, as its verdicts call for it.

    Parameters
    ----------
    settings
        Of `mooring retrain`; its log and state are those of the monitor.
    state
        Where verdicts and tickets are.
    model
        Its name.

    Raises ValueError for invalid settings.
    """

    def __init__(self, settings: RetrainSettings, state: State, model: str) -> None:
        jobs.check(settings)
        self._settings = settings
        self._state = state
        self._model = model

    def go_on(self, *, opens: bool = True) -> bool:
        """Open a ticket where one is called for, do what can be done now, and return whether more is to come soon.

        Without `opens` only what is under way goes on. Nothing here waits for long: training and gate are
        processes of their own. Where another process is at it, nothing is done. Raises StateError where the state
        refuses.
        """
        try:
            with self._state.lease(f"retrain/{self._model}") as lease:
                tickets = Tickets(self._state, lease)
                self._end_cancelled(tickets)
                ticket = tickets.unended(self._model) or (self._opened(tickets) if opens else None)
                return ticket is not None and self._advanced(tickets, ticket).status in ("training", "gating")
        except LeaseHeld:
            return False
        except TicketError as error:  # somebody cancelled it, say: the next look sees it as it is
            logger.info("%s", error)
            return True

    def _end_cancelled(self, tickets: Tickets) -> None:
        """End the jobs of a retraining that somebody has cancelled from another host."""
        newest = next(iter(tickets.newest(self._model, 1)), None)
        if newest is None or newest.status != "cancelled" or not newest.attempt:
            return
        try:
            places = (attempt_directory(newest), gate_directory(newest))
            if newest.is_undecided or any(isinstance(jobs.look(place), jobs.Running) for place in places):
                end_jobs(tickets, newest)
        except (OSError, TrackingError) as error:
            logger.warning(
                "retraining %d is cancelled, and its job can't be ended: %s",
                newest.number,
                error,
                extra=_seldom(newest, error),
            )

    def _opened(self, tickets: Tickets) -> Ticket | None:
        answer = trigger.ask(self._state, self._model, self._settings, datetime.now(UTC))
        if answer.cause is None:
            return None
        try:
            champion = champion_of(self._state, self._model)
        except TrackingError as error:
            logger.warning(
                "%s. %s is to be retrained (%s); it is tried again",
                error,
                self._model,
                answer.reason,
                extra=_seldom(None, error),
            )
            return None
        manual = self._settings.retrain_approval == "manual"
        ticket = tickets.open(
            self._model,
            answer.cause,
            answer.reason,
            champion=champion,
            directory=self._settings.retrain_directory,
            status="approval" if manual else "dataset",
        )
        if ticket.status in ENDED:
            return None  # this verdict has had its retraining
        logger.info("retraining %d of %s: %s", ticket.number, self._model, answer.reason)
        if manual:
            logger.info("it waits to be approved: mooring retrain approve %d", ticket.number)
        return ticket

    def _advanced(self, tickets: Tickets, ticket: Ticket) -> Ticket:
        """Take a ticket as far as it goes now, and return it as it is then."""
        steps = {
            "dataset": self._gather,
            "training": self._train,
            "gating": self._gate,
            "challenger": self._hand_over,
            "promoting": self._promote,
        }
        while ticket.status in steps:
            try:
                after = steps[ticket.status](tickets, ticket)
            except (TrackingError, StoreError, LogError, OSError) as error:
                logger.warning(
                    "%s. Retraining %d waits for it", error, ticket.number, extra=_seldom(ticket, error)
                )
                return tickets.say(ticket, f"{error}")
            if after is None:
                return ticket
            if after.message and after.status != ticket.status:
                logger.info("retraining %d: %s: %s", after.number, after.status, after.message)
            ticket = after
        return ticket

    # The steps: each returns the ticket as it is then, or None where it has to wait

    def _gather(self, tickets: Tickets, ticket: Ticket) -> Ticket | None:
        try:
            manifest = data_of(
                self._settings,
                self._state,
                self._model,
                ticket.champion,
                Path(ticket.directory),
                ticket.id,
                ticket.cause.windows,
            )
        except gather.NotEnough as error:
            if ticket.message != f"{error}":
                logger.info("retraining %d waits for labels: %s", ticket.number, error)
            tickets.say(ticket, f"{error}")
            return None
        except (LogError, StoreError):
            raise  # another time there may be more
        except (ValueError, OSError) as error:
            return self._fail(tickets, ticket, f"the training data can't be written: {error}")
        told = {
            "training_rows": manifest.rows,
            "original_rows": manifest.original_rows,
            "holdout_rows": manifest.holdout_rows,
            "digest": manifest.digest,
            "holdout_digest": manifest.holdout_digest,
            "label": manifest.label,
            "training": manifest.training,
        }
        return tickets.move(
            ticket, "training", "dataset", told, attempt=1, message=f"{manifest.rows} rows to train on"
        )

    def _train(self, tickets: Tickets, ticket: Ticket) -> Ticket | None:
        directory = attempt_directory(ticket)
        found = jobs.look(directory)
        if found is None:
            if gather.read(Path(ticket.directory)) is None:
                return self._fail(
                    tickets,
                    ticket,
                    f"its training data are not in {ticket.directory}: were they deleted? Where monitors of "
                    "several hosts share a state, they have to share --retrain-directory",
                )
            self._start(tickets, ticket, directory)
            return None
        if isinstance(found, jobs.Running):
            if aliases.champion(self._model) not in (None, ticket.champion):
                self._put_back(ticket, versions_of(tickets, ticket))
            return None
        self._put_back(ticket, versions_of(tickets, ticket))
        if isinstance(found, jobs.Lost):
            return self._again(tickets, ticket, "training was killed, or its machine went down")
        if found.stopped:
            return self._again(tickets, ticket, "training was stopped")
        if found.timed_out:
            return self._again(tickets, ticket, f"training took longer than {self._settings.retrain_timeout:g} s")
        if found.code != 0:
            return self._again(tickets, ticket, f"training ended with code {found.code}")
        tagged = bool(self._settings.retrain_webhook)
        trained = versions.candidates(self._model, ticket.id, ticket.created, tagged=tagged)
        if not trained:
            return self._again(tickets, ticket, "training ended well, but registered no new version")
        version = trained[-1]
        self._put_back(ticket, [version])
        run_id = versions.get(self._model, version).run_id
        clear(gate_directory(ticket))  # which nobody but the job can have made by now
        detail = {
            "version": version,
            "run": run_id,
            "attempt": ticket.attempt,
            "seconds": round(found.seconds, 1),
        }
        return tickets.move(
            ticket,
            "gating",
            "trained",
            detail,
            candidate=version,
            run_id=run_id,
            message=f"version {version} is trained",
        )

    def _start(self, tickets: Tickets, ticket: Ticket, directory: Path) -> None:
        data = Path(ticket.directory, "training", TRAINING).resolve()
        env = {
            "MOORING_TRAINING_DATA": str(data),
            "MOORING_TICKET": ticket.id,
            "MOORING_MODEL": self._model,
            "MOORING_ATTEMPT": f"{ticket.attempt}",
        }
        if self._settings.retrain_webhook:
            argv = [sys.executable, "-P", "-m", "mooring.retrain.job.webhook"]
            env |= {webhook.URL: self._settings.retrain_webhook, webhook.OPENED: ticket.created.isoformat()}
            env |= {webhook.SECRET: self._settings.retrain_secret} if self._settings.retrain_secret else {}
            env = {**os.environ, **env}  # it is Mooring's own program
        else:
            named = self._settings.retrain_environment
            env = child_environment.handed_on(os.environ, child_environment.JOB, named) | env
            argv = jobs.argv_of(
                self._settings,
                data=data,
                ticket=ticket.id,
                model=self._model,
                version=ticket.champion,
                directory=directory.resolve(),
            )
        self._begin(tickets, ticket, directory, argv, env)
        if tickets.say(ticket, f"attempt {ticket.attempt} of training runs") is not ticket:
            logger.info("retraining %d: training runs; mooring retrain show %d", ticket.number, ticket.number)

    def _begin(
        self, tickets: Tickets, ticket: Ticket, directory: Path, argv: list[str], env: dict[str, str]
    ) -> None:
        """Begin a job, and end it at once where the ticket was cancelled right before: who did found no job."""
        jobs.start(directory, argv, env=env, timeout=self._settings.retrain_timeout)
        if tickets.named(None, ticket.id).ended is not None:
            jobs.stop(directory)
            raise TicketError(f"retraining {ticket.number} was ended meanwhile")

    def _again(self, tickets: Tickets, ticket: Ticket, why: str) -> Ticket:
        """Begin another attempt, unless there were enough."""
        detail = {"attempt": ticket.attempt, "why": why}
        if ticket.attempt >= self._settings.retrain_attempts:
            return self._fail(tickets, ticket, why, detail)
        again = tickets.move(ticket, "training", "attempt failed", detail, attempt=ticket.attempt + 1)
        logger.warning("retraining %d: %s; attempt %d begins", ticket.number, why, again.attempt)
        return again

    def _fail(self, tickets: Tickets, ticket: Ticket, why: str, detail: dict[str, object] | None = None) -> Ticket:
        if ticket.candidate is not None:
            self._put_back(ticket, [ticket.candidate])  # a job elsewhere may promote late
        return tickets.move(ticket, "failed", "failed", {**(detail or {}), "why": why}, message=why)

    def _put_back(self, ticket: Ticket, made: Sequence[str]) -> None:
        take_back(Tickets(self._state), ticket, made)

    def _gate(self, tickets: Tickets, ticket: Ticket) -> Ticket | None:
        directory = gate_directory(ticket)
        found = jobs.look(directory)
        assert ticket.candidate is not None
        if found is None:
            # The state tells what was gathered: in the ticket's directory the job may have written what it likes.
            gathered = next((one.detail for one in tickets.steps(ticket.id) if one.what == "dataset"), {})
            if not gathered.get("holdout_digest"):
                return self._fail(
                    tickets,
                    ticket,
                    "its data were gathered by an earlier Mooring, which did not note the holdout's digest: begin "
                    "anew with mooring retrain --now",
                )
            try:
                holdout = gather.open_holdout(Path(ticket.directory), gathered["holdout_digest"])
            except gather.Changed as error:
                return self._fail(tickets, ticket, f"{error}; the job must not touch it")
            argv = records.command(
                self._settings,
                model=self._model,
                champion=ticket.champion,
                candidate=ticket.candidate,
                holdout=holdout,
                label=gathered["label"],
                output=directory / RESULT,
                digest=gathered["holdout_digest"],
            )
            environment = child_environment.without_own(os.environ) | {"MOORING_TICKET": ticket.id}
            self._begin(tickets, ticket, directory, argv, environment)
            tickets.say(ticket, f"version {ticket.candidate} is compared with {ticket.champion or 'none'}")
            return None
        if isinstance(found, jobs.Running):
            return None
        if isinstance(found, jobs.Lost) or found.code == records.TEMPORARY:
            return self._gate_again(tickets, ticket, directory, found)
        if found.timed_out or found.code != 0:
            why = (
                "that took too long"
                if found.timed_out
                else "".join(jobs.last_lines(directory, 1)) or f"code {found.code}"
            )
            return self._fail(
                tickets, ticket, f"the versions could not be compared: {why}; see {directory / jobs.OUTPUT}"
            )
        try:
            verdict = gate.decide(records.read(directory / RESULT), self._settings)
        except (msgspec.MsgspecError, FileNotFoundError) as error:
            return self._fail(tickets, ticket, f"what the versions' comparison found can't be read: {error}")
        try:
            return self._decided(tickets, ticket, verdict)
        except versions.Missing as error:
            return self._fail(tickets, ticket, f"{error}: was it deleted?")

    def _gate_again(
        self, tickets: Tickets, ticket: Ticket, directory: Path, found: jobs.Lost | jobs.Ended
    ) -> Ticket | None:
        """Compare again what was killed, or where MLflow or the log did not answer: nothing was changed by it."""
        why = "it was killed"
        if isinstance(found, jobs.Ended):
            why = "".join(jobs.last_lines(directory, 1)) or "MLflow or the log does not answer"
        trained = [step.at for step in tickets.steps(ticket.id) if step.what == "trained"]
        if trained and datetime.now(UTC) - trained[-1] > _GIVE_UP:
            return self._fail(tickets, ticket, f"the versions could not be compared for a day: {why}")
        if tickets.say(ticket, f"the versions are compared again: {why}") is not ticket:
            logger.warning(
                "retraining %d: version %s can't be compared yet: %s", ticket.number, ticket.candidate, why
            )
        if isinstance(found, jobs.Lost) or datetime.now(UTC) - found.ended > _AGAIN:
            shutil.rmtree(directory)
        return None

    def _decided(self, tickets: Tickets, ticket: Ticket, verdict: gate.GateVerdict) -> Ticket:
        """Do as the gate says."""
        assert ticket.candidate is not None
        told = msgspec.to_builtins(verdict)
        tags = {versions.TICKET: ticket.id, "mooring.verdict": ticket.cause.verdict or ticket.cause.kind}
        if not verdict.passed:
            self._put_back(ticket, [ticket.candidate])  # a job elsewhere may promote late
            aliases.refuse(self._model, ticket.candidate, verdict.reasons, tags)
            return tickets.move(
                ticket, "refused", "gate", told, message=f"version {ticket.candidate}: {verdict.in_words}"
            )
        aliases.set_challenger(self._model, ticket.candidate, tags)
        if self._state.holder(f"serve/{self._model}") is not None:
            return tickets.move(ticket, "challenger", "gate", told, message=ROLLS_OUT)
        promotion = self._promotion(ticket, verdict.in_words)
        return tickets.move(ticket, "promoting", "gate", told, promotion=promotion, message=promotion.reason)

    def _hand_over(self, tickets: Tickets, ticket: Ticket) -> Ticket | None:
        """Wait for the supervisor, which ends the ticket; do without one that has been gone for long."""
        if self._state.holder(f"serve/{self._model}") is not None:
            tickets.say(ticket, ROLLS_OUT)
            return None
        if tickets.is_rolled_out(self._model):
            tickets.say(ticket, "its rollout is under way, and waits for the supervisor")
            return None
        gone = "no supervisor runs that would roll it out; without one it is promoted in ten minutes"
        if ticket.message != gone:
            tickets.say(ticket, gone)
            return None
        if datetime.now(UTC) - ticket.updated < _NO_SUPERVISOR:
            return None
        promotion = self._promotion(ticket, "passed the gate; no supervisor was there to roll it out")
        why = {"why": "no supervisor"}
        return tickets.move(ticket, "promoting", "handed back", why, promotion=promotion, message=promotion.reason)

    def _promotion(self, ticket: Ticket, reason: str) -> Promotion:
        assert ticket.candidate is not None
        return begun(
            self._model, ticket.candidate, ticket.champion, reason=reason, name=ticket.id, ticket_id=ticket.id
        )

    def _promote(self, tickets: Tickets, ticket: Ticket) -> Ticket | None:
        promotion = next(one for one in tickets.promotions.newest(self._model) if one.ticket_id == ticket.id)
        try:
            promote(tickets.promotions, promotion, tags={versions.TICKET: ticket.id})
        except PermanentError as error:
            return tickets.move(ticket, "failed", "not promoted", {"why": f"{error}"}, message=f"{error}")
        detail = {"version": ticket.candidate, "previous": ticket.champion}
        message = f"version {ticket.candidate} is the champion; a server that runs already must be restarted"
        return tickets.move(ticket, "promoted", "promoted", detail, message=message)


def end_jobs(tickets: Tickets, ticket: Ticket) -> None:
    """End the jobs of a ticket on this host, and take back what they made of their versions.

    Raises OSError where a job can't be ended, TrackingError where MLflow does not answer.
    """
    for directory in (attempt_directory(ticket), gate_directory(ticket)):
        jobs.stop(directory)
    take_back(tickets, ticket, versions_of(tickets, ticket))


def versions_of(tickets: Tickets, ticket: Ticket) -> list[str]:
    """Return the versions that are tagged with a ticket, and those made meanwhile that name a wrong one.

    Nobody but its job has reason to say of a version that it came of a retraining that can't have made it. Raises
    TrackingError.
    """
    model = ticket.model
    wrong = [
        claim.version
        for claim in versions.claims(model, ticket.created)
        if ticket.id in claim.tickets
        or not all(one.may_have_made(model, claim.version, claim.made) for one in tickets.known(claim.tickets))
    ]
    return [*dict.fromkeys([*versions.candidates(model, ticket.id, ticket.created, tagged=True), *wrong])]


def take_back(tickets: Tickets, ticket: Ticket, made: Sequence[str]) -> None:
    """Take from versions what training gave them by itself: the aliases champion and challenger, a passed gate.

    They have proven nothing yet. Raises TrackingError.
    """
    model = ticket.model
    if not made:
        return
    for version in aliases.disown(model, made):
        logger.warning(
            "training said by itself that version %s of %s has passed the gate; that is taken back", version, model
        )
    champion = aliases.champion(model)
    if ticket.champion is None or champion in (None, ticket.champion) or champion not in made:
        return
    if any(one.version == champion for one in tickets.promotions.newest(model)):
        return  # a person wanted it so
    try:
        aliases.put_back(model, ticket.champion, expected=champion)
    except aliases.Moved as error:
        logger.warning("%s", error)
        return
    logger.warning(
        "training made version %s of %s the champion by itself; that is taken back until the gate has seen it: "
        "let the command register only",
        champion,
        model,
    )


def champion_of(state: State, model: str) -> str | None:
    """Return the incumbent: the version with the alias champion, else the one that answered last."""
    champion = aliases.champion(model)
    if champion is not None:
        return champion
    newest = Windows(state).history(model, variant="champion", newest=1)
    return newest[0].window.version if newest else None


def data_of(
    settings: RetrainSettings,
    state: State,
    model: str,
    champion: str | None,
    directory: Path,
    ticket: str,
    windows: Sequence[tuple[datetime, datetime]] | None,
) -> gather.Manifest:
    """Gather what a retraining trains on and is measured by; raises what `gather.make` does."""
    now = datetime.now(UTC)
    start = now - timedelta(seconds=settings.range_seconds) if settings.range_seconds is not None else None
    drifted = None
    if windows and settings.retrain_range == "drifted":
        # What came after the last of them is most likely like it.
        drifted, start = [*windows, (windows[-1][1], now)], windows[0][0]
    return gather.make(
        settings.log,
        model,
        directory,
        ticket=ticket,
        start=start,
        end=now,
        windows=drifted,
        since=windows[0][0] if windows else None,
        holdout=settings.retrain_holdout,
        min_labels=settings.retrain_min_labels,
        label=label_of(settings, state, model, champion),
        original=settings.retrain_original,
        original_share=settings.retrain_original_share,
        protected=settings.protected,
        seed=0,
    )


def label_of(settings: RetrainSettings, state: State, model: str, champion: str | None) -> str:
    """Return the name of the label's column: the setting, else that in the champion's baseline, else label."""
    if settings.retrain_label:
        return settings.retrain_label
    kept = StoredBaselines(state).newest(model, champion)
    try:
        features = Baseline.from_bytes(kept.data).features if kept else {}
    except FormatError:
        features = {}
    return next((name for name, feature in features.items() if feature.role == "label"), "label")


def _seldom(ticket: Ticket | None, error: Exception) -> dict[str, object]:
    """Return what has a message shown again only after a while: a step that waits says so at each look."""
    return {"every": _SAY_AGAIN_SECONDS, "about": (ticket and ticket.id, f"{error}")}


def attempt_directory(ticket: Ticket) -> Path:
    """Return where the job of a ticket's attempt has its output and result."""
    return Path(ticket.directory, f"attempt-{ticket.attempt}")


def gate_directory(ticket: Ticket) -> Path:
    """Return where the gate's process has its output and result."""
    return Path(ticket.directory, "gate")
