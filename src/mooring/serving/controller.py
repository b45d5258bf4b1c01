"""The controller of `mooring serve`: python -m mooring.serving.controller DESCRIPTOR, with a Start on stdin.

It watches the registry, keeps the state, and tells the front over the socket what it wants. Its event loop never
waits for MLflow, a download or the database: each has a thread. So a guard that fails takes effect at once,
whatever hangs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import click
import msgspec

from mooring import messages
from mooring.capture.proxy.tasks import first_of
from mooring.config import load
from mooring.monitor.alerting.channels import Channel, channels_of
from mooring.registry.aliases import CHAMPION
from mooring.registry.client import TrackingError
from mooring.retrain.evaluation.difference import Difference
from mooring.rollout_plan import Plan, parse
from mooring.serving import models, protocol, registry_watch
from mooring.serving.context import ControllerContext
from mooring.serving.protocol import FromFront, Model, Outcomes, Replayed, Route, Server, Serving, Want
from mooring.serving.records import Lead, Records
from mooring.serving.rollout.rollout import RolloutRun
from mooring.serving.start import GAVE_UP, REPEATED, Start
from mooring.settings import MonitorSettings
from mooring.state.database import StateError
from mooring.state.leases import LeaseLost
from mooring.state.rollouts import TO_GO, Cause, Rollout, RolloutError, new

logger = logging.getLogger("mooring.serving.controller")  # which is __main__ in its own process

_TICK_SECONDS = 0.2
_LEAD_SECONDS = 2.0
_KEEP_SECONDS = 0.5
_ALERT_SECONDS = 5.0
_MEND_SECONDS = 20.0
_RELEASE_SECONDS = 2.0
_RECEIVE = 1 << 18


class NothingToServe(Exception):
    """What is to be served is not there, and waiting does not help; the message says what to do."""


class Controller:
    """Watches the registry and the state, and begins what they call for.

    Where an alias is followed, it is polled. The supervisor that has the lease of `@champion` rolls challengers
    out, keeps its rollouts in the state and moves the alias; any other loads, checks and serves what it names.
    """

    def __init__(self, start: Start, plan: Plan, records: Records, front: asyncio.StreamWriter) -> None:
        self._start = start
        self._plan = plan
        self._records = records
        self._context = ControllerContext(start, records, front, self._not_kept)
        self._state_asked = asyncio.Event()
        self._registry_asked = asyncio.Event()
        self._last: str | None = None  # what the state says is served here
        self._held_back: str | None = None
        self._to_take_up: Lead | None = None
        self._others: Rollout | None = None  # what another supervisor rolls out
        self._rollout: RolloutRun | None = None
        self._rolling: asyncio.Task[None] | None = None
        self._suspect = False
        self._mending: asyncio.Task[None] | None = None

    async def work(self, front: asyncio.StreamReader, stopped: asyncio.Event) -> None:
        """Do what it is for, without end; `stopped` is set once the front is gone.

        Raises an ExceptionGroup with NothingToServe.
        """
        async with self._context.tasks as tasks:
            tasks.create_task(self._listen(front)).add_done_callback(lambda _: stopped.set())
            tasks.create_task(self._watch_state())
            if self._start.alias is not None:
                tasks.create_task(self._watch_registry(self._start.alias))
            tasks.create_task(self._tick())
            tasks.create_task(self._keep_evidence())
            tasks.create_task(self._send_alerts())
            tasks.create_task(self._decide())

    async def release(self) -> None:
        """Let another supervisor have the lease at once, where the state can be told so soon."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._context.run("state", self._records.lose)

    # What comes from the front

    async def _listen(self, front: asyncio.StreamReader) -> None:
        """Take what the front says; return once it is gone."""
        received = bytearray()
        while True:
            try:
                piece = await front.read(_RECEIVE)
            except OSError:
                return
            if not piece:
                return
            received += piece
            for body in protocol.unpack(received):
                self._handle(protocol.from_front(body))

    def _handle(self, message: FromFront) -> None:
        stages = self._rollout.stages if self._rollout is not None else None
        if isinstance(message, Serving):
            self._mend_what_crashed(message.servers)
            if stages is not None:
                stages.serving(message.servers)
        elif stages is not None:
            if isinstance(message, Replayed):
                stages.replayed(message)
            elif isinstance(message, Outcomes):
                stages.outcomes(message)

    def _mend_what_crashed(self, servers: dict[str, Server]) -> None:
        """Look at the files of what is served where one of its servers has crashed: they may be damaged.

        Those that are get downloaded again; its servers are started anew all the time.
        """
        context = self._context
        before, context.servers = context.servers, servers
        if context.served is None or (now := servers.get(version := context.served.version)) is None:
            return
        was = before.get(version)
        self._suspect = (self._suspect or now.crashed > (was.crashed if was else 0)) and now.ready < now.wanted
        if self._suspect and (self._mending is None or self._mending.done()):
            self._suspect = False
            self._mending = context.tasks.create_task(self._mend(version))

    async def _mend(self, version: str) -> None:
        try:
            await self._context.bring(version)
        except models.BringError as error:
            logger.warning("%s", error, extra=REPEATED)
        await asyncio.sleep(_MEND_SECONDS)

    # What is done again and again

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            if self._rollout is not None:
                self._rollout.stages.tick()
            self._context.changed.set()

    async def _watch_state(self) -> None:
        """Open the state, then see who has the lease of the champion."""
        while True:
            try:
                self._last = await self._context.run("state", self._records.open)
                break
            except StateError as error:
                self._not_kept(error)
            self._state_asked.set()
            await asyncio.sleep(self._start.settings.poll)
        while self._start.alias == CHAMPION:
            try:
                self._led(await self._context.run("state", self._records.lead))
            except StateError as error:
                self._not_kept(error)
            self._state_asked.set()
            await asyncio.sleep(_LEAD_SECONDS)
        self._state_asked.set()

    def _led(self, lead: Lead) -> None:
        model, first = self._start.model, not self._state_asked.is_set()
        self._others = None if lead.has else lead.rollout
        if lead.has and not self._context.leads:
            self._drop()
            self._context.leads, self._to_take_up = True, lead
            if not first:
                logger.info("this supervisor rolls out %s from now on", model)
        elif first and not lead.has:
            logger.info("another supervisor rolls out %s; this one follows the champion", model)

    def _not_kept(self, error: Exception) -> None:
        """The state did not take something: it is another supervisor's by now, or nobody's for a while."""
        if not isinstance(error, LeaseLost | RolloutError):
            logger.warning("%s. Requests are answered meanwhile; it is tried again", error, extra=REPEATED)
        elif self._context.leads:
            logger.info("%s; this supervisor follows the champion from now on", error)
            self._context.leads, self._to_take_up = False, None
            self._context.write(self._records.lose)
            self._drop()

    def _drop(self) -> None:
        """Forget the rollout that is under way: it is another supervisor's."""
        self._context.seen = self._rollout = None
        if self._rolling is not None:
            self._rolling.cancel()

    async def _watch_registry(self, alias: str) -> None:
        context, start = self._context, self._start
        await self._state_asked.wait()
        while True:
            context.look_now.clear()
            served = context.served.version if context.served is not None else None
            try:
                seen = await context.run(
                    "registry", registry_watch.look, start.model, alias, self._records.state, served
                )
            except TrackingError as error:
                logger.warning("%s. What is served stays; it is tried again", error, extra=REPEATED)
            else:
                if (held := seen.held) is not None:
                    logger.warning(
                        "version %s of %s is not served, though %s names it: %s",
                        *(held.version, start.model, start.follows, held.why),
                        extra=REPEATED,
                    )
                if (refused := seen.refused) is not None:
                    logger.warning(
                        "version %s of %s is not rolled out: %s",
                        *(refused.version, start.model, refused.why),
                        extra=REPEATED,
                    )
                context.unfit = {version: why for version, why in context.unfit.items() if version in seen[:2]}
                context.seen = seen
            self._registry_asked.set()
            context.changed.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(start.settings.poll):
                    await context.look_now.wait()

    async def _keep_evidence(self) -> None:
        """Write what the guards know, and see whether somebody asks for something."""
        context, records = self._context, self._records
        while True:
            await asyncio.sleep(_KEEP_SECONDS)
            rollout = self._rollout
            if rollout is None or rollout.stages.status not in TO_GO or not context.leads:
                continue
            try:
                kept = await context.run("state", records.keep, rollout.stages.kept())
            except (StateError, RolloutError) as error:
                self._not_kept(error)
                continue
            if kept.wish is not None and rollout is self._rollout:
                context.write(records.taken, kept)
                rollout.stages.wish(kept.wish, kept.wish_by or "somebody", kept.wish_reason or "")

    async def _send_alerts(self) -> None:
        while True:
            await asyncio.sleep(_ALERT_SECONDS)
            if self._context.leads:
                try:
                    await self._context.run("alerts", self._records.send_alerts)
                except StateError as error:
                    logger.warning("%s. Alerts wait for it", error, extra=REPEATED)

    # What is served

    async def _decide(self) -> None:
        """Serve something, and roll out one version after another."""
        context = self._context
        await self._state_asked.wait()
        if self._start.alias is not None:
            await self._registry_asked.wait()
        while True:
            context.changed.clear()
            rollout: Coroutine[Any, Any, None] | None = None
            if (lead := self._to_take_up) is not None and lead.rollout is not None:
                rollout = self._take_up(lead.rollout, lead.holdout)
            elif context.served is not None:
                rollout = self._next(context.seen, context.served) if context.seen is not None else None
            elif (version := self._first_version()) is not None:
                await self._serve_first(version)
            else:
                rollout = self._first_rollout()
            if rollout is None:
                await context.changed.wait()
                continue
            self._rolling = context.tasks.create_task(rollout)
            await asyncio.wait([self._rolling])
            if self._rollout is not None or self._rolling.cancelled():
                self._serve()
            self._rolling = self._rollout = None

    def _serve(self) -> None:
        """Have what is served answer everything."""
        if (served := self._context.served) is None:
            return
        self._context.send(Want((served,), (Route(served.version, "champion"),)))
        if self._records.state is not None and self._last != served.version:
            self._keep_served(served.version)

    def _keep_served(self, version: str) -> None:
        self._last = version
        self._context.write(self._records.serving, version, self._held_back or "")

    def _hold_back(self, why: str) -> None:
        """Log, and keep, why what an alias names is not served or rolled out; an empty text where it is."""
        served = self._context.served
        if served is None or self._records.state is None or why == self._held_back:
            return
        self._held_back = why
        if why:
            logger.warning("%s", why)
        self._keep_served(served.version)

    def _first_version(self) -> str | None:
        """Return what is to be served from the beginning, as far as that is known."""
        seen, others = self._context.seen, self._others
        version = self._start.version or (seen.followed if seen is not None else self._last)
        if version is None and seen is not None and seen.held is not None:
            version = self._last or seen.held.champion
        if others is not None and version == others.version and others.previous is not None:
            version = others.previous  # the alias was moved to a version that has still to prove itself
        if version in self._context.unfit and self._last is not None:
            version = self._last  # what the alias names can't even be brought; its rollout will tell
        return version

    def _first_rollout(self) -> Coroutine[Any, Any, None] | None:
        """Have a challenger be the first to be served, where there is one. Raises NothingToServe."""
        context, seen = self._context, self._context.seen
        named = f"models:/{self._start.model}{self._start.follows}"
        if context.leads and seen is not None and seen.challenger not in (None, *context.unfit):
            return self._begin(f"{seen.challenger}", "challenger", seen.ticket)
        if seen is not None and seen.held is None:
            raise NothingToServe(f"MLflow knows no {named}: check the name, or give a version the alias")
        logger.warning("nothing is served yet: %s is not known", named, extra=REPEATED)
        return None

    async def _serve_first(self, version: str) -> None:
        """Serve a version from the beginning. Raises NothingToServe."""
        context = self._context
        try:
            context.served = await context.bring(version)
        except models.BringError as error:
            has_another = self._last not in (None, version)
            if not (has_another or error.may_pass):
                raise NothingToServe(f"{error}") from error
            logger.warning("%s", error, extra=REPEATED)
            if has_another:
                context.unfit[version] = f"not brought here: {error}"
            else:
                await asyncio.sleep(self._start.settings.poll)
        else:
            context.unfit.clear()
            self._serve()
            logger.info("version %s of %s is served", version, self._start.model)

    async def _take_up(self, rollout: Rollout, holdout: Difference | None) -> None:
        """Go on with a rollout that was under way when a supervisor ended; what it was to replace is served."""
        context, model = self._context, self._start.model
        while rollout.previous is not None and (
            context.served is None or context.served.version != rollout.previous
        ):
            try:
                context.served = await context.bring(rollout.previous)
            except models.BringError as error:
                logger.warning("%s", error, extra=REPEATED)
                await asyncio.sleep(self._start.settings.poll)
            else:
                logger.info("version %s of %s is served", rollout.previous, model)
        self._to_take_up = None
        logger.info(
            "the rollout of version %s of %s goes on, where it was: %s", rollout.version, model, rollout.status
        )
        self._rollout = RolloutRun(context, rollout, holdout)
        await self._rollout.run()

    # What is next

    def _next(self, seen: registry_watch.Seen, served: Model) -> Coroutine[Any, Any, None] | None:
        """Return the rollout that the registry calls for, None where it calls for none."""
        unfit, leads, follows = self._context.unfit, self._context.leads, self._start.follows
        where = f"version {served.version} of {self._start.model} stays in service"
        held_back = ""
        if seen.followed is not None and seen.followed != served.version:
            if self._others is not None and self._others.version == seen.followed:
                pass  # whoever rolls it out will make it the champion, or take the alias back
            elif seen.followed not in unfit:
                return self._begin(seen.followed, "moved")
            else:
                also = f"; version {seen.challenger}, the challenger, waits for that" if seen.challenger else ""
                held_back = (
                    f"{where}, although {follows} names version {seen.followed}, which was "
                    f"{unfit[seen.followed]}. To have it tried again, move {follows} to version {served.version} "
                    f"for longer than --poll, and back{also}"
                )
        elif leads and seen.challenger is not None and seen.challenger in unfit:
            held_back = (
                f"{where}, and version {seen.challenger} is not tried again as long as it is the challenger: "
                f"it was {unfit[seen.challenger]}"
            )
        elif leads and seen.challenger not in (None, served.version):
            return self._begin(f"{seen.challenger}", "challenger", seen.ticket)
        elif seen.held is not None:
            held_back = f"{where}, although {follows} names version {seen.held.version}: {seen.held.why}"
        self._hold_back(held_back)
        return None

    async def _begin(self, version: str, cause: Cause, ticket: str | None = None) -> None:
        """Roll a version out, unless its retraining has still to pass the gate."""
        context, holdout = self._context, None
        self._hold_back("")
        previous = context.served.version if context.served is not None else None
        steps = self._plan if context.leads and previous is not None else ()
        rollout = new(self._start.model, version, previous, cause, steps, ticket_id=ticket)
        if context.leads:
            try:
                begun = await context.run("state", self._records.begin, rollout)
            except (StateError, RolloutError) as error:
                self._not_kept(error)
                return
            if begun is None:
                context.seen = None  # the next look tries again
                return
            rollout, holdout = begun
        logger.info(
            "version %s of %s is rolled out %s, as %s: %s",
            *(version, rollout.model),
            f"in the place of {previous}" if previous is not None else "as the first",
            "it passed the gate" if cause == "challenger" else f"{self._start.follows} names it",
            ", ".join([*map(str, rollout.plan), "full"]),
        )
        self._rollout = RolloutRun(context, rollout, holdout)
        await self._rollout.run()


