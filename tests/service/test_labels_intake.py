"""Labels come by file, from Python and over HTTP: each is handled and counted, and none that was taken is lost."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from disks import small_disk
from faults import FAST, drain, drain_of, is_true, kill_9, logged, past
from labelled_logs import values
from mooring.log.labels import read_labels
from peers import OK, Proxy, answering, post, proxy, read_message, upstream
from waiting import PATIENCE

TOKEN = "a-token-for-labels"
CLOSED = ("--segment-seconds", "0.2")


@pytest.fixture(scope="module")
def server():
    with upstream(answering(OK)) as serving:
        yield serving


def admin_port(of: Proxy) -> int:
    of.admin("/healthz")  # waits until it is there
    return int(of.stderr.partition("counts on http://127.0.0.1:")[2].partition("/")[0])


def send(to: Proxy, body: object, token: str | None = TOKEN, kind: str = "application/json", **headers: str):
    """POST labels to a proxy's admin port, and return status and body of the answer."""
    connection = HTTPConnection("127.0.0.1", admin_port(to), timeout=PATIENCE)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    authorization = {"Authorization": f"Bearer {token}"} if token is not None else {}
    try:
        connection.request("POST", "/labels", data, {"Content-Type": kind, **authorization, **headers})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def taking(directory: Path, url: str, *flags: str, **options):
    options = {"log_format": "parquet", "env": {"MOORING_LABELS_TOKEN": TOKEN}, **options}
    return proxy(directory, url, "--model", "m", *CLOSED, *flags, **options)


def end(running: Proxy) -> None:
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_labels_sent_to_the_proxy_are_in_the_log_and_the_account_is_as_without(server, tmp_path, workers):
    with taking(tmp_path, server.url, "--workers", workers) as running:
        [id_] = running.exchange(post()).all("X-Request-Id")
        status, body = send(running, {"request_id": id_, "label": 6})
        assert (status, json.loads(body)) == (202, {"taken": 1, "models": {"m": 1}})
        lines = (
            b'{"request_id": "a", "row": 1, "label": "good", "time": "2026-03-01T12:00Z"}\n\n'
            b'{"request_id": "b", "label": true, "model": "other"}\n'
        )
        status, body = send(running, lines, kind="application/x-ndjson; charset=utf-8")
        assert (status, json.loads(body)) == (202, {"taken": 2, "models": {"m": 1, "other": 1}})
        assert running.stats()["labels_taken"] == 3
        assert "mooring_labels_taken_total 3.0" in running.admin("/metrics")[1]
        ledger = running.stats()["ledger"]
        assert (ledger["seen"], ledger["stored"], ledger["balance"]) == (1, 1, 0)
        # They are in the log soon, though the proxy goes on.
        objects = running.wait_for_files("labels/model=m/date=*/*.parquet", 2)
        assert "date=2026-03-01" in {path.parent.name for path in objects}
        end(running)
    drain(running.log)
    assert values(running.log) == {(id_, 0): 6.0, ("a", 1): "good"}
    assert values(running.log, "other") == {("b", 0): 1.0}
    ledger = past(running.log)
    assert is_true(ledger)
    assert (ledger["seen"], ledger["stored"]) == (1, 1)


