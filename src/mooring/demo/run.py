"""`mooring demo`: the whole loop once, on this machine, in one directory.

It starts processes and sends traffic and labels, no more: that the model is retrained is the monitor's doing.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import pandas as pd
from rich.console import Console
from rich.table import Table

from mooring.demo.processes import DemoError, free_ports, running, stop, wait_for, wait_until_up
from mooring.demo.traffic import ROWS_PER_REQUEST, Traffic
from mooring.demo.train import MODEL, SAMPLE, TARGET, read
from mooring.monitor.schema import Assessment
from mooring.monitor.state import State
from mooring.report.from_state import of_state
from mooring.report.page import html
from mooring.retrain.history import Entry, history
from mooring.retrain.tickets import Ticket, Tickets

REQUESTS = 200
DRIFTED_REQUESTS = 300
WINDOW_ROWS = 400
SPLIT = "alcohol"
_LOOP_SECONDS = 240.0
_SETTINGS = """\
# Everything that Mooring does for this model. In this directory its commands need no options.
model: {model}
log: {log}
state: {state}
every: 1s
window: 1d
window_rows: {window_rows}
retrain:
  command: {command}
  label: {label}
  when: [drift, performance]
  windows: 2/3
  range: drifted
  min_labels: {min_labels}
  cooldown: 1h
  directory: {directory}
