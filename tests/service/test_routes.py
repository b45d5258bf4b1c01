"""Several versions behind one proxy: shares, sticky clients, a shadow, and changes while requests come."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from contextlib import ExitStack
from http.client import HTTPConnection

import pyarrow.dataset as ds
import pytest

from mooring.capture.proxy.routes import parse_upstreams
from peers import post, proxy, read_message, upstream
from waiting import PATIENCE, wait_for


def answering_with(prediction: float, got: list | None = None, wait: threading.Event | None = None):
    body = json.dumps({"predictions": [prediction]}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)

    def handle(connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            while (request := read_message(file)).line:
                if got is not None:
                    got.append(request)
                if wait is not None:
                    assert wait.wait(PATIENCE)
                connection.sendall(head + body)

    return handle


@pytest.fixture
def versions(tmp_path):
    """Return a function that starts servers, each with its prediction, and the proxy in front of them."""
    with ExitStack() as stack:

        def start(servers: dict, *flags: str, shares: dict | None = None):
            urls = {name: stack.enter_context(upstream(handle)).url for name, handle in servers.items()}
            first, *more = [f"{name}{(shares or {}).get(name, '')}={url}" for name, url in urls.items()]
            more = [part for text in more for part in ("--upstream", text)]
            flags = ("--segment-seconds", "0.5", *flags)
            return stack.enter_context(proxy(tmp_path, first, *more, *flags, log_format="parquet")), urls

        yield start


def put_upstreams(running, upstreams) -> tuple[int, str]:
    import re

    wait_for(lambda: "counts on" in running.stderr, "no admin port")
    port = int(re.search(r"counts on http://127\.0\.0\.1:(\d+)/", running.stderr)[1])
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    body = upstreams if isinstance(upstreams, str) else json.dumps(upstreams)
    connection.request("PUT", "/upstreams", body)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def ask(running, count: int, *headers: str) -> Counter[tuple[str, str]]:
    """Send requests over one connection; return how often each version answered, and with what."""
    found: Counter[tuple[str, str]] = Counter()
    with running.connect() as client, client.makefile("rb") as file:
        for _ in range(count):
            client.sendall(post(b'{"dataframe_split": {"columns": ["pH"], "data": [[3.1]]}}', *headers))
            answer = read_message(file)
            assert answer.line == "HTTP/1.1 200 OK"
            [version] = answer.all("X-Model-Version")
            found[version, answer.body.decode()] += 1
    return found


def logged(running, count: int, what: str = "inferences") -> list[dict]:
    def read() -> list[dict]:
        root = running.log / what
        return ds.dataset(root, format="parquet").to_table().to_pylist() if root.exists() else []

    wait_for(lambda: len(read()) >= count, f"no {count} rows in the log: {running.stderr}")
    return read()


def test_each_version_answers_its_share_and_the_log_names_it(versions):
    running, _ = versions({"3": answering_with(3), "4": answering_with(4)}, shares={"3": ":3", "4": ":1"})
    found = ask(running, 400)
    assert set(found) == {("3", '{"predictions": [3]}'), ("4", '{"predictions": [4]}')}
    assert 60 < found["4", '{"predictions": [4]}'] < 140
    rows = logged(running, 400)
    assert Counter((row["model_version"], row["variant"], row["output"]["prediction"]) for row in rows) == {
        ("3", "champion", 3.0): found["3", '{"predictions": [3]}'],
        ("4", "canary", 4.0): found["4", '{"predictions": [4]}'],
    }
    assert running.stats()["answers"] == {
        "champion 200 3": found["3", '{"predictions": [3]}'],
        "canary 200 4": found["4", '{"predictions": [4]}'],
    }
    assert (
        'mooring_answers_by_version_total{status="200",variant="canary",version="4"}'
        in running.admin("/metrics")[1]
    )


def test_a_client_sticks_to_a_version_by_the_header_that_is_named(versions):
    running, urls = versions({"3": answering_with(3), "4": answering_with(4)}, "--sticky", "X-User")
    of = {user: {version for version, _ in ask(running, 5, f"X-User: {user}")} for user in range(30)}
    assert all(len(found) == 1 for found in of.values())
    canary = {user for user, found in of.items() if found == {"4"}}
    assert 5 < len(canary) < 25
    upstreams = [{"version": "3", "url": urls["3"]}]
    upstreams += [{"version": "4", "url": urls["4"], "variant": "canary", "share": 0.9}]
    assert put_upstreams(running, upstreams)[0] == 200
    more = {user for user in range(30) if {version for version, _ in ask(running, 1, f"X-User: {user}")} == {"4"}}
    assert canary < more  # who was there stays


def test_servers_are_changed_under_traffic_without_a_failed_request(versions):
    running, urls = versions({"3": answering_with(3), "4": answering_with(4)}, "--workers", "2")
    stop, found, wrong = threading.Event(), Counter(), []

    def load() -> None:
        while not stop.is_set():
            try:
                found.update(ask(running, 20))
            except (AssertionError, OSError) as error:
                wrong.append(error)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for share in (0.1, 0.5, 1.0, 0.0):
        upstreams = [{"version": "3", "url": urls["3"]}]
        upstreams += [{"version": "4", "url": urls["4"], "variant": "canary", "share": share}]
        assert put_upstreams(running, upstreams)[0] == 200
        before = sum(found.values())
        wait_for(lambda before=before: sum(found.values()) > before + 100, "no requests")
    assert put_upstreams(running, [{"version": "4", "url": urls["4"]}])[0] == 200
    wait_for(lambda: {version for version, _ in ask(running, 10)} == {"4"}, "version 4 does not answer")
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert json.loads(running.admin("/upstreams")[1])[0]["version"] == "4"


def test_a_long_list_of_servers_reaches_every_worker(versions):
    running, urls = versions({"3": answering_with(3), "4": answering_with(4)}, "--workers", "2")
    upstreams = [{"version": "4", "url": urls["4"]}]
    upstreams += [
        {
            "version": str(number),
            "url": f"http://127.0.0.1:9/{'x' * 2000}{number}",
            "variant": "canary",
            "share": 0,
        }
        for number in range(100, 200)
    ]
    assert put_upstreams(running, upstreams)[0] == 200
    wait_for(
        lambda: {version for _ in range(10) for version, _ in ask(running, 1)} == {"4"},
        "a worker has not heard of it",
    )
    assert "Traceback" not in running.stderr


def test_the_shadow_gets_copies_whose_answers_are_logged_and_not_counted(versions):
    live, copies = [], []
    running, urls = versions({"3": answering_with(3, live)})
    with upstream(answering_with(4, copies)) as shadow:
        upstreams = [{"version": "3", "url": urls["3"]}]
        upstreams += [{"version": "4", "url": shadow.url, "variant": "shadow", "share": 0.5}]
        assert put_upstreams(running, upstreams)[0] == 200
        assert set(ask(running, 100, "X-User: ann")) == {("3", '{"predictions": [3]}')}
        wait_for(lambda: running.stats()["ledger"]["shadow"].get("stored", 0) == len(copies) > 20, "no copies")
        rows = logged(running, 100 + len(copies))
        stats = running.stats()
    assert len(live) == 100
    assert stats["ledger"]["seen"] == stats["ledger"]["stored"] == 100
    assert stats["ledger"]["shadow"] == {"copied": len(copies), "stored": len(copies)}
    assert {request.body for request in copies} == {request.body for request in live}
    assert copies[0].all("X-User") == ["ann"]
    by_id = {row["request_id"]: row for row in rows if row["variant"] == "champion"}
    shadows = [row for row in rows if row["variant"] == "shadow"]
    assert len(by_id) == 100
    assert len(shadows) == len(copies)
    for row in shadows:
        assert by_id[row["request_id"]]["input"] == row["input"]
        assert (row["model_version"], row["output"]["prediction"]) == ("4", 4.0)


def test_a_shadow_that_hangs_costs_clients_nothing_and_its_copies_are_dropped(versions):
    running, urls = versions({"3": answering_with(3)}, "--response-timeout", "600")
    released = threading.Event()
    with upstream(answering_with(4, wait=released)) as shadow:
        upstreams = [{"version": "3", "url": urls["3"]}]
        upstreams += [{"version": "4", "url": shadow.url, "variant": "shadow", "share": 1}]
        assert put_upstreams(running, upstreams)[0] == 200
        assert sum(ask(running, 600).values()) == 600
        account = running.stats()["ledger"]["shadow"]
        released.set()
    assert account["copied"] == 600
    assert account["dropped"] == 600 - 256


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("[", "truncated"),
        ("[]", "one champion"),
        ('[{"url": "http://a:1", "version": "3"}, {"url": "http://b:1", "version": "4"}]', "one champion"),
        ('[{"url": "ftp://a", "version": "3"}]', "looks like"),
        ('[{"url": "http://a:1", "share": 2}]', "<= 1"),
        (
            '[{"url": "http://a:1", "version": "3"}, {"url": "http://b:1", "version": "3", "variant": "canary"}]',
            "version of its own",
        ),
    ],
)
def test_upstreams_that_cant_be_meant_change_nothing(versions, body, says):
    running, urls = versions({"3": answering_with(3)})
    status, text = put_upstreams(running, body)
    assert (status, says in text) == (400, True), text
    assert json.loads(running.admin("/upstreams")[1])[0]["url"] == urls["3"]
    assert set(ask(running, 3)) == {("3", '{"predictions": [3]}')}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["http://a:1", "4=http://b:1"], "each needs its version"),
        (["3=http://a:1", "3=http://b:1"], "same version"),
        (["3:0=http://a:1", "4:0=http://b:1"], "weight 0"),
        (["3=a:1"], "URL of a model server"),
    ],
)
def test_upstream_flags_that_cant_be_meant(given, says):
    with pytest.raises(ValueError, match=says):
        parse_upstreams(given)


def test_a_url_with_a_port_that_is_none_is_told():
    with pytest.raises(ValueError, match="port"):
        parse_upstreams(["http://a:999999"])
