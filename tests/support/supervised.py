"""`mooring serve` as the process it is, versions of a model that behave in many ways, and steady traffic."""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import infer_signature

from clients import Clients
from mlflow_store import new_store
from mooring.demo.processes import running
from mooring.state.rollouts import Rollout, Rollouts
from mooring.state.state import State
from waiting import PATIENCE, wait_for

MODEL = "wine"
CODE = '''
import os, threading, time

import mlflow

class Told(mlflow.pyfunc.PythonModel):
    """Multiplies, after it has misbehaved as its configuration says, from the `after`-th prediction on."""

    def load_context(self, context):
        self.kind = context.model_config["kind"]
        self.factor = context.model_config["factor"]
        self.after = context.model_config["after"]
        self.count = 0
        self.held = []
        self.lock = threading.Lock()
        if self.kind == "does not load":
            raise ValueError("the file of weights is damaged")

    def grow(self):
        while True:
            self.held.append(bytearray(b"x") * (20 * 2**20))
            time.sleep(0.05)

    def predict(self, context, model_input, params=None):
        with self.lock:
            self.count += 1
            misbehaves = self.count > self.after
        if misbehaves and self.kind == "fails":
            raise RuntimeError("the feature store does not answer")
        if misbehaves and self.kind == "is slow":
            time.sleep(0.2)
        if misbehaves and self.kind == "grows" and not self.held:
            self.held.append(b"")
            threading.Thread(target=self.grow, daemon=True).start()
        if misbehaves and self.kind == "crashes":
            os._exit(7)
        if self.kind == "leaks":
            self.held.append(bytearray(b"x") * (5 * 2**20))
        if self.kind == "waits":
            time.sleep(float(self.factor))
        if misbehaves and self.kind == "hangs":
            threading.Event().wait()
        if misbehaves and self.kind == "answers nothing":
            return []
        if misbehaves and self.kind == "answers text":
            return ["many"] * len(model_input)
        if misbehaves and self.kind == "answers other fields":
            return [{"low": 1.0, "high": 2.0}] * len(model_input)
        if misbehaves and self.kind == "answers one row":
            return [1.0]
        if self.kind == "obeys":
            asked = model_input["a"].iloc[0]
            if asked == -1:
                threading.Event().wait()
            if asked == -2:
                raise RuntimeError("no prediction for this")
        return (model_input["a"] * self.factor).to_numpy()

mlflow.models.set_model(Told())
'''
VERSIONS = {
    "1": ("good", 2.0, 0),
    "2": ("good", 2.5, 0),
    "3": ("does not load", 2.0, 0),
    "4": ("fails", 2.0, 0),
    "5": ("fails", 2.0, 40),
    "6": ("is slow", 2.0, 40),
    "7": ("grows", 2.0, 40),
    "8": ("crashes", 2.0, 30),  # after the check, and of two servers one before the end of PLAN
    "9": ("waits", 0.2, 0),
    "10": ("waits", 3.0, 0),
    "11": ("answers nothing", 2.0, 0),
    "12": ("answers text", 2.0, 0),
    "13": ("answers other fields", 2.0, 0),
    "14": ("answers nothing", 2.0, 40),
    "15": ("answers text", 2.0, 40),
    "16": ("answers other fields", 2.0, 40),
    "17": ("answers one row", 2.0, 40),
    "18": ("hangs", 2.0, 40),
    "19": ("obeys", 2.0, 0),
    "20": ("leaks", 2.0, 0),
}
"""What each version does, by what it multiplies, and from which prediction on it misbehaves."""
BODY = json.dumps({"dataframe_split": {"columns": ["a"], "data": [[3.0], [4.0]]}}).encode()
PLAN = ("--rollout-step", "shadow 50% 1s 20", "--rollout-step", "canary 30% 1s 30")


@functools.cache
def registered() -> Path:
    """Return a directory with a store in which every version is registered; the first is the champion.

    It is filled in a process of its own: which store MLflow uses, and which experiment, all of a process knows.
    """
    directory = Path(tempfile.mkdtemp(prefix="mooring-told-"))
    atexit.register(shutil.rmtree, directory)
    command = [sys.executable, "-W", "ignore", __file__, str(directory)]
    subprocess.run(command, check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)
    return directory


