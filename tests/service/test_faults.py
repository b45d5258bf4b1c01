"""Faults: what was answered is in the log, exactly once, and the ledger is true, whatever ends or refuses when."""

from __future__ import annotations

import itertools
import re
import resource
import signal
import socket
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from disks import small_disk
from faults import FAST, Load, check, drain, drain_of, is_true, kill_9, kill_again_and_again, logged, past
from mooring.demo.processes import running
from peers import BODY, OK, Proxy, answering, post, proxy, upstream
from ports import reserved_port
from waiting import PATIENCE, wait_for


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


def test_a_full_disk_costs_exchanges_and_no_answers(server, tmp_path):
    with (
        small_disk(tmp_path / "disk", "2m") as disk,
        proxy(tmp_path, server.url, *FAST, "--log", str(disk / "log"), log_format="parquet") as running_proxy,
    ):
        filler = disk / "filler"
        first = [running_proxy.exchange(post()).line for _ in range(10)]
        # A drain that is at work gives room back: nothing is to be left for it when the disk gets full.
        spool = disk / "log" / ".spool"
        wait_for(
            lambda: logged(disk / "log").total() == 10 and not list(spool.glob("*/*.segment")),
            "they are not drained",
        )
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
