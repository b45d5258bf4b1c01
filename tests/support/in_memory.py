"""The proxy's two halves with transports in memory, so that a search can try thousands of inputs a second.

What is played is a client that sends some bytes, in pieces, and a model server that answers with others. What must
hold whatever they are is checked at the end: the server could read all of it as whole requests, nothing of the
account or the budget is left behind, and no parser, request or connection outlives its connection.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mooring.capture.proxy.client import ClientConnection
from mooring.capture.proxy.context import Context, Routes
from mooring.capture.proxy.interfaces import Carried, Target
from mooring.capture.proxy.security import Security
from mooring.capture.proxy.upstream import ConnectionOwner, UpstreamConnection
from mooring.capture.recorder import Recorder
from mooring.settings import ServeSettings
from strict_http import RequestReader

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"
MOST_ANSWERS = 64
LENGTHS = 4
BETWEEN = b"\xff\xfe\xff"


class Pipe:
    """A transport that keeps what is written. Its socket is one end of a pair that nobody uses."""

    def __init__(self, ends: tuple[socket.socket, socket.socket]) -> None:
        self.protocol: object = None
        self.unsent = 0
        self.written = bytearray()
        self.closing = self.ended = False
        self.reading = True
        self._ends = ends

    def writelines(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self.write(piece)

    def write(self, data: bytes) -> None:
        assert not self.ended, "written after the end"
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def get_extra_info(self, name: str, default: object = None) -> object:
        return {"peername": ("127.0.0.1", 1), "socket": self._ends[0]}.get(name, default)


class Server(Target, ConnectionOwner):
    """The one model server: it answers each request that is there in full with the next of some answers."""

    def __init__(self, world: World) -> None:
        super().__init__("1", None, b"", b"model")
        self.limited = self.tls = self.local = False
        self._world = world
        self.idle: list[tuple[UpstreamConnection, Pipe, RequestReader]] = []
        self.open: list[tuple[UpstreamConnection, Pipe, RequestReader]] = []
        self.seen: list[bytes] = []

    @property
    def up(self) -> bool:
        return True

    @property
    def has_room(self) -> bool:
        return True

    @property
    def waiting(self) -> int:
        return 0

    @property
    def live_waiting(self) -> bool:
        return False

    def leave(self, carried: Carried) -> None: ...

    def hand_over(self, other: Target) -> None: ...

    def sweep(self, now: float) -> None: ...

    def close(self) -> None: ...

    def acquire(self, carried: Carried) -> None:
        self.connect(carried, False)

    def answered(self, connection: UpstreamConnection, status: int) -> None: ...

    def timed_out(self, connection: UpstreamConnection) -> None: ...

    def connect(self, carried: Carried, counted: bool) -> None:
        while self.idle:
            connection, pipe, _ = self.idle.pop()
            if not pipe.closing:
                connection.take(carried)
                return
        connection, pipe = UpstreamConnection(self._world.context, self), Pipe(self._world.ends)
        pipe.protocol = connection
        connection.connection_made(pipe)  # type: ignore[arg-type]
        self.open.append((connection, pipe, RequestReader()))
        connection.take(carried)

    def give_back(self, connection: UpstreamConnection) -> None:
        self.idle += [one for one in self.open if one[0] is connection]

    def forget(self, connection: UpstreamConnection) -> None:
        self.idle = [one for one in self.idle if one[0] is not connection]

    def answer(self, answers: Iterator[list[bytes]]) -> bool:
        """Answer what is there in full; say whether there was anything."""
        did = False
        for one in list(self.open):
            connection, pipe, reader = one
            reader.feed(bytes(pipe.written))
            pipe.written.clear()
            while (request := reader.next()) is not None:
                self.seen.append(request.line[1])
                did = True
                for piece in next(answers, [OK]):
                    if not pipe.closing:
                        connection.data_received(piece)
            if pipe.closing:
                self.open.remove(one)
                connection.connection_lost(None)
        return did


class World:
    """What the connections of one process share."""

    def __init__(self, directory: Path, loop: asyncio.AbstractEventLoop) -> None:
        settings = ServeSettings(log=str(directory / "log"), max_head=4096, max_body=2**20)
        self.loop = loop
        self.ends = socket.socketpair()
        self.recorder = Recorder(settings)
        self.context = Context(settings, self.recorder, loop, Security(settings))

    def turns(self) -> None:
        """Let the loop do what is due, and what follows from that."""
        for _ in range(4):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def play(self, requests: list[bytes], answers: list[list[bytes]], *, leaves: bool = False) -> bytes:
        """Have a client send these pieces; it `leaves` before the last answer. Return what it got."""
        server = Server(self)
        self.context.routes = Routes(server)
        client, pipe = ClientConnection(self.context), Pipe(self.ends)
        pipe.protocol = client  # as a transport knows its protocol: a cycle, while it lasts
        client.connection_made(pipe)  # type: ignore[arg-type]
        coming = iter(answers)
        pieces = list(requests)
        for _ in range(4 * len(pieces) + MOST_ANSWERS):
            if pieces and pipe.reading and not pipe.closing:
                client.data_received(pieces.pop(0))
            answered = not (leaves and not pieces) and server.answer(coming)
            self.turns()
            if not answered and (not pieces or pipe.closing):
                break
        client.connection_lost(None)
        for connection, upstream, _ in server.open:
            upstream.closing = True
            connection.connection_lost(None)
        self.turns()
        self.check(server)
        alive = weakref.ref(client)
        got = bytes(pipe.written)
        del client, pipe
        server.open.clear()
        server.idle.clear()
        assert alive() is None, "a client's connection outlives its end"
        return got

    def check(self, server: Server) -> None:
        """What must hold once all is over."""
        ledger = self.recorder.ledger
        assert ledger.balance == 0, ledger
        assert ledger.in_flight == 0, ledger
        assert self.context.held.held == 0, "bytes are held for nobody"
        assert not self.context.clients
        assert not self.context.upstreams


@contextmanager
def world(directory: Path) -> Iterator[World]:
    """Make a world, without the collector of cycles: what is freed must be free at once."""
    loop = asyncio.new_event_loop()
    made = World(directory, loop)
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield made
    finally:
        if enabled:
            gc.enable()
        made.recorder.close()
        for end in made.ends:
            end.close()
        loop.close()


def split(data: bytes, at: bytes) -> list[bytes]:
    """Return `data` in pieces; each byte of `at` says how long one is."""
    pieces, start = [], 0
    for size in at:
        if start >= len(data):
            break
        pieces.append(data[start : start + size + 1])
        start += size + 1
    return [*pieces, data[start:]] if start < len(data) else pieces


def as_input(requests: bytes, answers: bytes) -> bytes:
    """Return what a client and a server send as one input of a search: in one piece each, and the client stays."""
    return bytes(2 * LENGTHS + 1) + requests + BETWEEN + answers


def play_input(anything: World, data: bytes) -> None:
    """Play an input: how both are split, whether the client leaves, then their bytes with BETWEEN between them."""
    requests, _, answers = data[2 * LENGTHS + 1 :].partition(BETWEEN)
    pieces = (
        split(requests, data[:LENGTHS].rstrip(b"\0")),
        split(answers, data[LENGTHS : 2 * LENGTHS].rstrip(b"\0")),
    )
    anything.play(pieces[0], [pieces[1]] * 2, leaves=data[2 * LENGTHS : 2 * LENGTHS + 1] == b"\1")
