"""The proxy between plain sockets: what a client sends arrives, what the server answers arrives, all is logged."""

from __future__ import annotations

import gzip
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress

import pytest

from peers import BODY, OK, Message, post, proxy, read_head, read_message, upstream
from waiting import PATIENCE, wait_for


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    """A server that answers OK, and the requests it got; the proxy in front of it."""
    got: list[Message] = []

    def handle(connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            while True:
                request = read_message(file)
                if not request.line:
                    return
                got.append(request)
                connection.sendall(OK)

    with upstream(handle) as server, proxy(tmp_path_factory.mktemp("echo"), server.url) as running:
        yield running, got


@pytest.fixture
def one(tmp_path):
    """Return a function that starts a proxy in front of one handler, and stops both at the end."""
    with ExitStack() as stack:

        def start(handle, *flags):
            server = stack.enter_context(upstream(handle))
            return stack.enter_context(proxy(tmp_path, server.url, *flags))

        yield start


def answering(answer: bytes, *, head: bool = False):
    def handle(connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            while read_message(file, head=head).line:
                connection.sendall(answer)

    return handle


def test_a_body_goes_through_byte_for_byte_and_hop_by_hop_fields_do_not(echo):
    running, got = echo
    body = b'{ "dataframe_split":\n {"columns":["\xc3\xa4 b"],"data":[[1e3]]} }'
    headers = ["Connection: close, X-Hop", "X-Hop: 1", "TE: trailers", "Keep-Alive: 5", "X-Keep: a", "X-Keep: b"]
    answer = running.exchange(post(body, *headers, "X-Forwarded-For: 6.6.6.6", "Via: 1.0 first"))
    request = got[-1]
    assert answer.line == "HTTP/1.1 200 OK"
    assert answer.body == b'{"predictions": [6.0]}'
    assert request.line == "POST /invocations HTTP/1.1"
    assert request.body == body
    assert request.all("X-Keep") == ["a", "b"]
    assert request.all("Via") == ["1.0 first, 1.1 mooring"]
    assert request.all("X-Forwarded-For") == ["127.0.0.1"]
    assert request.all("X-Forwarded-Host") == ["example"]
    assert request.all("X-Forwarded-Proto") == ["http"]
    assert not any(request.all(name) for name in ("X-Hop", "TE", "Keep-Alive", "Connection"))
    assert answer.all("Via") == ["1.1 mooring"]
    assert answer.all("Connection") == ["close"]


def test_the_answer_names_the_file_and_a_clients_own_id_comes_back(echo):
    running, got = echo
    answer = running.exchange(post())
    [request_id] = answer.all("X-Request-Id")
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", request_id)
    [path] = running.wait_for_files(f"{request_id}.csv", 1)
    assert path.read_text() == "prediction,pH\n6.0,3.1\n"
    assert got[-1].all("X-Request-Id") == [request_id]
    assert running.exchange(post(BODY, "X-Request-Id: mine")).all("X-Request-Id") == ["mine"]


def test_a_bare_body_of_mlflow_1_is_rewrapped_however_it_comes(echo):
    running, got = echo
    bare = b' {"columns": ["pH"], "index": [0], "data": [[NaN]]}'
    wrapped = b'{"dataframe_split": ' + bare + b"}"
    running.exchange(post(bare))
    assert got[-1].body == wrapped
    running.exchange(
        post(bare, "Content-Type: application/json; format=pandas-split").replace(
            b"Content-Type: application/json\r\n", b""
        )
    )
    assert got[-1].body == wrapped
    assert got[-1].all("Content-Type") == ["application/json"]
    with running.connect() as connection, connection.makefile("rb") as file:
        head, _, _ = post(bare).partition(b"\r\n\r\n")
        connection.sendall(head + b"\r\n\r\n")
        for byte in bare:
            connection.sendall(bytes([byte]))
        assert read_message(file).line == "HTTP/1.1 200 OK"
    assert got[-1].body == wrapped
    chunked = post(b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    running.exchange(chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (len(bare), bare))
    assert got[-1].body == wrapped
    assert got[-1].all("Transfer-Encoding") == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"columns": ["a"], "data": [[1]], "messages": []}',
        b'{"columns": ["a"], "data": [[1]]',
        b'{"data": [[1]]}',
        b'[{"columns": 1}]',
        b"   ",
        b'{"columnar": 1}',
    ],
)
def test_what_only_resembles_mlflow_1_is_left_alone(echo, body):
    running, got = echo
    running.exchange(post(body))
    assert got[-1].body == body


