"""Servers with so many requests at a time: what a canary has no room for, or dies over, the champion answers."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from mooring.capture.proxy.address import of_socket, of_url
from mooring.capture.proxy.backend import Backend
from mooring.capture.proxy.listening import bind
from mooring.capture.proxy.server import Proxy, serve
from mooring.capture.recorder import Recorder
from mooring.settings import ServeSettings
from peers import OK, Message, answering, post, read_head, read_message, upstream
from waiting import PATIENCE, wait_for


class Told:
    """A watcher that remembers what it was told."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, int]] = []

    def answered(self, capture) -> None:
        self.outcomes.append((capture.variant, capture.status))

    def shadow(self, capture, live) -> None:
        self.outcomes.append(("shadow", capture.status))

    def shadow_dropped(self) -> None:
        self.outcomes.append(("dropped", 0))


class Running:
    """A front with two versions, of which the canary gets all requests."""

    def __init__(self, proxy: Proxy, port: int, told: Told) -> None:
        self.proxy, self.port, self.told = proxy, port, told

    def ask(self, body: bytes = b"{}", *headers: str) -> Message:
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as client:
            client.sendall(post(body, *headers))
            with client.makefile("rb") as file:
                while (answer := read_message(file)).line == "HTTP/1.1 100 Continue":
                    pass
                return answer


@contextmanager
def fronting(
    directory: Path, champion: str, canary: str, queue: int = 0, patience: float = 20.0
) -> Iterator[Running]:
    """Run a front; a server is a URL, or the path of a Unix socket."""
    settings = ServeSettings(log=str(directory / "log"), port=0, queue=queue, drain_timeout=1.0)
    listening = bind(settings)
    listening.listen()
    found: list[Running] = []
    ready = threading.Event()
    end: list[Callable[[], object]] = []

    async def run() -> None:
        loop, stop, told = asyncio.get_running_loop(), asyncio.Event(), Told()
        proxy = Proxy(settings, Recorder(settings), loop)
        backends = [
            Backend(
                proxy.context,
                version,
                [of_url(at) if at.startswith("http") else of_socket(at)],
                limit=1,
                queue=queue,
                patience=patience,
            )
            for version, at in (("1", champion), ("2", canary))
        ]
        proxy.routes.set(backends[0], [(1.0, backends[1])])
        proxy.journal.watcher = told
        end.append(lambda: loop.call_soon_threadsafe(stop.set))
        found.append(Running(proxy, listening.getsockname()[1], told))
        ready.set()
        await serve(proxy, listening, stop)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        yield found[0]
    finally:
        end[0]()
        thread.join()


def version(answer: Message) -> str:
    assert answer.line == "HTTP/1.1 200 OK", answer
    return answer.all("X-Model-Version")[0]


def test_what_a_canary_that_hangs_has_no_room_for_the_champion_answers(tmp_path):
    go_on = threading.Event()

    def hanging(connection: socket.socket) -> None:
        read_message(connection.makefile("rb"))
        assert go_on.wait(PATIENCE)
        connection.sendall(OK)

    with ExitStack() as stack:
        urls = [stack.enter_context(upstream(handle)).url for handle in (answering(OK), hanging)]
        running = stack.enter_context(fronting(tmp_path, *urls))
        with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as client:
            client.sendall(post())
            wait_for(lambda: running.proxy.recorder.ledger.in_flight == 1, "it has not come")
            assert [version(running.ask()) for _ in range(5)] == ["1"] * 5
            go_on.set()
            assert version(read_message(client.makefile("rb"))) == "2"
        # A fault of the canary's, as the champion had room all the time.
        wait_for(lambda: running.told.outcomes.count(("canary", 0)) == 5, "the watcher is not told")
        assert running.proxy.recorder.ledger.balance == 0


