"""A model server that notes each request's bounds as a strict reader sees them, and what it can't read."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import uvloop

from strict_http import Malformed, Parsed, RequestReader

PREDICTIONS = b'{"predictions": [6.0]}'
CLIENT = re.compile(rb"client-[0-9a-f]{16}")
"""Marks the bytes of one client: a request with the marks of two is a smuggled one."""


class Seen(NamedTuple):
    connection: int
    message: Parsed

    @property
    def text(self) -> bytes:
        """Method, target and body, as the corpus writes them."""
        method, target = self.message.line
        return b" ".join((method, target, self.message.body) if self.message.body else (method, target))

    @property
    def clients(self) -> set[bytes]:
        return set(CLIENT.findall(self.message.head)) | set(CLIENT.findall(self.message.body))


class Recorder:
    """What has been seen, in the order in which requests were complete. An answer names the client it is for."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.violations: list[str] = []
        self.connections: set[Recorded] = set()
        self.accepted = 0
        self.port = 0
        self._loop = uvloop.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take(self) -> tuple[list[Seen], list[str]]:
        """Return what was seen, and what was wrong, since the last time."""
        seen, self.seen = self.seen, []
        violations, self.violations = self.violations, []
        return seen, violations

    def answer(self, message: Parsed) -> bytes:
        """Return the whole answer to a request."""
        method, _ = message.line
        marks = sorted(set(CLIENT.findall(message.head)))
        mark = b"X-Saw: %b\r\n" % b" ".join(marks) if marks else b""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n"
        return head % (mark, len(PREDICTIONS)) + (b"" if method == b"HEAD" else PREDICTIONS)

    def reply(self, connection: Recorded, message: Parsed) -> None:
        """Answer a request."""
        connection.transport.write(self.answer(message))

    def start(self) -> None:
        self._thread.start()
        self._started.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        async def listen() -> asyncio.Server:
            return await self._loop.create_server(lambda: Recorded(self), "127.0.0.1", 0, backlog=1024)

        server = self._loop.run_until_complete(listen())
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        for connection in self.connections:
            connection.transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


class Recorded(asyncio.Protocol):
    """A connection of the recorder's."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._reader = RequestReader()
        self._continued = False
        self.requests = 0
        self.number = recorder.accepted
        recorder.accepted += 1

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._recorder.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._recorder.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        reader, recorder = self._reader, self._recorder
        reader.feed(data)
        try:
            message = reader.next()
        except Malformed as error:
            self._violation(str(error))
            return
        if message is None:
            head = reader.head
            if head is not None and not self._continued and head.all(b"expect") == [b"100-continue"]:
                self._continued = True
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        recorder.seen.append(Seen(self.number, message))
        self.requests += 1
        self._continued = False
        if reader.buffer:
            # Nobody who keeps one client's bytes apart from another's sends a request before its answer has come.
            self._violation(f"{bytes(reader.buffer[:300])!r} after {message.line}")
            return
        recorder.reply(self, message)

    def _violation(self, what: str) -> None:
        self._recorder.violations.append(f"connection {self.number}: {what}")
        self.transport.abort()


@contextmanager
def recording(recorder: Recorder | None = None) -> Iterator[Recorder]:
    recorder = recorder or Recorder()
    recorder.start()
    try:
        yield recorder
    finally:
        recorder.stop()
