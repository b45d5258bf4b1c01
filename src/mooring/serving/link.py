"""The front's end of the line to its controller, which is started anew whenever it has ended."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress

import msgspec

from mooring.serving.protocol import FromController, FromFront, from_controller, pack, unpack
from mooring.serving.start import GAVE_UP, Start

logger = logging.getLogger(__name__)

_MOST_UNSENT = 8 * 2**20
_SHORTEST, _LONGEST = 1.0, 30.0
_END_SECONDS = 10.0


class ControllerGaveUp(Exception):
    """The controller has given up: it has said why."""


class ControllerLink:
    """Runs the controller, hands on what it says, and tells it what it may want to know."""

    def __init__(self, start: Start, handle: Callable[[FromController], None]) -> None:
        self._start = msgspec.json.encode(start)
        self._handle = handle
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None

    def tell(self, message: FromFront) -> bool:
        """Tell the controller something, unless it hasn't read for long or is not there; return whether it was."""
        writer = self._writer
        if writer is None or writer.transport.get_write_buffer_size() > _MOST_UNSENT:
            return False
        writer.write(pack(message))
        return True

    async def run(self) -> None:
        """Keep a controller running. Raises ControllerGaveUp where it gives up."""
        backoff, ever = _SHORTEST, False
        while True:
            try:
                heard = await self._run_once()
            except OSError as error:  # no memory for it, say: clients are answered all the same
                logger.error("the controller can't be started: %s; it is tried again", error)
                backoff = min(2 * backoff, _LONGEST)
                await asyncio.sleep(backoff)
                continue
            ever = ever or heard
            assert self._process is not None
            code = await self._process.wait()
            if code == GAVE_UP and not ever:
                raise ControllerGaveUp
            backoff = _SHORTEST if heard else min(2 * backoff, _LONGEST)
            logger.error("the controller ended with %s, and is started anew; what it wanted last goes on", code)
            await asyncio.sleep(backoff)

    async def _run_once(self) -> bool:
        """Run a controller until it ends; return whether anything was heard of it."""
        ours, theirs = socket.socketpair()
        number = theirs.fileno()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "mooring.serving.controller", str(number)),
                pass_fds=[number],
                stdin=subprocess.PIPE,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        assert self._process.stdin is not None
        self._process.stdin.write(self._start)
        self._process.stdin.close()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        data, heard = bytearray(), False
        with suppress(OSError):
            while piece := await reader.read(2**16):
                data += piece
                for body in unpack(data):
                    heard = True
                    self._hear(body)
        writer, self._writer = self._writer, None
        writer.close()
        return heard

    def _hear(self, body: bytes) -> None:
        try:
            self._handle(from_controller(body))
        except Exception:  # noqa: BLE001 - told whole; those whom the front serves are not to suffer from it
            traceback.print_exc()

    async def close(self) -> None:
        """End the controller, in order if it takes that."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
