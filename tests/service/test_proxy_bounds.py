"""What a proxy may take of its machine is bounded: memory, connections and files, whatever clients do."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from crowds import crowd, many_server, memory, once, peak_memory, push, repeating, reset, statuses
from mooring.capture.proxy.interfaces import Client
from mooring.capture.proxy.listening import bind
from mooring.capture.proxy.routes import parse_upstreams, route
from mooring.capture.proxy.server import Proxy as ProxyProcess
from mooring.capture.proxy.server import serve
from mooring.capture.recorder import Recorder
from mooring.settings import ProxySettings
from peers import BODY, Proxy, post, proxy
from waiting import PATIENCE, wait_for

MB = 2**20
GET = b"GET /ping HTTP/1.1\r\nHost: example\r\n\r\n"
LEGACY = b'{"columns": ["a"], "data": [[1]]' + b" " * 4 * MB + b"}"
NEVER = post(BODY, "Never: 1")


@pytest.fixture(scope="module")
def server():
    with many_server() as running:
        yield running


def settled(running: Proxy) -> dict:
    """Return the account once nothing is in flight; it adds up, and nothing went wrong on the way."""
    wait_for(lambda: running.stats()["since_start"]["in_flight"] == 0, "something stays in flight")
    account = running.stats()["since_start"]
    assert account["balance"] == 0
    assert "Traceback" not in running.stderr, running.stderr
    assert running.exchange(post()).line == "HTTP/1.1 200 OK"
    return account


def test_a_client_that_pipelines_is_read_no_further_than_one_read(server, tmp_path):
    with proxy(tmp_path, server.url) as running, crowd(running.port, 40) as clients:
        running.stats()
        before = memory(running.process.pid)
        # Behind a request that is never answered, each sends whatever the sockets take.
        push(clients, once(NEVER))
        wait_for(lambda: running.stats()["since_start"]["in_flight"] == 40, "not all have come")
        assert push(clients, repeating(GET), most=100 * MB) > 40 * 2 * 2**16
        assert peak_memory(running.process.pid) - before < 40 * 100_000 + 4 * MB
        reset(clients)
        assert settled(running)["errors"] == {"client_gone": 40}


def test_pipelined_requests_are_all_answered_though_none_is_read_ahead(server, tmp_path):
    with proxy(tmp_path, server.url) as running, running.connect() as client:
        client.sendall(post() * 2000)
        with client.makefile("rb") as file:
            text = file.read(len(b'{"predictions": [6.0]}') * 2000)
            assert text.startswith(b"HTTP/1.1 200")
        reset([client])
        settled(running)


@pytest.mark.parametrize("piece", [b"a:\r\n", b"te:a\r\n"])
def test_a_head_of_thousands_of_short_fields_takes_little_memory(server, tmp_path, piece):
    head = b"GET / HTTP/1.1\r\nHost: example\r\n" + piece * (60_000 // len(piece))
    with proxy(tmp_path, server.url) as running, crowd(running.port, 40) as clients:
        running.stats()
        before = memory(running.process.pid)
        push(clients, once(head))
        running.stats()
        assert peak_memory(running.process.pid) - before < 40 * 200_000 + 4 * MB
        # Complete, it has too many fields, whether they are passed on or not.
        push(clients, once(b"\r\n"))
        assert statuses(clients) == Counter({"431": 40})
        settled(running)


def test_chunks_of_a_byte_take_no_more_than_their_bytes(server, tmp_path):
    head = b"POST /x HTTP/1.1\r\nHost: example\r\nTransfer-Encoding: chunked\r\n\r\n"
    with proxy(tmp_path, server.url) as running, crowd(running.port, 20) as clients:
        running.stats()
        before = memory(running.process.pid)
        push(clients, once(head + b"2\r\nab\r\n" * 30_000 + b"0\r\n\r\n"))
        assert statuses(clients) == Counter({"200": 20})
        assert peak_memory(running.process.pid) - before < 20 * 200_000 + 4 * MB
        settled(running)


def test_beyond_max_held_what_must_be_held_gets_503_and_what_streams_goes_on(server, tmp_path):
    # A body of MLflow 1's form is held until it is there; each counts as it is, and as it is logged.
    with proxy(tmp_path, server.url, "--max-held", str(20 * MB), "--segment-seconds", "0.2") as running:
        with crowd(running.port, 12) as clients:
            running.stats()
            before = memory(running.process.pid)
            # All but the last byte: none of them can go on.
            push(clients, once(post(LEGACY)[:-1]))
            wait_for(lambda: sum(map(answered, clients)) >= 7, "too few are refused")
            refused = [client for client in clients if answered(client)]
            assert len(refused) < 12
            assert peak_memory(running.process.pid) - before < 20 * MB * 9 // 8 + 12 * MB
            for client in refused:
                text = client.recv(2**16)
                assert text.startswith(b"HTTP/1.1 503 ")
                assert b"\r\nRetry-After: 1\r\n" in text
            # Another needs no room: it passes while it comes.
            assert running.exchange(post(b'{"dataframe_split": ' + b" " * 25 * MB + b"}")).line.endswith("200 OK")
            waiting = [client for client in clients if not answered(client)]
            push(waiting, once(b"}"))
            found = statuses(waiting)
            assert set(found) <= {"200", "503", ""}
            assert found["200"] >= 1  # each that gets 503 makes room
            reset(clients)
        assert settled(running)["errors"]["truncated"] >= 1
        # Of what streamed the log has the beginning.
        cut = json.loads(running.wait_for_files("payloads/*.json", 1)[0].read_text())
        assert cut["status"] == 200
        assert cut["reason"].startswith("truncated")


def answered(client: socket.socket) -> bool:
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_a_body_of_mlflow_1_over_legacy_max_bytes_passes_as_it_is(server, tmp_path):
    def length(body: bytes) -> int:
        before = server.bodies
        assert running.exchange(post(body)).line == "HTTP/1.1 200 OK"
        return server.bodies - before

    small, large = (b'{"columns": ["a"], "data": [[1]]' + b" " * size + b"}" for size in (100_000, 300_000))
    with proxy(tmp_path, server.url, "--legacy-max-bytes", "200000") as running:
        assert length(small) == len(small) + len('{"dataframe_split": }')
        assert length(large) == len(large)
        settled(running)


@pytest.mark.parametrize(
    "data",
    [
        b"NaN," * MB + b"1",
        b"[" * MB + b"]" * MB,
        b"[" * 900 + b"],[" * MB + b"]" * 900,
        b'"\\u00e9",' * (MB // 2) + b'""',
        b"1" * 3 * MB,
    ],
    ids=["NaN", "deep", "nested", "strings", "digits"],
)
def test_a_body_of_mlflow_1_over_1_mb_is_looked_at_aside(server, tmp_path, data):
    """Whatever it holds, it is passed on: as it is where it can't be parsed."""
    body = b'{"columns": ["a"], "data": [[' + data + b"]]}"
    with proxy(tmp_path, server.url) as running:
        assert running.exchange(post(body)).line == "HTTP/1.1 200 OK"
        settled(running)


