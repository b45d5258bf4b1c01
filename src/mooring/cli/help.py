"""Commands whose help is read as a whole: no summary is cut off, and long lists of options are in groups."""

from __future__ import annotations

from typing import Any

import click

LONG = 15
"""With more options than these, the settings among them are shown in groups."""
_OWN = "Options"
_WHOLE = 1000  # letters of a summary; click cuts it to a line otherwise


class Command(click.Command):
    """A command whose settings are shown in groups where it has many."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options."""
        _write_options(self, ctx, formatter)


class Group(click.Group):
    """A group of commands that shows the whole summary of each, in sections if it has any."""

    command_class = Command

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._sections: dict[str, tuple[click.Command, ...]] = {}

    def add_section(self, title: str, *commands: click.Command) -> None:
        """Add commands, which the help shows together, below `title`."""
        self._sections[title] = commands
        for command in commands:
            self.add_command(command)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options and the commands."""
        _write_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, each with its summary."""
        sections = self._sections or {
            "Commands": tuple(self.commands[name] for name in self.list_commands(ctx) if name in self.commands)
        }
        width = max(len(command.name or "") for commands in sections.values() for command in commands)
        for title, commands in sections.items():
            rows = [((one.name or "").ljust(width), one.get_short_help_str(_WHOLE)) for one in commands]
            with formatter.section(title):
                formatter.write_dl(rows)


def _write_options(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    params = [(param, param.get_help_record(context)) for param in command.get_params(context)]
    shown = [(param, record) for param, record in params if record is not None]
    groups: dict[str, list[tuple[str, str]]] = {_OWN: []}
    for param, record in shown:
        group = getattr(param, "group", None) if len(shown) > LONG else None
        groups.setdefault(group or _OWN, []).append(record)
    for title, records in groups.items():
        if records:
            with formatter.section(title):
                formatter.write_dl(records)
