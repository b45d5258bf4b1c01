"""Every command. Each imports what it runs only when it runs."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mooring import __version__
from mooring.config import DrainSettings, LogSettings, ProxySettings, SettingError, load, options

if TYPE_CHECKING:
    import pyarrow

    from mooring.log.queries import Range

_CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda name: name.replace("_", "-"),
    "max_content_width": 110,
}


@click.group(context_settings=_CONTEXT)
@click.version_option(__version__)
def main() -> None:
    """Mooring logs what an MLflow model server is asked and answers, and watches the log for drift."""


@main.command(context_settings=_CONTEXT)
@options(ProxySettings)
def proxy(settings: ProxySettings) -> None:
    """Pass requests on to a model server, and log what it is asked and answers.

    \b
    mlflow models serve --env-manager local --port 5002 --model-uri models:/NAME@champion
    mooring proxy --upstream http://localhost:5002 --port 5001 --log mooring-log

    Ends on SIGTERM or Ctrl-C: it finishes what is in flight, and the drain puts the rest into the log.
    """
    from mooring.capture.proxy.server import CantListen
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


@main.command(context_settings=_CONTEXT)
@options(DrainSettings)
def drain(settings: DrainSettings) -> None:
    """Put what lies in a spool into the log; the proxy starts one by itself.

    Ends once no process writes to the spool and it is empty. Exit code 1: something is left in the spool.
    """
    from mooring.log.drain import run

    if not run(settings):
        sys.exit(1)


@main.group("log", context_settings=_CONTEXT)
def log_group() -> None:
    """Read the log of Parquet files: what it holds, its rows, an extract, answers to SQL."""


def _of_log(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags that say which part of which log is meant."""

    @functools.wraps(command)
    def run(log: str | None, model: str | None, start: str | None, end: str | None, **further: Any) -> None:
        with _reading():
            uri = load(LogSettings, {"log": log, "model": model}).log
            command(uri, {"model": model, "start": start, "end": end}, **further)

    flags = (
        click.option("--log", help="the log: a directory, or s3://, gs:// or az://  [default: ./mooring-log]"),
        click.option(
            "--model", envvar="MOORING_MODEL", help="name of the model; needed where the log has several"
        ),
        click.option("--start", metavar="TIME", help="only what came then or later, such as 2026-03-01T12:00Z"),
        click.option("--end", metavar="TIME", help="only what came before"),
    )
    decorated: Callable[..., None] = run
    for flag in reversed(flags):
        decorated = flag(decorated)
    return decorated


@contextmanager
def _reading() -> Iterator[None]:
    from mooring.log.reader import LogError, LogWarning
    from mooring.log.store import StoreError

    with warnings.catch_warnings():
        warnings.simplefilter("always", LogWarning)
        warnings.showwarning = lambda message, *_: click.echo(f"Warning: {message}", err=True)
        try:
            yield
        except LogError as error:
            raise SettingError(str(error)) from None
        except StoreError as error:
            raise click.ClickException(str(error)) from None


_as_json_flag = click.option("--json", "as_json", is_flag=True, help="a JSON object a line")
_as_csv_flag = click.option("--csv", "as_csv", is_flag=True, help="CSV")


@log_group.command("stats", context_settings=_CONTEXT)
@_of_log
@_as_json_flag
def log_stats(uri: str, chosen: Range, *, as_json: bool) -> None:
    """Say what the log holds, for each model and day.

    An exchange is a request and its answer; errors are those that have no rows, by reason.
    """
    import msgspec

    from mooring.log.queries import stats

    found = stats(uri, chosen)
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
    _show(columns, rows)


@log_group.command("head", context_settings=_CONTEXT)
@_of_log
@click.option("-n", "--rows", type=click.IntRange(min=1), default=10, show_default=True, help="how many")
@click.option("--first", is_flag=True, help="the oldest rows, not the newest")
@_as_csv_flag
@_as_json_flag
def log_head(uri: str, chosen: Range, *, rows: int, first: bool, as_csv: bool, as_json: bool) -> None:
    """Show the newest rows: predictions, then inputs."""
    from mooring.log.queries import head

    own = None if as_json else ["time", "request_id", "row"] if as_csv else ["time"]
    _print_rows(head(uri, chosen, rows, first=first, own=own), as_csv, as_json)


@log_group.command("export", context_settings=_CONTEXT)
@_of_log
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--columns", help="names of columns, with commas between: time,prediction,pH  [default: all]")
@click.option("--structs", is_flag=True, help="all columns as the log has them, into Parquet")
def log_export(uri: str, chosen: Range, *, output: Path, columns: str | None, structs: bool) -> None:
    """Write the rows into one file, OUTPUT.csv or OUTPUT.parquet: predictions first, then inputs."""
    from mooring.log.queries import export

    names = [name.strip() for name in columns.split(",")] if columns else None
    try:
        rows = export(uri, chosen, output, columns=names, flat=not structs)
    except (FileNotFoundError, NotADirectoryError, PermissionError, IsADirectoryError) as error:
        raise SettingError(f"{output} can't be written: {error.strerror}") from None
    click.echo(f"{rows} rows in {output}", err=True)


@log_group.command("query", context_settings=_CONTEXT)
@_of_log
@click.argument("sql")
@_as_csv_flag
@_as_json_flag
def log_query(uri: str, chosen: Range, *, sql: str, as_csv: bool, as_json: bool) -> None:
    """Answer a question in SQL, with DuckDB.

    \b
    mooring log query "SELECT model_version, avg(output.prediction) FROM inferences GROUP BY ALL"

    Tables: `inferences`, a row for each row scored, with structs `input` and `output`; `flat`, the same without
    structs; `payloads`, a row for each request.
    """
    from mooring.log.queries import query

    _print_rows(query(uri, chosen, sql), as_csv, as_json)


def _print_rows(table: pyarrow.Table, as_csv: bool, as_json: bool) -> None:
    from mooring.log import queries

    if as_csv or as_json:
        for line in (queries.as_csv if as_csv else queries.as_json)(table):
            click.echo(line, nl=False)
        return
    _show(table.column_names, zip(*(map(_cell, column.to_pylist()) for column in table.columns), strict=True))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else str(value)


def _show(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


@main.command(context_settings=_CONTEXT)
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default="mooring-demo",
    show_default=True,
    help="directory that everything is written to",
)
def demo(directory: Path) -> None:
    """See it work: train, serve behind the proxy, send traffic, look at the log and its drift.

    Takes about half a minute and stops everything that it started.
    """
    from mooring.demo.processes import DemoError
    from mooring.demo.run import run

    try:
        run(directory)
    except DemoError as error:
        raise click.ClickException(str(error)) from None
