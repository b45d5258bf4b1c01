"""Many clients at once, good and bad; a model server that stands them; and what a process takes of the machine."""

from __future__ import annotations

import asyncio
import re
import selectors
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from waiting import PATIENCE

_FIELD = re.compile(rb"\r\n(content-length|transfer-encoding|answer-bytes|never):[ ]*([^\r]*)", re.IGNORECASE)
_BYTES = re.compile(rb"\w+ /bytes/([0-9]+) ")
_OK = b'{"predictions": [6.0]}'


class ManyServer:
    """A model server with room for thousands of connections, in one thread.

    It reads each request to its end and answers with a prediction; with as many bytes as the path `/bytes/N` or a
    field `Answer-Bytes` asks for; and never where the request has a field `Never`.
    """

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.open = 0
        """How many connections are open."""
        self.bodies = 0
        """How many bytes of bodies came."""
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._thread.start()

    async def _run(self) -> None:
        server = await asyncio.start_server(self._serve, sock=self._listening, limit=2**20)
        await self._end.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while True:
                await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            self.open -= 1
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        fields = {name.lower(): value for name, value in _FIELD.findall(head)}
        left = int(fields.get(b"content-length", 0))
        while left:
            data = await reader.read(min(left, 2**18))
            if not data:
                raise ConnectionResetError
            left -= len(data)
            self.bodies += len(data)
        if b"transfer-encoding" in fields:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                await reader.readexactly(size + 2)
                self.bodies += size
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass
        if b"never" in fields:
            await self._end.wait()
        path = _BYTES.match(head)
        size = int(path[1] if path else fields.get(b"answer-bytes", len(_OK)))
        lines = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % size
        writer.write(lines + _OK[:size])
        size -= min(size, len(_OK))
        while size > 0:
            writer.write(b" " * min(size, 2**16))
            size -= min(size, 2**16)
            await writer.drain()

    def close(self) -> None:
        """Close all connections, and end the thread."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()


@contextmanager
def many_server() -> Iterator[ManyServer]:
    server = ManyServer()
    try:
        yield server
    finally:
        server.close()


@contextmanager
def crowd(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Connect so many clients; all are closed at the end."""
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))
            client.setblocking(False)
            clients.append(client)
        yield clients


def push(
    clients: Iterable[socket.socket], piece: Callable[[int], bytes], *, quiet: float = 1.0, most: int = 2**40
) -> int:
    """Have each client send what `piece` gives for the bytes that it has sent, until none can send more.

    A client is done where that is nothing, or its connection is broken. That none can is known once nothing was
    taken for `quiet` seconds. Returns the bytes that were sent in all, of which there are not many more than
    `most`.
    """
    total = 0
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_WRITE, 0)
        while selector.get_map() and total < most:
            ready = selector.select(quiet)
            if not ready:
                break
            for key, _ in ready:
                data = piece(key.data)
                try:
                    sent = key.fileobj.send(data) if data else 0
                except BlockingIOError:
                    continue
                except OSError:
                    sent = 0
                if sent:
                    total += sent
                    selector.modify(key.fileobj, selectors.EVENT_WRITE, key.data + sent)
                else:
                    selector.unregister(key.fileobj)
    return total


def repeating(data: bytes) -> Callable[[int], bytes]:
    """Return what sends `data` over and over."""
    many = data * max(2**18 // len(data), 2)
    return lambda sent: many[sent % len(data) :]


def once(data: bytes) -> Callable[[int], bytes]:
    """Return what sends `data`, and no more."""
    view = memoryview(data)
    return lambda sent: view[sent : sent + 2**18]


def statuses(clients: Iterable[socket.socket]) -> Counter[str]:
    """Return how many clients get an answer of which status, empty where the connection ends without one."""
    found: Counter[str] = Counter()
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(PATIENCE)
            assert ready, f"{len(selector.get_map())} clients got no answer, but {found}"
            for key, _ in ready:
                try:
                    data = key.fileobj.recv(2**16)
                except OSError:
                    data = b""
                found[data[9:12].decode()] += 1
                selector.unregister(key.fileobj)
    return found


def reset(clients: Iterable[socket.socket]) -> None:
    """Close connections as of clients that are killed: nothing is read or answered any more."""
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()


def memory(pid: int) -> int:
    """Return the bytes of memory that a process has now."""
    return _status(pid, "VmRSS")


def peak_memory(pid: int) -> int:
    """Return the most bytes of memory that a process has had, since `forget_peak` or its start."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Have the peak counted from here on, where the system lets us."""
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status(pid: int, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
