"""`mooring labels`: ground truth, added to the log and counted there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mooring.cli import flags
from mooring.cli.help import Group
from mooring.cli.output import CONTEXT, show
from mooring.config import options
from mooring.settings import LabelSettings

if TYPE_CHECKING:
    import pyarrow

    from mooring.log.label_files import FileFormat, Kind, Piece, RefusedLabel

_SHOWN = 20
_KEPT = 1000


@click.group("labels", cls=Group, context_settings=CONTEXT)
def labels_group() -> None:
    """Add ground truth to the log, and see how much of it there is."""


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what a user can do something about into a message and an exit code."""
    from mooring.log.labels import LabelError
    from mooring.log.listing import LogError
    from mooring.log.store import StoreError

    try:
        yield
    except (LabelError, LogError, StoreError) as error:
        raise click.ClickException(str(error)) from None


def _model(settings: LabelSettings) -> str:
    """Return the plain name of the model that is meant. Raises LogError where that is not plain."""
    from mooring.log import listing
    from mooring.registry.process import split_uri

    if settings.model is None:
        return listing.only_model(listing.open_log(settings.log), settings.log, None)
    return split_uri(settings.model)[0] if settings.model.startswith("models:/") else settings.model


@labels_group.command("add", context_settings=CONTEXT)
@options(LabelSettings)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["csv", "jsonl", "parquet"]), help="of FILE  [default: its suffix]"
)
@click.option("--id-column", default="request_id", show_default=True, help="column of the request's id")
@click.option("--label-column", default="label", show_default=True, help="column of the label")
@click.option("--row-column", help="column of the row's place in its request, from 0  [default: row, if there]")
@click.option("--time-column", help="column of when it became known  [default: time, if there]")
@click.option(
    "--label-type",
    type=click.Choice(["auto", "number", "text"]),
    default="auto",
    show_default=True,
    help="what labels are; auto: as FILE says, in CSV a number where it reads as one",
)
@flags.as_json
def labels_add(
    settings: LabelSettings,
    *,
    file: Path,
    form: FileFormat | None,
    id_column: str,
    label_column: str,
    row_column: str | None,
    time_column: str | None,
    label_type: Kind,
    as_json: bool,
) -> None:
    """Add the labels in FILE, a CSV, JSONL or Parquet file, or - for the standard input.

    \b
    mooring labels add truth.csv --model wine
    zcat truth.jsonl.gz | mooring labels add - --format jsonl --model wine --label-column quality

    A label names its row by the request's id, Mooring's or the client's, and the row's place in the request. The
    latest label of a row counts, so labels may be corrected, and the same file may be added again. What can't be a
    label is said with its line, and the rest is added. Exit code 1: there were such lines.
    """
    from mooring.log.add_labels import Added, add_tables
    from mooring.log.label_files import Columns, format_of, read_file

    refused: list[RefusedLabel] = []
    bad = read = 0

    def tables(pieces: Iterator[Piece]) -> Iterator[pyarrow.Table]:
        nonlocal bad, read
        for piece in pieces:
            bad += len(piece.refused)
            read += len(piece.refused) + len(piece.table)
            refused.extend(piece.refused[: _KEPT - len(refused)])
            if sys.stderr.isatty():
                click.echo(f"\r{read} lines read", nl=False, err=True)
            yield piece.table

    counts = Added()
    columns = Columns(id_column, label_column, row_column, time_column, settings.protected)
    with _explained():
        if str(file) == "-" and form is None:
            raise click.UsageError(
                "the standard input does not say what it is: give --format csv, jsonl or parquet"
            )
        model = _model(settings)
        with click.open_file(str(file), "rb") as opened:
            pieces = read_file(opened, str(file), form or format_of(file), columns, label_type)
            try:
                for some in add_tables(settings.log, model, tables(pieces), timedelta(seconds=settings.lookback)):
                    counts += some
            except Exception:  # raised again: what was added before it is said first
                if counts != Added():
                    click.echo("Not all of FILE was read; the same command goes on from here.", err=True)
                    _say(counts, bad, refused, as_json)
                raise
    if sys.stderr.isatty() and read:
        click.echo(err=True)
    _say(counts, bad, refused, as_json)
    if bad:
        sys.exit(1)


def _say(counts: Any, bad: int, refused: list[RefusedLabel], as_json: bool) -> None:
    import msgspec

    found = msgspec.structs.asdict(counts) | {"refused": bad}
    if as_json:
        click.echo(msgspec.json.encode(found | {"lines": [one._asdict() for one in refused]}))
        return
    for one in refused[:_SHOWN]:
        click.echo(f"line {one.line}: {one.why}", err=True)
    if bad > _SHOWN:
        click.echo(f"… and {bad - _SHOWN} lines more", err=True)
    click.echo(
        ", ".join(f"{found[name]} {name}" for name in ("added", "repeated", "replaced", "outdated", "refused"))
    )
    if counts.unknown:
        click.echo(
            f"{counts.unknown} of them name rows that the log does not have, or not yet. They are kept; if the "
            "rows should be there, check the ids, the rows and --model.",
            err=True,
        )


@labels_group.command("show", context_settings=CONTEXT)
@options(LabelSettings)
@flags.as_json_lines
def labels_show(settings: LabelSettings, *, as_json: bool) -> None:
    """Say for each day how many of the rows that were scored have a label, and after how long."""
    from datetime import UTC, datetime

    import msgspec

    from mooring.log.label_days import label_days

    with _explained():
        days = label_days(settings.log, _model(settings), datetime.now(UTC) - timedelta(seconds=settings.lookback))
    if as_json:
        for day in days:
            click.echo(msgspec.json.encode(msgspec.structs.asdict(day) | {"coverage": day.coverage}))
        return
    rows = [
        [
            *(f"{day.date}", f"{day.rows}", f"{day.labelled}", f"{day.coverage:.1%}"),
            "" if day.median_delay is None else f"{timedelta(seconds=round(day.median_delay))}",
        ]
        for day in days
    ]
    show(["day", "rows", "labelled", "coverage", "median delay"], rows)
