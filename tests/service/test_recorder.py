"""What a proxy records: sampling, redaction, durability, limits, and the admin port."""

from __future__ import annotations

import gzip
import io
import json
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mooring.exchange import in_sample
from mooring.spool import last_ledger, writers
from peers import OK, Proxy, answering, post, proxy, read_message, upstream
from waiting import PATIENCE, wait_for

SECRET = b"S3CRET-4711"
KEY = "a key"


@pytest.fixture
def one(tmp_path):
    """Return a function that starts a proxy in front of one handler, and stops both at the end."""
    with ExitStack() as stack:

        def start(handle, *flags, **options):
            server = stack.enter_context(upstream(handle))
            return stack.enter_context(proxy(tmp_path, server.url, *flags, **options))

        yield start


def stored(running: Proxy, count: int) -> dict:
    """Return the ledger once it says that so many exchanges are stored."""
    wait_for(lambda: running.stats()["ledger"]["stored"] == count, f"not {count}: {running.stats()}")
    ledger = running.stats()["ledger"]
    assert ledger["balance"] == 0
    return ledger


def test_a_sample_through_the_proxy_is_the_one_that_the_ids_say(one):
    running = one(answering(OK), "--sample", "0.3")
    with running.connect() as connection, connection.makefile("rb") as file:
        ids = []
        for _ in range(300):
            connection.sendall(post())
            ids += read_message(file).all("X-Request-Id")
    expected = {each for each in ids if in_sample(each, 0.3, "sample")}
    assert {path.stem for path in running.wait_for_files("*.csv", len(expected))} == expected
    ledger = stored(running, len(expected))
    assert (ledger["seen"], ledger["sampled_out"], ledger["dropped"]) == (300, 300 - len(expected), {})


def test_what_has_no_append_of_its_own_is_in_the_account_of_a_killed_process_too(one):
    running = one(answering(OK), "--sample", "0")
    for _ in range(10):
        running.exchange(post())
    past = running.log / ".spool" / "ledger.json"
    spooled = running.stats()["spool_bytes"]
    wait_for(lambda: running.stats()["spool_bytes"] == spooled, "it goes on writing")
    wait_for(lambda: any(b"ledger" in path.read_bytes() for path in past.parent.glob("*/*.open")), "no account")
    # The account is written four times a second.
    wait_for(lambda: in_spool(past.parent)["seen"] == 10, "what was left out is not in the spool")
    running.process.kill()
    running.process.wait()
    wait_for(past.exists, "nobody cleared up")
    assert json.loads(past.read_bytes())["ledger"][1:5] == [10, 0, 0, 10]


def in_spool(spool: Path) -> dict:
    [directory] = writers(spool)
    ledger = last_ledger(directory)
    return {"seen": ledger.seen if ledger else 0}


@pytest.mark.parametrize("durability", ["power", "process", "none"])
def test_answers_come_and_are_logged_however_durable(one, durability):
    running = one(answering(OK), "--durability", durability, "--segment-seconds", "0.1")
    with running.connect() as connection, connection.makefile("rb") as file:
        ids = set()
        for _ in range(100):
            connection.sendall(post())
            ids |= set(read_message(file).all("X-Request-Id"))
    assert {path.stem for path in running.wait_for_files("*.csv", 100)} == ids
    assert stored(running, 100)["seen"] == 100


ECHO_HEAD = b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"


def answer(body: bytes, status: int = 200, *headers: bytes) -> bytes:
    return ECHO_HEAD % (status, len(body), b"".join(header + b"\r\n" for header in headers)) + body


