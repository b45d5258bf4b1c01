"""`mooring demo`: the whole loop once, on this machine, in one directory.

It starts processes and sends traffic and labels, no more: that the model is retrained is the monitor's doing, and
that the new version is put into service is that of `mooring serve`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import pandas as pd
from rich.console import Console

from mooring.demo import telling
from mooring.demo.processes import DemoError, announced, running, wait_for, wait_until_up
from mooring.demo.traffic import CLIENTS, RATE, ROWS_PER_REQUEST, DemoTraffic
from mooring.demo.train import MODEL, SAMPLE, TARGET, read
from mooring.report.from_state import of_state
from mooring.report.page import html
from mooring.retrain.job import jobs
from mooring.retrain.machine import attempt_directory, gate_directory
from mooring.state.retrainings import Ticket, Tickets
from mooring.state.rollouts import Rollouts
from mooring.state.state import State
from mooring.state.windows import Windows

REQUESTS = 200
WINDOW_ROWS = 400
MIN_LABELS = 960
SPLIT = "alcohol"
PLAN = ("shadow 100% 4s 50", "canary 10% 4s 10", "canary 50% 4s 40")
ALERTS = "alerts.jsonl"
_LOOP_SECONDS = 3600.0
"""Longer than all of it takes on a slow machine: only what hangs is given up."""
_SERVES_AT = r"listening on http://127\.0\.0\.1:(\d+) "
_ADMIN_AT = r"metrics, health and counts on http://127\.0\.0\.1:(\d+)/"
_SHOWS_AT = r"(?m)^http://127\.0\.0\.1:(\d+)"
_SETTINGS = """\
# Everything that Mooring does for this model. In this directory its commands need no options.
model: {model}
log: {log}
state: {state}

# mooring serve: it looks for a new version each second, and rolls it out in these steps
segment_seconds: 1
poll: 1s
serve_directory: {serve_directory}
rollout:
  step: {plan}
  latency: {latency}

# mooring monitor
every: 1s
window: 1d
window_rows: {window_rows}
alert_command: {alert_command}

retrain:
  command: {command}
  label: {label}
  when: [drift, performance]
  range: drifted
  min_labels: {min_labels}
  cooldown: 1h
  directory: {directory}

gate:
  latency: {latency}
