"""TLS towards clients: on the proxy, its workers and its admin port, with certificates that change meanwhile."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from certificates import Authority
from peers import OK, Message, Proxy, answering, post, proxy, read_head, read_message, upstream
from waiting import PATIENCE, wait_for

ANSWER = answering(OK)


class Front:
    """A proxy that speaks TLS, and clients of it."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack = stack
        self._directory = directory
        self.authority = Authority(directory)
        self.cert, self.key = self.authority.issue("server")
        self.flags = ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]

    def start(self, *flags: str, handle=ANSWER, log_format: str = "csv") -> Proxy:
        self.server = self._stack.enter_context(upstream(handle))
        self.running = self._stack.enter_context(
            proxy(self._directory, self.server.url, *self.flags, *flags, log_format=log_format)
        )
        return self.running

    def context(self, own: tuple[Path, Path] | None = None, trusted: Path | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(trusted or self.authority.certificate))
        if own:
            context.load_cert_chain(*own)
        return context

    @contextmanager
    def connect(self, context: ssl.SSLContext | None = None, port: int | None = None) -> Iterator[ssl.SSLSocket]:
        plain = socket.create_connection(("127.0.0.1", port or self.running.port), timeout=PATIENCE)
        with plain, (context or self.context()).wrap_socket(plain, server_hostname="localhost") as secure:
            yield secure

    def exchange(self, request: bytes, context: ssl.SSLContext | None = None, port: int | None = None) -> Message:
        with self.connect(context, port) as connection, connection.makefile("rb") as file:
            connection.sendall(request)
            return read_message(file)

    @property
    def admin_port(self) -> int:
        pattern = r"counts on https://127\.0\.0\.1:(\d+)/"
        wait_for(lambda: re.search(pattern, self.running.stderr) is not None, self.running.stderr)
        return int(re.search(pattern, self.running.stderr)[1])

    def shown(self) -> bytes:
        with self.connect() as connection:
            return connection.getpeercert(binary_form=True)

    def replace(self, cert: Path, key: Path) -> None:
        """Put another pair into the files of the first, and wait until it is in use."""
        before = self.shown()
        shutil.copy(cert, self.cert)
        shutil.copy(key, self.key)
        wait_for(lambda: self.shown() != before, f"the new certificate is not in use: {self.running.stderr}")


@pytest.fixture
def front(tmp_path) -> Iterator[Front]:
    with ExitStack() as stack:
        yield Front(stack, tmp_path)
    assert "Traceback" not in (tmp_path / "proxy.log").read_text()


def get(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *fields, "", ""]).encode()


def test_requests_are_answered_and_logged(front):
    running = front.start()
    assert f"listening on https://127.0.0.1:{running.port} " in running.stderr
    with front.connect() as connection, connection.makefile("rb") as file:
        assert connection.version() == "TLSv1.3"
        for _ in range(20):
            connection.sendall(post())
            assert read_message(file).line == "HTTP/1.1 200 OK"
    running.wait_for_files("*.csv", 20)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(front, version):
    front.start()
    context = front.context()
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    with front.connect(context) as connection, connection.makefile("rb") as file:
        assert connection.selected_alpn_protocol() == "http/1.1"
        connection.sendall(post())
        assert read_message(file).line == "HTTP/1.1 200 OK"


def test_tls_1_1_is_refused(front):
    front.start()
    context = front.context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)), front.connect(context):
        pass
    wait_for(lambda: "a version of TLS before 1.2" in front.running.stderr, "nobody is told why")
    assert front.exchange(post()).line == "HTTP/1.1 200 OK"


def test_plain_http_is_told_that_this_is_https(front):
    running = front.start()
    answer = running.exchange(get("/"))
    assert (answer.line, answer.body) == ("HTTP/1.1 400 Bad Request", b"This port takes https.\r\n")
    wait_for(lambda: "it sent plain HTTP" in running.stderr, "it does not say so")


def test_nonsense_and_silence_take_nothing_with_them(front):
    running = front.start("--receive-timeout", "0.3")
    for nonsense in (b"\x16\x03\x01\xff\xff", b"\0" * 100, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b""):
        with running.connect() as connection:
            connection.sendall(nonsense)
            with suppress(ConnectionResetError):
                while connection.recv(1000):
                    pass
    assert front.exchange(post()).line == "HTTP/1.1 200 OK"
    assert json.loads(front.exchange(get("/stats"), port=front.admin_port).body)["clients"] == 0


def test_a_client_that_breaks_a_record_is_dropped(front):
    running = front.start()
    with front.connect() as connection:
        plain = socket.socket(fileno=connection.detach())
        with plain:
            plain.settimeout(20)
            plain.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
            with suppress(ConnectionResetError):
                while plain.recv(1000):
                    pass
    assert front.exchange(post()).line == "HTTP/1.1 200 OK"
    assert "Traceback" not in running.stderr


