"""What the end-to-end tests start and ask: model servers, proxies, clients, and what they find in the log."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from subprocess import Popen
from typing import Any, NamedTuple

from mooring.demo.processes import running, wait_until_up
from waiting import PATIENCE, wait_for

ROOT = Path(__file__).resolve().parents[2]
PROXY_SERVER = [sys.executable, str(ROOT / "proxy_server.py")]
MOORING_PROXY = [str(Path(sys.executable).with_name("mooring")), "proxy", "--format", "csv"]
JSON = "application/json"
_BYTECODE = tempfile.TemporaryDirectory(prefix="mooring-bytecode-")


# Clients


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    content_type: str | None
    body: bytes
    request_id: str | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def predictions(self) -> list[Any]:
        assert self.status == 200, self.body
        return self.json["predictions"]


def ask(
    port: int,
    body: Any,
    content_type: str | None = JSON,
    *,
    method: str = "POST",
    path: str = "/invocations",
    headers: dict[str, str] | None = None,
) -> Answer:
    """Send one request over a connection of its own; a `body` that is no text or bytes goes as JSON."""
    if not isinstance(body, str | bytes | None):
        body = json.dumps(body)
    headers = {**(headers or {}), **({"Content-Type": content_type} if content_type else {})}
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, body.encode() if isinstance(body, str) else body, headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers["Content-Type"], answer.read(), answer.headers["X-Request-Id"])
    finally:
        connection.close()


def same(through_proxy: Answer, direct: Answer) -> bool:
    """Whether a client sees no difference but the request id."""
    return (through_proxy.status, through_proxy.content_type, through_proxy.body) == (
        direct.status,
        direct.content_type,
        direct.body,
    )


# The log


def logged(directory: Path) -> list[str]:
    """Return the names of the CSV files in a log."""
    return sorted(path.name for path in directory.glob("*.csv"))


def visible(directory: Path) -> list[str]:
    """Return all that a plain `ls` shows of a log."""
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))


def table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return header and lines of a CSV file, which is waited for."""
    wait_for(path.exists, f"{path} is not there")
    header, *lines = csv.reader(io.StringIO(path.read_text(encoding="utf-8")))
    return header, lines


def numbers(lines: Sequence[Sequence[Any]]) -> list[list[float]]:
    """Return cells as numbers."""
    return [[float(cell) for cell in line] for line in lines]


def error_file(directory: Path, request_id: str | None) -> dict[str, Any]:
    """Return what was logged of a request that failed; it is waited for."""
    path = directory / "errors" / f"{request_id}.json"
    wait_for(path.exists, f"{path} is not there")
    return json.loads(path.read_text(encoding="utf-8"))


def drains(directory: Path) -> list[int]:
    """Return the processes that drain a spool which lies in `directory`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            arguments = (process / "cmdline").read_bytes().decode().split("\0")
            spool = Path((process / "cwd").readlink(), arguments[arguments.index("--spool") + 1])
            if "drain" in arguments and spool.resolve().is_relative_to(directory.resolve()):
                found.append(int(process.name))
    return found


def wait_until_drained(directory: Path) -> None:
    """Return once no process drains a spool in `directory`."""
    wait_for(lambda: not drains(directory), f"still draining in {directory}: {drains(directory)}")


# Servers


@dataclass
class Server:
    """A process that answers on a port of this machine. `cwd` is its directory, `output` all that it prints."""

    process: Popen[bytes]
    cwd: Path
    output: Path
    port: int = 0

    @property
    def said(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def wait_until_up(self) -> Server:
        """Return this server once it answers."""
        wait_until_up(self.port, self.process, self.output, PATIENCE)
        return self

    def end(self, number: int = signal.SIGTERM) -> Account:
        """Send this proxy a signal, wait until it has ended, and return its last account."""
        self.process.send_signal(number)
        assert self.process.wait(PATIENCE) == 0, self.said
        accounts = _ACCOUNT.findall(self.said)
        assert accounts, self.said
        *counts, dropped, passed = accounts[-1]
        return Account(*map(int, counts), dropped, int(passed))


_ACCOUNT = re.compile(
    r"(\d+) exchanges seen, (\d+) stored, (\d+) of them failed, (.*); (\d+) other requests passed"
)


class Account(NamedTuple):
    """What a proxy says at its end. `dropped` is as it says it: numbers and reasons."""

    seen: int
    stored: int
    failed: int
    dropped: str
    passed: int


@contextmanager
def serving(
    model: str, directory: Path, port: int, *options: str, python: Path = Path(sys.executable), **variables: str
) -> Iterator[Server]:
    """Run `mlflow models serve` in `directory`, with the MLflow that is beside `python`."""
    environment = {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", **variables}
    command = ["mlflow", "models", "serve", "--port", str(port), "--model-uri", model, *options]
    if "--env-manager" not in options:
        command += ["--env-manager", "local"]
    output = directory / f"server-{port}.log"
    with running(with_environment(command, environment), directory, output) as process:
        yield Server(process, directory, output, port)


@contextmanager
def proxying(
    upstream: int, directory: Path, *options: str, command: list[str] = MOORING_PROXY, port: int = 0
) -> Iterator[Server]:
    """Run a proxy in `directory` before the server on port `upstream`, until it listens."""
    flag = "--mlflow-model-server-uri" if command is PROXY_SERVER else "--upstream"
    url = f"http://localhost:{upstream}/invocations"
    output = directory / "proxy.log"
    arguments = [*command, "--port", str(port), flag, url, *options]
    with running(with_environment(arguments, {}), directory, output) as process:
        proxy = Server(process, directory, output)

        def listens() -> bool:
            assert process.poll() is None, proxy.said
            return "listening on" in proxy.said

        wait_for(listens, f"the proxy does not listen; see {output}")
        found = re.search(r"listening on http://127\.0\.0\.1:(\d+) ", proxy.said)
        assert found, proxy.said
        proxy.port = int(found[1])
        yield proxy


def with_environment(command: list[str], variables: dict[str, str]) -> list[str]:
    """Return `command` with `variables` set, and without what the tests' own environment may say of stores."""
    unset = ["MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_MONITORING_DIR"]
    if sys.dont_write_bytecode:
        # Else each process compiles all of MLflow again, which takes as long as everything else that it does.
        unset.append("PYTHONDONTWRITEBYTECODE")
        variables = {**variables, "PYTHONPYCACHEPREFIX": _BYTECODE.name}
    flags = [part for name in unset for part in ("-u", name)]
    return ["env", *flags, *(f"{name}={value}" for name, value in variables.items()), *command]


def python_without_mooring(directory: Path) -> Path:
    """Return an interpreter in a new environment that has all packages of this one except Mooring.

    This one's site-packages stand in a .pth file there. Python reads no .pth files of such directories, so that
    the one through which Mooring's sources are installed counts only here.
    """
    python = directory / "bin" / "python"
    os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-m", "venv", "--without-pip", str(directory))
    purelib = sysconfig.get_path("purelib", vars={"base": str(directory)})
    Path(purelib, "this.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name, module in (("mlflow", "mlflow.cli:cli"), ("uvicorn", "uvicorn.main:main")):
        module, _, function = module.partition(":")
        script = python.with_name(name)
        script.write_text(
            f"#!{python}\nfrom {module} import {function}\n\nif __name__ == '__main__':\n    {function}()\n"
        )
        script.chmod(0o755)
    return python