async def control(start: Start, plan: Plan, front: socket.socket) -> None:
    """Run a controller until the front goes away or SIGTERM comes. Raises an ExceptionGroup with NothingToServe.

    Threads that hang go on: the process has to be ended with `os._exit`.
    """
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    reader, writer = await asyncio.open_connection(sock=front)
    controller = Controller(start, plan, Records(start, _channels(start)), writer)
    working = asyncio.create_task(controller.work(reader, stopped))
    try:
        await first_of(working, stopped.wait())
    finally:
        working.cancel()
        await asyncio.wait([working])
        await controller.release()
    if not working.cancelled():
        working.result()


def _channels(start: Start) -> list[Channel]:
    """Return whom mooring.yaml or the variables tell of a rollback: those who are told of drift."""
    try:
        return channels_of(load(MonitorSettings, {"model": start.model, "log": start.settings.log}))
    except (click.ClickException, ValueError) as error:
        logger.warning("nobody is alerted of rollouts: %s", error)
        return []


def main() -> None:
    """Run the controller of the front at the other end of the descriptor that is named."""
    # Ctrl-C reaches the whole group; the front ends this process when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    front = socket.socket(fileno=int(sys.argv[1]))
    start = msgspec.json.decode(sys.stdin.buffer.read(), type=Start)
    messages.set_up(start.settings.message_format, start.settings.message_level)
    try:
        plan = parse(start.settings.rollout_step)
    except ValueError as error:
        logger.error("%s", error)
        sys.exit(GAVE_UP)
    code = 0
    try:
        asyncio.run(control(start, plan, front))
    except* NothingToServe as given_up:
        logger.error("%s", given_up.exceptions[0])
        code = GAVE_UP
    except* Exception:  # noqa: BLE001 - told whole, and the front starts another
        traceback.print_exc()
        code = 1
    os._exit(code)  # a thread in which MLflow, a download or the database hangs is not waited for


if __name__ == "__main__":
    main()
