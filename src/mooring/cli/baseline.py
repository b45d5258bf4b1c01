"""`mooring baseline`: what a model was trained on, built from data or from the log, and shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mooring.cli import flags
from mooring.cli.help import Group
from mooring.cli.monitor import explained
from mooring.cli.output import CONTEXT, placed, show, warned
from mooring.config import SettingError
from mooring.settings import StatePlace

if TYPE_CHECKING:
    from mooring.drift.baseline import Baseline


@click.group(cls=Group, context_settings=CONTEXT)
def baseline() -> None:
    """What a model was trained on, which windows are compared with: build it, show it."""


@baseline.command(context_settings=CONTEXT)
@click.option("--model", help="name of the model")
@click.option("--model-version", help="the version that it is of; none for rows that name no version")
@click.option("--data", metavar="FILE", help="training data: .parquet, .csv or .jsonl, or a directory of Parquet")
@click.option("--from-log", metavar="START..END", help="rows of the log instead, such as 2026-03-01..2026-03-08")
@click.option("--prediction", multiple=True, metavar="COLUMN", help="with --data: what the model predicted")
@click.option("--held-out", is_flag=True, help="with --prediction: the model was not trained on these rows")
@click.option("--label", metavar="COLUMN", help="with --data: the ground truth")
@click.option("--kind", multiple=True, metavar="COLUMN=KIND",
              help="numeric, categorical, timestamp, text or other, where it is not to be found out")  # fmt: skip
@flags.log
@flags.state
def build(
    *,
    model: str | None,
    model_version: str | None,
    data: str | None,
    from_log: str | None,
    prediction: tuple[str, ...],
    label: str | None,
    kind: tuple[str, ...],
    held_out: bool,
    log: str | None,
    state: str | None,
) -> None:
    """Build a baseline and keep it in the monitor's state, where it goes before the one that training logged.

    \b
    mooring baseline build --model wine --model-version 3 --data train.parquet --label quality
    mooring baseline build --model wine --from-log 2026-03-01..2026-03-08
    """
    from mooring.monitor import building
    from mooring.state.baselines import StoredBaselines
    from mooring.state.state import State

    settings = placed(StatePlace, {"model": model, "log": log, "state": state})
    if settings.model is None:
        raise SettingError("--model is missing: say which model the baseline is of")
    if (data is None) == (from_log is None):
        raise SettingError("give either --data FILE or --from-log START..END")
    with explained(), warned():
        try:
            kinds = building.kinds_of(kind)
            if data is not None:
                made, source = building.from_data(data, prediction, label, kinds, held_out=held_out), data
            else:
                made = building.from_log(settings.log, settings.model, model_version, from_log or "", kinds)
                source = f"{settings.log} {from_log}"
        except (ValueError, FileNotFoundError) as error:
            raise SettingError(str(error)) from None
        with State(settings.state) as opened, opened.begin() as tx:
            StoredBaselines(tx).put(settings.model, model_version, made.to_bytes(), source)
    named = f" version {model_version}" if model_version else ""
    click.echo(f"{settings.model}{named}: {_rows(made)}, {len(made.features)} features", err=True)
    if made.in_sample:
        click.echo(f"Note: {made.warning()}", err=True)


@baseline.command("show", context_settings=CONTEXT)
@click.option("--model", help="name of the model")
@click.option("--model-version", help="the version that it is of; by default the champion, or none")
@flags.state
@flags.as_json
def show_baseline(*, model: str | None, model_version: str | None, state: str | None, as_json: bool) -> None:
    """Show the baseline that windows are compared with."""
    import json

    from mooring.monitor import building
    from mooring.monitor.baselines import Baselines
    from mooring.state.baselines import StoredBaselines
    from mooring.state.state import State

    settings = placed(StatePlace, {"model": model, "state": state})
    if settings.model is None:
        raise SettingError("--model is missing: say which model's baseline is meant")
    with explained(), State(settings.state) as opened:
        found, _, why_not = Baselines(StoredBaselines(opened)).of(settings.model, model_version)
        if found is None:
            raise click.ClickException(why_not)
    rows = building.described(found)
    if as_json:
        told = {"rows": found.rows, "effective_rows": found.effective_rows, "about": found.about, "features": rows}
        click.echo(json.dumps(told, indent=1))
        return
    for row in rows:
        row["role"] = f"in-sample {row['role']}" if row["in_sample"] else row["role"]
    columns = ["feature", "role", "kind", "nulls", "least", "mean", "greatest", "categories"]
    show(columns, [["" if row[name] is None else f"{row[name]}" for name in columns] for row in rows])
    click.echo(f"{_rows(found)}; {', '.join(f'{key} {value}' for key, value in found.about.items())}", err=True)
    if found.in_sample:
        click.echo(f"Note: {found.warning()}", err=True)


def _rows(made: Baseline) -> str:
    worth = "" if made.weight == made.rows else f", worth {made.effective_rows:.0f} independent ones"
    return f"{made.rows} rows{worth}"


@click.command(context_settings=CONTEXT)
@click.option("--model", help="name of the model")
@click.option("--model-version", help="the version whose windows are meant")
@click.option("--from-log", required=True, metavar="START..END", help="past windows in which nothing was wrong")
@click.option("--variant", default="champion", show_default=True, help="the variant whose windows are meant")
@click.option("--window", help="a window ends after this time  [default: 1h]")
@click.option("--window-rows", type=click.IntRange(min=1), help="or after so many rows  [default: 1000]")
@flags.log
@flags.state
def calibrate(
    *,
    model: str | None,
    model_version: str | None,
    from_log: str,
    variant: str,
    window: str | None,
    window_rows: int | None,
    log: str | None,
    state: str | None,
) -> None:
    """Take what is usual from past windows rather than from chance alone, where traffic has its own cycles.

    The baseline stays; from then on a window alarms where it lies further from the baseline than past ones did. It
    takes 30 windows of at least --min-rows, cut as the monitor cuts them: give both the same --window and
    --window-rows. Of W windows no chance is less than 1 in W + 1: alarms by the calendar come later the fewer they
    are, and a budget of 0.001 per window takes 999.
    """
    from mooring.drift.past import least_p_value, windows_needed
    from mooring.monitor import building
    from mooring.monitor.baselines import Baselines
    from mooring.settings import JudgeSettings
    from mooring.state.baselines import StoredBaselines
    from mooring.state.state import State

    given = {"model": model, "log": log, "state": state, "window": window, "window_rows": window_rows}
    settings = placed(JudgeSettings, given)
    if settings.model is None:
        raise SettingError("--model is missing: say which model is meant")
    with explained(), State(settings.state) as opened:
        found, _, why_not = Baselines(StoredBaselines(opened)).of(settings.model, model_version)
        if found is None:
            raise click.ClickException(why_not)
        try:
            made = building.calibrated(found, settings, model_version, variant, from_log)
        except ValueError as error:
            raise SettingError(str(error)) from None
        with opened.begin() as tx:
            StoredBaselines(tx).put(
                settings.model, model_version, made.baseline.to_bytes(), f"{settings.log} {from_log}"
            )
        unlike = building.unlike_the_monitors(opened, settings, model_version, variant, made.rows)
    few = f"; {made.too_few} more had too few rows" if made.too_few else ""
    least = least_p_value(made.windows)
    click.echo(
        f"what is usual is taken from {len(made.rows)} windows{few}: the least chance that they can show is "
        f"{least:.2g}",
        err=True,
    )
    if settings.budget is not None and least > settings.window_budget:
        click.echo(
            f"Note: with a budget of {settings.window_budget:g} nothing alarms by its chance. That takes "
            f"{windows_needed(settings.window_budget)} windows, or a budget of {least:.2g} or more: take a longer "
            "time, or smaller windows",
            err=True,
        )
    if unlike:
        click.echo(f"Note: {unlike}", err=True)