def test_what_a_canary_took_with_it_the_champion_answers_however_large(tmp_path):
    def dying(connection: socket.socket) -> None:
        read_message(connection.makefile("rb"))

    with ExitStack() as stack:
        urls = [stack.enter_context(upstream(handle)).url for handle in (answering(OK), dying)]
        running = stack.enter_context(fronting(tmp_path, *urls))
        assert version(running.ask(b"x" * 2_000_000)) == "1"
        assert version(running.ask(b"x" * 2_000_000, "Expect: 100-continue")) == "1"
        wait_for(lambda: running.told.outcomes.count(("canary", 0)) == 2, "the watcher is not told")
        assert running.proxy.recorder.ledger.errors == {"canary_lost": 2}


def test_a_canary_that_nobody_listens_for_is_passed_over(tmp_path):
    with socket.socket() as reserved, ExitStack() as stack:
        reserved.bind(("127.0.0.1", 0))  # and does not listen
        champion = stack.enter_context(upstream(answering(OK))).url
        running = stack.enter_context(
            fronting(tmp_path, champion, f"http://127.0.0.1:{reserved.getsockname()[1]}")
        )
        assert [version(running.ask()) for _ in range(3)] == ["1"] * 3


def test_an_upload_takes_a_server_only_once_it_is_there(tmp_path):
    with ExitStack() as stack:
        urls = [stack.enter_context(upstream(answering(OK))).url for _ in range(2)]
        running = stack.enter_context(fronting(tmp_path, *urls))
        request = post(b"x" * 1_000_000)
        with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as slow:
            slow.sendall(request[:-10])
            wait_for(lambda: running.proxy.recorder.ledger.in_flight == 1, "it has not come")
            assert version(running.ask()) == "2"
            slow.sendall(request[-10:])
            assert version(read_message(slow.makefile("rb"))) == "2"
        wait_for(lambda: running.told.outcomes == [("canary", 200)] * 2, "the watcher is not told")


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def say_no_more(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)


def ask_again_and_say_no_more(client: socket.socket) -> None:
    client.sendall(post())
    client.shutdown(socket.SHUT_WR)


LEAVE = (reset, socket.socket.close, say_no_more, ask_again_and_say_no_more)
"""What a client does that gives up: it may look as one that waits for its answer and says nothing further."""


def test_clients_that_have_left_keep_no_place_in_the_queue(tmp_path):
    go_on = threading.Event()

    def hanging(connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            while read_message(file).line:
                assert go_on.wait(PATIENCE)
                connection.sendall(OK)

    with ExitStack() as stack:
        urls = [stack.enter_context(upstream(hanging)).url for _ in range(2)]
        running = stack.enter_context(fronting(tmp_path, *urls, queue=2))
        ledger = running.proxy.recorder.ledger
        waiting = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(6)]
        for number, client in enumerate(waiting, 1):
            client.sendall(post())
            wait_for(lambda number=number: ledger.in_flight == number, "it has not come")
        # The first has the canary's server, two wait for that, the fourth has the champion's, two wait for that.
        begun, queued = waiting[::3], [*waiting[1:3], *waiting[4:]]
        for client, how in zip(queued, LEAVE, strict=True):
            how(client)
        wait_for(lambda: ledger.in_flight == 2, "it is not noticed that they have left")
        with socket.create_connection(("127.0.0.1", running.port)) as client:
            client.sendall(post())
            wait_for(lambda: ledger.in_flight == 3, "it has not come")
            go_on.set()
            assert read_message(client.makefile("rb")).line == "HTTP/1.1 200 OK"
        for client in begun:
            client.close()


def test_a_client_that_has_said_all_gets_an_answer_that_is_under_way(tmp_path):
    go_on = threading.Event()

    def hanging(connection: socket.socket) -> None:
        read_message(connection.makefile("rb"))
        assert go_on.wait(PATIENCE)
        connection.sendall(OK)

    with ExitStack() as stack:
        urls = [stack.enter_context(upstream(hanging)).url for _ in range(2)]
        running = stack.enter_context(fronting(tmp_path, *urls))
        with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as client:
            client.sendall(post())
            wait_for(lambda: running.proxy.recorder.ledger.in_flight == 1, "it has not come")
            client.shutdown(socket.SHUT_WR)
            assert client.recv(0) == b""
            go_on.set()
            assert version(read_message(client.makefile("rb"))) == "2"


