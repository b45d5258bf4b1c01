"""`mooring rollout`: how a new version is put into service, and what can be asked of that."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from mooring.cli import flags
from mooring.cli.help import Group
from mooring.cli.monitor import explained
from mooring.cli.output import CONTEXT, placed, show
from mooring.settings import StatePlace

if TYPE_CHECKING:
    from mooring.state.rollouts import Rollout, Rollouts, Wish
    from mooring.state.state import State

_DIGITS = 3


@contextmanager
def _opened(model: str | None, state: str | None) -> Iterator[tuple[State, str]]:
    """Yield the state, and the name of the model that is meant."""
    from mooring.monitor.results import model_in
    from mooring.state.rollouts import RolloutError, Rollouts
    from mooring.state.state import State

    settings = placed(StatePlace, {"model": model, "state": state})
    with explained(), State(settings.state) as opened:
        known = Rollouts(opened).models()
        name = settings.model or (known[0] if len(known) == 1 else model_in(opened, None))
        try:
            yield opened, name
        except RolloutError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Group, context_settings=CONTEXT)
def rollout() -> None:
    """Show how mooring serve puts a new version into service, and step in.

    \b
    mooring rollout status             the step, its time and requests, and what the guards have found
    mooring rollout pause              stay in this step; the guards go on
    mooring rollout promote            let it answer everything now
    mooring rollout abort              take it out of service

    What is asked for is done by the supervisor within about a second. Exit code 1: nothing is under way.
    """


@rollout.command(context_settings=CONTEXT)
@flags.as_json
@flags.of_state
def status(*, as_json: bool, model: str | None, state: str | None) -> None:
    """Show the rollout that is under way, else the last one, and what is served.

    Exit code 0: one is under way. 1: none is. 4: the last one was rolled back.
    """
    import json

    import msgspec

    from mooring.state.rollouts import Rollouts

    with _opened(model, state) as (opened, name):
        found = Rollouts(opened)
        served = found.serving(name)
        holder = opened.holder(f"serve/{name}")
        newest = next(iter(found.newest(name, 1)), None)
        events = found.events(newest.id) if newest is not None else []
        if as_json:
            told = {
                "model": name,
                "supervisor": holder.holder if holder is not None else None,
                "serving": msgspec.to_builtins(served),
                "rollout": _as_dict(newest) if newest is not None else None,
                "events": msgspec.to_builtins(events),
            }
            click.echo(json.dumps(told, indent=1))
        else:
            for one in served:
                click.echo(f"{name}: version {one.version} is served on {one.host} ({one.follows}), since "
                           f"{one.since:%Y-%m-%d %H:%M:%S} UTC")  # fmt: skip
                if one.held_back:
                    click.echo(one.held_back)
            if not served:
                click.echo(f"{name}: no supervisor has served it: mooring serve models:/{name}@champion")
            elif holder is None:
                click.echo("no supervisor runs now that rolls out: mooring serve was ended, or is not heard of")
            if newest is None:
                click.echo("there was no rollout yet")
            else:
                _show(newest, found)
    if newest is None or newest.ended is not None:
        sys.exit(4 if newest is not None and newest.status == "rolled_back" else 1)


def _as_dict(rollout: Rollout) -> dict[str, Any]:
    import msgspec

    from mooring.serving.rollout.power import in_words

    told: dict[str, Any] = msgspec.to_builtins(rollout)
    evidence = told.pop("evidence")
    at = rollout.at
    told["guards"] = rows = evidence.get("rows", [])
    told["plan"] = [str(step) for step in rollout.plan]
    told["at"] = str(at) if at is not None else None
    told["sees"] = in_words(at.requests, rows) if at is not None else ""
    told["seconds_left"] = max(0.0, at.seconds - rollout.seconds) if at is not None else None
    told["requests_left"] = max(0, at.requests - rollout.requests) if at is not None else None
    return told


def _show(rollout: Rollout, rollouts: Rollouts) -> None:
    from mooring.serving.rollout.power import in_words as in_words_of
    from mooring.state.rollouts import in_words

    instead = f"in the place of {rollout.previous}" if rollout.previous else "as the first"
    why = "it passed the gate" if rollout.cause == "challenger" else "the alias was moved to it"
    now = in_words(rollout.status) + (", paused" if rollout.paused else "")
    click.echo(f"rollout {rollout.number}: version {rollout.version} {instead}, as {why}: {now}")
    if rollout.reason:
        click.echo(f"why: {rollout.reason}")
    if (at := rollout.at) is not None:
        done = f"{rollout.seconds:.0f} of {at.seconds:.0f} s, {rollout.requests:,} of {at.requests:,} requests"
        place = f"step {rollout.step + 1} of {len(rollout.plan)}"
        click.echo(f"{place}: {at.kind} with {at.share * 100:.4g}% of the requests; {done}")
        if sees := in_words_of(at.requests, rollout.evidence.get("rows", [])):
            click.echo(f"a step of {at.requests:,} requests {sees}; what is less may pass")
    if rollout.wish is not None:
        click.echo(f"{rollout.wish} was asked for by {rollout.wish_by}; the supervisor has not done it yet")
    if rollout.counts:
        click.echo("requests seen: " + ", ".join(f"{name.replace('_', ' ')} {count:,}"
                                                 for name, count in rollout.counts.items()))  # fmt: skip
    rows = [
        [
            row["name"],
            "FAILED" if row["failed"] else "ok",
            _number(row["value"]),
            _number(row["limit"]),
            f"{row['chance']:.2g}",
            f"{row['fails_below']:.2g}",
            f"{row['samples']:,}",
            row["note"],
        ]
        for row in rollout.evidence.get("rows", [])
    ]
    if rows:
        show(["guard", "", "value", "limit", "chance", "fails below", "samples", ""], rows)
    show(
        ["at (UTC)", "what", "by", "what is known of it"],
        [
            [
                f"{event.at:%Y-%m-%d %H:%M:%S}",
                event.what,
                event.who,
                ", ".join(f"{name}: {_text(value)}" for name, value in event.detail.items()),
            ]
            for event in rollouts.events(rollout.id)
        ],
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.{_DIGITS}g}"


def _text(value: Any) -> str:
    return "; ".join(map(str, value)) or "none" if isinstance(value, list) else f"{value}"


def _ask(wish: Wish, model: str | None, state: str | None, reason: str = "") -> None:
    from mooring.state.retrainings import me
    from mooring.state.rollouts import Rollouts

    with _opened(model, state) as (opened, name):
        asked = Rollouts(opened).ask(name, wish, who=me(), reason=reason)
        click.echo(f"rollout {asked.number} of {name}, version {asked.version}: {wish} is asked for")
        if opened.holder(f"serve/{name}") is None:
            click.echo("no supervisor runs now: it is done once one does", err=True)


@rollout.command(context_settings=CONTEXT)
@flags.reason
@flags.of_state
def pause(*, reason: str, model: str | None, state: str | None) -> None:
    """Stay in the step that it is in; the guards go on."""
    _ask("pause", model, state, reason)


@rollout.command(context_settings=CONTEXT)
@flags.reason
@flags.of_state
def resume(*, reason: str, model: str | None, state: str | None) -> None:
    """Go on after a pause, with the step's clock as it was."""
    _ask("resume", model, state, reason)


@rollout.command(context_settings=CONTEXT)
@flags.reason
@flags.of_state
def promote(*, reason: str, model: str | None, state: str | None) -> None:
    """Let the new version answer everything now, and make it the champion."""
    _ask("promote", model, state, reason)


@rollout.command(context_settings=CONTEXT)
@flags.reason
@flags.of_state
def abort(*, reason: str, model: str | None, state: str | None) -> None:
    """Take the new version out of service; the champion answers everything."""
    _ask("abort", model, state, reason)