"""

console = Console()


def run(directory: Path, data: Path | None = None, *, worse: bool = False) -> None:
    """Train, serve behind the proxy, send traffic that drifts and its labels, and watch the loop close.

    All that is written lies in `directory`. `data` is a file of wines, by default the synthetic ones; with `worse`
    the retraining makes a worse model. Raises DemoError where a step fails.
    """
    directory = directory.resolve()
    wines = read(str(data or SAMPLE))
    _start_over(directory)
    # In this directory mooring.yaml says all: a log that is named outside must not get these wines.
    for name in [name for name in os.environ if name.startswith("MOORING_")]:
        del os.environ[name]
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{directory / 'mlflow.db'}"
    os.environ.pop("MLFLOW_REGISTRY_URI", None)
    # MLflow starts uvicorn by its name: it must be found in an environment that is not activated, too.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    os.environ["MOORING_LABELS_TOKEN"] = token = secrets.token_urlsafe(16)
    below, above = (part for _, part in wines.groupby(wines[SPLIT] > wines[SPLIT].median()))
    _write_settings(directory, worse)
    _train(directory, below)

    state = f"sqlite:///{directory / 'state.db'}"
    server_port, proxy_port, admin_port = free_ports(3)
    model = f"models:/{MODEL}@champion"
    serve = ["-m", "mlflow", "models", "serve", "--env-manager", "local", "--port", str(server_port), "-m", model]
    proxy = ["-m", "mooring", "proxy", "--port", str(proxy_port), "--upstream", f"http://127.0.0.1:{server_port}"]
    proxy += ["--model", model, "--admin-port", str(admin_port), "--segment-seconds", "1"]
    monitor = ["-m", "mooring", "monitor"]
    with _interruptible(), State(state) as opened, ExitStack() as stack:
        server = _started(stack, "Starting the model server", "mlflow", serve[2:], serve, directory, "server.log")
        proxying = _started(
            stack, "Starting the proxy in front of it", "mooring", proxy[2:], proxy, directory, "proxy.log"
        )
        with console.status("the server loads the model"):
            wait_until_up(server_port, server, directory / "server.log")
        wait_until_up(proxy_port, proxying, directory / "proxy.log")
        _started(stack, "Starting the monitor", "mooring", monitor[2:], monitor, directory, "monitor.log")

        traffic = Traffic(proxy_port, admin_port, token, console)
        traffic.send(below, REQUESTS, f"of wines like those it was trained on, {SPLIT} below the median")
        traffic.send(above, DRIFTED_REQUESTS, f"of wines above the median in {SPLIT}, which it has never seen")
        ticket = _retrained(opened, directory)
        if ticket.status == "promoted":
            stop(server)
            restart = "Restarting the server with the new champion"
            server = _started(stack, restart, "mlflow", serve[2:], serve, directory, "server-2.log")
            with console.status("it loads the new version"):
                wait_until_up(server_port, server, directory / "server-2.log")
            assert ticket.candidate is not None
            traffic.serves(ticket.candidate)
            traffic.send(above, REQUESTS, "of wines above the median again")
        _assessed(opened, traffic.requests * ROWS_PER_REQUEST, directory)
        console.print("Stopping what was started")
        stack.close()
        _judge_the_rest(monitor, directory)
        _show(opened)
        report = directory / "report.html"
        report.write_text(html(of_state(opened, MODEL, log=str(directory / "log"))), encoding="utf-8")
    console.print(
        f"\nEverything that was started has stopped. Next, look at it:\n  cd {directory}\n  mooring history\n"
        f"  mooring performance\n  mooring retrain show {ticket.number}\n  mlflow ui --backend-store-uri "
        f"{os.environ['MLFLOW_TRACKING_URI']}\nAnd open the report: {report}",
        soft_wrap=True,
        highlight=False,
    )


def _write_settings(directory: Path, worse: bool) -> None:
    command = [sys.executable, "-m", "mooring.demo.train", "--training-data", "{data}"]
    text = _SETTINGS.format(
        model=MODEL,
        log=json.dumps(str(directory / "log")),
        state=json.dumps(f"sqlite:///{directory / 'state.db'}"),
        window_rows=WINDOW_ROWS,
        min_labels=DRIFTED_REQUESTS * ROWS_PER_REQUEST * 4 // 5,
        command=json.dumps([*command, "--label-offset", "2"] if worse else command),
        label=TARGET,
        directory=json.dumps(str(directory / "retrain")),
    )
    (directory / "mooring.yaml").write_text(text, encoding="utf-8")


def _started(
    stack: ExitStack, what: str, program: str, shown: list[str], command: list[str], directory: Path, log: str
) -> subprocess.Popen[bytes]:
    _say(what, " ".join([program, *shown]))
    return stack.enter_context(running([sys.executable, *command], directory, directory / log))


def _retrained(state: State, directory: Path) -> Ticket:
    """Wait for what comes of the drift, and return the ticket as it has ended."""
    tickets = Tickets(state)

    def ticket() -> Ticket | None:
        return next(iter(tickets.newest(MODEL)), None)

    seen: list[str] = []
    with console.status("the monitor judges the windows") as status:

        def ended() -> bool:
            found = ticket()
            if found is not None and (says := f"{found.status}: {found.message or found.reason}") not in seen:
                seen.append(says)
                console.print(f"  retraining {found.number}, {says}", highlight=False, soft_wrap=True)
                status.update(f"retraining {found.number}: {found.status}")
            return found is not None and found.ended is not None

        wait_for(ended, _LOOP_SECONDS, f"the loop has not closed in time; see {directory / 'monitor.log'}")
    found = ticket()
    assert found is not None
    if found.status not in ("promoted", "refused"):
        raise DemoError(f"retraining {found.number} has {found.status}: {found.message}; see {found.directory}")
    return found


def _assessed(state: State, rows: int, directory: Path) -> None:
    """Wait until the monitor has seen all rows."""
    with console.status("the monitor reads the rest of the log"):
        wait_for(
            lambda: sum(one.window.rows for one in state.history(MODEL, newest=10_000)) >= rows,
            60,
            f"not all rows were seen; see {directory / 'monitor.log'} and {directory / 'proxy.log'}",
        )


def _judge_the_rest(monitor: list[str], directory: Path) -> None:
    """Judge the windows that were still open, as they are."""
    with running([sys.executable, *monitor, "--once"], directory, directory / "monitor-once.log") as process:
        if process.wait() != 0:
            raise DemoError(f"the monitor failed; see {directory / 'monitor-once.log'}")


def _show(state: State) -> None:
    console.rule("What the monitor found")
    assessed = {one.window.id: one for one in state.assessments(MODEL, newest=12)}
    table = Table("until", "version", "drift", "rmse", "performance")
    for window, verdict in sorted(state.history(MODEL, newest=12), key=lambda one: one.window.end):
        if verdict is None:
            continue
        one = assessed.get(window.id)
        table.add_row(
            f"{window.end:%H:%M:%S}",
            window.version,
            _coloured(verdict.status),
            _error(one),
            _coloured(one.status) if one is not None else "",
        )
    console.print(table)
    console.rule("What came of it")
    for entry in history(state, MODEL):
        console.print(f"[bold]Retraining {entry.number}[/]: {entry.reason}", highlight=False, soft_wrap=True)
        rows = (entry.dataset or {}).get("training_rows")
        words = {
            "dataset": f"{rows} labelled rows to train on, the newest kept back",
            "trained": f"version {entry.version}, to better version {entry.previous}",
            "gate": _gate_in_words(entry),
            "promoted": f"version {entry.version} is the champion",
        }
        for step in entry.steps:
            says = f"  {step.at:%H:%M:%S}  {step.what:<9} {words.get(step.what, '')}"
            console.print(says, highlight=False, soft_wrap=True)
    console.print(_in_words(list(assessed.values())), highlight=False, soft_wrap=True)


def _gate_in_words(entry: Entry) -> str:
    """Return what the gate found, the better or worse error first."""
    checks = (entry.gate or {}).get("checks", [])
    told = [check["message"] for check in checks if check["name"] == "better" or not check["passed"]]
    return f"{'passed' if (entry.gate or {}).get('passed') else 'refused'}: {'; '.join(told)}"


def _in_words(assessed: Sequence[Assessment]) -> str:
    """Say what the model's error was before the drift, while it lasted, and with the new version."""
    first = assessed[0].window.version if assessed else None
    parts = {
        "before the drift": [one for one in assessed if one.window.version == first and one.status == "ok"],
        "while it lasted": [one for one in assessed if one.window.version == first and one.status != "ok"],
        "with the new champion": [one for one in assessed if one.window.version != first],
    }
    means = {
        name: sum(one.measures["rmse"].value for one in some) / len(some)
        for name, some in parts.items()
        if some and all("rmse" in one.measures for one in some)
    }
    return "The model's error (rmse): " + ", ".join(f"{value:.2f} {name}" for name, value in means.items())


