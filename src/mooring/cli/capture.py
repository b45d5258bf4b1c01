"""`mooring proxy` and `mooring drain`."""

from __future__ import annotations

import sys

import click

from mooring.cli.output import CONTEXT
from mooring.config import DrainSettings, ProxySettings, options


@click.command(context_settings=CONTEXT)
@options(ProxySettings)
def proxy(settings: ProxySettings) -> None:
    """Pass requests on to a model server, and log what it is asked and answers.

    \b
    mlflow models serve --env-manager local --port 5002 --model-uri models:/NAME@champion
    mooring proxy --upstream http://localhost:5002 --port 5001 --log mooring-log

    Ends on SIGTERM or Ctrl-C: it finishes what is in flight, and the drain puts the rest into the log.
    """
    from mooring.capture.proxy.listening import CantListen
    from mooring.capture.proxy.workers import run

    try:
        run(_with_version(settings))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except CantListen as error:
        raise click.ClickException(str(error)) from None


def _with_version(settings: ProxySettings) -> ProxySettings:
    """Return settings that name the model and its version, where they were given as `models:/NAME@ALIAS`."""
    if not (settings.model or "").startswith("models:/"):
        return settings
    import msgspec

    from mooring.registry import RegistryError, resolve, split_uri

    name, version = split_uri(settings.model or "")[0], settings.model_version
    if version is None:
        try:
            name, version = resolve(settings.model or "")
        except RegistryError as error:
            click.echo(f"mooring: the log names no version of {settings.model}: {error}", err=True)
    return msgspec.structs.replace(settings, model=name, model_version=version)


@click.command(context_settings=CONTEXT)
@options(DrainSettings)
def drain(settings: DrainSettings) -> None:
    """Put what lies in a spool into the log; the proxy starts one by itself.

    Ends once no process writes to the spool and it is empty. Exit code 1: something is left in the spool.
    """
    from mooring.log.drain import run

    if not run(settings):
        sys.exit(1)
