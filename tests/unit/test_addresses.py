"""URLs of model servers: what can't be one is refused before it is used, with what to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.capture.proxy.address import of_url
from mooring.capture.proxy.routes import parse_upstreams


@pytest.mark.parametrize(
    ("url", "authority", "prefix"),
    [
        ("http://localhost:5002", b"localhost:5002", b""),
        ("http://localhost/invocations", b"localhost", b""),
        ("https://models.example/wine/invocations/", b"models.example", b"/wine"),
        ("http://[::1]:80/a%20b", b"[::1]", b"/a%20b"),
        ("HTTP://Model_Server.internal.:8080/", b"model_server.internal.:8080", b""),
        ("http://127.1:5002", b"127.1:5002", b""),
        ("http://localhost:/x", b"localhost", b"/x"),
    ],
)
def test_what_is_a_url_of_a_server(url, authority, prefix):
    found = of_url(url)
    assert (found.authority, found.prefix) == (authority, prefix)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "looks like http://localhost:5002"),
        ("localhost:5002", "looks like"),
        ("ftp://a", "looks like"),
        ("http://", "looks like"),
        ("http://a:999999", "number from 1 to 65535"),
        ("http://a:x", "number from 1 to 65535"),
        ("http://a:-1", "number from 1 to 65535"),
        ("http://a:0", "port 0"),
        ("http://a b:80", "blank"),
        ("http://a/b c", "percent-encoded"),
        (" http://a", "blank"),
        ("http://a/\r\nX: y", "control character"),
        ("http://a/\t", "control character"),
        ("http://a/ü", "outside ASCII"),
        ("http://münchen.example", "xn--"),
        ("http://a\ud800/", "outside ASCII"),
        ("http://a/%zz", "percent-encoded"),
        ("http://a/<b>", "percent-encoded"),
        ("http://a\\b/", "part that is none"),
        ("http://a/?b=c", "query or a fragment"),
        ("http://a/#b", "query or a fragment"),
        ("http://a?", "query or a fragment"),
        ("http://[::1", "no URL"),
        ("http://::1]:80", "no URL"),
        ("http://[a]:80", "no URL|IPv6"),
        ("http://[1::2::3]:80", "no URL|IPv6"),
        ("http://model..internal", "empty part"),
        ("http://.internal", "empty part"),
        ("http://" + "a" * 300, "host name of 300 characters"),
        ("http://" + "a" * 64 + ".example", "part of 64 characters"),
        ("http://-a.example", "part that is none"),
        ("http://a,b", "part that is none"),
        ("http://300.1.2.3", "IPv4 address that is none"),
        ("http://1.2.3.4.5", "IPv4 address that is none"),
        ("http://a/" + "b" * 3000, "at most 2048"),
    ],
)
def test_what_is_none(url, says):
    with pytest.raises(ValueError, match=says):
        of_url(url)
    with pytest.raises(ValueError):
        parse_upstreams([f"3:1={url}", "4:1=http://b:1"])


def test_a_password_is_not_repeated():
    for url in ("http://ada:hush@a", "http://:hush@a", "http://ada@a"):
        with pytest.raises(ValueError, match="user or password") as raised:
            of_url(url)
        assert "hush" not in str(raised.value)


@given(st.text() | st.text(alphabet="htps:/@[]%.?#\\ 0aü\t").map("http://{}".format))
def test_whatever_is_given_is_an_address_or_a_value_error(url):
    try:
        found = of_url(url)
    except ValueError:
        return
    assert 0 < found.port < 65536
    found.host.encode("idna")  # what the resolver does first
    assert b" " not in found.authority + found.prefix
