"""`mooring retrain`, `mooring promote`, `mooring rollback` and `mooring history`."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from mooring.cli import flags
from mooring.cli.help import Group
from mooring.cli.monitor import explained
from mooring.cli.output import CONTEXT, placed, show, with_name
from mooring.config import SettingError, options
from mooring.settings import RetrainSettings, StatePlace

if TYPE_CHECKING:
    from mooring.state.retrainings import Ticket, Tickets
    from mooring.state.state import State

logger = logging.getLogger(__name__)
_POLL_SECONDS = 0.5
_STATE_SECONDS = 60.0
_RUN = 8  # letters of a run's id that a table shows


@contextmanager
def _explained() -> Iterator[None]:
    from mooring.engine.sources import SourceError
    from mooring.retrain.dataset.gather import NotEnough
    from mooring.retrain.manual import Already, NoPrevious
    from mooring.state.retrainings import TicketError

    try:
        with explained():
            yield
    except (TicketError, NoPrevious, Already, NotEnough, SourceError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{error}; check that it is there, and may be read and written") from None
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise SettingError(str(error)) from None


@click.group(cls=Group, context_settings=CONTEXT, invoke_without_command=True)
@options(RetrainSettings, program="mooring retrain")
@click.option("--now", is_flag=True, help="retrain whatever the verdicts say, and wait for what comes of it")
@click.option("--dry-run", is_flag=True, help="gather the training data, say what would be run, and end")
@click.pass_context
def retrain(context: click.Context, settings: RetrainSettings, *, now: bool, dry_run: bool) -> None:
    """Say whether the model is to be retrained, or retrain it; the monitor does so by itself.

    \b
    mooring retrain                    whether the verdicts call for it, and what is under way
    mooring retrain --now              retrain, compare, and promote what is better
    mooring retrain --dry-run          the training data and the command, nothing else
    mooring retrain approve 3          let a retraining begin that waits to be approved
    mooring retrain show 3             what happened to it, and the job's output

    With --now the exit code says what came of it: 0 promoted, or handed to mooring serve, which rolls it out; 3
    refused by the gate; 4 failed.
    """
    if context.invoked_subcommand is not None:
        if given := [name for name, value in context.params.items() if value not in (None, False, ())]:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise click.UsageError(f"give {flags} after {context.invoked_subcommand}, where it takes that")
        return
    from mooring.monitor.results import model_in
    from mooring.retrain.job import jobs
    from mooring.state.state import State

    settings = with_name(settings)
    with _explained(), State(settings.state) as state:
        model = settings.model or model_in(state, None)
        if dry_run or now:
            jobs.check(settings)
            _check_log(settings, model)
        if dry_run:
            _dry_run(settings, state, model)
        elif now:
            sys.exit(_now(settings, state, model))
        else:
            _say_what_is_due(settings, state, model)


def _check_log(settings: RetrainSettings, model: str) -> None:
    """Raise LogError where the log knows no such model: a ticket for it would wait for ever."""
    from mooring.log import listing

    known = listing.models(listing.open_log(settings.log), settings.log)
    if known and model not in known:
        raise listing.LogError(
            f"the log {settings.log} has nothing of {model}; it has: {', '.join(sorted(known))}"
        )


def _windows(settings: RetrainSettings, state: State, model: str) -> Any:
    """Return the windows to train on: those that call for it now, where only drifted ones are wanted."""
    from datetime import UTC, datetime

    from mooring.retrain.trigger import called_for

    if settings.retrain_range != "drifted":
        return ()
    answer = called_for(state, model, settings, datetime.now(UTC))
    if answer.cause is None:
        logger.info("%s: all labelled rows are meant, as no windows are drifted", answer.reason)
        return ()
    return answer.cause.windows


def _say_what_is_due(settings: RetrainSettings, state: State, model: str) -> None:
    from datetime import UTC, datetime

    from mooring.retrain.trigger import ask
    from mooring.state.retrainings import Tickets

    answer = ask(state, model, settings, datetime.now(UTC))
    due = "is to be retrained" if answer.cause is not None else "is not to be retrained"
    click.echo(f"{model} {due}: {answer.reason}")
    if (ticket := Tickets(state).unended(model)) is not None and ticket.message:
        click.echo(f"  {ticket.message}")


def _dry_run(settings: RetrainSettings, state: State, model: str) -> None:
    import shlex
    import tempfile
    from pathlib import Path

    from mooring.retrain.job import jobs
    from mooring.retrain.machine import champion_of, data_of

    champion = champion_of(state, model)
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        manifest = data_of(settings, state, model, champion, place, "dry-run", _windows(settings, state, model))
        argv = jobs.argv_of(
            settings,
            data=Path("TRAINING.parquet"),
            ticket="TICKET",
            model=model,
            version=champion,
            directory=Path("DIRECTORY"),
        )
    click.echo(f"training data: {manifest.rows} rows, {manifest.original_rows} of them original; the label is "
               f"{manifest.label}")  # fmt: skip
    click.echo(f"holdout: {manifest.holdout_rows} rows, the newest")
    click.echo(f"would run: {shlex.join(argv)}")
    click.echo(f"to better version {champion}" if champion else "there is no champion to better")


def _now(settings: RetrainSettings, state: State, model: str) -> int:
    """Open a ticket, and follow it to its end; Ctrl-C leaves it to the monitor, or to the next call."""
    from mooring.retrain import manual
    from mooring.retrain.machine import Retraining, champion_of
    from mooring.state.retrainings import Cause, Tickets, me

    tickets = Tickets(state)
    running = Retraining(settings, state, model)
    ticket = tickets.unended(model)
    if ticket is None:
        ticket = tickets.open(
            model,
            Cause(kind="manual", windows=_windows(settings, state, model)),
            "asked for by hand",
            champion=champion_of(state, model),
            directory=settings.retrain_directory,
            who=me(),
        )
        logger.info("retraining %d of %s", ticket.number, model)
    elif ticket.status == "approval":
        ticket = manual.approve(tickets, ticket, who=me())
    else:
        logger.info("retraining %d of %s is under way already: %s", ticket.number, model, ticket.status)
    return _followed(running, tickets, ticket)


def _followed(running: Any, tickets: Tickets, ticket: Ticket) -> int:
    from mooring.state.database import StateError

    codes = {"promoted": 0, "challenger": 0, "refused": 3}
    known = time.monotonic()
    try:
        while ticket.ended is None and ticket.status != "challenger":
            try:
                # With others opened, one that was cancelled would be followed by another, which nobody sees to.
                running.go_on(opens=False)
                ticket = tickets.named(None, ticket.id)
                known = time.monotonic()
            except StateError as error:  # its database restarts, say
                if time.monotonic() - known > _STATE_SECONDS:
                    raise
                logger.warning("%s. Retraining %s waits for it", error, ticket.number, extra={"every": 10.0})
            if ticket.ended is None and ticket.status != "challenger":
                if ticket.status == "dataset" and ticket.message:
                    logger.info(
                        "it waits: %s; it goes on with the monitor, or with mooring retrain --now", ticket.message
                    )
                    return 4
                time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        logger.info("retraining %d is left where it is; it goes on with the monitor, or with --now", ticket.number)
        return 130
    click.echo(f"{ticket.status}: {ticket.message}")
    return codes.get(ticket.status, 4)


@retrain.command(context_settings=CONTEXT)
@click.argument("ticket")
@flags.reason
@flags.of_state
def approve(ticket: str, *, reason: str, model: str | None, state: str | None) -> None:
    """Let a retraining begin that waits to be approved; the monitor goes on with it."""
    from mooring.retrain import manual
    from mooring.state.retrainings import Tickets, me
    from mooring.state.state import State

    settings = placed(StatePlace, {"model": model, "state": state})
    with _explained(), State(settings.state) as opened:
        tickets = Tickets(opened)
        found = manual.approve(tickets, tickets.named(settings.model, ticket), who=me(), reason=reason)
        click.echo(f"retraining {found.number} of {found.model} is approved; the monitor goes on with it")


@retrain.command(context_settings=CONTEXT)
@click.argument("ticket")
@flags.reason_by_hand
@flags.of_state
def cancel(ticket: str, *, reason: str, model: str | None, state: str | None) -> None:
    """End a retraining that is under way, its job too."""
    from mooring.retrain import manual
    from mooring.state.retrainings import Tickets, me
    from mooring.state.state import State

    settings = placed(StatePlace, {"model": model, "state": state})
    with _explained(), State(settings.state) as opened:
        tickets = Tickets(opened)
        found = manual.cancel(tickets, tickets.named(settings.model, ticket), who=me(), reason=reason)
        if manual.is_elsewhere(found):
            click.echo(f"{found.directory} is not here: the monitor where it is ends its job", err=True)
        click.echo(f"retraining {found.number} of {found.model} is cancelled")


@retrain.command("show", context_settings=CONTEXT)
@click.argument("ticket", required=False)
@click.option("-n", "--lines", type=click.IntRange(min=0), default=40, show_default=True, help="lines of output")
@flags.of_state
def show_(ticket: str | None, *, lines: int, model: str | None, state: str | None) -> None:
    """Show what happened to a retraining, by default the newest, and the end of its job's output."""
    from mooring.monitor.results import model_in
    from mooring.retrain.job import jobs
    from mooring.retrain.machine import attempt_directory
    from mooring.state.retrainings import TicketError, Tickets
    from mooring.state.state import State

    settings = placed(StatePlace, {"model": model, "state": state})
    with _explained(), State(settings.state) as opened:
        tickets = Tickets(opened)
        if ticket is None:
            newest = tickets.newest(settings.model or model_in(opened, None), 1)
            if not newest:
                raise TicketError("there was no retraining yet")
            found = newest[0]
        else:
            found = tickets.named(settings.model, ticket)
        click.echo(f"retraining {found.number} of {found.model} ({found.id}): {found.status}")
        click.echo(f"why: {found.reason}")
        if found.message:
            click.echo(f"now: {found.message}")
        rows = [
            [f"{step.at:%Y-%m-%d %H:%M:%S}", step.what, step.who, _short(step.detail)]
            for step in tickets.steps(found.id)
        ]
        show(["at (UTC)", "step", "by", "what is known of it"], rows)
        if found.attempt and lines:
            directory = attempt_directory(found)
            click.echo(f"\n{directory / jobs.OUTPUT}, its last lines:")
            click.echo("\n".join(jobs.last_lines(directory, lines) or ["(nothing yet)"]))


