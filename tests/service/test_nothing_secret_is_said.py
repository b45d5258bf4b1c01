"""Whatever goes wrong, no message has a key, a token or anything of a payload; conftest.py looks in every test."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mooring.exchange import Exchange, encode
from mooring.ids import new_request_id
from mooring.spool import SpoolWriter
from overheard import MARK, Overheard
from peers import OK, answering, post, proxy, upstream
from waiting import wait_for

pytest_plugins = ["pytester"]
KEY = "a-key-that-nobody-reads"
TOKEN = "a-token-that-nobody-reads"
BODIES = [
    json.dumps({"dataframe_split": {"columns": ["a", MARK], "data": [[1, MARK], [2]]}}),
    json.dumps({"dataframe_records": [{MARK: {MARK: [MARK]}}, MARK]}),
    json.dumps({"inputs": {"x": [[1.0], [MARK, 2]]}}),
    json.dumps({"columns": [MARK], "data": [MARK]}),
    f'{{"inputs": [[{MARK}',
    f'"{MARK}\\ud800"',
    MARK,
    "",
]


def test_a_proxy_and_its_drain_in_trouble_say_nothing_of_keys_and_payloads(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n")
    answers = iter([OK, OK.replace(b"200 OK", b"500 No"), b"HTTP/1.1 " + MARK.encode() + b"\r\n\r\n", b""])

    def handle(connection: socket.socket) -> None:
        answering(next(answers, OK))(connection)

    flags = ["--api-key-file", str(keys), "--redact", f"{MARK}=hash", "--redact", "a=mask", "--max-body", "4096"]
    flags += ["--model-version", "1", "--spool-max-bytes", "1", "--segment-seconds", "0.2"]
    environment = {"MOORING_REDACT_KEY": "a-secret-that-nobody-reads", "MOORING_LABELS_TOKEN": TOKEN}
    with (
        upstream(handle) as server,
        proxy(tmp_path, server.url, *flags, log_format="parquet", env=environment) as running,
    ):
        for body in BODIES:
            for field in (f"Authorization: Bearer {KEY}", f"Authorization: Basic {KEY}", f"{MARK}: {KEY} {KEY}"):
                running.exchange(post(body.encode(), field))
        running.exchange(post(MARK.encode() * 1000, f"Authorization: Bearer {KEY}"))
        with running.connect() as connection:
            connection.sendall(f"POST /{MARK} HTTP/9\r\nAuthorization: {KEY}\r\n\r\n{MARK}".encode())
            assert connection.recv(100)
        keys.write_text(f"{KEY} {MARK}\n")
        wait_for(lambda: "stays in use" in running.stderr, "the keys are not read again")
        keys.write_text("")
        wait_for(lambda: "has no key in it" in running.stderr, "the keys are not read again")
        assert "not stored" in running.stderr


@pytest.mark.parametrize("log_format", ["csv", "parquet"])
def test_a_drain_says_nothing_of_what_it_cant_read(tmp_path, log_format):
    spool, log = tmp_path / "spool", tmp_path / "log"
    exchanges = [
        Exchange(request_id=new_request_id(), time_ns=at, model=MARK[:3], request=body.encode(), response=answer)
        for at, body in enumerate(BODIES)
        for answer in (b'{"predictions": [1.5]}', MARK.encode(), json.dumps({"predictions": MARK}).encode())
    ]
    writer = SpoolWriter(spool)
    writer.append([encode(one) for one in exchanges])
    writer.append([MARK.encode(), b"\x93" + MARK.encode(), encode(exchanges[0])[:-9] + b"\xff" * 9])
    writer.close()
    strange = spool / writer.directory.name / "00000009.segment"
    strange.write_bytes(MARK.encode())
    command = [sys.executable, "-m", "mooring", "drain", "--log", str(log), "--spool", str(spool)]
    done = subprocess.run(
        [*command, "--format", log_format, "--drain-timeout", "0", "--message-level", "debug"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "can't be read, and is set aside" in done.stderr
    assert "is set aside" in done.stderr


SAYS = """
import subprocess, sys

def run(code, **options):
    return subprocess.run([sys.executable, "-c", code, "mooring.x", "--ui-token", "a-told-token"], **options)

def test_on_stderr():
    run("import sys; sys.exit('it is a-told-token')")

def test_in_a_pipe():
    run("print('a-told-token')", capture_output=True)

def test_in_a_file(tmp_path):
    with (tmp_path / "output").open("w") as output:
        run("print('a-told-token')", stdout=output)

def test_of_the_environment():
    run("import os; print(os.environ['MOORING_LABELS_TOKEN'])", env={"MOORING_LABELS_TOKEN": "another-token"})

def test_of_a_file_of_keys(tmp_path):
    (tmp_path / "keys").write_text("# keys\\na-written-key\\n")
    keys = ["mooring.x", "--api-key-file", tmp_path / "keys"]
    subprocess.run([sys.executable, "-c", "print('a-written-key')", *keys])

def test_nothing():
    run("print('token')")
"""


def test_a_test_whose_process_says_a_secret_fails(pytester):
    pytester.makeconftest((Path(__file__).parents[1] / "conftest.py").read_text())
    pytester.makepyfile(SAYS)
    support = Path(__file__).parents[1] / "support"
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-o", f"pythonpath={support}")
    done.assert_outcomes(failed=5, passed=1)
    done.stdout.fnmatch_lines(["*a process wrote what is secret: a-told-token*"])


def test_short_words_and_the_processes_of_others_are_no_secrets():
    heard = Overheard()
    heard.started(["mooring", "ui", "--ui-token", "key"], {"MOORING_REDACT_KEY": "a secret"}, None, [])
    heard.started(["mlflow", "server", "--some-token", "a-longer-one"], {}, None, [])
    heard.heard("a key, a secret, a-longer-one")
    assert heard.told([], "call") == []
