"""What is long is redacted beside the loop: nobody else waits, the account is true, no secret is stored."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from crowds import crowd, many_server, once, push, reset
from mooring.capture.redact import Redactor, parse_rule
from mooring.exchange import Exchange, decode
from mooring.spool import read_frames
from peers import Proxy, post, proxy, read_message
from waiting import PATIENCE, wait_for

MB = 2**20
GET = b"GET /ping HTTP/1.1\r\nHost: example\r\n\r\n"
SECRET = b"S3CRET-4711"
SHORT = b'{"dataframe_split": {"columns": ["ssn", "x"], "data": [["S3CRET-4711", 1]]}}'


def cells(size: int) -> bytes:
    """Return rows with the secret, of so many bytes in all."""
    row = b'["S3CRET-4711", 1.5, null, "a"], '
    return b'{"dataframe_split": {"columns": ["ssn", "x", "y", "z"], "data": [%b[0,0,0,0]]}}' % (
        row * (size // len(row))
    )


def csv(size: int) -> bytes:
    return b"ssn,x\n" + b"S3CRET-4711,1.5\n" * (size // 16)


LONG = {
    "cells": (cells(2 * MB), "application/json"),
    "text": (b'{"inputs": {"ssn": ["%b"]}}' % (SECRET * (2 * MB // 11)), "application/json"),
    "nested": (b'{"ssn": ' + b'["S3CRET-4711", ' * 300 + b"1" + b"]" * 300 + b"}" + b" " * MB, "application/json"),
    "lists": (b'{"ssn": [' + b'["S3CRET-4711"], ' * (MB // 17) + b"1]}", "application/json"),
    "csv": (csv(2 * MB), "text/csv"),
    "broken": (cells(MB)[:-2], "application/json"),
    "just over": (cells(66_000), "application/json"),
}


@pytest.fixture(scope="module")
def server():
    with many_server() as running:
        yield running


def redacting(
    directory: Path, url: str, *flags: str, action: str = "mask", env: Mapping[str, str] | None = None
) -> AbstractContextManager[Proxy]:
    """Run a proxy whose spool stays as it is: a segment is closed at the end only."""
    flags = ("--redact", f"ssn={action}", "--segment-seconds", "3600", "--segment-bytes", "1000000000", *flags)
    return proxy(directory, url, *flags, log_format="parquet", env=env)


def request(name: str) -> bytes:
    body, mime = LONG[name]
    return post(body).replace(b"application/json", mime.encode(), 1)


def spooled(running: Proxy) -> list[Exchange]:
    """Return the exchanges in the spool."""
    found = []
    for path in sorted((running.log / ".spool").glob("*/*.open")):
        found += [decode(payload) for payload, _ in read_frames(path)]
    return [one for one in found if isinstance(one, Exchange)]


def account(running: Proxy) -> dict:
    found = running.stats()["since_start"]
    assert found["balance"] == 0
    assert "Traceback" not in running.stderr, running.stderr
    return found


def settled(running: Proxy) -> dict:
    wait_for(lambda: account(running)["in_flight"] == 0, "something stays in flight")
    return account(running)


def waiting(running: Proxy) -> int:
    """Return how many have their answer from the model server, and are not stored yet."""
    return sum(running.stats()["statuses"].values()) - account(running)["stored"]


def child(running: Proxy) -> int:
    """Return the process that redacts for this proxy, 0 while there is none."""
    found = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    for line in found.stdout.splitlines():
        pid, parent, command = line.split(None, 2)
        if int(parent) == running.process.pid and "mooring.capture.redacting" in command:
            return int(pid)
    return 0


def sent(client: socket.socket) -> bytes:
    """Return what a client has been sent until now."""
    client.setblocking(False)
    try:
        return client.recv(2**16)
    except BlockingIOError:
        return b""
    finally:
        client.settimeout(PATIENCE)


@contextmanager
def held_up(running: Proxy) -> Iterator[int]:
    """Hold up the process that redacts, which is there once something long was redacted."""
    assert running.exchange(request("just over")).line == "HTTP/1.1 200 OK"
    wait_for(lambda: account(running)["stored"] == 1, "it is not stored")
    pid = child(running)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("durability", ["process", "power", "none"])
def test_others_get_their_answers_while_a_long_body_is_redacted(server, tmp_path, durability):
    """With the redaction held up, the long one's answer waits for it, and nobody else's does."""
    flags = ("--durability", durability)
    with redacting(tmp_path, server.url, *flags) as running, running.connect() as slow, running.connect() as other:
        with held_up(running), other.makefile("rb") as answers:
            slow.sendall(request("cells"))
            wait_for(lambda: waiting(running) == 1, "it has not come")
            if durability == "none":
                with slow.makefile("rb") as answer:
                    assert read_message(answer).line == "HTTP/1.1 200 OK"
            for _ in range(50):
                other.sendall(GET + post(SHORT))
                assert read_message(answers).line == "HTTP/1.1 200 OK"
                assert read_message(answers).line == "HTTP/1.1 200 OK"
            wait_for(lambda: account(running)["stored"] == 51, "a short one is not stored")
            assert account(running)["in_flight"] == 1
            assert not sent(slow)
        assert settled(running)["stored"] == 52
        if durability != "none":
            with slow.makefile("rb") as answer:
                assert read_message(answer).line == "HTTP/1.1 200 OK"
        assert max(len(one.request) for one in spooled(running)) > MB


@pytest.mark.parametrize("action", ["mask", "hash", "drop"])
def test_nothing_long_is_stored_unredacted(server, tmp_path, action):
    key = {"MOORING_REDACT_KEY": "a key"}
    with redacting(tmp_path, server.url, action=action, env=key) as running:
        redactor = Redactor([parse_rule(f"ssn={action}")], b"a key")
        for name in LONG:
            assert running.exchange(request(name)).line == "HTTP/1.1 200 OK"
        assert settled(running)["errors"] == {"unredactable": 1}
        for one, (body, mime) in zip(spooled(running), LONG.values(), strict=True):
            assert one.request == (b"" if one.errors else redactor.body(body, mime))
            assert SECRET not in one.request
        for path in running.directory.rglob("*"):
            assert not path.is_file() or SECRET not in path.read_bytes()


def test_a_long_answer_is_redacted_aside_too_and_its_request_with_it(server, tmp_path):
    with redacting(tmp_path, server.url) as running:
        assert len(running.exchange(post(SHORT, f"Answer-Bytes: {MB}")).body) == MB
        assert settled(running)["stored"] == 1
        (one,) = spooled(running)
        assert b"***" in one.request
        assert SECRET not in one.request
        assert child(running)


def test_what_waits_for_redaction_counts_as_held(server, tmp_path):
    """Beyond --max-held a body is cut, and one that is cut can't be redacted; then there is room again."""
    with redacting(tmp_path, server.url, "--max-held", str(5 * MB)) as running:
        with held_up(running), crowd(running.port, 5) as clients:
            push(clients, once(request("cells")))
            wait_for(lambda: waiting(running) == 5, "not all have come")
            assert not any(map(sent, clients))
            assert account(running)["stored"] == 1
        found = settled(running)
        assert found["stored"] == 6
        assert found["errors"]["truncated"] >= 2
        assert found["errors"]["truncated"] == found["errors"]["unredactable"]
        assert running.exchange(request("cells")).line == "HTTP/1.1 200 OK"
        assert settled(running)["errors"] == found["errors"]


