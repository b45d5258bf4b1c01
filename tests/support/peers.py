"""Both ends of the proxy as plain sockets, and the proxy as the process it is."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

from mooring.demo.processes import running
from waiting import PATIENCE, wait_for

OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 22\r\n\r\n{"predictions": [6.0]}'
BODY = b'{"dataframe_split": {"columns": ["pH"], "data": [[3.1]]}}'


class Upstream:
    """A model server of the test's own: `handle` gets each connection's socket, in a thread of its own."""

    def __init__(self, handle: Callable[[socket.socket], None]) -> None:
        self._handle = handle
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        # The proxy may go away first: what is tested is seen on the client's side.
        try:
            self._handle(connection)
        except OSError:
            return
        finally:
            connection.close()

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # closing alone leaves the thread that accepts one more
        self._listening.close()


@contextmanager
def upstream(handle: Callable[[socket.socket], None]) -> Iterator[Upstream]:
    server = Upstream(handle)
    try:
        yield server
    finally:
        server.close()


class Message(NamedTuple):
    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


def read_head(file) -> tuple[str, list[tuple[str, str]]]:
    line = file.readline().decode().rstrip("\r\n")
    headers = []
    while (raw := file.readline()) not in (b"\r\n", b""):
        name, _, value = raw.decode().rstrip("\r\n").partition(": ")
        headers.append((name, value))
    return line, headers


def read_message(file, *, head: bool = False) -> Message:
    """Read one message, its chunked body left as it came over the wire."""
    line, headers = read_head(file)
    fields = {name.lower(): value for name, value in headers}
    status = line.split(" ")[1] if line.startswith("HTTP/") else ""
    if head or status.startswith("1") or status in ("204", "304"):
        return Message(line, headers, b"")
    if fields.get("transfer-encoding") == "chunked":
        body = b""
        while True:
            size = file.readline()
            body += size
            data = file.read(int(size, 16) + 2) if int(size, 16) else b""
            body += data
            if not data:
                while (trailer := file.readline()) != b"\r\n":
                    body += trailer
                return Message(line, headers, body + b"\r\n")
    if "content-length" in fields:
        return Message(line, headers, file.read(int(fields["content-length"])))
    return Message(line, headers, file.read() if line.startswith("HTTP/") else b"")


class Proxy(NamedTuple):
    port: int
    process: object
    directory: Path

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def stderr(self) -> str:
        return (self.directory / "proxy.log").read_text()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def exchange(self, request: bytes, *, head: bool = False) -> Message:
        """Send `request` on a connection of its own, and return the answer."""
        with self.connect() as connection, connection.makefile("rb") as file:
            connection.sendall(request)
            return read_message(file, head=head)

    def admin(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Return status and body of the admin port's answer."""
        pattern = r"counts on http://127\.0\.0\.1:(\d+)/"
        wait_for(lambda: re.search(pattern, self.stderr) is not None, f"no admin port: {self.stderr}")
        connection = HTTPConnection("127.0.0.1", int(re.search(pattern, self.stderr)[1]), timeout=PATIENCE)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def stats(self) -> dict:
        return json.loads(self.admin("/stats")[1])

    def wait_for_files(self, pattern: str, count: int) -> list[Path]:
        wait_for(
            lambda: len(list(self.log.glob(pattern))) >= count,
            f"no {count} {pattern} in {self.log}: {self.stderr}",
        )
        return sorted(self.log.glob(pattern))

    def records(self, count: int) -> list[dict]:
        return [json.loads(path.read_text()) for path in self.wait_for_files("errors/*.json", count)]


@contextmanager
def proxy(
    directory: Path,
    url: str,
    *flags: str,
    log_format: str = "csv",
    env: Mapping[str, str] | None = None,
    under: Sequence[str] = (),
) -> Iterator[Proxy]:
    """Run a proxy; `under` is a command that runs it."""
    command = [sys.executable, "-m", "mooring", "proxy", "--upstream", url, "--port", "0"]
    if env:
        command = ["env", *(f"{name}={value}" for name, value in env.items()), *command]
    command = [*under, *command]
    directory.mkdir(parents=True, exist_ok=True)
    stderr = directory / "proxy.log"
    with running(
        [*command, "--log", str(directory / "log"), "--format", log_format, *flags], directory, stderr
    ) as process:

        def port() -> int | None:
            found = re.search(r"listening on https?://\S+:(\d+) ", stderr.read_text())
            return int(found[1]) if found else None

        wait_for(lambda: port() or process.poll() is not None, "the proxy does not listen")
        yield Proxy(port() or 0, process, directory)  # 0 where it has ended: some are to


def post(body: bytes = BODY, *headers: str, path: str = "/invocations", version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: example", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def answering(answer: bytes) -> Callable[[socket.socket], None]:
    """Return a handler that gives every request of a connection this answer."""

    def handle(connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            while read_message(file).line:
                connection.sendall(answer)

    return handle
