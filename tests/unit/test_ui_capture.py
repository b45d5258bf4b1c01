"""The dashboard's pages about what is captured: the account, the spool, how requests went, one request's story."""

from __future__ import annotations

import gzip
import json
import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pytest

from captured import exchange, over, page, told, write
from dashboard import ask, pages
from monitoring import START, Traffic
from mooring.exchange import Ledger, encode
from mooring.ids import new_request_id
from mooring.log import csv_files
from mooring.log.labels import labels_table, write_labels
from mooring.log.requests import find_request, newest_payloads
from mooring.spool import SpoolWriter, last_ledger, look
from mooring.state.state import State
from mooring.state.windows import Window, Windows

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"
ID = "00000000-0000-7000-8000-000000000000"


def test_what_comes_from_outside_is_text(tmp_path):
    log = tmp_path / "log"
    body = json.dumps({"dataframe_split": {"columns": [HOSTILE, "x"], "data": [[HOSTILE, 1]]}}).encode()
    one = exchange(
        request=body,
        response=json.dumps({"predictions": [HOSTILE]}).encode(),
        client_request_id=HOSTILE,
        headers={HOSTILE: HOSTILE},
        version=HOSTILE,
        path=f"/{HOSTILE}",
        errors=[HOSTILE],
        duration_ns=10**12,
    )
    odd = exchange(
        status=500, response=HOSTILE.encode(), response_type=f"text/html{HOSTILE}", response_encoding=HOSTILE
    )
    write(log, one, odd)
    write_labels(str(log), "wine", labels_table(*_columns([one.request_id], [HOSTILE])))
    with over(tmp_path) as address:
        for path in ("/capture?part=log", f"/requests/{one.request_id}", f"/requests/{odd.request_id}"):
            text = page(address, path)
            assert "<script>alert" not in text
            assert "<img" not in text
            if "capture" not in path:
                assert "&lt;" in text
        missing = ask(address, "/requests?id=%3Cscript%3Ealert(1)%3C/script%3E", headers={"Accept": "text/html"})
        assert missing.status == 404
        assert "<script>alert" not in missing.text
        found = told(address, f"/requests?id={quote(HOSTILE, safe='')}")
        assert found["request_id"] == one.request_id
        assert found["labels"][0]["label"] == HOSTILE


def _columns(*lists):
    return [pa.chunked_array([one]) for one in lists]


def test_the_account_is_that_of_all_who_wrote_whatever_became_of_them(tmp_path):
    root = tmp_path / "spool"
    alive, ended = SpoolWriter(root), SpoolWriter(root)
    alive.append([encode(exchange()), encode(Ledger(seen=3, stored=1, in_flight=2))])
    ended.append([encode(Ledger(seen=10, stored=8, in_flight=1, sampled_out=1))])
    ended.close()
    before = _contents(root)
    found = look(root)
    assert found is not None
    assert found.ledger == Ledger(seen=13, stored=9, in_flight=2, sampled_out=1, dropped={"killed": 1})
    assert {one.name: one.lives for one in found.writers} == {
        alive.directory.name: True,
        ended.directory.name: False,
    }
    assert found.drained is False
    assert sorted(segment.closed for segment, _, _ in found.waiting) == [False, True]
    assert _contents(root) == before
    alive.close()


@pytest.mark.parametrize("cut", [0, 1, 9, 50, 10_000])
@pytest.mark.parametrize("padding", [0, 100_000])
def test_the_account_of_a_torn_segment_is_that_of_its_whole_frames(tmp_path, cut, padding):
    writer = SpoolWriter(tmp_path, segment_bytes=1 << 30)
    ledger = Ledger(seen=5, in_flight=5)
    writer.append([encode(ledger)])
    writer.append([encode(exchange(request=bytes(padding))), encode(Ledger(seen=5, stored=1, in_flight=4))])
    bodies = [b"\xa6ledger" * 30, bytes(padding), encode(Ledger(seen=99))]
    writer.append([encode(exchange(request=body, errors=["truncated"])) for body in bodies])
    [path] = writer.directory.glob("*.open")
    os.truncate(path, path.stat().st_size - min(cut, path.stat().st_size - 100))
    found = look(tmp_path)
    writer.abandon()
    assert found is not None
    assert found.ledger == last_ledger(writer.directory)
    assert found.ledger.balance == 0


