"""A model that does what a test tells it, and requests to servers on Unix sockets."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import infer_signature

from mooring.serving.protocol import Model
from mooring.serving.servers import Servers
from mooring.settings import ServeSettings
from serving import JSON, Answer
from waiting import PATIENCE

CODE = '''
import math, multiprocessing, os, signal, sys, time
from pathlib import Path

import mlflow

class Obedient(mlflow.pyfunc.PythonModel):
    """Adds a and b, after it has done what the parameter `do` says."""

    def load_context(self, context):
        print("a model is loaded")
        if os.environ.get("REFUSE_TO_LOAD"):
            raise ValueError("the file of weights is damaged")
        if os.environ.get("BLOCK_SIGTERM"):  # as a library of C's may
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def fill(self, size):
        while int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") <= size:
            self.held = [*getattr(self, "held", []), bytearray(b"x") * 2**20]

    def predict(self, context, model_input, params=None):
        what, _, how = (params or {}).get("do", "").partition(" ")
        if what == "pid":
            return [float(os.getpid())] * len(model_input)
        if what == "crash":
            print("out of luck", file=sys.stderr, flush=True)
            os._exit(3)
        if what == "raise":
            raise RuntimeError("no prediction for this")
        if what == "fill":
            size, _, how = how.partition(" ")
            self.fill(int(size))
            what = "begin"
        if what == "begin":
            Path(how).touch()
            while not Path(how + ".finish").exists():
                time.sleep(0.02)
        if what == "sleep":
            time.sleep(float(how))
        if what == "grow":
            self.held = b"x" * int(how)
            time.sleep(60)
        if what == "flood":
            for _ in range(int(how)):
                print("x" * 1000)
        if what == "text":
            return ["é", None, "x"]
        if what == "environment":
            return sorted(os.environ)
        if what == "daemon":
            if not os.fork():
                os.setsid()
                if os.fork():
                    os._exit(0)
                Path(how).write_text(f"{os.getpid()}\\n")
                code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
                os.execv(sys.executable, [sys.executable, "-c", code])
            while not Path(how).exists() or not Path(how).read_text():
                time.sleep(0.02)
        if what == "pool" and how == "loky":
            import joblib
            return joblib.Parallel(n_jobs=2, backend="loky")(joblib.delayed(math.sqrt)(n) for n in (1.0, 4.0))
        if what == "pool":
            with multiprocessing.get_context(how).Pool(2) as pool:
                return pool.map(math.sqrt, [1.0, 4.0])
        if what == "abandon":
            with multiprocessing.get_context(how).Pool(2) as pool:
                pool.apply_async(time.sleep, [600])
                time.sleep(0.5)
        if what == "read":
            return [float(len(sys.stdin.read()))]
        return (model_input["a"] + model_input["b"]).to_numpy()

mlflow.models.set_model(Obedient())
'''
FRAME = pd.DataFrame({"a": [1.0, 2.0], "b": [0.5, 0.25]})


def save_model(directory: Path, **options: Any) -> Path:
    """Save the model in `directory`, and return where it is."""
    code = directory / "obedient.py"
    code.write_text(CODE)
    path = directory / "model"
    mlflow.pyfunc.save_model(path, python_model=code, **signed(), **options)
    return path


def signed() -> dict[str, Any]:
    """Return what the model is saved or logged with, so that it takes parameters and has an example."""
    signature = infer_signature(FRAME, FRAME["a"] + FRAME["b"], params={"do": ""})
    return {"signature": signature, "input_example": FRAME, "pip_requirements": [f"mlflow=={mlflow.__version__}"]}


class UnixConnection(HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask_socket(
    path: str,
    body: Any = None,
    content_type: str | None = JSON,
    *,
    method: str = "POST",
    target: str = "/invocations",
) -> Answer:
    """Send one request to the server on the Unix socket `path`; a `body` that is no text or bytes goes as JSON."""
    if not isinstance(body, str | bytes | None):
        body = json.dumps(body)
    connection = UnixConnection(path)
    try:
        headers = {"Content-Type": content_type} if content_type else {}
        connection.request(method, target, body.encode() if isinstance(body, str) else body, headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers["Content-Type"], answer.read())
    finally:
        connection.close()


def told(do: str = "", **columns: list[float]) -> dict[str, Any]:
    """Return a request that has the model do something."""
    columns = columns or {"a": [1.0], "b": [0.5]}
    rows = list(zip(*columns.values(), strict=True))
    return {"dataframe_split": {"columns": list(columns), "data": rows}, "params": {"do": do}}


async def have(path: str, do: str = "") -> Answer:
    """Have the model behind a socket do something, while the event loop goes on."""
    return await asyncio.to_thread(ask_socket, path, told(do))


async def pid_of(path: str) -> int:
    """Return the process that answers on a socket."""
    return int((await have(path, "pid")).predictions[0])


def gone(pid: int) -> bool:
    """Whether a process runs no longer."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # Whoever takes in orphans may leave it a zombie.
    return Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z"


async def until(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Return once `condition` holds, which the event loop is free for meanwhile."""
    end = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < end, what
        await asyncio.sleep(0.05)


@asynccontextmanager
async def servers(*models: Model, **settings: Any) -> AsyncIterator[Servers]:
    """Run the servers of these models until the end of the context."""
    directory = tempfile.mkdtemp(prefix="m-")
    running = Servers(ServeSettings(**settings), Path(directory), lambda: None)
    try:
        running.want(models)
        yield running
    finally:
        await running.close()
        os.rmdir(directory)  # none of them leaves its socket


async def ready(running: Servers, version: str = "1", count: int = 1) -> list[str]:
    """Return the sockets of a version once so many of its servers answer."""
    await until(lambda: len(running.sockets(version)) == count, f"not ready: {running.states()}")
    return running.sockets(version)
