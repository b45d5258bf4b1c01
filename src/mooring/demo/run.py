"""`mooring demo`: the whole system once, on this machine, in one directory."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mooring.demo.processes import DemoError, free_ports, running, wait_for, wait_until_up
from mooring.demo.train import MODEL, SAMPLE, TARGET
from mooring.log.reader import read_log
from mooring.monitor.state import State
from mooring.report.from_state import of_state
from mooring.report.page import html

REQUESTS = 200
ROWS_PER_REQUEST = 4
WINDOW_ROWS = 400
DRIFT = {"alcohol": 1.0, "residual sugar": 4.0, "pH": 0.05}

console = Console()


def run(directory: Path) -> None:
    """Train if there is no model yet, serve it behind the proxy, send traffic that drifts, and have it found.

    All that is written lies in `directory`. Raises DemoError where a step fails.
    """
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{directory / 'mlflow.db'}"
    os.environ.pop("MLFLOW_REGISTRY_URI", None)
    # MLflow starts uvicorn by its name: it must be found in an environment that is not activated, too.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    log, state = directory / "log", f"sqlite:///{directory / 'state.db'}"
    _train(directory)

    server_port, proxy_port = free_ports(2)
    upstream = f"http://127.0.0.1:{server_port}"
    model = f"models:/{MODEL}@champion"
    serve = ["-m", "mlflow", "models", "serve", "--env-manager", "local", "--port", str(server_port), "-m", model]
    proxy = ["-m", "mooring", "proxy", "--port", str(proxy_port), "--upstream", upstream, "--model", model]
    proxy += ["--log", str(log), "--segment-seconds", "1"]
    monitor = ["-m", "mooring", "monitor", "--model", MODEL, "--log", str(log), "--state", state]
    monitor += ["--every", "1s", "--window", "1d", "--window-rows", str(WINDOW_ROWS)]
    with _interruptible(), State(state) as opened:
        before = _rows(opened)
        with (
            running([sys.executable, *serve], directory, directory / "server.log") as server,
            running([sys.executable, *proxy], directory, directory / "proxy.log") as proxying,
            running([sys.executable, *monitor], directory, directory / "monitor.log"),
        ):
            _say("Starting the model server", " ".join(["mlflow", *serve[2:]]))
            with console.status("it loads the model"):
                wait_until_up(server_port, server, directory / "server.log")
            _say("Starting the proxy in front of it", " ".join(["mooring", *proxy[2:]]))
            wait_until_up(proxy_port, proxying, directory / "proxy.log")
            _say("Starting the monitor", " ".join(["mooring", *monitor[2:]]))

            wines = pd.read_csv(SAMPLE).drop(columns=TARGET).astype(float)
            rng = np.random.default_rng(1)
            sent = _send(proxy_port, wines, rng, "requests like the training data")
            drifted_wines = wines.assign(**{name: wines[name] + shift for name, shift in DRIFT.items()})
            sent += _send(proxy_port, drifted_wines, rng, "requests that drifted")
            with console.status("the monitor reads the log"):
                wait_for(
                    lambda: _rows(opened) >= before + sent * ROWS_PER_REQUEST,
                    60,
                    f"not all rows were seen; see {directory / 'monitor.log'} and {directory / 'proxy.log'}",
                )
            console.print("Stopping what was started")
        _judge_the_rest(monitor, directory)
        _show(opened, log, sent)
        report = directory / "report.html"
        report.write_text(html(of_state(opened, MODEL, log=str(log))), encoding="utf-8")
    console.print(
        f"\nEverything that was started has stopped. The log is in {log}, the models and the verdicts are in "
        f"{os.environ['MLFLOW_TRACKING_URI']}\nNext, see them: mlflow ui --backend-store-uri "
        f"{os.environ['MLFLOW_TRACKING_URI']}\nAnd open the report: {report}",
        soft_wrap=True,
        highlight=False,
    )


def _rows(state: State) -> int:
    """Return how many rows the monitor has seen of the model."""
    return sum(judged.window.rows for judged in state.history(MODEL, newest=10_000))


def _judge_the_rest(monitor: list[str], directory: Path) -> None:
    """Judge the windows that were still open, as they are."""
    with running([sys.executable, *monitor, "--once"], directory, directory / "monitor-once.log") as process:
        if process.wait() != 0:
            raise DemoError(f"the monitor failed; see {directory / 'monitor-once.log'}")


def _show(state: State, log: Path, sent: int) -> None:
    console.rule("What was logged")
    rows = read_log(str(log), model=MODEL, columns=["request_id"]).num_rows
    console.print(f"{sent} requests sent; {rows} rows in {log}", soft_wrap=True, highlight=False)
    console.rule("What the monitor found")
    table = Table("window", "rows", "verdict", "why")
    for window, verdict in state.history(MODEL, newest=12):
        if verdict is not None:
            style = {"ok": "green", "warning": "yellow", "critical": "red"}.get(verdict.status, "dim")
            span = f"{window.start:%H:%M:%S} to {window.end:%H:%M:%S}"
            table.add_row(span, f"{window.rows}", f"[{style}]{verdict.status}[/]", verdict.message)
    console.print(table)


def _train(directory: Path) -> None:
    if _has_champion():
        _say("There is a model already", f"{MODEL} in {directory / 'mlflow.db'}")
        return
    command = ["-m", "mooring.demo.train"]
    _say("Training a model of wine quality on synthetic wines", " ".join(["python", *command]))
    log = directory / "train.log"
    with (
        console.status("it takes some ten seconds"),
        running([sys.executable, *command], directory, log) as process,
    ):
        if process.wait() != 0:
            raise DemoError(f"training failed with code {process.returncode}; see {log}")
    console.print(f"  its output is in {log}", highlight=False, soft_wrap=True)


def _has_champion() -> bool:
    import mlflow
    from mlflow.exceptions import MlflowException

    if not Path(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")).exists():
        return False
    try:
        mlflow.MlflowClient().get_model_version_by_alias(MODEL, "champion")
    except MlflowException:
        return False
    return True


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind as Ctrl-C does, so that what was started is stopped."""

    def unwind(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    previous = {number: signal.signal(number, unwind) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _send(port: int, wines: pd.DataFrame, rng: np.random.Generator, what: str) -> int:
    """Send requests of a few random wines each, and return how many."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in track(range(REQUESTS), f"Sending {REQUESTS} {what}", console=console):
        rows = wines.iloc[rng.integers(len(wines), size=ROWS_PER_REQUEST)]
        body = json.dumps({"dataframe_split": {"columns": list(rows), "data": rows.to_numpy().tolist()}})
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            raise DemoError(f"the model server answered {answer.status}: {text}")
    connection.close()
    return REQUESTS


def _say(what: str, command: str) -> None:
    console.print(f"[bold]{what}[/]\n  [dim]{command}[/]", highlight=False, soft_wrap=True)