def _contents(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


def test_what_does_not_add_up_and_what_nobody_takes_is_said(tmp_path):
    spool = tmp_path / "spool"
    writer = SpoolWriter(spool)
    writer.append([encode(Ledger(seen=9, stored=5, sampled_out=1, dropped={"disk_full": 1}))])
    writer.close()
    (spool / "unreadable").mkdir()
    (spool / "unreadable" / f"{HOSTILE.replace('/', '')}-1").write_bytes(b"odd")
    with over(tmp_path, spool=spool) as address:
        text = page(address, "/capture")
        account = told(address, "/capture")["spool"]
    assert account["account"]["unaccounted"] == 2
    assert "2 unaccounted" in text
    assert "The disk of the spool was full." in text
    assert "Nothing drains this spool" in text
    assert account["unreadable_files"] == 1
    assert "1 file could not be made a part of the log" in text
    assert "<script>" not in text


def test_a_spool_elsewhere_is_no_error(tmp_path):
    with over(tmp_path, spool=tmp_path / "elsewhere") as address:
        text = page(address, "/capture")
        assert "not on this host" in text
        assert "/metrics" in text
        assert "/stats" in text
        assert told(address, "/capture")["spool"] is None
    assert not (tmp_path / "elsewhere").exists()


def test_requests_of_a_time_are_told_without_bodies(tmp_path):
    log = tmp_path / "log"
    old = exchange(START - timedelta(days=40), status=500, response=b"old")
    slow = exchange(START, duration_ns=9_000_000_000)
    failed = exchange(START + timedelta(hours=1), status=503, response=b"{}")
    gone = exchange(START + timedelta(hours=2), errors=["client_gone"], status=0)
    copied = exchange(START, variant="shadow", version="4", duration_ns=10**12)
    write(log, old, slow, failed, gone, copied)
    with over(tmp_path) as address:
        assert told(address, "/capture")["traffic"] is None
        found = told(address, "/capture?part=log")["traffic"]
        assert (found["requests"], found["failed"]) == (3, 2)
        assert [one["request_id"] for one in found["failures"]] == [gone.request_id, failed.request_id]
        assert found["slowest"][0]["request_id"] == slow.request_id
        codes: dict[str, int] = {}
        for bucket in found["over_time"]:
            for code, number in bucket["codes"].items():
                codes[code] = codes.get(code, 0) + number
        assert codes == {"status 503": 1, "no answer": 1, "client_gone": 1}
        only = told(address, "/capture?part=log&status=503")["traffic"]
        assert [one["status"] for one in only["failures"] + only["slowest"]] == [503, 503]
        slowest = told(address, "/capture?part=log&sort=slowest&newest=1")["traffic"]
        assert len(slowest["failures"]) == 1
        past = told(address, "/capture?part=log&start=2026-01-01T00:00:00Z&end=2026-02-01T00:00:00Z")["traffic"]
        assert [one["request_id"] for one in past["failures"]] == [old.request_id]
        none = page(address, "/capture?part=log&start=2020-01-01T00:00:00Z&end=2020-01-02T00:00:00Z")
        assert "No request came in this time" in none
        text = page(address, "/capture?part=log")
        assert "The client went away" in text
        assert failed.request_id in text
        first = page(address, "/capture")
        assert 'hx-trigger="load"' in first
        assert 'href="/capture?part=log"' in first  # for whoever has no JavaScript
        for odd in (
            "start=0001-01-01T00:00:00%2B14:00",
            "end=9999-12-31T23:59:59-14:00",
            "start=9999-01-01T00:00:00&end=0001-01-01T00:00:00",
        ):
            assert ask(address, f"/capture?part=log&{odd}").status == 200
        for wrong in ("status=x", "status=1000", "sort=x", "newest=0", "newest=201", "part=x", "start=x"):
            assert ask(address, f"/capture?{wrong}").status == 400


def test_only_so_much_of_a_log_is_read_and_the_rest_is_named(tmp_path):
    for number in range(70):
        write(tmp_path, exchange(START + timedelta(minutes=number)), name=f"w-{number:08d}")
    found = newest_payloads(str(tmp_path), "wine", most=1)
    assert (found.read, found.objects) == (32, 70)
    assert len(found.table) == 32
    assert newest_payloads(str(tmp_path), "wine").read == 70


def test_several_models_are_chosen_from(tmp_path):
    log = tmp_path / "log"
    one, other = exchange(model="a/b <i>"), exchange(model="wine", client_request_id="order-1")
    write(log, one, other)
    with over(tmp_path) as address:
        text = page(address, "/capture?part=log")
        assert "choose one" in text
        assert "model=a%2Fb+%3Ci%3E" in text
        assert told(address, "/capture?part=log&model=a/b%20%3Ci%3E")["traffic"]["requests"] == 1
        assert "no model" in told(address, "/capture?part=log&model=none")["traffic"]["problem"]
        assert told(address, f"/requests/{one.request_id}")["model"] == "a/b <i>"
        assert told(address, "/requests?id=order-1")["model"] == "wine"
        assert ask(address, f"/api/requests/{one.request_id}?model=wine").status == 404
        assert ask(address, f"/api/requests/{one.request_id}?model=none").status == 404


def test_a_log_that_is_empty_or_not_there_is_said(tmp_path):
    (tmp_path / "log").mkdir()
    with over(tmp_path) as address:
        assert "nothing in the log" in page(address, "/capture?part=log")
        assert ask(address, f"/requests/{ID}").status == 404
    with over(tmp_path, log=tmp_path / "no-log") as address:
        assert "there is no log at" in page(address, "/capture?part=log")
        assert ask(address, f"/requests/{ID}").status == 503


def test_a_request_is_told_with_its_rows_labels_window_and_shadow(tmp_path):
    log = tmp_path / "log"
    body = {
        "dataframe_split": {
            "columns": ["pH", "kind", "nested"],
            "data": [[3.1, "red", [1]], [3.3, None, {"a": 1}]],
        }
    }
    one = exchange(
        request=json.dumps(body).encode(), response=b'{"predictions": [6.0, 7.0]}', client_request_id="order-1"
    )
    shadow = exchange(
        request=one.request, response=b'{"predictions": [5.0, 7.5]}', variant="shadow", version="4",
        request_id=one.request_id, client_request_id="order-1",
    )  # fmt: skip
    others = [exchange(START + timedelta(seconds=number)) for number in range(50)]
    write(log, one, *others)
    write(log, shadow, name="w-00000002")
    late = START + timedelta(days=2)
    write_labels(str(log), "wine", labels_table(*_columns(["order-1"], [8.0], [1], [late])))
    state = f"sqlite:///{tmp_path}/state.db"
    with State(state) as opened, opened.begin() as tx:
        Windows(tx).put(
            Window(model="wine", version="3", start=START, end=START + timedelta(hours=1), rows=2), b""
        )
    with pages(state, log=str(log), token=None) as address:
        found = told(address, f"/requests/{one.request_id}")
        text = page(address, f"/requests/{one.request_id}")
        assert told(address, "/requests?id=order-1") == found
    live, copy = found["answers"]
    assert (live["variant"], live["version"], copy["variant"], copy["version"]) == ("champion", "3", "shadow", "4")
    assert [row["outputs"]["prediction"] for row in live["rows"]] == [6.0, 7.0]
    assert [row["outputs"]["prediction"] for row in copy["rows"]] == [5.0, 7.5]
    assert live["rows"][0]["inputs"] == {"pH": 3.1, "kind": "red", "nested": "[1]"}
    assert [(one["row"], one["label"], one["delay"]) for one in found["labels"]] == [(1, 8.0, 172_800.0)]
    assert live["window"].startswith("/models/wine?window=")
    assert live["window_number"] == 1
    assert "The shadow, version 4" in text
    assert "after 2 days" in text
    assert "window 1" in text


def test_several_requests_of_one_id_of_a_clients_are_listed(tmp_path):
    log = tmp_path / "log"
    ones = [exchange(START + timedelta(minutes=number), client_request_id="again") for number in range(3)]
    write(log, *ones)
    with over(tmp_path) as address:
        found = told(address, "/requests?id=again")
        assert [one["request_id"] for one in found["same"]] == [one.request_id for one in reversed(ones)]
        assert "3 requests have the id again" in page(address, "/requests?id=again")
        assert page(address, found["same"][0]["see"])


def test_a_client_may_make_ids_such_as_ours(tmp_path):
    theirs = new_request_id(round(START.timestamp() * 1e9))
    write(tmp_path / "log", exchange(client_request_id=theirs))
    story = find_request(str(tmp_path / "log"), "wine", theirs)
    assert story is not None
    assert story.exchanges[0]["client_request_id"] == theirs


@pytest.mark.parametrize(
    "asked",
    [ID, "nothing", "0x1", "9" * 400, "9" * 5000, "%00", "%C0%80", "a%252Fb", "%ED%A0%80", "..%252F..%252Fetc",
     "ffffffff-ffff-7fff-8fff-ffffffffffff", "%F0%9F%8D%B7"],
)  # fmt: skip
def test_what_is_no_request_is_not_found(tmp_path_factory, one_request, asked):
    for path in (f"/requests/{asked}", f"/requests?id={asked}"):
        assert ask(one_request, path).status == 404
        assert ask(one_request, f"/api{path}").status == 404


@pytest.fixture(scope="module")
def one_request(tmp_path_factory):
    directory = tmp_path_factory.mktemp("one")
    write(directory / "log", exchange())
    with over(directory) as address:
        yield address


def test_an_id_must_be_given(one_request):
    for path in ("/requests", "/requests?id="):
        assert ask(one_request, path).status == 400
    assert ask(one_request, "/requests?id=%20").status == 404


def test_bodies_are_unpacked_cut_and_named_for_what_they_are(tmp_path):
    log = tmp_path / "log"
    random.seed(1)
    long = json.dumps({"inputs": {"x": [random.random() for _ in range(400_000)]}}).encode()
    packed = gzip.compress(b'{"dataframe_split": {"columns": ["pH"], "data": [[3.1]]}}')
    ones = {
        "long": exchange(request=long, response=b'{"predictions": []}'),
        "packed": exchange(request=packed, request_encoding="gzip"),
        "broken": exchange(request=packed[:-9], request_encoding="gzip"),
        "unknown": exchange(request=packed, request_encoding="br"),
        "binary": exchange(request=bytes(range(256)) * 10, request_type="application/vnd.apache.parquet"),
        "odd": exchange(request=b"\xff\xfe\x00", request_type="application/json"),
        "cut": exchange(request=b'{"dataframe_split": {"columns": ["pH', errors=["truncated"]),
        "csv": exchange(request=b"pH\n3.1\n", request_type="text/csv"),
        "empty": exchange(request=b""),
        "deep": exchange(request=b"[" * 50_000 + b"]" * 50_000),
    }
    write(log, *ones.values())
    with over(tmp_path) as address:
        found = {name: told(address, f"/requests/{one.request_id}")["request"] for name, one in ones.items()}
        sizes = {name: len(page(address, f"/requests/{one.request_id}")) for name, one in ones.items()}
        reason = told(address, f"/requests/{ones['broken'].request_id}")["answers"][0]["reason"]
    assert found["long"]["cut"]
    assert found["long"]["size"] == len(long)
    assert max(sizes.values()) < 1_000_000
    assert '"pH"' in found["packed"]["text"]
    assert "gzip" in found["packed"]["note"]
    assert "ends too early" in found["broken"]["note"]
    assert "ends too early" in reason
    assert "br" in found["unknown"]["note"]
    assert found["binary"]["text"] == ""
    assert "binary" in found["binary"]["note"]
    assert "binary" in found["odd"]["note"]
    assert "beginning" in found["cut"]["note"]
    assert found["csv"]["text"] == "pH\n3.1\n"
    assert found["empty"]["note"] == "It is empty."
    assert found["deep"]["text"].startswith("[[[")


def test_a_wide_request_of_many_rows_makes_no_long_page(tmp_path):
    columns = [f"f{number}" for number in range(1000)]
    one = exchange(
        request=json.dumps({"dataframe_split": {"columns": columns, "data": [[1.5] * 1000] * 300}}).encode(),
        response=json.dumps({"predictions": [1.0] * 300}).encode(),
    )
    write(tmp_path / "log", one)
    with over(tmp_path) as address:
        text = page(address, f"/requests/{one.request_id}")
        rows = told(address, f"/requests/{one.request_id}")["answers"][0]
    assert (len(rows["rows"]), rows["all_rows"]) == (100, 300)
    assert len(text) < 1_000_000
    assert "more rows" in text
    assert "701 more fields" in text


def test_a_log_of_csv_files_shows_what_it_keeps(tmp_path):
    log = tmp_path / "log"
    log.mkdir()
    now = datetime.now(UTC)
    fine, failed = (
        exchange(now),
        exchange(now, status=400, response=b'{"message": "<b>no</b>"}', client_request_id="c"),
    )
    copied = exchange(now, request_id=fine.request_id, variant="shadow", response=b'{"predictions": [7.0]}')
    chat = exchange(now, request=b'{"messages": []}', response=b'{"choices": []}')
    for one in (fine, failed, copied, chat):
        csv_files.write(log, one)
    (log / "errors" / f"{new_request_id()}.json").write_text("{ no JSON")
    with over(tmp_path) as address:
        text = page(address, "/capture?part=log")
        assert "log of CSV files" in text
        traffic = told(address, "/capture?part=log")["traffic"]
        assert (traffic["requests"], traffic["failed"]) == (4, 2)
        story = told(address, f"/requests/{fine.request_id}")
        assert [row["outputs"] for one in story["answers"] for row in one["rows"]] == [
            {"prediction": "6.0"},
            {"prediction": "7.0"},
        ]
        assert story["answers"][1]["variant"] == "shadow"
        wrong = told(address, f"/requests/{failed.request_id}")
        assert wrong["answers"][0]["status"] == 400
        assert wrong["client_request_id"] == "c"
        assert "<b>no" not in page(address, f"/requests/{failed.request_id}")
        assert page(address, f"/requests/{fine.request_id}")
        assert page(address, f"/requests/{chat.request_id}")
        assert ask(address, f"/requests/{ID}").status == 404


def test_a_busy_log_is_told_as_it_is_written(tmp_path):
    """Pages of a log with a baseline's traffic, read while another object comes."""
    traffic = Traffic(tmp_path / "log")
    traffic.write(traffic.exchanges(500))
    with over(tmp_path) as address:
        assert told(address, "/capture?part=log")["traffic"]["requests"] == 50
        traffic.write(traffic.exchanges(500, START + timedelta(minutes=1)))
        assert told(address, "/capture?part=log")["traffic"]["requests"] == 100
