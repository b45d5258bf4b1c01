"""The version that the log names, asked of a registry that answers at once, late, or not at all."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import threading
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pyarrow.dataset as ds
import pytest

from mooring.capture.proxy.version_finder import Question, VersionFinder
from peers import OK, Proxy, answering, post, proxy, upstream
from ports import reserved_port
from waiting import PATIENCE, wait_for

URI = "models:/wine@champion"
FLAGS = ("--model", URI, "--segment-seconds", "0.2")
# So that a question fails when it fails, and not after minutes of MLflow's own tries.
NO_TRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


class Registry:
    """MLflow's tracking server, as far as one question goes: it answers once it is let to."""

    def __init__(self, port: int = 0) -> None:
        self.asked, self.answers = threading.Event(), threading.Event()
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.set()
                registry.answers.wait(PATIENCE)
                text = json.dumps({"model_version": {"name": "wine", "version": "7"}}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.environment = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.server.server_port}", **NO_TRIES}


@contextmanager
def registry(port: int = 0):
    it = Registry(port)
    serving = threading.Thread(target=it.server.serve_forever)
    serving.start()
    try:
        yield it
    finally:
        it.answers.set()
        it.server.shutdown()
        serving.join()
        it.server.server_close()


@pytest.fixture
def start(tmp_path):
    with ExitStack() as stack:

        def start(*flags: str, env: dict[str, str]) -> Proxy:
            url = stack.enter_context(upstream(answering(OK))).url
            return stack.enter_context(
                proxy(tmp_path, url, *FLAGS, *flags, env=env, log_format="parquet"),
            )

        yield start


def ask(running: Proxy) -> str:
    [request_id] = running.exchange(post()).all("X-Request-Id")
    return request_id


def versions(running: Proxy, count: int) -> dict[str, str | None]:
    """Return the version of each request in the log, once that has so many."""

    def rows() -> list[dict]:
        files = list(running.log.glob("payloads/**/*.parquet"))
        return ds.dataset(files, format="parquet").to_table().to_pylist() if files else []

    wait_for(lambda: len(rows()) >= count, f"no {count} rows: {running.stderr}")
    return {row["request_id"]: row["model_version"] for row in rows()}


def says(running: Proxy, text: str, seconds: float = 60) -> None:
    wait_for(lambda: text in running.stderr, f"it does not say {text!r}: {running.stderr}")


def store(directory: Path, alias: str | None) -> tuple[mlflow.MlflowClient, dict[str, str]]:
    uri = f"sqlite:///{directory}/mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("wine")
    client.create_model_version("wine", source=str(directory))
    if alias:
        client.set_registered_model_alias("wine", alias, "1")
    return client, {"MLFLOW_TRACKING_URI": uri}


@pytest.mark.parametrize("flags", [pytest.param((), marks=pytest.mark.proof), ("--workers", "2")])
def test_where_the_registry_answers_the_first_request_has_its_version(start, tmp_path, flags):
    _, env = store(tmp_path, "champion")
    running = start(*flags, env=env)
    first = [ask(running) for _ in range(4)]
    in_time = "MLflow has not said yet" not in running.stderr  # a busy machine may take long to load it
    says(running, f"{URI} is version 1, and so says the log from now on")
    late = [ask(running) for _ in range(4)]
    found = versions(running, 8)
    assert {found[each] for each in late} == {"1"}
    if in_time:
        assert {found[each] for each in first} == {"1"}


@pytest.mark.proof
@pytest.mark.parametrize("flags", [pytest.param((), marks=pytest.mark.proof), ("--workers", "2")])
def test_where_it_hangs_requests_are_answered_and_get_their_version_later(start, flags):
    with registry() as it:
        running = start(*flags, env=it.environment)
        assert not it.answers.is_set()
        early = ask(running)
        says(running, f"{URI}: MLflow has not said yet which version that is")
        it.answers.set()
        says(running, f"{URI} is version 7, and so says the log from now on")
        late = [ask(running) for _ in range(4)]
    assert versions(running, 5) == {early: None} | dict.fromkeys(late, "7")
    assert json.loads(running.admin("/upstreams")[1])[0]["version"] == "7"
    assert "Traceback" not in running.stderr


