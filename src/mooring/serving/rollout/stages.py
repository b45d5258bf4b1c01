"""The life of one rollout: what it does next, told what has happened. It knows neither MLflow nor the state."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from mooring.retrain.evaluation.difference import Difference
from mooring.serving.protocol import Model, Outcomes, Replayed, Route, Server
from mooring.serving.rollout import answers
from mooring.serving.rollout.guards import Guards, Limits
from mooring.settings import ServeSettings, duration_text
from mooring.state.rollouts import ENDINGS, TO_GO, TRANSITIONS, EventName, Rollout, Status, Wish, moved

_LONGEST = 1000
CRASHES = 2
"""How often the new version's server may end while it loads, before it counts as one that does not load."""
_STOPPED = Server(0, 0)


class Around(Protocol):
    """What a rollout does to the world around it."""

    def want(self, models: tuple[Model, ...], routes: tuple[Route, ...]) -> None:
        """Have these servers run, and requests go there."""

    def replay(self, model: Model) -> None:
        """Have requests put to a version, as a check."""

    def noted(self, before: Rollout, after: Rollout, what: EventName, detail: dict[str, Any], who: str) -> None:
        """Keep what has happened: the rollout is in another status, step, or paused."""


class Stages:
    """A rollout as it goes on.

    Parameters
    ----------
    rollout
        As it is in the state; one that was under way goes on from there.
    champion
        What answers meanwhile, and again where it fails; None where nothing does.
    settings
        The limits of the guards, and how long loading may take.
    around
        Is told what is wanted and what has happened, in this order: so the champion answers before a database or
        MLflow hears why.
    holdout
        How far the two versions' predictions lay apart for the gate, where it has compared them.
    """

    def __init__(
        self,
        rollout: Rollout,
        champion: Model | None,
        settings: ServeSettings,
        around: Around,
        holdout: Difference | None = None,
    ) -> None:
        self.rollout = rollout
        self.champion = champion
        self.new: Model | None = None
        self._settings = settings
        self._around = around
        self._guards = Guards(Limits.of(settings), holdout, rollout.evidence.get("guards"))
        self._crashed: int | None = rollout.evidence.get("crashed")
        self._hurry: str | None = rollout.evidence.get("promote")
        self._server = _STOPPED
        self._asked = self._checked = False
        self._since = 0.0
        self._copies = [0, 0]  # those of the last second that were lost, and all
        # Requests of this step that this process has heard of, and for how many seconds it has listened.
        self._heard, self._listened = 0, 0.0
        self._begun = self._ticked = time.monotonic()

    @property
    def status(self) -> Status:
        """Where it is."""
        return self.rollout.status

    def kept(self) -> Rollout:
        """Return the rollout with what the guards know by now."""
        rows = msgspec.to_builtins(self._guards.rows())
        evidence: dict[str, Any] = {"guards": self._guards.state(), "rows": rows}
        evidence |= {"crashed": self._crashed} if self._crashed is not None else {}
        evidence |= {"promote": self._hurry} if self._hurry is not None else {}
        self.rollout = msgspec.structs.replace(self.rollout, evidence=evidence)
        return self.rollout

    # What happens

    def brought(self, new: Model) -> None:
        """The new version's files are here: its servers may run, and it goes on from where it is."""
        self.new = new
        self._begun = self._ticked = time.monotonic()
        self.want()

    def serving(self, servers: Mapping[str, Server]) -> None:
        """The servers are so now."""
        if self.new is None or self.status not in TO_GO:
            return
        self._server = servers.get(self.new.version, _STOPPED)
        if self._server.wanted == 0:
            return  # the front has not heard yet that it is wanted
        if self.status == "loading":
            if self._server.ready >= self._server.wanted:
                self._crashed = self._server.crashed
                self._move("checking", "loaded", {"servers": self._server.ready})
                self._check(self.new)
            elif self._server.crashed >= CRASHES:
                self.fail(f"it does not load: {self._server.reason or 'its server ends'}")
            return
        # A front that was started anew counts from 0.
        before = self._server.crashed if self._crashed is None else self._crashed
        if self._server.crashed > before:
            self.fail(f"its server has ended by itself: {self._server.reason or 'it does not say why'}")
            return
        self._crashed = self._server.crashed
        if self.status == "checking" and self._server.ready and not self._asked:
            self._check(self.new)

    def _check(self, new: Model) -> None:
        self._asked = True
        self._around.replay(new)

    def replayed(self, replayed: Replayed) -> None:
        """Requests that the champion has answered were put to the new version."""
        if self.status != "checking" or self.new is None or replayed.version != self.new.version:
            return
        unusable = answers.check(replayed.answers)
        failed = replayed.failed + len(unusable)
        if failed:
            why = replayed.reason or next(iter(unusable), "")
            self.fail(
                f"it failed {failed} of {replayed.requests} requests that were put to it as a check"
                + (f": {why}" if why else "")
            )
            return
        self._checked = True
        self.tick()

    def outcomes(self, outcomes: Outcomes) -> None:
        """Requests were answered, by the champion or the new version."""
        if self.status not in TO_GO or self.new is None:
            return
        counts = dict(self.rollout.counts)
        requests, at = self.rollout.requests, self.rollout.at
        for outcome in outcomes.outcomes:
            if outcome.variant != "champion" and outcome.version != self.new.version:
                continue  # of a version that came before
            counts[outcome.variant] = counts.get(outcome.variant, 0) + 1
            self._copies[1] += outcome.variant == "shadow"
            self._guards.observe(outcome)
            if at is not None and outcome.variant == at.kind:
                requests += 1
        self._heard += len(outcomes.outcomes) + outcomes.left_out
        self._copies[0] += outcomes.shadow_dropped + outcomes.shadow_timed_out
        self._copies[1] += outcomes.shadow_dropped
        further = {name: getattr(outcomes, name) for name in ("left_out", "shadow_dropped", "shadow_timed_out")}
        for name, more in further.items():
            if more:
                counts[name] = counts.get(name, 0) + more
        self.rollout = msgspec.structs.replace(self.rollout, counts=counts, requests=requests)
        if (why := self._guards.failed()) is not None:
            self.fail(why)

    def tick(self) -> None:
        """Some time has passed."""
        now = time.monotonic()
        passed, self._ticked = now - self._ticked, now
        if self.new is None:
            return
        if self.status == "loading" and now - self._begun > self._settings.start_timeout:
            why = self._server.reason or f"it is not ready after {self._settings.start_timeout:g} seconds"
            self.fail(f"it does not load: {why}")
        elif self.status == "checking" and self._checked:
            self._next(-1)
        elif self.status == "stepping":
            if self._has_lost_copies(passed):
                return
            self._listened += passed
            if self._server.ready and not self.rollout.paused:
                self.rollout = msgspec.structs.replace(self.rollout, seconds=self.rollout.seconds + passed)
            rollout, at = self.rollout, self.rollout.at
            is_over = at is None or rollout.seconds >= at.seconds
            if at is None or self._hurry is not None or (is_over and rollout.requests >= at.requests):
                self._next(rollout.step)
            elif is_over and at.unless_idle and not (rollout.paused or self._heard or self._listened < at.seconds):
                self._move(self.status, "skipped", {"why": f"no request came in {duration_text(at.seconds)}"})
                self._next(self.rollout.step)

    def _has_lost_copies(self, passed: float) -> bool:
        """Count the copies of the last second or so; return whether too many of them were lost."""
        self._since += passed
        lost, copies = self._copies
        if self._since < 1 or not copies:
            return False
        self._since, self._copies = 0.0, [0, 0]
        self._guards.observe_copies(min(lost, copies), copies)
        if (why := self._guards.failed()) is None:
            return False
        self.fail(why)
        return True

    def _next(self, step: int) -> None:
        """Go on after a step of the plan, or after the check, unless that is to wait."""
        if self._hurry is not None:
            if self._server.ready:
                self._full(self._hurry)
        elif self.rollout.paused:
            return
        elif step + 1 < len(self.rollout.plan):
            self._step(step + 1)
        else:
            self._full("mooring")

    def _step(self, step: int) -> None:
        told = {"step": f"{self.rollout.plan[step]}"}
        self._heard, self._listened = 0, 0.0
        self._move("stepping", "step", told, wanted=True, step=step, seconds=0.0, requests=0)

    def _full(self, who: str) -> None:
        self._move("promoting", "full", {}, who, wanted=True, paused=False)

    # What is asked for

    def wish(self, wish: Wish, who: str, reason: str) -> None:
        """A person asks for something."""
        if self.status not in TO_GO:
            return
        told = {"reason": reason} if reason else {}
        if wish == "abort":
            self.fail(f"aborted by {who}" + (f": {reason}" if reason else ""), status="aborting", who=who)
        elif wish == "promote":
            self._hurry = who
            self._move(self.status, "promote", told, who, paused=False)
            self.tick()
        else:
            self._move(self.status, "paused" if wish == "pause" else "resumed", told, who, paused=wish == "pause")

    def fail(self, why: str, *, status: Status = "rolling_back", who: str = "mooring") -> None:
        """Have the champion answer everything at once; then tell."""
        # It may quote what a model printed or answered, and goes into databases.
        why = "".join(char if char.isprintable() else " " for char in why)[:_LONGEST]
        what: EventName = "failed" if status == "rolling_back" else "aborted"
        if TRANSITIONS.allows(self.status, what, status):  # else it is on its way out of service already
            self._move(status, what, {"why": why}, who, wanted=True, reason=why, paused=False)

    def end(self, status: Status, detail: dict[str, Any] | None = None, *, reason: str | None = None) -> None:
        """It is over, and the registry says so."""
        changes = {} if reason is None else {"reason": reason}
        self._move(status, ENDINGS[status], detail or {}, wanted=True, **changes)

    # What is wanted

    def want(self) -> None:
        """Tell the front what is wanted at this point."""
        champion, new = self.champion, self.new
        both = tuple(one for one in (champion, new) if one is not None)
        old = (Route(champion.version, "champion"),) if champion is not None else ()
        if self.status in TO_GO:
            self._around.want(both, old + self._shares())
        elif self.status == "promoting" and new is not None:
            self._around.want((new, *both[:-1]), (Route(new.version, "champion"),))
        elif self.status == "promoted" and new is not None:
            self._around.want((new,), (Route(new.version, "champion"),))
        else:
            self._around.want(tuple(one for one in (champion,) if one is not None), old)

    def _shares(self) -> tuple[Route, ...]:
        at = self.rollout.at
        if at is None or self.new is None:
            return ()
        routes = [Route(self.new.version, at.kind, at.share)]
        if at.kind == "canary":
            # What the champion answers goes on to be compared.
            shadows = [step.share for step in self.rollout.plan[: self.rollout.step] if step.kind == "shadow"]
            routes += [Route(self.new.version, "shadow", share) for share in shadows[-1:]]
        return tuple(routes)

    def _move(
        self,
        status: Status,
        what: EventName,
        detail: dict[str, Any],
        who: str = "mooring",
        *,
        wanted: bool = False,
        **changes: Any,
    ) -> None:
        before = self.kept()
        self.rollout = moved(before, status, **changes)
        if wanted:
            self.want()
        self._around.noted(before, self.rollout, what, detail, who)
