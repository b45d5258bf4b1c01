"""Raw requests of tests/conformance/requests through the proxy: which the model server sees, and where each ends.

Beside each client there is another on a connection of its own, whose request must arrive as it was sent.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mooring.exchange import Ledger
from peers import Proxy, proxy, read_message, upstream
from raw_cases import PAUSE, QUIET, Case, Client, fits, request_cases, unescape
from recording import Recorder, Seen, recording
from waiting import wait_for

CASES = request_cases()
OPEN = [case for case in CASES if case.then == "open"]
REFUSED = [case for case in CASES if case.then == "closed" and case.gets[-1][0] >= 400]
PROBE = b"GET /probe HTTP/1.1\r\nHost: a\r\n\r\n"


class Bench:
    """The proxy, the recorder behind it, and the other client."""

    def __init__(self, running: Proxy, recorder: Recorder) -> None:
        self.proxy, self.recorder = running, recorder
        self.other = Client(running.port)

    @property
    def port(self) -> int:
        return self.proxy.port

    def others_turn(self) -> None:
        """Have the other client ask for something, and see it arrive as it was sent."""
        mark = b"client-" + secrets.token_hex(8).encode()
        body = b"other's " + mark
        head = b"POST /other HTTP/1.1\r\nHost: a\r\nX-Client: %b\r\nContent-Length: %d\r\n\r\n" % (mark, len(body))
        answer = self.other.ask(head + body)
        assert answer.status == 200
        assert answer.all(b"x-saw") == [mark]
        last = self.recorder.seen.pop()
        assert last.text == b"POST /other " + body
        assert last.message.all(b"x-client") == [mark]

    def saw(self) -> list[bytes]:
        """Return what the model server saw since the last time, none of it malformed."""
        return [seen.text for seen in self.saw_messages()]

    def saw_messages(self) -> list[Seen]:
        seen, violations = self.recorder.take()
        assert violations == []
        return seen

    def forget(self) -> None:
        """Begin anew: what a failed test left behind is not the next one's fault."""
        self.recorder.take()
        self.other.socket.close()
        self.other = Client(self.port)


@contextmanager
def benched(directory: Path, *flags: str) -> Iterator[Bench]:
    with recording() as recorder, proxy(directory, recorder.url, *flags, log_format="parquet") as running:
        yield Bench(running, recorder)

        def ledger() -> Ledger:
            return Ledger(**{key: value for key, value in running.stats()["ledger"].items() if key != "balance"})

        wait_for(lambda: ledger().in_flight == 0, "exchanges are still in flight")
        assert ledger().balance == 0
    assert "Traceback" not in running.stderr


@pytest.fixture(scope="module")
def the_bench(tmp_path_factory) -> Iterator[Bench]:
    with benched(tmp_path_factory.mktemp("raw")) as bench:
        yield bench


@pytest.fixture(scope="module")
def the_trusting_bench(tmp_path_factory) -> Iterator[Bench]:
    flags = ("--trust-forwarded", "--sticky", "X-Sticky", "--header", "X-Logged", "--no-legacy-split")
    with benched(tmp_path_factory.mktemp("trusting"), *flags) as bench:
        yield bench


@pytest.fixture
def bench(the_bench) -> Bench:
    the_bench.forget()
    return the_bench


@pytest.fixture
def trusting_bench(the_trusting_bench) -> Bench:
    the_trusting_bench.forget()
    return the_trusting_bench


