"""The rollout under way: its files are brought, it goes through its stages, and the registry says how it ended."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from mooring.registry.client import PermanentError, TrackingError
from mooring.retrain.evaluation.difference import Difference
from mooring.serving import models, registry_watch
from mooring.serving.context import ControllerContext
from mooring.serving.protocol import Model, Replay, Route, Want
from mooring.serving.rollout.stages import Stages
from mooring.serving.start import REPEATED
from mooring.state.database import StateError
from mooring.state.leases import LeaseLost
from mooring.state.retrainings import TicketError
from mooring.state.rollouts import TO_GO, EventName, Rollout, Status, in_words

logger = logging.getLogger(__name__)

_BRING_TRIES = 2
_AGAIN_SECONDS = 5.0


class RolloutRun:
    """A rollout that begins, or is taken up where it was when a supervisor ended.

    What is served now is its champion. A supervisor that does not lead keeps nothing of it, and moves no alias.
    """

    def __init__(self, context: ControllerContext, rollout: Rollout, holdout: Difference | None) -> None:
        self.stages = Stages(rollout, context.served, context.start.settings, self, holdout)
        self._context = context

    async def run(self) -> None:
        """Go through all of it; return once it has ended, in the registry too, or another version came before it.

        Cancelled, it stays in the state as it is.
        """
        stages, bringing = self.stages, None
        if stages.status in ("rolling_back", "aborting"):
            stages.want()
        else:
            bringing = self._context.tasks.create_task(self._bring())
        try:
            while stages.status in TO_GO or (stages.status == "promoting" and stages.new is None):
                if stages.status in TO_GO and self._is_overtaken():
                    return
                self._context.changed.clear()
                await self._context.changed.wait()
        finally:
            if bringing is not None:
                bringing.cancel()
        await self._finish()

    async def _bring(self) -> None:
        tries = 0
        while True:
            try:
                model = await self._context.bring(self.stages.rollout.version)
            except models.BringError as error:
                tries += not error.may_pass
                if tries >= _BRING_TRIES:
                    self.stages.fail(f"it does not load: {error}")
                    return
                logger.warning("%s; it is tried again", error, extra=REPEATED)
                await asyncio.sleep(self._context.start.settings.poll)
            else:
                self.stages.brought(model)
                self.stages.serving(self._context.servers)
                return

    def _is_overtaken(self) -> bool:
        """Whether another version came before this one was done, which ends it."""
        context, rollout, seen, by = self._context, self.stages.rollout, self._context.seen, None
        if seen is None:
            return False
        if seen.followed not in (None, rollout.version, rollout.previous):
            by = seen.followed
        elif rollout.cause == "moved" and seen.followed is not None and seen.followed == rollout.previous:
            by = rollout.previous
        elif rollout.cause == "challenger" and seen.challenger not in (None, rollout.version, *context.unfit):
            by = seen.challenger
        if by is None:
            return False
        why = f"version {by} came before it was done"
        self._end("superseded", why)
        if seen.challenger == rollout.version:
            context.unfit[rollout.version] = f"superseded: {why}"
            if context.leads:
                # Where that fails it stays unfit, at least here.
                context.attempt("registry", registry_watch.put_back, self.stages.rollout)
        return True

    # How it ends

    async def _finish(self) -> None:
        """Have the registry say what came of it; that is tried until it does."""
        context, stages = self._context, self.stages
        promoted = stages.status == "promoting"
        named = not promoted  # as far as is known the alias stays where it is
        if context.leads and context.records.state is not None:
            await context.written()  # the registry hears of it after the state
            try:
                named = await self._tell_registry(promoted=promoted)
            except PermanentError as error:
                context.seen = None
                self._end("superseded", f"{error}")
                return
            except LeaseLost as error:
                context.not_kept(error)
                return
            context.seen = None  # it may be from before the alias was moved
            context.look_now.set()
        if promoted:
            context.served = stages.new
            self._end("promoted")
            if context.records.state is not None:
                keep = {stages.rollout.version, stages.rollout.previous or ""}
                context.attempt("files", context.records.forget, keep)
            return
        status: Status = "aborted" if stages.status == "aborting" else "rolled_back"
        if named:
            # Else whoever moves the alias there from now on means it, however soon that is.
            context.unfit[stages.rollout.version] = f"{in_words(status)}: {stages.rollout.reason}"
        self._end(status)

    async def _tell_registry(self, *, promoted: bool) -> bool:
        """Return whether an alias may name the version nevertheless. Raises PermanentError, LeaseLost."""
        context = self._context
        make = registry_watch.promote if promoted else registry_watch.roll_back
        while True:
            state, lease = context.records.state, context.records.lease
            assert state is not None
            try:
                return await context.run("registry", make, state, lease, self.stages.rollout) is True
            except (TrackingError, StateError, TicketError) as error:
                if isinstance(error, LeaseLost) or (promoted and isinstance(error, PermanentError)):
                    raise
                logger.warning("%s. It is tried again", error, extra=REPEATED)
                await asyncio.sleep(min(context.start.settings.poll, _AGAIN_SECONDS))

    def _end(self, status: Status, reason: str | None = None) -> None:
        self.stages.end(status, {"why": reason} if reason else {}, reason=reason)

    # What its stages do to the world around them: see stages.Around

    def want(self, models: tuple[Model, ...], routes: tuple[Route, ...]) -> None:
        """Have these servers run, and requests go there."""
        self._context.send(Want(models, routes))

    def replay(self, model: Model) -> None:
        """Have requests put to a version as a check; its own example, where there was no traffic."""
        example = None
        try:
            example = models.example(model.path)
        except models.BringError as error:
            logger.warning("%s", error)
        self._context.send(Replay(model.version, example=example))

    def noted(self, before: Rollout, after: Rollout, what: EventName, detail: dict[str, Any], who: str) -> None:
        """Log what has happened to a rollout, and keep it."""
        by = f" by {who}" if who != "mooring" else ""
        told = ", ".join(map(str, detail.values()))
        logger.info("version %s of %s: %s%s%s", after.version, after.model, what, by, told and f": {told}")
        if self._context.leads:
            self._context.write(self._context.records.move, before, after, what, detail, who)
        self._context.changed.set()