"""
LATENCY = 20
"""How many times as long as the champion a new version may take: all of it may run on a busy laptop."""

console = Console()


def run(
    directory: Path, data: Path | None = None, *, worse: bool = False, bad: bool = False, show: bool = False
) -> None:
    """Train, serve, send traffic that drifts and its labels, and watch the loop close while the traffic goes on.

    All that is written lies in `directory`. `data` is a file of wines, by default the synthetic ones. With `worse`
    the retraining makes a worse model, with `bad` one that is better, and fails after a while in service. With
    `show` the dashboard is open from the start, and at the end until Ctrl-C. Raises DemoError where a step fails.
    """
    directory = directory.resolve()
    wines = read(str(data or SAMPLE))
    below, above = (part for _, part in wines.groupby(wines[SPLIT] > wines[SPLIT].median()))
    _start_over(directory)
    token = _set_environment(directory)
    _write_settings(directory, ["--label-offset", "2"] if worse else ["--leaking"] if bad else [])
    _train(directory, below)
    with (
        _interruptible(),
        State(f"sqlite:///{directory / 'state.db'}") as state,
        ExitStack() as screen,
        ExitStack() as stack,
    ):
        dashboard, page = _shown(screen, directory) if show else (None, "")
        stack.callback(_end_jobs, state)
        server, port, admin_port = _served(stack, directory)
        monitor = _started(stack, "Starting the monitor", ["monitor"], directory)
        _say(
            f"{CLIENTS} clients send {RATE:g} requests/s from now to the end, and labels follow",
            f"wines like those it was trained on, {SPLIT} below the median",
        )
        traffic = stack.enter_context(DemoTraffic(port, admin_port, token, below))

        def check() -> None:
            traffic.check()
            for process in (server, monitor):
                if process.poll() is not None:
                    raise DemoError(
                        f"{process.args!r} ended with code {process.returncode}; see its log in {directory}"
                    )

        _sent(traffic, REQUESTS, check)
        drifted = traffic.send(above)
        _say("The requests drift", f"now wines above the median in {SPLIT}, which it has never seen")
        ticket = _followed(state, check, directory)
        if ticket.status != "refused":
            _sent(traffic, traffic.requests + REQUESTS, check)
        traffic.finish()
        _assessed(state, traffic.answered.total() * ROWS_PER_REQUEST, directory)
        if ticket.status == "rolled_back":
            _alerted(directory)
        console.print("Stopping what was started")
        stack.close()
        _tell(directory, state, traffic, drifted, ticket)
        if dashboard is not None:
            console.print(f"\nThe dashboard shows it all, until Ctrl-C: {page}")
            with suppress(KeyboardInterrupt):
                dashboard.wait()


def _set_environment(directory: Path) -> str:
    """Let the settings of the directory alone say all, and return the token for labels."""
    # A log that is named outside must not get these wines.
    for name in [name for name in os.environ if name.startswith("MOORING_")]:
        del os.environ[name]
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{directory / 'mlflow.db'}"
    os.environ.pop("MLFLOW_REGISTRY_URI", None)
    os.environ["MOORING_LABELS_TOKEN"] = token = secrets.token_urlsafe(16)
    return token


def _served(stack: ExitStack, directory: Path) -> tuple[subprocess.Popen[bytes], int, int]:
    """Start the server, and return it, its port and that of its admin once it answers."""
    command = ["serve", f"models:/{MODEL}@champion", "--port", "0", "--admin-port", "0"]
    server = _started(stack, "Starting mooring serve, which answers and logs", command, directory)
    log = directory / "serve.log"
    with console.status("it loads the model"):
        port, admin_port = (announced(at, server, log, _LOOP_SECONDS) for at in (_SERVES_AT, _ADMIN_AT))
        wait_until_up(port, server, log, _LOOP_SECONDS)
    console.print(f"  it answers at [bold]http://127.0.0.1:{port}[/]", highlight=False)
    return server, port, admin_port


def _tell(directory: Path, state: State, traffic: DemoTraffic, drifted: datetime, ticket: Ticket) -> None:
    """Judge the windows that were still open, as they are, and tell what came of it all."""
    with running(
        [sys.executable, "-m", "mooring", "monitor", "--once"], directory, directory / "monitor-once.log"
    ) as process:
        if process.wait() != 0:
            raise DemoError(f"the monitor failed; see {directory / 'monitor-once.log'}")
    telling.show(console, state)
    telling.show_traffic(console, state, traffic, drifted)
    if ticket.status == "rolled_back":
        telling.show_rollback(console, state, traffic, directory / ALERTS)
    report = directory / "report.html"
    report.write_text(html(of_state(state, MODEL, log=str(directory / "log"))), encoding="utf-8")
    console.print(
        f"\nWhat served, watched and asked has stopped. Next, look at it:\n  cd {directory}\n  mooring history\n"
        f"  mooring performance\n  mooring retrain show {ticket.number}\n  mooring rollout status\n"
        f"  mooring ui\n  mlflow ui --backend-store-uri {os.environ['MLFLOW_TRACKING_URI']}\n"
        f"And open the report: {report}",
        soft_wrap=True,
        highlight=False,
    )


def _shown(screen: ExitStack, directory: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start the dashboard, and return it and its address once it is there."""
    dashboard = _started(screen, "Opening the dashboard", ["ui", "--port", "0"], directory)
    port = announced(_SHOWS_AT, dashboard, directory / "ui.log", _LOOP_SECONDS)
    wait_until_up(port, dashboard, directory / "ui.log", _LOOP_SECONDS, "/healthz")
    page = f"http://127.0.0.1:{port}"
    console.print(f"  watch it at [bold]{page}[/]", highlight=False)
    return dashboard, page


