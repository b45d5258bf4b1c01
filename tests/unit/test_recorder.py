"""What is recorded, and what must not be: sampling and redaction."""

from __future__ import annotations

import csv
import io
import json
import string
from contextlib import suppress

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mooring.capture.recorder import Recorder
from mooring.capture.redact import Redactor, Unredactable, parse_rule
from mooring.exchange import Exchange, in_sample
from mooring.ids import new_request_id
from mooring.payload import decode, decode_inputs
from mooring.settings import CaptureSettings
from mooring.spool import SpoolWriter
from waiting import wait_for

SECRET = b"S3CRET-4711"
KEY = "a key"


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

    wait_for(recorded, "it takes the spool for full for ever")
    assert recorder.ledger.balance == 0


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


@pytest.mark.parametrize(
    "body",
    [
        b'{"ssn": "a", "x": 1}',
        b'{"q": [{"ssn": "a"}, {"ssn": "a", "x": []}]}',
        b'{"columns": ["ssn", "x"], "data": [["a", 1], ["a", [2]]]}',
        b'{"columns": ["x"], "data": [[{"ssn": "a"}], [{"ssn": "a", "y": {}}]]}',
        b'{"dataframe_split": {"columns": ["ssn", "x"], "data": [["a", {"ssn": "a"}]]}}',
        b'{"dataframe_split": {"columns": ["x"], "data": [[[{"ssn": "a"}]]]}}',
        b'{"dataframe_split": {"data": [{"ssn": "a", "x": 1}]}}',
        b'{"dataframe_records": [{"ssn": "a"}, {"ssn": "a", "x": {"ssn": "a"}}]}',
        b'{"inputs": {"ssn": ["a", "a"], "x": [{"ssn": "a"}]}}',
        b'{"predictions": [{"ssn": "a"}, {"ssn": "a", "x": [1]}]}',
    ],
)
def test_a_value_is_hashed_once_wherever_it_stands(body):
    """However plain the rows beside it are: equal values have one hash in all of the log."""
    redactor = Redactor([parse_rule("ssn=hash")], KEY.encode())
    once = json.loads(redactor.body(b'{"ssn": "a"}', ""))["ssn"]
    redacted = redactor.body(body, "", answer=b"predictions" in body)
    assert redacted == body.replace(b'"a"', json.dumps(once).encode())


@given(st.binary(max_size=60) | st.text(string.printable, max_size=60).map(str.encode), st.booleans())
def test_no_body_at_all_breaks_the_redactor(body, answer):
    redactor = Redactor([parse_rule("a=drop"), parse_rule("$.b[0]=mask")], b"")
    for content_type in ("application/json", "text/csv", ""):
        with suppress(Unredactable):
            redactor.body(body, content_type, answer=answer)


def test_room_is_asked_for_without_a_trace(tmp_path):
    writer = SpoolWriter(tmp_path)
    writer.append([b"one"])
    before = sorted(path.name for path in writer.directory.iterdir())
    writer.check_room(100_000)
    assert sorted(path.name for path in writer.directory.iterdir()) == before
    writer.close()
