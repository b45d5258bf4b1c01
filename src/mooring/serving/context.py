"""What the parts of the controller share: what is known, the way to the front, a thread for all that may hang."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar, TypeVarTuple

from mooring.registry.client import TrackingError
from mooring.serving import models, protocol
from mooring.serving.protocol import Model, Server
from mooring.serving.records import Records
from mooring.serving.registry_watch import Seen
from mooring.serving.start import REPEATED, Start
from mooring.state.database import StateError
from mooring.state.rollouts import RolloutError

logger = logging.getLogger(__name__)

Resource = Literal["state", "registry", "files", "alerts"]
Value = TypeVar("Value")
Arguments = TypeVarTuple("Arguments")


class ControllerContext:
    """What is served, what the registry said last, and how all else is reached.

    `leads` says whether this supervisor may write rollouts down and move aliases; `seen` is None where it may be
    overtaken; `unfit` are the versions that an alias names and that are not tried again as long as it does, and
    why. `not_kept` is told why the state did not take something. All of it is of one event loop.
    """

    def __init__(
        self, start: Start, records: Records, front: asyncio.StreamWriter, not_kept: Callable[[Exception], None]
    ) -> None:
        self.start = start
        self.records = records
        self.not_kept = not_kept
        self.leads = False
        self.served: Model | None = None
        self.servers: dict[str, Server] = {}
        self.seen: Seen | None = None
        self.unfit: dict[str, str] = {}
        self.changed = asyncio.Event()
        """Set when any of that, or the rollout under way, may be another."""
        self.look_now = asyncio.Event()
        """Has the registry looked at without waiting for the next time."""
        self.tasks = asyncio.TaskGroup()
        self._front = front
        self._executors: dict[Resource, ThreadPoolExecutor] = {
            "state": ThreadPoolExecutor(1, "state"),
            "registry": ThreadPoolExecutor(1, "registry"),
            "files": ThreadPoolExecutor(1, "files"),
            "alerts": ThreadPoolExecutor(1, "alerts"),
        }

    def send(self, message: protocol.FromController) -> None:
        """Tell the front something."""
        self._front.write(protocol.pack(message))

    def run(
        self, resource: Resource, work: Callable[[*Arguments], Value], *arguments: *Arguments
    ) -> asyncio.Future[Value]:
        """Do something in the thread of a resource, after what it was given before, whoever awaits that."""
        return asyncio.get_running_loop().run_in_executor(self._executors[resource], work, *arguments)

    def write(self, work: Callable[[*Arguments], None], *arguments: *Arguments) -> None:
        """Have something written to the state, after what was to be written before; nobody waits for it."""
        writing = self.run("state", work, *arguments)

        async def finish() -> None:
            try:
                await writing
            except (StateError, RolloutError) as error:
                self.not_kept(error)

        self.tasks.create_task(finish())

    def attempt(self, resource: Resource, work: Callable[[*Arguments], None], *arguments: *Arguments) -> None:
        """Have something done that may as well fail, which is logged; nobody waits for it."""
        trying = self.run(resource, work, *arguments)

        async def finish() -> None:
            try:
                await trying
            except (TrackingError, StateError, models.BringError) as error:
                logger.warning("%s", error, extra=REPEATED)

        self.tasks.create_task(finish())

    async def written(self) -> None:
        """Return once all is written that was to be until now."""
        await self.run("state", lambda: None)

    async def bring(self, version: str) -> Model:
        """Have a version's files and environment brought here. Raises BringError."""
        start, settings = self.start, self.start.settings
        directory = Path(settings.serve_directory)
        return await self.run("files", models.bring, start.model, version, directory, settings.env_manager)
