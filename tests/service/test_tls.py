"""A model server behind TLS: its certificate is verified, and what is wrong with it is said."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from peers import OK, Proxy, answering, post, proxy, read_message, upstream

DAY = datetime.timedelta(days=1)


class Authority(NamedTuple):
    """An authority of the test's own, and a certificate that it has signed."""

    certificate: Path
    server: ssl.SSLContext


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def authority(directory: Path, host: str = "localhost") -> Authority:
    """Make an authority, and a server's certificate for `host`."""
    keys = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    signed = []
    for number, (key, common) in enumerate(zip(keys, ("the test's authority", host), strict=True)):
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(common))
            .issuer_name(name("the test's authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.BasicConstraints(ca=number == 0, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False
            )
        )
        if number:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        signed.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "authority.pem").write_bytes(signed[0])
    (directory / "server.pem").write_bytes(signed[1] + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    return Authority(directory / "authority.pem", context)


@contextmanager
def between(directory: Path, handle: Callable, known: Authority, trusted: Path | None) -> Iterator[tuple]:
    """A server that shows the certificate of `known`, and a proxy in front of it that trusts `trusted`."""

    def encrypted(connection) -> None:
        with known.server.wrap_socket(connection, server_side=True) as secure:
            handle(secure)
            with suppress(OSError):
                secure.unwrap()

    env = {"SSL_CERT_FILE": str(trusted)} if trusted else None
    with (
        upstream(encrypted) as server,
        proxy(directory / "proxy", f"https://localhost:{server.port}", env=env) as running,
    ):
        yield running, server
    assert "Traceback" not in running.stderr, running.stderr


def refused(running: Proxy) -> str:
    answer = running.exchange(post())
    assert answer.line == "HTTP/1.1 502 Bad Gateway"
    return answer.body.decode()


def test_a_verified_server_is_asked_over_one_connection(tmp_path):
    known = authority(tmp_path)
    with between(tmp_path, answering(OK), known, known.certificate) as (running, server):
        with running.connect() as client, client.makefile("rb") as file:
            for _ in range(20):
                client.sendall(post())
                assert read_message(file).line == "HTTP/1.1 200 OK"
        assert len(server.connections) == 1
        running.wait_for_files("*.csv", 20)


def test_long_bodies_pass_both_ways(tmp_path):
    body = bytes(range(256)) * 40_000

    def echo(connection) -> None:
        with connection.makefile("rb") as file:
            while (request := read_message(file)).line:
                head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.body)
                connection.sendall(head + request.body)

    known = authority(tmp_path)
    with between(tmp_path, echo, known, known.certificate) as (running, _):
        assert running.exchange(post(body, path="/other")).body == body


def test_an_answer_until_close_is_whole_only_if_tls_says_so(tmp_path):
    """Where an answer has no length, anybody on the way could cut it short: TLS has an end of its own."""
    broken = threading.Event()

    def handle(connection) -> None:
        with connection.makefile("rb") as file:
            read_message(file)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nabc")
        if broken.is_set():
            socket.close(connection.detach())

    known = authority(tmp_path)
    with between(tmp_path, handle, known, known.certificate) as (running, _):
        assert running.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").body == b"3\r\nabc\r\n0\r\n\r\n"
        broken.set()
        with running.connect() as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            with suppress(ConnectionResetError):
                assert not client.makefile("rb").read().endswith(b"0\r\n\r\n")


def test_an_unknown_authority_is_502_and_says_what_to_do(tmp_path):
    with between(tmp_path, answering(OK), authority(tmp_path), None) as (running, _):
        said = refused(running)
        assert "its certificate is not trusted: unable to get local issuer certificate" in said
        assert "name a file with that one's certificate in SSL_CERT_FILE" in said
        assert "its certificate is not trusted" in running.stderr
        [record] = running.records(1)
        assert record["errors"] == ["upstream_unreachable"]


def test_a_certificate_for_another_host_is_502(tmp_path):
    known = authority(tmp_path, "elsewhere.example")
    with between(tmp_path, answering(OK), known, known.certificate) as (running, _):
        assert "Hostname mismatch" in refused(running)


@pytest.mark.parametrize(
    ("answer", "said"),
    [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "Does it speak https, on this port?"), (b"", "Is it running?")],
)
def test_a_server_without_tls_is_502(tmp_path, answer, said):
    def handle(connection) -> None:
        connection.recv(2**16)
        connection.sendall(answer)

    with upstream(handle) as server, proxy(tmp_path, f"https://localhost:{server.port}") as running:
        assert said in refused(running)
    assert "Traceback" not in running.stderr