def finish(bench: Bench, client: Client, then: str, answers: int) -> None:
    """Check what becomes of a client's connection after so many answers."""
    if then == "open":
        assert client.ask(PROBE).status == 200
        assert bench.recorder.seen.pop().text == b"GET /probe"
        return
    client.read(answers + 1, QUIET if then == "waits" else 5)
    assert client.closed == (then == "closed")
    assert len(client.answers) == answers


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_raw_request(bench, case):
    with Client(bench.port, *case.methods) as client:
        client.say(case.send)
        client.read(len(case.gets))
        assert fits(client.statuses, case.gets), f"{client.statuses} for {case.gets}, closed: {client.closed}"
        finish(bench, client, case.then, len(case.gets))
        bench.others_turn()
        seen = bench.saw_messages()
    assert [one.text for one in seen] == case.sees
    if case.has or case.lacks:
        message = seen[-1].message
        lines = [name.lower() + b": " + value for name, value in message.fields]
        for wanted in case.has:
            name, _, value = unescape(wanted).partition(b": ")
            assert name.lower() + b": " + value in lines
        for name in case.lacks:
            assert message.all(name.lower().encode()) == []


# Each case in company: others before and after it in one piece, empty lines before it, a request after an error.


def whole(cases: list[Case]) -> list[Case]:
    """Return the cases that can be sent in one piece."""
    return [case for case in cases if [100] not in case.gets]


@pytest.mark.parametrize("case", whole(OPEN), ids=lambda case: case.name)
def test_between_others_in_one_piece(bench, case):
    before, after = (
        b"POST /%b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n-->" % name for name in (b"1", b"2")
    )
    with Client(bench.port, "POST", *case.methods) as client:
        client.send(before + case.sent + after)
        client.read(len(case.gets) + 2)
        assert fits(client.statuses, [[200], *case.gets, [200]]), client.statuses
        finish(bench, client, "open", len(client.answers))
        bench.others_turn()
    assert bench.saw() == [b"POST /1 -->", *case.sees, b"POST /2 -->"]


@pytest.mark.parametrize("case", whole(OPEN), ids=lambda case: case.name)
def test_after_empty_lines(bench, case):
    with Client(bench.port, *case.methods) as client:
        client.send(b"\r\n\r\n" + case.sent + b"\r\n\r\n")
        client.read(len(case.gets))
        assert fits(client.statuses, case.gets), client.statuses
        finish(bench, client, "open", len(client.answers))
        bench.others_turn()
    assert bench.saw() == case.sees


@pytest.mark.parametrize("case", whole(REFUSED), ids=lambda case: case.name)
def test_nothing_is_taken_after_an_error(bench, case):
    after = b"GET /after HTTP/1.1\r\nHost: a\r\n\r\n"
    for pieces in ([case.sent + after], [*case.send, len(case.gets), after]):
        with Client(bench.port, *case.methods) as client:
            client.say(pieces)
            client.read(len(case.gets) + 1)
            assert client.closed
            # What came after may be part of an unfinished line, and its fault another.
            assert fits(client.statuses[:-1], case.gets[:-1]), client.statuses
            assert 400 <= client.statuses[-1] < 600
            bench.others_turn()
        assert bench.saw() == case.sees


# Split at each byte.

SPLIT = [case for case in CASES if case.split]


def marked(case: Case) -> tuple[bytes, bytes]:
    """Return what a case sends with a mark in each of its requests, and the mark."""
    mark = b"client-" + secrets.token_hex(8).encode()
    return case.sent.replace(b"Host: a\r\n", b"Host: a\r\nX-Client: %b\r\n" % mark), mark


@pytest.mark.parametrize("case", SPLIT, ids=lambda case: case.name)
def test_split_at_each_byte(bench, case):
    with ExitStack() as stack:
        clients = []
        for at in range(1, len(marked(case)[0])):
            client = stack.enter_context(Client(bench.port, *case.methods))
            sent, mark = marked(case)
            client.send(sent[:at])
            clients.append((client, sent[at:], mark))
        time.sleep(PAUSE)
        for client, rest, _ in clients:
            client.send(rest)
        for at, (client, _, _) in enumerate(clients, 1):
            client.read(len(case.gets) + (case.then == "closed"))
            assert fits(client.statuses, case.gets), f"split at {at}: {client.statuses}"
        bench.others_turn()
    by_mark: dict[bytes, list[bytes]] = {mark: [] for _, _, mark in clients}
    for seen in bench.saw_messages():
        [mark] = seen.clients
        by_mark[mark].append(seen.text)
    for at, texts in enumerate(by_mark.values(), 1):
        assert texts == case.sees, f"split at {at}"