def _short(detail: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in detail.items() if not isinstance(value, dict | list))


@click.command(context_settings=CONTEXT)
@click.argument("version")
@flags.reason_by_hand
@flags.of_state
def promote(version: str, *, reason: str, model: str | None, state: str | None) -> None:
    """Make a version the champion; the one before becomes `previous`. It is in the history like any other."""
    from mooring.retrain.manual import promote as move
    from mooring.state.state import State

    settings = placed(StatePlace, {"model": model, "state": state})
    with _explained(), State(settings.state) as opened:
        _told(opened, move(opened, _model(settings, opened), version, reason))


@click.command(context_settings=CONTEXT)
@flags.reason_by_hand
@flags.of_state
def rollback(*, reason: str, model: str | None, state: str | None) -> None:
    """Make the version before the champion again: the one with the alias `previous`."""
    from mooring.retrain.manual import rollback as move
    from mooring.state.state import State

    settings = placed(StatePlace, {"model": model, "state": state})
    with _explained(), State(settings.state) as opened:
        _told(opened, move(opened, _model(settings, opened), reason))


def _told(state: State, done: Any) -> None:
    before = f", {done.previous} was" if done.previous else ""
    click.echo(f"version {done.version} of {done.model} is the champion now{before}")
    if state.holder(f"serve/{done.model}") is not None:
        told = "mooring serve rolls it out, without a restart; until then the one before answers"
        click.echo(f"{told}: see mooring rollout status", err=True)
    else:
        click.echo("a server that runs already must be restarted: MLflow's loads a model once", err=True)