def test_once_clients_give_up_in_the_queue_the_newest_comes_first_until_it_is_empty(tmp_path):
    go_on = threading.Semaphore(0)
    begun: list[bytes] = []

    def noting(connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            while (message := read_message(file)).line:
                begun.append(message.body)
                assert go_on.acquire(timeout=PATIENCE)
                connection.sendall(OK)

    with ExitStack() as stack:
        urls = [stack.enter_context(upstream(noting)).url for _ in range(2)]
        running = stack.enter_context(fronting(tmp_path, *urls, queue=4))
        running.proxy.routes.set(running.proxy.routes.champion)
        ledger = running.proxy.recorder.ledger

        def clients(*bodies: bytes) -> list[socket.socket]:
            made = []
            for body in bodies:
                before = ledger.seen
                client = stack.enter_context(socket.create_connection(("127.0.0.1", running.port)))
                client.sendall(post(body))
                wait_for(lambda before=before: ledger.seen == before + 1, "it has not come")
                made.append(client)
            return made

        def answered(*some: socket.socket) -> None:
            for client in some:
                go_on.release()
                assert version(read_message(client.makefile("rb"))) == "1"

        a, b, c, d = clients(b"a", b"b", b"c", b"d")
        answered(a, b)
        e, f = clients(b"e", b"f")
        e.close()
        wait_for(lambda: ledger.in_flight == 3, "it is not noticed that it has left")
        answered(c)
        answered(f, d)
        assert begun == [b"a", b"b", b"c", b"f", b"d"]
        g, h, i = clients(b"g", b"h", b"i")
        answered(g, h, i)
        assert begun[5:] == [b"g", b"h", b"i"]


# Connections to servers of this machine


class UnixServer:
    """A model server on a Unix socket, whose connections `handle` gets one after the other, with their number."""

    def __init__(self, path: Path, handle: Callable[[socket.socket, int], None]) -> None:
        self.path = str(path)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.path)
        self._listening.listen()
        self._handle = handle
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        number = 0
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                with connection:
                    self._handle(connection, number)
                number += 1

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@contextmanager
def on_unix_sockets(directory: Path, handle: Callable[[socket.socket, int], None], **options) -> Iterator[Running]:
    """Run a front with a champion that answers, and a canary that `handle` is."""

    def answers(connection: socket.socket, number: int) -> None:
        with connection.makefile("rb") as file:
            while read_message(file).line:
                connection.sendall(OK)

    servers = [UnixServer(directory / "1", answers), UnixServer(directory / "2", handle)]
    try:
        with fronting(directory, *(server.path for server in servers), **options) as running:
            yield running
    finally:
        for server in servers:
            server.close()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path is short enough for a Unix socket's."""
    with tempfile.TemporaryDirectory(prefix="m-") as directory:
        yield Path(directory)