def _register(directory: Path) -> None:
    code = directory / "told.py"
    code.write_text(CODE)
    frame = pd.DataFrame({"a": [1.0]})
    mlflow.set_tracking_uri(new_store(directory))
    client = mlflow.MlflowClient()
    client.create_experiment("told", artifact_location=(directory / "artifacts").as_uri())
    mlflow.set_experiment("told")
    for number, (kind, factor, after) in VERSIONS.items():
        made = mlflow.pyfunc.log_model(
            python_model=code,
            name="model",
            model_config={"kind": kind, "factor": factor, "after": after},
            signature=infer_signature(frame, frame["a"]),
            pip_requirements=[f"mlflow=={mlflow.__version__}"],
            registered_model_name=MODEL,
        )
        assert str(made.registered_model_version) == number
    client.set_registered_model_alias(MODEL, "champion", "1")


@dataclass
class Supervised:
    """A `mooring serve` that runs in `directory`, which has a registry of its own."""

    directory: Path
    process: subprocess.Popen[bytes]
    port: int
    admin_port: int
    environment: dict[str, str]

    @property
    def said(self) -> str:
        return (self.directory / "serve.log").read_text(encoding="utf-8")

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(registry(self.directory))

    def aliases(self) -> dict[str, str]:
        return {name: str(number) for name, number in self.client.get_registered_model(MODEL).aliases.items()}

    def move_champion(self, version: str) -> None:
        self.client.set_registered_model_alias(MODEL, "champion", version)

    def challenge(self, version: str) -> None:
        """Make a version the challenger, as the gate does."""
        self.client.set_model_version_tag(MODEL, version, "mooring.gate", "passed")
        self.client.set_registered_model_alias(MODEL, "challenger", version)

    def mooring(self, *arguments: str, code: int = 0) -> str:
        """Run a command of Mooring's in the directory, and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "mooring", *arguments],
            cwd=self.directory,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr, self.said)
        return done.stdout + done.stderr

    def rollouts(self) -> list[Rollout]:
        """Return the rollouts so far, the newest first."""
        if not (self.directory / "state.db").exists():
            return []
        with State(f"sqlite:///{self.directory / 'state.db'}") as state:
            return Rollouts(state).newest(MODEL)

    def rolled_out(self, version: str, status: str) -> Rollout:
        """Wait until the newest rollout is of this version and has this status, and return it."""

        def there() -> bool:
            newest = next(iter(self.rollouts()), None)
            if newest is not None and newest.version == version and newest.ended is not None:
                assert newest.status == status, (newest, self.said)
            return newest is not None and (newest.version, newest.status) == (version, status)

        self._until(there, f"version {version} is not {status}")
        return self.rollouts()[0]

    def in_step(self, step: int) -> Rollout:
        """Wait until a rollout is in a step of its plan, the first being 0, and return it."""

        def there() -> bool:
            newest = next(iter(self.rollouts()), None)
            return newest is not None and newest.status == "stepping" and newest.step == step

        self._until(there, f"no step {step}")
        return self.rollouts()[0]

    def _until(self, there: Callable[[], bool], failure: str) -> None:
        try:
            wait_for(there, failure)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.rollouts()[:1]}\n{self.said}") from None

    def ask(self, body: bytes = BODY, timeout: float = 60) -> tuple[int, str | None, Any]:
        """Send one request over a connection of its own; return status, version and body of the answer.

        The body is text where it is no JSON.
        """
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            told: Any = answer.read().decode()
            with suppress(ValueError):  # MLflow says application/json of texts, too
                told = json.loads(told)
            return answer.status, answer.headers["X-Model-Version"], told
        finally:
            connection.close()

    def stats(self) -> dict[str, Any]:
        return json.loads(self.admin("/stats"))

    def admin(self, path: str) -> str:
        connection = HTTPConnection("127.0.0.1", self.admin_port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def servers(self) -> list[int]:
        """Return the processes of the model servers."""
        return [
            pid
            for pid, command in commands()
            if "model_server.py" in command and "descendants.py" not in command and str(self.directory) in command
        ]

    def end(self) -> str:
        """End it with SIGTERM, and return what it said."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0, self.said
        return self.said


def registry(directory: Path) -> str:
    return f"sqlite:///{directory / 'mlflow.db'}"


