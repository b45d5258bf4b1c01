"""Certificates that a server shows: which files are taken, and what happens when they change."""

from __future__ import annotations

import shutil
import ssl

import pytest
from cryptography.hazmat.primitives import serialization

from certificates import Authority
from mooring.capture.proxy.tls import ServerTls


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def pair(authority):
    return authority.issue("server")


@pytest.fixture
def said(caplog):
    caplog.set_level("INFO", "mooring")
    return caplog


def tls(pair, client_ca=None) -> ServerTls:
    return ServerTls(str(pair[0]), str(pair[1]), client_ca and str(client_ca))


def look(server: ServerTls, times: int = 3) -> None:
    for _ in range(times):
        server._watch.look()


def test_versions_before_1_2_are_not_offered(pair):
    context = tls(pair).context
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_NONE


def test_certificate_and_key_may_be_in_one_file(pair, tmp_path):
    both = tmp_path / "both.pem"
    both.write_bytes(pair[0].read_bytes() + pair[1].read_bytes())
    assert ServerTls(str(both), None, None).context is not None


def test_a_new_pair_is_taken_once_it_is_whole(authority, pair, said):
    server = tls(pair)
    first = server.context
    cert, key = authority.issue("next")
    look(server)
    assert server.context is first
    shutil.copy(cert, pair[0])
    look(server, 1)
    assert (server.context is first, said.messages) == (True, [])
    shutil.copy(key, pair[1])
    look(server)
    assert server.context is not first
    assert said.messages == [f"{pair[0]}, {pair[1]}: changed, and in use from now on"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda cert, key: cert.unlink(), "--tls-cert: can't read"),
        (lambda cert, key: key.unlink(), "--tls-key: can't read"),
        (lambda cert, key: cert.write_bytes(b""), "has no certificate in it"),
        (lambda cert, key: key.write_bytes(b"nonsense"), "has no private key in it"),
        (lambda cert, key: cert.write_bytes(cert.read_bytes()[:200]), "can't be used"),
        (lambda cert, key: key.write_bytes(key.read_bytes()[:100]), "can't be used"),
        (lambda cert, key: Authority(cert.parent, "other").issue("server"), None),
    ],
)
def test_files_that_cant_be_taken_change_nothing_and_are_said_once(pair, said, spoil, says):
    server = tls(pair)
    first = server.context
    before = [path.read_bytes() for path in pair]
    spoil(*pair)
    look(server, 5)
    if says is None:  # another authority's, but a pair
        assert server.context is not first
        return
    assert server.context is first
    assert len(said.messages) == 1
    assert says in said.messages[0]
    assert said.messages[0].endswith("What was read before stays in use")
    for path, content in zip(pair, before, strict=True):
        path.write_bytes(content)
    look(server)
    assert len(said.messages) == 2


def test_a_pair_that_is_none_and_an_encrypted_key_are_refused_at_the_start(authority, pair, tmp_path):
    other = authority.issue("other")
    with pytest.raises(ValueError, match="is not that of the certificate"):
        tls((pair[0], other[1]))
    locked = tmp_path / "locked.key"
    key = serialization.load_pem_private_key(pair[1].read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"hush")
    form = serialization.PrivateFormat.PKCS8
    locked.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, encryption))
    with pytest.raises(ValueError, match="openssl pkey -in"):
        tls((pair[0], locked))


def test_authorities_of_clients(authority, pair, tmp_path):
    server = tls(pair, authority.certificate)
    assert server.context.verify_mode == ssl.CERT_REQUIRED
    assert server.asking.verify_mode == ssl.CERT_OPTIONAL
    assert server.takes_certificates
    for content, says in (
        (None, "can't read"),
        (b"x", "no certificate"),
        (authority.certificate.read_bytes()[:99], ""),
    ):
        path = tmp_path / "ca.pem"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=f"--tls-client-ca: .*{says}"):
            tls(pair, path)