def _write_settings(directory: Path, options: list[str]) -> None:
    command = [sys.executable, "-m", "mooring.demo.train", "--training-data", "{data}", *options]
    text = _SETTINGS.format(
        model=MODEL,
        log=json.dumps(str(directory / "log")),
        state=json.dumps(f"sqlite:///{directory / 'state.db'}"),
        serve_directory=json.dumps(str(directory / "serve")),
        plan=json.dumps(PLAN),
        latency=LATENCY,
        window_rows=WINDOW_ROWS,
        alert_command=json.dumps([f"sh -c 'printenv MOORING_ALERT >> {ALERTS}'"]),
        command=json.dumps(command),
        label=TARGET,
        min_labels=MIN_LABELS,
        directory=json.dumps(str(directory / "retrain")),
    )
    (directory / "mooring.yaml").write_text(text, encoding="utf-8")


def _started(stack: ExitStack, what: str, command: list[str], directory: Path) -> subprocess.Popen[bytes]:
    _say(what, " ".join(["mooring", *command]))
    log = directory / f"{command[0]}.log"
    return stack.enter_context(running([sys.executable, "-m", "mooring", *command], directory, log))


def _sent(traffic: DemoTraffic, requests: int, check: Callable[[], None]) -> None:
    """Wait until there were so many requests."""

    def sent() -> bool:
        check()
        return traffic.requests >= requests

    with console.status("requests are sent"):
        wait_for(sent, _LOOP_SECONDS, f"{requests} requests take too long: {traffic.last_failure}")


def _followed(state: State, check: Callable[[], None], directory: Path) -> Ticket:
    """Wait for what comes of the drift, tell each step, and return the ticket as it has ended."""
    tickets, rollouts = Tickets(state), Rollouts(state)
    told: set[str] = set()

    def tell(text: str) -> None:
        if text not in told:
            told.add(text)
            console.print(f"  {text}", highlight=False, soft_wrap=True)

    def ended() -> bool:
        check()
        ticket = next(iter(tickets.newest(MODEL)), None)
        if ticket is None:
            return False
        tell(f"retraining {ticket.number}, {ticket.status.replace('_', ' ')}: {ticket.message or ticket.reason}")
        newest = rollouts.newest(MODEL, 1)
        for rollout in newest:
            for event in rollouts.events(rollout.id):
                tell(f"rollout {rollout.number} of version {rollout.version}, {telling.event_in_words(event)}")
        return ticket.ended is not None and all(one.ended is not None for one in newest)

    with console.status("the monitor judges the windows, and does what they call for"):
        see = f"{directory / 'monitor.log'} and {directory / 'serve.log'}"
        wait_for(ended, _LOOP_SECONDS, f"the loop has not closed in time; see {see}")
    ticket = tickets.newest(MODEL)[0]
    if ticket.status not in ("promoted", "rolled_back", "refused"):
        raise DemoError(
            f"retraining {ticket.number} has {ticket.status}: {ticket.message}; see {ticket.directory}"
        )
    return ticket


def _end_jobs(state: State) -> None:
    """End the job of a retraining that is under way, which would outlive the monitor."""
    ticket = Tickets(state).unended(MODEL)
    if ticket is not None:
        jobs.stop(attempt_directory(ticket))
        jobs.stop(gate_directory(ticket))


def _assessed(state: State, rows: int, directory: Path) -> None:
    """Wait until the monitor has seen all rows."""
    with console.status("the monitor reads the rest of the log"):
        wait_for(
            lambda: sum(one.window.rows for one in Windows(state).history(MODEL, newest=10_000)) >= rows,
            _LOOP_SECONDS,
            f"not all rows were seen; see {directory / 'monitor.log'} and {directory / 'serve.log'}",
        )


def _alerted(directory: Path) -> None:
    """Wait until somebody was told of the rollback."""
    with console.status("the alert of the rollback is sent"):
        wait_for(
            lambda: telling.rollback_alert(directory / ALERTS) is not None,
            _LOOP_SECONDS,
            f"nobody was alerted of the rollback; see {directory / 'serve.log'}",
        )


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