def scripted(answers: list[bytes]):
    """Return a handler that gives these answers in turn."""
    left = iter(answers)

    def handle(connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            while read_message(file).line:
                connection.sendall(next(left))

    return handle


def as_parquet() -> bytes:
    out = io.BytesIO()
    pd.DataFrame({"ssn": [SECRET.decode()], "age": [36]}).to_parquet(out)
    return out.getvalue()


NAMED = json.dumps({"dataframe_records": [{"ssn": SECRET.decode(), "age": 36}]}).encode()
FINE = answer(b'{"predictions": [6.0]}')
CASES = [
    # request, its content type, other headers, answer, whether the exchange must be marked as unredactable
    (NAMED, "application/json", [], FINE, False),
    (b'{"dataframe_split": {"columns": ["age", "ssn"], "data": [[1, "%b"]]}}' % SECRET, "", [], FINE, False),
    (b'{"columns": ["age", "ssn"], "data": [[1, "%b"]]}' % SECRET, "application/json", [], FINE, False),
    (b'{"instances": [{"ssn": "%b"}]}' % SECRET, "application/json", [], FINE, False),
    (b'{"inputs": {"ssn": ["%b"], "age": [1]}}' % SECRET, "application/json", [], FINE, False),
    (b'{"inputs": {"deep": [{"er": [{"ssn": "%b"}]}]}}' % SECRET, "application/json", [], FINE, False),
    (b'{"inputs": [[1, "%b"]]}' % SECRET, "application/json", [], FINE, True),
    (b'{"dataframe_split": {"data": [[1, "%b"]]}}' % SECRET, "application/json", [], FINE, True),
    (b'{"dataframe_records": [["%b"]]}' % SECRET, "application/json", [], FINE, True),
    (b'[["%b"]]' % SECRET, "application/json", [], FINE, True),
    (b'{"messages": [{"role": "user", "content": "%b"}]}' % SECRET, "application/json", [], FINE, False),
    (b"age,ssn\n1,%b\n" % SECRET, "text/csv", [], FINE, True),  # there is a JSON path among the rules
    (as_parquet(), "application/vnd.apache.parquet", [], FINE, True),
    (gzip.compress(NAMED, 0), "application/json", ["Content-Encoding: gzip"], FINE, True),
    (NAMED[:-3], "application/json", [], answer(b'{"message": "no JSON: %b"}' % SECRET, 400), True),
    (NAMED, "application/json", [], answer(b'{"message": "ssn %b"}' % SECRET, 400), True),
    (NAMED, "application/json", [], answer(b'{"predictions": [{"ssn": "%b", "p": 1}]}' % SECRET), False),
    (NAMED, "application/json", [], answer(b'{"predictions": [{"note": "%b", "p": 1}]}' % SECRET), False),
    (NAMED, "application/json", [], answer(b'[{"note": "%b", "p": 1}]' % SECRET), False),
    (NAMED, "application/json", [], answer(gzip.compress(SECRET, 0), 200, b"Content-Encoding: gzip"), True),
    (NAMED + b" " * 3000, "application/json", [], FINE, True),  # longer than --max-payload
]


@pytest.mark.parametrize("log_format", ["csv", "parquet"])
def test_nothing_of_a_secret_is_on_the_disk_while_it_runs_or_after(one, log_format):
    rules = ("ssn=drop", "prediction.note=mask", "$.messages[*].content=hash")
    flags = [flag for rule in rules for flag in ("--redact", rule)]
    running = one(
        scripted([case[3] for case in CASES]),
        *flags,
        "--max-payload",
        "2900",
        log_format=log_format,
        env={"MOORING_REDACT_KEY": KEY},
    )
    marked = []
    with running.connect() as connection, connection.makefile("rb") as file:
        for body, content_type, headers, _, unredactable in CASES:
            request = post(body, *headers).replace(b"application/json", content_type.encode(), 1)
            connection.sendall(request)
            marked += read_message(file).all("X-Request-Id") if unredactable else read_message(file).all("None")
            assert holds_secret(running.directory) == []
    ledger = stored(running, len(CASES))
    assert ledger["errors"]["unredactable"] == len(marked)
    running.process.terminate()
    assert running.process.wait(PATIENCE) == 0
    assert holds_secret(running.directory) == []
    if log_format == "parquet":
        table = pd.concat(
            pq.ParquetFile(path).read().to_pandas() for path in running.log.glob("payloads/**/*.parquet")
        )
        assert len(table) == len(CASES)
        assert {row.request_id for row in table.itertuples() if "unredactable" in list(row.errors)} == set(marked)
        for row in table.itertuples():
            assert SECRET not in row.request + row.response
    else:
        kept = [*running.log.glob("*.csv"), *running.log.glob("errors/*"), *running.log.glob("payloads/*")]
        assert len(kept) == len(CASES)


def holds_secret(directory: Path) -> list[Path]:
    """Return the files that the secret stands in, however Parquet has packed it."""
    found = []
    for path in directory.rglob("*"):
        try:
            data = path.read_bytes() if path.is_file() else b""
        except FileNotFoundError:  # the drain has taken it
            continue
        if SECRET in data:
            found.append(path)
        elif path.suffix == ".parquet" and data:
            text = pq.ParquetFile(io.BytesIO(data)).read().to_pylist()
            if SECRET.decode() in repr(text):
                found.append(path)
    return found


def test_a_hash_without_a_key_and_rules_that_mean_nothing_are_refused(tmp_path):
    command = [sys.executable, "-m", "mooring", "proxy", "--upstream", "http://127.0.0.1:1", "--port", "0"]
    for flag, words in (
        ("ssn=hash", "needs a secret key"),
        ("ssn", "it looks like FIELD=drop"),
        ("$..ssn=drop", "a JSON path looks like"),
    ):
        for workers in ("1", "2"):
            result = subprocess.run(
                [*command, "--redact", flag, "--workers", workers],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            assert result.returncode == 2
            assert words in result.stderr
            assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_only_the_headers_that_are_named_are_logged(one):
    flags = ("--header", "X-Tenant", "--header", "Accept")
    running = one(answering(OK), *flags, "--segment-seconds", "0.1", log_format="parquet")
    running.exchange(post(b"{}", "x-tenant: blue", "Authorization: Bearer S3CRET-4711", "Cookie: S3CRET-4711"))
    running.exchange(post(b"{}"))
    stored(running, 2)
    assert sorted(row["headers"] for row in payloads(running, 2)) == ['{"X-Tenant": "blue"}', "{}"]
    assert holds_secret(running.directory) == []


def payloads(running: Proxy, count: int) -> list[dict]:
    def rows() -> list[dict]:
        return [
            row
            for path in running.log.glob("payloads/**/*.parquet")
            for row in pq.ParquetFile(path).read().to_pylist()
        ]

    wait_for(lambda: len(rows()) >= count, f"no {count} rows: {running.stderr}")
    return rows()


def test_a_body_is_logged_up_to_max_payload(one):
    long = answer(b'{"predictions": ["' + b"y" * 5000 + b'"]}')
    running = one(scripted([OK, long]), "--max-payload", "100", "--segment-seconds", "0.1", log_format="parquet")
    body = b'{"inputs": ["' + b"x" * 5000 + b'"]}'
    assert running.exchange(post(body)).line == "HTTP/1.1 200 OK"
    assert len(running.exchange(post(b'{"inputs": [1]}')).body) > 5000
    rows = payloads(running, 2)
    assert {(len(row["request"]), len(row["response"])) for row in rows} == {(100, 22), (15, 100)}
    assert {tuple(row["errors"]) for row in rows} == {("truncated",)}
    assert stored(running, 2)["errors"] == {"truncated": 2}


def test_the_version_that_the_log_names_can_be_changed(one):
    running = one(answering(OK), "--model-version", "1", "--segment-seconds", "0.1", log_format="parquet")
    first = running.exchange(post()).all("X-Request-Id")
    assert running.admin("/model-version/2%20b", "PUT") == (200, "ok\n")
    second = running.exchange(post()).all("X-Request-Id")
    assert running.admin("/model-version/", "PUT")[0] == 400
    assert running.admin("/model-version/3", "POST")[0] == 405
    third = running.exchange(post()).all("X-Request-Id")
    versions = {row["request_id"]: row["model_version"] for row in payloads(running, 3)}
    assert versions == {first[0]: "1", second[0]: "2 b", third[0]: "2 b"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_metrics_are_prometheuss_and_agree_with_the_stats(one, workers):
    answers = [*[OK, answer(b'{"message": "no"}', 400)] * 10, OK]
    flags = ("--sample", "0.5", "--workers", workers)
    running = one(scripted(answers), *flags)
    wait_for(lambda: running.admin("/readyz") == (200, "ready\n"), "it is not ready")
    with running.connect() as connection, connection.makefile("rb") as file:
        for _ in range(20):
            connection.sendall(post())
            assert read_message(file).line
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_message(file).line == "HTTP/1.1 200 OK"
    stats = running.stats()
    ledger = stats["ledger"]
    status, text = running.admin("/metrics")
    assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(text)}
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families.values()
        for sample in family.samples
    }
    for name in ("seen", "stored", "sampled_out", "failed"):
        assert found[f"mooring_exchanges_{name}_total",] == ledger[name]
    assert ledger["seen"] == 20
    assert ledger["balance"] == 0
    assert found["mooring_exchanges_in_flight",] == ledger["in_flight"] == 0
    assert found["mooring_requests_passed_total",] == ledger["passed"]
    assert {code: found["mooring_answers_total", code] for code in stats["statuses"]} == stats["statuses"]
    assert found["mooring_answer_duration_seconds_count",] == sum(stats["statuses"].values()) == 20
    assert found["mooring_answer_duration_seconds_bucket", "+Inf"] == 20
    assert found["mooring_workers",] == stats["workers"] == int(workers)
    assert found["mooring_ready",] == int(workers)
    assert all(family.documentation and family.type != "unknown" for family in families.values())


def test_the_admin_port_says_what_it_has(one):
    running = one(answering(OK))
    assert running.admin("/healthz") == (200, "ok\n")
    assert running.admin("/readyz") == (200, "ready\n")
    assert running.admin("/else")[0] == 404
    assert running.admin("/stats", "DELETE")[0] == 405
    status, text = running.admin("/stats", "HEAD")
    assert (status, text) == (200, "")


def test_a_spool_that_is_a_file_leaves_the_proxy_alive_and_not_ready(one, tmp_path):
    (tmp_path / "spool").write_text("mine")
    running = one(answering(OK), "--spool", str(tmp_path / "spool"))
    for _ in range(3):
        assert running.exchange(post()).line == "HTTP/1.1 200 OK"
    assert running.admin("/readyz") == (503, "exchanges can't be stored\n")
    ledger = running.stats()["ledger"]
    assert (ledger["seen"], ledger["dropped"], ledger["balance"]) == (3, {"spool_unwritable": 3}, 0)
    assert "nothing can be stored now" in running.stderr
    (tmp_path / "spool").unlink()
    wait_for(lambda: running.admin("/readyz")[0] == 200, "it does not recover")
    assert running.exchange(post()).line == "HTTP/1.1 200 OK"
    assert stored(running, 1)["seen"] == 4
