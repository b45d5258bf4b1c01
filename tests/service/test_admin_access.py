"""The admin port: by which name it is reached, and who may change where requests go."""

from __future__ import annotations

import json
import re
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from peers import OK, Message, Proxy, answering, post, proxy, read_message, upstream
from waiting import PATIENCE, wait_for

KEY = "Authorization: Bearer a-key"


@pytest.fixture
def start(tmp_path):
    with ExitStack() as stack:

        def start(*flags: str) -> Proxy:
            server = stack.enter_context(upstream(answering(OK)))
            return stack.enter_context(proxy(tmp_path, server.url, *flags, log_format="parquet"))

        yield start


@pytest.fixture
def keys(tmp_path) -> Path:
    path = tmp_path / "admin-keys"
    path.write_text("a-key\n")
    return path


def ask(running: Proxy, head: str, body: bytes = b"", address: str = "127.0.0.1") -> Message:
    """Send a request to the admin port, its head as it stands here."""
    pattern = r"counts on https?://\S+?:(\d+)/"
    wait_for(lambda: re.search(pattern, running.stderr) is not None, f"no admin port: {running.stderr}")
    port = int(re.search(pattern, running.stderr)[1])
    with (
        socket.create_connection((address, port), timeout=PATIENCE) as connection,
        connection.makefile("rb") as file,
    ):
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        return read_message(file)


def status(running: Proxy, line: str, host: str, *fields: str, address: str = "127.0.0.1") -> int:
    head = "\n".join([f"{line} HTTP/1.1", f"Host: {host}", *fields])
    return int(ask(running, head, address=address).line.split(" ")[1])


def test_a_name_of_somebody_else_is_421_whatever_is_asked(start):
    running = start("--labels-token", "hush")
    for line in ("GET /stats", "GET /healthz", "PUT /upstreams", "PUT /model-version/9", "POST /labels"):
        for host in ("evil.example", "evil.example:80", "10.0.0.7", ""):
            assert status(running, line, host) == 421
    assert json.loads(running.admin("/upstreams")[1])[0]["version"] is None
    for host in ("localhost", "127.0.0.1:1", "[::1]"):
        assert status(running, "GET /stats", host) == 200


def test_a_name_that_is_allowed(start):
    running = start("--admin-allowed-host", "metrics.internal")
    assert status(running, "GET /metrics", "metrics.internal:9090") == 200
    assert status(running, "GET /metrics", "metrics.example") == 421


NO_REQUESTS = [
    "GET /stats",
    "GET /stats HTTP/1.1",
    "GET /stats HTTP/1.1\nHost: localhost\nHost: localhost",
    "GET stats HTTP/1.1\nHost: localhost",
    "nonsense",
    "GET /stats HTTP/3\nHost: localhost",
    "PUT /model-version/%ff HTTP/1.1\nHost: localhost",
    "PUT /model-version/%0a HTTP/1.1\nHost: localhost",
    f"PUT /model-version/{'9' * 300} HTTP/1.1\nHost: localhost",
]


def test_what_is_no_request_is_400(start):
    running = start()
    for head in NO_REQUESTS:
        assert ask(running, head).line.startswith("HTTP/1.1 400 "), head


def test_probes_of_http_1_0_without_a_host_are_answered(start):
    assert ask(start(), "GET /healthz HTTP/1.0").line == "HTTP/1.1 200 OK"


def test_a_head_that_is_too_long_is_431(start):
    assert " 431 " in ask(start(), f"GET /stats HTTP/1.1\nHost: localhost\nX: {'x' * 20_000}").line