def test_protected_values_sent_to_the_proxy_are_in_the_log_beside_their_label(server, tmp_path):
    with taking(tmp_path, server.url) as running:
        sent = [
            {"request_id": "a", "label": 6, "protected": {"sex": "f", "age": 41, "region": None}},
            {"request_id": "b", "label": 7, "protected": None},
        ]
        assert send(running, sent)[0] == 202
        end(running)
    drain(running.log)
    found = read_labels(str(running.log), "m").table
    assert dict(zip(found["request_id"].to_pylist(), found["protected"].to_pylist(), strict=True)) == {
        "a": '{"age":"41","sex":"f"}',
        "b": None,
    }


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ([{"request_id": "a", "label": 1}, {"label": 1}], "entry 1 (counted from 0): request_id is missing"),
        ([{"request_id": "a", "label": None}], "entry 0 (counted from 0): label is missing"),
        ([{"request_id": "a", "label": [1]}], "entry 0 (counted from 0): label is [1], not a number"),
        ([{"request_id": "a", "label": 1, "row": -1}], "entry 0 (counted from 0): row is -1, not a whole number"),
        (
            [{"request_id": "a", "label": 1, "row": True}],
            "entry 0 (counted from 0): row is True, not a whole number",
        ),
        ([{"request_id": "a", "label": 1, "time": 5}], "entry 0 (counted from 0): time is 5, no time"),
        (
            [{"request_id": "a", "label": 1, "time": "9999-12-31"}],
            "entry 0 (counted from 0): time is '9999-12-31'",
        ),
        (
            [{"request_id": "a", "label": 1, "time": "0001-01-01T00:00+14:00"}],
            "entry 0 (counted from 0): time is '0001-01-01T00:00+14:00', no time",
        ),
        ([{"request_id": "a", "lable": 1}], "entry 0 (counted from 0): there is no key 'lable'"),
        ([{"request_id": "a", "label": 1, "model": ""}], "entry 0 (counted from 0): model is no name"),
        (
            [{"request_id": "a", "label": 1, "protected": "f"}],
            "entry 0 (counted from 0): protected must be an object",
        ),
        (
            [{"request_id": "a", "label": 1, "protected": {"sex": ["f"]}}],
            "entry 0 (counted from 0): sex is ['f'], not a number",
        ),
        ([1], "entry 0 (counted from 0): it must be an object"),
        (b"{", "the body is not JSON"),
        (b'{"request_id": "a", "label": NaN}', "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
    ],
)
def test_an_entry_that_can_not_be_meant_is_named_and_none_is_taken(refusing, body, says):
    before = refusing.stats()["labels_taken"]
    status, answer = send(refusing, body)
    assert (status, answer[: len(says)]) == (400, says)
    assert refusing.stats()["labels_taken"] == before


@pytest.fixture(scope="module")
def refusing(server, tmp_path_factory):
    with taking(tmp_path_factory.mktemp("refusing"), server.url) as running:
        yield running


def test_a_line_that_can_not_be_meant_is_named(refusing):
    status, answer = send(
        refusing, b'\n{"request_id": "a", "label": 1}\n{"request_id":\n', kind="application/x-ndjson"
    )
    assert status == 400
    assert answer.startswith("line 3 is not JSON")


@pytest.mark.parametrize("token", [None, "", "wrong", "a", f"{TOKEN} and more", "ä"])
def test_who_does_not_know_the_token_is_refused(refusing, token):
    status, answer = send(refusing, {"request_id": "a", "label": 1}, token)
    assert (status, "Authorization: Bearer" in answer) == (401, True)


def test_what_is_no_such_request_is_refused(refusing):
    label = {"request_id": "a", "label": 1}
    assert send(refusing, label, kind="text/csv")[0] == 415
    assert send(refusing, label, **{"Content-Encoding": "gzip"})[0] == 415
    assert send(refusing, b" " * (2**20 + 1))[0] == 413
    assert send(refusing, b" " * 2**24)[0] == 413  # the answer arrives though the body is not read
    assert refusing.admin("/labels")[0] == 405
    assert send(refusing, [])[0] == 202


