"""`mooring serve`."""

from __future__ import annotations

import sys

import click
import msgspec

from mooring.cli.help import Command
from mooring.cli.output import CONTEXT
from mooring.config import options
from mooring.settings import ServeSettings


@click.command(cls=Command, context_settings=CONTEXT)
@options(ServeSettings, argument="model")
def serve(settings: ServeSettings) -> None:
    """Serve a registered model, log what it is asked and answers, and put its new versions into service.

    \b
    mooring serve models:/NAME@champion --port 5001 --log mooring-log

    A version that passed the gate, or one that the alias is moved to, is loaded and checked, then rolled out as
    --rollout-step says, and taken back where it does worse; no request is dropped over it. See `mooring rollout`.
    models:/NAME/3 serves that version for good.

    Ends on SIGTERM or Ctrl-C: it finishes what is in flight, and the drain puts the rest into the log.
    """
    from mooring.capture.proxy.listening import CantListen
    from mooring.registry.process import split_uri
    from mooring.rollout_plan import parse
    from mooring.serving.front import run
    from mooring.serving.link import ControllerGaveUp

    if not settings.model:
        raise click.UsageError("which model? mooring serve models:/NAME@champion")
    uri = settings.model if settings.model.startswith("models:/") else f"models:/{settings.model}@champion"
    try:
        parse(settings.rollout_step)
        name, alias, version = split_uri(uri)
        run(msgspec.structs.replace(settings, model=name), alias or None, version or None)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except CantListen as error:
        raise click.ClickException(str(error)) from None
    except ControllerGaveUp:
        sys.exit(1)
