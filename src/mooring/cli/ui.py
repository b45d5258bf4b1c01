"""`mooring ui`."""

from __future__ import annotations

import click

from mooring.cli.output import CONTEXT
from mooring.config import options
from mooring.settings import UiSettings


@click.command(context_settings=CONTEXT)
@options(UiSettings)
def ui(settings: UiSettings) -> None:
    """Look at the models: which are well, what has drifted and since when, what is being done about it.

    \b
    mooring ui                         at http://127.0.0.1:5050
    MOORING_UI_TOKEN=… mooring ui      with buttons: approve a retraining, pause or abort a rollout

    On this machine whoever can open it may look. Acting takes the token, and so does looking from elsewhere: with
    another --host it does not start without one. Ends on SIGTERM or Ctrl-C.
    """
    from mooring.ui.server import CantShow, run

    try:
        run(settings)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except CantShow as error:
        raise click.ClickException(str(error)) from None
