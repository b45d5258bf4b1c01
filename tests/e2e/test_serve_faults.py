"""What `mooring serve` survives: bad versions, a registry that is away, two promotions at once, a full disk."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from disks import small_disk
from kinds import proofs
from peers import post, read_head, read_message
from supervised import (
    BODY,
    Load,
    Supervised,
    goes_and_the_champion_answers,
    registered,
    supervised,
    taking_bad_versions,
)
from waiting import PATIENCE, wait_for


@pytest.fixture(scope="module")
def store() -> Path:
    return registered()


@pytest.fixture(scope="module")
def serving_on(store, tmp_path_factory) -> Iterator[Supervised]:
    with taking_bad_versions(tmp_path_factory.mktemp("serving"), store) as it:
        yield it


@pytest.mark.parametrize(
    ("version", "reason", "may_fail"),
    [
        ("3", "does not load", False),
        ("4", "requests that were put to it as a check", False),
        *proofs(("5", "errors: ", True)),
        *proofs(("8", "exit code 7", False)),
        *proofs(("11", "it has 0 predictions where the champion's has 2", False)),
        *proofs(("12", "prediction is text where the champion's is number", False)),
        ("13", "it has no prediction", False),
        *proofs(("14", "it has 0 predictions where the ", False)),
        *proofs(("15", "prediction is text where the champion's is number", False)),
        *proofs(("16", "it has no prediction", False)),
        *proofs(("17", "it has 1 predictions where the ", False)),
    ],
    ids=[
        "does not load",
        "answers errors at once",
        "answers errors later",
        "crashes",
        "answers nothing at once",
        "answers text at once",
        "answers other fields at once",
        "answers nothing later",
        "answers text later",
        "answers other fields later",
        "answers one row later",
    ],
)
def test_a_bad_version_goes_and_the_champion_keeps_answering(serving_on, version, reason, may_fail):
    goes_and_the_champion_answers(serving_on, version, reason, may_fail)


@pytest.mark.proof
def test_a_shadow_that_hangs_is_bounded_said_and_rolled_back(store, tmp_path):
    plan = ("--rollout-step", "shadow 50% 1h 1000", "--queue", "4", "--timeout", "3600")
    with supervised(tmp_path, store, *plan) as it, Load(it.port) as load:
        load.wait_for(20)
        it.challenge("18")
        gone = it.rolled_out("18", "rolled_back")
        assert "copies for the shadow were dropped or timed out" in gone.reason
        assert "the shadow, version 18, does not keep up: " in it.said
        assert gone.counts["shadow_dropped"] > 0
        load.wait_for(50)
    assert load.failures == []
    assert load.versions() == {"1"}


@pytest.mark.proof
def test_the_disk_is_full_and_the_champion_keeps_answering(store, tmp_path):
    with small_disk(tmp_path / "disk", "32m") as disk:
        flags = ("--log", str(disk / "log"), "--serve-directory", str(disk / "serve"))
        with supervised(tmp_path, store, *flags) as it, Load(it.port) as load:
            load.wait_for(20)
            with (disk / "big").open("wb", buffering=0) as big, suppress(OSError):
                while big.write(b"x" * 4096):
                    pass
            wait_for(lambda: "disk_full" in it.stats()["ledger"]["dropped"], "it still stores")
            it.challenge("2")
            gone = it.rolled_out("2", "rolled_back")
            assert "there is no room for wine version 2" in gone.reason
            load.wait_for(50)
            (disk / "big").unlink()
            stored = it.stats()["ledger"]["stored"]
            wait_for(lambda: it.stats()["ledger"]["stored"] > stored + 20, "it does not store again")
        assert load.failures == []
        assert load.versions() == {"1"}


@pytest.mark.proof
def test_files_of_the_champion_that_are_damaged_while_it_is_served_are_downloaded_again(store, tmp_path):
    with supervised(tmp_path, store) as it:
        [told] = (tmp_path / "serve").glob("*/1/model/**/*.py")
        told.write_text("raise ImportError('damaged')")
        [server] = it.servers()
        os.kill(server, signal.SIGKILL)
        wait_for(lambda: "was damaged here" in it.said, "nobody noticed")
        wait_for(lambda: it.stats()["servers"]["1"]["ready"] == 1, "it does not serve again")
        assert it.ask()[:2] == (200, "1")


@pytest.mark.proof
def test_servers_that_leak_are_replaced_and_no_request_fails(store, tmp_path):
    flags = ("--workers", "2", "--worker-memory", str(700 * 2**20))
    with supervised(tmp_path, store, *flags, follows="/20") as it, Load(it.port, pause=0.02) as load:
        wait_for(lambda: it.stats()["servers"]["20"]["crashed"] >= 3, "they are not replaced")
        load.wait_for(20)
    assert load.failures == []
    assert load.versions() == {"20"}
    assert [json.loads(body)["predictions"] for body in load.bodies] == [[6.0, 8.0]]
    assert "more than the 700 MiB of --worker-memory" in it.said


# Requests that hang, or fail, and clients that give up


def asking_for(value: float) -> bytes:
    return json.dumps({"dataframe_split": {"columns": ["a"], "data": [[value]]}}).encode()


HANG, FAIL = asking_for(-1), asking_for(-2)
DEEP = b'{"dataframe_split": ' + b"[" * 5000 + b"]" * 5000 + b"}"
LONG = b'{"dataframe_split": {"columns": ["a"], "data": [[' + b"1" * 5000 + b"]]}}"
UNTYPED = b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture(scope="module")
def obeying(store, tmp_path_factory) -> Iterator[Supervised]:
    directory = tmp_path_factory.mktemp("obeying")
    with supervised(directory, store, "--timeout", "2", "--queue", "30", follows="/19") as it:
        yield it


def test_no_request_fails_for_one_that_failed_before_it_on_the_same_connection(obeying):
    with socket.create_connection(("127.0.0.1", obeying.port), timeout=PATIENCE) as client:
        file = client.makefile("rb")
        for _ in range(8):
            for bad in (post(FAIL), post(DEEP), post(LONG), UNTYPED):
                client.sendall(bad + post(BODY))
                assert read_message(file).line.split()[1] in ("400", "415", "500")
                assert read_message(file).line == "HTTP/1.1 200 OK"


def test_redirects_name_the_host_that_the_client_asked(obeying):
    connection = HTTPConnection("127.0.0.1", obeying.port, timeout=PATIENCE)
    connection.request("POST", "/invocations/", BODY, {"Host": "wine.example:8080"})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Location"]) == (307, "http://wine.example:8080/invocations")
    connection.close()


@pytest.mark.parametrize(
    ("line", "status"),
    [("POST /nothing", "404"), ("PUT /invocations", "405"), ("POST /ping", "405"), ("POST /a/b?c", "404")],
)
@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
def test_who_waits_with_a_body_for_a_path_that_is_none_has_the_answer_before_it(obeying, line, status, framing):
    with socket.create_connection(("127.0.0.1", obeying.port), timeout=PATIENCE) as client:
        client.sendall(f"{line} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{framing}\r\n\r\n".encode())
        assert read_head(client.makefile("rb"))[0].split()[1] == status


def test_clients_that_gave_up_are_in_nobodys_way(obeying):
    before = obeying.stats()["ledger"]

    def more(name: str) -> int:
        return obeying.stats()["ledger"]["errors"].get(name, 0) - before["errors"].get(name, 0)

    with ExitStack() as stack:
        for number in range(31):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", obeying.port), timeout=PATIENCE))
            client.sendall(post(HANG if not number else BODY))
            if not number:
                wait_for(lambda: obeying.stats()["ledger"]["in_flight"] == 1, "it has not come")
            else:
                client.shutdown(socket.SHUT_WR)
        wait_for(lambda: more("client_gone") > 0 and obeying.stats()["waiting"] == 0, "they keep their places")
        wait_for(lambda: obeying.ask()[0] == 200, "whoever comes next gets no answer")


@pytest.mark.proof
def test_clients_that_try_again_get_answers_where_more_comes_than_can_be_answered(store, tmp_path):
    """Each gives up before its turn would come if all waited in the order in which they came."""
    answered = []
    end = threading.Event()

    def client(port: int) -> None:
        while not end.is_set():
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.8) as connection:
                connection.sendall(post(BODY))
                answered.append(read_message(connection.makefile("rb")).line)

    with supervised(tmp_path, store, follows="/9") as it:
        threads = [threading.Thread(target=client, args=(it.port,)) for _ in range(24)]
        for thread in threads:
            thread.start()
        try:
            wait_for(lambda: answered.count("HTTP/1.1 200 OK") >= 30, "hardly anybody gets an answer")
        finally:
            end.set()
            for thread in threads:
                thread.join()


@pytest.mark.proof
def test_a_server_that_hangs_is_replaced_and_its_place_filled(obeying):
    was = obeying.servers()
    for _ in range(2):
        assert obeying.ask(HANG)[0] == 504
        assert obeying.ask()[0] == 200  # it comes back from others
    assert obeying.servers() == was
    assert obeying.stats()["servers"]["19"]["hung"] == 0
    for _ in range(3):
        assert obeying.ask(HANG)[0] == 504
    wait_for(lambda: obeying.stats()["servers"]["19"]["hung"] == 1, "nobody notices that it hangs")
    wait_for(lambda: obeying.ask()[0] == 200, "its place is not filled")
    wait_for(lambda: not set(was) & set(obeying.servers()), "the one that hangs is still there")
    assert "version 19, server 1 was replaced: 3 requests in a row had no answer within 2 seconds" in obeying.said
    assert re.search(r'mooring_server_hung_total\{version="19"\} 1.0', obeying.admin("/metrics"))
