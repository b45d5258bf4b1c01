"""The model server processes of all versions that run: started, watched, started anew, and stopped."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mooring import child_environment
from mooring.capture.proxy.backend import MOST_TIMEOUTS
from mooring.serving import protocol
from mooring.serving.process import ServerProcess, ping
from mooring.serving.protocol import Model
from mooring.settings import ServeSettings

logger = logging.getLogger(__name__)

_STARTING_SECONDS = 0.1
_PING_SECONDS = 5.0
_MEMORY_SECONDS = 0.25
_OUT_OF_TURN = 1.1
_AT_ONCE = 1.5
_SILENT_SECONDS = 30.0
_HEALTHY_SECONDS = 60.0
_SHORTEST_BACKOFF = 1.0
_LONGEST_BACKOFF = 30.0
_CLOSE_SECONDS = 10.0


class Servers:
    """The model server processes of all versions that run.

    `directory` is where their sockets go: its path has to be short, as a Unix socket's may have no more than 104
    bytes on macOS. `changed` is called whenever a process became ready or ended. All of it is of one event loop.
    """

    def __init__(self, settings: ServeSettings, directory: Path, changed: Callable[[], None]) -> None:
        self._settings = settings
        self._changed = changed
        self._paths = (str(directory / f"{number}.sock") for number in itertools.count(1))
        self._versions: dict[str, list[_Place]] = {}
        self._stopping: set[_Place] = set()

    def want(self, models: Sequence[Model]) -> None:
        """Start the servers of versions that have none. Those of others go on."""
        for model in models:
            places = self._versions.get(model.version)
            if places is None:
                fellows: list[_Place] = []
                self._versions[model.version] = fellows
                fellows += [
                    _Place(model, number, self._settings, self._paths, self._changed, fellows)
                    for number in range(1, self._settings.workers + 1)
                ]
            else:
                for place in places:
                    place.model = model

    async def stop(self, version: str, grace: float | None = None) -> None:
        """Have a version's servers finish what they have, and end them.

        They may take `grace` seconds, by default somewhat more than a prediction may. The version is forgotten at
        once: wanted again meanwhile, it gets servers of its own.
        """
        grace = self._settings.timeout + _PING_SECONDS if grace is None else grace
        places = self._versions.pop(version, [])
        self._stopping.update(places)
        await asyncio.gather(*(place.stop(grace) for place in places))
        self._stopping.difference_update(places)

    async def close(self, grace: float = _CLOSE_SECONDS) -> None:
        """End all servers, those that are being stopped, too. They may take `grace` seconds."""
        places = [place for places in self._versions.values() for place in places]
        self._versions.clear()
        await asyncio.gather(*(place.stop(grace) for place in (*places, *self._stopping)))

    def take_out(self, version: str, socket: str) -> None:
        """Have another take the place of a process whose requests time out, which may finish what it has."""
        for place in self._versions.get(version, ()):
            if place.socket == socket:
                place.take_out()

    def sockets(self, version: str) -> list[str]:
        """Return the sockets of a version's processes that answer, in the order of their numbers."""
        return [place.socket for place in self._versions.get(version, ()) if place.socket]

    def states(self) -> dict[str, protocol.Server]:
        """Return how the servers of each version are that is wanted."""
        return {
            version: protocol.Server(
                wanted=len(places),
                ready=sum(place.socket is not None for place in places),
                crashed=sum(place.crashed for place in places),
                hung=sum(place.hung for place in places),
                reason=max((place.last_end for place in places), key=lambda end: end.time).reason,
            )
            for version, places in self._versions.items()
        }


@dataclass(frozen=True)
class _End:
    time: float = 0.0
    reason: str = ""