def commands() -> Iterator[tuple[int, str]]:
    """Yield the processes of this machine and their command lines."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            yield int(process.name), (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue


@contextmanager
def supervised(
    directory: Path, store: Path, *flags: str, follows: str = "@champion", **environment: str
) -> Iterator[Supervised]:
    """Run `mooring serve` in `directory` with a copy of the registry `store`, until it serves."""
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "mlflow.db").exists():
        shutil.copy(store / "mlflow.db", directory)
    environment = {
        "MLFLOW_TRACKING_URI": registry(directory),
        "MOORING_STATE": "sqlite:///state.db",
        "MOORING_ROLLOUT_STEP": "full",  # where no steps are given
        "MOORING_ROLLOUT_LATENCY": "1000",  # how long an answer takes is up to what else this machine does
        **environment,
    }
    # Short, since beneath it lie Unix sockets; and known, so that processes can be told by their command lines.
    command = [
        sys.executable,
        "-m",
        "mooring",
        "serve",
        f"models:/{MODEL}{follows}",
        "--port",
        "0",
        "--poll",
        "0.5s",
    ]
    command += ["--log", str(directory / "log"), "--serve-directory", str(directory / "serve"), *flags]
    given = [f"{name}={value}" for name, value in environment.items()]
    output = directory / "serve.log"
    with running(["env", *given, *command], directory, output) as process:
        found = Supervised(directory, process, 0, 0, environment)
        wait_until_serving(found)
        yield found


def wait_until_serving(found: Supervised) -> None:
    """Wait until it says where it listens."""
    said = r"listening on https?://127\.0\.0\.1:(\d+)[^\n]*\n(?:.*\n)*?mooring: metrics, health and counts on [^:]+://[^:]+:(\d+)"

    def there() -> bool:
        assert found.process.poll() is None, found.said
        return re.search(said, found.said) is not None

    wait_for(there, f"it does not serve: {(found.directory / 'serve.log').read_text()}")
    match = re.search(said, found.said)
    assert match is not None
    found.port, found.admin_port = int(match[1]), int(match[2])


class Load(Clients):
    """Steady traffic from a few clients, each on a connection of its own, and an account of the answers."""

    def __init__(self, port: int, clients: int = 3, pause: float = 0.005) -> None:
        super().__init__()
        self.answers: Counter[tuple[int, str | None]] = Counter()
        self.failures: list[str] = []
        self.bodies: set[bytes] = set()
        self.by_id: dict[str, str | None] = {}
        self._port = port
        self._pause = pause
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    @property
    def count(self) -> int:
        return self.answers.total()

    def versions(self) -> set[str | None]:
        return {version for _, version in self.answers}

    def wait_for(self, more: int) -> None:
        """Wait for so many further answers."""
        before = self.count
        wait_for(lambda: self.count >= before + more or bool(self.failures), "no answers")

    def _run(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        while not self._stop.wait(self._pause):
            try:
                connection.request("POST", "/invocations", BODY, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, HTTPException) as error:
                self.failures.append(f"{time.monotonic():.2f}: {error!r}")
                connection.close()
                continue
            version = answer.headers["X-Model-Version"]
            self.answers[answer.status, version] += 1
            self.bodies.add(body)
            self.by_id[answer.headers["X-Request-Id"]] = version
            if answer.status != 200:
                self.failures.append(f"{answer.status} of version {version}: {body[:300]!r}")
        connection.close()


@contextmanager
def taking_bad_versions(directory: Path, store: Path, **environment: str) -> Iterator[Supervised]:
    """Run a supervisor whose rollouts begin quickly, and whose servers may not grow for ever."""
    plan = ("--rollout-step", "shadow 50% 0s 5", "--rollout-step", "canary 50% 15s 100")  # none passes
    with supervised(directory, store, *plan, "--worker-memory", str(900 * 2**20), **environment) as it:
        yield it


def goes_and_the_champion_answers(it: Supervised, version: str, reason: str, may_fail: bool = False) -> None:
    """No request fails but those that the canary answers with an error before the guard has seen enough."""
    with Load(it.port) as load:
        load.wait_for(20)
        it.challenge(version)
        gone = it.rolled_out(version, "rolled_back")
        assert reason in gone.reason
        load.wait_for(50)
    if may_fail:
        assert all(
            f"500 of version {version}" in text or f"400 of version {version}" in text for text in load.failures
        )
    else:
        assert load.failures == []
    assert load.answers[200, "1"] >= 70
    assert it.ask()[1] == "1"
    assert it.aliases() == {"champion": "1"}
    tags = it.client.get_model_version("wine", version).tags
    assert tags["mooring.rollout"] == "rolled back"
    assert reason in tags["mooring.rollout.reason"]
    wait_for(lambda: len(it.servers()) == 1, f"a server of version {version} runs on")


if __name__ == "__main__":
    _register(Path(sys.argv[1]))