def echo(connection: socket.socket) -> None:
    with connection.makefile("rb") as file:
        while (request := read_message(file)).line:
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.body)
            connection.sendall(head + request.body)


def test_long_bodies_pass_both_ways(front):
    front.start(handle=echo)
    body = bytes(range(256)) * 40_000
    with front.connect() as connection, connection.makefile("rb") as file:
        sending = threading.Thread(target=connection.sendall, args=(post(body, path="/other"),))
        sending.start()
        assert read_message(file).body == body
        sending.join()


def test_requests_in_small_pieces_and_several_in_one(front):
    front.start(handle=echo)
    with front.connect() as connection, connection.makefile("rb") as file:
        for byte in post(b"abc", path="/other"):
            connection.sendall(bytes([byte]))
        assert read_message(file).body == b"abc"
        connection.sendall(post(b"1", path="/other") + post(b"2", path="/other") + post(b"3", path="/other"))
        assert [read_message(file).body for _ in range(3)] == [b"1", b"2", b"3"]


def test_a_client_that_does_not_read_takes_no_memory(front):
    size = 64 * 2**20

    def handle(connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            read_message(file)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            piece, self_sent = b"x" * 2**16, 0
            while self_sent < size:
                connection.sendall(piece)
                self_sent += len(piece)
                sent.append(self_sent)

    sent: list[int] = []
    front.start(handle=handle)
    with front.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(get("/"))
        last = -1
        while last != len(sent) or not sent:  # until nothing moves any more
            last = len(sent)
            threading.Event().wait(0.3)
        assert sent[-1] < size / 2
        assert len(read_message(file).body) == size


def test_an_early_refusal_reaches_a_client_that_still_sends(front):
    front.start("--max-body", "1000")
    body = b"x" * 2**22
    with front.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(post(body)[:200])
        answer = read_message(file)
        assert answer.line.startswith("HTTP/1.1 413 ")
        with suppress(OSError):
            connection.sendall(body)


def test_a_client_that_says_that_it_has_said_all_gets_its_answer(front):
    go_on = threading.Event()

    def handle(connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            read_message(file)
            assert go_on.wait(PATIENCE)
            connection.sendall(OK)

    front.start(handle=handle)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secure = front.context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with front.running.connect() as connection:
        while True:
            try:
                secure.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(2**16))
        secure.write(post())
        with suppress(ssl.SSLWantReadError):
            secure.unwrap()  # only this half: the other is still open
        connection.sendall(outgoing.read())
        go_on.set()
        count = 0
        while piece := connection.recv(2**16):
            count += len(piece)
        assert count > 200


def test_the_server_is_told_that_clients_come_by_https(front):
    heads = []

    def handle(connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            heads.append(read_head(file)[1])
            connection.sendall(OK)

    front.start(handle=handle)
    front.exchange(get("/"))
    assert ("X-Forwarded-Proto", "https") in heads[0]


# Certificates that change


def test_a_new_certificate_is_shown_and_no_request_is_lost(front):
    """Clients that keep their connection, clients that come anew, and a request that waits meanwhile."""
    held, waits = threading.Event(), threading.Event()

    def handle(connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            while (request := read_message(file)).line:
                if b" /wait " in request.line.encode():
                    waits.set()
                    assert held.wait(PATIENCE)
                connection.sendall(OK)

    front.start(handle=handle)
    ended, failures, answered = threading.Event(), [], [0, 0]

    def keep_asking() -> None:
        with front.connect() as connection, connection.makefile("rb") as file:
            while not ended.is_set():
                connection.sendall(post())
                if read_message(file).line != "HTTP/1.1 200 OK":
                    failures.append("kept")
                answered[0] += 1

    def come_again() -> None:
        while not ended.is_set():
            if front.exchange(post()).line != "HTTP/1.1 200 OK":
                failures.append("new")
            answered[1] += 1

    def wait() -> None:
        if front.exchange(get("/wait")).line != "HTTP/1.1 200 OK":
            failures.append("waited")

    clients = [threading.Thread(target=run) for run in (keep_asking, come_again, wait)]
    try:
        for client in clients:
            client.start()
        assert waits.wait(PATIENCE)
        for number in range(3):
            before = list(answered)
            front.replace(*front.authority.issue(f"next-{number}"))
            wait_for(lambda before=before: all(map(int.__gt__, answered, before)), "clients stand still")
    finally:
        held.set()
        ended.set()
        for client in clients:
            client.join(30)
    assert failures == []
    assert front.running.stderr.count("changed, and in use from now on") >= 3


def test_files_that_do_not_belong_together_are_said_and_not_taken(front):
    running = front.start()
    before = front.shown()
    cert, key = front.authority.issue("next")
    shutil.copy(cert, front.cert)
    wait_for(lambda: "is not that of the certificate" in running.stderr, running.stderr)
    assert front.shown() == before
    assert front.exchange(post()).line == "HTTP/1.1 200 OK"
    shutil.copy(key, front.key)
    wait_for(lambda: front.shown() != before, running.stderr)
    assert running.stderr.count("is not that of the certificate") == 1


def test_all_workers_take_the_new_certificate_and_it_is_said_once(front):
    running = front.start("--workers", "2")
    for _ in range(8):
        assert front.exchange(post()).line == "HTTP/1.1 200 OK"
    old = front.shown()
    front.replace(*front.authority.issue("next"))
    wait_for(lambda: all(front.shown() != old for _ in range(16)), "a worker shows the old one")
    assert running.stderr.count("changed, and in use from now on") == 1


# Clients' certificates


def test_a_client_needs_a_certificate_of_a_known_authority(front, tmp_path):
    known, other = Authority(tmp_path, "clients"), Authority(tmp_path, "others")
    running = front.start("--tls-client-ca", str(known.certificate))
    mine, theirs = known.issue("mine", "a client"), other.issue("theirs", "a client")
    assert front.exchange(post(), front.context(mine)).line == "HTTP/1.1 200 OK"
    for own in (None, theirs):
        with suppress(OSError):  # by TLS 1.3 a client learns of it only as it reads
            assert front.exchange(post(), front.context(own)).line == ""
    assert "it shows no certificate" in running.stderr
    assert (
        json.loads(front.exchange(get("/stats"), front.context(mine), front.admin_port).body)["ledger"]["seen"]
        == 1
    )


def test_an_authority_that_is_withdrawn_admits_nobody_not_even_by_an_old_session(front, tmp_path):
    first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
    trusted = tmp_path / "trusted.pem"
    shutil.copy(first.certificate, trusted)
    running = front.start("--tls-client-ca", str(trusted))
    old, new = front.context(first.issue("old", "a client")), front.context(second.issue("new", "a client"))
    old.maximum_version = new.maximum_version = ssl.TLSVersion.TLSv1_2
    with front.connect(old) as connection, connection.makefile("rb") as file:
        session = connection.session
        connection.sendall(post())
        assert read_message(file).line == "HTTP/1.1 200 OK"
        shutil.copy(second.certificate, trusted)
        wait_for(lambda: "changed, and in use from now on" in running.stderr, running.stderr)
        connection.sendall(post())  # what is connected stays so
        assert read_message(file).line == "HTTP/1.1 200 OK"
    assert front.exchange(post(), new).line == "HTTP/1.1 200 OK"
    plain = socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE)
    with plain, pytest.raises(OSError), old.wrap_socket(plain, server_hostname="localhost", session=session):
        pass


# The admin port


def test_the_admin_port_speaks_tls_too(front):
    front.start()
    assert front.exchange(get("/readyz"), port=front.admin_port).line == "HTTP/1.1 200 OK"
    put = b"PUT /model-version/7 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert front.exchange(put, port=front.admin_port).line == "HTTP/1.1 200 OK"
    assert json.loads(front.exchange(get("/upstreams"), port=front.admin_port).body)[0]["version"] == "7"
    with socket.create_connection(("127.0.0.1", front.admin_port), timeout=PATIENCE) as plain:
        plain.sendall(get("/stats"))
        assert b"This port takes https" in plain.makefile("rb").read()


def test_probes_have_no_certificate_and_need_none(front, tmp_path):
    known = Authority(tmp_path, "clients")
    front.start("--tls-client-ca", str(known.certificate))
    for path, status in (
        ("/healthz", 200),
        ("/readyz", 200),
        ("/stats", 403),
        ("/metrics", 403),
        ("/upstreams", 403),
    ):
        assert f" {status} " in front.exchange(get(path), port=front.admin_port).line
    with_one = front.context(known.issue("mine", "a client"))
    assert " 200 " in front.exchange(get("/metrics"), with_one, front.admin_port).line


# The start


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--tls-cert", "none.pem"], "--tls-cert: can't read none.pem: No such file"),
        (["--tls-cert", "/dev/null"], "has no certificate in it"),
        (["--tls-key", "none.pem"], "--tls-key needs --tls-cert"),
        (["--tls-client-ca", "none.pem"], "--tls-client-ca needs --tls-cert"),
        (["--tls-cert", "CERT"], "Name the file that has it with --tls-key"),
        (["--tls-cert", "CERT", "--tls-key", "KEY", "--tls-client-ca", "/dev/null"], "--tls-client-ca: /dev/null"),
    ],
)
@pytest.mark.parametrize("command", ["proxy", "serve"])
def test_a_start_with_files_that_cant_be_taken_says_what_to_do(tmp_path, command, flags, says):
    cert, key = Authority(tmp_path).issue("server")
    flags = [{"CERT": str(cert), "KEY": str(key)}.get(flag, flag) for flag in flags]
    which = ["--upstream", "http://localhost:1"] if command == "proxy" else ["models:/wine@champion"]
    ran = subprocess.run(
        [sys.executable, "-m", "mooring", command, *which, "--port", "0", *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (ran.returncode, "Traceback" in ran.stderr) == (2, False)
    assert says in ran.stderr
