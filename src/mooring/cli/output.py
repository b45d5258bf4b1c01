"""What the commands share: how they take names, and how they show tables."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click
import msgspec

from mooring import messages
from mooring.config import load
from mooring.settings import StatePlace

_LONG_WORD = 40  # an id is shorter
Place = TypeVar("Place", bound=StatePlace)

CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda name: name.replace("_", "-"),
    "max_content_width": 110,
}


def placed(settings: type[Place], given: Mapping[str, Any]) -> Place:
    """Return the settings of a command, as `load` does, with the model's plain name; messages go by them."""
    found = with_name(load(settings, given))
    messages.set_up(found.message_format, found.message_level)
    return found


def with_name(settings: Place) -> Place:
    """Return settings with the model's plain name, where they have its URI, which the proxy asks for."""
    if settings.model is None or not settings.model.startswith("models:/"):
        return settings
    return msgspec.structs.replace(settings, model=re.split("[@/]", settings.model.removeprefix("models:/"))[0])


def show(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table. In a terminal cells wrap, between words unless one is very long; piped they do not."""
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    lines = [list(columns), *rows]
    widths = [max(cell_len(line[place]) for line in lines) for place in range(len(columns))]
    if console.is_terminal:
        longest = [max((cell_len(word) for line in lines for word in line[place].split()), default=0)
                   for place in range(len(columns))]  # fmt: skip
        least = [min(width, _LONG_WORD) for width in longest]
        widths = _narrowed(widths, least, console.width - 2 * len(columns) - 1)
    console.width = sum(widths) + 2 * len(columns) + 1
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column, width in zip(columns, widths, strict=True):
        table.add_column(Text(column), width=width, overflow="fold")
    for line in lines[1:]:
        table.add_row(*map(Text, line))
    console.print(table)


def _narrowed(widths: Sequence[int], least: Sequence[int], available: int) -> list[int]:
    """Return widths of columns that are `available` together, as far as none is narrower than its longest word.

    >>> _narrowed([8, 40], [8, 11], 30), _narrowed([8, 40], [8, 25], 30)
    ([8, 22], [8, 25])
    """
    found = list(widths)
    for place in sorted(range(len(found)), key=lambda at: least[at] - widths[at]):
        found[place] -= max(0, min(found[place] - least[place], sum(found) - available))
    return found


@contextmanager
def warned(kind: type[Warning] = UserWarning) -> Iterator[None]:
    """Say warnings of data that is read as they are worded, on standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", kind)
        warnings.showwarning = lambda message, *_: click.echo(f"Warning: {message}", err=True)
        yield
