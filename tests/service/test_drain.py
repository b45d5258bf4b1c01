"""The drain where single segments, or all, are refused, and what bodies that unpack to much may cost it."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from pathlib import Path

import pytest

from mooring import read_log
from mooring.exchange import Exchange, Ledger, encode
from mooring.ids import new_request_id
from mooring.log.drain import Drain, run
from mooring.log.parquet import CHUNK_EXCHANGES, ParquetLog
from mooring.settings import LogSettings
from mooring.spool import SpoolWriter, last_ledger, live_writers, segments
from peers import read_message, upstream
from waiting import wait_for

DAY = 86_400 * 10**9


def exchange(model: str = "good", columns: tuple[str, ...] = ("a",), day: int = 0, **more) -> Exchange:
    body = {"dataframe_split": {"columns": columns, "data": [[1] * len(columns)]}}
    return Exchange(
        request_id=new_request_id(),
        time_ns=day * DAY,
        model=model,
        request=json.dumps(body).encode(),
        response=b'{"predictions": [1]}',
        **more,
    )


def fill(spool: Path, *models: str) -> Path:
    """Write a segment with one exchange for each of `models`, and return the writer's directory."""
    writer = SpoolWriter(spool, segment_bytes=1)
    for seen, model in enumerate(models, start=1):
        writer.append([encode(exchange(model)), encode(Ledger(seen=seen, stored=seen))])
    writer.close()
    return writer.directory


def refuse(log: Path, model: str) -> Path:
    """Have a log refuse what is of one model, and return what is to be removed for it to take that again."""
    path = log / "payloads" / f"model={model}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("not a directory")
    return path


def rows(log: Path, model: str) -> int:
    return read_log(log, model=model, what="payloads").num_rows


def left(spool: Path) -> int:
    return len(segments(spool))


def test_a_segment_that_is_refused_does_not_hold_up_those_behind_it(tmp_path):
    log, spool = tmp_path / "log", tmp_path / "spool"
    obstacle = refuse(log, "bad")
    directory = fill(spool, "bad", "bad", "good", "bad", *["good"] * 5)
    drain = Drain(LogSettings(log=str(log), spool=str(spool)))
    assert drain.once() == 6
    assert rows(log, "good") == 6
    assert "model=bad" in str(drain.refusal)
    assert left(spool) == 3
    assert last_ledger(directory) == Ledger(seen=9, stored=9)  # not that of a segment that came before
    fill(spool, "good")
    assert drain.once() == 1
    obstacle.unlink()
    wait_for(lambda: drain.once() + left(spool) == 0, "it is not tried again")
    assert drain.refusal is None
    assert rows(log, "bad") == 3
    assert rows(log, "good") == 7
    assert last_ledger(directory) == Ledger(seen=9, stored=9)
    assert not live_writers(spool)
    assert json.loads((spool / "ledger.json").read_bytes())["ledger"][:3] == ["ledger", 10, 10]


def test_the_last_drain_gives_up_on_what_is_refused_and_on_nothing_else(tmp_path, caplog):
    log, spool = tmp_path / "log", tmp_path / "spool"
    refuse(log, "bad")
    fill(spool, "bad", *["good"] * 5)
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert not run(LogSettings(log=str(log), spool=str(spool), drain_timeout=0.1))
    finally:
        for number, handler in signals.items():
            signal.signal(number, handler)
    assert rows(log, "good") == 5
    assert left(spool) == 1
    assert caplog.text.count("the log refuses: ") == 1