def test_without_legacy_split_a_bare_body_is_left_alone(one):
    running = one(lambda connection: connection.sendall(echo_body(connection)), "--no-legacy-split")
    bare = b'{"columns": ["pH"], "data": [[1]]}'
    assert running.exchange(post(bare)).body == bare


def echo_body(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as file:
        body = read_message(file).body
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def test_chunks_and_trailers_pass_both_ways(one):
    seen = []

    def handle(connection):
        with connection.makefile("rb") as file:
            seen.append(read_message(file))
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
            b"3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n"
        )

    running = one(handle)
    chunked = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\nX-T: 2\r\n\r\n"
    answer = running.exchange(chunked)
    assert seen[0].body == b"3\r\nxyz\r\n0\r\nX-T: 2\r\n\r\n"
    assert answer.body == b"3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n"


def test_an_event_stream_passes_event_by_event(one):
    go_on = threading.Event()

    def handle(connection):
        with connection.makefile("rb") as file:
            read_message(file)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        assert go_on.wait(PATIENCE)
        connection.sendall(b"data: 2\n\n")

    running = one(handle)
    with running.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
        _, headers = read_head(file)
        assert ("Transfer-Encoding", "chunked") in headers
        assert file.read(14) == b"9\r\ndata: 1\n\n\r\n"
        go_on.set()
        assert file.read(19) == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"


def test_an_http_1_0_client_gets_an_unframed_answer_until_close(one):
    running = one(answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"))
    answer = running.exchange(b"GET / HTTP/1.0\r\n\r\n")
    assert answer.body == b"abc"
    assert answer.all("Connection") == ["close"]


@pytest.mark.parametrize(
    ("request_line", "answer"),
    [
        ("HEAD /", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("GET /", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET /", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
    ],
)
def test_answers_without_a_body_leave_the_connection_usable(one, request_line, answer):
    running = one(answering(answer))
    with running.connect() as connection, connection.makefile("rb") as file:
        for _ in range(3):
            connection.sendall(f"{request_line} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            line, headers = read_head(file)
            assert line.encode() == answer.split(b"\r\n")[0]
            if b"Content-Length" in answer:
                assert any(name == "Content-Length" for name, _ in headers)


def test_pipelined_requests_are_answered_in_their_order(one):
    def handle(connection):
        with connection.makefile("rb") as file:
            while line := read_message(file).line:
                path = line.split(" ")[1].encode()
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(path) + path)

    running = one(handle)
    with running.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(50)))
        assert [read_message(file).body for _ in range(50)] == [b"/%d" % number for number in range(50)]


def test_expect_100_continue(one):
    def handle(connection):
        with connection.makefile("rb") as file:
            _, headers = read_head(file)
            if ("Expect", "100-continue") in headers:
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            file.read(int(dict(headers)["Content-Length"]))
            connection.sendall(OK)

    running = one(handle)
    for path, content_type in (
        ("/other", b"application/json"),
        ("/invocations", b"text/csv"),
        ("/invocations", b""),
    ):
        request = post(BODY, "Expect: 100-continue", path=path)
        if content_type:
            request = request.replace(b"application/json", content_type)
        head, _, body = request.partition(b"\r\n\r\n")
        with running.connect() as connection, connection.makefile("rb") as file:
            connection.sendall(head + b"\r\n\r\n")
            assert read_message(file).line == "HTTP/1.1 100 Continue"
            connection.sendall(body)
            assert read_message(file).line == "HTTP/1.1 200 OK"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 200_000, 431),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    ],
)
def test_what_no_intermediary_may_pass_on_is_refused(echo, request_bytes, status):
    running, got = echo
    before = len(got)
    answer = running.exchange(request_bytes)
    assert answer.line.split(" ")[1] == str(status)
    assert json.loads(answer.body)["message"]
    assert answer.all("Connection") == ["close"]
    assert len(got) == before


