"""Faults: what was answered is in the log, exactly once, and the ledger is true, whatever ends or refuses when."""

from __future__ import annotations

import itertools
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from faults import (
    FAST,
    Load,
    check,
    drain,
    drain_of,
    is_true,
    kill_9,
    kill_again_and_again,
    logged,
    past,
    small_disk,
)
from mooring.demo.processes import running
from peers import BODY, OK, Proxy, answering, post, proxy, upstream
from ports import reserved_port
from s3 import s3_server
from waiting import PATIENCE, wait_for

HARNESS = '''
"""Runs a writer, or a drain, again and again: the n-th time it is killed at its n-th call that changes a file."""
import json, os, random, shutil, signal, sys
from pathlib import Path

import obstore
from mooring.config import CaptureSettings, LogSettings
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


@pytest.fixture(scope="module")
def server():
    with upstream(answering(OK)) as serving:
        yield serving


def children(pid: int) -> list[tuple[int, str]]:
    """Return the processes that a process has started, and their command lines."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, rest = stat.read_text().rsplit(")", 1)
            state, parent = rest.split()[:2]
            if int(parent) == pid and state != "Z":
                found.append((int(name.split()[0]), stat.with_name("cmdline").read_text()))
    return found


def workers_of(pid: int) -> list[int]:
    return [child for child, line in children(pid) if "\0proxy\0" in line]


def test_kill_9_under_load_loses_nothing_that_was_answered(server, tmp_path):
    kill_again_and_again(tmp_path, server.url, 6)


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


def test_a_full_disk_costs_exchanges_and_no_answers(server, tmp_path):
    with (
        small_disk(tmp_path / "disk", "2m") as disk,
        proxy(tmp_path, server.url, *FAST, "--log", str(disk / "log"), log_format="parquet") as running_proxy,
    ):
        filler = disk / "filler"
        first = [running_proxy.exchange(post()).line for _ in range(10)]
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        big = post(b'{"dataframe_split": {"columns": ["x"], "data": [["' + b"x" * 20_000 + b'"]]}}')
        answers = [running_proxy.exchange(big).line for _ in range(20)]
        assert set(first + answers) == {"HTTP/1.1 200 OK"}
        ledger = running_proxy.stats()["ledger"]
        assert ledger["balance"] == 0
        assert ledger["dropped"]["disk_full"] > 10
        assert running_proxy.admin("/readyz") == (503, "exchanges can't be stored\n")
        assert "No space left on device" in running_proxy.stderr
        filler.unlink()
        wait_for(lambda: running_proxy.admin("/readyz")[0] == 200, "it does not recover")
        ids = [running_proxy.exchange(post()).all("X-Request-Id")[0] for _ in range(10)]
        running_proxy.process.send_signal(signal.SIGTERM)
        assert running_proxy.process.wait(PATIENCE) == 0
        drain(disk / "log")
        found = logged(disk / "log")
        assert set(ids) <= found.keys()
        assert set(found.values()) == {1}
        ledger = past(disk / "log")
        assert is_true(ledger)
        assert (ledger["seen"], ledger["stored"]) == (40, found.total())


def test_a_spool_that_refuses_is_not_ready_until_it_takes_exchanges_again(server, tmp_path):
    with proxy(tmp_path, server.url) as running_proxy:
        assert running_proxy.exchange(post()).line == "HTTP/1.1 200 OK"
        wait_for(lambda: running_proxy.admin("/readyz") == (200, "ready\n"), "it is not ready")
        pid = running_proxy.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        # What proxy.log may not be written with this either: nothing is looked for there.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
        for _ in range(5):
            assert running_proxy.exchange(post()).line == "HTTP/1.1 200 OK"
        assert running_proxy.admin("/readyz")[0] == 503
        assert running_proxy.admin("/healthz")[0] == 200
        time.sleep(0.6)  # it tries meanwhile, and is refused
        assert running_proxy.admin("/readyz")[0] == 503
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
        wait_for(lambda: running_proxy.admin("/readyz")[0] == 200, "it does not recover")
        assert running_proxy.exchange(post()).line == "HTTP/1.1 200 OK"
        ledger = running_proxy.stats()["ledger"]
        assert (ledger["seen"], ledger["stored"], ledger["balance"]) == (7, 2, 0)
        assert ledger["dropped"] == {"spool_unwritable": 5}


HALF_AN_ANSWER = """
import socket, sys
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    connection, _ = listening.accept()
    request = b""
    while not request.endswith(b"]]}}"):
        request += connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: 22\\r\\n\\r\\n")
    connection.sendall(b'{"predic')
    print("half", flush=True)
    kept = connection
"""


def test_a_server_killed_in_mid_answer(tmp_path):
    port = reserved_port()
    said = tmp_path / "server.log"
    with (
        running([sys.executable, "-c", HALF_AN_ANSWER, str(port)], tmp_path, said) as serving,
        proxy(tmp_path, f"http://127.0.0.1:{port}", *FAST) as running_proxy,
        running_proxy.connect() as connection,
    ):

        def listens() -> bool:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return True
            return False

        wait_for(listens, "the server does not listen")
        serving.kill()
        serving.wait()
        assert running_proxy.exchange(post()).line == "HTTP/1.1 502 Bad Gateway"
        with running([sys.executable, "-c", HALF_AN_ANSWER, str(port)], tmp_path, said) as again:
            wait_for(lambda: not serving_refuses(running_proxy, port), "the server does not listen")
            connection.sendall(post())
            wait_for(lambda: "half" in said.read_text(), "the server was not asked")
            again.kill()
            received = b""
            with suppress(ConnectionResetError):
                while data := connection.recv(65536):
                    received += data
            assert len(received.partition(b"\r\n\r\n")[2]) < 22  # it breaks off; it is not made whole
        codes = sorted(record["errors"] for record in running_proxy.records(2))
        assert codes == [["upstream_failed"], ["upstream_unreachable"]]
        [record] = [record for record in running_proxy.records(2) if record["errors"] == ["upstream_failed"]]
        assert (record["status"], record["response"]) == (200, '{"predic')
        ledger = running_proxy.stats()["ledger"]
        assert (ledger["seen"], ledger["stored"], ledger["failed"], ledger["balance"]) == (2, 2, 2, 0)


def serving_refuses(_: Proxy, port: int) -> bool:
    """Whether nobody listens; asked without a connection, which the server would wait on."""
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return not any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in listening)


def test_clients_that_go_in_mid_body(server, tmp_path):
    with proxy(tmp_path, server.url, *FAST) as running_proxy:
        for part in (post()[:-5], post(BODY * 5000)[:100_000]):
            with running_proxy.connect() as connection:
                connection.sendall(part)
                time.sleep(0.05)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert {tuple(record["errors"]) for record in running_proxy.records(2)} == {("client_gone",)}
        ledger = running_proxy.stats()["ledger"]
        assert (ledger["seen"], ledger["stored"], ledger["in_flight"], ledger["balance"]) == (2, 2, 0, 0)
        assert ledger["errors"] == {"client_gone": 2}


CLOCK = """
import itertools, time
real, calls = time.time_ns, itertools.count()
time.time_ns = lambda: real() - (3 * 86_400 * 10**9 if next(calls) > 20 else 0)
"""


def test_a_clock_that_is_set_back(server, tmp_path):
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(CLOCK)
    env = {"PYTHONPATH": str(tmp_path / "clock")}
    with proxy(tmp_path, server.url, *FAST, log_format="parquet", env=env) as running_proxy:
        ids = [running_proxy.exchange(post()).all("X-Request-Id")[0] for _ in range(60)]
        running_proxy.process.send_signal(signal.SIGTERM)
        assert running_proxy.process.wait(PATIENCE) == 0
    assert check(running_proxy.log, ids)["seen"] == 60
    assert ids != sorted(ids)
    days = {path.name for path in running_proxy.log.glob("payloads/*/*")}
    assert len(days) == 2
    for path in running_proxy.log.glob("payloads/**/*.parquet"):
        assert min(pq.ParquetFile(path).read()["duration_ns"].to_pylist()) >= 0


def test_two_proxies_on_one_log_one_of_them_killed(server, tmp_path):
    log = tmp_path / "log"
    flags = (*FAST, "--log", str(log))
    with (
        proxy(tmp_path / "a", server.url, *flags, log_format="parquet") as a,
        proxy(tmp_path / "b", server.url, *flags, log_format="parquet") as b,
    ):
        with Load(a.port, b.port, clients=2) as load:
            load.wait_for(100)
            kill_9(a.process.pid)
            a.process.wait()
            load.wait_for(len(load.answered) + 100)
        # The drain that a started goes on, or b's drainer starts one.
        wait_for(lambda: (log / ".spool" / "ledger.json").exists(), "nobody cleared up after the killed one")
        ledger = b.stats()["ledger"]
        assert ledger["balance"] == 0
        assert ledger["stored"] >= len(load.answered)
        b.process.send_signal(signal.SIGTERM)
        assert b.process.wait(PATIENCE) == 0
    assert check(log, load.answered)["dropped"].get("killed", 0) <= 2


def test_a_worker_that_is_killed_is_replaced_and_counted_once(server, tmp_path):
    flags = (*FAST, "--workers", "2", "--model-version", "1")
    with proxy(tmp_path, server.url, *flags, log_format="parquet") as running_proxy:
        pid = running_proxy.process.pid
        assert running_proxy.admin("/model-version/2", "PUT") == (200, "ok\n")
        with Load(running_proxy.port, clients=12) as load:
            load.wait_for(100)
            killed, _ = workers_of(pid)
            kill_9(killed)

            def replaced() -> bool:
                workers = workers_of(pid)
                return len(workers) == 2 and killed not in workers

            wait_for(replaced, "no new worker")
            load.wait_for(len(load.answered) + 200)
        assert f"worker {killed} ended with -9, and is started anew" in running_proxy.stderr
        wait_for(lambda: running_proxy.admin("/readyz")[0] == 200, "it is not ready again")
        log = running_proxy.log
        wait_for(lambda: (log / ".spool" / "ledger.json").exists(), "nobody cleared up after the killed one")
        wait_for(lambda: running_proxy.stats()["ledger"]["in_flight"] == 0, "something is in flight")
        stats = running_proxy.stats()
        for ledger in (stats["ledger"], stats["since_start"]):
            assert ledger["balance"] == 0
            assert len(load.answered) <= ledger["stored"] <= ledger["seen"] <= load.sent
            assert ledger["dropped"].get("killed", 0) <= 12
        assert stats["ledger"] == stats["since_start"]
        # Until it is started anew there are connections that nobody takes.
        running_proxy.process.send_signal(signal.SIGTERM)
        assert running_proxy.process.wait(PATIENCE) == 0
    ledger = check(log, load.answered)
    assert (ledger["seen"], ledger["stored"]) == (stats["ledger"]["seen"], stats["ledger"]["stored"])
    assert f"{ledger['seen']} exchanges seen, {ledger['stored']} stored" in running_proxy.stderr
    versions = Counter(
        version
        for path in log.glob("payloads/**/*.parquet")
        for version in pq.ParquetFile(path).read()["model_version"].to_pylist()
    )
    assert set(versions) == {"2"}


def test_sigterm_under_load_with_two_workers(server, tmp_path):
    with proxy(tmp_path, server.url, *FAST, "--workers", "2", log_format="parquet") as running_proxy:
        with Load(running_proxy.port) as load:
            load.wait_for(200)
            running_proxy.process.send_signal(signal.SIGTERM)
            assert running_proxy.process.wait(PATIENCE) == 0
        assert not any(path.is_dir() for path in (running_proxy.log / ".spool").iterdir())
    ledger = check(running_proxy.log, load.answered)
    assert ledger["dropped"] == {}
    assert ledger["stored"] == len(load.answered)
    said = re.findall(r"(\d+) exchanges seen, (\d+) stored", running_proxy.stderr)
    assert said == [(str(ledger["seen"]), str(ledger["stored"]))]


def test_sigterm_at_once_is_heard_by_workers_that_have_just_begun(server, tmp_path):
    with proxy(tmp_path, server.url, *FAST, "--workers", "2") as running_proxy:
        running_proxy.process.send_signal(signal.SIGTERM)
        assert running_proxy.process.wait(PATIENCE) == 0


def test_workers_end_when_their_parent_is_killed(server, tmp_path):
    with (
        proxy(tmp_path, server.url, *FAST, "--workers", "2", log_format="parquet") as running_proxy,
        Load(running_proxy.port) as load,
    ):
        load.wait_for(200)
        pids = workers_of(running_proxy.process.pid)
        assert len(pids) == 2
        kill_9(running_proxy.process.pid)
        running_proxy.process.wait()
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "a worker goes on")
    ledger = check(running_proxy.log, load.answered)
    assert ledger["dropped"] == {}
    assert ledger["stored"] >= len(load.answered)


def test_all_that_waits_is_found_by_the_next_proxy(server, tmp_path):
    answered = []
    for number in itertools.count():
        with proxy(tmp_path, server.url, log_format="parquet") as running_proxy:
            pid = running_proxy.process.pid
            if number == 2:
                wait_for(lambda: sum(logged(running_proxy.log).values()) >= 40, "what is left is not drained")
                running_proxy.process.send_signal(signal.SIGTERM)
                assert running_proxy.process.wait(PATIENCE) == 0
                break
            answered += [running_proxy.exchange(post()).all("X-Request-Id")[0] for _ in range(20)]
            kill_9(drain_of(running_proxy.log), pid)
            running_proxy.process.wait()
    assert check(running_proxy.log, answered)["seen"] == 40