@click.command(context_settings=CONTEXT)
@click.option("-n", "--newest", type=click.IntRange(min=1), default=100, show_default=True, help="how many")
@click.option("--json", "as_json", is_flag=True, help="a JSON list, the oldest first")
@flags.of_state
def history(*, newest: int, as_json: bool, model: str | None, state: str | None) -> None:
    """Show what happened to a model: verdict, ticket, run, version, gate, rollout, promotion."""
    import msgspec

    from mooring.retrain.history import history as entries_of
    from mooring.state.state import State

    settings = placed(StatePlace, {"model": model, "state": state})
    with explained(), State(settings.state) as opened:
        entries = entries_of(opened, _model(settings, opened), newest)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(entries), indent=1).decode())
        return
    if not entries:
        click.echo("there was no retraining yet, and nothing was promoted", err=True)
        return
    rows = [
        [
            f"{one.created:%Y-%m-%d %H:%M:%S}",
            f"{one.number or ''}",
            one.kind,
            one.reason,
            f"{(one.dataset or {}).get('training_rows', '')}",
            (one.run or "")[:_RUN],
            one.version or "",
            "" if one.gate is None else "passed" if one.gate.get("passed") else "refused",
            "" if one.rollout is None else one.rollout.status.replace("_", " "),
            f"{one.promoted:%Y-%m-%d %H:%M:%S}" if one.promoted else "",
            one.status,
            one.message if one.ticket else "",
        ]
        for one in entries
    ]
    show(
        [
            "at (UTC)",
            "ticket",
            "kind",
            "why",
            "rows",
            "run",
            "version",
            "gate",
            "rollout",
            "promoted",
            "came to",
            "now",
        ],
        rows,
    )


def _model(settings: StatePlace, state: State) -> str:
    from mooring.monitor.results import model_in
    from mooring.state.promotions import Promotions
    from mooring.state.retrainings import Tickets

    if settings.model:
        return settings.model
    known = [*{*Tickets(state).models(), *Promotions(state).models()}]
    return known[0] if len(known) == 1 else model_in(state, None)
