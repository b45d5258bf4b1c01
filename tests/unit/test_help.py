"""The help of the command line: whole summaries, and long lists of options in groups."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import msgspec
import pytest
from click.testing import CliRunner

from mooring.cli import main
from mooring.cli.help import LONG
from mooring.settings import COMMANDS


def commands(command: click.Command, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield names, command
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from commands(one, *names, name)


ALL = dict(commands(main))


def help_of(names: tuple[str, ...], width: int = 80) -> str:
    return CliRunner().invoke(main, [*names, "--help"], terminal_width=width).output


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_summary_is_cut_off_and_every_command_is_listed_once(width):
    for names, command in ALL.items():
        if not isinstance(command, click.Group):
            continue
        text = help_of(names, width)
        words = " ".join(text.split())
        for name, one in command.commands.items():
            summary = (one.help or "").split("\n\n")[0].split(". ")[0]
            assert f" {name} {' '.join(summary.split()).removesuffix('.')}" in words, (names, name)
            assert len(re.findall(rf"^  {name} ", text.partition("\nOptions:")[2], re.MULTILINE)) == 1
        assert "..." not in text.partition("\n")[2]  # the first line has click's own [ARGS]...


@pytest.mark.parametrize("names", ALL, ids=lambda names: " ".join(names) or "mooring")
def test_long_lists_of_options_are_in_groups(names):
    command = ALL[names]
    context = click.Context(command)
    flags = [
        param for param in command.get_params(context) if isinstance(param, click.Option) and not param.hidden
    ]
    sections = re.findall(r"^([A-Z][\w ]+):\n((?:(?: .*)?\n)+)", help_of(names), re.MULTILINE)
    shown = {title: re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, re.MULTILINE) for title, text in sections}
    for flag in flags:
        option = next(one for one in flag.opts if one.startswith("--"))
        assert sum(found.count(option) for found in shown.values()) == 1, option
    if len(flags) > LONG:
        assert max(map(len, shown.values())) <= LONG
        assert len([title for title, found in shown.items() if found]) > 2


def test_every_setting_of_a_long_command_has_a_group():
    for name, settings in COMMANDS.items():
        command = main.commands[name]
        if len(command.params) > LONG:
            groups = {param.name: getattr(param, "group", None) for param in command.params}
            assert all(groups[field.name] for field in msgspec.structs.fields(settings)), name