def test_in_an_outage_not_every_segment_is_tried(tmp_path, monkeypatch):
    asked, down = [], True

    def handle(connection) -> None:
        with connection.makefile("rb") as file:
            while (request := read_message(file)).line:
                asked.append(request.line)
                if down:
                    answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
                elif request.line.startswith("PUT"):
                    answer = b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: 0\r\n\r\n'
                else:
                    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
                connection.sendall(answer)

    with upstream(handle) as store:
        for name, value in (
            ("AWS_ENDPOINT_URL", store.url),
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
            ("AWS_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        fill(tmp_path, *["good"] * 40)
        drain = Drain(LogSettings(log="s3://bucket/log", spool=str(tmp_path)))
        with pytest.raises(OSError, match="503"):
            drain.once()
        assert len(asked) <= 6  # each of three is asked for once more by the client itself
        down = False
        wait_for(lambda: drain.once() + left(tmp_path) == 0, "it does not go on after the outage")
        assert sum(line.startswith("PUT /bucket/log/payloads") for line in asked) == 40


def test_what_a_kill_left_of_an_object_is_removed_but_nothing_of_others(tmp_path):
    log, spool = tmp_path / "log", tmp_path / "spool"
    directory = fill(spool, "good")
    payloads, schemas = (log / kind / "model=good" for kind in ("payloads", "schemas"))
    day = payloads / "date=1970-01-01"
    day.mkdir(parents=True)
    schemas.mkdir(parents=True)
    mine = day / f".{directory.name}-00000001.parquet.0123456789ab.part"
    others = day / ".fedcba987654-00000001.parquet.0123456789ab.part"
    old, new = schemas / ".000001.json.0123456789ab.part", schemas / ".000002.json.0123456789ab.part"
    for path in (mine, others, old, new):
        path.write_bytes(b"PAR1")
    os.utime(old, (time.time() - 4000,) * 2)
    assert Drain(LogSettings(log=str(log), spool=str(spool))).once() == 1
    assert [path.exists() for path in (mine, others, old, new)] == [False, True, False, True]
    assert rows(log, "good") == 1


def write(log: Path, *exchanges: Exchange) -> None:
    ParquetLog(str(log), lambda *_: None).write("segment", exchanges)


def test_a_field_that_comes_late_in_a_segment_has_its_column_in_all_of_it(tmp_path):
    early = [exchange(columns=("a",)) for _ in range(CHUNK_EXCHANGES)]
    late = [exchange(columns=("b", "a")), exchange(columns=("b", "c"))]
    bare = [exchange(columns=("a",), day=1)] * CHUNK_EXCHANGES + late[:1]
    write(tmp_path, *early, *late, *bare)
    table = read_log(tmp_path, columns=["input.a", "input.b", "input.c", "misfits", "row", "input"])
    assert table.num_rows == 2 * CHUNK_EXCHANGES + 3
    assert table["misfits"].null_count == table.num_rows
    assert table["input"].null_count == 0
    counts = [table.num_rows - table[name].null_count for name in ("input.a", "input.b", "input.c")]
    assert counts == [2 * CHUNK_EXCHANGES + 2, 3, 1]


def bomb() -> bytes:
    """Return 300 kB that unpack to 300 MB, and to some ten times that as objects of Python."""
    packed = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    pieces = [b'{"inputs": [', *[b"[]," * 100_000] * 1000, b"[]]}"]
    return b"".join(map(packed.compress, pieces)) + packed.flush()


MEASURED = """
import re, sys
from pathlib import Path
from mooring.log.parquet import ParquetLog
from mooring.exchange import Exchange
from mooring.ids import new_request_id

packed, count, log = Path(sys.argv[1]).read_bytes(), int(sys.argv[2]), sys.argv[3]
exchanges = (
    Exchange(request_id=new_request_id(), time_ns=0, request=packed, request_encoding="gzip",
             response=b'{"predictions": [1]}')
    for _ in range(count)
)
ParquetLog(log, lambda *_: None).write("segment", exchanges)
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.parametrize("kind", ["bomb", "many"])
def test_bodies_that_unpack_to_much_do_not_take_the_memory(tmp_path, kind):
    data = b'{"dataframe_split": {"columns": ["a"], "data": [["' + b"x" * 4_000_000 + b'"]]}}'
    body, count = (bomb(), 3) if kind == "bomb" else (gzip.compress(data), 200)
    (tmp_path / "body").write_bytes(body)
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "body"), str(count), str(tmp_path / "log")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) < 400  # MiB; together they unpack to 900 and to 800
    table = read_log(tmp_path / "log", what="payloads", columns=["request", "reason"])
    assert table.num_rows == count
    assert set(table["request"].to_pylist()) == {body}
    if kind == "bomb":
        assert set(table["reason"].to_pylist()) == {
            "too_large: The body decompresses to more than 16777216 bytes."
        }
    else:
        assert table["reason"].null_count == count


PARENT = """
import os, sys
from pathlib import Path
from mooring.spool import SpoolWriter

writer = SpoolWriter(Path(sys.argv[1]))
writer.append([b"x"])
child = os.fork()
if child == 0:
    os.close(1)
    sys.stdin.read()
    os._exit(0)
print(child, flush=True)
os.wait()
"""


def test_a_child_does_not_keep_its_dead_parents_spool_alive(tmp_path):
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        try:
            assert live_writers(tmp_path)
            parent.kill()
            parent.wait()
            os.kill(child, 0)  # it lives
            wait_for(lambda: not live_writers(tmp_path), "the child keeps the spool alive")
            assert [segment.closed for segment in segments(tmp_path)] == [True]
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
