"""What is recorded, and what must not be: sampling, redaction, durability, limits, and the admin port."""

from __future__ import annotations

import csv
import gzip
import io
import json
import socket
import string
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from mooring.capture.recorder import Recorder
from mooring.capture.redact import Redactor, Unredactable, parse_rule
from mooring.config import CaptureSettings
from mooring.demo.processes import wait_for
from mooring.exchange import Exchange, in_sample
from mooring.ids import new_request_id
from mooring.payload import decode, decode_inputs
from mooring.spool import SpoolWriter, last_ledger, writers
from peers import OK, Proxy, answering, post, proxy, read_message, upstream

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
    wait_for(lambda: running.stats()["ledger"]["stored"] == count, 20, f"not {count}: {running.stats()}")
    ledger = running.stats()["ledger"]
    assert ledger["balance"] == 0
    return ledger


# Sampling


def test_a_sample_has_its_share_and_an_id_has_one_answer(tmp_path):
    recorder = Recorder(CaptureSettings(log=str(tmp_path), sample=0.3))
    ids = [new_request_id() for _ in range(20_000)]
    chosen = [recorder.begin(each) for each in ids]
    assert 0.28 < sum(chosen) / len(ids) < 0.32
    assert [recorder.begin(each) for each in ids] == chosen
    ledger = recorder.ledger
    assert (ledger.seen, ledger.sampled_out, ledger.in_flight) == (
        40_000,
        40_000 - 2 * sum(chosen),
        2 * sum(chosen),
    )
    assert ledger.balance == 0
    recorder.close()
    # Another use of the ids is no echo of this one.
    both = sum(in_sample(each, 0.3, "canary") for each, taken in zip(ids, chosen, strict=True) if taken)
    assert 0.25 < both / sum(chosen) < 0.35


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
    wait_for(lambda: running.stats()["spool_bytes"] == spooled, 5, "it goes on writing")
    wait_for(lambda: any(b"ledger" in path.read_bytes() for path in past.parent.glob("*/*.open")), 5, "no account")
    # The account is written four times a second.
    wait_for(lambda: in_spool(past.parent)["seen"] == 10, 5, "what was left out is not in the spool")
    running.process.kill()
    running.process.wait()
    wait_for(past.exists, 20, "nobody cleared up")
    assert json.loads(past.read_bytes())["ledger"][1:5] == [10, 0, 0, 10]


def in_spool(spool: Path) -> dict:
    [directory] = writers(spool)
    ledger = last_ledger(directory)
    return {"seen": ledger.seen if ledger else 0}


def test_a_recorder_that_nobody_ticks_finds_room_again(tmp_path):
    recorder = Recorder(CaptureSettings(log=str(tmp_path), spool_max_bytes=200, segment_bytes=1))
    exchange = Exchange(request_id="x", time_ns=0, request=b"x" * 300)
    for _ in range(3):
        recorder.begin("x")
        recorder.record([exchange])
    assert recorder.ledger.dropped == {"spool_full": 2}
    for path in (tmp_path / ".spool").glob("*/*.*"):
        path.unlink()  # as the drain does

    def recorded() -> bool:
        recorder.begin("x")
        recorder.record([exchange])
        return recorder.ledger.stored == 2

    wait_for(recorded, 5, "it takes the spool for full for ever")
    assert recorder.ledger.balance == 0


# Durability


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


# Redaction: through a proxy nothing of the secret touches the disk

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
    assert running.process.wait(40) == 0
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


# Redaction: whatever the payload

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)
scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=True) | st.text(max_size=4)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=6
)


def escaped(text: str) -> str:
    """Spell every character of a string of JSON as an escape."""
    units = text.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


