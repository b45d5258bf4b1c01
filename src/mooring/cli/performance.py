"""`mooring performance`: how well the model does on the rows whose labels are known."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from mooring.cli import flags
from mooring.cli.monitor import explained, of_model, tell_unread
from mooring.cli.output import CONTEXT, placed, show
from mooring.settings import MonitorSettings

if TYPE_CHECKING:
    from mooring.state.assessments import Assessment
    from mooring.state.estimations import Estimation


@click.command(context_settings=CONTEXT)
@of_model
@flags.as_json_windows
def performance(
    *,
    model: str | None,
    state: str | None,
    model_version: str | None,
    start: str | None,
    end: str | None,
    newest: int,
    as_json: bool,
) -> None:
    """Show how well the model did, window by window, on the rows whose labels are known, and what was estimated.

    Exit code 2: the champion does worse in its newest judged window than on the baseline's held-out rows. 1: there
    is nothing to show.
    """
    import json

    from mooring.log.listing import instant
    from mooring.monitor.performance_results import as_dicts, assessments, estimations, worse
    from mooring.performance.measures import MEASURES
    from mooring.state.state import State
    from mooring.status import STATUSES

    settings = placed(MonitorSettings, {"model": model, "state": state})
    with explained(), State(settings.state) as opened:
        tell_unread(opened, settings)
        found = assessments(
            opened,
            settings.model,
            version=model_version,
            start=instant(start, "start"),
            end=instant(end, "end"),
            newest=newest,
        )
        estimated = estimations(opened, found)
    if as_json:
        click.echo(json.dumps(as_dicts(found, estimated), indent=1))
    elif not found:
        raise click.ClickException(
            "no labels are known of these windows: add them with `mooring labels add`, and run `mooring monitor`"
        )
    else:
        names = [
            name
            for name, measure in MEASURES.items()
            if measure.brief and any(name in one.measures for one in found)
        ]
        rows = []
        for one in found:
            shown = [one.measures.get(name) for name in names]
            rows.append(
                [
                    f"{one.window.start:%Y-%m-%d %H:%M:%S}",
                    f"{one.window.end:%H:%M:%S}",
                    one.window.version or "",
                    one.window.variant,
                    f"{one.labelled} of {one.rows}",
                    _time(one.delay),
                    *("" if each is None else _number(each.value, each.low, each.high) for each in shown),
                    *([_estimated(estimated.get(one.window.id))] if estimated else []),
                    STATUSES[one.status].mark + STATUSES[one.status].labelled,
                    one.message,
                ]
            )
        columns = ["from (UTC)", "to", "version", "variant", "labelled", "delay", *names]
        columns += [*(["estimated"] if estimated else []), "verdict", "why"]
        show(columns, rows)
        newest_known = next((one for one in reversed(found) if one.fairness), None)
        if newest_known is not None:
            _show_fairness(newest_known)
    if worse(found):
        sys.exit(2)


def _show_fairness(one: Assessment) -> None:
    """Print rates and errors by the protected columns in a window."""
    from mooring.performance.fairness import measure_name

    for found in one.fairness:
        click.echo(f"By {found.column}, in the window from {one.window.start:%Y-%m-%d %H:%M:%S} UTC:")
        names = list(dict.fromkeys(measure_name(rate) for rate in found.rates))
        rows = []
        for group, count in found.groups.items():
            rates = {measure_name(rate): rate for rate in found.rates if rate.group == group}
            shown = [rates.get(name) for name in names]
            rows.append(
                [
                    group,
                    f"{count}",
                    *("" if each is None else _number(each.value, each.low, each.high) for each in shown),
                ]
            )
        show([found.column, "labelled", *names], rows)
        apart = [
            [measure_name(each), _number(each.value, each.low, each.high), each.lowest, each.highest]
            for each in found.disparities
        ]
        if apart:
            show(["between groups", "", "lowest", "highest"], apart)
        if found.message:
            click.echo(f"{found.message}.")


def _estimated(found: Estimation | None) -> str:
    """Return what is estimated of a window, in a cell of the table."""
    from mooring.performance.measures import first_of
    from mooring.status import STATUSES

    if found is None or not found.measures:
        return "" if found is None else "can't tell"
    name = first_of(found.measures)
    one = found.measures[name]
    return f"{STATUSES[found.status].mark}{name} {_number(one.value, one.low, one.high)}"


def _number(value: float, low: float | None, high: float | None) -> str:
    around = "" if low is None or high is None else f" ({low:.3g} to {high:.3g})"
    return f"{value:.4g}{around}"


def _time(seconds: float | None) -> str:
    """Return a time in its largest unit.

    >>> _time(90), _time(7200), _time(None)
    ('90s', '2h', '')
    """
    if seconds is None:
        return ""
    unit, size = next((one for one in (("d", 86_400), ("h", 3600), ("m", 60)) if seconds >= 2 * one[1]), ("s", 1))
    return f"{seconds / size:.3g}{unit}"