def test_a_client_that_asks_first_is_told_to_go_on_and_one_that_names_no_length_is_refused(refusing):
    head = "POST /labels HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Authorization: bearer {TOKEN}\r\n"
    body = b'{"request_id": "a", "label": 1}'
    with (
        socket.create_connection(("127.0.0.1", admin_port(refusing)), timeout=PATIENCE) as connection,
        connection.makefile("rb") as file,
    ):
        connection.sendall(f"{head}Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n".encode())
        assert read_message(file).line == "HTTP/1.1 100 Continue"
        connection.sendall(body)
        assert read_message(file).line == "HTTP/1.1 202 Accepted"
    with (
        socket.create_connection(("127.0.0.1", admin_port(refusing)), timeout=PATIENCE) as connection,
        connection.makefile("rb") as file,
    ):
        connection.sendall(f"{head}Content-Length: {'9' * 5000}\r\n\r\n".encode())
        assert "413" in read_message(file).line
    with (
        socket.create_connection(("127.0.0.1", admin_port(refusing)), timeout=PATIENCE) as connection,
        connection.makefile("rb") as file,
    ):
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode())
        assert read_message(file).line == "HTTP/1.1 411 Length Required"


def test_a_full_disk_takes_no_labels_until_there_is_room(server, tmp_path):
    with (
        small_disk(tmp_path / "disk", "2m") as disk,
        taking(tmp_path, server.url, "--log", str(disk / "log")) as running,
    ):
        assert send(running, {"request_id": "before", "label": 1})[0] == 202
        filler = disk / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        many = [{"request_id": f"{number}", "label": 1} for number in range(5000)]
        status, answer = send(running, many)
        assert (status, "No space left on device" in answer) == (507, True)
        filler.unlink()
        assert send(running, {"request_id": "after", "label": 1})[0] == 202
        end(running)
        drain(disk / "log")
        assert set(values(disk / "log")) == {("before", 0), ("after", 0)}


def test_without_a_token_labels_are_not_taken_and_the_answer_says_how(server, tmp_path):
    with taking(tmp_path, server.url, env={}) as running:
        status, answer = send(running, {"request_id": "a", "label": 1})
        assert (status, "MOORING_LABELS_TOKEN" in answer) == (403, True)


def test_a_log_of_csv_files_takes_none(server, tmp_path):
    with taking(tmp_path, server.url, log_format="csv") as running:
        status, answer = send(running, {"request_id": "a", "label": 1})
        assert (status, "--format parquet" in answer) == (409, True)


def test_a_full_spool_takes_no_labels_and_the_sender_knows(server, tmp_path):
    with taking(tmp_path, server.url, "--spool-max-bytes", "0") as running:
        status, answer = send(running, {"request_id": "a", "label": 1})
        assert (status, "--spool-max-bytes" in answer) == (507, True)


def test_labels_are_taken_after_the_spool_was_removed(server, tmp_path):
    with taking(tmp_path, server.url) as running:
        assert send(running, {"request_id": "a", "label": 1})[0] == 202
        running.wait_for_files("labels/**/*.parquet", 1)
        shutil.rmtree(running.log / ".spool")
        assert send(running, {"request_id": "b", "label": 1})[0] == 202
        end(running)
    drain(running.log)
    assert set(values(running.log)) == {("a", 0), ("b", 0)}


@pytest.mark.parametrize(("durability", "workers"), [("process", "1"), ("power", "2")])
def test_labels_that_were_taken_survive_kill_9(server, tmp_path, durability, workers):
    flags = ("--durability", durability, "--workers", workers, "--segment-seconds", "60")
    taken = []
    for round_ in range(3):
        with taking(tmp_path, server.url, *flags) as running:
            drain_pid = drain_of(running.log)
            running.exchange(post())
            for number in range(20):
                id_ = f"{round_}-{number}"
                status, _ = send(running, [{"request_id": id_, "row": row, "label": number} for row in range(3)])
                assert status == 202
                taken += [((id_, row), float(number)) for row in range(3)]
            kill_9(*[(running.process.pid,), (drain_pid, running.process.pid)][round_ % 2])
            running.process.wait()
    with taking(tmp_path, server.url, *FAST) as running:
        end(running)
    drain(running.log)
    assert values(running.log) == dict(taken)
    assert set(logged(running.log, "labels").values()) == {3}
    assert is_true(past(running.log))
