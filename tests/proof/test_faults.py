"""Faults, at every step: writers and drains killed at each of their calls, and a proxy fifty times under load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from faults import (
    kill_again_and_again,
    logged,
)
from peers import OK, answering, upstream
from s3 import s3_server
from waiting import PATIENCE

HARNESS = '''
"""Runs a writer, or a drain, again and again: the n-th time it is killed at its n-th call that changes a file."""
import json, os, random, shutil, signal, sys
from pathlib import Path

import obstore
from mooring.settings import CaptureSettings, LogSettings
from mooring.exchange import Exchange
from mooring.capture.recorder import Recorder
from mooring.log import csv_files, drain, parquet, store
from mooring.spool import FRAME, MAGIC, read_frames, segments

what, where, log_format, root, exchanges = sys.argv[1:]
where, exchanges = Path(where), int(exchanges)
ARGUMENTS = {"write": 2, "rename": 2, "replace": 2, "link": 2, "unlink": 1, "rmdir": 1}
write = os.write

def die_at(nth):
    """Have this process killed in the middle of a write, or right after another call."""
    count = 0
    def patch(module, name):
        original = getattr(module, name)
        def patched(*args, **kwargs):
            nonlocal count
            count += 1
            if count < nth:
                return original(*args, **kwargs)
            if name == "write":
                original(args[0], bytes(args[1])[: random.randrange(len(args[1]))])
            else:
                original(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
        setattr(module, name, patched)
    for name in ARGUMENTS:
        patch(os, name)
    patch(obstore, "put")

def in_child(function, *args):
    """Call a function in a process of its own, and return what that ended with and what it said."""
    read, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        code = 1
        try:
            function(said, *args)
            code = 0
        finally:
            os._exit(code)
    os.close(said)
    with open(read, "rb") as lines:
        text = lines.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text.split()

def exchange(number):
    model, columns = f"m{number % 2}", [f"c{number % 3}"]
    body = json.dumps({"dataframe_split": {"columns": columns, "data": [[number]]}}).encode()
    return Exchange(request_id=f"id-{number:04d}", time_ns=number * 10**9, model=model, request=body,
                    response=b'{"predictions": [1]}')

def record(said, spool, nth):
    settings = CaptureSettings(log=str(spool.parent), spool=str(spool), segment_bytes=700)
    if nth:
        die_at(nth)
    recorder = Recorder(settings)
    for number in range(0, exchanges, 2):
        batch = [exchange(number), exchange(number + 1)]
        for one in batch:
            recorder.begin(one.request_id)
        recorder.record(batch)
        write(said, "".join(f"{one.request_id} " for one in batch).encode())
    recorder.close()

def drained(said, spool, log, nth):
    if nth:
        die_at(nth)
    settings = LogSettings(log=log, spool=str(spool), format=log_format, drain_timeout=1)
    assert drain.run(settings)

def torn(spool):
    """How many segments end in the middle of a frame."""
    count = 0
    for segment in segments(spool):
        end = len(MAGIC)
        for _, end in read_frames(segment.path):
            pass
        count += segment.path.stat().st_size > end
    return count

for nth in range(1, 1000):
    spool = where / f"{nth}" / "spool"
    log = f"{root}/{nth}"
    ended, said = in_child(record, spool, nth if what == "record" else 0)
    tails = torn(spool)
    left = 0
    if what == "drain":
        ended, _ = in_child(drained, spool, log, nth)
        left = len(segments(spool))
    recovered, _ = in_child(drained, spool, log, 0)
    run = {"n": nth, "ended": ended, "said": said, "torn": tails, "left": left, "recovered": recovered}
    print(json.dumps(run))
    if ended == 0:
        break
'''


def harness(
    what: str, directory: Path, log_format: str, root: str, exchanges: int, env: dict[str, str] | None = None
) -> list[dict]:
    script = directory / "harness.py"
    script.write_text(HARNESS)
    result = subprocess.run(
        [sys.executable, str(script), what, str(directory / "runs"), log_format, root, str(exchanges)],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        timeout=PATIENCE,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    runs = [json.loads(line) for line in result.stdout.splitlines()]
    assert [run["ended"] for run in runs] == [-signal.SIGKILL] * (len(runs) - 1) + [0]
    assert {run["recovered"] for run in runs} == {0}, result.stderr
    return runs


def account(directory: Path, run: dict) -> dict:
    spool = directory / "runs" / str(run["n"]) / "spool"
    assert {path.name for path in spool.iterdir()} <= {"drain.lock", "ledger.json"}
    if not (spool / "ledger.json").exists():
        return {"stored": 0}
    document = json.loads((spool / "ledger.json").read_bytes())["ledger"]
    return {"seen": document[1], "stored": document[2], "in_flight": document[3], "dropped": document[7]}


@pytest.mark.parametrize("log_format", ["parquet", "csv"])
def test_a_writer_killed_at_each_of_its_calls(tmp_path, log_format):
    runs = harness("record", tmp_path, log_format, str(tmp_path / "logs"), 12)
    assert sum(run["torn"] for run in runs) > 3
    for run in runs:
        log = tmp_path / "logs" / str(run["n"])
        found = logged(log) if log_format == "parquet" else Counter(path.stem for path in log.glob("*.csv"))
        assert set(found.values()) <= {1}
        assert set(run["said"]) <= found.keys()
        assert len(found) <= len(run["said"]) + 2  # those of the batch in which it died may be there
        ledger = account(tmp_path, run)
        assert ledger["stored"] == len(found)
        if found:
            assert ledger["seen"] == ledger["stored"] + sum(ledger["dropped"].values())
            assert ledger["in_flight"] == 0


@pytest.mark.parametrize("log_format", ["parquet", "csv"])
def test_a_drain_killed_at_each_of_its_calls(tmp_path, log_format):
    runs = harness("drain", tmp_path, log_format, str(tmp_path / "logs"), 8)
    assert len(runs) > 10
    assert {run["left"] > 0 for run in runs} == {True, False}
    ids = {f"id-{number:04d}" for number in range(8)}
    for run in runs:
        log = tmp_path / "logs" / str(run["n"])
        if log_format == "parquet":
            assert logged(log) == logged(log, "inferences") == Counter(ids)
            assert not list(log.rglob("*#*"))
            assert not list(log.glob("[ip]*/**/.*.part"))
        else:
            assert {path.stem for path in log.glob("*.csv")} == ids
        assert account(tmp_path, run) == {"seen": 8, "stored": 8, "in_flight": 0, "dropped": {}}


def test_a_drain_into_s3_killed_at_each_of_its_calls(tmp_path):
    with s3_server(tmp_path) as store:
        runs = harness("drain", tmp_path, "parquet", "s3://logs/killed", 4, store.env())
        assert len(runs) > 10
        for run in runs:
            uri = f"s3://logs/killed/{run['n']}"
            assert sorted(store.ids(uri)) == sorted(store.ids(uri, "inferences"))
            assert sorted(store.ids(uri)) == [f"id-{number:04d}" for number in range(4)]
            assert account(tmp_path, run)["stored"] == 4


@pytest.fixture(scope="module")
def server():
    with upstream(answering(OK)) as serving:
        yield serving


def test_kill_9_under_load_50_times(server, tmp_path):
    kill_again_and_again(tmp_path, server.url, 50)