def test_no_connection_is_used_again_after_a_5xx(short_path):
    def failing(connection: socket.socket, number: int) -> None:
        with connection.makefile("rb") as file:
            read_message(file)
            connection.sendall(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
            assert file.read() == b""  # as it is closed by the front

    with on_unix_sockets(short_path, failing) as running:
        lines = [running.ask().line for _ in range(5)]
        assert lines == ["HTTP/1.1 500 Internal Server Error"] * 5
        wait_for(lambda: running.told.outcomes == [("canary", 500)] * 5, "the watcher is not told")


@pytest.mark.parametrize("size", [2, 3_000_000], ids=["small", "larger than a socket holds"])
def test_what_a_server_closed_unread_is_sent_again_and_is_no_fault_of_its(short_path, size):
    """Each connection has one answer, and is closed without a word while the next request comes."""

    def one_answer(connection: socket.socket, number: int) -> None:
        with connection.makefile("rb", buffering=0) as file:
            read_message(file)
            connection.sendall(OK)
            select.select([connection], [], [], PATIENCE)

    with on_unix_sockets(short_path, one_answer) as running:
        for _ in range(4):
            assert version(running.ask(b"x" * size)) == "2"
        wait_for(lambda: len(running.told.outcomes) == 4, "the watcher is not told")
        assert running.told.outcomes == [("canary", 200)] * 4
        assert running.proxy.recorder.ledger.errors == {}


# Servers that hang

TIMED_OUT = b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("answers", "hangs"),
    [
        ([TIMED_OUT] * 2, False),
        ([TIMED_OUT] * 3, True),
        ([TIMED_OUT, TIMED_OUT, OK, TIMED_OUT, TIMED_OUT], False),
        ([TIMED_OUT, TIMED_OUT, OK.replace(b"200 OK", b"500 Oh"), TIMED_OUT], False),
        ([TIMED_OUT, OK.replace(b"200 OK", b"400 No"), TIMED_OUT, TIMED_OUT], True),
        ([OK, TIMED_OUT, OK, TIMED_OUT, OK, TIMED_OUT], False),
    ],
    ids=["two", "three", "an answer between", "an error between", "a refusal between", "every other"],
)
@pytest.mark.parametrize("patience", [0.0, 1000.0], ids=["time-outs", "statuses of the model's own"])
def test_a_server_hangs_where_it_comes_back_with_nothing(short_path, answers, hangs, patience):
    left = list(answers)

    def served(connection: socket.socket, number: int) -> None:
        with connection.makefile("rb") as file:
            while read_message(file).line:
                answer = left.pop(0)
                connection.sendall(answer)
                if answer.startswith(b"HTTP/1.1 5"):
                    return

    with on_unix_sockets(short_path, served, queue=1, patience=patience) as running:
        canary = running.proxy.routes.canaries[0][1]
        for _ in answers:
            running.ask()
        assert canary.hanging == ([canary.addresses[0].socket] if hangs and not patience else [])


# What servers of our own are told


@pytest.mark.parametrize(
    ("request_line", "fields", "host"),
    [
        ("POST /invocations HTTP/1.1", "Host: wine.example:8080\r\n", "wine.example:8080"),
        ("GET /ping HTTP/1.1", "Host: [::1]:80\r\n", "[::1]:80"),
        ("GET /ping HTTP/1.1", "Host:\r\n", ""),
        ("GET http://in.target/ping HTTP/1.1", "Host: a\r\n", "in.target"),
        ("GET /ping HTTP/1.0", "", "localhost"),
    ],
    ids=["scoring", "address", "empty", "in the target", "none"],
)
def test_a_server_of_our_own_sees_the_host_that_the_client_asked(short_path, request_line, fields, host):
    seen: list[list[str]] = []

    def noting(connection: socket.socket, number: int) -> None:
        with connection.makefile("rb") as file:
            while (message := read_message(file)).line:
                seen.append(message.all("Host"))
                connection.sendall(OK)

    with on_unix_sockets(short_path, noting) as running:
        running.proxy.routes.set(running.proxy.routes.canaries[0][1])
        with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as client:
            client.sendall(f"{request_line}\r\n{fields}Content-Length: 0\r\n\r\n".encode())
            assert read_message(client.makefile("rb")).line == "HTTP/1.1 200 OK"
    assert seen == [[host]]


@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("line", ["POST /nothing", "PUT /invocations", "POST /invocations/"])
def test_a_path_that_is_none_is_answered_before_the_body(short_path, line, framing):
    def refusing(connection: socket.socket, number: int) -> None:
        with connection.makefile("rb") as file:
            _, headers = read_head(file)
            assert ("Expect", "100-continue") in headers
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    with on_unix_sockets(short_path, refusing) as running:
        running.proxy.routes.set(running.proxy.routes.canaries[0][1])
        with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as client:
            client.sendall(f"{line} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{framing}\r\n\r\n".encode())
            answer = read_message(client.makefile("rb"))
    assert answer.line == "HTTP/1.1 404 Not Found"
    assert answer.all("Connection") == ["close"]