def test_beyond_max_connections_clients_get_503_until_one_has_left(server, tmp_path):
    with proxy(tmp_path, server.url, "--max-connections", "5") as running, crowd(running.port, 5) as clients:
        wait_for(lambda: running.stats()["clients"] == 5, "not all are connected")
        with crowd(running.port, 3) as more:
            assert statuses(more) == Counter({"503": 3})
        assert "see --max-connections" in running.stderr
        push(clients, once(post()))
        assert statuses(clients) == Counter({"200": 5})
        clients[0].close()
        wait_for(lambda: running.stats()["clients"] == 4, "who has left keeps a place")
        settled(running)


def test_beyond_max_upstream_connections_requests_get_503_and_retry_after(server, tmp_path):
    with proxy(tmp_path, server.url, "--max-upstream-connections", "3") as running:
        with crowd(running.port, 3) as clients:
            push(clients, once(NEVER))
            wait_for(lambda: running.stats()["upstreams"] == 3, "not all are asked")
            answer = running.exchange(post())
            assert answer.line == "HTTP/1.1 503 Service Unavailable"
            assert answer.all("Retry-After") == ["1"]
            assert "see --max-upstream-connections" in running.stderr
            reset(clients)
            wait_for(lambda: running.stats()["upstreams"] == 0, "connections are kept")
        assert settled(running)["errors"]["client_gone"] == 3


