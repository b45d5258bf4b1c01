"""`mooring log`: the log of Parquet files, read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mooring.cli import flags
from mooring.cli.help import Group
from mooring.cli.output import CONTEXT, show
from mooring.config import SettingError, load
from mooring.settings import LogSettings

if TYPE_CHECKING:
    import pyarrow

    from mooring.log.queries import LogRange


@click.group("log", cls=Group, context_settings=CONTEXT)
def log_group() -> None:
    """Read the log of Parquet files: what it holds, its rows, an extract, answers to SQL."""


def _of_log(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags that say which part of which log is meant."""

    @functools.wraps(command)
    def run(
        log: str | None,
        model: str | None,
        start: str | None,
        end: str | None,
        variant: tuple[str, ...],
        **further: Any,
    ) -> None:
        with _reading():
            uri = load(LogSettings, {"log": log, "model": model}).log
            command(uri, {"model": model, "start": start, "end": end, "variant": variant}, **further)

    flags = (
        click.option("--log", help="the log: a directory, or s3://, gs:// or az://  [default: ./mooring-log]"),
        click.option(
            "--model", envvar="MOORING_MODEL", help="name of the model; needed where the log has several"
        ),
        click.option("--start", metavar="TIME", help="only what came then or later, such as 2026-03-01T12:00Z"),
        click.option("--end", metavar="TIME", help="only what came before"),
        click.option(
            "--variant",
            metavar="NAME",
            multiple=True,
            help="only what champion, canary or shadow answered; may be given several times, and `all` is "
            "everything  [default: all but shadow]",
        ),
    )
    decorated: Callable[..., None] = run
    for flag in reversed(flags):
        decorated = flag(decorated)
    return decorated


@contextmanager
def _reading() -> Iterator[None]:
    from mooring.log.listing import LogError
    from mooring.log.store import StoreError

    try:
        yield
    except LogError as error:
        raise SettingError(str(error)) from None
    except StoreError as error:
        raise click.ClickException(str(error)) from None


_as_csv_flag = click.option("--csv", "as_csv", is_flag=True, help="CSV")


@log_group.command("stats", context_settings=CONTEXT)
@_of_log
@flags.as_json_lines
def log_stats(uri: str, chosen: LogRange, *, as_json: bool) -> None:
    """Say what the log holds, for each model and day.

    An exchange is a request and its answer; errors are those that have no rows, or rows without an output
    (`rows_differ`), by reason. What the drain has set aside is said on stderr, where the spool is on this host.
    """
    import msgspec

    from mooring.log.queries import stats
    from mooring.spool import unreadable

    found = stats(uri, chosen)
    for path, size, why in unreadable(load(LogSettings, {"log": uri}).spool_path):
        click.echo(
            f"Warning: {path} ({size} bytes, {why.exchanges if why else 'unknown'} exchanges) is not in the log"
            f"{f': {why.reason}' if why else ''}",
            err=True,
        )
    if as_json:
        for day in found:
            click.echo(msgspec.json.encode(day))
        return
    columns = ["model", "day", "objects", "MB", "exchanges", "rows", "first", "last", "errors"]
    rows = [
        [
            *(
                day.model,
                f"{day.date}",
                f"{day.objects}",
                f"{day.bytes / 1e6:.2f}",
                f"{day.exchanges}",
                f"{day.rows}",
            ),
            *("" if moment is None else f"{moment:%H:%M}" for moment in (day.first, day.last)),
            ", ".join(f"{code}: {count}" for code, count in day.errors.items()),
        ]
        for day in found
    ]
    show(columns, rows)


@log_group.command("head", context_settings=CONTEXT)
@_of_log
@click.option("-n", "--rows", type=click.IntRange(min=1), default=10, show_default=True, help="how many")
@click.option("--first", is_flag=True, help="the oldest rows, not the newest")
@_as_csv_flag
@flags.as_json_lines
def log_head(uri: str, chosen: LogRange, *, rows: int, first: bool, as_csv: bool, as_json: bool) -> None:
    """Show the newest rows: predictions, then inputs."""
    from mooring.log.queries import head

    own = None if as_json else ["time", "request_id", "row"] if as_csv else ["time"]
    if own is not None and chosen["variant"]:
        own.append("variant")
    _print_rows(head(uri, chosen, rows, first=first, own=own), as_csv, as_json)


@log_group.command("export", context_settings=CONTEXT)
@_of_log
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--columns", help="names of columns, with commas between: time,prediction,pH  [default: all]")
@click.option("--structs", is_flag=True, help="all columns as the log has them, into Parquet")
def log_export(uri: str, chosen: LogRange, *, output: Path, columns: str | None, structs: bool) -> None:
    """Write the rows into one file, OUTPUT.csv or OUTPUT.parquet: predictions first, then inputs."""
    from mooring.log.queries import export

    names = [name.strip() for name in columns.split(",")] if columns else None
    try:
        rows = export(uri, chosen, output, columns=names, flat=not structs)
    except (FileNotFoundError, NotADirectoryError, PermissionError, IsADirectoryError) as error:
        raise SettingError(f"{output} can't be written: {error.strerror}") from None
    click.echo(f"{rows} rows in {output}", err=True)


@log_group.command("query", context_settings=CONTEXT)
@_of_log
@click.argument("sql")
@_as_csv_flag
@flags.as_json_lines
def log_query(uri: str, chosen: LogRange, *, sql: str, as_csv: bool, as_json: bool) -> None:
    """Answer a question in SQL, with DuckDB.

    \b
    mooring log query "SELECT model_version, avg(output.prediction) FROM inferences GROUP BY ALL"

    Tables: `inferences`, a row for each row scored, with structs `input` and `output`; `flat`, the same without
    structs; `payloads`, a row for each request. Without --variant none of them has what a shadow answered.
    """
    from mooring.log.queries import query

    _print_rows(query(uri, chosen, sql), as_csv, as_json)


def _print_rows(table: pyarrow.Table, as_csv: bool, as_json: bool) -> None:
    from mooring.log import queries

    if as_csv or as_json:
        for line in (queries.as_csv if as_csv else queries.as_json)(table):
            click.echo(line, nl=False)
        return
    show(table.column_names, zip(*(map(_cell, column.to_pylist()) for column in table.columns), strict=True))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else str(value)
