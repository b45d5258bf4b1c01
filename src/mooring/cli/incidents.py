"""`mooring incidents`: what went wrong, from when to when, and how far each stream is from an incident."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click

from mooring.cli import flags
from mooring.cli.monitor import explained
from mooring.cli.output import CONTEXT, placed, show
from mooring.settings import StatePlace


@click.command(context_settings=CONTEXT)
@click.option("-n", "--newest", type=click.IntRange(min=1), default=20, show_default=True, help="how many")
@click.option("--json", "as_json", is_flag=True, help="incidents and streams as JSON")
@flags.of_state
def incidents(*, newest: int, as_json: bool, model: str | None, state: str | None) -> None:
    """Show the incidents of drift and performance, and how strong the evidence of the next drift is.

    An incident opens once all windows together show that a model's data has changed, by as much as matters, or
    labels that it does worse than in training, and closes when that has passed. Evidence of 100 % opens one.

    Exit code 2: an incident is open.
    """
    import msgspec

    from mooring.report import evidence
    from mooring.state.incidents import Incidents, StreamStates
    from mooring.state.state import State

    settings = placed(StatePlace, {"model": model, "state": state})
    with explained(), State(settings.state) as opened:
        found = Incidents(opened).newest(settings.model, newest)[::-1]
        is_open = bool(Incidents(opened).newest(settings.model, 1, is_open=True))
        latest = StreamStates(opened).latest(settings.model).values()
        streams = [one for of_model in latest for one in of_model if one.kind == "drift"]
    if as_json:
        shown = {
            "incidents": found,
            "streams": [
                {name: value for name, value in msgspec.structs.asdict(one).items() if name != "data"}
                for one in streams
            ],
        }
        click.echo(msgspec.json.format(msgspec.json.encode(shown), indent=1).decode())
    else:
        rows = [
            [
                f"{one.opened:%Y-%m-%d %H:%M:%S}",
                "" if one.closed is None else f"{one.closed:%Y-%m-%d %H:%M:%S}",
                one.model,
                one.version or "",
                one.variant,
                one.kind,
                one.severity,
                f"{one.windows}",
                one.message,
            ]
            for one in found
        ]
        show(
            ["opened (UTC)", "closed", "model", "version", "variant", "kind", "severity", "windows", "what moved"],
            rows,
        )
        for stream in streams:
            version = f" version {stream.version}" if stream.version else ""
            stands = evidence.read(stream, datetime.now(UTC)).text
            click.echo(f"{stream.model}{version}, {stream.variant}: {stands}")
    if is_open:
        sys.exit(2)
