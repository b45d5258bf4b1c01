"""Servers with so many requests at a time: what a canary has no room for, or dies over, the champion answers."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mooring.capture.proxy.address import of_url
from mooring.capture.proxy.backend import Backend
from mooring.capture.proxy.listening import bind
from mooring.capture.proxy.server import Proxy, serve
from mooring.capture.recorder import Recorder
from mooring.config import ServeSettings
from peers import OK, Message, answering, post, read_message, upstream
from waiting import PATIENCE, wait_for


class Told:
    """A watcher that remembers what it was told."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, int]] = []

    def answered(self, tap) -> None:
        self.outcomes.append((tap.variant, tap.status))

    def shadow(self, tap, live) -> None:
        self.outcomes.append(("shadow", tap.status))

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
def fronting(directory: Path, champion: str, canary: str, queue: int = 0) -> Iterator[Running]:
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
            Backend(proxy.context, version, [of_url(url)], limit=1, queue=queue, patience=20.0)
            for version, url in (("1", champion), ("2", canary))
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
        for client in waiting[2:]:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        wait_for(lambda: ledger.in_flight == 2, "it is not noticed that they have left")
        with socket.create_connection(("127.0.0.1", running.port)) as client:
            client.sendall(post())
            wait_for(lambda: ledger.in_flight == 3, "it has not come")
            go_on.set()
            assert read_message(client.makefile("rb")).line == "HTTP/1.1 200 OK"
        for client in waiting[:2]:
            client.close()