def _error(assessed: Assessment | None) -> str:
    rmse = assessed.measures.get("rmse") if assessed is not None else None
    return f"{rmse.value:.2f} ({rmse.low:.2f} to {rmse.high:.2f})" if rmse is not None else "no labels yet"


def _coloured(status: str) -> str:
    style = {"ok": "green", "warning": "yellow", "critical": "red"}.get(status, "dim")
    return f"[{style}]{status}[/]"


def _start_over(directory: Path) -> None:
    """Make the directory, without what an earlier run left. Raises DemoError where something else is there."""
    settings = directory / "mooring.yaml"
    if settings.exists() and settings.read_text(encoding="utf-8").startswith(_SETTINGS.partition("\n")[0]):
        console.print(f"Starting over in {directory}", highlight=False, soft_wrap=True)
        shutil.rmtree(directory)
    elif directory.exists() and any(directory.iterdir()):
        raise DemoError(f"{directory} has something else in it: name another directory with --dir")
    directory.mkdir(parents=True, exist_ok=True)


def _train(directory: Path, wines: pd.DataFrame) -> None:
    data = directory / "training.csv"
    wines.to_csv(data, index=False)
    command = ["-m", "mooring.demo.train", "--data-path", str(data)]
    _say(f"Training a model of wine quality on {len(wines)} wines", " ".join(["python", *command]))
    log = directory / "train.log"
    with (
        console.status("it takes some ten seconds"),
        running([sys.executable, *command], directory, log) as process,
    ):
        if process.wait() != 0:
            raise DemoError(f"training failed with code {process.returncode}; see {log}")
    console.print(f"  its output is in {log}", highlight=False, soft_wrap=True)


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


def _say(what: str, command: str) -> None:
    console.print(f"[bold]{what}[/]\n  [dim]{command}[/]", highlight=False, soft_wrap=True)