@pytest.mark.parametrize("requests", [GET, NEVER], ids=["idle", "busy"])
def test_at_the_end_of_file_descriptors_the_admin_port_answers_and_says_so(server, tmp_path, requests):
    few = ("sh", "-c", 'ulimit -n 64; exec "$@"', "sh")
    with proxy(tmp_path, server.url, under=few) as running:
        with crowd(running.port, 200) as clients:
            push(clients, once(requests))
            wait_for(lambda: running.stats()["clients"] > 0, "nobody is connected")
            assert "`ulimit -n`" in running.stderr
            assert running.stats()["since_start"]["balance"] == 0
            assert running.admin("/readyz") == (200, "ready\n")
            reset(clients)
        wait_for(lambda: running.stats()["clients"] == 0, "who has left keeps a place")
        settled(running)


def test_clients_that_are_reset_while_nothing_is_read_from_them_are_noticed(server, tmp_path):
    with proxy(tmp_path, server.url) as running:
        with crowd(running.port, 10) as clients:
            push(clients, once(NEVER))
            wait_for(lambda: running.stats()["upstreams"] == 10, "not all are asked")
            push(clients, repeating(GET), most=100 * MB)
            reset(clients)
        wait_for(lambda: running.stats()["clients"] == 0, "they are not noticed")
        wait_for(lambda: running.stats()["upstreams"] == 0, "the model server is still asked")
        assert settled(running)["errors"] == {"client_gone": 10}


def test_what_clients_invent_fills_no_table(server, tmp_path):
    """Names of fields, their values, paths, hosts and request ids: after more of them there is no more memory."""

    def request(number: int) -> bytes:
        many = "".join(f"X-{number}-{at}-{'n' * 100}: {'v' * 100}\r\n" for at in range(100))
        return (
            f"POST /invocations?{number} HTTP/1.1\r\nHost: host{number}.example:{number % 60_000 + 1}\r\n"
            f"X-Request-Id: id-{number}\r\nX-User: {number}\r\nContent-Type: text/x-{number}\r\n{many}"
            f"Content-Length: 2\r\n\r\n{{}}"
        ).encode()

    versions = ["--upstream", f"2:1={server.url.replace('127.0.0.1', 'localhost')}", "--sticky", "X-User"]
    with proxy(tmp_path, f"1:1={server.url}", *versions, "--durability", "none") as running:
        sizes = []
        for round_ in range(3):
            with running.connect() as client, client.makefile("rb") as file:
                for number in range(300):
                    client.sendall(request(1000 * round_ + number))
                    assert file.readline() == b"HTTP/1.1 200 OK\r\n"
                    while file.readline() != b"\r\n":
                        pass
                    assert file.read(22)
            sizes.append(memory(running.process.pid))
        # Each round brings 6 MB of names and values that are new.
        assert sizes[2] - sizes[1] < 2 * MB, sizes
        assert len(running.stats()["answers"]) == 2
        settled(running)


def test_methods_that_clients_invent_are_refused(server, tmp_path):
    with proxy(tmp_path, server.url) as running:
        for number in range(50):
            method = f"X{number}".encode()
            assert running.exchange(method + b" / HTTP/1.1\r\nHost: example\r\n\r\n").line.startswith(
                "HTTP/1.1 400 "
            )
        settled(running)


def test_of_requests_to_a_host_that_is_none_nothing_stays_in_flight(tmp_path):
    with proxy(tmp_path, "http://no-such-host.invalid", "--connect-timeout", "2") as running:
        for request in (post(), GET, post(LEGACY)):
            assert running.exchange(request).line.split(" ")[1] in ("502", "504")
        stats = running.stats()
        assert (stats["clients"], stats["upstreams"]) == (0, 0)
        assert (stats["since_start"]["in_flight"], stats["since_start"]["balance"]) == (0, 0)
        assert "Traceback" not in running.stderr


