"""`mooring proxy` and `mooring drain`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from mooring.cli.help import Command
from mooring.cli.output import CONTEXT
from mooring.config import options
from mooring.settings import DrainSettings, ProxySettings

if TYPE_CHECKING:
    from mooring.capture.proxy.version_finder import Question


@click.command(cls=Command, context_settings=CONTEXT)
@options(ProxySettings)
def proxy(settings: ProxySettings) -> None:
    """Pass requests on to a model server, and log what it is asked and answers.

    \b
    mlflow models serve --env-manager local --port 5002 --model-uri models:/NAME@champion
    mooring proxy --upstream http://localhost:5002 --port 5001 --log mooring-log

    Ends on SIGTERM or Ctrl-C: it finishes what is in flight, and the drain puts the rest into the log.
    """
    from mooring.capture.proxy.listening import CantListen
    from mooring.capture.workers import run

    try:
        run(*_with_question(settings))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except CantListen as error:
        raise click.ClickException(str(error)) from None


def _with_question(settings: ProxySettings) -> tuple[ProxySettings, Question | None]:
    """Return settings with the model's plain name, and what asks the registry for its version if none is given.

    Raises ValueError for `models:/NAME` without an alias or version.
    """
    uri = settings.model or ""
    if not uri.startswith("models:/"):
        return settings, None
    import msgspec

    from mooring.capture.proxy.version_finder import Question
    from mooring.registry.process import question, split_uri

    named = msgspec.structs.replace(settings, model=split_uri(uri)[0])
    return named, Question(uri, question(uri)) if settings.model_version is None else None


@click.command(context_settings=CONTEXT)
@options(DrainSettings, program="mooring drain")
def drain(settings: DrainSettings) -> None:
    """Put what lies in a spool into the log; the proxy starts one by itself.

    Ends once no process writes to the spool and it is empty. Exit code 1: something is left in the spool.
    """
    from mooring.log.drain import run

    if not run(settings):
        sys.exit(1)
