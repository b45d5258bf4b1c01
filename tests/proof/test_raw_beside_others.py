"""The raw requests of tests/conformance/requests through Mooring, nginx and haproxy, over recording servers alike.

Where Mooring lets the model server see other requests than nginx does, and others than haproxy does, it is the one
that is wrong, unless it saw fewer: to refuse is always safe.
"""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from mooring.demo.processes import running
from peers import proxy
from ports import reserved_port
from raw_cases import PAUSE, Case, Client, request_cases
from recording import Recorder, recording
from waiting import PATIENCE, wait_for

LANES = 4
"""How many cases are played at once, each lane with a server of its own: most of the time is waiting."""
QUIET = 0.12

NGINX = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 1g;
    underscores_in_headers on;
    merge_slashes off;
    keepalive_requests 100000;
    {servers}
}}
"""
NGINX_SERVER = """
    upstream recorder{lane} {{ server 127.0.0.1:{upstream}; keepalive 16; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://recorder{lane};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_request_buffering off;
            proxy_next_upstream off;
        }}
    }}
"""
HAPROXY = """
global
    maxconn 2000
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    http-reuse always
    retries 0
{servers}
"""
HAPROXY_SERVER = """
frontend front{lane}
    bind 127.0.0.1:{port}
    default_backend back{lane}
backend back{lane}
    server recorder 127.0.0.1:{upstream}
"""


class Outcome(NamedTuple):
    """What one of the three made of a case."""

    seen: list[bytes]
    violations: list[str]
    statuses: list[int]
    closed: bool


@contextmanager
def nginx(directory: Path, recorders: list[Recorder]) -> Iterator[list[int]]:
    with configured(
        directory, recorders, NGINX, NGINX_SERVER, lambda config: ["nginx", "-p", str(directory), "-c", config]
    ) as ports:
        yield ports


@contextmanager
def haproxy(directory: Path, recorders: list[Recorder]) -> Iterator[list[int]]:
    with configured(
        directory, recorders, HAPROXY, HAPROXY_SERVER, lambda config: ["haproxy", "-db", "-f", config]
    ) as ports:
        yield ports


@contextmanager
def mooring(directory: Path, recorders: list[Recorder]) -> Iterator[list[int]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(proxy(directory / str(lane), recorder.url, log_format="parquet")).port
            for lane, recorder in enumerate(recorders)
        ]


@contextmanager
def configured(
    directory: Path, recorders: list[Recorder], whole: str, server: str, command: Callable[[str], list[str]]
) -> Iterator[list[int]]:
    directory.mkdir()
    directory.chmod(0o777)  # nginx's worker is another user
    ports = [reserved_port() for _ in recorders]
    servers = "".join(
        server.format(lane=lane, port=port, upstream=recorder.port)
        for lane, (port, recorder) in enumerate(zip(ports, recorders, strict=True))
    )
    config, log = directory / "config", directory / "output.log"
    config.write_text(whole.format(directory=directory, servers=servers))
    with running(command(str(config)), directory, log) as process:

        def up() -> bool:
            return process.poll() is not None or all(listens(port) for port in ports)

        wait_for(up, f"it does not start: {log.read_text()}")
        assert process.poll() is None, log.read_text()
        yield ports


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def play(port: int, recorder: Recorder, case: Case) -> Outcome:
    """Play a case, without knowing what should come of it: until nothing comes any more."""
    recorder.take()
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        closed = False

        def listen(seconds: float) -> None:
            nonlocal received, closed
            client.settimeout(seconds)
            try:
                while data := client.recv(2**16):
                    received += data
                closed = True
            except TimeoutError:
                pass
            except OSError:
                closed = True

        for number, piece in enumerate(case.send):
            if isinstance(piece, int):
                listen(QUIET)
                continue
            if number:
                listen(PAUSE)
            try:
                client.settimeout(5)
                client.sendall(piece)
            except OSError:
                closed = True
        if not closed:
            listen(QUIET)
    with Client(port) as other:
        answer = other.ask(b"POST /other HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nother")
    seen, violations = recorder.take()
    texts = [as_origin(one.text) for one in seen]
    if texts[-1:] != [b"POST /other other"] or answer.status != 200:
        violations.append(f"the other client's request: {texts[-1:]}")
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.[01] ([0-9]{3})", received)]
    return Outcome(texts[:-1], violations, statuses, closed)


def as_origin(text: bytes) -> bytes:
    """Return a request as it is with its target in origin form: haproxy passes the absolute form on."""
    return re.sub(rb"(?i)\A(\S+) https?://[^/? ]*(?=([/? ]|\Z))", lambda match: match[1] + b" ", text).replace(
        b" ?", b" /?", 1
    )


def same(one: list[bytes], other: list[bytes]) -> bool:
    return [text.split(b" ", 2) for text in one] == [text.split(b" ", 2) for text in other]


def fewer(one: list[bytes], other: list[bytes]) -> bool:
    return same(one, other[: len(one)])


PEERS = {"Mooring": mooring, "nginx": nginx, "haproxy": haproxy}


def play_all(directory: Path, cases: list[Case]) -> dict[str, dict[str, Outcome]]:
    """Return for each case what each of the three made of it."""
    found: dict[str, dict[str, Outcome]] = {case.name: {} for case in cases}
    for name, start in PEERS.items():
        with ExitStack() as stack:
            recorders = [stack.enter_context(recording()) for _ in range(LANES)]
            ports = stack.enter_context(start(directory / name, recorders))

            def lane(number: int, ports=ports, recorders=recorders, name=name) -> None:
                for case in cases[number::LANES]:
                    found[case.name][name] = play(ports[number], recorders[number], case)

            with ThreadPoolExecutor(LANES) as pool:
                list(pool.map(lane, range(LANES)))
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, dict[str, Outcome]]:
    return play_all(tmp_path_factory.mktemp("beside"), request_cases())


@pytest.mark.skipif(
    not (shutil.which("nginx") and shutil.which("haproxy")), reason="nginx and haproxy are not both installed"
)
@pytest.mark.parametrize("case", request_cases(), ids=lambda case: case.name)
def test_no_other_bounds_than_those_that_nginx_or_haproxy_sees(outcomes, case):
    outcome = outcomes[case.name]
    ours, others = outcome["Mooring"], [outcome["nginx"], outcome["haproxy"]]
    assert ours.violations == []
    if case.beside:
        pytest.skip(case.beside)
    assert any(fewer(ours.seen, other.seen) for other in others), outcome