def test_where_nobody_listens_it_is_asked_again(start):
    port = reserved_port()
    running = start(env={"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}", **NO_TRIES})
    early = ask(running)
    says(running, "It is asked again; until it is known, the log names no version")
    with registry(port) as it:
        it.answers.set()
        says(running, "is version 7")
    late = ask(running)
    assert versions(running, 2) == {early: None, late: "7"}


@pytest.mark.proof
def test_an_alias_that_comes_later(start, tmp_path):
    client, env = store(tmp_path, None)
    running = start(env=env)
    says(running, "It is asked again")
    client.set_registered_model_alias("wine", "champion", "1")
    says(running, "is version 1")


def test_what_somebody_says_meanwhile_goes_before(start):
    with registry() as it:
        running = start(env=it.environment)
        assert running.admin("/model-version/9", "PUT")[0] == 200
        assert it.asked.wait(PATIENCE)
        it.answers.set()
        ask(running)
        assert json.loads(running.admin("/upstreams")[1])[0]["version"] == "9"
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(PATIENCE)
    assert "is version 7" not in running.stderr


def test_without_a_registry_it_says_so(start, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    running = start(env=NO_TRIES)
    ask(running)
    assert "MLFLOW_TRACKING_URI is not set, and there is no mlflow.db in this directory" in running.stderr
    assert not (running.directory / "mlflow.db").exists()


@pytest.mark.parametrize("flags", [(), ("--workers", "2")])
def test_it_ends_while_it_asks_and_takes_the_question_with_it(start, flags):
    with registry() as it:
        running = start(*flags, env=it.environment)
        assert it.asked.wait(PATIENCE)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE) == 0
        mine = it.environment["MLFLOW_TRACKING_URI"].encode()
        environments = [_read(path) for path in Path("/proc").glob("[0-9]*/environ")]
        assert not [one for one in environments if mine in one and b"-c" in one]
    assert "Traceback" not in running.stderr


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes() + b"\0" + path.with_name("cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.proof
def test_clients_connect_at_once_and_wait_for_seconds_at_most(start):
    """They are neither turned away nor held up for as long as the registry hangs."""
    with registry() as it:
        running = start(env=it.environment)
        with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as client:
            client.sendall(post())
            assert client.recv(2**16).startswith(b"HTTP/1.1 200 OK")
        assert not it.answers.is_set()


# The question alone, with an answer that takes no loading


def find(code: str, needed: bool = True) -> tuple[list[str], bool]:
    """Ask with a program; return what became known by the time that requests are let through."""

    async def run() -> tuple[list[str], bool]:
        known: list[str] = []
        question = Question(URI, [sys.executable, "-S", "-c", code])
        finder = VersionFinder(question, lambda: needed, known.append)
        await finder.wait(asyncio.Event())
        found = list(known)
        await finder.close()
        return found, known == found

    return asyncio.run(run())


def test_requests_wait_for_an_answer_that_comes():
    code = (
        "import time; print('loading', flush=True); time.sleep(0.1); print('\"7\"', flush=True); time.sleep(600)"
    )
    assert find(code) == (["7"], True)


@pytest.mark.proof
def test_they_do_not_wait_for_one_that_does_not():
    assert find("import time; time.sleep(600)") == ([], True)


@pytest.mark.parametrize(
    "code",
    ["", "print('nonsense')", "import sys; sys.exit('no such alias')", "print('loading'); 1 / 0", "print(7)"],
)
def test_nor_after_a_failure(code, caplog):
    assert find(code) == ([], True)
    assert "It is asked again" in caplog.text


def test_what_nobody_needs_any_more_is_not_taken():
    assert find("print('\"7\"')", needed=False) == ([], True)
