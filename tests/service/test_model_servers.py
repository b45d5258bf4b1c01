"""Model servers as they run: they answer as MLflow's own, and whatever ends them, others take their place."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import mlflow
import pytest
import uvloop

from kinds import proofs
from model_servers import (
    FRAME,
    UnixConnection,
    ask_socket,
    gone,
    have,
    pid_of,
    ready,
    save_model,
    servers,
    told,
    until,
)
from mooring import descendants
from mooring.serving.process import MODEL_SERVER, ServerOutput, ping
from mooring.serving.protocol import Model, Server
from ports import reserved_port
from serving import JSON, ask, serving
from waiting import PATIENCE, wait_for


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(path):
    return Model("1", str(path))


def refuses(socket: str) -> bool:
    """Whether nobody listens on a socket any more."""
    with suppress(ConnectionRefusedError, FileNotFoundError):
        UnixConnection(socket).connect()
        return False
    return True


# Service


@pytest.mark.parametrize("loop", [asyncio, uvloop], ids=["asyncio", "uvloop"])
def test_it_answers_what_the_model_predicts(loop, model, path):
    expected = mlflow.pyfunc.load_model(str(path)).predict(FRAME).tolist()

    async def run():
        async with servers(model, workers=2) as running:
            first, second = await ready(running, count=2)
            for socket in (first, second):
                answer = await asyncio.to_thread(ask_socket, socket, told(a=[1.0, 2.0], b=[0.5, 0.25]))
                assert answer.predictions == expected
            assert await ping(first, 10)
            assert await pid_of(first) != await pid_of(second)
            assert running.states() == {"1": Server(wanted=2, ready=2)}

            pid = await pid_of(first)
            await running.stop("1")
            assert gone(pid)
            assert (running.sockets("1"), running.states()) == ([], {})

    loop.run(run())


def test_a_version_that_comes_later_does_not_disturb_those_that_run(model, path):
    async def run():
        async with servers(model) as running:
            [socket] = await ready(running)
            pid = await pid_of(socket)
            running.want([model, Model("2", str(path))])
            await ready(running, "2")
            await running.stop("2")
            assert running.sockets("1") == [socket]
            assert await pid_of(socket) == pid

    asyncio.run(run())


def test_what_is_in_flight_is_finished_before_a_server_is_stopped(model, tmp_path):
    begun, finish = tmp_path / "begun", tmp_path / "begun.finish"

    async def run():
        async with servers(model) as running:
            [socket] = await ready(running)
            pid = await pid_of(socket)
            asked = asyncio.create_task(have(socket, f"begin {begun}"))
            await until(begun.exists, "the prediction has not begun")
            stopping = asyncio.create_task(running.stop("1"))
            await until(lambda: refuses(socket), "it goes on")
            await asyncio.to_thread(finish.touch)
            assert (await asked).predictions == [1.5]
            await stopping
            assert gone(pid)

    asyncio.run(run())


def test_a_server_that_does_not_finish_is_ended_after_its_grace(model, tmp_path):
    begun = tmp_path / "begun"

    async def run():
        async with servers(model) as running:
            [socket] = await ready(running)
            pid = await pid_of(socket)
            asked = asyncio.create_task(have(socket, f"begin {begun}"))
            await until(begun.exists, "the prediction has not begun")
            await running.stop("1", grace=0.3)
            assert gone(pid)
            with pytest.raises(OSError):
                await asked

    asyncio.run(run())


# Faults


@pytest.mark.parametrize(("how", "loop"), [("kill", asyncio), ("crash", uvloop)], ids=["kill", "crash"])
def test_when_one_ends_the_others_go_on_and_another_takes_its_place(how, loop, model):
    async def run():
        async with servers(model, workers=2) as running:
            first, second = await ready(running, count=2)
            pid, other = await pid_of(first), await pid_of(second)
            if how == "kill":
                os.kill(pid, signal.SIGKILL)
            else:
                with pytest.raises(OSError):
                    await have(first, "crash")
            await until(lambda: first not in running.sockets("1"), "it is still in service")
            assert running.sockets("1") == [second]
            assert await pid_of(second) == other
            [state] = running.states().values()
            assert (state.ready, state.crashed) == (1, 1)
            assert ("SIGKILL" if how == "kill" else "exit code 3; the last it said: out of luck") in state.reason

            new, same = await ready(running, count=2)
            assert same == second
            assert new != first
            assert await pid_of(new) not in (pid, other)

    loop.run(run())


def test_why_a_model_does_not_load_is_told(model, monkeypatch):
    monkeypatch.setenv("REFUSE_TO_LOAD", "1")

    async def run():
        async with servers(model, serve_environment=("REFUSE_*",)) as running:
            await until(lambda: running.states()["1"].crashed >= 2, "it is not started again")
            [state] = running.states().values()
            assert (state.wanted, state.ready) == (1, 0)
            assert state.reason.startswith("ended with exit code 1; the last it said: ")
            assert state.reason.endswith("ValueError: the file of weights is damaged")

    asyncio.run(run())


def test_files_that_are_no_model_and_environments_that_are_not_there_are_told(tmp_path):
    none, no_environment = Model("1", str(tmp_path)), Model("2", str(tmp_path), f"source {tmp_path}/bin/activate")

    async def run():
        async with servers(none, no_environment) as running:
            await until(lambda: all(state.crashed for state in running.states().values()), "nothing ended")
            assert "MLmodel" in running.states()["1"].reason
            assert "bin/activate: No such file or directory" in running.states()["2"].reason

    asyncio.run(run())


def test_a_server_that_is_not_up_in_time_is_ended(model):
    async def run():
        async with servers(model, start_timeout=0.2) as running:
            await until(lambda: running.states()["1"].crashed > 0, "it may take its time")
            assert "did not answer within 0.2 seconds of its start" in running.states()["1"].reason

    asyncio.run(run())


@pytest.mark.proof
def test_a_server_with_far_more_memory_than_it_may_have_is_ended_at_once(model):
    async def run():
        async with servers(model, worker_memory=600 * 2**20) as running:
            [socket] = await ready(running)
            with pytest.raises(OSError):
                await have(socket, f"grow {900 * 2**20}")
            await until(lambda: running.states()["1"].crashed == 1, "it was not ended")
            assert "more than the 600 MiB of --worker-memory" in running.states()["1"].reason
            [other] = await ready(running)
            assert other != socket

    asyncio.run(run())


@pytest.mark.proof
@pytest.mark.skipif(sys.platform != "linux", reason="the model looks at its memory as Linux tells it")
def test_servers_that_leak_are_replaced_one_after_the_other_and_finish_what_they_have(model, tmp_path):
    limit = 600 * 2**20

    async def run():
        async with servers(model, workers=2, worker_memory=limit) as running:
            sockets = await ready(running, count=2)
            pids = [await pid_of(socket) for socket in sockets]
            begun = [tmp_path / "first", tmp_path / "second"]
            asked = [
                asyncio.create_task(have(socket, f"fill {limit + 2**22} {path}"))
                for socket, path in zip(sockets, begun, strict=True)
            ]
            await until(lambda: all(path.exists() for path in begun), "the predictions have not begun")
            await until(lambda: len(running.sockets("1")) == 1, "none was replaced")
            [other] = running.sockets("1")
            assert other in sockets
            await until(lambda: other not in running.sockets("1"), "only one was replaced")
            assert running.sockets("1")
            for path in begun:
                await asyncio.to_thread(Path(f"{path}.finish").touch)
            assert [answer.predictions for answer in await asyncio.gather(*asked)] == [[1.5], [1.5]]
            await until(lambda: all(map(gone, pids)), "they go on")

    asyncio.run(run())


def test_one_that_hangs_is_replaced_and_finishes_what_it_has(model, tmp_path, caplog):
    begun, finish = tmp_path / "begun", tmp_path / "begun.finish"

    async def run():
        async with servers(model) as running:
            [socket] = await ready(running)
            pid = await pid_of(socket)
            asked = asyncio.create_task(have(socket, f"begin {begun}"))
            await until(begun.exists, "the prediction has not begun")
            running.take_out("1", socket)
            assert running.sockets("1") == []
            [other] = await ready(running)
            assert other != socket
            [state] = running.states().values()
            assert (state.ready, state.crashed, state.hung) == (1, 1, 1)
            await asyncio.to_thread(finish.touch)
            assert (await asked).predictions == [1.5]
            await until(lambda: gone(pid), "it goes on")

    asyncio.run(run())
    assert "version 1, server 1 was replaced: 3 requests in a row had no answer" in caplog.text


def test_a_flood_of_output_neither_blocks_a_server_nor_fills_what_reads_it(model, capsys):
    async def run():
        async with servers(model) as running:
            [socket] = await ready(running)
            assert (await have(socket, "flood 50000")).predictions == [1.5]

    asyncio.run(run())
    shown = capsys.readouterr().err
    assert "version 1, server 1: a model is loaded\n" in shown
    assert "more lines, too many to show)" in shown
    assert len(shown) < 10_000_000


def test_of_what_is_printed_the_last_error_is_the_reason_and_endless_lines_are_cut(capsys):
    async def run():
        read, write = os.pipe()
        output = ServerOutput(read, "x")
        os.write(write, b"Traceback:\n  File\nmodels.Refused\nodd.KeyError: 'a'\n  note\n")
        await until(lambda: "note" in output.reason or "KeyError" in output.reason, "nothing was read")
        assert output.reason == "odd.KeyError: 'a'"
        for _ in range(20):
            await asyncio.to_thread(os.write, write, b"y" * 50_000 + b"\n")
        os.write(write, b"\xff no end")
        os.close(write)
        output.close()
        assert output.reason == "\ufffd no end"

    asyncio.run(run())
    assert max(map(len, capsys.readouterr().err.splitlines())) < 3000


SECRETS = {
    "MOORING_LABELS_TOKEN": "a",
    "MOORING_UI_TOKEN": "b",
    "MOORING_REDACT_KEY": "c",
    "MOORING_STATE": "postgresql://me:secret@host/db",
    "AWS_SECRET_ACCESS_KEY": "d",
    "MLFLOW_TRACKING_PASSWORD": "e",
    "HF_TOKEN": "f",
}


def test_a_model_server_has_no_secrets_but_what_the_settings_name(model, monkeypatch):
    for name, value in {**SECRETS, "FEATURE_STORE_URL": "u", "FEATURES_A": "1", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)

    async def run():
        async with servers(model, serve_environment=("FEATURE_STORE_URL", "FEATURES_*")) as running:
            [socket] = await ready(running)
            return (await have(socket, "environment")).predictions

    names = set(asyncio.run(run()))
    assert not names & SECRETS.keys()
    assert {"FEATURE_STORE_URL", "FEATURES_A", "OMP_NUM_THREADS", "PATH"} <= names
    assert not [name for name in names if name.startswith("MOORING_")]


@pytest.mark.proof
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
@pytest.mark.parametrize("how", ["is stopped", "is killed", "crashes", "loses its keeper"])
def test_what_has_a_session_of_its_own_ends_with_the_server(model, tmp_path, how):
    async def run():
        async with servers(model) as running:
            [socket] = await ready(running)
            pid = await pid_of(socket)
            await have(socket, f"daemon {tmp_path / 'daemon'}")
            daemon = int((tmp_path / "daemon").read_text())
            assert not gone(daemon)
            if how == "is stopped":
                await running.stop("1")
                assert gone(daemon)
                return
            if how == "crashes":
                with pytest.raises(OSError):
                    await have(socket, "crash")
            else:
                os.kill(pid if how == "is killed" else parent(pid), signal.SIGKILL)
            await until(lambda: running.states()["1"].crashed == 1, "nobody noticed")
            if how == "loses its keeper":  # which the kernel tells the server alone
                await until(lambda: gone(pid), "the server goes on")
                os.kill(daemon, signal.SIGKILL)
            await until(lambda: gone(daemon), "the daemon goes on")

    asyncio.run(run())


@pytest.mark.proof
@pytest.mark.parametrize("how", ["is stopped", "hangs", "is closed"])
def test_a_server_that_heeds_no_sigterm_is_ended_after_its_grace_with_what_it_started(
    model, tmp_path, monkeypatch, how
):
    monkeypatch.setenv("BLOCK_SIGTERM", "1")

    async def run():
        async with servers(model, serve_environment=("BLOCK_*",), timeout=0.2) as running:
            [socket] = await ready(running)
            pids = [await pid_of(socket)]
            if sys.platform == "linux":
                await have(socket, f"daemon {tmp_path / 'daemon'}")
                pids.append(int((tmp_path / "daemon").read_text()))
            if how == "is stopped":
                await running.stop("1", grace=0.3)
                assert all(map(gone, pids))
            elif how == "is closed":
                await running.close(grace=0.3)
                assert all(map(gone, pids))
            else:
                running.take_out("1", socket)
                [other] = await ready(running)
                assert other != socket
                await until(lambda: all(map(gone, pids)), "it goes on")

    asyncio.run(run())


@pytest.mark.parametrize("how", ["spawn", *proofs("fork", "forkserver", "loky")])
def test_a_model_may_have_processes_of_its_own_to_predict_with(model, how):
    async def run():
        async with servers(model) as running:
            [socket] = await ready(running)
            for _ in range(2):
                assert (await have(socket, f"pool {how}")).predictions == [1.0, 2.0]
            assert (await have(socket, f"abandon {how}")).predictions == [1.5]
            pid = await pid_of(socket)
            left = descendants.children(pid)
            await running.stop("1")
            assert all(map(gone, [pid, *left]))

    asyncio.run(run())


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# The end of who started it

FRONT = """
import asyncio, sys, tempfile
from pathlib import Path
from mooring.settings import ServeSettings
from mooring.serving.protocol import Model
from mooring.serving.servers import Servers