class _Place:
    """The place of one process: when it ends by itself another takes its place, on a socket of its own."""

    def __init__(
        self,
        model: Model,
        number: int,
        settings: ServeSettings,
        paths: Iterator[str],
        changed: Callable[[], None],
        fellows: Sequence[_Place],
    ) -> None:
        self.model = model
        self.socket: str | None = None
        self.crashed = 0
        self.hung = 0
        self.last_end = _End()
        self._name = f"version {model.version}, server {number}"
        self._settings = settings
        self._paths = paths
        self._changed = changed
        self._fellows = fellows
        self._process: ServerProcess | None = None
        self._taken_out = asyncio.Event()
        self._may_finish = False
        self._finishing: set[asyncio.Task[None]] = set()
        self._ready_at = math.inf
        self._task = asyncio.create_task(self._run(), name=self._name)

    def take_out(self) -> None:
        """Give the process no further requests, and its place to another: those that it has go on timing out."""
        self.socket = None
        self._taken_out.set()

    async def stop(self, grace: float) -> None:
        """End the process, which may take `grace` seconds to finish what it has, and start none any more."""
        self.socket = None
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._process is not None:
            await self._process.end(grace)
            self._process = None
        for task in self._finishing:
            task.cancel()
        await asyncio.gather(*self._finishing, return_exceptions=True)

    async def _run(self) -> None:
        backoff = _SHORTEST_BACKOFF
        while True:
            self._ready_at = math.inf
            reason = await self._serve()
            if time.monotonic() - self._ready_at > _HEALTHY_SECONDS:
                backoff = _SHORTEST_BACKOFF
            self.crashed += 1
            self.last_end = _End(time.monotonic(), reason)
            if self._taken_out.is_set():
                self._taken_out.clear()
                self.hung += 1
            if self._may_finish:
                logger.warning("%s %s", self._name, reason)
            self._changed()
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _LONGEST_BACKOFF)

    async def _serve(self) -> str:
        """Run a process until it ends, or has to be ended, and return why that was.

        Cancelled, it leaves the process to `stop`.
        """
        path = next(self._paths)
        self._may_finish = False
        environment = child_environment.handed_on(
            os.environ, child_environment.MODEL_SERVER, self._settings.serve_environment
        )
        try:
            self._process = await ServerProcess.start(
                self.model, path, self._settings.timeout, self._name, environment
            )
        except OSError as error:
            return f"can't be started: {error}"
        reason = await self._watch(self._process)
        self.socket = None
        process, self._process = self._process, None
        if self._may_finish:
            finishing = asyncio.create_task(self._finish(process))
            self._finishing.add(finishing)
            finishing.add_done_callback(self._finishing.discard)
        else:
            await process.end(0)
        printed = process.output.reason
        return f"{reason}; the last it said: {printed}" if printed else reason

    async def _watch(self, process: ServerProcess) -> str:
        watches = [process.wait(), self._hangs(), self._answers(process)]
        if self._settings.worker_memory is not None:
            watches.append(self._grows(process, self._settings.worker_memory))
        tasks = [asyncio.create_task(watch) for watch in watches]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return next(task.result() for task in tasks if task in done)

    async def _hangs(self) -> str:
        """Return once it is taken out. That it answers a ping says nothing of a model that never returns."""
        await self._taken_out.wait()
        self._may_finish = True
        seconds = self._settings.timeout
        return f"was replaced: {MOST_TIMEOUTS} requests in a row had no answer within {seconds:g} seconds"

    async def _answers(self, process: ServerProcess) -> str:
        """Take it into service once it answers. Return when it does not within its time, or not any more.

        A model may keep Python from answering while it predicts, and that is no fault as long as a prediction may
        take.
        """
        end = time.monotonic() + self._settings.start_timeout
        while not await ping(process.socket, _PING_SECONDS):
            if time.monotonic() > end:
                return f"did not answer within {self._settings.start_timeout:g} seconds of its start"
            await asyncio.sleep(_STARTING_SECONDS)
        self._ready_at = answered = time.monotonic()
        self.socket = process.socket
        self._changed()
        patience = max(self._settings.timeout, _SILENT_SECONDS)
        while True:
            await asyncio.sleep(_PING_SECONDS)
            if await ping(process.socket, patience):
                answered = time.monotonic()
            elif time.monotonic() - answered > patience:
                return f"was ended, as it did not answer for {patience:g} seconds"

    async def _grows(self, process: ServerProcess, limit: int) -> str:
        """Return when it has more than `limit` bytes of memory, and its turn to be replaced has come.

        Servers that get as many requests leak as much, and are not to go all at once: while none of the others
        answers it goes on, within bounds. It finishes what it has, unless it has grown too far for that.
        """
        size = await self._exceeds(process, limit)
        while not self._can_be_spared and size <= limit * _OUT_OF_TURN:
            await asyncio.sleep(_MEMORY_SECONDS)
            size = await process.memory()
        self.socket = None  # before one of the others looks whether it can be spared
        self._may_finish = size <= limit * _AT_ONCE
        has, may = (f"{number / 2**20:,.0f} MiB" for number in (size, limit))
        return f"was ended, as it had {has} of memory, more than the {may} of --worker-memory"

    async def _exceeds(self, process: ServerProcess, limit: int) -> int:
        """Return once it has more than `limit` bytes of memory, and how many."""
        while True:
            if (size := await process.memory()) > limit:
                return size
            await asyncio.sleep(_MEMORY_SECONDS)

    @property
    def _can_be_spared(self) -> bool:
        others = [place for place in self._fellows if place is not self]
        return not others or any(place.socket for place in others)

    async def _finish(self, process: ServerProcess) -> None:
        """Have it finish what it has, and end it; at once where it grows too far meanwhile."""
        ending = asyncio.create_task(process.end(self._settings.timeout + _PING_SECONDS))
        tasks: list[asyncio.Task[Any]] = [ending]
        if self._settings.worker_memory is not None:
            most = int(self._settings.worker_memory * _AT_ONCE)
            tasks.append(asyncio.create_task(self._exceeds(process, most)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await process.end(0)
