"""The names that the admin port answers to."""

from __future__ import annotations

import pytest

from mooring.capture.admin.hosts import Hosts, host_of

EVIL = ["evil.example", "evil.example:5003", "localhost.evil.example", "127.0.0.1.evil.example", "", "a b", "[x]"]


@pytest.mark.parametrize(
    "header", ["localhost", "LOCALHOST:5003", "localhost.", "127.0.0.1:1", "127.0.0.9", "[::1]"]
)
def test_loopback_is_always_known(header):
    assert Hosts([], open=False).known(header)
    assert Hosts([], open=True).known(header)


@pytest.mark.parametrize("header", EVIL)
def test_names_of_others_are_not(header):
    assert not Hosts(["metrics.internal"], open=False).known(header)
    assert not Hosts(["metrics.internal"], open=True).known(header)


def test_names_of_its_own_are_known():
    hosts = Hosts(["Metrics.internal", "host-1"], open=True)
    assert hosts.known("metrics.internal.:5003")
    assert hosts.known("HOST-1")


def test_addresses_are_known_where_it_is_reached_from_elsewhere():
    for header in ("10.0.0.7:5003", "[fd00::1]:5003", "192.168.1.2"):
        assert Hosts([], open=True).known(header)
        assert not Hosts([], open=False).known(header)


@pytest.mark.parametrize("header", ["a@b", "a/b", "[::1", "a:b", "ü", "a:1:2", "http://localhost"])
def test_what_is_no_host(header):
    assert host_of(header) == ""
