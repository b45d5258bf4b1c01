"""`mooring monitor`, and what it found: `mooring drift` and `mooring report`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mooring.cli import flags
from mooring.cli.help import Command
from mooring.cli.output import CONTEXT, placed, show, with_name
from mooring.config import SettingError, load, options
from mooring.settings import MonitorSettings, RetrainSettings

if TYPE_CHECKING:
    from mooring.monitor.loop import Retrain
    from mooring.state.state import State

_UNITS = "smhd"


@contextmanager
def explained() -> Iterator[None]:
    """Turn what a user can do something about into a message and an exit code."""
    from mooring.drift.stored import FormatError
    from mooring.log.listing import LogError
    from mooring.log.store import StoreError
    from mooring.monitor.metrics import CantServeMetrics
    from mooring.monitor.results import UnknownModel
    from mooring.registry.client import TrackingError
    from mooring.state.database import StateError

    try:
        yield
    except (LogError, UnknownModel, StoreError, StateError, TrackingError, FormatError, CantServeMetrics) as error:
        raise click.ClickException(str(error)) from None
    except OverflowError as error:
        raise click.ClickException(f"a time is out of range: {error}") from None


@click.command(cls=Command, context_settings=CONTEXT)
@options(MonitorSettings, program="mooring monitor")
@click.option("--once", is_flag=True, help="judge what is new, and open windows as they are now; then end")
def monitor(settings: MonitorSettings, *, once: bool) -> None:
    """Watch a model's log for drift, window by window.

    \b
    mooring monitor --model wine --log mooring-log
    mooring monitor --model wine --log s3://bucket/log --state postgresql://host/mooring --every 5m --window 1h

    It reads only what is new in the log, compares each window with the model's baseline, keeps verdicts in the
    state, logs them to MLflow in the experiment mooring/NAME, and tells --alert-webhook and --alert-command.
    Killed at any point, it goes on where it was. Where mooring.yaml says how, it retrains: see mooring retrain.
    Exit code 1: --once, and something could not be told. A log that has nothing yet is no failure.
    """
    from mooring.monitor.loop import run
    from mooring.report.from_state import small_report, whole_report

    _note_short_times(settings)
    with explained():
        try:
            settings = with_name(settings)
            worked = run(settings, once=once, small=small_report, page=whole_report, retrain=_retraining(settings))
        except ValueError as error:
            if type(error) is not ValueError:
                raise
            raise SettingError(str(error)) from None
    if not worked:
        sys.exit(1)


def _retraining(settings: MonitorSettings) -> Retrain | None:
    """Return what retrains where mooring.yaml or the variables say how, else None."""
    given = {"log": settings.log, "state": settings.state, "model": settings.model}
    wanted = load(RetrainSettings, given)
    if not (wanted.retrain_command or wanted.retrain_python or wanted.retrain_webhook):
        return None
    from mooring.retrain.job import jobs
    from mooring.retrain.machine import Retraining

    jobs.check(wanted)
    return lambda state, model: Retraining(wanted, state, model).go_on()


def _note_short_times(settings: MonitorSettings) -> None:
    """Say how long --window is where somebody may have meant minutes."""
    given = click.get_current_context().params.get("window") or os.environ.get("MOORING_WINDOW", "")
    if 1 <= settings.window < 60 and not given.strip().endswith(tuple(_UNITS)):
        minutes = f"{settings.window:g}m"
        click.echo(f"Note: --window is {settings.window:g} seconds; write {minutes} for minutes", err=True)


def tell_unread(state: State, settings: MonitorSettings) -> None:
    """Say on stderr how much of the log the monitor has not read yet."""
    from mooring.monitor.results import model_in
    from mooring.monitor.unread import unread_in_words

    if text := unread_in_words(state, settings, model_in(state, settings.model)):
        click.echo(text, err=True)


def of_model(command: Any) -> Any:
    """Give a command the flags that say which windows of which model are meant."""
    for flag in reversed(
        (
            flags.model,
            flags.state,
            click.option("--model-version", help="only windows of this version"),
            click.option("--start", metavar="TIME", help="only windows that begin then or later"),
            click.option("--end", metavar="TIME", help="only windows that begin before"),
            click.option("-n", "--newest", type=click.IntRange(min=1), default=100, show_default=True,
                         help="how many windows"),
        )
    ):  # fmt: skip
        command = flag(command)
    return command


@click.command(context_settings=CONTEXT)
@of_model
@click.option("--values", is_flag=True, help="with --json: every measure, not only what alarmed")
@flags.as_json_windows
def drift(
    *,
    model: str | None,
    state: str | None,
    model_version: str | None,
    start: str | None,
    end: str | None,
    newest: int,
    values: bool,
    as_json: bool,
) -> None:
    """Show the verdicts of the monitor.

    Exit code 2: the champion's newest window drifted. 1: there are none.
    """
    import json

    from mooring.log.listing import instant
    from mooring.monitor.results import as_dicts, drifted, history
    from mooring.state.state import State
    from mooring.status import STATUSES

    settings = placed(MonitorSettings, {"model": model, "state": state})
    with explained(), State(settings.state) as opened:
        tell_unread(opened, settings)
        found = history(
            opened,
            settings.model,
            version=model_version,
            start=instant(start, "start"),
            end=instant(end, "end"),
            newest=newest,
        )
        if as_json:
            click.echo(json.dumps(as_dicts(opened, found, values=values), indent=1))
        else:
            rows = [
                [
                    f"{window.start:%Y-%m-%d %H:%M:%S}",
                    f"{window.end:%H:%M:%S}",
                    window.version or "",
                    window.variant,
                    f"{window.rows}",
                    STATUSES[verdict.status].mark
                    + STATUSES[verdict.status].word
                    + (", so far" if verdict.provisional else ""),
                    verdict.message,
                ]
                for window, verdict in found
                if verdict is not None
            ]
            show(["from (UTC)", "to", "version", "variant", "rows", "verdict", "why"], rows)
    if drifted(found):
        sys.exit(2)


@click.command(context_settings=CONTEXT)
@of_model
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="report.html",
    show_default=True,
    help="the file to write",
)
def report(
    *,
    model: str | None,
    state: str | None,
    model_version: str | None,
    start: str | None,
    end: str | None,
    newest: int,
    output: Path,
) -> None:
    """Write a report of the monitor's verdicts: one HTML file that needs no network."""
    from mooring.log.listing import instant
    from mooring.monitor.results import model_in
    from mooring.report.from_state import of_state
    from mooring.report.page import html
    from mooring.state.state import State

    settings = placed(MonitorSettings, {"model": model, "state": state})
    with explained(), State(settings.state) as opened:
        tell_unread(opened, settings)
        text = html(
            of_state(
                opened,
                model_in(opened, settings.model),
                log=settings.log,
                version=model_version,
                start=instant(start, "start"),
                end=instant(end, "end"),
                newest=newest,
            )
        )
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingError(f"{output} can't be written: {error.strerror}") from None
    click.echo(f"{output} ({output.stat().st_size / 1e6:.1f} MB)", err=True)
