"""`mooring demo`: the whole system once, on this machine, in one directory."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mooring.demo.processes import DemoError, free_ports, running, wait_for, wait_until_up
from mooring.demo.train import MODEL, SAMPLE, TARGET
from mooring.drift.baseline import make
from mooring.drift.judge import values_of
from mooring.drift.profile import profile

REQUESTS = 200
ROWS_PER_REQUEST = 4
DRIFT = {"alcohol": 1.0, "residual sugar": 4.0, "pH": 0.05}
PSI_LARGE, PSI_SOME = 0.25, 0.1

console = Console()


def run(directory: Path) -> None:
    """Train if there is no model yet, serve it behind the proxy, send traffic, show the log and the drift.

    All that is written lies in `directory`. Raises DemoError where a step fails.
    """
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{directory / 'mlflow.db'}"
    os.environ.pop("MLFLOW_REGISTRY_URI", None)
    # MLflow starts uvicorn by its name: it must be found in an environment that is not activated, too.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    log = directory / "log"
    _train(directory)

    server_port, proxy_port = free_ports(2)
    upstream = f"http://127.0.0.1:{server_port}"
    model = f"models:/{MODEL}@champion"
    serve = ["-m", "mlflow", "models", "serve", "--env-manager", "local", "--port", str(server_port), "-m", model]
    proxy = ["-m", "mooring", "proxy", "--port", str(proxy_port), "--upstream", upstream]
    proxy += ["--log", str(log), "--format", "csv"]
    with (
        _interruptible(),
        running([sys.executable, *serve], directory, directory / "server.log") as server,
        running([sys.executable, *proxy], directory, directory / "proxy.log") as proxying,
    ):
        _say("Starting the model server", " ".join(["mlflow", *serve[2:]]))
        with console.status("it loads the model"):
            wait_until_up(server_port, server, directory / "server.log")
        _say("Starting the proxy in front of it", " ".join(["mooring", *proxy[2:]]))
        wait_until_up(proxy_port, proxying, directory / "proxy.log")

        wines = pd.read_csv(SAMPLE).drop(columns=TARGET).astype(float)
        rng = np.random.default_rng(1)
        as_trained = _send(proxy_port, wines, rng, "requests like the training data")
        drifted_wines = wines.assign(**{name: wines[name] + shift for name, shift in DRIFT.items()})
        drifted = _send(proxy_port, drifted_wines, rng, "requests that drifted")
        wait_for(
            lambda: all((log / f"{request_id}.csv").exists() for request_id in as_trained + drifted),
            30,
            f"not every request is in {log}; see {directory / 'proxy.log'}",
        )
        console.print("Stopping what was started")
    _show_log(log, as_trained + drifted)
    _show_drift(wines, _read(log, as_trained), _read(log, drifted))
    console.print(
        f"\nEverything that was started has stopped. The log is in {log}, the models are in "
        f"{os.environ['MLFLOW_TRACKING_URI']}\nNext, see them: mlflow ui --backend-store-uri "
        f"{os.environ['MLFLOW_TRACKING_URI']}",
        soft_wrap=True,
        highlight=False,
    )


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


def _send(port: int, wines: pd.DataFrame, rng: np.random.Generator, what: str) -> list[str]:
    """Send requests of a few random wines each, and return their request ids."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    request_ids = []
    for _ in track(range(REQUESTS), f"Sending {REQUESTS} {what}", console=console):
        rows = wines.iloc[rng.integers(len(wines), size=ROWS_PER_REQUEST)]
        body = json.dumps({"dataframe_split": {"columns": list(rows), "data": rows.to_numpy().tolist()}})
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            raise DemoError(f"the model server answered {answer.status}: {text}")
        request_ids.append(answer.headers["X-Request-Id"])
    connection.close()
    return request_ids


def _read(log: Path, request_ids: list[str]) -> dict[str, list[float]]:
    """Return the logged values of each column."""
    columns: dict[str, list[float]] = defaultdict(list)
    for request_id in request_ids:
        with (log / f"{request_id}.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    columns[name].append(float(value))
    return columns


def _show_log(log: Path, request_ids: list[str]) -> None:
    console.rule("What was logged")
    console.print(f"{len(request_ids)} requests, {len(request_ids)} files in {log}, such as", soft_wrap=True)
    for request_id in request_ids[:3]:
        console.print(f"  {request_id}.csv", highlight=False)
    console.print("  …\n\nand in the first of them")
    console.print((log / f"{request_ids[0]}.csv").read_text(), highlight=False, soft_wrap=True, style="dim")


def _show_drift(
    baseline: pd.DataFrame, as_trained: dict[str, list[float]], drifted: dict[str, list[float]]
) -> None:
    console.rule("Drift of the traffic against the training data")
    table = Table(
        "feature", caption="PSI: over 0.1 some drift, over 0.25 much. KS: from 0, the same, to 1, apart."
    )
    for which in ("as trained", "drifted"):
        table.add_column(f"PSI {which}", justify="right")
        table.add_column(f"KS {which}", justify="right")
    trained = make({str(name): pa.array(baseline[name]) for name in baseline})
    profiles = [profile([pa.table(dict(traffic))], trained.grids) for traffic in (as_trained, drifted)]
    for name, feature in trained.features.items():
        cells = []
        for found in profiles:
            values = {one.measure: one.value for one in values_of(name, feature, found.features[name])}
            psi = values["psi"]
            style = "red" if psi > PSI_LARGE else "yellow" if psi > PSI_SOME else "green"
            cells += [f"[{style}]{psi:.3f}[/]", f"{values['ks']:.3f}"]
        table.add_row(name, *cells)
    console.print(table)


def _say(what: str, command: str) -> None:
    console.print(f"[bold]{what}[/]\n  [dim]{command}[/]", highlight=False, soft_wrap=True)
