"""What the commands share: how they take names, and how they show tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from mooring.config import StatePlace, load

Place = TypeVar("Place", bound=StatePlace)

CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda name: name.replace("_", "-"),
    "max_content_width": 110,
}


def placed(settings: type[Place], given: Mapping[str, Any]) -> Place:
    """Return the settings of a command, as `load` does, with the model's plain name."""
    return with_name(load(settings, given))


def with_name(settings: Place) -> Place:
    """Return settings with the model's plain name, where they have its URI, which the proxy asks for."""
    if settings.model is None or not settings.model.startswith("models:/"):
        return settings
    return msgspec.structs.replace(settings, model=re.split("[@/]", settings.model.removeprefix("models:/"))[0])


def show(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table."""
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