def test_of_clients_that_leave_the_long_bodies_are_stored(server, tmp_path):
    with redacting(tmp_path, server.url) as running:
        with held_up(running), crowd(running.port, 3) as clients:
            push(clients, once(request("cells")))
            wait_for(lambda: waiting(running) == 3, "not all have come")
            reset(clients)
        assert settled(running)["stored"] == 4


def test_where_the_process_that_redacts_is_killed_a_body_is_not_stored_and_the_next_is(server, tmp_path):
    with redacting(tmp_path, server.url) as running, running.connect() as slow:
        with held_up(running) as pid:
            slow.sendall(request("cells"))
            wait_for(lambda: waiting(running) == 1, "it has not come")
            os.kill(pid, signal.SIGKILL)
            with slow.makefile("rb") as answer:
                assert read_message(answer).line == "HTTP/1.1 200 OK"
        assert settled(running)["errors"] == {"unredactable": 1}
        assert "the process that redacts them ended" in running.stderr
        assert running.exchange(request("cells")).line == "HTTP/1.1 200 OK"
        assert settled(running)["errors"] == {"unredactable": 1}
        assert [len(one.request) > 0 for one in spooled(running)] == [True, False, True]


@pytest.mark.parametrize("left", [False, True], ids=["waits", "left"])
def test_a_proxy_that_stops_waits_for_redactions_under_way(server, tmp_path, left):
    with redacting(tmp_path, server.url) as running, running.connect() as slow:
        with held_up(running) as pid:
            slow.sendall(request("cells"))
            wait_for(lambda: waiting(running) == 1, "it has not come")
            if left:
                reset([slow])
            running.process.send_signal(signal.SIGTERM)
            os.kill(pid, signal.SIGTERM)  # as a service manager does, to all processes
        assert running.process.wait(PATIENCE) == 0
        assert "2 exchanges seen, 2 stored, 0 of them failed, 0 dropped" in running.stderr
        assert not Path(f"/proc/{pid}").exists()


def test_what_a_proxy_that_stops_can_not_redact_in_time_is_dropped_and_counted(server, tmp_path):
    with redacting(tmp_path, server.url, "--drain-timeout", "0.5") as running, crowd(running.port, 3) as clients:
        with held_up(running) as pid:
            push(clients, once(request("cells")))
            wait_for(lambda: waiting(running) == 3, "not all have come")
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(PATIENCE) == 0
        assert "4 exchanges seen, 1 stored, 0 of them failed, 3 dropped (not_redacted)" in running.stderr
        assert "Traceback" not in running.stderr
        assert not Path(f"/proc/{pid}").exists()


def test_the_process_that_redacts_ends_with_a_proxy_that_is_killed(server, tmp_path):
    with redacting(tmp_path, server.url) as running:
        with held_up(running) as pid:
            running.process.kill()
            running.process.wait(PATIENCE)
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), "it goes on")
