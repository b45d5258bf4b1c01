"""Bearer keys on the proxy: who has one is answered, and the model server never sees it."""

from __future__ import annotations

import json
import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from peers import OK, Proxy, post, proxy, read_head, read_message, upstream
from waiting import PATIENCE, wait_for

KEY = "Authorization: Bearer first-key"


class Server:
    """A model server that notes the heads that it gets."""

    def __init__(self) -> None:
        self.heads: list[tuple[str, list[tuple[str, str]]]] = []

    def handle(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            while True:
                line, fields = read_head(file)
                if not line:
                    return
                length = dict(fields).get("Content-Length", "0")
                file.read(int(length))
                self.heads.append((line, fields))
                connection.sendall(OK)


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def keys(tmp_path) -> Path:
    path = tmp_path / "keys"
    path.write_text("first-key\nsecond-key\n")
    return path


@pytest.fixture
def start(tmp_path, server, keys):
    with ExitStack() as stack:

        def start(*flags: str, log_format: str = "csv") -> Proxy:
            url = stack.enter_context(upstream(server.handle)).url
            return stack.enter_context(
                proxy(tmp_path, url, "--api-key-file", str(keys), *flags, log_format=log_format)
            )

        yield start


def get(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *fields, "", ""]).encode()


def stats(running: Proxy, key: str = "first-key") -> dict:
    status, counted = answered(running, key)
    assert status == 200
    return counted


def answered(running: Proxy, key: str) -> tuple[int, dict]:
    """Return the admin port's status and, where it takes the key, what it counts."""
    from http.client import HTTPConnection

    port = int(running.stderr.split("counts on http://127.0.0.1:")[1].split("/")[0])
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/stats", headers={"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        return answer.status, json.load(answer) if answer.status == 200 else {}
    finally:
        connection.close()


def test_a_key_opens_and_goes_no_further(start, server):
    running = start()
    for field in (KEY, "authorization: bearer second-key"):
        assert running.exchange(post(b"{}", field)).line == "HTTP/1.1 200 OK"
    assert len(server.heads) == 2
    assert "key" not in str(server.heads)
    running.wait_for_files("*.csv", 0)


@pytest.mark.parametrize(
    "field",
    [
        "X: y",
        "Authorization: Bearer other",
        "Authorization: Bearer first-key2",
        "Authorization: Basic first-key",
        "Authorization:",
        "Authorization: Bearer first-key\r\nAuthorization: Bearer first-key",
        "Proxy-Authorization: Bearer first-key",
    ],
)
def test_without_a_key_nothing_reaches_the_server(start, server, field):
    running = start()
    for request in (post(b"{}", field), get("/ping", field), get("/health", field), get("/version", field)):
        answer = running.exchange(request)
        assert answer.line == "HTTP/1.1 401 Unauthorized"
        assert answer.all("WWW-Authenticate") == ["Bearer"]
        assert json.loads(answer.body)["error_code"] == "UNAUTHENTICATED"
    assert server.heads == []
    told = stats(running)
    assert told["unauthorized"] == 4
    assert (told["ledger"]["seen"], told["ledger"]["passed"]) == (0, 0)


def test_a_long_body_without_a_key_is_not_read_to_its_end(start):
    running = start()
    with running.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(post(b"x" * 2**24)[:1000])
        assert read_message(file).line == "HTTP/1.1 401 Unauthorized"


def test_keys_come_and_go_while_a_client_is_connected(start, keys):
    running = start()
    with running.connect() as connection, connection.makefile("rb") as file:
        for _ in range(3):
            connection.sendall(post(b"{}", KEY))
            assert read_message(file).line == "HTTP/1.1 200 OK"
        keys.write_text("second-key\nthird-key\n")
        wait_for(lambda: "changed, and in use from now on" in running.stderr, running.stderr)
        connection.sendall(post(b"{}", KEY))
        assert read_message(file).line == "HTTP/1.1 401 Unauthorized"
    assert running.exchange(post(b"{}", "Authorization: Bearer third-key")).line == "HTTP/1.1 200 OK"
    keys.unlink()
    wait_for(lambda: "stays in use" in running.stderr, running.stderr)
    assert running.exchange(post(b"{}", "Authorization: Bearer third-key")).line == "HTTP/1.1 200 OK"
    assert "-key\n" not in running.stderr
    assert "Traceback" not in running.stderr


def test_all_workers_take_new_keys(start, keys):
    running = start("--workers", "2")
    for _ in range(8):
        assert running.exchange(post(b"{}", KEY)).line == "HTTP/1.1 200 OK"
    os.replace(_written(keys.with_name("next"), "third-key\n"), keys)

    def refused() -> bool:
        return all(" 401 " in running.exchange(post(b"{}", KEY)).line for _ in range(16))

    wait_for(refused, "a worker takes the old key")
    wait_for(lambda: answered(running, "third-key")[0] == 200, "the admin port does not take the new key")
    assert stats(running, "third-key")["unauthorized"] >= 16
    assert running.stderr.count("changed, and in use from now on") == 1


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_admin_port_takes_the_same_keys_or_its_own(start, tmp_path):
    admin = _written(tmp_path / "admin", "admin-key\n")
    running = start("--admin-key-file", str(admin))
    assert stats(running, "admin-key")["ledger"]["seen"] == 0
    assert running.admin("/healthz")[0] == 200
    assert running.admin("/readyz")[0] == 200
    for path in ("/stats", "/metrics", "/upstreams"):
        assert running.admin(path)[0] == 401
    with pytest.raises(AssertionError):
        stats(running, "first-key")
    assert running.exchange(post(b"{}", "Authorization: Bearer admin-key")).line == "HTTP/1.1 401 Unauthorized"


def test_a_key_never_comes_into_the_log(start):
    running = start("--header", "Authorization")
    assert running.process.wait(PATIENCE) == 2
    assert "--header Authorization would write clients' keys into the log" in running.stderr