@pytest.mark.parametrize("case", SPLIT, ids=lambda case: case.name)
def test_byte_by_byte(bench, case):
    with Client(bench.port, *case.methods) as client:
        for at in range(len(case.sent)):
            client.send(case.sent[at : at + 1])
            time.sleep(0.0003)
        client.read(len(case.gets) + (case.then == "closed"))
        assert fits(client.statuses, case.gets), client.statuses
        bench.others_turn()
    assert bench.saw() == case.sees


# One client's bytes in front of another's.

EVIL = b"POST /evil HTTP/1.1\r\nHost: evil\r\nContent-Length: 1000\r\nX: "


def chunked_body(total: int) -> bytes:
    """Return a valid chunked body that has `total` bytes in all."""
    data = total - len(b"b9\r\n\r\n0\r\n\r\n")
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (data, b"x" * data)
    assert len(body) == total
    return body


FRAMINGS = {
    "chunked": (b"Transfer-Encoding: chunked\r\n", chunked_body(200), chunked_body(200)[4:-7], b""),
    "length": (b"Content-Length: 5\r\n", b"hello", b"hello", b"0\r\n\r\n"),
}
"""For each: the field, a body of it, the data of that body, and the data of one that begins with a last chunk."""
SHORTER = (b"0\r\n\r\n" + EVIL).ljust(200, b"e")


def smuggle(bench: Bench, head: bytes, framing: str, path: bytes = b"/invocations") -> list[int]:
    """Send a head with one body, and the same with one that ends early. Return the statuses that it got."""
    field, body, data, shorter = FRAMINGS[framing]
    head = b"POST %b HTTP/1.1\r\nHost: a\r\n" % path + head.replace(b"FRAMING\r\n", field) + b"\r\n"
    with Client(bench.port) as client:
        client.send(head + body)
        client.read(1)
        bench.others_turn()
        client.send(head + SHORTER)
        client.read(2)
        bench.others_turn()
        bench.others_turn()
    wanted = [b"POST %b %b" % (path, data), (b"POST %b %b" % (path, shorter)).rstrip(b" ")]
    assert bench.saw() == ([] if client.statuses[:1] != [200] else wanted)
    return client.statuses


def test_a_head_that_came_before_has_no_length_but_its_own(bench):
    assert smuggle(bench, b"Expect: Content-Length: 200\r\nFRAMING\r\n", "chunked") == [200, 200]


# fmt: off
COPIED = [
    "Expect", "Max-Forwards", "X-Request-Id", "Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host",
    "X-Forwarded-Proto", "X-Forwarded-Port", "Content-Type", "Content-Encoding", "Content-Language",
    "Accept", "Accept-Encoding", "Authorization", "Cookie", "User-Agent", "Referer", "Connection",
    "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "TE", "Trailer", "Upgrade", "Date",
    "X-Model-Version", "X-Sticky", "X-Logged", "X-Real-Ip", "Range", "If-Match", "Traceparent",
    "Content-Length-X", "X-Transfer-Encoding",
]
# fmt: on
MAY_BE_REFUSED = {"Expect", "Connection", "Upgrade"}
WORDS = [
    b"Content-Length: 200",
    b"content-length: 0",
    b"Transfer-Encoding: chunked",
    b"chunked",
    b"200",
    b"x, Content-Length: 200, Transfer-Encoding: chunked",
    b"X-Request-Id: evil",
    b"Content-Length",
    b"GET /smuggled HTTP/1.1",
    b"\\r\\n\\r\\nGET /smuggled HTTP/1.1",
]


