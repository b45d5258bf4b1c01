"""Raw answers of tests/conformance/answers through the proxy: what the client gets, and what the next one gets."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator

import pytest

from peers import Proxy, proxy, read_message, upstream
from raw_cases import PAUSE, AnswerCase, Client, answer_cases, fits, unescape

CASES = answer_cases()
LINGER_NOT = b"\1\0\0\0\0\0\0\0"


class Scripted:
    """A model server that answers a request as the case says that its target names, and any other by itself."""

    def __init__(self) -> None:
        self.connections: list[int] = []
        """For each request the connection that it came over."""

    def handle(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection.makefile("rb") as file:
            while (request := read_message(file)).line:
                self.connections.append(id(connection))
                match = re.search(r"case=(\d+)", request.line)
                if match is None:
                    body = request.line.split(" ")[1].encode()
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                elif not self.play(connection, CASES[int(match[1])]):
                    return

    def play(self, connection: socket.socket, case: AnswerCase) -> bool:
        """Send the answer; say whether the connection goes on."""
        for number, piece in enumerate(case.answer):
            if number:
                time.sleep(PAUSE)
            connection.sendall(piece)
        if case.end == "reset":
            time.sleep(PAUSE)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        return case.end == "keep"


@pytest.fixture(scope="module")
def scripted(tmp_path_factory) -> Iterator[tuple[Proxy, Scripted]]:
    script = Scripted()
    with (
        upstream(script.handle) as server,
        proxy(tmp_path_factory.mktemp("answers"), server.url, log_format="parquet") as running,
    ):
        yield running, script
    assert "Traceback" not in running.stderr


@pytest.mark.parametrize("path", ["/x", "/invocations"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_raw_answer(scripted, case, path):
    running, script = scripted
    method = "POST" if case.ask == "GET" and path == "/invocations" else case.ask
    with Client(running.port, method) as client, Client(running.port) as other:
        client.send(
            f"{method} {path}?case={CASES.index(case)} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode()
        )
        client.read(len(case.gets) + (case.then == "broken"))
        assert fits(client.statuses, case.gets), f"{client.statuses} for {case.gets}, closed: {client.closed}"
        assert client.broken == (case.then == "broken")
        used = script.connections[-1]
        assert other.ask(b"GET /others HTTP/1.1\r\nHost: a\r\n\r\n").body == b"/others"
        if case.reused is not None:
            assert (script.connections[-1] == used) == case.reused
        if not case.gets:
            return
        answer = client.answers[-1]
        lines = [name.lower() + b": " + value for name, value in answer.fields]
        for wanted in case.has:
            name, _, value = unescape(wanted).partition(b": ")
            assert name.lower() + b": " + value in lines
        for name in case.lacks:
            assert answer.all(name.lower().encode()) == []
        if case.body is not None:
            assert answer.body == case.body
        # The client's own connection goes on: to it the answer was whole, or the proxy's own.
        assert client.ask(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n").body == b"/next"