DEEP = 400_000
NO_UPSTREAMS = [
    "[" * DEEP,
    '[{"url": "http://a:1", "x": ' + "[" * DEEP + "]" * DEEP + "}]",
    '{"a":' * (DEEP // 5),
    '[{"url": "http://a:1 2"}]',
    '[{"url": "http://a:1/ü"}]',
    '[{"url": "http://a:1/\\u0000"}]',
    '[{"url": "http://model..internal:1"}]',
    '[{"url": "http://' + "a" * 300 + '"}]',
    '[{"url": "http://[::1"}]',
    '[{"url": "http://a:1", "weight": 0.05}]',
    '[{"url": "http://a:1", "version": ""}]',
    '[{"url": "http://a:1", "version": "a\\nb"}]',
    b"\xff\xfe",
    "",
]


def test_upstreams_that_are_none_are_400_and_change_nothing(start):
    running = start()
    before = running.admin("/upstreams")
    for body in NO_UPSTREAMS:
        data = body.encode() if isinstance(body, str) else body
        head = f"PUT /upstreams HTTP/1.1\nHost: localhost\nContent-Length: {len(data)}"
        assert ask(running, head, data).line.startswith("HTTP/1.1 400 "), body[:60]
        assert running.admin("/upstreams") == before
    assert running.exchange(post()).line == "HTTP/1.1 200 OK"
    assert "Traceback" not in running.stderr


def test_a_body_without_a_length_or_too_long_is_refused(start):
    running = start()
    assert status(running, "PUT /upstreams", "localhost") == 411
    assert status(running, "PUT /upstreams", "localhost", "Content-Length: ²") == 411
    assert status(running, "PUT /upstreams", "localhost", f"Content-Length: {2**20 + 1}") == 413
    assert status(running, "PUT /upstreams", "localhost", f"Content-Length: {'9' * 5000}") == 413


# On an address that others reach


def test_from_elsewhere_nothing_is_changed_without_a_key(start):
    running = start("--admin-host", "0.0.0.0")
    for line in ("PUT /upstreams", "PUT /model-version/9"):
        answer = ask(running, f"{line} HTTP/1.1\nHost: localhost")
        assert answer.line == "HTTP/1.1 403 Forbidden"
        assert b"--admin-key-file" in answer.body
    for host in ("10.1.2.3:5003", "[fd00::7]", socket.gethostname()):  # a pod's, say
        assert status(running, "GET /readyz", host) == 200
        assert status(running, "GET /metrics", host) == 200
    assert status(running, "GET /metrics", "evil.example") == 421


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_with_keys_all_but_health_takes_one(start, keys, host):
    running = start("--admin-host", host, "--admin-key-file", str(keys), "--model-version", "1")
    for path in ("/healthz", "/readyz"):
        assert status(running, f"GET {path}", "localhost") == 200
        assert status(running, f"PUT {path}", "localhost") == 401
    for line in ("GET /stats", "GET /metrics", "GET /upstreams", "PUT /model-version/2", "GET /", "DELETE /stats"):
        for fields in ([], ["Authorization: Bearer other"], ["Authorization: Basic a-key"]):
            answer = ask(running, "\n".join([f"{line} HTTP/1.1", "Host: localhost", *fields]))
            assert answer.line == "HTTP/1.1 401 Unauthorized"
            assert answer.all("WWW-Authenticate") == ["Bearer"]
    assert status(running, "GET /stats", "localhost", KEY) == 200
    assert status(running, "PUT /model-version/2", "localhost", KEY) == 200
    assert status(running, "PUT /model-version/3", "evil.example", KEY) == 421
    answer = ask(running, f"GET /upstreams HTTP/1.1\nHost: localhost\n{KEY}")
    assert json.loads(answer.body)[0]["version"] == "2"


def labels(running: Proxy, token: str) -> int:
    body = b'{"request_id": "a", "label": 1}'
    head = f"POST /labels HTTP/1.1\nHost: localhost\nAuthorization: Bearer {token}\nContent-Length: {len(body)}"
    return int(ask(running, head, body).line.split(" ")[1])


def test_labels_take_their_token_or_a_key(start, keys):
    running = start("--admin-key-file", str(keys), "--labels-token", "hush")
    assert [labels(running, token) for token in ("hush", "a-key", "other")] == [202, 202, 401]
    assert status(running, "GET /stats", "localhost", "Authorization: Bearer hush") == 401


def test_without_a_token_of_their_own_labels_take_a_key(start, keys):
    running = start("--admin-key-file", str(keys))
    assert [labels(running, token) for token in ("a-key", "", "other")] == [202, 401, 401]


@pytest.mark.parametrize(("flags", "says"), [(["no-such-file"], "can't read"), (["/dev/null"], "no key")])
def test_a_start_without_keys_ends_with_what_to_do(start, flags, says):
    running = start("--admin-key-file", *flags)
    assert running.process.wait(PATIENCE) == 2
    assert says in running.stderr
    assert "Traceback" not in running.stderr


@pytest.mark.parametrize("url", ["http://model..internal:1", f"http://{'a' * 300}", "http://[::1", "http://a b"])
def test_an_upstream_that_is_none_ends_the_start(tmp_path, url):
    with proxy(tmp_path, url) as running:
        assert running.process.wait(PATIENCE) == 2
        assert "Error: " in running.stderr
        assert "Traceback" not in running.stderr
