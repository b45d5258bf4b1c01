"""The dashboard over what a proxy redacted, what a drain left, and a log in S3."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from captured import exchange, over, page, told, write
from dashboard import ask, dashboard
from mooring.exchange import Ledger, encode
from mooring.files import try_lock
from mooring.spool import SpoolWriter, look, past_ledger
from peers import post, proxy, read_message, upstream
from s3 import s3_server
from waiting import PATIENCE, wait_for

SECRETS = ("ada@example.org", "Lovelace", "Spring-1843")


def test_no_page_tells_what_was_redacted(tmp_path):
    answers = [
        b'{"predictions": [6.0]}',
        json.dumps({"error_code": "BAD", "message": f"what is {SECRETS[1]}?"}).encode(),
    ]

    def handle(connection):
        with connection.makefile("rb") as file:
            for status, body in zip((b"200 OK", b"400 Bad Request"), answers, strict=True):
                if not read_message(file).line:
                    return
                head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                connection.sendall(head % (status, len(body)) + body)

    row = {"email": SECRETS[0], "name": SECRETS[1], "password": SECRETS[2], "age": 36}
    body = json.dumps({"dataframe_records": [row]}).encode()
    flags = [
        "--redact",
        "email=hash",
        "--redact",
        "name=drop",
        "--redact",
        "password=mask",
        "--segment-seconds",
        "1",
    ]
    ids = []
    with (
        upstream(handle) as server,
        proxy(tmp_path, server.url, *flags, "--header", "X-Tenant", log_format="parquet",
              env={"MOORING_REDACT_KEY": "a key of the test's"}) as running,
    ):  # fmt: skip
        with running.connect() as connection, connection.makefile("rb") as file:
            for _ in answers:
                connection.sendall(post(body, "X-Tenant: acme"))
                ids += read_message(file).all("X-Request-Id")
        wait_for(lambda: list(running.log.glob("payloads/**/*.parquet")), running.stderr)
        with over(tmp_path, shown=dashboard) as address:
            account = told(address, "/capture")["spool"]
            assert account["account"] | {"passed": 0} == account["account"]
            assert (account["account"]["seen"], account["account"]["stored"]) == (2, 2)
            assert account["drained"]
            assert [one["lives"] for one in account["processes"]] == [True]
            assert account["account"]["errors"][0]["kind"] == "unredactable"
            paths = [
                "/capture",
                "/capture?part=log",
                *(f"/requests/{one}" for one in ids),
                f"/requests?id={ids[0]}",
            ]
            texts = [page(address, path) for path in paths] + [ask(address, f"/api{path}").text for path in paths]
            story, failed = (told(address, f"/requests/{one}") for one in ids)
    for text in texts:
        assert not any(secret in text for secret in SECRETS)
    whole = texts[2]
    assert '<mark title="masked">&#34;***&#34;</mark>' in whole
    assert '<mark title="looks hashed">' in whole
    assert "null: empty, or dropped" in whole
    assert story["headers"] == {"X-Tenant": "acme"} or story["headers"] == {"x-tenant": "acme"}
    [scored] = story["answers"][0]["rows"]
    assert (scored["inputs"]["password"], scored["inputs"].get("name"), scored["inputs"]["age"]) == (
        "***",
        None,
        36.0,
    )
    assert len(scored["inputs"]["email"]) == 32
    answer = failed["answers"][0]
    assert (answer["status"], answer["response"]["text"]) == (400, "")
    assert "could not be searched for what must be redacted" in answer["response"]["note"]
    assert failed["request"]["text"] != ""


def test_the_account_outlives_the_drain(tmp_path):
    log, spool = tmp_path / "log", tmp_path / "spool"
    writer = SpoolWriter(spool)
    writer.append([encode(exchange()), encode(Ledger(seen=1, stored=1))])
    writer.close()
    (spool / "drain.lock").touch()
    held = try_lock(spool / "drain.lock", shared=True)  # as somebody has it who looks whether a drain lives
    command = [sys.executable, "-m", "mooring", "drain", "--log", str(log), "--spool", str(spool)]
    drain = subprocess.Popen(command)
    try:
        wait_for(lambda: str(spool / "drain.lock") in _open_files(drain.pid), "the drain did not look at its lock")
        assert held is not None
        held.release()
        assert drain.wait(PATIENCE) == 0
    finally:
        drain.kill()
        drain.wait()
    found = look(spool)
    assert found is not None
    assert found.ledger == past_ledger(spool) == Ledger(seen=1, stored=1)
    assert (found.writers, found.waiting) == ((), ())
    assert list(log.glob("payloads/**/*.parquet"))


def _open_files(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(str(entry.readlink()))
        except OSError:
            continue
    return found


def test_a_log_in_s3_is_read_and_one_that_refuses_is_told(tmp_path, monkeypatch):
    with s3_server(tmp_path) as store:
        for name, value in store.env().items():
            monkeypatch.setenv(name, value)
        one = exchange(client_request_id="order-1")
        write("s3://logs/prod", one, exchange(status=500))
        with over(tmp_path, log="s3://logs/prod", shown=dashboard) as address:
            found = told(address, "/capture?part=log")["traffic"]
            assert (found["requests"], found["failed"]) == (2, 1)
            assert told(address, f"/requests/{one.request_id}")["answers"][0]["rows"][0]["inputs"] == {"pH": 3.1}
            assert told(address, "/requests?id=order-1")["request_id"] == one.request_id
            store.switch.off()
            text = page(address, "/capture?part=log")
            assert "can&#39;t be reached" in text
            assert "not on this host" in text
            assert ask(address, f"/requests/{one.request_id}").status == 503