async def main():
    servers = Servers(ServeSettings(workers=2), Path(sys.argv[2]), lambda: None)
    servers.want([Model("1", sys.argv[1])])
    while len(servers.sockets("1")) < 2:
        await asyncio.sleep(0.05)
    print(*servers.sockets("1"), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_servers_end_with_the_process_that_started_them_however_it_ends(path, tmp_path_factory):
    directory = tmp_path_factory.mktemp("s")
    command = [sys.executable, "-c", FRONT, str(path), str(directory)]
    front = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        sockets = front.stdout.readline().split()
        pids = [asyncio.run(pid_of(socket)) for socket in sockets]
        assert len(pids) == 2
        if sys.platform == "linux":
            asyncio.run(have(sockets[0], f"daemon {directory / 'daemon'}"))
            pids.append(int((directory / "daemon").read_text()))
    finally:
        front.kill()
        front.wait()
        front.stdout.close()
    wait_for(lambda: all(map(gone, pids)), f"of {pids} some go on")


def test_the_end_of_its_stdin_is_the_end_of_a_server_and_its_children_where_the_kernel_does_not_see_to_it(
    path, tmp_path
):
    socket = tmp_path / "s"
    command = [sys.executable, str(MODEL_SERVER), "--model", str(path), "--socket", str(socket), "--timeout", "5"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        wait_for(lambda: asyncio.run(ping(str(socket), 5)) or server.poll() is not None, "it does not come up")
        assert ask_socket(str(socket), told("read")).predictions == [0.0]  # the model can't take it away
        server.stdin.close()
        assert server.wait(PATIENCE) != 0
    finally:
        server.kill()
        server.wait()


# What MLflow's own server answers

COLUMNS = {"columns": ["a", "b"], "data": [[1, 0.5], [2, 0.25]]}
CORPUS = {
    "split": {"dataframe_split": COLUMNS},
    "split with index": {"dataframe_split": {**COLUMNS, "index": [7, 8]}},
    "records": {"dataframe_records": [{"a": 1, "b": 2}, {"b": 3.5, "a": 4}]},
    "instances": {"instances": [{"a": 1, "b": 2}]},
    "inputs": {"inputs": {"a": [1, 2], "b": [3, 4]}},
    "inputs as records": {"inputs": [{"a": 1, "b": 2}]},
    "two formats": {"inputs": {"a": [1]}, "instances": [1]},
    "no format": {"a": [1]},
    "MLflow 1": COLUMNS,
    "a list": [1, 2],
    "a number": "12",
    "no JSON": "{",
    "NaN in": '{"dataframe_split": {"columns": ["a", "b"], "data": [[NaN, 1], [null, 2]]}}',
    "infinite": '{"dataframe_split": {"columns": ["a", "b"], "data": [[1e308, 1e308], [Infinity, 2]]}}',
    "not UTF-8": b'{"dataframe_split": "\xff"}',
    "empty": b"",
    "no rows": {"dataframe_split": {"columns": ["a", "b"], "data": []}},
    "a column is missing": {"dataframe_split": {"columns": ["a"], "data": [[1]]}},
    "a column more": {"dataframe_split": {"columns": ["c", "b", "a"], "data": [[1, 2, 3]]}},
    "text for numbers": {"dataframe_split": {"columns": ["a", "b"], "data": [["x", 1]]}},
    "ragged": {"dataframe_split": {"columns": ["a", "b"], "data": [[1], [1, 2]]}},
    "params": told("text", a=[1, 2, 3], b=[1, 2, 3]),
    "params of another type": {"dataframe_split": COLUMNS, "params": {"do": 5}},
    "params that are not known": {"dataframe_split": COLUMNS, "params": {"see": "x"}},
    "the model raises": told("raise"),
    "chat": {"messages": [{"role": "user", "content": "hello"}]},
    "too long": told("sleep 3"),
    "many rows": told(a=[float(n) for n in range(20_000)], b=[0.1] * 20_000),
}
TYPES = {
    "none": None,
    "charset": f"{JSON}; charset=utf-8",
    "CHARSET": f"{JSON}; charset=UTF-8",
    "latin": f"{JSON}; charset=latin-1",
    "parameter": f"{JSON}; format=pandas",
    "text": "text/plain",
    "form": "application/x-www-form-urlencoded",
    "upper case": "Application/JSON",
}
OTHERS = [
    *(
        ("GET", path)
        for path in ("/ping", "/health", "/version", "/", "/nothing", "/invocations", "/ping/", "/docs")
    ),
    *(("GET", path) for path in ("/openapi.json", "/ping?x=1", "/invocations/")),
    *(("POST", path) for path in ("/ping", "/nothing", "/")),
    *((method, "/invocations") for method in ("PUT", "DELETE", "OPTIONS", "HEAD", "PATCH")),
    ("HEAD", "/ping"),
]


def test_answers_are_those_of_mlflow(path, tmp_path, monkeypatch):
    port = reserved_port()
    parquet = io.BytesIO()
    FRAME.to_parquet(parquet)
    bodies = [(name, body, JSON) for name, body in CORPUS.items()]
    bodies += [(name, CORPUS["split"], content_type) for name, content_type in TYPES.items()]
    bodies += [
        ("csv", FRAME.to_csv(index=False), "text/csv"),
        ("csv with index", FRAME.to_csv(), "text/csv"),
        ("csv of text", "a,b\nx,1\n", "text/csv"),
        ("csv not UTF-8", b"a,b\n\xff,1\n", "text/csv"),
        ("csv of nothing", "", "text/csv"),
        ("parquet", parquet.getvalue(), "application/vnd.apache.parquet"),
        ("no parquet", b"PAR1", "application/vnd.apache.parquet"),
    ]

    async def run():
        async with servers(Model("1", str(path)), timeout=1.0) as running:
            [socket] = await ready(running)
            for name, body, content_type in bodies:
                ours = await asyncio.to_thread(ask_socket, socket, body, content_type)
                theirs = await asyncio.to_thread(ask, port, body, content_type)
                assert seen(ours) == seen(theirs), name
            for method, target in OTHERS:
                ours = await asyncio.to_thread(ask_socket, socket, None, None, method=method, target=target)
                theirs = await asyncio.to_thread(ask, port, None, None, method=method, path=target)
                assert seen(ours) == seen(theirs), (method, target)

    # Messages name sets of formats in whatever order these have.
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    with serving(str(path), tmp_path, port, "--timeout", "1") as theirs:
        theirs.wait_until_up()
        asyncio.run(run())


def seen(answer) -> tuple:
    return answer.status, answer.content_type, answer.body