@st.composite
def requests(draw) -> tuple[bytes, str, str]:
    """A request in any of MLflow's formats with the secret under a name; also the name, and the content type."""
    name = draw(names.filter(lambda text: not text.isdigit() and text not in ("params", "data", "columns")))
    secret = draw(
        st.sampled_from(
            [SECRET.decode(), [SECRET.decode()], {"x": SECRET.decode()}, [[{"y": [SECRET.decode()]}], 1]]
        )
    )
    others = draw(st.lists(names.filter(lambda text: text != name), unique=True, max_size=3))
    columns = draw(st.permutations([name, *([name] if draw(st.booleans()) else []), *others]))
    rows = [
        [secret if column == name else draw(values) for column in columns] for _ in range(draw(st.integers(1, 3)))
    ]
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    kind = draw(
        st.sampled_from(["split", "bare", "records", "instances", "inputs", "columns", "params", "nested", "csv"])
    )
    if kind == "csv":
        out = io.StringIO()
        quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
        writer = csv.writer(out, quoting=quoting, lineterminator=draw(st.sampled_from(["\n", "\r\n", "\r"])))
        writer.writerow(columns)
        writer.writerows([[SECRET.decode() if c == name else "1" for c in columns] for _ in rows])
        lead = draw(st.sampled_from(["", "\ufeff", "\n", " \n"]))
        return (lead + out.getvalue()).encode(), name, "text/csv"
    by_column = {column: [row[at] for row in rows] for at, column in enumerate(columns)}
    odd = draw(st.sampled_from([[], [], [7], [None], [True], [1.5], [["a", "b"]]]))
    table = {"columns": [*columns, *odd], "data": [[*row, *odd] for row in rows]}
    document = {
        "split": {"dataframe_split": table},
        "bare": table,
        "records": {"dataframe_records": records},
        "instances": {"instances": records},
        "inputs": {"inputs": records},
        "columns": {"inputs": by_column},
        "params": {"inputs": [], "params": {name: secret}},
        "nested": {"dataframe_records": [{"outer": [{"inner": records}]}]},
    }[kind]
    text = json.dumps(document)
    if draw(st.booleans()):
        for each in (json.dumps(name), json.dumps(SECRET.decode())):
            text = text.replace(each, f'"{escaped(json.loads(each))}"')
    if draw(st.booleans()):
        text = text.replace("{", ' {"again": 1, "again": 2, ', 1) if not text.startswith("{}") else text
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32"]))
    return text.encode(encoding, "surrogatepass"), name, "application/json"


def shows_secret(body: bytes, content_type: str) -> bool:
    if SECRET in body:
        return True
    if content_type == "text/csv":
        return False
    return SECRET.decode() in repr(json.loads(body))


@given(request=requests(), action=st.sampled_from(["drop", "mask", "hash"]))
@example(request=("\ufeffssn\nS3CRET-4711\n".encode(), "ssn", "text/csv"), action="drop")
@example(request=(b" \nssn\nS3CRET-4711\n", "ssn", "text/csv"), action="drop")
@settings(max_examples=400, deadline=None)
def test_no_request_shows_what_a_rule_names(request, action):
    body, name, content_type = request
    redactor = Redactor([parse_rule(f"{name}={action}")] if not name.startswith("$") else [], KEY.encode())
    assume(not name.startswith("$"))
    exchange = Exchange(request_id="", time_ns=0, request=body, request_type=content_type, response=b"[1]")
    redactor(exchange)
    assert not shows_secret(exchange.request or b"{}", content_type)
    assert exchange.request or exchange.errors == ["unredactable"]


@given(
    st.sampled_from(["prediction", "prediction.p", "p"]),
    st.sampled_from(
        ['{"predictions": [{"p": %s, "q": 1}]}', '{"predictions": {"p": [%s], "q": [1]}}', '[{"p": %s, "q": 2}]']
    ),
    st.sampled_from(["drop", "mask", "hash"]),
)
def test_an_output_is_redacted_by_the_name_that_the_log_has_for_it(rule, shape, action):
    body = (shape % json.dumps(SECRET.decode())).encode()
    redacted = Redactor([parse_rule(f"{rule}={action}")], KEY.encode()).body(body, "", answer=True)
    assert SECRET not in redacted


