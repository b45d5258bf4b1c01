"""The drain's memory whatever clients send, and the segments that it gives up."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mooring import read_log
from mooring.casts import Casts
from mooring.exchange import Exchange, Ledger, encode
from mooring.ids import new_request_id
from mooring.log import drain as drain_module
from mooring.log import parquet
from mooring.log.attempts import Attempts
from mooring.log.drain import Drain
from mooring.log.schema import MAX_FIELDS
from mooring.settings import LogSettings
from mooring.spool import SpoolWriter, look, past_ledger, segments, unreadable
from waiting import wait_for

MOST_MIB = 1024
"""As docs/operate.md has it."""


def exchange(request: bytes, predictions: int = 1, **more) -> Exchange:
    answer = json.dumps({"predictions": [1.5] * predictions}).encode()
    fields = {"time_ns": 0, "model": "m", "request": request, "response": answer, **more}
    return Exchange(request_id=new_request_id(), **fields)


def split(columns: int, rows: int = 1, prefix: str = "c") -> bytes:
    names = [f"{prefix}{at}" for at in range(columns)]
    return json.dumps({"dataframe_split": {"columns": names, "data": [[1] * columns] * rows}}).encode()


def csv(rows: int) -> bytes:
    return b"alcohol\n" + b"1.5\n" * rows


def equal_texts() -> bytes:
    """Return a small Parquet file of one column with 1,900 equal texts of 1 MB."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 1900, pa.int32()), pa.array(["x" * 1_000_000]))
    file = io.BytesIO()
    pq.write_table(pa.table({"a": texts}), file, compression="zstd", use_dictionary=["a"], store_schema=False)
    return file.getvalue()


def records_of_their_own(count: int) -> bytes:
    return json.dumps({"dataframe_records": [{f"k{at}": 1} for at in range(count)]}).encode()


