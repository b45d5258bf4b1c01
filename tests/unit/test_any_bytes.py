"""Whatever a client sends and a server answers: requests are whole, nothing is left behind, nothing raises."""

from __future__ import annotations

import pytest

from in_memory import OK, Pipe, World, split, world
from mooring.capture.proxy.client import ClientConnection
from mutations import Mutator
from raw_cases import answer_cases, request_cases

LONGEST = 1500
REQUESTS = [b"".join(part for part in case.send if isinstance(part, bytes)) for case in request_cases()]
ANSWERS = [b"".join(part for part in case.answer if isinstance(part, bytes)) for case in answer_cases()]
REQUESTS = [request for request in REQUESTS if len(request) < LONGEST]
ANSWERS = [answer for answer in ANSWERS if len(answer) < LONGEST]


@pytest.fixture
def anything(tmp_path):
    with world(tmp_path) as made:
        yield made


def play(anything: World, mutator: Mutator) -> None:
    requests = mutator.mutant(REQUESTS) if mutator.random() < 0.7 else mutator.choice(REQUESTS)
    answers = [
        split(mutator.mutant(ANSWERS) if mutator.random() < 0.5 else OK, mutator.randbytes(mutator.randrange(4)))
        for _ in range(3)
    ]
    pieces = split(requests, mutator.randbytes(mutator.choice((0, 0, 1, 2, 8))))
    anything.play(pieces, answers, leaves=mutator.random() < 0.1)


def test_a_request_is_answered(anything):
    got = anything.play([b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"], [[OK]])
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert got.endswith(b"\r\n\r\n[]")
    assert anything.recorder.ledger.stored == 1


def test_requests_in_a_row_are_answered_in_order(anything):
    one = b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
    answers = [[b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number] for number in range(5)]
    got = anything.play([one * 5], answers)
    assert [part[:1] for part in got.split(b"\r\n\r\n")[1:]] == [b"0", b"1", b"2", b"3", b"4"]


def test_a_body_of_mlflow_1_that_is_nested_too_deep_passes_as_it_is_and_is_in_nobodys_way(anything):
    good = b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
    deep = b'{"columns": ' + b"[" * 5000
    head = b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    got = anything.play([good + head % len(deep) + deep + good], [[OK]] * 3)
    assert got.count(b"HTTP/1.1 200 OK\r\n") == 3


def test_a_client_that_reads_the_last_answer_slowly_gets_all_of_it(anything):
    client, pipe = ClientConnection(anything.context), Pipe(anything.ends)
    client.connection_made(pipe)
    client.data_received(b"nonsense\r\n\r\n")  # is answered, and that is the last answer here
    for pipe.unsent in (3000, 2000, 1000):
        client.overdue()
        assert not pipe.closing
    client.overdue()  # nothing was read since the last time
    assert pipe.closing
    client.connection_lost(None)


@pytest.mark.parametrize("seed", range(8))
def test_any_bytes(anything, seed):
    mutator = Mutator(seed)
    for _ in range(250):
        play(anything, mutator)