def test_outputs_without_names_have_places():
    redactor = Redactor([parse_rule("prediction.1=mask"), parse_rule("0=drop")], b"")
    assert redactor.body(b'{"predictions": [[1, 2], [3, 4]]}', "", answer=True) == (
        b'{"predictions": [[1, "***"], [3, "***"]]}'
    )
    assert redactor.body(b'{"inputs": [[1, 2], [3, 4]]}', "") == b'{"inputs": [[null, 2], [null, 4]]}'
    assert redactor.body(b'{"inputs": [[[1, 2]], [[3, 4]]]}', "") == b'{"inputs": [null, null]}'


def test_a_second_column_of_a_name_goes_by_its_name_in_the_log():
    redactor = Redactor([parse_rule("x.1=mask")], b"")
    body = b'{"dataframe_split": {"columns": ["x", "x"], "data": [[1, 2]]}}'
    assert decode_inputs(redactor.body(body, "")).readings[0].rows == [[1, "***"]]
    assert redactor.body(b"x,x\n1,2\n", "text/csv") == b"x,x\n1,***\n"


@pytest.mark.parametrize("action", ["drop", "mask", "hash"])
def test_what_is_redacted_can_still_be_scored(action):
    redactor = Redactor([parse_rule(f"ssn={action}")], KEY.encode())
    for body in (
        b'{"dataframe_split": {"columns": ["ssn", "age"], "data": [["a", 1], ["b", 2], ["a", 3]]}}',
        b'{"dataframe_records": [{"ssn": "a", "age": 1}, {"ssn": "b", "age": 2}, {"ssn": "a", "age": 3}]}',
        b'{"inputs": {"ssn": ["a", "b", "a"], "age": [1, 2, 3]}}',
        b"ssn,age\na,1\nb,2\na,3\n",
    ):
        kind = "text/csv" if body.startswith(b"ssn") else "application/json"
        exchange = Exchange(
            request_id="", time_ns=0, request=body, request_type=kind, response=b'{"predictions": [4, 5, 6]}'
        )
        redactor(exchange)
        scored = decode(exchange)
        assert [row[1] for row in scored.inputs.rows] == [1, 2, 3]
        first, second, third = (row[0] for row in scored.inputs.rows)
        assert first == third
        assert (first != second) == (action == "hash")
        assert "a" not in (first, third)
        if action == "hash":
            assert first == Redactor([parse_rule("ssn=hash")], KEY.encode())._fields["ssn"]("a")
            assert first != Redactor([parse_rule("ssn=hash")], b"another")._fields["ssn"]("a")


@given(st.binary(max_size=60) | st.text(string.printable, max_size=60).map(str.encode), st.booleans())
@settings(max_examples=300, deadline=None)
def test_no_body_at_all_breaks_the_redactor(body, answer):
    redactor = Redactor([parse_rule("a=drop"), parse_rule("$.b[0]=mask")], b"")
    for content_type in ("application/json", "text/csv", ""):
        with suppress(Unredactable):
            redactor.body(body, content_type, answer=answer)


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
                timeout=30,
                check=False,
            )
            assert result.returncode == 2
            assert words in result.stderr
            assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


# What else is logged, and the admin port


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

    wait_for(lambda: len(rows()) >= count, 20, f"no {count} rows: {running.stderr}")
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
    wait_for(lambda: running.admin("/readyz") == (200, "ready\n"), 20, "it is not ready")
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
    wait_for(lambda: running.admin("/readyz")[0] == 200, 10, "it does not recover")
    assert running.exchange(post()).line == "HTTP/1.1 200 OK"
    assert stored(running, 1)["seen"] == 4


def test_room_is_asked_for_without_a_trace(tmp_path):
    writer = SpoolWriter(tmp_path)
    writer.append([b"one"])
    before = sorted(path.name for path in writer.directory.iterdir())
    writer.check_room(100_000)
    assert sorted(path.name for path in writer.directory.iterdir()) == before
    writer.close()
