"""`mooring compare`: any two samples, for CI and cron."""

from __future__ import annotations

import sys

import click

from mooring.cli import flags
from mooring.cli.output import CONTEXT, warned


@click.command(context_settings=CONTEXT)
@click.argument("reference")
@click.argument("current")
@click.option("--column", "columns", multiple=True, metavar="NAME", help="only this column; repeat it for more")
@click.option("--kind", multiple=True, metavar="COLUMN=KIND",
              help="numeric, categorical, timestamp, text or other, where it is not to be found out")  # fmt: skip
@click.option("--label", multiple=True, metavar="COLUMN",
              help="ground truth, which is not compared; repeat it for more")  # fmt: skip
@click.option("--budget", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.001,
              show_default=True, help="chance of any alarm where nothing has changed")  # fmt: skip
@click.option("--floors/--no-floors", default=True, help="let differences too small to matter pass  [default: on]")
@click.option("--threshold", multiple=True, metavar="TEXT",
              help="MEASURE=VALUE or COLUMN.MEASURE=VALUE: alarm from there on instead")  # fmt: skip
@click.option("--min-rows", type=click.IntRange(min=1), default=30, show_default=True,
              help="with fewer rows in either sample nothing alarms")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="the same seed gives the same answer")
@click.option("--html", metavar="FILE", help="write the comparison as HTML, too")
@flags.as_json
def compare(
    reference: str,
    current: str,
    *,
    columns: tuple[str, ...],
    kind: tuple[str, ...],
    label: tuple[str, ...],
    budget: float,
    floors: bool,
    threshold: tuple[str, ...],
    min_rows: int,
    seed: int,
    html: str | None,
    as_json: bool,
) -> None:
    """Compare two samples: .parquet, .csv or .jsonl files, or directories of Parquet.

    Exit code 2: drift. 0: none, or too few rows to say. 1: they can't be compared. A column that only one of the
    two has is told, and is no drift by itself; one of another type is.

    \b
    mooring compare train.parquet today.parquet --label quality
    mooring compare train.csv today.csv --threshold psi=0.2 --json

    REFERENCE may be a baseline that was saved, too.
    """
    import json
    from pathlib import Path

    from mooring.comparison import compare as run
    from mooring.monitor.building import kinds_of
    from mooring.monitor.thresholds import thresholds_of

    try:
        with warned():
            found = run(
                reference,
                current,
                columns=columns or None,
                kinds=kinds_of(kind),
                label=label,
                budget=budget,
                floors=floors,
                thresholds=thresholds_of(threshold),
                min_rows=min_rows,
                seed=seed,
            )
        if html:
            Path(html).write_text(found.to_html(), encoding="utf-8")
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(json.dumps(found.to_dict(), indent=1) if as_json else repr(found))
    if found.too_few:
        click.echo(f"not judged, as a sample has fewer than {min_rows} rows: --min-rows sets that", err=True)
    if found.drifted:
        sys.exit(2)
