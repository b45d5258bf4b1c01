"""The rollout under way: how it begins, is taken up again, is overtaken, and ends, in the registry too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mooring.capture.say import Seldom, say
from mooring.registry.aliases import Moved
from mooring.registry.client import TrackingError
from mooring.registry.versions import Missing
from mooring.retrain.evaluation.difference import Difference
from mooring.rollout_plan import Plan
from mooring.serving import models, registry_watch
from mooring.serving.background import Chores
from mooring.serving.messages import FromController, Model, Replay, Route, Server, Want
from mooring.serving.records import Keeper
from mooring.serving.rollout.stages import Stages
from mooring.serving.start import Start
from mooring.state.database import StateError
from mooring.state.leases import LeaseLost
from mooring.state.retrainings import TicketError
from mooring.state.rollouts import TO_GO, Cause, EventName, Rollout, RolloutError, Status, in_words, new

SELDOM_SECONDS = 60.0
_BRING_TRIES = 2
_AGAIN_SECONDS = 5.0
_MEND_SECONDS = 20.0


class Rolling:
    """What is served, and what is rolled out.

    `leads` says whether this supervisor may write rollouts down and move aliases; `seen` is what the registry said
    last, None where that may be overtaken; `unfit` are the versions that an alias names and that are not tried
    again as long as it does, and why.
    """

    def __init__(
        self, start: Start, plan: Plan, keeper: Keeper, chores: Chores, send: Callable[[FromController], None]
    ) -> None:
        self.served: Model | None = None
        self.current: Stages | None = None
        self.servers: dict[str, Server] = {}
        self.seen: registry_watch.Seen | None = None
        self.leads = False
        self.unfit: dict[str, str] = {}
        self.last: str | None = None  # what the state says is served here
        self._start = start
        self._plan = plan
        self._keeper = keeper
        self._chores = chores
        self._send = send
        self._seldom = Seldom(SELDOM_SECONDS)
        self._unwritten = 0
        self._tries = 0
        self._held_back: str | None = None
        self._suspect = False

    # What is served

    def serve(self) -> None:
        """Have what is served answer everything."""
        if self.served is None:
            return
        self.want((self.served,), (Route(self.served.version, "champion"),))
        if self._keeper.state is not None and self.last != self.served.version:
            self._keep_served(self.served.version)

    def serving(self, servers: dict[str, Server]) -> None:
        """The servers are so now. Where one of what is served has crashed, its files may be damaged.

        They are looked at, and downloaded again where they are; its servers are started anew all the time.
        """
        before, self.servers = self.servers, servers
        if self.served is None or (now := servers.get(version := self.served.version)) is None:
            return
        was = before.get(version)
        self._suspect = (self._suspect or now.crashed > (was.crashed if was else 0)) and now.ready < now.wanted
        if self._suspect and self._chores.is_free("mend"):
            self._suspect = False
            self._chores.wait("mend", _MEND_SECONDS)
            self.bring("mend", version, lambda _: None, lambda error: self._seldom(f"{error}"))

    def hold_back(self, why: str) -> None:
        """Say, and keep, why what an alias names is not served or rolled out; an empty text where it is."""
        if self.served is None or self._keeper.state is None or why == self._held_back:
            return
        self._held_back = why
        if why:
            say(why)
        self._keep_served(self.served.version)

    def _keep_served(self, version: str) -> None:
        self.last = version
        work = partial(self._keeper.serving, version, self._held_back or "")
        self._chores.write(work, self.not_kept)

    def bring(
        self, what: str, version: str, then: Callable[[Model], None], failed: Callable[[models.BringError], None]
    ) -> None:
        """Have a version's files and environment brought here."""

        def not_brought(error: Exception) -> None:
            if not isinstance(error, models.BringError):
                raise error
            failed(error)

        settings = self._start.settings
        directory = Path(settings.serve_directory)
        work = partial(models.bring, self._start.model, version, directory, settings.env_manager)
        self._chores.do(what, "files", work, then, not_brought)

    # How a rollout begins

    def begin(self, version: str, cause: Cause, ticket: str | None = None) -> None:
        """Begin to roll a version out."""
        self.hold_back("")
        previous = self.served.version if self.served is not None else None
        steps = self._plan if self.leads and previous is not None else ()
        rollout = new(self._start.model, version, previous, cause, steps, ticket_id=ticket)
        if self.leads:
            self._chores.do("begin", "state", partial(self._keeper.begin, rollout), self._begun, self.not_kept)
        else:
            self._begun((rollout, None))

    def _begun(self, begun: tuple[Rollout, Difference | None] | None) -> None:
        if begun is None:
            self.seen = None  # the next look tries again
            return
        rollout, holdout = begun
        steps = ", ".join([*map(str, rollout.plan), "full"])
        instead = f"in the place of {rollout.previous}" if rollout.previous is not None else "as the first"
        why = "it passed the gate" if rollout.cause == "challenger" else f"{self._start.follows} names it"
        say(f"version {rollout.version} of {rollout.model} is rolled out {instead}, as {why}: {steps}")
        self._stage(rollout, holdout)
        self._bring_new()

    def take_up(self, rollout: Rollout, holdout: Difference | None) -> None:
        """Go on with a rollout that was under way when a supervisor ended; what is served is its champion."""
        say(f"the rollout of version {rollout.version} of {rollout.model} goes on, where it was: {rollout.status}")
        self._stage(rollout, holdout)
        if rollout.status in ("rolling_back", "aborting"):
            self.serve()
            return
        self._bring_new()

    def _stage(self, rollout: Rollout, holdout: Difference | None) -> None:
        self._tries = 0
        self._chores.wait("finish", 0.0)
        self.current = Stages(rollout, self.served, self._start.settings, self, holdout)

    def _bring_new(self) -> None:
        current = self.current
        assert current is not None

        def brought(model: Model) -> None:
            if current is self.current:
                current.brought(model)
                current.serving(self.servers)

        def failed(error: models.BringError) -> None:
            if current is not self.current:
                return
            # Where MLflow does not answer, it may another time.
            away = isinstance(error.__cause__, TrackingError) and not isinstance(error.__cause__, Missing)
            self._tries += not away
            if self._tries >= _BRING_TRIES:
                current.fail(f"it does not load: {error}")
                return
            self._seldom(f"{error}; it is tried again")
            self._chores.wait("bring", self._start.settings.poll)

        self.bring("bring", current.rollout.version, brought, failed)

    # How it ends

    def drop(self) -> None:
        """Know no longer of the rollout that is under way: it is another supervisor's."""
        self.seen = None
        if self.current is not None:
            self.current = None
            self.serve()

    def go_on(self, current: Stages) -> None:
        """See whether another version came before the one that is rolled out, and finish what is done."""
        under_way = current.status in TO_GO
        if under_way and self.seen is not None and self._is_overtaken(current, self.seen):
            return
        if current.new is None and (under_way or current.status == "promoting"):
            if self._chores.is_free("bring"):
                self._bring_new()
        elif not under_way and not self._unwritten and self._chores.is_free("finish"):
            self._finish(current)

    def _is_overtaken(self, current: Stages, seen: registry_watch.Seen) -> bool:
        rollout, by = current.rollout, None
        if seen.followed not in (None, rollout.version, rollout.previous):
            by = seen.followed
        elif rollout.cause == "moved" and seen.followed is not None and seen.followed == rollout.previous:
            by = rollout.previous
        elif rollout.cause == "challenger" and seen.challenger not in (None, rollout.version, *self.unfit):
            by = seen.challenger
        if by is None:
            return False
        why = f"version {by} came before it was done"
        if seen.challenger == rollout.version:
            self.unfit[rollout.version] = f"superseded: {why}"
        self._end(current, "superseded", why)
        if self.leads and seen.challenger == rollout.version:
            # Where that fails it stays unfit, at least here.
            work = partial(registry_watch.put_back, current.rollout)
            self._chores.do("put back", "registry", work, lambda _: None, lambda error: self._seldom(f"{error}"))
        return True

    def _finish(self, current: Stages) -> None:
        """Have the registry say what came of it; that is tried until it does."""
        forward, state = current.status == "promoting", self._keeper.state
        if not self.leads or state is None:
            self._finished(current, named=not forward)
            return

        def failed(error: Exception) -> None:
            if isinstance(error, Moved | Missing) and forward:
                self.seen = None
                self._end(current, "superseded", f"{error}")
            elif isinstance(error, LeaseLost):
                self.lost(error)
            elif isinstance(error, TrackingError | StateError | TicketError):
                self._chores.wait("finish", min(self._start.settings.poll, _AGAIN_SECONDS))
                self._seldom(f"{error}. It is tried again")
            else:
                raise error

        make = registry_watch.promote if forward else registry_watch.roll_back
        work = partial(make, state, self._keeper.lease, current.rollout)

        def made(named: bool | None) -> None:
            self._finished(current, named=named is True)

        self._chores.do("finish", "registry", work, made, failed)

    def _finished(self, current: Stages, *, named: bool) -> None:
        if current is not self.current:
            return
        if self.leads:
            self.seen = None  # it may be from before the alias was moved
            self._chores.wait("look", 0.0)
        if current.status == "promoting":
            self.served = current.new
            self._end(current, "promoted")
            return
        status: Status = "aborted" if current.status == "aborting" else "rolled_back"
        if named:
            # Else whoever moves the alias there from now on means it, however soon that is.
            self.unfit[current.rollout.version] = f"{in_words(status)}: {current.rollout.reason}"
        self._end(current, status)

    def _end(self, current: Stages, status: Status, reason: str | None = None) -> None:
        if current is not self.current:
            return
        self.current = None
        current.end(status, {"why": reason} if reason else {}, reason=reason)
        self.serve()
        if status == "promoted" and self._keeper.state is not None:
            keep = {current.rollout.version, current.rollout.previous or ""}
            work = partial(self._keeper.forget, keep)
            self._chores.do("forget", "files", work, lambda _: None, lambda error: self._seldom(f"{error}"))

    def not_kept(self, error: Exception) -> None:
        """The state did not take something: it is another supervisor's by now, or nobody's for a while."""
        if isinstance(error, LeaseLost | RolloutError):
            self.lost(error)
        elif isinstance(error, StateError):
            self._seldom(f"{error}. Requests are answered meanwhile; it is tried again")
        else:
            raise error

    def lost(self, error: Exception) -> None:
        """Another supervisor rolls out by now: what is under way is its business."""
        if not self.leads:
            return
        say(f"{error}; this supervisor follows the champion from now on")
        self.leads = False
        self._chores.write(self._keeper.lose, self.not_kept)
        self.drop()

    # What a rollout does: see stages.Around

    def want(self, models: tuple[Model, ...], routes: tuple[Route, ...]) -> None:
        """Have these servers run, and requests go there."""
        self._send(Want(models, routes))

    def replay(self, model: Model) -> None:
        """Have requests put to a version as a check; its own example, where there was no traffic."""
        example = None
        try:
            example = models.example(model.path)
        except models.BringError as error:
            say(f"{error}")
        self._send(Replay(model.version, example=example))

    def noted(self, before: Rollout, after: Rollout, what: EventName, detail: dict[str, Any], who: str) -> None:
        """Say what has happened to a rollout, and keep it."""
        told = ", ".join(f"{value}" for value in detail.values())
        by = f" by {who}" if who != "mooring" else ""
        say(f"version {after.version} of {after.model}: {what}{by}{': ' if told else ''}{told}")
        if not self.leads:
            return

        def failed(error: Exception) -> None:
            self._unwritten -= 1
            self.not_kept(error)

        def written(_: None) -> None:
            self._unwritten -= 1

        self._unwritten += 1
        work = partial(self._keeper.move, before, after, what, detail, who)
        self._chores.do("write", "state", work, written, failed)
