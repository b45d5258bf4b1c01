"""Mutations of the corpus over real sockets, and what must hold whatever is sent or answered.

Every client has a mark of its own in each of its requests. Some send mutants; the others, regular ones beside
them, must see theirs arrive as they were sent, and get their answers. The model server's reader is strict: what
it can't read, or a request with the marks of two clients, is a fault; so is an answer that a strict client can't
read. A mutant is made from its number alone, so that each can be made again.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

import uvloop

from mooring.exchange import Ledger
from peers import Proxy
from raw_cases import answer_cases, request_cases
from recording import CLIENT, Recorded, Recorder
from strict_http import AnswerReader, CutShort, Malformed, Parsed
from waiting import wait_for

AT_ONCE = 48
REGULAR = 2
"""How many clients send regular requests, one after the other, beside those that send mutants."""
BATCH = 500
SECONDS = 10
"""How long a connection may take at most that has said all it has to say."""
LONGEST = 1500
"""Bytes of the longest case that is mutated."""

PIECES = [
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b"\0",
        b":",
        b",",
        b";",
        b'"',
        b"\x0b",
        b"\x7f",
        b"\x80",
        b"\xff",
    ),
    *(b"0", b"1", b"5", b"9", b"a", b"f", b"-", b"+", b"0x", b"00", b"100", b"18446744073709551616"),
    *(b"0\r\n\r\n", b"5\r\nhello\r\n", b"1\r\n", b"hello", b"GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n"),
    *(b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"content-length:200\r\n", b"Content-Length: 5, 5\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"transfer-encoding:\tchunked \r\n", b"Transfer-Encoding: gzip\r\n"),
    *(b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n"),
    *(
        b"Expect: 100-continue\r\n",
        b"Max-Forwards: 0\r\n",
        b"Trailer: x\r\n",
        b"TE: trailers\r\n",
        b"Host: evil\r\n",
    ),
    *(
        b" folded\r\n",
        b"HTTP/1.0",
        b"HTTP/1.1",
        b"RTSP/1.0",
        b"HEAD",
        b"POST",
        b"OPTIONS",
        b"CONNECT",
        b"http://b",
    ),
    *(
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        b"204",
        b"304",
        b"101",
    ),
]


class Mutator(random.Random):
    """Makes mutants; the same ones from the same seed."""

    def mutant(self, cases: list[bytes]) -> bytes:
        """Return one of the cases, or two in a row, with a few mutations."""
        data = bytearray(self.choice(cases))
        if self.random() < 0.2:
            data += self.choice(cases)
        for _ in range(self.choice((1, 1, 1, 2, 2, 3, 5))):
            self._mutate(data, cases)
        return bytes(data)

    def _mutate(self, data: bytearray, cases: list[bytes]) -> None:
        at = self.randrange(len(data) + 1)
        end = min(len(data), at + self.choice((1, 1, 1, 2, 4, 16, 64)))
        kind = self.randrange(10)
        if kind < 3:
            data[at:at] = self.choice(PIECES)
        elif kind == 3:
            data[at:end] = self.choice(PIECES)
        elif kind == 4:
            del data[at:end]
        elif kind == 5:
            data[at:at] = data[at:end]
        elif kind == 6:
            data[at:end] = bytes(self.randrange(256) for _ in range(end - at))
        elif kind == 7:
            other = self.choice(cases)
            data[at:] = other[self.randrange(len(other) + 1) :]
        elif kind == 8:
            lines = data.split(b"\r\n")
            one, two = self.randrange(len(lines)), self.randrange(len(lines))
            lines[one], lines[two] = lines[two], lines[one]
            data[:] = b"\r\n".join(lines)
        else:
            data[at:end] = data[at:end].swapcase()

    def mark(self) -> bytes:
        return b"client-%016x" % self.getrandbits(64)

    def cut(self, data: bytes) -> list[bytes]:
        """Return `data` in one to three pieces."""
        cuts = sorted(self.randrange(len(data) + 1) for _ in range(self.choice((0, 0, 0, 1, 1, 2))))
        return [
            piece for piece in (data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)) if piece
        ]


@dataclass
class Run:
    """What a run has sent, and the faults that it has found."""

    port: int
    recorder: Recorder
    count: int
    seed: int
    started: int = 0
    faults: list[str] = field(default_factory=list)
    marks: dict[bytes, list[bytes]] = field(default_factory=dict)
    """What the client with each mark has sent."""
    regular: dict[bytes, list[bytes]] = field(default_factory=dict)
    """What each regular client has sent since the last look, as the model server is to see it."""

    @property
    def over(self) -> bool:
        return self.started >= self.count or len(self.faults) >= 5

    def next(self) -> Mutator:
        """Return what makes the next mutant."""
        self.started += 1
        return Mutator(self.seed + self.started)

    def fault(self, what: str, mark: bytes = b"") -> None:
        self.faults.append(f"{what}\n  sent: {self.marks.get(mark)!r}")

    def check(self) -> None:
        """Look through what the model server has seen."""
        seen, violations = self.recorder.take()
        for violation in violations:
            [mark, *_] = [*CLIENT.findall(violation.encode()), b""]
            self.fault(f"the model server got {violation}", mark)
        arrived: dict[bytes, list[bytes]] = {}
        for request in seen:
            marks = [mark for mark in request.clients if mark in self.marks or mark in self.regular]
            if len(marks) > 1:
                self.fault(f"a request of {len(marks)} clients: {request.message}", marks[0])
            for mark in marks:
                if mark in self.regular:
                    arrived.setdefault(mark, []).append(request.text)
        for mark, texts in arrived.items():
            expected = self.regular[mark]
            if texts != expected[: len(texts)]:
                self.fault(f"of a regular client came {texts[:3]} and not {expected[:3]}")
            del expected[: len(texts)]
        for mark in list(self.marks)[: -4 * BATCH]:
            del self.marks[mark]


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.received = bytearray()
        self.ended = asyncio.get_running_loop().create_future()
        self.waiting: asyncio.Future[None] | None = None

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(error)
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)

    async def more(self) -> None:
        """Wait until more has come, or the connection has ended."""
        self.waiting = asyncio.get_running_loop().create_future()
        await self.waiting


async def _connect(port: int) -> tuple[asyncio.Transport, _Connection]:
    return await asyncio.get_running_loop().create_connection(_Connection, "127.0.0.1", port)


class Client:
    """A client that keeps its connection as long as it can, and reads answers strictly."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None

    async def ask(self, request: bytes, method: str = "GET") -> Parsed | None:
        """Return the final answer, or None for a connection that ended before it was whole."""
        if self._transport is None or self._transport.is_closing():
            self._transport, self._connection = await _connect(self._port)
        connection = self._connection
        connection.received.clear()
        reader = AnswerReader(method)
        self._transport.write(request)
        async with asyncio.timeout(SECONDS):
            while True:
                if not connection.received and not connection.ended.done():
                    await connection.more()
                reader.feed(bytes(connection.received))
                connection.received.clear()
                while (answer := reader.next()) is not None:
                    if answer.status >= 200:
                        if reader.buffer:
                            raise Malformed(f"{bytes(reader.buffer)!r} after an answer")
                        return answer
                if connection.ended.done():
                    self._transport = None
                    try:
                        return reader.end()
                    except CutShort:
                        return None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def _regular(run: Run, mark: bytes, request: Callable[[bytes, int], bytes]) -> None:
    """Ask for something again and again, and see that the answer is one to that."""
    client = Client(run.port)
    number = 0
    while not run.over:
        number += 1
        data = request(mark, number)
        head, _, body = data.partition(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n")[0].split(b" ")
        run.regular[mark].append(b" ".join((method, target, body) if body else (method, target)))
        try:
            answer = await client.ask(data)
        except (Malformed, TimeoutError, OSError) as error:
            run.fault(f"a regular client's answer: {error!r}")
            continue
        if answer is None or answer.status != 200 or answer.all(b"x-saw") != [mark]:
            run.fault(f"a regular client's answer: {answer}")
        await asyncio.sleep(0.001)
    client.close()


async def _all(run: Run, one: Callable[[Run], Coroutine], request: Callable[[bytes, int], bytes]) -> None:
    async def worker() -> None:
        while not run.over:
            await one(run)
            if len(run.recorder.seen) > BATCH:
                run.check()

    marks = [Mutator(run.seed - number).mark() for number in range(REGULAR)]
    run.regular.update((mark, []) for mark in marks)
    async with asyncio.TaskGroup() as group:
        for mark in marks:
            group.create_task(_regular(run, mark, request))
        for _ in range(AT_ONCE):
            group.create_task(worker())
    await asyncio.sleep(0.2)
    run.check()


def _start(run: Run, one: Callable[[Run], Coroutine], request: Callable[[bytes, int], bytes]) -> Run:
    loop = uvloop.new_event_loop()
    started = time.monotonic()
    try:
        loop.run_until_complete(_all(run, one, request))
    finally:
        loop.close()
    seconds = time.monotonic() - started
    print(f"{run.started} mutants in {seconds:.0f} s, {run.started / seconds:.0f} a second")
    return run


# Mutants of requests.


_SHORT = [case for case in request_cases() if len(case.sent) <= LONGEST]
CASES = [case.sent for case in _SHORT for _ in range(4 if case.then == "open" else 1)]
"""More of those that go through, since most mutants do not."""


async def _mutant_request(run: Run) -> None:
    mutator = run.next()
    mark = mutator.mark()
    marked = [
        case.replace(b"Host: a\r\n", b"Host: a\r\nX-Client: %b\r\n" % mark)
        for case in (mutator.choice(CASES), mutator.choice(CASES))
    ]
    pieces = mutator.cut(mutator.mutant(marked))
    run.marks[mark] = pieces
    ending = mutator.choices(("eof", "wait", "abort"), (85, 10, 5))[0]
    try:
        transport, connection = await _connect(run.port)
    except OSError as error:
        run.fault(f"can't connect: {error}", mark)
        return
    for number, piece in enumerate(pieces):
        if number:
            await asyncio.sleep(0.002)
        if transport.is_closing():
            break
        transport.write(piece)
    if ending == "eof" and not transport.is_closing():
        transport.write_eof()
    elif ending == "wait":
        asyncio.get_running_loop().call_later(0.03, transport.abort)
    elif ending == "abort":
        transport.abort()
    try:
        async with asyncio.timeout(SECONDS):
            await connection.ended
    except TimeoutError:
        transport.abort()
        run.fault("the connection did not end", mark)
        return
    received = bytes(connection.received)
    if any(other != mark and (other in run.marks or other in run.regular) for other in CLIENT.findall(received)):
        run.fault(f"another client's answer: {received!r}", mark)
    if ending == "eof" and b"HEAD" not in b"".join(pieces).upper():
        _check_answers(run, received, mark)


def _check_answers(run: Run, received: bytes, mark: bytes) -> None:
    reader = AnswerReader()
    reader.feed(received)
    try:
        while reader.next() is not None:
            pass
        reader.end()
    except Malformed as error:
        run.fault(f"an answer: {error}", mark)


def _regular_post(mark: bytes, number: int) -> bytes:
    body = b"%b %d" % (mark, number)
    path = b"/invocations" if number % 2 else b"/other"
    head = b"POST %b?%d HTTP/1.1\r\nHost: a\r\nX-Client: %b\r\nContent-Length: %d\r\n\r\n"
    return head % (path, number, mark, len(body)) + body


def mutate_requests(port: int, recorder: Recorder, seed: int, count: int) -> Run:
    """Send so many mutants of requests to the proxy on `port`, and return what came of it."""
    return _start(Run(port, recorder, count, seed), _mutant_request, _regular_post)


# Mutants of answers.

ANSWERS = [b"".join(case.answer) for case in answer_cases() if 0 < sum(map(len, case.answer)) <= LONGEST]
PATIENCE = 0.02
"""Seconds after which the model server closes a connection over which nothing has come since a mutant."""


class MutatingRecorder(Recorder):
    """A model server that gives those who ask for one a mutant, which their target names."""

    def reply(self, connection: Recorded, message: Parsed) -> None:
        match = re.search(rb"mutant=([0-9]+)", message.line[1])
        if match is None:
            super().reply(connection, message)
            return
        mutant = answer_mutant(int(match[1]))
        connection.transport.write(mutant)
        if int(match[1]) % 2:
            connection.transport.close()
            return
        seen = connection.requests
        asyncio.get_running_loop().call_later(
            PATIENCE, lambda: connection.requests == seen and connection.transport.close()
        )


def answer_mutant(seed: int) -> bytes:
    return Mutator(seed).mutant(ANSWERS)


async def _mutant_answer(run: Run) -> None:
    mutator = run.next()
    mark, seed = mutator.mark(), mutator.getrandbits(48)
    method, path = mutator.choice((("GET", "/x"), ("HEAD", "/x"), ("POST", "/x"), ("POST", "/invocations")))
    run.marks[mark] = [answer_mutant(seed)]
    client = Client(run.port)
    head = f"{method} {path}?mutant={seed} HTTP/1.1\r\nHost: a\r\nX-Client: {mark.decode()}\r\n"
    framing = "Content-Length: 0\r\n\r\n" if method == "POST" else "\r\n"
    try:
        answer = await client.ask((head + framing).encode(), method)
        if answer is not None:
            # Over the same connection to the proxy, and perhaps over the one to the model server too.
            head = f"GET /regular HTTP/1.1\r\nHost: a\r\nX-Client: {mark.decode()}\r\n\r\n"
            answer = await client.ask(head.encode())
            if answer is not None and answer.all(b"x-saw") != [mark]:
                run.fault(f"after a mutant came {answer}", mark)
    except (Malformed, TimeoutError, OSError) as error:
        run.fault(f"{method} {path} got {error!r}", mark)
    finally:
        client.close()


def _regular_get(mark: bytes, number: int) -> bytes:
    return b"GET /regular?%d HTTP/1.1\r\nHost: a\r\nX-Client: %b\r\n\r\n" % (number, mark)


def mutate_answers(port: int, recorder: MutatingRecorder, seed: int, count: int) -> Run:
    """Ask for so many mutants of answers through the proxy on `port`, and return what came of it."""
    return _start(Run(port, recorder, count, seed), _mutant_answer, _regular_get)


# What holds after either.


def assert_sound(running: Proxy, run: Run) -> None:
    """Nothing was wrong with what was seen, and the proxy's account of it is true."""
    assert run.faults == [], "\n".join([f"from seed {run.seed}:", *run.faults])
    assert "Traceback" not in running.stderr
    assert running.process.poll() is None

    def ledger() -> Ledger:
        return Ledger(**{key: value for key, value in running.stats()["ledger"].items() if key != "balance"})

    wait_for(lambda: ledger().in_flight == 0, "exchanges are still in flight")
    assert ledger().balance == 0
    assert ledger().seen > 0
