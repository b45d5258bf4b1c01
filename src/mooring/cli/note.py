"""`mooring note`: days that are not usual, so that what a model sees then is taken for no drift."""

from __future__ import annotations

from typing import Any

import click

from mooring.cli import flags
from mooring.cli.monitor import explained
from mooring.cli.output import CONTEXT, placed, show
from mooring.settings import MonitorSettings


@click.command(context_settings=CONTEXT)
@click.argument("when", required=False)
@click.argument("name", default="")
@click.option("--remove", metavar="ID", help="forget a note")
@click.option("--timezone", help="time zone of the days  [default: the setting]")
@click.option("--json", "as_json", is_flag=True, help="the notes as a JSON list")
@click.option("--model", help="name of the model that the note is of, or whose notes are wanted  [default: all]")
@flags.state
def note(*, when: str | None, name: str, remove: str | None, as_json: bool, **given: Any) -> None:
    """Note days that are not usual, or show those that are noted.

    \b
    mooring note 2026-12-24/2026-12-27 "christmas sale"
    mooring note 2026-11-27T18:00/2026-11-28T06:00 outage --model wine
    mooring note
    mooring note --remove 1f0c9a2b

    Windows with a part of that time are shown as any other. They are no evidence of drift, and not what later
    windows are compared with. Only a jump of a standard deviation or more opens an incident.
    """
    from datetime import UTC, datetime

    import msgspec

    from mooring.monitor.special_days import span_of, zone_of
    from mooring.state.notes import Note, Notes
    from mooring.state.state import State

    model = given["model"]
    settings = placed(MonitorSettings, {key: value for key, value in given.items() if key != "model"})
    with explained(), State(settings.state) as opened:
        if remove is not None and not Notes(opened).remove(remove):
            raise click.ClickException(f"there is no note {remove}; mooring note shows them")
        if when is not None:
            try:
                span = span_of(when, zone_of(settings.timezone), name)
            except ValueError as error:
                raise click.ClickException(str(error)) from None
            now = datetime.now(UTC)
            Notes(opened).put(Note(model=model, start=span.start, end=span.end, name=name, created=now))
        found = Notes(opened).of(model)
    if as_json:
        shown = [{"id": one.id, **msgspec.structs.asdict(one)} for one in found]
        click.echo(msgspec.json.format(msgspec.json.encode(shown), indent=1).decode())
        return
    rows = [
        [one.id, f"{one.start:%Y-%m-%d %H:%M}", f"{one.end:%Y-%m-%d %H:%M}", one.model or "all", one.name]
        for one in found
    ]
    show(["id", "from (UTC)", "to", "model", "name"], rows)
