"""Every command. Each imports what it runs only when it runs."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mooring import __version__
from mooring.config import DrainSettings, ProxySettings, options

_CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda name: name.replace("_", "-"),
    "max_content_width": 110,
}


@click.group(context_settings=_CONTEXT)
@click.version_option(__version__)
def main() -> None:
    """Mooring logs what an MLflow model server is asked and answers, and watches the log for drift."""


@main.command(context_settings=_CONTEXT)
@options(ProxySettings)
def proxy(settings: ProxySettings) -> None:
    """Pass requests on to a model server, and log what it is asked and answers.

    \b
    mlflow models serve --env-manager local --port 5002 --model-uri models:/NAME@champion
    mooring proxy --upstream http://localhost:5002 --port 5001 --log mooring-log

    Ends on SIGTERM or Ctrl-C: it finishes what is in flight, and the drain puts the rest into the log.
    """
    from mooring.capture.proxy.server import CantListen
    from mooring.capture.proxy.workers import run

    try:
        run(settings)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except CantListen as error:
        raise click.ClickException(str(error)) from None


@main.command(context_settings=_CONTEXT)
@options(DrainSettings)
def drain(settings: DrainSettings) -> None:
    """Put what lies in a spool into the log; the proxy starts one by itself.

    Ends once no process writes to the spool and it is empty. Exit code 1: something is left in the spool.
    """
    from mooring.log.drain import run

    if not run(settings):
        sys.exit(1)


@main.command(context_settings=_CONTEXT)
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default="mooring-demo",
    show_default=True,
    help="directory that everything is written to",
)
def demo(directory: Path) -> None:
    """See it work: train, serve behind the proxy, send traffic, look at the log and its drift.

    Takes about half a minute and stops everything that it started.
    """
    from mooring.demo.processes import DemoError
    from mooring.demo.run import run

    try:
        run(directory)
    except DemoError as error:
        raise click.ClickException(str(error)) from None