def test_targets_are_passed_on_as_they_are(echo):
    running, got = echo
    for sent, arrived in (
        (b"/a%2Fb%20?q=%2F&r=%41", "/a%2Fb%20?q=%2F&r=%41"),
        (b"http://elsewhere:1/x?y", "/x?y"),
        (b"http://elsewhere", "/"),
    ):
        running.exchange(b"GET " + sent + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert got[-1].line == f"GET {arrived} HTTP/1.1"
    running.exchange(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
    assert got[-1].line == "OPTIONS * HTTP/1.1"


def test_an_upgrade_is_ignored_and_the_connection_goes_on(echo):
    running, got = echo
    with running.connect() as connection, connection.makefile("rb") as file:
        for _ in range(2):
            connection.sendall(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            assert read_message(file).line == "HTTP/1.1 200 OK"
            assert got[-1].all("Upgrade") == []


def test_other_paths_are_passed_and_not_logged(echo):
    running, _ = echo
    for path in ("/ping", "/health", "/version", "/invocationsx", "/"):
        answer = running.exchange(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert answer.line == "HTTP/1.1 200 OK"
        assert answer.all("X-Request-Id") == []


def test_the_scoring_path_is_captured_in_whatever_spelling(echo):
    running, got = echo
    answer = running.exchange(post(path="/%69nvocations?x=1"))
    assert got[-1].line == "POST /%69nvocations?x=1 HTTP/1.1"
    running.wait_for_files(f"{answer.all('X-Request-Id')[0]}.csv", 1)


def test_an_error_is_the_servers_own_and_never_a_prediction(one):
    error = b'{"error_code": "BAD_REQUEST", "message": "no"}'
    running = one(
        answering(b"HTTP/1.1 400 Nope\r\nContent-Type: application/json\r\nContent-Length: 46\r\n\r\n" + error)
    )
    answer = running.exchange(post())
    assert (answer.line, answer.body) == ("HTTP/1.1 400 Nope", error)
    [record] = running.records(1)
    assert (record["status"], record["response"], record["request"]) == (400, error.decode(), BODY.decode())
    assert not list(running.log.glob("*.csv"))


def test_a_server_that_is_down_is_502_and_says_so(tmp_path):
    with upstream(lambda connection: None) as server:
        url = server.url
    with proxy(tmp_path, url) as running:
        answer = running.exchange(post())
        assert answer.line == "HTTP/1.1 502 Bad Gateway"
        assert url in json.loads(answer.body)["message"]
        [record] = running.records(1)
        assert record["errors"] == ["upstream_unreachable"]


def test_a_server_that_breaks_off_is_502_or_a_broken_answer(one):
    answers = iter([b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", b"nonsense\r\n\r\n"])

    def handle(connection):
        with connection.makefile("rb") as file:
            read_message(file)
            connection.sendall(next(answers))

    running = one(handle)
    assert running.exchange(post()).line == "HTTP/1.1 502 Bad Gateway"
    with running.connect() as connection:
        connection.sendall(post())
        received = b""
        with suppress(ConnectionResetError):
            while data := connection.recv(1000):
                received += data
        assert not received or received.endswith((b"\r\n\r\n", b"abc"))  # never all ten bytes
    assert running.exchange(post()).line == "HTTP/1.1 502 Bad Gateway"
    records = running.records(2)
    assert {tuple(record["errors"]) for record in records} == {("upstream_failed",)}
    assert not list(running.log.glob("*.csv"))


def test_a_server_that_does_not_answer_is_504(one):
    def handle(connection):
        with connection.makefile("rb") as file:
            read_message(file)
            file.read()

    running = one(handle, "--response-timeout", "0.3")
    assert running.exchange(post()).line == "HTTP/1.1 504 Gateway Timeout"
    assert running.records(1)[0]["errors"] == ["upstream_timeout"]


def test_a_client_that_does_not_finish_is_408(one):
    running = one(answering(OK), "--receive-timeout", "0.3")
    assert running.exchange(b"GET / HTTP/1.1\r\nHo").line == "HTTP/1.1 408 Request Timeout"
    assert running.exchange(post()[:-3]).line == "HTTP/1.1 408 Request Timeout"
    with running.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(post())
        assert read_message(file).line == "HTTP/1.1 200 OK"


def test_idle_connections_are_closed(one):
    running = one(answering(OK), "--idle-timeout", "0.3")
    with running.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(post())
        assert read_message(file).line == "HTTP/1.1 200 OK"
        assert file.read() == b""


def test_a_client_that_goes_away_is_accounted_for(one):
    asked = threading.Event()

    def handle(connection):
        with connection.makefile("rb") as file:
            read_message(file)
            asked.set()
            file.read()

    running = one(handle)
    with running.connect() as connection:
        connection.sendall(post())
        assert asked.wait(PATIENCE)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert running.records(1)[0]["errors"] == ["client_gone"]


def test_a_connection_that_the_server_closed_is_not_used_for_a_post(tmp_path):
    posts, ended = [], []

    def handle(connection):
        with connection.makefile("rb") as file:
            posts.append(read_message(file))
            connection.sendall(OK)
        connection.shutdown(socket.SHUT_RDWR)  # by its end the proxy's side has been told
        ended.append(connection)

    with upstream(handle) as server, proxy(tmp_path, server.url) as running:
        for number in range(1, 21):
            assert running.exchange(post()).line == "HTTP/1.1 200 OK"
            wait_for(lambda number=number: len(ended) == number, "the server does not close")
            assert len(posts) == number


def test_connections_to_the_server_are_kept(one):
    ports = set()

    def handle(connection):
        ports.add(connection.getpeername())
        answering(OK)(connection)

    running = one(handle)
    for _ in range(10):
        assert running.exchange(post()).line == "HTTP/1.1 200 OK"
    assert len(ports) == 1


def test_a_slow_reader_stops_the_sender(one):
    size = 64 * 2**20
    sent = 0

    def handle(connection):
        nonlocal sent
        with connection.makefile("rb") as file:
            read_message(file)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 2**16):
            connection.sendall(b"x" * 2**16)
            sent += 2**16

    running = one(handle)
    with running.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        connection.recv(1)
        stalled_at = -1

        def stalls() -> bool:
            nonlocal stalled_at
            before, stalled_at = stalled_at, sent
            threading.Event().wait(0.3)
            return before == sent

        wait_for(stalls, "the sender goes on although nobody reads")
        assert sent < size // 2
        received = 1
        while data := connection.recv(2**20):
            received += len(data)
            if sent == size and received >= size:
                break
    assert received >= size


def test_a_long_body_is_cut_in_the_log_and_never_in_the_traffic(one):
    long = b'{"dataframe_split": {"columns": ["a"], "data": [' + b"[1]," * 5000 + b"[1]]}}"
    running = one(lambda connection: connection.sendall(echo_body(connection)), "--max-payload", "1000")
    answer = running.exchange(post(long))
    assert answer.body == long
    [path] = running.wait_for_files("payloads/*.json", 1)
    record = json.loads(path.read_text())
    assert record["request"] == long[:1000].decode()
    assert record["errors"] == ["truncated"]


def test_a_compressed_answer_passes_as_it_is_and_is_understood(one):
    packed = gzip.compress(b'{"predictions": [1.5]}')
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    running = one(answering(head + packed))
    answer = running.exchange(post())
    assert answer.body == packed
    assert answer.all("Content-Encoding") == ["gzip"]
    [path] = running.wait_for_files("*.csv", 1)
    assert path.read_text() == "prediction,pH\n1.5,3.1\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_finishes_what_is_in_flight_and_ends_with_0(one, number):
    asked, go_on = threading.Event(), threading.Event()

    def handle(connection):
        with connection.makefile("rb") as file:
            read_message(file)
            asked.set()
            assert go_on.wait(PATIENCE)
            connection.sendall(OK)

    running = one(handle)
    with running.connect() as connection, running.connect() as idle, connection.makefile("rb") as file:
        connection.sendall(post())
        assert asked.wait(PATIENCE)
        running.process.send_signal(number)
        assert idle.recv(1) == b""
        go_on.set()
        answer = read_message(file)
        assert answer.line == "HTTP/1.1 200 OK"
        assert answer.all("Connection") == ["close"]
    assert running.process.wait(PATIENCE) == 0
    assert len(list(running.log.glob("*.csv"))) == 1
    assert "1 exchanges seen, 1 stored" in running.stderr
    assert not [path for path in (running.log / ".spool").iterdir() if path.is_dir()]


def test_kill_9_loses_no_answered_request(tmp_path):
    with upstream(answering(OK)) as server:
        with proxy(tmp_path, server.url) as running:
            ids = [running.exchange(post()).all("X-Request-Id")[0] for _ in range(50)]
            running.process.kill()
            running.process.wait()
        # The drain goes on by itself until the spool is empty.
        assert {path.stem for path in running.wait_for_files("*.csv", 50)} == set(ids)
        wait_for(
            lambda: not [path for path in (running.log / ".spool").iterdir() if path.is_dir()],
            "the drain left the dead proxy's directory",
        )


def test_two_proxies_may_share_one_log(tmp_path):
    with upstream(answering(OK)) as server:
        url, log = server.url, str(tmp_path / "log")
        with proxy(tmp_path / "a", url, "--log", log) as a, proxy(tmp_path / "b", url, "--log", log) as b:
            for each in (a, b) * 10:
                each.exchange(post())
            wait_for(lambda: len(list((tmp_path / "log").glob("*.csv"))) == 20, "not all 20 are in the log")


def test_a_port_that_is_taken_is_one_line(echo):
    running, _ = echo
    command = [sys.executable, "-m", "mooring", "proxy", "--upstream", "http://127.0.0.1:1"]
    result = subprocess.run(
        [*command, "--port", str(running.port)],
        capture_output=True,
        text=True,
        cwd=running.directory,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr == f"Error: can't listen on 127.0.0.1:{running.port}: Address already in use\n"


def test_a_head_that_comes_again_is_understood_as_the_first_time(echo):
    """Other bodies and lengths, pieces, pipelines and MLflow 1 come right by the short way too."""
    running, got = echo
    bare = b'{"columns": ["pH"], "data": [[1]]}'
    todays = b'{"dataframe_split": {"columns": ["pH"], "data": [[%d]]}}'
    same_length = todays % 7
    bare_same_length = bare + b" " * (len(same_length) - len(bare))
    with running.connect() as connection, connection.makefile("rb") as file:
        ids = []

        def ask(data: bytes, *pieces: bytes) -> Message:
            connection.sendall(data)
            for piece in pieces:
                connection.sendall(piece)
            answer = read_message(file)
            assert answer.line == "HTTP/1.1 200 OK"
            assert answer.body == b'{"predictions": [6.0]}'
            ids.extend(answer.all("X-Request-Id"))
            return answer

        for number in range(5):
            ask(post(todays % number))
            assert got[-1].body == todays % number
            assert got[-1].all("X-Request-Id") == ids[-1:]
            assert got[-1].all("X-Forwarded-For") == ["127.0.0.1"]
        ask(post(bare_same_length))
        assert got[-1].body == b'{"dataframe_split": ' + bare_same_length + b"}"
        ask(post(todays % 1000))
        ask(post(same_length)[:-5], same_length[-5:])
        assert got[-1].body == same_length
        ask(post(same_length, "X-Request-Id: mine"))
        assert ids[-1] == "mine"
        ask(post(same_length, "X-Request-Id: other"))
        assert ids[-1] == "other"
        connection.sendall(post(todays % 1) + post(todays % 2))
        for _ in range(2):
            ids += read_message(file).all("X-Request-Id")
        assert [request.body for request in got[-2:]] == [todays % 1, todays % 2]
    assert len(set(ids)) == len(ids)
    for request_id in ids[:5]:
        running.wait_for_files(f"{request_id}.csv", 1)
