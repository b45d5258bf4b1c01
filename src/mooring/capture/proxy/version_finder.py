"""Which version of the model the log names: asked of a process of its own, again and again until it is known."""

from __future__ import annotations

import asyncio
import json
import logging
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from mooring.capture.proxy.tasks import first_of

logger = logging.getLogger(__name__)
_FIRST_SECONDS = 10.0
"""How long requests wait for the first answer: to load MLflow takes some seconds of it."""
_TIMEOUT_SECONDS = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


class Question(NamedTuple):
    """What the version is asked of, and the command that prints it as JSON."""

    uri: str
    command: list[str]


class VersionFinder:
    """Asks for a version until there is an answer, and calls `known` with it.

    After a failure it asks again, with a pause that doubles up to a minute. It is given up as soon as `needed`
    says that somebody else has named a version.
    """

    def __init__(self, question: Question, needed: Callable[[], bool], known: Callable[[str], None]) -> None:
        self._what = question.uri
        self._command = question.command
        self._needed = needed
        self._known = known
        self._tried = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._find())

    async def wait(self, stop: asyncio.Event) -> None:
        """Return once the first try has ended, or takes too long for requests to wait for it; or on `stop`."""
        await first_of(self._tried.wait(), stop.wait(), seconds=_FIRST_SECONDS)
        if not self._tried.is_set() and not stop.is_set():
            logger.warning(
                "%s: MLflow has not said yet which version that is; until it does, the log names none", self._what
            )

    async def close(self) -> None:
        """Ask no more."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _find(self) -> None:
        pause, said = _FIRST_PAUSE, ""
        while True:
            try:
                version = await self._ask()
                if self._needed():
                    self._known(version)
                    logger.info("%s is version %s, and so says the log from now on", self._what, version)
                self._tried.set()
                return
            except (OSError, ValueError, TimeoutError) as error:
                why = str(error)
            if why != said:
                logger.warning(
                    "%s: %s. It is asked again; until it is known, the log names no version", self._what, why
                )
                said = why
            self._tried.set()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            if not self._needed():
                return

    async def _ask(self) -> str:
        """Return the version. Raises OSError, TimeoutError or ValueError with why it can't be known."""
        # A session of its own: Ctrl-C in a terminal is for the proxy.
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                return await self._heard(process)
        except TimeoutError:
            raise TimeoutError(f"MLflow does not answer within {_TIMEOUT_SECONDS:.0f} seconds") from None
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _heard(self, process: asyncio.subprocess.Process) -> str:
        if process.stdout is None or process.stderr is None:
            raise OSError("its answer can't be read")
        errors = asyncio.ensure_future(process.stderr.read())
        try:
            while line := await process.stdout.readline():
                if version := _version(line):
                    return version  # its end takes as long as its start
            text = (await errors).decode(errors="replace").strip()
        finally:
            errors.cancel()
        raise ValueError(text.rpartition("\n")[2] or "MLflow gave no reason")


def _version(line: bytes) -> str:
    """Return the version that a line says, empty where it says none: MLflow may print anything else, too."""
    try:
        found = json.loads(line)
    except ValueError:
        return ""
    return found if isinstance(found, str) else ""
