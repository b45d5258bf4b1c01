"""The proxy against scripts for varnishtest, each of which shows one rule of HTTP: tests/conformance/*.vtc.

A script is a server on 127.0.0.1:${port} and clients of ${proxy}; its line `# proxy:` holds flags for the proxy.
"""

from __future__ import annotations

import re
import resource
import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from peers import OK, Proxy, answering, post, proxy, read_head, read_message, upstream
from waiting import PATIENCE, wait_for

SCRIPTS = sorted((Path(__file__).parents[1] / "conformance").glob("*.vtc"))
AT_ONCE = 4


def run(script: Path, directory: Path) -> str:
    """Run a script, and return what is wrong: nothing if it passes."""
    flags = [
        flag
        for line in script.read_text().splitlines()
        if line.startswith("# proxy:")
        for flag in shlex.split(line.removeprefix("# proxy:"))
    ]
    directory.mkdir()
    with socket.socket() as reserved:
        # Bound and not listening: nobody else is given the port, and the script's server may still take it.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        with proxy(directory / "proxy", f"http://127.0.0.1:{port}", *flags) as running:
            macros = {"proxy": f"127.0.0.1:{running.port}", "port": str(port)}
            definitions = [f"-D{name}={value}" for name, value in macros.items()]
            result = subprocess.run(
                ["varnishtest", "-v", "-t", f"{PATIENCE:.0f}", *definitions, script],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={"TMPDIR": str(directory), "PATH": "/usr/sbin:/usr/bin:/bin"},
                check=False,
            )
        stderr = running.stderr
    if result.returncode or "Traceback" in stderr:
        return f"{result.stdout.decode(errors='replace')}\nThe proxy said:\n{stderr}"
    return ""


@pytest.fixture(scope="module")
def results(request, tmp_path_factory) -> Iterator[dict[Path, Future[str]]]:
    """The scripts that are asked for, run a few at a time: most of their time is waiting."""
    directory = tmp_path_factory.mktemp("conformance")
    chosen = [
        item.callspec.params["script"]
        for item in request.session.items
        if getattr(item, "originalname", "") == "test_conformance"
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {script: pool.submit(run, script, directory / script.stem) for script in chosen}


@pytest.mark.skipif(shutil.which("varnishtest") is None, reason="varnishtest is not installed")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_conformance(results, script):
    if wrong := results[script].result():
        pytest.fail(wrong, pytrace=False)


# What varnishtest can't say: many connections, resets, readers that don't read.


@contextmanager
def between(directory: Path, handle, *flags: str) -> Iterator[Proxy]:
    with upstream(handle) as server, proxy(directory, server.url, *flags) as running:
        yield running
    assert "Traceback" not in running.stderr


def echo(connection: socket.socket) -> None:
    with connection.makefile("rb") as file:
        while (request := read_message(file)).line:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.body) + request.body)


def resident(running: Proxy) -> int:
    pages = Path(f"/proc/{running.process.pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def cpu_ns(running: Proxy) -> int:
    """Return for how many nanoseconds the proxy has computed."""
    return int(Path(f"/proc/{running.process.pid}/schedstat").read_text().split()[0])


def test_a_half_closed_client_gets_its_answers(tmp_path):
    with between(tmp_path, echo) as running, running.connect() as client, client.makefile("rb") as file:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + post())
        client.shutdown(socket.SHUT_WR)
        assert file.read().count(b" 200 OK") == 2


def test_many_wishes_for_an_upgrade_in_one_piece(tmp_path):
    wish = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    with between(tmp_path, echo) as running, running.connect() as client, client.makefile("rb") as file:
        client.sendall(wish * 1200)
        assert {read_message(file).line for _ in range(1200)} == {"HTTP/1.1 200 OK"}


def test_an_http_1_0_client_sees_a_reset_where_only_that_says_that_the_answer_is_broken(tmp_path):
    def handle(connection):
        read_message(connection.makefile("rb"))
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")

    with between(tmp_path, handle) as running, running.connect() as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError), client.makefile("rb") as file:
            file.read()


def test_a_trailer_of_many_fields_is_not_summed_up_for_each(tmp_path):
    """Four times as many take about four times as long, not sixteen."""
    with between(tmp_path, echo) as running:

        def computed(fields: int) -> int:
            head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
            before = cpu_ns(running)
            for _ in range(50):
                assert running.exchange(head + b"a:b\r\n" * fields + b"\r\n").line == "HTTP/1.1 200 OK"
            return cpu_ns(running) - before

        computed(100)
        assert computed(960) < 8 * computed(240)