def heads(name: str) -> Iterator[bytes]:
    """Yield heads with each of the words in this field, before the framing field and after it by turns."""
    for number, word in enumerate(WORDS):
        line = name.encode() + b": " + word + b"\r\n"
        yield line + b"FRAMING\r\n" if number % 2 else b"FRAMING\r\n" + line


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("name", COPIED)
def test_framing_words_in_a_copied_field(bench, name, framing):
    for head in heads(name):
        statuses = smuggle(bench, head, framing)
        assert statuses == [200, 200] or (name in MAY_BE_REFUSED and statuses[0] in (400, 417))


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize(
    "name", ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Sticky", "X-Logged"]
)
def test_framing_words_in_a_field_that_is_trusted(trusting_bench, name, framing):
    for head in heads(name):
        assert smuggle(trusting_bench, head, framing) == [200, 200]


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("path", [b"/x", b"/invocations?Content-Length:200", b"/Transfer-Encoding:chunked"])
def test_framing_words_on_other_paths(bench, path, framing):
    for word in WORDS:
        assert smuggle(bench, b"Expect: " + word + b"\r\nFRAMING\r\n", framing, path)[0] in (200, 400, 417)


# While an answer streams for longer than the proxy waits for a request.

STREAMING = 1.8


def streaming(connection) -> None:
    """Answer in pieces for a time, /y at once."""
    with connection.makefile("rb") as file:
        while (request := read_message(file)).line:
            if "/y" in request.line:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\ny")
                continue
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(12):
                time.sleep(STREAMING / 12)
                connection.sendall(b"1\r\nx\r\n")
            connection.sendall(b"0\r\n\r\n")


NEXT = b"GET /y HTTP/1.1\r\nHost: a\r\n\r\n"


WHILE_STREAMING = {
    "empty-line": (b"\r\n", b"", [200]),
    "empty-line-in-two-pieces": (b"\r", b"\n", [200]),
    "empty-lines-then-next": (b"\r\n\r\n", NEXT, [200, 200]),
    "empty-line-and-first-byte": (b"\r\n" + NEXT[:1], NEXT[1:], [200, 200]),
    "first-byte": (NEXT[:1], NEXT[1:], [200, 200]),
    "all-but-the-last-byte": (NEXT[:-1], NEXT[-1:], [200, 200]),
    "all": (NEXT, b"", [200, 200]),
    "first-byte-alone": (NEXT[:1], b"", [200, 408]),
    "unfinished-head": (NEXT[:-4], b"", [200, 408]),
    "body-in-two-pieces": (b"POST /y HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe", b"llo", [200, 200]),
    "unfinished-body": (b"POST /y HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe", b"", [200, 408]),
    "nonsense": (b"nonsense\r\n\r\n", b"", [200, 400]),
}
"""What comes while an answer streams, what comes after it, and the statuses that the client gets."""
STREAMED = ("GET /x", "POST /invocations")


@pytest.fixture(scope="module")
def streamed(tmp_path_factory) -> Iterator[dict[tuple[str, str], Client]]:
    """The client as it is in the end, for each of them after each request. All at once, since all must wait."""

    def play(key: tuple[str, str]) -> Client:
        early, late, statuses = WHILE_STREAMING[key[0]]
        client = Client(running.port)
        client.send(key[1].encode() + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        time.sleep(STREAMING / 6)
        client.send(early)
        client.read(1)
        client.send(late)
        client.read(len(statuses))
        client.socket.close()
        return client

    keys = [(name, request) for name in WHILE_STREAMING for request in STREAMED]
    with (
        upstream(streaming) as server,
        proxy(tmp_path_factory.mktemp("streaming"), server.url, "--receive-timeout", "0.5") as running,
        ThreadPoolExecutor(len(keys)) as pool,
    ):
        yield dict(zip(keys, pool.map(play, keys), strict=True))
    assert "Traceback" not in running.stderr


@pytest.mark.parametrize("request_line", STREAMED)
@pytest.mark.parametrize("name", WHILE_STREAMING)
def test_what_comes_while_an_answer_streams(streamed, name, request_line):
    client = streamed[name, request_line]
    assert client.statuses == WHILE_STREAMING[name][2]
    assert client.answers[0].body == b"x" * 12