@pytest.fixture
def closed_directory():
    """A directory in which nobody can make anything, root neither."""
    return Path("/proc/self")


def test_with_log_and_spool_read_only_clients_get_their_answers(server, tmp_path, closed_directory):
    flags = ["--log", str(closed_directory / "log"), "--spool", str(closed_directory / "spool")]
    with proxy(tmp_path, server.url, *flags) as running:
        with crowd(running.port, 20) as clients:
            push(clients, once(post()))
            assert statuses(clients) == Counter({"200": 20})
        wait_for(lambda: running.stats()["since_start"]["in_flight"] == 0, "something stays in flight")
        account = running.stats()["since_start"]
        assert account["dropped"] == {"spool_unwritable": 20}
        assert account["balance"] == 0
        assert running.admin("/readyz")[0] == 503
        assert "nothing can be stored now" in running.stderr
        assert "Traceback" not in running.stderr


# What a connection held


KINDS = (
    "ClientConnection",
    "UpstreamConnection",
    "ProxiedRequest",
    "ExchangeCapture",
    "HttpRequestParser",
    "HttpResponseParser",
)


def alive() -> Counter[str]:
    """Return how many there are of what a connection holds, found without any collection of cycles."""
    return Counter(name for one in gc.get_objects() if (name := type(one).__name__) in KINDS)


async def ask(port: int, data: bytes, *, part: bool = False, rst: bool = False) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    answer = b"" if part else await reader.readuntil(b"\r\n")
    if rst:
        reset([writer.get_extra_info("socket").dup()])
        writer.transport.abort()
    writer.close()
    return answer


def abort(clients: Iterable[Client]) -> None:
    for client in list(clients):
        client.abort()


async def until(condition: Callable[[], bool], failure: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{failure}: {alive()}"
        await asyncio.sleep(0.02)


CASES = {
    "answered": post(),
    "get": GET,
    "refused": b"GET / HTTP/1.1\r\n\r\n",
    "refused in its head": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * 2000 + b"\r\n",
    "not http": b"\x16\x03\x01 what is this\r\n\r\n",
    "chunked": b"POST /invocations HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n\r\n",
    "bad chunk": b"POST /invocations HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "legacy": post(LEGACY),
    "upgrade": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
}
UNFINISHED = {
    "half a head": b"GET / HTTP/1.1\r\nHost",
    "half a body": post()[:-10],
    "half a body of MLflow 1": post(LEGACY)[:-10],
    "pipelined": NEVER + GET * 100,
    "never answered": NEVER,
}


def test_what_a_closed_connection_held_is_free_at_once(server, tmp_path):
    """Without any collection of cycles nothing is left of it, be it answered, refused or broken off."""
    settings = ProxySettings(upstream=(server.url,), log=str(tmp_path / "log"), port=0, upstream_idle_timeout=0.2)

    async def run() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        running = ProxyProcess(settings, Recorder(settings), loop)
        context = running.context
        route(context, parse_upstreams(settings.upstream))
        listening = bind(settings)
        listening.listen()
        port = listening.getsockname()[1]
        serving = loop.create_task(serve(running, listening, stop))
        for name, data in [*CASES.items(), *UNFINISHED.items()]:
            for rst in (False, True):
                assert bool(await ask(port, data, part=name in UNFINISHED, rst=rst)) is (name in CASES)
            if name in ("pipelined", "never answered"):  # one that only says no more waits for its answer
                abort(context.clients)
            await until(lambda: not context.clients and not context.upstreams, f"{name}: a connection is open")
            await until(lambda: alive() == before, f"{name}: something is left")
            assert running.recorder.ledger.in_flight == 0
            assert context.held.held == 0
        stop.set()
        await serving

    gc.collect()
    gc.disable()
    try:
        before = alive()
        if sys.platform == "win32":
            asyncio.run(run())
        else:
            import uvloop

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(run())
    finally:
        gc.enable()
