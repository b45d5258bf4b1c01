"""Alerts over HTTP and by commands: each arrives at least once, whatever the receiver does."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from alerting import HOUR, SECRET, conclude, delivered
from mooring.monitor.alerting.channels import CommandChannel, NotSent, Webhook
from mooring.monitor.alerting.queue import deliver
from mooring.state.alerts import Alerts
from mooring.state.state import State
from mooring.state.windows import Windows
from ports import reserved_port
from waiting import PATIENCE, wait_for


class Receiver:
    """An HTTP server that answers each request with the next of `script`; `hang` answers nothing until the end."""

    def __init__(self, *script: int | str) -> None:
        self.script = list(script)
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.ended = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.path, dict(self.headers), body))
                status = receiver.script.pop(0) if receiver.script else 200
                with suppress(OSError):
                    self.answer(status)

            def do_GET(self):
                raise AssertionError("an alert is never a GET")

            def answer(self, status):
                if status == "hang":
                    receiver.ended.wait(PATIENCE)
                    return
                if status == "break off":
                    return
                if status == "garbage":
                    self.wfile.write(b"\x00\x01\x02 nothing of HTTP\r\n\r\n")
                    return
                if callable(status):
                    status = status()
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                if status == 429:
                    self.send_header("Retry-After", "7200")
                self.end_headers()
                self.wfile.write(b"said\nby the server")

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook/{'x' * 20}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def state(tmp_path):
    with State(str(tmp_path / "state.db")) as opened:
        yield opened


def test_each_drift_is_sent_once_as_signed_json(state):
    with Receiver() as receiver:
        webhook = Webhook(receiver.url, SECRET)
        course = ("ok", "warning", "critical", "critical", "ok", "ok")
        kinds = conclude(state, *course, channels=[webhook], report="https://reports/wine.html")
        assert kinds == [None, "new", "worsened", None, "ended", None]
        assert conclude(state, *course, channels=[webhook]) == [None] * 6  # computed again after a kill
        assert delivered(state, webhook) == [("sent", None)] * 3
        assert delivered(state, webhook, later=9 * HOUR) == []
    sent = [json.loads(body) for _, _, body in receiver.got]
    assert [one["kind"] for one in sent] == ["new", "worsened", "ended"]
    assert len({one["id"] for one in sent}) == 3
    first = sent[0]
    judged = Windows(state).judged(first["verdict"])
    assert first == {
        "id": Alerts(state).newest("wine")[-1].id,
        "kind": "new",
        "text": "wine version 3: drift (warning), 2026-03-01 13:00 to 14:00 UTC. alcohol ks 0.315. "
        "https://reports/wine.html",
        "model": "wine",
        "version": "3",
        "variant": "champion",
        "severity": "warning",
        "window": {
            "id": judged.window.id,
            "number": 2,
            "start": "2026-03-01T13:00:00Z",
            "end": "2026-03-01T14:00:00Z",
            "rows": 1000,
        },
        "verdict": judged.verdict.id,
        "alarms": 2,
        "message": "",
        "features": [
            {
                "feature": "alcohol",
                "measure": "ks",
                "value": 0.3149,
                "threshold": 0.05,
                "p_value": 0.0001,
                "scale": 1,
            },
            {
                "feature": "pH (new)",
                "measure": "null_rate",
                "value": None,
                "threshold": None,
                "p_value": None,
                "scale": 1,
            },
        ],
        "report": "https://reports/wine.html",
        "created": first["created"],
        "about": "drift",
        "measures": {},
    }
    for (path, headers, body), one in zip(receiver.got, sent, strict=True):
        assert path == f"/hook/{'x' * 20}"
        assert headers["Content-Type"] == "application/json"
        assert headers["X-Mooring-Alert"] == one["id"]
        signed = headers["X-Mooring-Timestamp"].encode() + b"." + body
        expected = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
        assert headers["X-Mooring-Signature"] == f"sha256={expected}"
        assert abs(datetime.now(UTC).timestamp() - int(headers["X-Mooring-Timestamp"])) < 300


def test_a_receiver_that_fails_is_asked_again_later_and_what_is_behind_keeps_its_place(state):
    with Receiver(500, "break off", "garbage", 503, 200) as receiver:
        webhook = Webhook(receiver.url, SECRET)
        conclude(state, "critical", "ok", channels=[webhook])
        now = datetime.now(UTC)
        seen = []
        while not seen or seen[-1].status == "pending":
            assert deliver(state, "wine", [webhook], now=now - timedelta(seconds=1)) == []
            *_, alert = deliver(state, "wine", [webhook], now=now)
            seen.append(alert)
            now = alert.next_attempt
        assert [alert.attempts for alert in seen] == [1, 2, 3, 4, 1]
        assert seen[0].last_error == "answered 500: said"
        assert all(alert.last_error for alert in seen[:4])
    assert [json.loads(body)["kind"] for _, _, body in receiver.got] == ["new"] * 5 + ["ended"]
    assert len({body for _, _, body in receiver.got[:5]}) == 1
    assert all(alert.status == "sent" and alert.last_error is None for alert in Alerts(state).newest("wine"))


@pytest.mark.parametrize("status", [400, 404, 410, 302])
def test_a_receiver_that_will_never_take_it_is_not_asked_again(state, status):
    with Receiver(status) as receiver:
        webhook = Webhook(receiver.url)
        conclude(state, "critical", channels=[webhook])
        assert delivered(state, webhook) == [("failed", f"answered {status}: said")]
        assert delivered(state, webhook, later=100 * HOUR) == []
    assert len(receiver.got) == 1


@pytest.mark.parametrize("status", [408, 429])
def test_a_receiver_that_is_busy_is_asked_again_when_it_says(state, status):
    with Receiver(status) as receiver:
        webhook = Webhook(receiver.url)
        conclude(state, "critical", channels=[webhook])
        assert delivered(state, webhook) == [("pending", f"answered {status}: said")]
        if status == 429:
            assert delivered(state, webhook, later=HOUR) == []
        assert delivered(state, webhook, later=3 * HOUR) == [("sent", None)]


def test_a_receiver_that_hangs_is_given_up_on_and_asked_again(state):
    with Receiver("hang") as receiver:
        webhook = Webhook(receiver.url, seconds=0.3)
        conclude(state, "critical", channels=[webhook])
        assert delivered(state, webhook) == [("pending", "no answer within 0 seconds")]
        assert delivered(state, Webhook(receiver.url, seconds=30), later=HOUR) == [("sent", None)]


def test_a_receiver_that_is_not_there_is_asked_for_a_day(state):
    port = reserved_port()
    webhook = Webhook(f"http://127.0.0.1:{port}/")
    conclude(state, "critical", channels=[webhook])
    now = begun = datetime.now(UTC)
    while True:
        [alert] = deliver(state, "wine", [webhook], now=now)
        assert "refused" in alert.last_error
        if alert.status == "failed":
            break
        now = alert.next_attempt
    assert timedelta(hours=24) < now - begun < timedelta(hours=26)
    assert 30 <= alert.attempts <= 60


def test_one_channel_that_fails_keeps_no_other_from_being_told(state, tmp_path):
    with Receiver(500) as receiver:
        channels = [Webhook(receiver.url), CommandChannel(["tee", str(tmp_path / "alert.json")])]
        conclude(state, "critical", channels=channels)
        assert sorted(delivered(state, *channels)) == [("pending", "answered 500: said"), ("sent", None)]
    assert json.loads((tmp_path / "alert.json").read_text())["kind"] == "new"


def test_a_user_and_password_in_the_url_are_sent_as_such(state):
    with Receiver() as receiver:
        Webhook(receiver.url.replace("//", "//ann:s%40fe@")).send("1", b"{}")
        Webhook(receiver.url).send("1", b"{}")
    first, second = (headers for _, headers, _ in receiver.got)
    assert first["Authorization"] == "Basic YW5uOnNAZmU="
    assert "Authorization" not in second
    assert "X-Mooring-Signature" not in second


def test_a_command_finds_the_alert_on_stdin_and_in_a_variable_and_no_shell_is_involved(tmp_path):
    script = tmp_path / "page me"
    script.write_text('#!/bin/sh\ncat > "$1"\nprintf %s "$MOORING_ALERT" > "$2"\n')
    script.chmod(0o755)
    CommandChannel([str(script), f"{tmp_path}/a;b $HOME", f"{tmp_path}/c"]).send("1", b'{"id": "1"}')
    assert (tmp_path / "a;b $HOME").read_text() == '{"id": "1"}'
    assert (tmp_path / "c").read_text() == '{"id": "1"}'
    CommandChannel(f"'{script}' {tmp_path}/d {tmp_path}/e").send("2", b"{}")
    assert (tmp_path / "d").read_text() == "{}"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["sh", "-c", "echo first >&2; echo 'no\x07 network' >&2; exit 3"], "exit code 3: no  network"),
        (["false"], "exit code 1"),
        (["/nowhere/at/all"], "/nowhere/at/all can't be run: No such file or directory"),
        (["sh", "-c", "kill -9 $$"], "exit code -9"),
    ],
)
def test_a_command_that_fails_says_why_and_is_run_again(command, message):
    with pytest.raises(NotSent) as error:
        CommandChannel(command).send("1", b"{}")
    assert str(error.value) == message
    assert not error.value.final


def test_a_command_that_reads_nothing_of_a_long_alert_is_all_right():
    CommandChannel(["true"]).send("1", b'"' + b"x" * 100_000 + b'"')


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path):
    pids = tmp_path / "pids"
    hanging = CommandChannel(["sh", "-c", f"sleep 600 & echo $! $$ > {pids}; wait"], seconds=0.5)
    with pytest.raises(NotSent, match="took longer than 0 seconds, and was ended"):
        hanging.send("1", b"{}")
    for pid in map(int, pids.read_text().split()):
        wait_for(lambda pid=pid: not alive(pid), f"process {pid} lives on")


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


SENDER = """
import sys
from mooring.monitor.alerting.channels import Webhook
from mooring.monitor.alerting.queue import deliver
from mooring.state.alerts import Alerts
from mooring.state.state import State
with State(sys.argv[1]) as state:
    deliver(state, "wine", [Webhook(sys.argv[2])])
"""


def test_killed_between_sending_and_noting_it_an_alert_is_sent_again_under_its_id(state, tmp_path):
    sender = None

    def kill() -> int:
        sender.send_signal(signal.SIGKILL)
        sender.wait()
        return 200

    with Receiver(kill) as receiver:
        webhook = Webhook(receiver.url)
        conclude(state, "critical", channels=[webhook])
        command = [sys.executable, "-c", SENDER, str(tmp_path / "state.db"), receiver.url]
        sender = subprocess.Popen(command, env={**os.environ, "NO_PROXY": "*"})
        wait_for(lambda: sender.returncode is not None, "the sender was not killed")
        assert sender.returncode == -signal.SIGKILL
        assert delivered(state, webhook) == [("sent", None)]
        assert delivered(state, webhook, later=HOUR) == []
    first, second = receiver.got
    assert first[2] == second[2]
    assert first[1]["X-Mooring-Alert"] == second[1]["X-Mooring-Alert"]