def deep(text: bytes) -> bytes:
    return b'{"inputs": [' + b",".join([text] * (14 * 2**20 // (len(text) + 1))) + b"]}"


PARQUET = {"request_type": "application/vnd.apache.parquet"}
CSV = {"request_type": "text/csv"}
SENT = {
    "wide and tall": lambda: [exchange(split(5000)), exchange(csv(500_000), 500_000, **CSV)] * 2,
    "equal texts": lambda: [exchange(equal_texts(), 1900, **PARQUET)] * 3,
    "a million columns": lambda: [exchange(split(1_000_000))] * 2,
    "columns of each its own": lambda: [exchange(split(300, prefix=f"p{at}_")) for at in range(1000)],
    "wide known, tall known": lambda: [
        *[exchange(split(900)) for _ in range(3)],
        *[exchange(csv(8000), 8000, **CSV) for _ in range(60)],
    ],
    "nested": lambda: [
        exchange(deep(b'{"a":[[[[[1]]]]]}')),
        exchange(b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ],
    "empty lists": lambda: [exchange(deep(b"[]")), exchange(deep(b"[0]")), exchange(deep(b"{}"))],
    "records with a name each": lambda: [exchange(records_of_their_own(20_000), 20_000)] * 2,
    "a ragged table": lambda: [
        exchange(json.dumps({"dataframe_split": {"data": [[1] * 100_000, *[[1]] * 100_000]}}).encode(), 100_001),
        exchange((",".join(f"c{at}" for at in range(50_000)) + "\n").encode() + b"1\n" * 200_000, 200_000, **CSV),
    ],
    "huge texts": lambda: [exchange(json.dumps({"inputs": ["x" * 15_000_000]}).encode()) for _ in range(3)],
    "bombs": lambda: [
        exchange(gzip.compress(body), rows, request_encoding="gzip", **more)
        for body, rows, more in (
            (csv(1_000_000), 1_000_000, CSV),
            (json.dumps({"inputs": ["y" * 1_000_000] * 16}).encode(), 16, {}),
            (split(100_000), 1, {}),
            (split(60_000, 20), 20, {}),
            (split(1000, 4000), 4000, {}),
        )
        for _ in range(2)
    ],
}

MEASURED = """
import re, runpy, sys
from pathlib import Path
found = sys.argv.pop(1)
try:
    runpy.run_module("mooring", run_name="__main__")
finally:
    Path(found).write_text(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def fill(spool: Path, *exchanges: Exchange) -> None:
    writer = SpoolWriter(spool)
    for seen, one in enumerate(exchanges, 1):
        writer.append([encode(one), encode(Ledger(seen=seen, stored=seen))])
    writer.close()


def drained(tmp_path: Path) -> tuple[int, str]:
    """Run the drain of a spool to its end, and return the memory that it took at most, in MiB, and its stderr."""
    options = ["drain", "--log", str(tmp_path / "log"), "--spool", str(tmp_path / "spool")]
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "memory"), *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return int((tmp_path / "memory").read_text()) // 1024, done.stderr


@pytest.mark.parametrize(
    "kind", [one if one != "bombs" else pytest.param(one, marks=pytest.mark.proof) for one in SENT]
)
def test_memory_is_bounded_whatever_is_sent(tmp_path, kind):
    sent = [*SENT[kind](), exchange(split(3))]
    fill(tmp_path / "spool", *sent)
    memory, said = drained(tmp_path)
    assert said == ""
    assert memory < MOST_MIB
    payloads = read_log(tmp_path / "log", what="payloads", columns=["request_id", "reason"])
    assert sorted(payloads["request_id"].to_pylist()) == sorted(one.request_id for one in sent)
    whole = set(payloads.filter(payloads["reason"].is_null())["request_id"].to_pylist())
    rows = read_log(tmp_path / "log", columns=["request_id", "request_rows"])
    assert set(rows["request_id"].to_pylist()) == whole
    assert not segments(tmp_path / "spool")
    codes = {reason.partition(":")[0] for reason in payloads["reason"].drop_null().to_pylist()}
    assert codes <= {"too_large", "too_wide", "malformed"}
    print(f"{kind}: {memory} MiB, {len(whole)} of {len(sent)} requests in rows, {codes}")


def test_the_wide_and_the_tall_are_both_in_rows(tmp_path):
    fill(tmp_path / "spool", exchange(split(900)), exchange(csv(20_000), 20_000, **CSV))
    drained(tmp_path)
    table = read_log(tmp_path / "log", columns=["input.c899", "input.alcohol", "output.prediction"])
    assert table.num_rows == 20_001
    assert table["input.c899"].drop_null().to_pylist() == [1.0]
    assert set(table["input.alcohol"].drop_null().to_pylist()) == {1.5}
    assert table["input.alcohol"].null_count == 1
    assert table["output.prediction"].null_count == 0


def test_names_that_one_request_invents_do_not_take_the_schema(tmp_path):
    spool, log = tmp_path / "spool", tmp_path / "log"
    drain = Drain(LogSettings(log=str(log), spool=str(spool)))
    fill(spool, exchange(split(20_000, prefix="invented")))
    drain.once()
    fill(spool, exchange(split(300, prefix="real")))
    drain.once()
    table = read_log(log, columns=["input", "misfits"])
    fields = [field.name for field in table.schema.field("input").type]
    assert fields == [f"real{at}" for at in range(300)]
    for _ in range(2):  # what several name is taken, but never all room
        fill(spool, *[exchange(split(20_000, prefix="invented")) for _ in range(3)])
        drain.once()
    fill(spool, exchange(split(300, prefix="late")))
    drain.once()
    fields = [field.name for field in read_log(log, columns=["input"]).schema.field("input").type]
    assert len(fields) <= MAX_FIELDS - 3000
    fill(spool, *[exchange(split(300, prefix="late")) for _ in range(300)])
    drain.once()
    fields = [field.name for field in read_log(log, columns=["input"]).schema.field("input").type]
    assert {f"late{at}" for at in range(300)} <= set(fields)


def test_a_segment_that_fails_twice_is_set_aside_and_the_next_goes_on(tmp_path, monkeypatch, caplog):
    spool, log = tmp_path / "spool", tmp_path / "log"
    decode = parquet.decode
    fails: list[Exception] = []

    def odd(exchange: Exchange, casts: Casts | None):
        if exchange.request == b"odd":
            raise fails[-1]
        return decode(exchange, casts)

    monkeypatch.setattr(parquet, "decode", odd)
    for number, error in enumerate((RuntimeError("odd"), MemoryError(), AssertionError("no"), KeyError("a"))):
        fails.append(error)
        fill(spool, exchange(b"odd"), exchange(split(2)))
        fill(spool, exchange(split(2)))
        drain = Drain(LogSettings(log=str(log), spool=str(spool)))
        wait_for(lambda drain=drain: drain.once() + len(segments(spool)) == 0, "it is not set aside")
        found = unreadable(spool)
        assert len(found) == number + 1
        assert {one.why.exchanges for one in found} == {2}
        assert any(type(error).__name__ in one.why.reason for one in found)
    monkeypatch.undo()
    assert read_log(log, what="payloads").num_rows == 4
    told = look(spool)
    assert told.ledger.dropped == {"unreadable": 8}
    assert told.ledger.balance == 0
    assert told.ledger.stored == 4
    assert past_ledger(spool).dropped == {"unreadable": 8}
    assert "is set aside as" in caplog.text
    # One that is moved back once the reason is gone goes into the log.
    fill(spool, exchange(split(2)))
    back = unreadable(spool)[0].path
    back.rename(segments(spool)[0].path.with_name("00000009.segment"))
    drain = Drain(LogSettings(log=str(log), spool=str(spool)))
    drain.once()
    assert read_log(log, what="payloads").num_rows == 7


KILLED = """
import os, signal, sys
from mooring.log import parquet
decode = parquet.decode

def odd(exchange, casts):
    if exchange.request == b"odd":
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(exchange, casts)

parquet.decode = odd
import runpy
runpy.run_module("mooring", run_name="__main__")
"""


def test_a_segment_at_which_the_drain_is_killed_twice_is_set_aside(tmp_path):
    spool, log = tmp_path / "spool", tmp_path / "log"
    fill(spool, exchange(split(2)), exchange(b"odd"))
    fill(spool, exchange(split(2)))
    command = [sys.executable, "-c", KILLED, "drain", "--log", str(log), "--spool", str(spool)]
    ends = [subprocess.run(command, check=False, capture_output=True, text=True) for _ in range(3)]
    codes = [one.returncode for one in ends]
    assert codes.count(-signal.SIGKILL) == 2
    assert codes[2] == 0
    assert not segments(spool)
    [found] = unreadable(spool)
    assert "killed" in found.why.reason
    assert found.why.exchanges == 2
    assert "is set aside" in ends[2].stderr
    assert read_log(log, what="payloads").num_rows == 1
    assert not (spool / "attempts.json").exists()
    stats = subprocess.run(
        [sys.executable, "-m", "mooring", "log", "stats", "--log", str(log)],
        env={**os.environ, "MOORING_SPOOL": str(spool)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.path.name in stats.stderr
    assert "2 exchanges" in stats.stderr


def test_one_kill_and_refusals_set_nothing_aside(tmp_path, caplog):
    spool, log = tmp_path / "spool", tmp_path / "log"
    fill(spool, exchange(split(2)))
    [segment] = segments(spool)
    Attempts(spool).begin(segment.name)  # as a kill leaves it
    assert Attempts(spool).failures(segment.name) == 1
    log.mkdir()
    (log / "payloads").write_text("not a directory")
    drain = Drain(LogSettings(log=str(log), spool=str(spool)))
    for _ in range(5):
        with pytest.raises(OSError, match="payloads"):
            drain._take(drain._sink or drain_module.ParquetDrain(str(log)), segment)
    assert Attempts(spool).failures(segment.name) == 1
    assert not unreadable(spool)
    (log / "payloads").unlink()
    assert drain.once() == 1
    assert not unreadable(spool)
    assert "set aside" not in caplog.text


def test_a_kill_while_the_store_is_asked_does_not_count(tmp_path):
    attempts = Attempts(tmp_path)
    attempts.begin("a")
    with attempts.waiting("a"):
        assert Attempts(tmp_path).failures("a") == 0
    assert Attempts(tmp_path).failures("a") == 1
    attempts.over("a")
    assert list(tmp_path.iterdir()) == []