def test_a_client_that_asks_and_does_not_read_is_not_asked_for_more_memory(tmp_path):
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60_000
    answered = 0

    def handle(connection):
        nonlocal answered
        with connection.makefile("rb") as file:
            while read_message(file).line:
                connection.sendall(answer)
                answered += 1

    with between(tmp_path, handle) as running, running.connect() as client, client.makefile("rb") as file:
        before = resident(running)
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3000)
        last = -1
        while last != answered:
            last = answered
            time.sleep(0.3)
        assert answered < 1000
        assert resident(running) - before < 64 * 2**20
        assert sum(len(read_message(file).body) for _ in range(3000)) == 3000 * 60_000


def test_an_answer_nobody_reads_does_not_keep_the_connection_for_ever(tmp_path):
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 30000000\r\n\r\n" + b"x" * 30_000_000

    def handle(connection):
        with connection.makefile("rb") as file:
            while read_message(file).line:
                try:
                    connection.sendall(answer)
                except OSError:
                    given_up.set()
                    raise

    given_up = threading.Event()
    flags = ("--idle-timeout", "0.5", "--upstream-idle-timeout", "0.5", "--receive-timeout", "0.5")
    with between(tmp_path, handle, *flags) as running, running.connect() as client, running.connect() as reader:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        with reader.makefile("rb") as file:
            reader.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert len(read_message(file).body) == 30_000_000
            assert file.read() == b""  # idle
        assert given_up.wait(PATIENCE)
        received = 0
        with suppress(ConnectionResetError):
            while data := client.recv(2**20):
                received += len(data)
        assert received < 30_000_000


def test_an_answer_that_comes_again_without_a_date_gets_that_of_now(tmp_path):
    with between(tmp_path, answering(OK)) as running, running.connect() as client, client.makefile("rb") as file:

        def date() -> str:
            client.sendall(post())
            [value] = read_message(file).all("Date")
            return value

        first = date()
        wait_for(lambda: date() > first, "the answer's Date stands still")


def test_many_that_go_no_further_in_one_piece(tmp_path):
    last = b"TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n"
    with between(tmp_path, echo) as running, running.connect() as client, client.makefile("rb") as file:
        client.sendall(last * 2500)
        answers = [read_message(file) for _ in range(2500)]
    assert {(answer.line, answer.body) for answer in answers} == {
        ("HTTP/1.1 200 OK", b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n")
    }


def test_405_names_what_is_allowed(tmp_path):
    with between(tmp_path, echo) as running:
        answer = running.exchange(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.line == "HTTP/1.1 405 Method Not Allowed"
        assert "POST" in answer.all("Allow")[0]
        port = int(re.search(r"counts on http://127\.0\.0\.1:(\d+)/", running.stderr)[1])
        for method, path, allowed in (
            ("DELETE", "/stats", "GET, HEAD"),
            ("PUT", "/metrics", "GET, HEAD"),
            ("GET", "/model-version/3", "PUT"),
        ):
            connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            connection.request(method, path)
            reply = connection.getresponse()
            assert (reply.status, reply.headers["Allow"]) == (405, allowed)
            assert reply.headers["Date"].endswith("GMT")
            connection.close()


def test_a_slow_server_stops_a_client_that_uploads(tmp_path):
    go_on = threading.Event()

    def handle(connection):
        with connection.makefile("rb") as file:
            read_head(file)
            assert go_on.wait(PATIENCE)
            assert len(file.read(64 * 2**20)) == 64 * 2**20
            connection.sendall(OK)

    with between(tmp_path, handle) as running, running.connect() as client, client.makefile("rb") as file:
        before, sent = resident(running), 0

        def upload() -> None:
            nonlocal sent
            client.sendall(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (64 * 2**20))
            while sent < 64 * 2**20:
                client.sendall(b"x" * 2**16)
                sent += 2**16

        uploading = threading.Thread(target=upload)
        uploading.start()
        last = -1
        while last != sent:
            last = sent
            time.sleep(0.3)
        assert sent < 32 * 2**20
        assert resident(running) - before < 32 * 2**20
        go_on.set()
        assert read_message(file).line == "HTTP/1.1 200 OK"
        uploading.join()


def test_clients_that_reset_in_mid_body_take_nothing_with_them(tmp_path):
    with between(tmp_path, echo) as running:
        for cut in (10, 100, 200):
            for _ in range(10):
                with running.connect() as client:
                    client.sendall(post(b"{" * 200)[: -cut or None])
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert running.exchange(post()).line == "HTTP/1.1 200 OK"


def test_a_thousand_connections_at_once(tmp_path):
    with ExitStack() as stack, many_files(), between(tmp_path, echo) as running:
        clients = [stack.enter_context(running.connect()) for _ in range(1000)]
        for number, client in enumerate(clients):
            client.sendall(post(b"%d" % number, path="/x"))
        for number, client in enumerate(clients):
            with client.makefile("rb") as file:
                assert read_message(file).body == b"%d" % number


@contextmanager
def many_files() -> Iterator[None]:
    """As many open files as are allowed at most, for this process and those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
